"""Every fault fired: a run in which a fault of its scenario never acted shows nothing, and must not pass.

A fault acted when the trace has its FaultFired, or a message that it held, or its hold letting go before the run ended.
Three kinds of silence are natural and hold, with the reason:

* the driver uses no bus (the cgroupfs control group), and the fault is about messages, jobs or points of the bus;
* the run ended early because of the driver (a proved hang, a wait not waited out, its death), and nothing about the fault's
  unit had been on the bus, nor had the step been called that the fault waits for: it had no chance;
* every step on the fault's unit failed (systemd 219 refuses transient slices): what the fault waits for cannot come. That
  the steps failed is judged against the scenario's expectations.

An order that could not be met is reported here too, and a fault that could not be carried out: such a run is not the run
that was asked for.
"""

from __future__ import annotations

from cgrace.harness import events as ev
from cgrace.harness import faults as ft
from cgrace.harness.checkers import explain
from cgrace.harness.checkers.text import listed
from cgrace.harness.checkers.view import EARLY_ENDS, MessageRun, Run, StepRun, look
from cgrace.harness.points import Point, PointKind
from cgrace.harness.scenario.units import ancestors
from cgrace.harness.trace import Entry, Trace
from cgrace.harness.verdict import Finding, Invariant, Verdict

INVARIANT = Invariant.EVERY_FAULT_FIRED
_BUS_FAULTS = (
    ft.Hold, ft.Drop, ft.Duplicate, ft.Reorder, ft.AnswerError, ft.Amend, ft.Forge, ft.Disconnect, ft.StopReading, ft.Garbage,
    ft.JobStays, ft.JobEnds, ft.HoldClose,
)  # fmt: skip
_BUS_POINTS = (PointKind.MESSAGE, PointKind.REPLY, PointKind.JOB)


def check(trace: Trace) -> tuple[Finding, ...]:
    """One finding for each fault of the scenario, and one for an order that was not met."""
    return findings(look(trace))


def findings(run: Run) -> tuple[Finding, ...]:
    """`check` of a joined trace."""
    acted = _acted(run)
    found = [_judge(run, fault, acted) for fault in run.scenario.faults]
    if run.ended_why in ("unmet order", "error") and run.end is not None:
        text = run.ended_text or "an order of the scenario"
        found.append(
            Finding(
                invariant=INVARIANT,
                verdict=Verdict.VIOLATED,
                subject="order",
                summary=f"UNMET: {text}",
                short="UNMET",
                explanation=explain.unfired(
                    "order", "", "whether this driver ever reaches the points that the scenario orders, in the timeline"
                ),
                events=(run.end.index,),
            )
        )
    if run.ended_why == "complete":
        found += [_unmet(entry, let.hold) for entry, let in run.trace.of(ev.HoldLetGo) if _is_unmet_order(run, let)]
    return tuple(found) or (Finding(invariant=INVARIANT, verdict=Verdict.HOLDS, summary="the scenario has no faults"),)


def _is_unmet_order(run: Run, let: ev.HoldLetGo) -> bool:
    """Whether an order still kept something back when the run ended: its earlier point never came."""
    return let.why == "end" and let.hold not in {fault.id for fault in run.scenario.faults}


def _unmet(entry: Entry, order: str) -> Finding:
    return Finding(
        invariant=INVARIANT,
        verdict=Verdict.VIOLATED,
        subject=order,
        summary=f"UNMET: {order}: its first point never came, and its second was kept back until the run had ended",
        short="UNMET",
        explanation=explain.unfired(
            order, "", "whether this driver ever reaches the points that the scenario orders, in the timeline"
        ),
        events=(entry.index,),
    )


def _acted(run: Run) -> dict[str, int]:
    """Index of the event by which each fault first acted."""
    acted: dict[str, int] = {}
    for entry in run.trace.entries:
        match entry.event:
            case ev.FaultFired(fault=name):
                acted.setdefault(name, entry.index)
            case ev.MessageHeld(hold=name, behind=False):
                acted.setdefault(name, entry.index)
            case ev.HoldLetGo(hold=name, why=why) if why != "end":
                acted.setdefault(name, entry.index)
    return acted


def _judge(run: Run, fault: ft.Fault, acted: dict[str, int]) -> Finding:
    if fault.id in acted:
        return _holds(fault, f"{fault.id} acted", (acted[fault.id],))
    if str(run.trace.head.driver.get("uses_bus", "true")).lower() == "false" and _needs_bus(fault):
        return _holds(fault, f"{fault.id} does not apply: the driver uses no bus")
    if run.ended_why in EARLY_ENDS and _had_no_chance(run, fault):
        return _holds(fault, f"{fault.id} had no chance to act: the run ended before ({run.ended_why})")
    if (failed := _steps_failed(run, fault)) is not None:
        return _holds(fault, f"{fault.id} had no chance to act: {failed.title} failed before")
    if _nobody_hears(run, fault, acted):
        return _holds(
            fault, f"{fault.id} had nothing to act on: who had asked was killed, and whether an answer came is all one"
        )
    line = f" (line {fault.line} of the scenario)" if fault.line else ""
    hint = _hint(run, fault)
    return Finding(
        invariant=INVARIANT,
        verdict=Verdict.VIOLATED,
        subject=fault.id,
        summary=f"UNFIRED: {fault.id}{line} never acted: {hint}",
        short="UNFIRED",
        explanation=explain.unfired(fault.id, line, hint),
        evidence=(hint,),
        events=(run.end.index,) if run.end is not None else (),
    )


def _holds(fault: ft.Fault, summary: str, events: tuple[int, ...] = ()) -> Finding:
    return Finding(invariant=INVARIANT, verdict=Verdict.HOLDS, subject=fault.id, summary=summary, events=events)


def _match(fault: ft.Fault) -> ft.Match | None:
    found = getattr(fault, "match", None)
    return found if isinstance(found, ft.Match) else None


def _when(fault: ft.Fault) -> Point | None:
    found = getattr(fault, "when", None)
    return found if isinstance(found, Point) else None


def _needs_bus(fault: ft.Fault) -> bool:
    when = fault.until if isinstance(fault, ft.HoldCall) else _when(fault)
    return isinstance(fault, _BUS_FAULTS) or (when is not None and when.kind in (*_BUS_POINTS, PointKind.CLOSES))


def _had_no_chance(run: Run, fault: ft.Fault) -> bool:
    when = _when(fault)
    if when is not None and when.kind is PointKind.STEP:
        return when.subject not in run.steps or when.stage in ("ended", "returned", "failed")
    unit = _unit(fault)
    if not unit:
        return False
    return not any(m.message.unit == unit and not m.message.probe for m in run.messages.values())


def _unit(fault: ft.Fault) -> str:
    """The unit that a fault is about, "" when it is about none."""
    match, when = _match(fault), _when(fault)
    if isinstance(fault, ft.HoldOpen):
        return fault.path.rsplit("/", 1)[-1]
    unit = match.unit if match is not None else str(getattr(fault, "unit", ""))
    return when.subject if not unit and when is not None and when.kind in _BUS_POINTS else unit


def _nobody_hears(run: Run, fault: ft.Fault, acted: dict[str, int]) -> bool:
    """Whether an answer that was not to arrive had nobody to go to: the driver was killed behind the call. A real systemd may still
    answer before its bus has seen that, or not."""
    if not isinstance(fault, ft.Drop) or fault.match.kind != "answer":
        return False
    kills = (
        one
        for one in run.scenario.faults
        if isinstance(one, ft.Peer) and one.do == "kill" and one.peer in run.scenario.processes
    )
    match = fault.match
    return any(one.id in acted for one in kills) and any(
        (m.message.kind, m.message.member) == ("call", match.member) and match.unit in ("", m.message.unit)
        for m in run.messages.values()
        if not m.message.probe
    )


def _steps_failed(run: Run, fault: ft.Fault) -> StepRun | None:
    """The first of the steps on the fault's unit or below it, when there are some and all of them ended with an error."""
    unit = _unit(fault)
    parents = {step.id: (step.unit, step.parent, *ancestors(step.parent)) for step in run.scenario.steps}
    steps = [step for step in run.steps.values() if unit and unit in parents.get(step.id, ())]
    if steps and all(step.result is not None and step.result.error for step in steps):
        return steps[0]
    return None


def _hint(run: Run, fault: ft.Fault) -> str:
    """What came nearest to the fault's match, in a clause."""
    match, when = _match(fault), _when(fault)
    if given_up := run.trace.first(ev.HoldLetGo, lambda let: let.hold == fault.id and let.why == "end"):
        return given_up[1].cause
    if match is not None:
        return _near(run, match)
    if isinstance(fault, ft.JobStays | ft.JobEnds):
        units = list(dict.fromkeys(job.unit for _, job in run.trace.of(ev.JobChanged)))
        if fault.unit in units:
            return f"{fault.unit} had a job, but not number {fault.nth}"
        return f"{fault.unit} never had a job" + (f", only {listed(units)}" if units else "")
    if isinstance(fault, ft.HoldOpen):
        return _near_open(run, fault)
    if isinstance(fault, ft.HoldClose):
        return f"the driver did not close its connection for {fault.connection} {fault.nth} times"
    if when is not None:
        return f"its point '{when}' was not reached"
    return "nothing matched it"


def _near_open(run: Run, fault: ft.HoldOpen) -> str:
    opened = [event.hierarchy + event.path for _, event in run.trace.of(ev.DriverOpens)]
    wanted = fault.hierarchy + fault.path
    if wanted in opened:
        return f"the driver opened {wanted} {opened.count(wanted)} times, the fault waits for number {fault.nth}"
    return f"the driver never opened {wanted}" + (f", only {listed(list(dict.fromkeys(opened)))}" if opened else "")


def _near(run: Run, match: ft.Match) -> str:
    same = [m for m in run.messages.values() if m.message.member == match.member and _kind(m) == match.kind]
    what = f"{'answer to ' if match.kind == 'answer' else ''}{match.member}"
    if not same:
        return f"no {what} was ever seen"
    counted = [m for m in same if match.unit in ("", m.message.unit)]
    if not counted:
        units = list(dict.fromkeys(m.message.unit or "no unit" for m in same))
        return f"{what} was seen of {listed(units)}, never of {match.unit}"
    later = [m for m in counted if match.probe or not m.message.probe]
    if not later:
        return f"{what} was seen only among the driver's start-up probes; say probe = true to mean those"
    return f"{what} was seen {len(later)} times, the fault waits for number {match.nth or 1}"


def _kind(m: MessageRun) -> str:
    return "answer" if m.message.kind in ("reply", "error") else m.message.kind
