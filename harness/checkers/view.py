"""A run as checkers look at it: steps, messages, holds and faults joined from the trace's events. Derived, never stored.

Everything is ordered by (time, index): kernel events are read later than they happened, so their index alone would lie.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, TypeVar

from cgrace.harness import events as ev
from cgrace.harness.events import Direction, Event, Grade, MessageSeen
from cgrace.harness.faults import grade
from cgrace.harness.scenario.model import Scenario
from cgrace.harness.trace import Entry, Trace

E = TypeVar("E", bound=Event)

_GRADE_RANK = (Grade.NATURAL, Grade.LEGAL, Grade.IMPOSSIBLE)

EARLY_ENDS = ("proved", "own wait", "driver died")
"""Ends of a run in which the driver, not the harness, is why later steps were not called."""


@dataclass(slots=True)
class StepRun:
    """What became of one step that was called. `ended` is its StepReturned (returned or failed), if there is one."""

    id: str
    process: str
    op: str
    unit: str
    workload: str
    called: Entry
    ended: Entry | None = None
    result: ev.StepReturned | None = None
    never: ev.StepNever | None = None

    @property
    def succeeded(self) -> bool:
        """It returned, and without an error."""
        return self.result is not None and not self.result.error

    @property
    def title(self) -> str:
        """How sentences name it: `"second" (other.slice)`."""
        return f'"{self.id}" ({self.unit})' if self.unit else f'"{self.id}"'


@dataclass(slots=True)
class MessageRun:
    """One message's way through the relay: when it was seen, held (by which hold), written out or dropped."""

    seen: Entry
    message: MessageSeen
    process: str
    held: Entry | None = None
    hold: str = ""
    gone: Entry | None = None

    @property
    def to_driver(self) -> bool:
        """Whether the driver is its receiver."""
        return self.message.direction is Direction.TO_DRIVER


@dataclass(slots=True)
class Run:
    """The joined view of one trace.

    `named`: the processes that were started, by the pid that the driver sees.
    `end` is the RunEnded entry. `stop` is where the run stopped mattering: the first StepNever, else RunEnded. What comes
    after it is the harness's own tidying (holds let go, processes stopped) and says nothing about the driver.
    """

    trace: Trace
    scenario: Scenario
    steps: dict[str, StepRun] = field(default_factory=dict)
    messages: dict[int, MessageRun] = field(default_factory=dict)
    connections: dict[int, str] = field(default_factory=dict)
    roles: dict[str, str] = field(default_factory=dict)
    exited: dict[str, Entry] = field(default_factory=dict)
    named: dict[int, str] = field(default_factory=dict)
    end: Entry | None = None
    stop: Entry | None = None
    _kinds: dict[type[Event], list[tuple[Entry, Any]]] = field(default_factory=dict)
    _about: dict[tuple[str, str], list[MessageRun]] = field(default_factory=dict)
    _jobs: dict[str, list[tuple[Entry, ev.JobChanged]]] = field(default_factory=dict)

    def of(self, kind: type[E]) -> list[tuple[Entry, E]]:
        """As `Trace.of`, without reading the trace again each time: checkers ask for every step of long runs."""
        if not self._kinds:
            for entry in self.trace.entries:
                self._kinds.setdefault(type(entry.event), []).append((entry, entry.event))
        return self._kinds.get(kind, [])

    def jobs_of(self, unit: str) -> list[tuple[Entry, ev.JobChanged]]:
        """The changes of a unit's jobs, in order."""
        if not self._jobs:
            for entry, job in self.of(ev.JobChanged):
                self._jobs.setdefault(job.unit, []).append((entry, job))
        return self._jobs.get(unit, [])

    def concerning(self, step: StepRun) -> list[MessageRun]:
        """What the step may wait for, in order: messages of its process, about its unit or about none, that are no probes."""
        if not self._about:
            for message in self.messages.values():
                if not message.message.probe:
                    self._about.setdefault((message.process, message.message.unit), []).append(message)
        keys = {(process, unit) for process in (step.process, "") for unit in (step.unit, "")}
        return sorted((m for key in keys for m in self._about.get(key, [])), key=lambda m: m.seen.index)

    @property
    def ended_why(self) -> str:
        """RunEnded's `why`, "" for a trace that stops without one."""
        return self.end.event.why if self.end is not None and isinstance(self.end.event, ev.RunEnded) else ""

    @property
    def ended_text(self) -> str:
        """RunEnded's `text`."""
        return self.end.event.text if self.end is not None and isinstance(self.end.event, ev.RunEnded) else ""

    @property
    def stop_ns(self) -> int:
        """When the run stopped mattering; the last entry's time in a trace that just breaks off."""
        if self.stop is not None:
            return self.stop.t_ns
        return max((entry.t_ns for entry in self.trace.entries), default=0)

    def matters(self, entry: Entry) -> bool:
        """Whether an event belongs to the run and not to the tidying after it. Kernel events may be recorded later."""
        if self.stop is None or entry.index < self.stop.index:
            return True
        late = isinstance(entry.event, ev.CgroupMade | ev.CgroupRemoved | ev.ProcessMoved)
        return late and entry.t_ns <= self.stop.t_ns

    @property
    def driver_processes(self) -> tuple[str, ...]:
        """The names of the processes that steps were asked of, in order of the first call."""
        return tuple(dict.fromkeys(step.process for step in self.steps.values()))

    def bound_ns(self, step: str) -> int:
        """The latency bound of a step: its own, or the scenario's."""
        for declared in self.scenario.steps:
            if declared.id == step and declared.bound_ns is not None:
                return declared.bound_ns
        return self.scenario.bound_ns

    def worst_grade(self, until_ns: int) -> Grade:
        """The worst grade among the faults that had acted by then (a hold acts when it first keeps something)."""
        declared = {fault.id: grade(fault) for fault in self.scenario.faults}
        worst = Grade.NATURAL
        for entry in self.trace.entries:
            if entry.t_ns > until_ns:
                continue
            match entry.event:
                case ev.FaultFired(grade=fired):
                    found = fired
                case ev.MessageHeld(hold=hold) if hold in declared:
                    found = declared[hold]
                case _:
                    continue
            worst = max(worst, found, key=_GRADE_RANK.index)
        return worst

    def whom(self, move: ev.ProcessMoved) -> str:
        """The process that was moved, also one that a driver made itself and told us of only later."""
        return move.process or self.named.get(move.pid, "")

    def dead_before_end(self, process: str) -> Entry | None:
        """The exit of a process, when it came before the run ended (later ones are tidying)."""
        entry = self.exited.get(process)
        if entry is None or (self.stop is not None and entry.index > self.stop.index):
            return None
        return entry


def _take(run: Run, entry: Entry) -> None:
    match entry.event:
        case ev.StepCalled(step=step, process=process, op=op, unit=unit, workload=workload):
            run.steps[step] = StepRun(step, process, op, unit, workload, entry)
        case ev.StepReturned(step=step) as result if step in run.steps and run.stop is None:
            run.steps[step].ended, run.steps[step].result = entry, result
        case ev.StepNever(step=step) as never if step in run.steps:
            run.steps[step].never = never
            run.stop = run.stop or entry
        case ev.Connected(connection=connection, process=process):
            run.connections[connection] = process
        case MessageSeen(message=number, connection=connection) as message:
            run.messages[number] = MessageRun(entry, message, run.connections.get(connection, ""))
        case ev.MessageHeld(message=number, hold=hold) if number in run.messages:
            run.messages[number].held, run.messages[number].hold = entry, hold
        case ev.MessageSent(message=number) | ev.MessageDropped(message=number) if number in run.messages:
            run.messages[number].gone = entry
        case ev.ProcessStarted(process=process, role=role, pid=pid):
            run.roles[process] = role
            run.named[pid] = process
        case ev.ProcessExited(process=process):
            run.exited.setdefault(process, entry)
        case ev.RunEnded() if run.end is None:
            run.end = entry
            run.stop = run.stop or entry


def look(trace: Trace) -> Run:
    """Join a trace's events. Raises TraceError when the head's scenario is not one."""
    run = Run(trace, Scenario.from_data(trace.head.scenario))
    for entry in trace.entries:
        _take(run, entry)
    return run
