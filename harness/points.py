"""Points: named places in a run, as predicates over events. The engine waits on them, faults and orders name them.

The words (anything in <> is a name; `[nth N]` may follow a message or cgroup point, 1 is the first):

    <step> called | returned | failed | ended | waits        ended: returned or failed. waits: its driver is asleep in it
    <MEMBER> of <unit> seen | sent | delivered                a call (to systemd) or a signal (to the driver)
    reply to <MEMBER> of <unit> seen | sent | delivered       a reply or an error that answers such a call
    job of <unit> queued | blocked | started | ended
    cgroup made: <hierarchy>/<path> ; cgroup removed: <hierarchy>/<path>
    process moved: <name> to <hierarchy>/<path>
    driver opens: <hierarchy>/<path> ; driver closes: calls | signals
    fault <id> fired
    driver ready

seen: it reached the relay. sent: the relay wrote it to its receiver. delivered (the default): the driver has read it and
come to rest; for a message to systemd, the same as sent. A message point may leave out `of <unit>`. driver opens: it asks the
kernel to open that cgroup's cgroup.procs or tasks for writing, and the kernel has not done it yet; driver closes: the same of a
connection to the bus.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum

from cgrace.harness import events as ev
from cgrace.harness.events import Direction, Event, MessageSeen


class PointKind(StrEnum):
    """Which sort of event a point is about."""

    STEP = "step"
    MESSAGE = "message"
    REPLY = "reply"
    JOB = "job"
    CGROUP = "cgroup"
    MOVED = "moved"
    OPENS = "opens"
    CLOSES = "closes"
    FAULT = "fault"
    READY = "ready"


@dataclass(frozen=True, slots=True)
class Point:
    """A parsed point. `subject` is the step, unit, fault or path; `stage` the word at the end; `nth` counts from 1."""

    text: str
    kind: PointKind
    subject: str = ""
    member: str = ""
    stage: str = ""
    nth: int = 1

    def __str__(self) -> str:
        return self.text


class PointSyntaxError(ValueError):
    """The text is not a point; the message says what was expected."""


_NTH = re.compile(r"^(?P<rest>.*?)\s+nth\s+(?P<nth>[1-9][0-9]{0,5})$")
_PATTERNS: tuple[tuple[PointKind, re.Pattern[str]], ...] = (
    (PointKind.READY, re.compile(r"^driver ready$")),
    (PointKind.FAULT, re.compile(r"^fault (?P<subject>[\w.-]+) fired$")),
    (PointKind.CGROUP, re.compile(r"^cgroup (?P<stage>made|removed):\s*(?P<subject>[\w,=.-]+/\S+)$")),
    (PointKind.MOVED, re.compile(r"^process moved: (?P<member>[\w.-]+) to (?P<subject>[\w,=.-]+/\S*)$")),
    (PointKind.OPENS, re.compile(r"^driver opens:\s*(?P<subject>[\w,=.-]+/\S+)$")),
    (PointKind.CLOSES, re.compile(r"^driver closes:\s*(?P<subject>calls|signals)$")),
    (PointKind.JOB, re.compile(r"^job of (?P<subject>\S+) (?P<stage>queued|blocked|started|ended)$")),
    (
        PointKind.REPLY,
        re.compile(r"^reply to (?P<member>[A-Z]\w*)(?: of (?P<subject>\S+))?(?: (?P<stage>seen|sent|delivered))?$"),
    ),
    (
        PointKind.MESSAGE,
        re.compile(r"^(?P<member>[A-Z]\w*)(?: of (?P<subject>\S+))?(?: (?P<stage>seen|sent|delivered))?$"),
    ),
    (PointKind.STEP, re.compile(r"^(?:step )?(?P<subject>[a-z][\w-]*) (?P<stage>called|returned|failed|ended|waits)$")),
)
EXPECTED = (
    "expected one of: '<step> called|returned|failed|ended|waits', '<Member> of <unit> seen|sent|delivered', "
    "'reply to <Member> of <unit> ...', 'job of <unit> queued|blocked|started|ended', "
    "'cgroup made|removed: <hierarchy>/<path>', 'process moved: <name> to <hierarchy>/<path>', 'driver opens: <hierarchy>/<path>', "
    "'driver closes: calls|signals', 'fault <id> fired', 'driver ready'"
)


def parse_point(text: str) -> Point:
    """Read a point from a scenario; PointSyntaxError says what was expected."""
    rest, nth = text.strip(), 1
    if counted := _NTH.match(rest):
        rest, nth = counted["rest"], int(counted["nth"])
    for kind, pattern in _PATTERNS:
        if found := pattern.match(rest):
            parts = {key: value or "" for key, value in found.groupdict().items()}
            if kind in (PointKind.MESSAGE, PointKind.REPLY) and not parts["stage"]:
                parts["stage"] = "delivered"
            return Point(text=text.strip(), kind=kind, nth=nth, **parts)
    raise PointSyntaxError(f"'{text}' is not a point; {EXPECTED}")


class PointWatch:
    """Counts events against points. Feed it every event after `arm`; ask which points an event completes.

    It remembers messages by id, because sent and delivered name only that.
    """

    def __init__(self) -> None:
        self._messages: dict[int, MessageSeen] = {}
        self._counts: dict[Point, int] = {}
        self._waiting: list[Point] = []
        self.reached: set[Point] = set()

    def add(self, point: Point) -> None:
        """Count events for this point from now on."""
        if point not in self._counts:
            self._counts[point] = 0
            self._waiting.append(point)

    def feed(self, event: Event, armed: bool = True) -> list[Point]:
        """The points that this event completes, in order of `add`."""
        if isinstance(event, MessageSeen):
            self._messages[event.message] = event
        if not armed:
            return []
        done = []
        for point in self._waiting:
            if self._matches(point, event):
                self._counts[point] += 1
                if self._counts[point] >= point.nth:
                    done.append(point)
        if done:
            self._waiting = [point for point in self._waiting if point not in done]
            self.reached.update(done)
        return done

    def message(self, number: int) -> MessageSeen | None:
        """The message of that id."""
        return self._messages.get(number)

    def _matches(self, point: Point, event: Event) -> bool:
        match point.kind:
            case PointKind.STEP:
                return _step_matches(point, event)
            case PointKind.MESSAGE | PointKind.REPLY:
                return self._message_matches(point, event)
            case PointKind.JOB:
                return isinstance(event, ev.JobChanged) and (event.unit, event.state) == (point.subject, point.stage)
            case PointKind.CGROUP:
                wanted = ev.CgroupMade if point.stage == "made" else ev.CgroupRemoved
                return isinstance(event, wanted) and event.hierarchy + event.path == point.subject
            case PointKind.MOVED:
                return (
                    isinstance(event, ev.ProcessMoved)
                    and event.process == point.member
                    and event.hierarchy + event.path == point.subject
                )
            case PointKind.OPENS:
                return isinstance(event, ev.DriverOpens) and event.hierarchy + event.path == point.subject
            case PointKind.CLOSES:
                return isinstance(event, ev.DriverCloses) and event.connection == point.subject
            case PointKind.FAULT:
                return isinstance(event, ev.FaultFired) and event.fault == point.subject
            case PointKind.READY:
                return isinstance(event, ev.DriverReady)

    def _message_matches(self, point: Point, event: Event) -> bool:
        if isinstance(event, MessageSeen):
            message, stage = event, "seen"
        elif isinstance(event, ev.MessageSent | ev.MessageTaken):
            known = self._messages.get(event.message)
            if known is None:
                return False
            message, stage = known, "sent" if isinstance(event, ev.MessageSent) else "delivered"
        else:
            return False
        wanted = point.stage
        if message.direction is Direction.TO_SYSTEMD and wanted == "delivered":
            wanted = "sent"
        answers = message.kind in ("reply", "error")
        return (
            not message.probe
            and stage == wanted
            and answers == (point.kind is PointKind.REPLY)
            and message.member == point.member
            and point.subject in ("", message.unit)
        )


def _step_matches(point: Point, event: Event) -> bool:
    match event:
        case ev.StepCalled(step=step):
            return step == point.subject and point.stage == "called"
        case ev.StepReturned(step=step, error=error):
            stages = ("ended", "failed") if error else ("ended", "returned")
            return step == point.subject and point.stage in stages
        case ev.StepWaits(step=step):
            return step == point.subject and point.stage == "waits"
    return False
