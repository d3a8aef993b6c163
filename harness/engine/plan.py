"""What a scenario wants done, as a state machine without I/O: events in, decisions out.

The engine feeds it every recorded event. It answers with what to let go and which faults act now; and, for each message, with
the faults that act on it. Orders are compiled away here: "A before B" becomes a hold of B's message, a gate on B's job, or one
more point that B's step waits for.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from cgrace.harness import faults as ft
from cgrace.harness.errors import ScenarioError
from cgrace.harness.events import DriverReady, Event, MessageSeen
from cgrace.harness.points import Point, PointKind, PointWatch, parse_point
from cgrace.harness.scenario.model import Scenario, Step

MESSAGE_FAULTS = (ft.Hold, ft.Drop, ft.Duplicate, ft.Reorder, ft.AnswerError, ft.Amend)
# The manager's and the supervisor's: like those on messages, they wait for what they act on.
OTHERS_FAULTS = (ft.JobStays, ft.JobEnds, ft.HoldCall)
BUS_POINTS = (PointKind.MESSAGE, PointKind.REPLY, PointKind.JOB, PointKind.CLOSES)


@dataclass(slots=True)
class Keep:
    """A hold or job gate: closed while it keeps something back. `open` for good once its point was reached or it gave up."""

    fault: ft.Hold | ft.JobStays | ft.HoldCall
    open: bool = False
    keeps: bool = False

    @property
    def closed(self) -> bool:
        """Whether it keeps something back at this moment."""
        return self.keeps and not self.open

    @property
    def patience_ns(self) -> int | None:
        """How long a wait of the driver's own it outlasts; None: any."""
        return None if isinstance(self.fault, ft.HoldCall) else self.fault.patience_ns


@dataclass(frozen=True, slots=True, kw_only=True)
class Due:
    """What an event brought about: keeps to open, faults to carry out, steps whose points have all been reached."""

    open: tuple[Keep, ...] = ()
    act: tuple[ft.Fault, ...] = ()
    steps: tuple[Step, ...] = ()


@dataclass(slots=True)
class _Waiting:
    step: Step
    points: set[Point] = field(default_factory=set)


class Plan:
    """The scenario's faults, orders and steps, and how far the run has come."""

    def __init__(self, scenario: Scenario, *, uses_bus: bool = True) -> None:
        self.scenario = scenario
        self.watch = PointWatch()
        faults, more = _compile(scenario)
        self.message_faults = tuple(f for f in faults if isinstance(f, MESSAGE_FAULTS))
        self.job_faults = tuple(f for f in faults if isinstance(f, ft.JobStays | ft.JobEnds))
        self.call_faults = tuple(f for f in faults if isinstance(f, ft.HoldCall))
        self.keeps = {f.id: Keep(f) for f in faults if isinstance(f, ft.Hold | ft.JobStays | ft.HoldCall)}
        self._acts = {f.id: f for f in faults if not isinstance(f, (*MESSAGE_FAULTS, *OTHERS_FAULTS))}
        self.acted: set[str] = set()
        self._counts: dict[str, int] = {}
        self.waived: list[tuple[str, Point]] = []
        self._waiting = {s.id: _Waiting(s, set(s.after) | more.get(s.id, set())) for s in scenario.steps}
        self._ready: set[str] = set()
        if not uses_bus:
            self._waive(self._needs_bus, "the driver uses no bus")
        self._watch_points()

    # ---- points

    def _watch_points(self) -> None:
        points: list[Point] = [k.fault.until for k in self.keeps.values() if k.fault.until is not None]
        points += [p for w in self._waiting.values() for p in w.points]
        for fault in self._acts.values():
            points += [p for p in (getattr(fault, "when", None), getattr(fault, "until", None)) if p is not None]
        self._points = tuple(points)
        for point in points:
            self.watch.add(point)

    def _waive(self, which: object, why: str) -> None:
        assert callable(which)
        last: dict[str, str] = {}
        for waiting in self._waiting.values():
            step, before = waiting.step, last.get(waiting.step.process)
            gone = {p for p in waiting.points if which(p)}
            waiting.points -= gone
            if gone and not waiting.points and before is not None:
                waiting.points.add(parse_point(f"{before} ended"))  # as if nothing had been said
            self.waived += [(step.id, p) for p in gone]
            last[step.process] = step.id
        for fault in self.call_faults:  # other keeps of such points have nothing to keep: no message comes, no job
            self.keeps[fault.id].open = which(fault.until)

    def _needs_bus(self, point: Point) -> bool:
        """Whether only something on the bus brings a point about, also by way of a fault that acts there."""
        if point.kind is not PointKind.FAULT:
            return point.kind in BUS_POINTS
        fault = next((one for one in self.scenario.faults if one.id == point.subject), None)
        if fault is None or isinstance(fault, ft.HoldCall):
            return isinstance(fault, ft.HoldClose)
        when = getattr(fault, "when", None)
        return when is None or when.kind in BUS_POINTS

    def is_ready(self, process: str) -> bool:
        """Whether a driver process has said hello: before that no fault acts on what it does."""
        return process in self._ready

    def wants_calls(self) -> bool:
        """Whether the run has to know what its drivers ask of the kernel."""
        return bool(self.call_faults) or any(p.kind in (PointKind.OPENS, PointKind.CLOSES) for p in self._points)

    def wants_closes(self) -> bool:
        """Whether that is also what they close."""
        closes = any(isinstance(fault, ft.HoldClose) for fault in self.call_faults)
        return closes or any(point.kind is PointKind.CLOSES for point in self._points)

    def wants_taken(self) -> bool:
        """Whether any point still waited for needs to know that a message was taken (stage "delivered")."""
        return any(p.stage == "delivered" and p not in self.watch.reached for p in self._wanted())

    def _wanted(self) -> list[Point]:
        points = [k.fault.until for k in self.keeps.values() if not k.open and k.fault.until is not None]
        points += [p for w in self._waiting.values() for p in w.points]
        points += [p for f in self._acts.values() if (p := getattr(f, "when", None)) is not None]
        points += [f.until for f in self._acts.values() if isinstance(f, ft.StopReading) and f.until is not None]
        return points

    def to_come(self) -> tuple[ft.Fault, ...]:
        """Faults that act at a point, and have not yet."""
        return tuple(fault for name, fault in self._acts.items() if name not in self.acted)

    def on_event(self, event: Event) -> Due:
        """Note an event; say what is due now. A process's steps are called once it is ready and their points are reached."""
        ready = isinstance(event, DriverReady)
        if isinstance(event, DriverReady):
            self._ready.add(event.process)
        reached = self.watch.feed(event, armed=bool(self._ready) or ready)
        if not reached and not ready:
            return Due()
        opened = [k for k in self.keeps.values() if not k.open and k.fault.until in self.watch.reached]
        acts = [f for f in self._acts.values() if getattr(f, "when", None) in reached]
        acts += [f for f in self._acts.values() if isinstance(f, ft.StopReading) and f.until in reached]
        self.acted.update(fault.id for fault in acts)
        return Due(open=tuple(opened), act=tuple(acts), steps=self._due_steps())

    def _due_steps(self) -> tuple[Step, ...]:
        due = []
        for name, waiting in list(self._waiting.items()):
            if waiting.step.process in self._ready and waiting.points <= self.watch.reached:
                due.append(waiting.step)
                del self._waiting[name]
        return tuple(due)

    def is_behind_cut(self, step: Step) -> bool:
        """Whether it waits for a fault that cuts connections. A driver that is called before it has seen that they are closed
        writes into them, and gets another error: which of the two is nobody's to say."""
        cuts = {f.id for f in self.scenario.faults if isinstance(f, ft.Disconnect) or getattr(f, "peer", "") == "bus"}
        return any(point.kind is PointKind.FAULT and point.subject in cuts for point in step.after)

    def steps_waiting(self) -> tuple[tuple[Step, tuple[Point, ...]], ...]:
        """Steps not called yet, each with the points that it still waits for."""
        reached = self.watch.reached
        return tuple((w.step, tuple(p for p in w.points if p not in reached)) for w in self._waiting.values())

    # ---- waits

    def on_wait(self, bound_ns: int | None) -> tuple[Keep, ...]:
        """Closed keeps whose patience ends now: the driver's own wait is unlimited or longer than that."""
        return tuple(
            k
            for k in self.keeps.values()
            if k.closed and k.patience_ns is not None and (bound_ns is None or bound_ns > k.patience_ns)
        )

    def closed(self) -> tuple[Keep, ...]:
        """Keeps that hold something back now, and are to let it go at some point."""
        return tuple(k for k in self.keeps.values() if k.closed and k.fault.until is not None)

    def pending(self, jobs: tuple[str, ...]) -> tuple[str, ...]:
        """Of these queued jobs ("start of a.slice") those that may still start: not what the scenario keeps for ever."""
        stuck = {
            f.unit
            for f in self.job_faults
            if isinstance(f, ft.JobStays) and f.until is None and self.keeps[f.id].closed
        }
        return tuple(job for job in jobs if job.partition(" of ")[2] not in stuck)

    # ---- messages

    def on_message(self, seen: MessageSeen) -> tuple[ft.Fault, ...]:
        """The message faults that act on this message, in file order; counts it."""
        return tuple(f for f in self.message_faults if self._hits(f.id, f.match, seen))

    def _hits(self, fault: str, match: ft.Match, seen: MessageSeen) -> bool:
        kind = "answer" if seen.kind in ("reply", "error") else seen.kind
        if seen.origin != "peer" or (seen.probe and not match.probe):
            return False
        if (kind, seen.member) != (match.kind, match.member) or match.unit not in ("", seen.unit):
            return False
        self._counts[fault] = count = self._counts.get(fault, 0) + 1
        return match.nth is None or match.nth == count


def all_faults(scenario: Scenario) -> tuple[ft.Fault, ...]:
    """The scenario's faults, and those that its orders become."""
    return tuple(_compile(scenario)[0])


def _compile(scenario: Scenario) -> tuple[list[ft.Fault], dict[str, set[Point]]]:
    """Faults with the orders among them as holds and gates; and the extra points that steps wait for."""
    faults: list[ft.Fault] = list(scenario.faults)
    more: dict[str, set[Point]] = {}
    for number, order in enumerate(scenario.orders, 1):
        later, name = order.second, f"order {number}"
        if later.kind is PointKind.STEP and later.stage == "called":
            more.setdefault(later.subject, set()).add(order.first)
        elif later.kind is PointKind.JOB and later.stage in ("started", "ended"):
            faults.append(
                ft.JobStays(id=name, line=order.line, unit=later.subject, until=order.first, patience_ns=None)
            )
        elif later.kind in (PointKind.MESSAGE, PointKind.REPLY) and later.stage != "seen":
            faults.append(
                ft.Hold(id=name, line=order.line, match=_match_of(later), until=order.first, patience_ns=None)
            )
        else:
            raise ScenarioError(
                f"nothing can hold back '{later}', so '{order.text}' cannot be made to happen",
                file=scenario.file,
                line=order.line,
                hint="the later point must be a step called, a job started or ended, or a message sent or delivered",
            )
    return faults, more


def _match_of(point: Point) -> ft.Match:
    """The messages that a message point speaks of. Signals are what a manager says unasked; the rest are calls."""
    signals = {"JobNew", "JobRemoved", "UnitNew", "UnitRemoved", "Reloading", "PropertiesChanged", "NameOwnerChanged"}
    kind = "answer" if point.kind is PointKind.REPLY else "signal" if point.member in signals else "call"
    return ft.Match(text=point.text, kind=kind, member=point.member, unit=point.subject, nth=point.nth)
