"""A booted machine with a real systemd, and a run's place on it: what the engine sees of them.

The driver and its workloads live in the machine's pid, cgroup, ipc and uts namespaces, so that its systemd knows their pids.
Their files and their network are those of cgrace itself, with the machine's /proc and /sys/fs/cgroup, and a /run/systemd that has
`system/` and nothing else. So a driver and the relay's socket have the same path inside and outside, and a user's own build finds
its libraries.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from cgrace.harness.targets import namespaces
from cgrace.harness.targets.base import Hierarchy
from cgrace.harness.targets.joined import Joined
from cgrace.harness.targets.served import Served


class Machine(Protocol):
    """A machine whose systemd is real and runs on this kernel (targets/container.py, targets/host.py).

    version: what its systemd calls itself ("257.9-1~deb13u1"). init_pid: its PID 1 as cgrace sees it. bus_path: its system bus's
    socket as cgrace can connect to it. ended: done when its PID 1 is gone.
    """

    layout: str
    version: str
    hierarchies: tuple[Hierarchy, ...]
    cgroup_prefix: str
    runtime_dir: Path

    @property
    def init_pid(self) -> int:
        """Its PID 1 as cgrace sees it."""
        ...

    @property
    def bus_path(self) -> str:
        """Its system bus's socket."""
        ...

    @property
    def ended(self) -> asyncio.Future[None]:
        """Done when its PID 1 is gone."""
        ...

    def console_tail(self, lines: int = 20) -> str:
        """The last lines of its console, "" where it has none."""
        ...


class MachineSandbox(Served):
    """Satisfies `targets.base.Sandbox` on a machine. Made by `ContainerTarget.sandbox` and `ContainerPool.sandbox`; of no use
    once that block has ended.

    machine: where it is. epoch: counts the runs of the machine from 1; runs of one machine share `cgroup_prefix`, one after the
    other, so what a witness saw below it belongs to this run only from `started_ns` (CLOCK_MONOTONIC) on. run: a name for the
    run's sockets in `runtime_dir`, a private directory that is at the same path inside and outside. init_pid_outer: the process
    whose descendants the run's processes are, orphans too; it is the parent of what `spawn` starts, and not the machine's PID 1.
    uses_session_bus: whether drivers are to ask a user's systemd, on a user's bus.
    """

    uses_session_bus = False

    def __init__(self, machine: Machine, joined: Joined, *, epoch: int, started_ns: int) -> None:
        super().__init__(joined.control)
        self.machine = machine
        self.layout: str = machine.layout
        self.hierarchies: tuple[Hierarchy, ...] = machine.hierarchies
        self.cgroup_prefix: str = machine.cgroup_prefix
        self.epoch = epoch
        self.run = f"m{epoch}"
        self.runtime_dir = machine.runtime_dir
        self.started_ns = started_ns
        self.init_pid_outer = joined.pid

    @property
    def ended(self) -> bool:
        """Whether the place is gone: the machine's PID 1 has ended, or the parent of the run's processes."""
        return self._control.closed or self.machine.ended.done()

    @property
    def dropins(self) -> Path:
        """Where a unit of the machine's can be given a setting before it is there (systemd.unit(5), the runtime folder)."""
        return Path(f"/proc/{self.machine.init_pid}/root/run/systemd/system")

    @property
    def is_outside(self) -> bool:
        """Whether the machine has a pid namespace of its own, in which cgrace's processes have no pid."""
        return not namespaces.in_namespace_of(os.getpid(), self.machine.init_pid)

    def dial(self, sock: socket.socket, told: Callable[[int], None]) -> None:
        """Connect a socket to the machine's bus as one of its own processes: the bus takes down who connects (SO_PEERCRED), and
        systemd asks it for that pid. told: gets 0 or an errno, later. OSError and TargetError where that is known at once."""
        path = os.open(self.machine.bus_path, os.O_PATH | os.O_CLOEXEC)
        try:
            self._control.connect(sock.fileno(), path, told)
        finally:
            os.close(path)

    def outer(self, pid: int) -> int | None:
        """The pid as cgrace sees it of any process of the machine, None when there is none. A spawned one keeps its pid after
        its death."""
        if pid == 1:
            return self.machine.init_pid
        if (spawned := self._by_inner.get(pid)) is not None:
            return spawned.pid_outer
        # The run's processes descend from a process that came from outside, so they are no descendants of PID 1.
        for top in (self.init_pid_outer, self.machine.init_pid):
            if (found := namespaces.outer_pid(pid, top)) is not None:
                return found
        return None

    def inner(self, pid_outer: int) -> int | None:
        """The pid inside of a process, or of the process of a thread; None for one from elsewhere."""
        if pid_outer == self.machine.init_pid:
            return 1
        if (spawned := self._by_outer.get(pid_outer)) is not None:
            return spawned.pid
        return namespaces.inner_pid(pid_outer, self.machine.init_pid)
