"""A run's place on target `fake`: what the engine sees of a cell for as long as the run has it."""

from __future__ import annotations

from pathlib import Path

from cgrace.harness.targets import namespaces
from cgrace.harness.targets.base import Hierarchy
from cgrace.harness.targets.cell import Cell
from cgrace.harness.targets.served import Served


class FakeSandbox(Served):
    """Satisfies `targets.base.Sandbox`. Made by `FakeTarget.sandbox`; of no use once that block has ended.

    epoch: counts the runs of the cell from 1. Runs of one cell share `cgroup_prefix`, one after the other, so what a
    witness saw below it belongs to this run only from `started_ns` (CLOCK_MONOTONIC) on.
    runtime_dir: a private directory, at the same path inside and outside, for the run's sockets; shared by all runs.
    init_pid_outer: the sandbox's PID 1 as cgrace sees it.
    """

    def __init__(self, cell: Cell, runtime_dir: Path, started_ns: int) -> None:
        assert cell.control is not None
        super().__init__(cell.control)
        self.layout: str = cell.subtree.layout
        self.hierarchies: tuple[Hierarchy, ...] = cell.hierarchies
        self.cgroup_prefix: str = f"/{cell.subtree.name}/{cell.run}"
        self.epoch = cell.epoch
        self.run = cell.run
        self.runtime_dir = runtime_dir
        self.started_ns = started_ns
        self.init_pid_outer = cell.init_pid

    @property
    def ended(self) -> bool:
        """Whether its init is gone, and with it all that ran inside."""
        return self._control.closed

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
