"""What drivers wait for, and how a run ends."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from cgrace.harness.events.base import Event

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
