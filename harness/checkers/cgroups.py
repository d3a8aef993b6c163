"""No lost cgroups: what a successful step reported exists, and holds the step's process, once all is at rest.

Judged from looks (CgroupSeen), which are made only when all jobs have ended and the bus is idle. Kernel events say who
did it and when; without them the verdict stands and only the evidence is poorer. Not lost is what the driver itself took
away later (a destroy), what a fault of ours took away after the step had returned, and the place of a process that exited.

A reported path that nobody ever made is violated too: whoever relies on the report finds nothing there (libcontainer's plain
manager with SkipDevices reports devices all the same; after a forged UnitExists nobody makes the unit's name=systemd).
"""

from __future__ import annotations

from dataclasses import dataclass

from cgrace.harness import events as ev
from cgrace.harness import faults as ft
from cgrace.harness.checkers import explain
from cgrace.harness.checkers.text import listed, since
from cgrace.harness.checkers.view import Run, StepRun, look
from cgrace.harness.events import Actor
from cgrace.harness.trace import Entry, Trace
from cgrace.harness.verdict import Finding, Invariant, Verdict

INVARIANT = Invariant.NO_LOST_CGROUPS
_WHO = {Actor.DRIVER: "the driver", Actor.SYSTEMD: "systemd", Actor.CGRACE: "cgrace", Actor.WORKLOAD: "the workload"}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Loss:
    """One reported path that a look found gone or empty of the process. `cause` is the kernel event that did it, if seen."""

    seen: Entry
    look: ev.CgroupSeen
    moved: bool
    cause: Entry | None
    by: Actor

    @property
    def who(self) -> str:
        """Who did it, for a sentence."""
        return _WHO.get(self.by, "somebody")


def check(trace: Trace) -> tuple[Finding, ...]:
    """One finding for each successful apply and exec, and for other successful steps whose paths were looked at."""
    return findings(look(trace))


def findings(run: Run) -> tuple[Finding, ...]:
    """`check` of a joined trace."""
    looked = {seen.step for _, seen in run.of(ev.CgroupSeen)}
    found = tuple(
        _judge(run, step)
        for step in run.steps.values()
        if step.succeeded and (step.op in ("apply", "exec") or (step.id in looked and step.op != "destroy"))
    )
    return found or (Finding(invariant=INVARIANT, verdict=Verdict.HOLDS, summary="no step reported a cgroup"),)


def _judge(run: Run, step: StepRun) -> Finding:
    assert step.ended is not None and step.result is not None
    destroyed = _destroy_called(run, step)
    looks = [
        (entry, seen)
        for entry, seen in run.of(ev.CgroupSeen)
        if seen.step == step.id and (destroyed is None or entry.index < destroyed.index)
    ]
    losses: dict[str, _Loss] = {}
    for entry, seen in looks:
        loss = _loss(run, step, entry, seen)
        if loss is not None:
            losses.setdefault(seen.hierarchy, loss)
    if losses:
        return _lost(run, step, tuple(losses.values()))
    claimed = step.result.paths or _paths_of_unit(run, step)
    unseen = sorted(set(claimed) - {(seen.hierarchy, seen.path) for _, seen in looks})
    if unseen and destroyed is None:
        names = listed([hierarchy for hierarchy, _ in unseen])
        why = f" (the run ended: {run.ended_why})" if run.ended_why not in ("complete", "") else ""
        return _quiet(step, Verdict.UNKNOWN, f"nobody looked at {names} of {step.title} while all was at rest{why}")
    if unseen and (gone := _removed_by_systemd(run, step, destroyed)):
        text = f"systemd removed {listed(gone)} of {step.title} before its destroy, and nobody looked while all was at rest"
        return _quiet(step, Verdict.UNKNOWN, text)
    if not claimed and not looks:
        return _quiet(step, Verdict.HOLDS, f"{step.title} reported no cgroup")
    return _quiet(step, Verdict.HOLDS, f"all {len(claimed) or len(looks)} cgroups of {step.title} are as it reported")


def _paths_of_unit(run: Run, step: StepRun) -> tuple[tuple[str, str], ...]:
    """For an exec that reported no paths those that the unit's last apply before it reported."""
    applies = [
        other
        for other in run.steps.values()
        if other.op == "apply" and other.unit == step.unit and other.called.index < step.called.index
    ]
    last = applies[-1].result if step.op == "exec" and applies else None
    return last.paths if last is not None else ()


def _quiet(step: StepRun, verdict: Verdict, summary: str) -> Finding:
    events = (step.ended.index,) if step.ended is not None else ()
    short = "?" if verdict is Verdict.UNKNOWN else ""
    return Finding(invariant=INVARIANT, verdict=verdict, subject=step.id, summary=summary, short=short, events=events)


def _destroy_called(run: Run, step: StepRun) -> Entry | None:
    """The call of the first destroy of the step's unit after it, or of a slice that the unit's name lies below."""
    for other in run.steps.values():
        if other.op == "destroy" and other.called.index > step.called.index and _covers(other.unit, step.unit):
            return other.called
    return None


def _covers(parent: str, unit: str) -> bool:
    """Whether destroying `parent` takes `unit` along: the same one, or a slice above it by name (systemd.slice(5))."""
    stem = parent.removesuffix(".slice")
    return parent == unit or (parent.endswith(".slice") and unit.endswith(".slice") and unit.startswith(stem + "-"))


def _unmade(run: Run, seen: ev.CgroupSeen) -> str:
    """What there is to say of a path that is not there, when nobody was seen to remove it."""
    made = {(event.hierarchy, event.path) for _, event in run.of(ev.CgroupMade)}
    if (seen.hierarchy, seen.path) in made:
        return "it was made and is gone, and nobody was seen to remove it"
    return "nobody ever made what it reported" if made else "it is not there, and nobody was seen to make it"


def _never_put(run: Run, step: StepRun, seen: ev.CgroupSeen) -> bool:
    """Whether the kernel witness saw processes move, this step's among them or not, and never into this path."""
    moves = run.of(ev.ProcessMoved)
    own = {(move.hierarchy, move.path) for _, move in moves if run.whom(move) == step.workload}
    return bool(moves) and (seen.hierarchy, seen.path) not in own


def _loss(run: Run, step: StepRun, entry: Entry, seen: ev.CgroupSeen) -> _Loss | None:
    """What is wrong with one look, unless it is excused."""
    exited = step.workload in run.exited and run.exited[step.workload].t_ns <= entry.t_ns
    if not seen.exists:
        cause = _last_removal(run, seen, entry)
        moved = False
        if exited and step.unit.endswith(".scope"):
            return None  # an empty scope ends by itself
    elif seen.inside is False and not exited:
        cause = _last_move(run, step, seen, entry)
        moved = True
    else:
        return None
    by = _actor(cause)
    assert step.ended is not None
    after = cause is not None and cause.t_ns > step.ended.t_ns
    if after and by is Actor.CGRACE:
        return None
    if (cause is None or by is Actor.OTHER) and _fault_did(run, step, seen, entry):
        return None
    if after and by is Actor.DRIVER and moved and _placed_elsewhere(run, step, entry):
        return None
    return _Loss(seen=entry, look=seen, moved=moved, cause=cause, by=by)


def _actor(cause: Entry | None) -> Actor:
    event = cause.event if cause is not None else None
    return event.by if isinstance(event, ev.CgroupRemoved | ev.ProcessMoved) else Actor.OTHER


def _last_removal(run: Run, seen: ev.CgroupSeen, until: Entry) -> Entry | None:
    """The removal of that path, or of a directory above it, that came last before the look."""
    found = None
    for entry, gone in run.of(ev.CgroupRemoved):
        inside = seen.path == gone.path or seen.path.startswith(gone.path.rstrip("/") + "/")
        if gone.hierarchy != seen.hierarchy or not inside or entry.t_ns > until.t_ns:
            continue
        # Of removals at different levels the innermost is the one that took this path; it always comes first.
        if found is None or gone.path == seen.path:
            found = entry
    return found


def _last_move(run: Run, step: StepRun, seen: ev.CgroupSeen, until: Entry) -> Entry | None:
    """The move of the step's process in that hierarchy that came last before the look."""
    found = None
    for entry, move in run.of(ev.ProcessMoved):
        if move.hierarchy == seen.hierarchy and run.whom(move) == step.workload and entry.t_ns <= until.t_ns:
            found = entry if move.path != seen.path else None
    return found


def _fault_did(run: Run, step: StepRun, seen: ev.CgroupSeen, until: Entry) -> bool:
    """Without a kernel event that names the culprit: whether a fault of ours acted on that path after the return."""
    assert step.ended is not None
    ids = set()
    for fault in run.scenario.faults:
        match fault:
            case ft.DeleteCgroup(hierarchy=hierarchy, path=path):
                if hierarchy == seen.hierarchy and (seen.path + "/").startswith("/" + path.strip("/") + "/"):
                    ids.add(fault.id)
            case ft.MoveProcess(hierarchy=hierarchy, process=process):
                if hierarchy == seen.hierarchy and process == step.workload:
                    ids.add(fault.id)
    fired = [entry for entry, fault in run.of(ev.FaultFired) if fault.fault in ids]
    return any(step.ended.t_ns <= entry.t_ns <= until.t_ns for entry in fired)


def _placed_elsewhere(run: Run, step: StepRun, until: Entry) -> bool:
    """Whether the driver was asked, after the step, to put the same process somewhere else."""
    return any(
        other.workload == step.workload
        and other.unit != step.unit
        and step.called.index < other.called.index < until.index
        for other in run.steps.values()
        if step.workload
    )


def _removed_by_systemd(run: Run, step: StepRun, destroyed: Entry | None) -> list[str]:
    assert step.ended is not None and step.result is not None
    paths = set(step.result.paths)
    return [
        gone.hierarchy
        for entry, gone in run.of(ev.CgroupRemoved)
        if (gone.hierarchy, gone.path) in paths
        and gone.by is Actor.SYSTEMD
        and step.ended.t_ns <= entry.t_ns
        and (destroyed is None or entry.t_ns < destroyed.t_ns)
    ]


def _lost(run: Run, step: StepRun, losses: tuple[_Loss, ...]) -> Finding:
    assert step.ended is not None
    first = min(losses, key=lambda loss: (loss.cause or loss.seen).t_ns)
    names = tuple(loss.look.hierarchy for loss in losses)
    story = _story(run, step, first, several=len(losses) > 1)
    evidence: list[str] = []
    events = {step.called.index, step.ended.index}
    for loss in losses:
        evidence += _evidence(run, step, loss)
        events |= {loss.seen.index} | ({loss.cause.index} if loss.cause is not None else set())
    return Finding(
        invariant=INVARIANT,
        verdict=Verdict.VIOLATED,
        subject=step.id,
        summary=f"LOST {listed(names)} of {step.id} ({step.unit}): {story}",
        short="LOST",
        explanation=explain.lost(step.title, names, story),
        evidence=tuple(evidence),
        events=tuple(sorted(events)),
        grade=run.worst_grade(max(loss.seen.t_ns for loss in losses)),
    )


def _story(run: Run, step: StepRun, first: _Loss, *, several: bool) -> str:
    """What became of the path: "systemd removed it 2 ms after the step had returned"."""
    assert step.ended is not None
    elsewhere = first.look.actual or "none"
    if first.cause is not None:
        did = f"moved its process to {first.look.actual or 'elsewhere'}" if first.moved else "removed it"
        did = "removed them" if several and not first.moved else did
        return f"{first.who} {did} {since(first.cause.t_ns - step.ended.t_ns, 'the step had returned')}"
    if first.moved:
        if _never_put(run, step, first.look):
            return f"nobody ever put its process there, it is in {elsewhere}"
        return f"its process is in {elsewhere}, and nobody was seen to move it"
    return _unmade(run, first.look)


def _evidence(run: Run, step: StepRun, loss: _Loss) -> list[str]:
    """The story of one path: made, entered, left, removed; by whom and when, seen from the step's return."""
    assert step.ended is not None
    returned_ns = step.ended.t_ns
    path, hierarchy = loss.look.path, loss.look.hierarchy
    told: list[tuple[int, int, str]] = []
    for entry in run.trace.entries:
        if entry.t_ns > loss.seen.t_ns:
            continue
        match entry.event:
            case ev.CgroupMade(hierarchy=name, path=made, by=by) if (name, made) == (hierarchy, path):
                text = f"{_WHO.get(by, 'somebody')} made it"
            case ev.CgroupRemoved(hierarchy=name, path=gone, by=by) if (name, gone) == (hierarchy, path):
                text = f"{_WHO.get(by, 'somebody')} removed it"
            case ev.ProcessMoved(hierarchy=name, path=to, by=by) if (
                name == hierarchy and step.workload and run.whom(entry.event) == step.workload
            ):
                text = f"{_WHO.get(by, 'somebody')} put {step.workload} into {'it' if to == path else to}"
            case _:
                continue
        job = _job_at(run, entry.t_ns)
        text += f", {since(entry.t_ns - returned_ns, 'the return')}" + (f", during {job}" if job else "")
        told.append((entry.t_ns, entry.index, text))
    at_rest = (
        "is gone" if not loss.look.exists else f"has not {step.workload}, which is in {loss.look.actual or 'none'}"
    )
    lines = [f"{hierarchy}{path}: {text}" for _, _, text in sorted(told)]
    return [*lines, f"{hierarchy}{path}: at rest it {at_rest}"]


def _job_at(run: Run, t_ns: int) -> str:
    """The job that was running then: "the start job of a.slice", "" when none was (or the target does not tell)."""
    running: dict[str, ev.JobChanged] = {}
    for entry, job in run.of(ev.JobChanged):
        if entry.t_ns > t_ns:
            break
        if job.state == "ended":
            running.pop(job.job, None)
        else:
            running[job.job] = job
    jobs = [f"the {job.type} job of {job.unit}" for job in running.values()]
    return listed(jobs, most=2)
