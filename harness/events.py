"""What a trace is made of: one frozen record for each thing that a witness saw.

Rules of this file: values only, no I/O. Units are last in names. Cgroup paths are relative to the run's own cgroup root
and start with "/"; a `hierarchy` is its mount's name ("devices", "cpu,cpuacct", "systemd" for name=systemd, "unified"
for cgroup v2). Pids are those that the driver sees (inner) unless a name ends in `_outer`. Messages have ids of their
own (1, 2, ... in order of arrival at the relay), because serials are per connection.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import ClassVar

RAW_BYTES_MAX = 4096
"""How much of a message a trace keeps: all of what drivers and systemd say, and the head of what a fault makes huge."""


class Direction(StrEnum):
    """Which way a message goes."""

    TO_SYSTEMD = "to-systemd"
    TO_DRIVER = "to-driver"


class Actor(StrEnum):
    """Who did something to the cgroup tree."""

    DRIVER = "driver"
    SYSTEMD = "systemd"
    WORKLOAD = "workload"
    CGRACE = "cgrace"  # a fault of the scenario, or our own set-up and teardown
    OTHER = "other"


class Grade(StrEnum):
    """How far from what nature does (design.md): ordered natural < legal < impossible."""

    NATURAL = "natural"
    LEGAL = "legal"
    IMPOSSIBLE = "impossible"


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """One thing seen. Subclasses set `KIND`, the word that names them in a stored trace."""

    KIND: ClassVar[str] = ""


# ---- the driver's processes


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessStarted(Event):
    """`role` is "driver" or "workload"; `process` is the name that the scenario gives it."""

    KIND: ClassVar[str] = "process-started"
    process: str
    role: str
    pid: int
    pid_outer: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessExited(Event):
    """`status` as waitpid gives it, decoded: >= 0 exit code, < 0 minus the signal."""

    KIND: ClassVar[str] = "process-exited"
    process: str
    status: int
    expected: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class DriverReady(Event):
    """The shim's hello: its own start-up probes are over, faults and counts arm now."""

    KIND: ClassVar[str] = "driver-ready"
    process: str
    ok: bool
    error: str = ""
    conclusions: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class DriverSaid(Event):
    """A line of the driver's stderr, or (`babble`) a line of stdout that is not the shim protocol."""

    KIND: ClassVar[str] = "driver-said"
    process: str
    text: str
    babble: bool = False


# ---- steps


@dataclass(frozen=True, slots=True, kw_only=True)
class StepCalled(Event):
    """A step was asked of a driver. `workload` is the named process that it places, or "" for pid -1."""

    KIND: ClassVar[str] = "step-called"
    step: str
    process: str
    op: str
    unit: str
    workload: str = ""
    pid: int = -1


@dataclass(frozen=True, slots=True, kw_only=True)
class StepReturned(Event):
    """The step ended: returned (`error` is "") or failed. `driver_ns` is the shim's own measure.

    `paths` are (hierarchy, path) pairs that the driver reports for the unit, in the driver's namespace.
    """

    KIND: ClassVar[str] = "step-returned"
    step: str
    error: str = ""
    driver_ns: int = 0
    paths: tuple[tuple[str, str], ...] = ()
    value: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class StepNever(Event):
    """The run ended while the step was still out: indeterminate. `why` says what ended the run."""

    KIND: ClassVar[str] = "step-never"
    step: str
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class OrderWaived(Event):
    """A step does not wait for this point, because with this driver it cannot come; `why` says so."""

    KIND: ClassVar[str] = "order-waived"
    step: str
    point: str
    why: str


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


# ---- the kernel


@dataclass(frozen=True, slots=True, kw_only=True)
class CgroupMade(Event):
    """A cgroup directory was made. `via` is the witness: "tracefs" or "inotify" (then `by` is OTHER)."""

    KIND: ClassVar[str] = "cgroup-made"
    hierarchy: str
    path: str
    by: Actor
    via: str = "tracefs"


@dataclass(frozen=True, slots=True, kw_only=True)
class CgroupRemoved(Event):
    """A cgroup directory was removed."""

    KIND: ClassVar[str] = "cgroup-removed"
    hierarchy: str
    path: str
    by: Actor
    via: str = "tracefs"


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessMoved(Event):
    """A process was put into the cgroup `path`. `process` is its name in the scenario, or "" with only the pid known."""

    KIND: ClassVar[str] = "process-moved"
    hierarchy: str
    path: str
    process: str
    pid: int
    by: Actor
    via: str = "tracefs"


@dataclass(frozen=True, slots=True, kw_only=True)
class DriverAsks(Event):
    """A driver's thread asks the kernel, seen where a scenario holds or names that. `hold` keeps it back to its HoldLetGo."""

    process: str
    hold: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class DriverOpens(DriverAsks):
    """To open a cgroup's `file` ("cgroup.procs" or "tasks") for writing."""

    KIND: ClassVar[str] = "driver-opens"
    hierarchy: str
    path: str
    file: str


@dataclass(frozen=True, slots=True, kw_only=True)
class DriverCloses(DriverAsks):
    """To close one of its bus connections, "calls" or "signals"."""

    KIND: ClassVar[str] = "driver-closes"
    connection: str


@dataclass(frozen=True, slots=True, kw_only=True)
class WitnessLost(Event):
    """A witness could not keep up and lost `count` events (0: an unknown number): what it did not see, nobody can judge."""

    KIND: ClassVar[str] = "witness-lost"
    witness: str
    count: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class CgroupSeen(Event):
    """A look at one path that a returned step reported, while all jobs it started had ended and the bus was idle.

    `inside` says whether the step's process is in exactly that cgroup (None for a step without a process), `actual` the
    cgroup that it is in instead.
    """

    KIND: ClassVar[str] = "cgroup-seen"
    step: str
    hierarchy: str
    path: str
    exists: bool
    inside: bool | None = None
    actual: str = ""


# ---- waits


@dataclass(frozen=True, slots=True, kw_only=True)
class ThreadWait:
    """What one thread of a driver waits in. `bound_ns` is the wait's own limit (None: without limit). `where` is the system call
    in words: "futex", "epoll_pwait", "read of an empty pipe" ... `ignored` says why the thread does not count (Go's sysmon), if so.
    """

    tid: int
    where: str
    bound_ns: int | None
    switches: int
    ignored: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class DriverWaits(Event):
    """All threads of the process were asleep at one instant. `bound_ns` is the least limit of their waits (None: none)."""

    KIND: ClassVar[str] = "driver-waits"
    process: str
    bound_ns: int | None
    threads: tuple[ThreadWait, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class StepWaits(Event):
    """The step is out and its driver came to rest in it: `bound_ns` is the driver's own limit (None: without limit)."""

    KIND: ClassVar[str] = "step-waits"
    step: str
    bound_ns: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class StepWatched(Event):
    """Recorded before a step's return: at its longest, `gap_ns` passed between two looks at its driver while it was out.

    So a wait of the driver's own that was longer than that was seen (StepWaits), and what was not seen was no such wait.
    stall_ns: the longest in which our own watcher did not come to run; it runs on, and does not look, while systemd is busy.
    -1: not told.
    """

    KIND: ClassVar[str] = "step-watched"
    step: str
    looks: int
    gap_ns: int
    stall_ns: int = -1


@dataclass(frozen=True, slots=True, kw_only=True)
class WorldClosed(Event):
    """The look that a proof rests on: who could still wake this process?

    `unaccounted` names every descriptor, child or peer for which we cannot speak (empty: the world is closed);
    `bytes_in` what it sent and we have not read, `bytes_out` what we sent and it has not; `holds` and `jobs` what is still
    kept back or queued; `quiet_ns` how long the same threads had been seen asleep without a context switch; `children` in what
    the driver's child processes wait, in words.
    """

    KIND: ClassVar[str] = "world-closed"
    process: str
    bound_ns: int | None
    bytes_in: int
    bytes_out: int
    holds: tuple[str, ...] = ()
    jobs: tuple[str, ...] = ()
    unaccounted: tuple[str, ...] = ()
    threads: tuple[ThreadWait, ...] = ()
    quiet_ns: int = 0
    children: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Stacks(Event):
    """The driver's goroutine dump, as its runtime printed it."""

    KIND: ClassVar[str] = "stacks"
    process: str
    text: str


# ---- the end


@dataclass(frozen=True, slots=True, kw_only=True)
class Leftover(Event):
    """Something was still there at the end. `kind`: "unit", "cgroup", "process", "match rule"; "freeze", "thaw": this
    cgroup is frozen though nobody asked for it, or is not though somebody did."""

    KIND: ClassVar[str] = "leftover"
    kind: str
    name: str
    step: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunEnded(Event):
    """`why`: "complete" (every step ended), "proved" (a hang was proved, nothing more can happen), "own wait" (a driver's
    own timed wait was longer than the scenario's patience and was not waited out), "bound" (the wall-clock backstop),
    "driver died", "unmet order", "error" or "interrupted". `text` tells more.
    """

    KIND: ClassVar[str] = "run-ended"
    why: str
    text: str = ""
    details: tuple[str, ...] = field(default=())
