"""What a target gives the engine: a place where a driver runs and sees its own cgroup tree."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol


@dataclass(frozen=True, slots=True, kw_only=True)
class Hierarchy:
    """One mounted cgroup hierarchy of a run. name: its mount's name ("devices", "cpu,cpuacct", "systemd", "unified");
    controllers: what it carries (() for name=systemd); root: the run's own root in it, a directory as cgrace sees it (may be a
    /proc/self/fd/N/... path); inner: where the driver sees it mounted ("/sys/fs/cgroup/devices")."""

    name: str
    controllers: tuple[str, ...]
    root: Path
    inner: str

    @property
    def is_v2(self) -> bool:
        """Whether this is the cgroup v2 hierarchy."""
        return self.name == "unified"


@dataclass(frozen=True, slots=True, kw_only=True)
class Spawned:
    """A process that the sandbox started: its pid as the driver sees it and as cgrace does."""

    name: str
    pid: int
    pid_outer: int


class Sandbox(Protocol):
    """Namespaces and a cgroup subtree of one run. An async context manager makes and removes it (targets/fake.py)."""

    layout: str
    hierarchies: tuple[Hierarchy, ...]
    cgroup_prefix: (
        str  # the path of the run's root below each hierarchy's mount, as tracefs prints it: "/cgrace-.../r1"
    )

    async def spawn(
        self,
        name: str,
        argv: Sequence[str],
        *,
        env: Mapping[str, str],
        stdin: int,
        stdout: int,
        stderr: int,
        role: str,
        on_exit: Callable[[int], None],
        listener: int | None = None,
        closes: bool = False,
    ) -> Spawned:
        """Start a child of the sandbox's init with these descriptors; `on_exit` gets its decoded wait status.

        listener: a socket; the child then runs under the filter of targets/notify.py, whose listener comes there. closes: the
        filter stops what it closes, too.
        """
        ...

    def signal(self, pid: int, number: int) -> None:
        """Send a signal to an inner pid (no error when it is gone)."""
        ...

    def outer(self, pid: int) -> int | None:
        """The pid as cgrace sees it, for any process of the sandbox (NSpid), None when there is none."""
        ...

    def inner(self, pid_outer: int) -> int | None:
        """The inverse; also of a thread's id."""
        ...

    def name_of(self, pid: int) -> str:
        """The name of a spawned process by inner pid, "" when it is not one of ours."""
        ...
