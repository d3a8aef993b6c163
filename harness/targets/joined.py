"""A process of ours inside a booted machine's namespaces, which starts what a run needs there (go/init, stage "join").

It is a child of cgrace and a member of the machine's pid namespace: the machine's systemd sees it and what it starts under pids
that mean something to it. It is subreaper of all that it starts, so that nothing of a run gets lost to the machine's PID 1. With
cgrace, with its control socket or with the machine it ends, and on its end it takes along what it started.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from cgrace.harness.errors import TargetError
from cgrace.harness.proc.handle import ProcessHandle
from cgrace.harness.targets.base import Hierarchy
from cgrace.harness.targets.cell import wait_gone
from cgrace.harness.targets.control import Control
from cgrace.harness.targets.stage import start_stage

JOIN_S_MAX: Final = 20.0
END_S_MAX: Final = 3.0
# Which of the machine's to enter. The mount namespace is a copy of cgrace's own (machine.py says why). So is the network's: only
# there the kernel tells who is at the other end of a driver's socket (witnesses/sockdiag.py); the bus is a socket with a path.
NAMESPACES: Final = ("cgroup", "ipc", "uts", "pid")
LEAF: Final = "cgrace-run"  # v2: a cgroup of ours beside the units, as the root of the tree must hold no process


class Joined:
    """One such process, in one event loop. `make`, then `control` serves it; `let_go` and `reap` end it, in whatever state it is.

    pid: as cgrace sees it. died: done when it is gone (it is reaped at once: a machine's PID 1 cannot end before).
    """

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self.died: asyncio.Future[None] = self._loop.create_future()
        self.control: Control
        self._stage1: subprocess.Popen[bytes] | None = None
        self._handle: ProcessHandle | None = None
        self._reaped = False

    @property
    def pid(self) -> int:
        """Its pid as cgrace sees it."""
        assert self.control.init_pid is not None
        return self.control.init_pid

    async def make(
        self,
        program: Path,
        hierarchies: Sequence[Hierarchy],
        cgroup_view: dict[str, Any],
        *,
        init_pid: int | None,
        keep: tuple[Path, ...],
    ) -> None:
        """Start it; TargetError when that cannot be. On failure `let_go` and `reap` still have to be called.

        program: the built go/init. cgroup_view: what it mounts (`Subtree.view`). init_pid: whose namespaces to enter, None for
        cgrace's own. keep: directories below /run/systemd or /run that have to stay visible.
        """
        with contextlib.ExitStack() as opened:
            try:
                procs = [_open(opened, seat(hierarchy) / "cgroup.procs", os.O_WRONLY) for hierarchy in hierarchies]
                spaces = [] if init_pid is None else [f"/proc/{init_pid}/ns/{name}" for name in NAMESPACES]
                handles = [_open(opened, Path(space), os.O_RDONLY) for space in spaces]
            except OSError as error:
                raise TargetError(f"the machine cannot be entered: {error.strerror}") from error
            self._start(program, procs, handles, {**cgroup_view, "keep": [str(path) for path in keep]})
        assert self._stage1 is not None
        try:
            async with asyncio.timeout(JOIN_S_MAX):
                await wait_gone(self._stage1.pid)
                self._stage1.wait()
                await self.control.started
        except TimeoutError:
            raise TargetError(f"the machine could not be entered within {JOIN_S_MAX:.0f} s") from None
        finally:
            self._watch()

    def _start(self, program: Path, procs: list[int], spaces: list[int], config: dict[str, Any]) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.control = Control(ours)
        with theirs:
            whole = {**config, "cgroups": procs, "namespaces": spaces}
            self._stage1 = start_stage(program, "join", whole, theirs, [*procs, *spaces])

    def _watch(self) -> None:
        """Reap it as soon as it dies: in a pid namespace whose PID 1 dies, that waits for everybody to be reaped."""
        if self._handle is None and self.control.init_pid is not None:
            self._handle = ProcessHandle(self.control.init_pid)  # ours to reap, so it is there
            self._handle.on_end(self._gone)

    def _gone(self) -> None:
        self._unwatch()
        self._wait()
        self.control.close()
        if not self.died.done():
            self.died.set_result(None)

    def _unwatch(self) -> None:
        if self._handle is not None:
            self._handle.close()

    def _wait(self) -> None:
        if self.control.init_pid is not None and not self._reaped:
            with contextlib.suppress(ChildProcessError):
                os.waitpid(self.control.init_pid, 0)
            self._reaped = True

    def let_go(self) -> None:
        """In the loop's thread, before `reap`: with its control socket it kills what it started, and ends."""
        if self._stage1 is not None:
            self.control.close()
        self._unwatch()

    def reap(self) -> None:
        """Wait for its end, after `let_go`, in whatever state it was. Blocks; whoever froze it has to thaw it first."""
        if self._stage1 is None:
            return
        self._stage1.wait()
        if self._reaped:
            return
        self.control.drain(END_S_MAX)
        if self.control.init_pid is not None:
            os.kill(self.control.init_pid, signal.SIGKILL)  # not reaped yet, so the pid is still its
        self._wait()


def seat(hierarchy: Hierarchy) -> Path:
    """The cgroup for it and for what it starts, until a driver or systemd moves that: the machine's root under v1, and under v2
    a leaf beside the units, as the root of a v2 tree gives controllers away and must hold no process."""
    if not hierarchy.is_v2:
        return hierarchy.root
    leaf = hierarchy.root / LEAF
    leaf.mkdir(exist_ok=True)
    return leaf


def _open(opened: contextlib.ExitStack, path: Path, flags: int) -> int:
    descriptor = os.open(path, flags | os.O_CLOEXEC)
    opened.callback(os.close, descriptor)
    return descriptor
