"""What happens on the wire, and what systemd says of itself."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from cgrace.harness.events.base import Actor, Direction, Event, Grade

# ---- the wire


@dataclass(frozen=True, slots=True, kw_only=True)
class Connected(Event):
    """A driver opened a connection to the relay. `connection` counts from 1 in order of accept."""

    KIND: ClassVar[str] = "connected"
    connection: int
    process: str
    unique_name: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Disconnected(Event):
    """A connection ended. `by` says who closed it; `why` is what was wrong with it, if anything."""

    KIND: ClassVar[str] = "disconnected"
    connection: int
    by: Actor
    why: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class MessageSeen(Event):
    """A message arrived at the relay (or was made by a fault: `origin` is "fault").

    `kind` is "call", "reply", "error" or "signal". `member` of a reply or error is that of the call that it answers.
    `unit` is the unit it is about, where it is about one ("" otherwise); `job` the job's path; `result` a JobRemoved's.
    `name` is an error's name and `text` its text, or a short rendering of the body. `probe` marks what a driver does
    before its hello. `raw` is the message's first bytes in base64 ("" where nobody kept them), at most RAW_BYTES_MAX of `size`.
    """

    KIND: ClassVar[str] = "message-seen"
    message: int
    connection: int
    direction: Direction
    kind: str
    member: str
    unit: str = ""
    job: str = ""
    result: str = ""
    name: str = ""
    text: str = ""
    interface: str = ""
    path: str = ""
    sender: str = ""
    serial: int = 0
    reply_serial: int = 0
    size: int = 0
    fds: int = 0
    origin: str = "peer"
    probe: bool = False
    raw: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class MessageHeld(Event):
    """`hold` keeps the message back. `behind` is set where it only waits for an earlier one of its connection."""

    KIND: ClassVar[str] = "message-held"
    message: int
    hold: str
    behind: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class HoldLetGo(Event):
    """A hold (of a message, a job, or a call to the kernel) let go: `why` is "point", "patience" or "end" (the run ended);
    `cause` tells more."""

    KIND: ClassVar[str] = "hold-let-go"
    hold: str
    why: str
    cause: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class MessageSent(Event):
    """The relay wrote the message to its receiver."""

    KIND: ClassVar[str] = "message-sent"
    message: int


@dataclass(frozen=True, slots=True, kw_only=True)
class MessageTaken(Event):
    """The driver has read the message and come to rest: nothing is left in its sockets and all its threads wait."""

    KIND: ClassVar[str] = "message-taken"
    message: int


@dataclass(frozen=True, slots=True, kw_only=True)
class MessageDropped(Event):
    """The message will never be delivered; `fault` says why."""

    KIND: ClassVar[str] = "message-dropped"
    message: int
    fault: str


@dataclass(frozen=True, slots=True, kw_only=True)
class FaultFired(Event):
    """A fault of the scenario acted. `what` is one clause for people."""

    KIND: ClassVar[str] = "fault-fired"
    fault: str
    grade: Grade
    what: str
    message: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class MatchRule(Event):
    """A driver added or removed a match rule on a connection."""

    KIND: ClassVar[str] = "match-rule"
    connection: int
    rule: str
    added: bool


# ---- systemd


@dataclass(frozen=True, slots=True, kw_only=True)
class JobChanged(Event):
    """`state` is "queued", "blocked" (a fault keeps it), "started" or "ended" (then `result` is set)."""

    KIND: ClassVar[str] = "job-changed"
    job: str
    unit: str
    type: str
    state: str
    result: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class UnitChanged(Event):
    """A unit's ActiveState changed ("gone" when it was collected)."""

    KIND: ClassVar[str] = "unit-changed"
    unit: str
    state: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SystemdSaid(Event):
    """One line of systemd's log."""

    KIND: ClassVar[str] = "systemd-said"
    text: str
    unit: str = ""
