"""A run's place on target `fake`: what the engine sees of a cell for as long as the run has it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from cgrace.harness.targets import namespaces
from cgrace.harness.targets.base import Hierarchy, Spawned
from cgrace.harness.targets.cell import Cell


class FakeSandbox:
    """Satisfies `targets.base.Sandbox`. Made by `FakeTarget.sandbox`; of no use once that block has ended.

    epoch: counts the runs of the cell from 1. Runs of one cell share `cgroup_prefix`, one after the other, so what a
    witness saw below it belongs to this run only from `started_ns` (CLOCK_MONOTONIC) on.
    runtime_dir: a private directory, at the same path inside and outside, for the run's sockets; shared by all runs.
    init_pid_outer: the sandbox's PID 1 as cgrace sees it.
    """

    def __init__(self, cell: Cell, runtime_dir: Path, started_ns: int) -> None:
        self.layout: str = cell.subtree.layout
        self.hierarchies: tuple[Hierarchy, ...] = cell.hierarchies
        self.cgroup_prefix: str = f"/{cell.subtree.name}/{cell.run}"
        self.epoch = cell.epoch
        self.run = cell.run
        self.runtime_dir = runtime_dir
        self.started_ns = started_ns
        self.init_pid_outer = cell.init_pid
        self._cell = cell
        self._by_inner: dict[int, Spawned] = {}
        self._by_outer: dict[int, Spawned] = {}

    @property
    def ended(self) -> bool:
        """Whether its init is gone, and with it all that ran inside."""
        return self._cell.control is None or self._cell.control.closed

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

        argv ("workload",) is a process that waits until it is killed. Otherwise argv[0] is an absolute path. The child
        leads a session of its own. `role` is the caller's word for it ("driver", "workload"): nothing here depends on it.
        listener, closes: see `targets.base.Sandbox`.
        """
        control = self._cell.control
        assert control is not None
        descriptors = (stdin, stdout, stderr) if listener is None else (stdin, stdout, stderr, listener)
        inner, outer = await control.spawn(name, argv, env, descriptors=descriptors, on_exit=on_exit, closes=closes)
        spawned = Spawned(name=name, pid=inner, pid_outer=outer)
        self._by_inner[inner] = self._by_outer[outer] = spawned
        return spawned

    def signal(self, pid: int, number: int) -> None:
        """Send a signal to an inner pid (no error when it is gone)."""
        assert self._cell.control is not None
        self._cell.control.signal(pid, number)

    def outer(self, pid: int) -> int | None:
        """The pid as cgrace sees it, None when there is no such process. A spawned one keeps its pid after its death."""
        if pid == 1:
            return self.init_pid_outer
        if (spawned := self._by_inner.get(pid)) is not None:
            return spawned.pid_outer
        return namespaces.outer_pid(pid, self.init_pid_outer)

    def inner(self, pid_outer: int) -> int | None:
        """The pid that the driver sees, of a process or of the process of a thread; None for one from elsewhere."""
        if pid_outer == self.init_pid_outer:
            return 1
        if (spawned := self._by_outer.get(pid_outer)) is not None:
            return spawned.pid
        return namespaces.inner_pid(pid_outer, self.init_pid_outer)

    def name_of(self, pid: int) -> str:
        """The name of a spawned process by inner pid, "" when it is not one of ours."""
        spawned = self._by_inner.get(pid)
        return spawned.name if spawned is not None else ""
