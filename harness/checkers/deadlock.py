"""No deadlock: no step waits for what can no longer happen. Violated only with a proof, never by a time-out.

The proof is a WorldClosed event: every thread of the driver waits without limit, nothing of it is unread by us, nothing of
ours is held or queued, and everything else that could wake it is accounted for. What it leaves unread itself cannot wake it
any more, as its threads slept on after that had been written (witnesses/waits.py): a stuck reader looks like that. The look
must come after the last progress of the process, and the process must have been quiet for QUIET_NS_MIN. Whatever is missing
makes the finding unknown and is named. Of a driver that looks again by its own timer, past the step's bound, bounded latency
speaks: whether it ever ends nobody can say.
"""

from __future__ import annotations

from cgrace.harness import events as ev
from cgrace.harness.checkers import explain
from cgrace.harness.checkers.text import duration, listed, seconds
from cgrace.harness.checkers.view import Run, StepRun, look
from cgrace.harness.clock import NS_PER_MS
from cgrace.harness.events import Actor
from cgrace.harness.stacks.wait_graph import Wait, render, wait_graph
from cgrace.harness.trace import Entry, Trace
from cgrace.harness.verdict import Finding, Invariant, Verdict

QUIET_NS_MIN = 50 * NS_PER_MS
"""How long the threads must have been seen asleep, with no context switch, for a proof."""

ASSUMPTIONS = (
    "no signal, timer or debugger from outside wakes the driver",
    "a thread that the kernel shows in an untimed wait has no timer elsewhere (Go's sysmon apart, which does no work)",
)


def check(trace: Trace) -> tuple[Finding, ...]:
    """One finding for each step that was called and never returned; one that holds when there is none."""
    return findings(look(trace))


def findings(run: Run) -> tuple[Finding, ...]:
    """`check` of a joined trace."""
    found = tuple(_judge(run, step) for step in run.steps.values() if step.ended is None)
    return found or (Finding(invariant=Invariant.NO_DEADLOCK, verdict=Verdict.HOLDS, summary="every step came back"),)


def _judge(run: Run, step: StepRun) -> Finding:
    if run.dead_before_end(step.process) is not None or run.ended_why == "driver died":
        return _plain(step, Verdict.HOLDS, f"{step.title} never returned because its process died")
    progress = last_progress(run, step.process)
    looks = [entry for entry, world in run.trace.of(ev.WorldClosed) if world.process == step.process]
    for entry in looks:
        if not _missing(run, step, progress, entry):
            return _hang(run, step, progress, entry)
    if run.ended_why == "own wait":
        bound = own_wait_ns(run, step)
        if bound is not None:
            return _plain(
                step,
                Verdict.HOLDS,
                f"{step.title} was still out, in a timed wait that ends by itself within {duration(bound)}: "
                "bounded latency judges that",
                events=(progress.index,),
            )
    if run.ended_why == "bound" and looks and (bound := _looks_again(run, step, progress, looks[-1])):
        return _plain(
            step,
            Verdict.HOLDS,
            f"{step.title} was still out, and its driver looks again every {duration(bound)}: bounded latency judges that",
            events=(progress.index, looks[-1].index),
        )
    reasons = list(_missing(run, step, progress, looks[-1])) if looks else []
    reasons = reasons or ["nobody looked at what it waits for"]
    if run.ended_why in ("unmet order", "error", "interrupted", "bound", ""):
        reasons.insert(0, f"the run ended early ({run.ended_why or 'the trace stops'}" + _text(run) + ")")
    return _plain(
        step,
        Verdict.UNKNOWN,
        f"{step.title} never returned, and no deadlock is proved: {'; '.join(reasons)}",
        events=tuple(entry.index for entry in looks[-1:]),
    )


def _looks_again(run: Run, step: StepRun, progress: Entry, entry: Entry) -> int:
    """After what time a driver wakes by its own timer, past the step's bound and with nothing else that could wake it; else 0.

    A timer that leaves it no rest as long as a proof needs may be a mere ticker beside a wait without limit.
    """
    world = entry.event
    assert isinstance(world, ev.WorldClosed)
    if world.bytes_in or world.holds or world.jobs or world.unaccounted:
        return 0
    rests = [
        waits.bound_ns or 0
        for at, waits in run.trace.of(ev.StepWaits)
        if waits.step == step.id and at.t_ns > progress.t_ns
    ]
    longest = max(rests, default=0)
    return longest if longest >= QUIET_NS_MIN and run.stop_ns - progress.t_ns > run.bound_ns(step.id) else 0


def _text(run: Run) -> str:
    return f": {run.ended_text}" if run.ended_text else ""


def _plain(step: StepRun, verdict: Verdict, summary: str, events: tuple[int, ...] = ()) -> Finding:
    return Finding(
        invariant=Invariant.NO_DEADLOCK,
        verdict=verdict,
        subject=step.id,
        summary=summary,
        short="?" if verdict is Verdict.UNKNOWN else "",
        events=(step.called.index, *events),
    )


def last_progress(run: Run, process: str) -> Entry:
    """The last thing that this process did or was given: a step, a message of its connections, a change of its cgroups, or a
    fault of ours that acted, on whomever.

    That it came to rest (MessageTaken, StepWaits) is an observation and no progress. Kernel events by a driver do not name
    which one it was: with several drivers they count for the one whose unit the path names, else for all.
    """
    last = next(step.called for step in run.steps.values() if step.process == process)
    units = {step.unit: step.process for step in run.steps.values()}

    def counts(entry: Entry) -> bool:
        match entry.event:
            case ev.StepCalled(step=step) | ev.StepReturned(step=step):
                return run.steps[step].process == process if step in run.steps else False
            case ev.MessageSeen(message=number) | ev.MessageSent(message=number):
                return number in run.messages and run.messages[number].process in (process, "")
            case ev.DriverAsks(process=who):
                return who == process
            case ev.FaultFired():
                return True
            case ev.CgroupMade(path=path, by=Actor.DRIVER) | ev.CgroupRemoved(path=path, by=Actor.DRIVER):
                return units.get(path.rsplit("/", 1)[-1], process) == process
            case ev.ProcessMoved(path=path, by=Actor.DRIVER):
                return units.get(path.rsplit("/", 1)[-1], process) == process
        return False

    for entry in run.trace.entries:
        if (entry.t_ns, entry.index) > (last.t_ns, last.index) and run.matters(entry) and counts(entry):
            last = entry
    return last


def own_wait_ns(run: Run, step: StepRun) -> int | None:
    """The limit of the wait in which a step was last seen (None: without limit, or never seen at rest)."""
    seen = run.trace.last(ev.StepWaits, lambda waits: waits.step == step.id)
    return seen[1].bound_ns if seen is not None else None


def _missing(run: Run, step: StepRun, progress: Entry, entry: Entry) -> tuple[str, ...]:
    """What a look lacks to be a proof about this step; () when it is one."""
    world = entry.event
    assert isinstance(world, ev.WorldClosed)
    lacks: list[str] = []
    if (entry.t_ns, entry.index) <= (step.called.t_ns, step.called.index):
        return ("the look came before the step was called",)
    if (entry.t_ns, entry.index) <= (progress.t_ns, progress.index):
        lacks.append(f"its process made progress after the look ({duration(progress.t_ns - entry.t_ns)} later)")
    elif entry.t_ns - progress.t_ns < QUIET_NS_MIN // 2:
        lacks.append(f"its process made progress only {duration(entry.t_ns - progress.t_ns)} before the look")
    if world.bound_ns is not None:
        lacks.append(f"a thread of its driver wakes by itself within {duration(world.bound_ns)}")
    if world.bytes_in:
        lacks.append(f"{world.bytes_in} bytes from it were still on their way to us")
    if world.holds:
        lacks.append(f"we still held {listed(world.holds)}")
    if world.jobs:
        lacks.append(f"systemd still had {listed(world.jobs)} queued")
    if world.unaccounted:
        lacks.append(f"not accounted for: {listed(world.unaccounted)}")
    if world.quiet_ns < QUIET_NS_MIN:
        lacks.append(f"it had been quiet for only {duration(world.quiet_ns)}, {duration(QUIET_NS_MIN)} are needed")
    lacks += [f"we still held {name}" for name in _held_then(run, entry) if name not in world.holds]
    return tuple(lacks)


def _held_then(run: Run, world: Entry) -> list[str]:
    """Holds that kept something back at that time, whatever the look itself says; a second witness for `holds`."""
    released = {hold.hold: entry.index for entry, hold in run.trace.of(ev.HoldLetGo)}
    calls = {
        asked.hold
        for entry, asked in run.trace.of(ev.DriverAsks)
        if asked.hold and entry.index < world.index < released.get(asked.hold, world.index + 1)
    }
    return sorted(
        calls
        | {
            message.hold
            for message in run.messages.values()
            if message.held is not None
            and message.held.index < world.index
            and (message.gone is None or message.gone.index > world.index)
        }
    )


def _hang(run: Run, step: StepRun, progress: Entry, entry: Entry) -> Finding:
    world = entry.event
    assert isinstance(world, ev.WorldClosed)
    stacks = run.trace.last(ev.Stacks, lambda s: s.process == step.process)
    waits = wait_graph(stacks[1].text) if stacks is not None else ()
    culprit = _culprit(waits)
    counted = sum(1 for thread in world.threads if not thread.ignored)
    threads = f"all {counted} threads wait" if counted != 1 else "its only thread waits"
    unread = ", what it leaves unread did not wake it" if world.bytes_out else ""
    nothing = f"nothing can free it: bus idle{unread}, 0 holds, 0 jobs, {threads} without limit"
    known = sorted({source for wait in waits for source in wait.sources})
    events = [step.called.index, progress.index, entry.index] + ([stacks[0].index] if stacks else [])
    return Finding(
        invariant=Invariant.NO_DEADLOCK,
        verdict=Verdict.VIOLATED,
        subject=step.id,
        summary=f"HANG of {step.title}, proved in {seconds(entry.t_ns - progress.t_ns)}",
        short="HANG",
        explanation=explain.hang(
            step.title, step.op, culprit.function if culprit else "", culprit.place if culprit else ""
        ),
        evidence=(*render(waits), *world.children, nothing, f"last progress: {describe(run, progress)}"),
        events=tuple(sorted(set(events))),
        assumptions=ASSUMPTIONS + tuple(f"who holds a lock is known from: {source}" for source in known),
        grade=run.worst_grade(entry.t_ns),
    )


def _culprit(waits: tuple[Wait, ...]) -> Wait | None:
    """The wait that is the cause: one that holds what others wait for, else the first that waits for no lock."""
    holders = {number for wait in waits for number in wait.held_by}
    causes = (
        [w for w in waits if w.goroutine in holders and not w.lock] or [w for w in waits if not w.lock] or list(waits)
    )
    return causes[0] if causes else None


def describe(run: Run, entry: Entry) -> str:
    """One event in a few words."""
    match entry.event:
        case ev.StepCalled(step=step):
            return f'"{step}" was called'
        case ev.StepReturned(step=step):
            return f'"{step}" returned'
        case ev.MessageSeen(message=number) | ev.MessageSent(message=number) if number in run.messages:
            message = run.messages[number].message
            what = {"reply": "the reply to ", "error": "the error to ", "call": "its call "}.get(message.kind, "")
            to = "was delivered" if isinstance(entry.event, ev.MessageSent) else "was seen"
            return f"{what}{message.member}" + (f" of {message.unit}" if message.unit else "") + f" {to}"
        case ev.DriverOpens(hierarchy=hierarchy, path=path):
            return f"it opened {hierarchy}{path}"
        case ev.DriverCloses(connection=connection):
            return f"it closed its connection for {connection}"
        case ev.FaultFired(fault=fault):
            return f"the fault {fault} acted"
        case ev.CgroupMade(hierarchy=hierarchy, path=path):
            return f"the cgroup {hierarchy}{path} was made"
        case ev.CgroupRemoved(hierarchy=hierarchy, path=path):
            return f"the cgroup {hierarchy}{path} was removed"
        case ev.ProcessMoved(hierarchy=hierarchy, path=path, process=process):
            return f"{process or 'a process'} was moved to {hierarchy}{path}"
    return entry.event.KIND
