"""What the kernel sees, and what stands in it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from cgrace.harness.events.base import Actor, Event


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
