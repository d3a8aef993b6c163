"""Bars of the timeline: what lasts. Steps and their waits, held messages with the order that held them, systemd's jobs. Pure."""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

from cgrace.harness import events as ev
from cgrace.harness import faults as ft
from cgrace.harness.events import Event
from cgrace.harness.points import Point, PointWatch
from cgrace.harness.scenario.model import Scenario
from cgrace.harness.trace import Entry
from cgrace.reports.console.words import made_to, span
from cgrace.reports.timeline.lanes import Lanes
from cgrace.reports.timeline.rows import unit_of_path

PARTS_MAX = 16
TRACKS_MAX = 4
"""Bars side by side in one lane; further ones are drawn over the last track."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bar:
    """One bar, from one event to another (-1: to the end of the run).

    kind: "step", "wait", "hold", "behind" or "job". label: short, beside it; note: whole, for who asks. end: how it ended.
    parts: (word, event) for what happens within it. cause: the event that made it end (-1: none).
    """

    lane: int
    kind: str
    first: int
    last: int = -1
    label: str = ""
    note: str = ""
    end: str = ""
    unit: str = ""
    parts: tuple[tuple[str, int], ...] = ()
    cause: int = -1
    track: int = 0


@dataclass(slots=True)
class _Job:
    """A job while it is followed."""

    first: int
    type: str
    unit: str
    note: str
    parts: list[tuple[str, int]] = field(default_factory=list)
    cause: int = -1

    def bar(self, lane: int, last: int, end: str) -> Bar:
        return Bar(
            lane=lane,
            kind="job",
            first=self.first,
            last=last,
            label=f"{self.type} {self.unit}",
            note=self.note,
            end=end,
            unit=self.unit,
            parts=tuple(self.parts),
            cause=self.cause,
        )


@dataclass(slots=True)
class _Bars:
    lanes: Lanes
    keeps: dict[str, ft.Fault]
    words: dict[str, str]  # what a hold does, by its name
    reached: dict[str, int]  # hold: the entry that its point was reached with
    done: list[Bar] = field(default_factory=list)
    steps: dict[str, Bar] = field(default_factory=dict)
    waits: dict[str, Bar] = field(default_factory=dict)
    stops: dict[str, Bar] = field(default_factory=dict)  # a driver kept back at a call to the kernel
    holds: dict[int, Bar] = field(default_factory=dict)
    jobs: dict[str, _Job] = field(default_factory=dict)
    messages: dict[int, ev.MessageSeen] = field(default_factory=dict)
    processes: dict[str, str] = field(default_factory=dict)  # of a step
    let_go: dict[str, str] = field(default_factory=dict)

    def take(self, entry: Entry) -> None:
        """Open, extend or close what this event is about."""
        event = entry.event
        self._end_waits(event, entry.index)
        if not self._step(event, entry.index) and not self._message(event, entry.index):
            self._job(event, entry.index)

    def _step(self, event: Event, index: int) -> bool:
        match event:
            case ev.StepCalled(step=step, op=op, unit=unit, process=process):
                self.processes[step] = process
                lane = self.lanes.of_step(step)
                self.steps[step] = Bar(
                    lane=lane, kind="step", first=index, label=step, note=f"{step}: {op} {unit}", unit=unit
                )
            case ev.StepReturned(step=step, error=error) if step in self.steps:
                bar = self.steps.pop(step)
                end = f"failed: {error}" if error else "returned"
                self.done.append(replace(bar, last=index, end=end))
            case ev.StepNever(step=step, why=why) if step in self.steps:
                bar = self.steps.pop(step)
                self.done.append(replace(bar, last=index, end=f"never ended: {why}"))
            case ev.StepWaits(step=step, bound_ns=bound) if step in self.steps:
                limit = "no limit" if bound is None else f"≤ {span(bound)}"
                self.waits[step] = Bar(
                    lane=self.lanes.of_step(step),
                    kind="wait",
                    first=index,
                    label=f"waits, {limit}",
                    note=f"all threads of {self.processes[step]} sleep in {step}: {limit}",
                    unit=self.steps[step].unit,
                )
            case _:
                return False
        return True

    def _end_waits(self, event: Event, index: int) -> None:
        """A wait is over when its driver is given something, does something, or its step ends."""
        if not self.waits:
            return
        match event:
            case ev.StepReturned(step=step) | ev.StepNever(step=step) | ev.StepWaits(step=step):
                over = [step]
            case ev.MessageSeen(connection=number) if event.direction is ev.Direction.TO_SYSTEMD:
                over = self._of_lane(self.lanes.of_connection(number))
            case ev.MessageSent(message=number) if number in self.messages:
                seen = self.messages[number]
                to_driver = seen.direction is ev.Direction.TO_DRIVER
                over = self._of_lane(self.lanes.of_connection(seen.connection)) if to_driver else []
            case ev.CgroupMade(by=ev.Actor.DRIVER) | ev.CgroupRemoved(by=ev.Actor.DRIVER):
                over = list(self.waits) if len({bar.lane for bar in self.waits.values()}) == 1 else []
            case ev.StepCalled(process=process):
                over = self._of_lane(self.lanes.of_process(process))
            case _:
                return
        for step in over:
            if step in self.waits:
                self.done.append(replace(self.waits.pop(step), last=index))

    def _of_lane(self, lane: int) -> list[str]:
        return [step for step, bar in self.waits.items() if bar.lane == lane]

    def _message(self, event: Event, index: int) -> bool:
        match event:
            case ev.MessageSeen(message=number):
                self.messages[number] = event
            case ev.MessageHeld(message=number, hold=hold, behind=behind) if number in self.messages:
                seen = self.messages[number]
                what = f"{seen.member}" + (f" of {seen.unit}" if seen.unit else "")
                why = self.words.get(hold, hold)
                self.holds[number] = Bar(
                    lane=self.lanes.relay,
                    kind="behind" if behind else "hold",
                    first=index,
                    label=f"behind {hold}" if behind else f"held: {hold}",
                    note=f"{what} waits behind what {hold} holds" if behind else f"{what} is held by {hold}: {why}",
                    unit=seen.unit,
                    cause=self.reached.get(hold, -1),
                    end=hold,
                )
            case ev.DriverOpens(hold=hold, file=file, hierarchy=hierarchy, path=path) if hold:
                self._stopped(event, index, f"opens {file} of {hierarchy}{path}", unit_of_path(path))
            case ev.DriverCloses(hold=hold, connection=connection) if hold:
                self._stopped(event, index, f"closes its connection for {connection}")
            case ev.HoldLetGo(hold=hold, why=why, cause=cause):
                self.let_go[hold] = f"{hold} let go: {why}" + (f" ({cause})" if cause else "")
                if hold in self.stops:
                    self.done.append(replace(self.stops.pop(hold), last=index, end=self.let_go[hold]))
            case ev.MessageSent(message=number) | ev.MessageDropped(message=number):
                bar = self.holds.pop(number, None)
                if bar is not None:
                    self.done.append(replace(bar, last=index, end=self.let_go.get(bar.end, "sent on")))
            case _:
                return False
        return True

    def _stopped(self, event: ev.DriverAsks, index: int, where: str, unit: str = "") -> None:
        """A driver is stopped at a call to the kernel. where: what it does there, in words."""
        hold, process = event.hold, event.process
        self.stops[hold] = Bar(
            lane=self.lanes.of_process(process),
            kind="hold",
            first=index,
            label=f"stopped: {hold}",
            note=f"{process} is stopped where it {where}, by {hold}: {self.words.get(hold, hold)}",
            unit=unit,
            cause=self.reached.get(hold, -1),
        )

    def _job(self, event: Event, index: int) -> None:
        if not isinstance(event, ev.JobChanged):
            return
        job = self.jobs.get(event.job)
        if job is None:
            note = f"{event.type} job {event.job.rpartition('/')[2]} of {event.unit}"
            job = self.jobs[event.job] = _Job(index, event.type, event.unit, note)
        if len(job.parts) < PARTS_MAX:
            job.parts.append((event.state, index))
        if event.state == "blocked" and (gate := self._gate(event.unit)) is not None:
            job.note += f", kept by {gate.id}: {self.words[gate.id]}"
            job.cause = self.reached.get(gate.id, -1)
        if event.state == "ended":
            del self.jobs[event.job]
            self.done.append(job.bar(self.lanes.systemd, index, f"ended: {event.result}" if event.result else "ended"))

    def _gate(self, unit: str) -> ft.Fault | None:
        gates = (fault for fault in self.keeps.values() if isinstance(fault, ft.JobStays) and fault.unit == unit)
        return next(gates, None)

    def rest(self) -> Iterator[Bar]:
        """What had not ended when the trace did."""
        for bar in (*self.steps.values(), *self.waits.values(), *self.holds.values(), *self.stops.values()):
            yield replace(bar, end="not over when the trace ends")
        for job in self.jobs.values():
            yield job.bar(self.lanes.systemd, -1, "not over when the trace ends")


def _keeps(scenario: Scenario) -> tuple[dict[str, ft.Fault], dict[str, str], dict[str, Point]]:
    """Everything that keeps something back, by name: the fault, its words, the point at which it lets go."""
    keeps: dict[str, ft.Fault] = {}
    words: dict[str, str] = {}
    points: dict[str, Point] = {}
    for fault in scenario.faults:
        keeps[fault.id], words[fault.id] = fault, made_to(fault)
        until = getattr(fault, "until", None)
        if until is not None:
            points[fault.id] = until
    for number, order in enumerate(scenario.orders, 1):
        name = f"order {number}"
        words[name], points[name] = order.text or f"{order.first} before {order.second}", order.first
    return keeps, words, points


def _reached(entries: Sequence[Entry], points: dict[str, Point]) -> dict[str, int]:
    """With which entry each point was reached (its nth time, after a driver was ready, as the engine counts)."""
    watch, armed, found = PointWatch(), False, {}
    for point in points.values():
        watch.add(point)
    for entry in entries:
        armed = armed or isinstance(entry.event, ev.DriverReady)
        for point in watch.feed(entry.event, armed):
            found.update({name: entry.index for name, wanted in points.items() if wanted == point})
        if len(watch.reached) == len(set(points.values())):
            break
    return found


def bars_of(by_index: Sequence[Entry], by_time: Sequence[Entry], lanes: Lanes, scenario: Scenario | None) -> list[Bar]:
    """All bars, in order of their beginning, each in the first free track of its lane."""
    keeps, words, points = _keeps(scenario) if scenario is not None else ({}, {}, {})
    bars = _Bars(lanes, keeps, words, _reached(by_index, points))
    for entry in by_time:
        bars.take(entry)
    place = {entry.index: number for number, entry in enumerate(by_time)}
    found = sorted([*bars.done, *bars.rest()], key=lambda bar: place[bar.first])
    return list(_tracked(found, place))


def _tracked(bars: Sequence[Bar], place: dict[int, int]) -> Iterator[Bar]:
    """Give each bar the lowest free track. A wait lies within its step, on the step's own track."""
    free: dict[tuple[int, bool], list[int]] = {}
    busy: dict[tuple[int, bool], list[tuple[int, int]]] = {}
    steps: dict[tuple[int, str], int] = {}
    for bar in bars:
        if bar.kind == "wait":
            yield replace(bar, track=steps.get((bar.lane, bar.unit), 0))
            continue
        lane = (bar.lane, bar.kind == "step")
        open_tracks, ends = free.setdefault(lane, list(range(TRACKS_MAX))), busy.setdefault(lane, [])
        start = place[bar.first]
        while ends and ends[0][0] < start:
            heapq.heappush(open_tracks, heapq.heappop(ends)[1])
        track = TRACKS_MAX - 1
        if open_tracks:
            track = heapq.heappop(open_tracks)
            heapq.heappush(ends, (place.get(bar.last, len(place)), track))
        if bar.kind == "step":
            steps[bar.lane, bar.unit] = track
        yield replace(bar, track=track)
