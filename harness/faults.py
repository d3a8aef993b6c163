"""What a scenario may do to a run: one frozen record a fault. Values only; who carries a fault out is in its docstring.

Every fault has an `id` (given, or "fault 1", "fault 2", ... in file order) and a grade. `when` is the point at which an
unprompted fault acts. A message fault acts on messages that its Match names.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from cgrace.harness.events import Direction, Grade
from cgrace.harness.points import Point


@dataclass(frozen=True, slots=True, kw_only=True)
class Match:
    """Which messages. kind: "call", "signal" or "answer" (a reply or an error to `member`). nth counts from 1; None: every.

    probe: also what a driver does before its hello (otherwise never).
    """

    text: str
    kind: str
    member: str
    unit: str = ""
    nth: int | None = 1
    probe: bool = False

    @property
    def direction(self) -> Direction:
        """Calls go to systemd, the rest to the driver."""
        return Direction.TO_SYSTEMD if self.kind == "call" else Direction.TO_DRIVER


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """What all faults share."""

    id: str
    line: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Hold(Fault):
    """Relay: keep the message, and all behind it on its connection, until the point (overtake: let others pass).

    Lets go early once the driver's own wait is unlimited or longer than the patience (None: never).
    """

    match: Match
    until: Point
    patience_ns: int | None
    overtake: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Drop(Fault):
    """Relay: the message never arrives."""

    match: Match


@dataclass(frozen=True, slots=True, kw_only=True)
class Duplicate(Fault):
    """Relay: the message arrives twice (a call with a new serial, its extra reply swallowed)."""

    match: Match


@dataclass(frozen=True, slots=True, kw_only=True)
class Reorder(Fault):
    """Relay: the message arrives right after the next other one of its connection and direction."""

    match: Match


@dataclass(frozen=True, slots=True, kw_only=True)
class AnswerError(Fault):
    """Relay: the call is not forwarded, the driver gets this error; on match of an answer, the error replaces it."""

    match: Match
    name: str
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Amend(Fault):
    """Relay: the message arrives with body arguments replaced: {index: value}, same D-Bus types."""

    match: Match
    values: tuple[tuple[int, str | int | bool], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Forge(Fault):
    """Relay: at the point, every driver connection with a matching rule gets this signal. Only JobRemoved and the like:
    `job` is a job's path or "job of UNIT" for the newest one of that unit; `times`: so many of them, one behind the other.
    sender: the unique name of another peer of the bus, "" for systemd itself. Any peer may broadcast it (legal), and who binds
    its rule to systemd's name does not get it."""

    when: Point
    member: str
    unit: str
    job: str
    result: str = "done"
    times: int = 1
    sender: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Disconnect(Fault):
    """Relay: at the point, cut the driver's connections: "calls", "signals" or "all"."""

    when: Point
    which: str = "all"


@dataclass(frozen=True, slots=True, kw_only=True)
class StopReading(Fault):
    """Relay: from the point on read nothing more from the driver, until the other point (None: for ever)."""

    when: Point
    until: Point | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Garbage(Fault):
    """Relay: at the point, send what is not D-Bus: "noise", "half a message", "huge length", "bad endian"; or, with
    "nothing", never answer again."""

    when: Point
    what: str
    which: str = "all"


@dataclass(frozen=True, slots=True, kw_only=True)
class JobStays(Fault):
    """systemd: the unit's job stays queued until the point (None: for ever; job gate); lets go early as a Hold does.

    type: "start" or "stop"; nth counts jobs of that type.
    """

    unit: str
    until: Point | None
    patience_ns: int | None
    nth: int = 1
    type: str = "start"

    @property
    def what(self) -> str:
        """What it does, once it does it."""
        return f"job of {self.unit} stays queued {f'until {self.until}' if self.until else 'for ever'}"


@dataclass(frozen=True, slots=True, kw_only=True)
class HoldCall(Fault):
    """cgrace: a driver's call to the kernel waits until the point.

    It is what a scheduler may do to any process between two system calls. nth: which such call, from 1. It has no patience:
    a driver that we stopped waits for nothing of its own, and a point that cannot come any more is an unmet order.
    """

    until: Point
    nth: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class HoldOpen(HoldCall):
    """The call is: open this cgroup's cgroup.procs or tasks for writing."""

    hierarchy: str
    path: str


@dataclass(frozen=True, slots=True, kw_only=True)
class HoldClose(HoldCall):
    """The call is: close this bus connection, "calls" or "signals"."""

    connection: str


@dataclass(frozen=True, slots=True, kw_only=True)
class JobEnds(Fault):
    """systemd: the unit's job ends with this result and does nothing ("failed", "timeout", "canceled", ...)."""

    unit: str
    result: str
    nth: int = 1
    type: str = "start"

    @property
    def what(self) -> str:
        """What it does, once it does it."""
        return f"job of {self.unit} ends as {self.result}"


@dataclass(frozen=True, slots=True, kw_only=True)
class DeleteCgroup(Fault):
    """cgrace: at the point, remove this directory (and what is below; processes go to the nearest parent)."""

    when: Point
    hierarchy: str
    path: str


@dataclass(frozen=True, slots=True, kw_only=True)
class MoveProcess(Fault):
    """cgrace: at the point, put the named process into this cgroup."""

    when: Point
    process: str
    hierarchy: str
    path: str


@dataclass(frozen=True, slots=True, kw_only=True)
class DisableController(Fault):
    """cgrace: at the point, write "-controller" to subtree_control of this v2 cgroup."""

    when: Point
    controller: str
    path: str


@dataclass(frozen=True, slots=True, kw_only=True)
class FreezeCgroup(Fault):
    """cgrace: at the point freeze (or thaw) this cgroup."""

    when: Point
    path: str
    thaw: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Peer(Fault):
    """At the point do this to a peer. peer: "systemd", "bus", or a driver's or workload's name; do: "pause", "resume",
    "kill", "restart", "reload", "reexec"."""

    when: Point
    peer: str
    do: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """`first` before `second`: whoever would reach `second` too early is held back (a step, a message or a job).

    An order that cannot be met is named and ends the run; it is never waited for without end.
    """

    first: Point
    second: Point
    line: int = 0
    text: str = field(default="")


_GRADES: dict[type[Fault], Grade] = {
    JobStays: Grade.NATURAL,
    HoldOpen: Grade.NATURAL,
    HoldClose: Grade.NATURAL,
    JobEnds: Grade.LEGAL,
    Hold: Grade.LEGAL,
    AnswerError: Grade.LEGAL,
    Disconnect: Grade.LEGAL,
    StopReading: Grade.LEGAL,
    DeleteCgroup: Grade.LEGAL,
    MoveProcess: Grade.LEGAL,
    DisableController: Grade.LEGAL,
    FreezeCgroup: Grade.LEGAL,
    Peer: Grade.NATURAL,
}


def grade(fault: Fault) -> Grade:
    """How far from nature a fault is. What a correct bus cannot do (lose, forge, overtake) is impossible."""
    if isinstance(fault, Hold) and fault.overtake:
        return Grade.IMPOSSIBLE
    if isinstance(fault, Forge) and fault.sender:
        return Grade.LEGAL
    if isinstance(fault, Peer) and fault.do not in ("reload", "reexec"):
        return Grade.LEGAL  # the two that systemd does by itself are natural
    return _GRADES.get(type(fault), Grade.IMPOSSIBLE)
