"""A trace as lines for people. Pure: a trace in, text out."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from cgrace.harness import events as ev
from cgrace.harness.clock import NS_PER_MS
from cgrace.harness.events import DriverReady, Event
from cgrace.harness.trace import Entry, Trace
from cgrace.reports.console.words import span


def ends(trace: Trace) -> str:
    """How each step ended: "first returned after 1.0 s; second never returned"."""
    called = {event.step: entry.t_ns for entry, event in trace.of(ev.StepCalled)}
    said = []
    for entry in trace.entries:
        match entry.event:
            case ev.StepReturned(step=step, error=error):
                took = span(entry.t_ns - called.get(step, entry.t_ns))
                said.append(f"{step} failed after {took}: {error}" if error else f"{step} returned after {took}")
            case ev.StepNever(step=step):
                said.append(f"{step} never returned" if step in called else f"{step} was never called")
    return "; ".join(said) or "no step ended"


def timeline(trace: Trace, marked: frozenset[int] = frozenset(), *, probes: bool = False) -> list[str]:
    """One line an event, with its index, the milliseconds since the first, and ">" at the marked ones.

    What happened before the driver was ready (its own probes) is left out unless `probes`; so are looks that found nothing new.
    The same cgroup made or removed in several hierarchies at one go is one line.
    """
    ready = trace.first(DriverReady)
    first = 0 if probes or ready is None else ready[0].index
    hidden = {event.message for _, event in trace.of(ev.MessageSeen) if event.probe and not probes}
    start = trace.entries[0].t_ns if trace.entries else 0
    lines = []
    for group in _groups(entry for entry in trace.entries if entry.index >= first):
        entry = group[0]
        if getattr(entry.event, "message", 0) in hidden:
            continue
        evidence = bool(marked & {one.index for one in group})
        text = tell(entry.event) if len(group) == 1 else _tell_group(group)
        if text or evidence:
            at = (entry.t_ns - start) / NS_PER_MS
            lines.append(f"{'>' if evidence else ' '}{entry.index:>5} {at:>10.2f} ms  {text or entry.event.KIND}")
    return lines


def _groups(entries: Iterable[Entry]) -> Iterator[list[Entry]]:
    """Entries one by one, but what was done to one path in several hierarchies together."""
    group: list[Entry] = []
    for entry in entries:
        if group and _alike(group[-1].event, entry.event):
            group.append(entry)
            continue
        if group:
            yield group
        group = [entry]
    if group:
        yield group


def _alike(one: Event, other: Event) -> bool:
    """Whether both make, or both remove, the same path, by the same hand."""
    if not isinstance(one, ev.CgroupMade | ev.CgroupRemoved) or not isinstance(other, ev.CgroupMade | ev.CgroupRemoved):
        return False
    return (one.KIND, one.by, one.path) == (other.KIND, other.by, other.path)


def _tell_group(group: list[Entry]) -> str:
    event = group[0].event
    assert isinstance(event, ev.CgroupMade | ev.CgroupRemoved)
    what = "makes" if isinstance(event, ev.CgroupMade) else "removes"
    where = " ".join(e.event.hierarchy for e in group if isinstance(e.event, ev.CgroupMade | ev.CgroupRemoved))
    return f"{event.by} {what} {event.path} in {where}"


def tell(event: Event) -> str:
    """One event in one line; "" for what says nothing to a person."""
    match event:
        case ev.StepCalled():
            whom = f", process {event.workload}" if event.workload else ""
            return f"step {event.step} called: {event.op} {event.unit}{whom} ({event.process})"
        case ev.StepReturned():
            return f"step {event.step} " + (
                f"failed: {event.error}" if event.error else f"returned {event.value}".rstrip()
            )
        case ev.StepNever():
            return f"step {event.step} never ended: {event.why}"
        case ev.StepWaits():
            return f"step {event.step} waits, {_limit(event.bound_ns)}"
        case ev.DriverReady():
            return f"{event.process} is ready" if event.ok else f"{event.process} is not ready: {event.error}"
        case ev.DriverSaid():
            return f"{event.process} says{' (not the shim protocol)' if event.babble else ''}: {event.text}"
        case ev.ProcessStarted():
            return f"{event.role} {event.process} starts, pid {event.pid}"
        case ev.ProcessExited():
            return f"{event.process} ends: {_status(event.status)}{'' if event.expected else ', not asked to'}"
        case ev.RunEnded():
            return f"the run ends: {event.why}{f', {event.text}' if event.text else ''}"
    return _tell_wire(event) or _tell_world(event)


def _tell_wire(event: Event) -> str:
    match event:
        case ev.MessageSeen():
            way = "->" if event.direction is ev.Direction.TO_SYSTEMD else "<-"
            what = f"{event.kind} {event.member}" + (f" of {event.unit}" if event.unit else "")
            more = " ".join(part for part in (event.name, event.result, event.job.rpartition("/")[2]) if part)
            forged = "" if event.origin == "peer" else f" ({event.origin})"
            return f"{way} [{event.message}] {what}{f' ({more})' if more else ''}{forged}"
        case ev.MessageHeld():
            return f"   [{event.message}] held by {event.hold}{' (behind it)' if event.behind else ''}"
        case ev.MessageSent():
            return f"   [{event.message}] sent on"
        case ev.MessageTaken():
            return f"   [{event.message}] taken by the driver"
        case ev.MessageDropped():
            return f"   [{event.message}] dropped by {event.fault}"
        case ev.HoldLetGo():
            return f"{event.hold} lets go: {event.why}{f', {event.cause}' if event.cause else ''}"
        case ev.FaultFired():
            return f"{event.fault} fires ({event.grade}): {event.what}"
        case ev.Connected():
            return f"{event.process} connects ({event.connection})"
        case ev.Disconnected():
            return f"connection {event.connection} ends, by {event.by}{f': {event.why}' if event.why else ''}"
        case ev.MatchRule():
            return f"connection {event.connection} {'adds' if event.added else 'removes'} the rule {event.rule}"
    return ""


def _asks(event: ev.DriverAsks) -> str:
    match event:
        case ev.DriverOpens():
            return f"opens {event.hierarchy}{event.path}/{event.file}"
        case ev.DriverCloses():
            return f"closes its connection for {event.connection}"
    return "asks the kernel"


def _tell_world(event: Event) -> str:
    match event:
        case ev.JobChanged():
            return f"{event.type} job of {event.unit} {event.state}{f': {event.result}' if event.result else ''}"
        case ev.UnitChanged():
            return f"{event.unit} is {event.state}"
        case ev.SystemdSaid():
            return f"systemd: {event.text}"
        case ev.CgroupMade():
            return f"{event.by} makes {event.hierarchy}{event.path}"
        case ev.CgroupRemoved():
            return f"{event.by} removes {event.hierarchy}{event.path}"
        case ev.ProcessMoved():
            return f"{event.by} moves {event.process or event.pid} to {event.hierarchy}{event.path}"
        case ev.DriverAsks():
            return f"{event.process} {_asks(event)}" + (f", held by {event.hold}" if event.hold else "")
        case ev.CgroupSeen(exists=False):
            return f"{event.hierarchy}{event.path}, reported by {event.step}, is not there"
        case ev.CgroupSeen(inside=False):
            return f"the process of {event.step} is in {event.hierarchy}{event.actual}, not in {event.path}"
        case ev.DriverWaits():
            return f"all threads of {event.process} sleep, {_limit(event.bound_ns)}"
        case ev.WorldClosed():
            return f"a look at all that could wake {event.process}: " + _world(event)
        case ev.Leftover():
            return f"left over: {event.kind} {event.name}"
    return ""


def _world(event: ev.WorldClosed) -> str:
    open_ = [
        *(f"hold {name}" for name in event.holds),
        *(f"job {name}" for name in event.jobs),
        *event.unaccounted,
        *([f"{event.bytes_in} bytes from it"] if event.bytes_in else []),
        *([f"{event.bytes_out} bytes to it"] if event.bytes_out else []),
    ]
    return ", ".join(open_) or f"nothing, {len(event.threads)} threads wait, {_limit(event.bound_ns)}"


def _limit(bound_ns: int | None) -> str:
    return "without limit" if bound_ns is None else f"for at most {span(bound_ns)}"


def _status(status: int) -> str:
    return f"exit {status}" if status >= 0 else f"signal {-status}"
