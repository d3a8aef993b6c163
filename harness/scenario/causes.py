"""Orders that cannot be met: a scenario asks that something come before its own cause.

Points become the nodes of a graph, "must come before" its edges: some by the nature of things (a step is called before it
ends, a message is seen before it is sent), the others by the file (after, orders, holds). A cycle can never be met. Only
certain causes are edges: that a driver waits for JobRemoved is what scenarios are about, so it is none.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from cgrace.harness.errors import ScenarioError
from cgrace.harness.faults import Fault, Hold, JobStays, Match, Order, StopReading
from cgrace.harness.points import Point, PointKind
from cgrace.harness.scenario.model import Step
from cgrace.harness.scenario.place import Source
from cgrace.harness.scenario.words import SIGNALS

Node = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Edge:
    """`first` must come before `second`. `line` is 0 and `why` empty for what is in the nature of things.

    implied: a step's default, which the author did not write and is blamed last.
    """

    first: Node
    second: Node
    line: int = 0
    why: str = ""
    implied: bool = False


def check_order(source: Source, steps: tuple[Step, ...], faults: tuple[Fault, ...], orders: tuple[Order, ...]) -> None:
    """Note a problem for the first order, hold or `after` that cannot be met."""
    written = {path[1] for path in source.lines if path[:1] == ("steps",) and path[2:] == ("after",)}
    edges = [*_waited(steps, written), *_asked(faults, orders), *_natural(steps, faults, orders)]
    for edge in sorted((e for e in edges if e.line), key=lambda e: (e.implied, e.line)):
        way = _way(edge.second, edge.first, edges)
        if way is None:
            continue
        others = [f"{e.why} (line {e.line})" for e in way if e.line]
        if edge.first == edge.second:
            message = f"{edge.why}: both are the same point"
        elif others:
            message = f"{edge.why}, which can never be met together with: {'; '.join(others)}"
        else:
            message = f"{edge.why}, which can never be met: '{_text(edge.second)}' must come first"
        hint = "turn one of them round, or remove it"
        source.problems.append(ScenarioError(message, hint=hint, file=source.file, line=edge.line))
        return


def _waited(steps: Iterable[Step], written: set[str | int]) -> Iterable[Edge]:
    for number, step in enumerate(steps):
        for point in step.after:
            implied = number not in written
            why = f"'{step.id}' waits for '{point}'" + (", as nothing else is said" if implied else "")
            yield Edge(_node(point), ("step", step.id, "called"), step.line, why, implied)


def _asked(faults: Iterable[Fault], orders: Iterable[Order]) -> Iterable[Edge]:
    for order in orders:
        yield Edge(_node(order.first), _node(order.second), order.line, f"'{order.first} before {order.second}'")
    for fault in faults:
        if isinstance(fault, Hold) and fault.match.nth is not None:
            held = _message(fault.match, "sent")
            yield Edge(_node(fault.until), held, fault.line, f"{fault.match.text} is held until '{fault.until}'")
        if isinstance(fault, JobStays) and fault.until is not None and fault.type == "start":
            started = ("job", fault.unit, "started", str(fault.nth))
            yield Edge(
                _node(fault.until), started, fault.line, f"the job of {fault.unit} is kept until '{fault.until}'"
            )
        if isinstance(fault, StopReading) and fault.until is not None:
            why = f"reading stops at '{fault.when}' and goes on at '{fault.until}'"
            yield Edge(_node(fault.when), _node(fault.until), fault.line, why)
        when = getattr(fault, "when", None)
        if isinstance(when, Point):
            fired = ("fault", fault.id, "fired")
            yield Edge(_node(when), fired, fault.line, f"{fault.id} acts at '{when}'")


def _natural(steps: tuple[Step, ...], faults: Iterable[Fault], orders: Iterable[Order]) -> Iterable[Edge]:
    ready: Node = ("driver", "ready")
    for step in steps:
        called = ("step", step.id, "called")
        yield Edge(ready, called)
        yield Edge(called, ("step", step.id, "ended"))
        yield Edge(called, ("step", step.id, "waits"))
        if step.do == "apply" and sum(other.unit == step.unit for other in steps) == 1:
            yield Edge(called, ("message", "StartTransientUnit", step.unit, "seen", "1"))
    for unit in {step.unit for step in steps}:
        call = ("message", "StartTransientUnit", unit)
        yield Edge((*call, "sent", "1"), ("job", unit, "queued", "1"))
        yield Edge((*call, "sent", "1"), ("reply", "StartTransientUnit", unit, "seen", "1"))
        yield Edge(("job", unit, "queued", "1"), ("job", unit, "blocked", "1"))
        yield Edge(("job", unit, "queued", "1"), ("job", unit, "started", "1"))
        yield Edge(("job", unit, "started", "1"), ("job", unit, "ended", "1"))
        yield Edge(("job", unit, "ended", "1"), ("message", "JobRemoved", unit, "seen", "1"))
    for node in _messages_named(steps, faults, orders):
        *head, _, nth = node
        seen, sent, delivered = ((*head, stage, nth) for stage in ("seen", "sent", "delivered"))
        yield Edge(seen, sent)
        yield Edge(sent, delivered)


def _messages_named(steps: Iterable[Step], faults: Iterable[Fault], orders: Iterable[Order]) -> set[Node]:
    nodes = {_node(point) for step in steps for point in step.after}
    nodes |= {_node(point) for order in orders for point in (order.first, order.second)}
    for fault in faults:
        points = (getattr(fault, name, None) for name in ("until", "when"))
        nodes |= {_node(point) for point in points if isinstance(point, Point)}
        if isinstance(fault, Hold) and fault.match.nth is not None:
            nodes.add(_message(fault.match, "sent"))
    for step in steps:
        nodes |= {("message", member, step.unit, "seen", "1") for member in ("StartTransientUnit", "JobRemoved")}
    return {node for node in nodes if node[0] in ("message", "reply")}


def _node(point: Point) -> Node:
    """Points that are the same moment are the same node: returned, failed and ended; sent and delivered of a call."""
    nth = str(point.nth)
    match point.kind:
        case PointKind.STEP:
            stage = "ended" if point.stage in ("returned", "failed") else point.stage
            return ("step", point.subject, stage) if point.nth == 1 else ("step", point.subject, stage, nth)
        case PointKind.MESSAGE:
            to_systemd = point.member not in SIGNALS
            stage = "sent" if to_systemd and point.stage == "delivered" else point.stage
            return ("message", point.member, point.subject, stage, nth)
        case PointKind.REPLY:
            return ("reply", point.member, point.subject, point.stage, nth)
        case PointKind.JOB:
            return ("job", point.subject, point.stage, nth)
        case PointKind.FAULT:
            return ("fault", point.subject, "fired") if point.nth == 1 else ("fault", point.subject, "fired", nth)
        case PointKind.READY:
            return ("driver", "ready")
        case PointKind.CGROUP | PointKind.MOVED | PointKind.OPENS | PointKind.CLOSES:
            return (point.kind, point.member, point.subject, point.stage, nth)


def _message(match: Match, stage: str) -> Node:
    kind = "reply" if match.kind == "answer" else "message"
    return (kind, match.member, match.unit, stage, str(match.nth))


def _text(node: Node) -> str:
    match node:
        case ("step" | "fault", subject, stage, *_):
            return f"{subject} {stage}"
        case ("job", unit, stage, *_):
            return f"job of {unit} {stage}"
        case ("message" | "reply" as kind, member, unit, stage, *_):
            return ("reply to " if kind == "reply" else "") + member + (f" of {unit}" if unit else "") + f" {stage}"
    return " ".join(part for part in node if part)


def _way(start: Node, goal: Node, edges: list[Edge]) -> list[Edge] | None:
    """The edges of a shortest way from `start` to `goal`, None when there is none."""
    if start == goal:
        return []
    below: dict[Node, list[Edge]] = {}
    for edge in edges:
        below.setdefault(edge.first, []).append(edge)
    came: dict[Node, Edge] = {}
    front = [start]
    while front and goal not in came:
        reached = []
        for node in front:
            for edge in below.get(node, ()):
                if edge.second not in came and edge.second != start:
                    came[edge.second] = edge
                    reached.append(edge.second)
        front = reached
    if goal not in came:
        return None
    way = [came[goal]]
    while way[0].first != start:
        way.insert(0, came[way[0].first])
    return way
