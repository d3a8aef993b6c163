"""Bounded latency: an operation returns, with success or a clear error, within the scenario's bound.

Judged on the driver's own waits and never on wall time, so that a busy machine does not flip a verdict:

* An own wait is a timed wait in which the driver came to rest (StepWaits with a limit) and which ended by its own timer:
  between the rest and the driver's next act nothing about the step's unit was delivered to it. A wait that an answer
  ended is the answerer's time, whatever it took.
* Its length is the limit that the kernel showed, not the time that passed. It was read a little after the timer was set, so
  it is a lower limit; the time from the last thing that happened to the process until the reading is added for an upper
  limit. Above the bound by the lower limit: violated. Below it by the upper: holds. Between: unknown, and said so.
* A wait during which we kept back something about the step's unit (a message, its job), or had paused a peer that was let
  go on later, is ours and not counted.
* A step that took no longer than the bound, all in all, holds whatever it did.
* What is left of the wall time is the driver computing, the kernel, or a busy machine, and never violates. Could a wait hide in
  it? Not one above the bound, where the driver was looked at so often that such a wait would have been seen (StepWatched), or
  where it is cut into pieces below the bound by what others owed the step and by what it did itself; else, when the rest alone
  exceeds the bound, the finding is unknown.
* A step that never returned has the wait in which it was last seen: longer than the bound is violated, though not waited out.
  A proved hang is the deadlock checker's to report.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise

from cgrace.harness import events as ev
from cgrace.harness import faults as ft
from cgrace.harness.checkers import deadlock, explain
from cgrace.harness.checkers.text import cell, duration
from cgrace.harness.checkers.view import MessageRun, Run, StepRun, look
from cgrace.harness.events import Actor
from cgrace.harness.trace import Entry, Trace
from cgrace.harness.verdict import Finding, Invariant, Verdict

INVARIANT = Invariant.BOUNDED_LATENCY
Span = tuple[int, int]
PARKING_NS = (
    100_000_000  # so long after its last thread fell asleep at most, Go's sysmon has parked and a look sees the rest
)


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnWait:
    """One timed wait of the driver's own. least, most: limits of the timer's length in nanoseconds (see the module)."""

    entry: Entry
    least_ns: int
    most_ns: int
    ended: bool


def check(trace: Trace) -> tuple[Finding, ...]:
    """One finding for each step that was called."""
    return findings(look(trace))


def findings(run: Run) -> tuple[Finding, ...]:
    """`check` of a joined trace."""
    hung = {f.subject for f in deadlock.findings(run) if f.verdict is Verdict.VIOLATED}
    found = tuple(_judge(run, step, step.id in hung) for step in run.steps.values())
    return found or (Finding(invariant=INVARIANT, verdict=Verdict.HOLDS, summary="no step was called"),)


def _judge(run: Run, step: StepRun, hung: bool) -> Finding:
    bound = run.bound_ns(step.id)
    if step.ended is not None:
        return _returned(run, step, bound)
    if hung:
        return _plain(step, Verdict.HOLDS, f"{step.title} hangs for ever: no deadlock judges that")
    if run.dead_before_end(step.process) is not None or run.ended_why == "driver died":
        return _plain(step, Verdict.HOLDS, f"{step.title} never returned because its process died")
    return _never(run, step, bound)


def _plain(step: StepRun, verdict: Verdict, summary: str, evidence: Iterable[str] = ()) -> Finding:
    return Finding(
        invariant=INVARIANT,
        verdict=verdict,
        subject=step.id,
        summary=summary,
        short="?" if verdict is Verdict.UNKNOWN else "",
        evidence=tuple(evidence),
        events=tuple(entry.index for entry in (step.called, step.ended) if entry is not None),
    )


def _returned(run: Run, step: StepRun, bound: int) -> Finding:
    assert step.ended is not None and step.result is not None
    wall = step.result.driver_ns or step.ended.t_ns - step.called.t_ns
    waits = own_waits(run, step)
    theirs = [*held_spans(run, step), *owed_spans(run, step)]
    held = _total(held_spans(run, step))
    least, most = sum(w.least_ns for w in waits), sum(w.most_ns for w in waits)
    evidence = [f"wall time {duration(wall)}, of which we held it {duration(held)}", *(_line(step, w) for w in waits)]
    if wall <= bound:
        return _plain(
            step, Verdict.HOLDS, f"{step.title} took {duration(wall)}; the bound is {duration(bound)}", evidence
        )
    if least > bound:
        return _slow(run, step, bound, waits, evidence)
    if most > bound:
        text = f"{step.title} waited {duration(least)} to {duration(most)} on its own timers; the bound is {duration(bound)}"
        return _plain(step, Verdict.UNKNOWN, text, evidence)
    rest = wall - _total(theirs) - least
    watched = next((watched for _, watched in run.of(ev.StepWatched) if watched.step == step.id), None)
    closely = watched is not None and watched.gap_ns + PARKING_NS < bound
    if rest > bound and not closely and _longest_piece(run, step, theirs) > bound:
        text = (
            f"{step.title} took {duration(rest)} that neither its own timers, nor systemd, nor we account for "
            f"(bound {duration(bound)}): the driver, or a busy machine"
        )
        return _plain(step, Verdict.UNKNOWN, text, evidence)
    own = f"waited {duration(least)} on its own timers" if waits else "waited on no timer of its own"
    return _plain(step, Verdict.HOLDS, f"{step.title} {own}; the bound is {duration(bound)}", evidence)


def _line(step: StepRun, wait: OwnWait) -> str:
    at = wait.entry.t_ns - step.called.t_ns
    end = "and nothing came before it ended" if wait.ended else "and it was not waited out"
    return f"at rest {duration(at)} after the call, its own timer had {duration(wait.least_ns)} to go, {end}"


def _slow(run: Run, step: StepRun, bound: int, waits: tuple[OwnWait, ...], evidence: list[str]) -> Finding:
    own = sum(wait.least_ns for wait in waits)
    waited_out = all(wait.ended for wait in waits)
    past = sum(wait.least_ns for wait in waits if wait.ended)
    if waited_out:
        did = f"waited {cell(own)} on its own timer for what could not come"
    else:
        did = f"waited {cell(past)} on its own timers, and " if past else "the driver "
        did += f"would wait {(own - past) / 1e9:.3f} s more; not waited out"
        evidence = [*evidence, did]
    joint = " " if waited_out or past else ", "
    return Finding(
        invariant=INVARIANT,
        verdict=Verdict.VIOLATED,
        subject=step.id,
        summary=f"SLOW {cell(own)}: {step.title}{joint}{did} (bound {duration(bound)})",
        short=f"SLOW {cell(own)}",
        explanation=explain.slow(step.title, own, bound, waited_out=waited_out),
        evidence=tuple(evidence),
        events=tuple(
            sorted({step.called.index, *(w.entry.index for w in waits)} | ({step.ended.index} if step.ended else set()))
        ),
        grade=run.worst_grade(waits[-1].entry.t_ns),
    )


def _never(run: Run, step: StepRun, bound: int) -> Finding:
    why = run.ended_why or "the trace stops"
    text = f" ({run.ended_text})" if run.ended_text else ""
    last = run.trace.last(ev.StepWaits, lambda waits: waits.step == step.id)
    if why not in ("own wait", "bound") or last is None:
        return _plain(step, Verdict.UNKNOWN, f"{step.title} had not returned when the run ended: {why}{text}")
    entry, waits = last
    if _held_at(run, step, run.stop_ns):
        return _plain(step, Verdict.UNKNOWN, f"{step.title} had not returned, and we still held what it may wait for")
    if waits.bound_ns is None or _answered(run, step, entry, run.stop_ns):
        return _plain(step, Verdict.UNKNOWN, f"{step.title} had not returned when the run ended: {why}{text}")
    past = own_waits(run, step)
    own = [
        *(w for w in past if w.ended),
        *_ticks(run, step),
        OwnWait(entry=entry, least_ns=waits.bound_ns, most_ns=waits.bound_ns, ended=False),
    ]
    evidence = [f"the run ended {duration(run.stop_ns - step.called.t_ns)} after the call: {why}{text}"]
    if sum(w.least_ns for w in own) > bound:
        return _slow(run, step, bound, tuple(own), evidence)
    return _plain(step, Verdict.UNKNOWN, f"{step.title} had not returned when the run ended: {why}{text}", evidence)


def _ticks(run: Run, step: StepRun) -> Iterator[OwnWait]:
    """The step's last timers, each of which ran out before it rested anew, though nothing came of it that others could see."""
    rests = [
        (entry, waits.bound_ns)
        for entry, waits in run.of(ev.StepWaits)
        if waits.step == step.id and waits.bound_ns is not None and _next_act(run, step, entry) is None
    ]
    for (entry, bound_ns), (after, _) in pairwise(rests):
        if after.t_ns - entry.t_ns >= bound_ns and not _held_during(run, step, entry.t_ns, after.t_ns):
            yield OwnWait(entry=entry, least_ns=bound_ns, most_ns=after.t_ns - entry.t_ns, ended=True)


# ---- whose time it was


def own_waits(run: Run, step: StepRun) -> tuple[OwnWait, ...]:
    """The step's timed waits that its own timer ended while we held nothing of it. One for each timer, in order."""
    rests = [
        (entry, waits.bound_ns)
        for entry, waits in run.of(ev.StepWaits)
        if waits.step == step.id and waits.bound_ns is not None and run.matters(entry)
    ]
    found: list[OwnWait] = []
    over: Entry | None = None
    for entry, bound_ns in rests:
        if over is not None and entry.index < over.index:
            continue  # the same wait, seen again
        over = _next_act(run, step, entry)
        until_ns = over.t_ns if over is not None else run.stop_ns
        if over is None or _answered(run, step, entry, until_ns) or _held_during(run, step, entry.t_ns, until_ns):
            continue
        if 2 * (until_ns - entry.t_ns) < bound_ns:
            continue  # it went on long before that timer: the timer is somebody else's (Go keeps forgotten ones)
        began_ns = _last_thing_before(run, step, entry)
        most_ns = min(bound_ns + entry.t_ns - began_ns, until_ns - began_ns)
        found.append(OwnWait(entry=entry, least_ns=bound_ns, most_ns=max(most_ns, bound_ns), ended=True))
    return tuple(found)


def _next_act(run: Run, step: StepRun, rest: Entry) -> Entry | None:
    """The first thing after a rest that shows the step going on: it returned, sent a message, or changed the cgroup tree.

    A message to the driver about its unit ends the wait too. A thing about another step's unit shows nothing.
    """
    for entry in run.trace.entries[rest.index + 1 :]:
        match entry.event:
            case ev.StepReturned(step=name) if name == step.id:
                return entry
            case ev.MessageSeen(message=number) | ev.MessageSent(message=number):
                message = run.messages.get(number)
                if message is None or not _concerns(message, step):
                    continue
                if message.to_driver is isinstance(entry.event, ev.MessageSent):
                    return entry
            case ev.CgroupMade(path=path, by=Actor.DRIVER) | ev.CgroupRemoved(path=path, by=Actor.DRIVER):
                if path.endswith("/" + step.unit):
                    return entry
            case ev.ProcessMoved(path=path, by=Actor.DRIVER):
                if path.endswith("/" + step.unit):
                    return entry
    return None


def _concerns(message: MessageRun, step: StepRun) -> bool:
    """Whether a message may be what the step waits for: of its process, and about its unit or about none."""
    return (
        message.process in (step.process, "") and message.message.unit in (step.unit, "") and not message.message.probe
    )


def _answered(run: Run, step: StepRun, rest: Entry, until_ns: int) -> bool:
    """Whether anything that concerns the step was written to the driver after the rest."""
    return any(
        m.to_driver and m.gone is not None and isinstance(m.gone.event, ev.MessageSent)
        and m.gone.index > rest.index and m.gone.t_ns <= until_ns
        for m in run.concerning(step)
    )  # fmt: skip


def _last_thing_before(run: Run, step: StepRun, rest: Entry) -> int:
    """When the step's process last did or got anything before a rest: its timer was set no earlier."""
    last = step.called.t_ns
    for m in run.concerning(step):
        at = m.gone if m.to_driver else m.seen
        if at is not None and last < at.t_ns <= rest.t_ns:
            last = at.t_ns
    return last


def held_spans(run: Run, step: StepRun) -> list[Span]:
    """When we kept back something that the step may wait for: a message of its process about its unit, its job, a peer, or
    its process itself."""
    start, end = step.called.t_ns, step.ended.t_ns if step.ended is not None else run.stop_ns
    spans = [
        (m.held.t_ns, m.gone.t_ns if m.gone is not None else end) for m in run.concerning(step) if m.held is not None
    ]
    blocked: dict[str, int] = {}
    for entry, job in run.jobs_of(step.unit):
        if job.state == "blocked":
            blocked.setdefault(job.job, entry.t_ns)
        elif job.state in ("started", "ended") and job.job in blocked:
            spans.append((blocked.pop(job.job), entry.t_ns))
    # A job that is to start some day is our time; one that never will is the driver's to survive.
    if not any(isinstance(f, ft.JobStays) and f.until is None and f.unit == step.unit for f in run.scenario.faults):
        spans += [(since, end) for since in blocked.values()]
    spans += _paused_spans(run)
    spans += _stopped_spans(run, step.process, end)
    return [(max(a, start), min(b, end)) for a, b in spans if min(b, end) > max(a, start)]


def _stopped_spans(run: Run, process: str, end_ns: int) -> list[Span]:
    """When we held a call of the process to the kernel."""
    released = {hold.hold: entry.t_ns for entry, hold in run.of(ev.HoldLetGo)}
    return [
        (entry.t_ns, released.get(asked.hold, end_ns))
        for entry, asked in run.of(ev.DriverAsks)
        if asked.hold and asked.process == process
    ]


def _asking_spans(run: Run, process: str) -> list[Span]:
    """When a supervised process waited until we took up its call: no earlier than its last act, until DriverAsks."""
    asks = [entry.t_ns for entry, asked in run.of(ev.DriverAsks) if asked.process == process]
    if not asks:
        return []
    acts = [*asks, *(step.called.t_ns for step in run.steps.values() if step.process == process)]
    acts += [m.seen.t_ns for m in run.messages.values() if m.process == process and not m.to_driver]
    acts += [entry.t_ns for entry, made in run.of(ev.CgroupMade) if made.by is Actor.DRIVER]
    acts += [entry.t_ns for entry, moved in run.of(ev.ProcessMoved) if moved.by is Actor.DRIVER]
    return [(max((act for act in acts if act < at), default=at), at) for at in asks]


def _paused_spans(run: Run) -> list[Span]:
    """When a peer was paused (or not read) by a fault and went on later. One that never went on is the driver's to survive."""
    fired = {fault.fault: entry.t_ns for entry, fault in run.of(ev.FaultFired)}
    spans = []
    for fault in run.scenario.faults:
        if isinstance(fault, ft.Peer) and fault.do == "pause" and fault.id in fired:
            resumed = [
                fired[other.id]
                for other in run.scenario.faults
                if isinstance(other, ft.Peer) and (other.do, other.peer) == ("resume", fault.peer) and other.id in fired
            ]
            spans += [(fired[fault.id], at) for at in resumed[:1] if at > fired[fault.id]]
    for entry, hold in run.of(ev.HoldLetGo):
        stopped = next((f for f in run.scenario.faults if isinstance(f, ft.StopReading) and f.id == hold.hold), None)
        if stopped is not None and stopped.id in fired and hold.why != "end":
            spans.append((fired[stopped.id], entry.t_ns))
    return spans


def owed_spans(run: Run, step: StepRun) -> list[Span]:
    """When systemd, the relay or we owed the step something: from a call to its answer, from a job's start to its JobRemoved,
    and from the process's last act before a call that it makes only with our leave."""
    spans: list[Span] = []
    calls: dict[tuple[int, int], int] = {}
    jobs: dict[str, int] = {}
    for entry, job in run.jobs_of(step.unit):
        jobs.setdefault(job.job, entry.t_ns)
    for m in run.concerning(step):
        message = m.message
        if message.kind == "call":
            calls[message.connection, message.serial] = m.seen.t_ns
        elif m.gone is not None:
            asked = calls.get((message.connection, message.reply_serial)) if message.reply_serial else None
            if asked is not None:
                spans.append((asked, m.gone.t_ns))
            if message.member == "JobRemoved" and message.job in jobs:
                spans.append((jobs[message.job], m.gone.t_ns))
    spans += _asking_spans(run, step.process)
    start, end = step.called.t_ns, step.ended.t_ns if step.ended is not None else run.stop_ns
    return [(max(a, start), min(b, end)) for a, b in spans if min(b, end) > max(a, start)]


def _longest_piece(run: Run, step: StepRun, theirs: Iterable[Span]) -> int:
    """The longest stretch of the step in which nobody owed it anything and it was not seen to act: no wait of its own that
    nobody saw can be longer. Acts count where the kernel tells their time; a message may have been sent before we read it."""
    assert step.ended is not None
    start, end = step.called.t_ns, step.ended.t_ns
    spans = [*theirs, (end, end)]
    if not _shares_unit(run, step):
        spans += [(entry.t_ns, entry.t_ns) for entry in _kernel_acts(run, step) if start < entry.t_ns < end]
    longest, reached = 0, start
    for begin, until in sorted(spans):
        longest = max(longest, begin - reached)
        reached = max(reached, until)
    return longest


def _shares_unit(run: Run, step: StepRun) -> bool:
    """Whether another step about the same unit was out at the same time: what was done to it may be the other's."""
    assert step.ended is not None
    return any(
        other is not step
        and other.unit == step.unit
        and other.called.t_ns < step.ended.t_ns
        and (other.ended is None or other.ended.t_ns > step.called.t_ns)
        for other in run.steps.values()
    )


def _kernel_acts(run: Run, step: StepRun) -> Iterator[Entry]:
    """What a driver did to the cgroups of the step's unit."""
    for acts in (run.of(ev.CgroupMade), run.of(ev.CgroupRemoved), run.of(ev.ProcessMoved)):
        for entry, act in acts:
            if act.by is Actor.DRIVER and act.path.endswith("/" + step.unit):
                yield entry


def _total(spans: Iterable[Span]) -> int:
    """The length of a union of spans."""
    total, reached = 0, None
    for start, end in sorted(spans):
        begin = start if reached is None else max(start, reached)
        if end > begin:
            total += end - begin
        reached = end if reached is None else max(reached, end)
    return total


def _held_during(run: Run, step: StepRun, start_ns: int, end_ns: int) -> bool:
    return any(a < end_ns and b > start_ns for a, b in held_spans(run, step))


def _held_at(run: Run, step: StepRun, t_ns: int) -> bool:
    return any(a <= t_ns <= b for a, b in held_spans(run, step))
