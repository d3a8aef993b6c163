"""One set of namespaces with its init and its root in each hierarchy: what a sandbox is made of, and made of again.

A cell is expensive to make and to end (namespaces end after a grace period of the kernel), so one that its run left as it
was may serve the next run. `settle` decides that from evidence: no process but init, no cgroup below the roots, the
roots' settings and init's mounts unchanged. Anything else ends the cell.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import subprocess
from collections.abc import Callable
from concurrent.futures import Executor
from pathlib import Path
from typing import Final, TypeVar

from cgrace.harness.errors import TargetError
from cgrace.harness.proc.handle import ProcessHandle
from cgrace.harness.targets import namespaces
from cgrace.harness.targets.base import Hierarchy
from cgrace.harness.targets.control import Control
from cgrace.harness.targets.removal import processes_in, thaw
from cgrace.harness.targets.stage import start_stage
from cgrace.harness.targets.subtree import Subtree

SETUP_S_MAX: Final = 20.0
SETTLE_S_MAX: Final = 3.0
V2_SCOPE: Final = "init.scope"  # as systemd does it: the root of a v2 tree stays free of processes

T = TypeVar("T")


class Cell:
    """Made by `Cell.make`, ended by `end`. run: the name of its roots ("r1"); hierarchies: see `Sandbox`."""

    def __init__(self, subtree: Subtree, run: str, executor: Executor) -> None:
        self.subtree = subtree
        self.run = run
        self.hierarchies: tuple[Hierarchy, ...] = ()
        self.control: Control | None = None
        self.epoch = 0
        self._executor = executor
        self._stage1: subprocess.Popen[bytes] | None = None
        self._settings: dict[str, str] = {}
        self._mounts = ""

    @property
    def scope(self) -> str:
        """The cgroup below the root in which init and its children start, "" for the root itself."""
        return V2_SCOPE if self.subtree.layout == "v2" else ""

    @property
    def init_pid(self) -> int:
        """The outer pid of init."""
        assert self.control is not None and self.control.init_pid is not None
        return self.control.init_pid

    async def make(self, init: Path, keep: tuple[Path, ...]) -> None:
        """Make the roots and start init in its namespaces. On failure `end` still has to be called."""
        self.hierarchies = await self._blocking(self.subtree.make_run, self.run)
        procs: list[int] = []
        try:
            for hierarchy in self.hierarchies:
                procs.append(os.open(hierarchy.root / "cgroup.procs", os.O_WRONLY | os.O_CLOEXEC))
            self._start(init, procs, keep)
        finally:
            for fd in procs:
                os.close(fd)
        assert self.control is not None and self._stage1 is not None
        try:
            async with asyncio.timeout(SETUP_S_MAX):
                await wait_gone(self._stage1.pid)
                self._stage1.wait()
                await self.control.started
        except TimeoutError:
            raise TargetError(f"a sandbox was not ready within {SETUP_S_MAX:.0f} s") from None
        self._settings, self._mounts = await self._blocking(self._evidence)

    def _start(self, init: Path, procs: list[int], keep: tuple[Path, ...]) -> None:
        config = {
            "cgroups": procs,
            **self.subtree.view(self.hierarchies),
            "scope": self.scope,
            "keep": [str(path) for path in keep],
        }
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.control = Control(ours)
        with theirs:
            self._stage1 = start_stage(init, "stage1", config, theirs, procs, what="the sandbox's init ")

    def _evidence(self) -> tuple[dict[str, str], str]:
        """What must be the same after a run: the roots' settings and init's mounts."""
        mounts = Path(f"/proc/{self.init_pid}/mountinfo").read_text(encoding="utf-8", errors="replace")
        return self.subtree.settings(self.run), mounts

    async def settle(self) -> bool:
        """Kill what the run left, remove its cgroups; True when nothing tells the cell from a new one."""
        assert self.control is not None
        try:
            async with asyncio.timeout(SETTLE_S_MAX):
                await self._blocking(self._thaw)
                await self.control.clear()
                return await self._blocking(self._is_pristine)
        except (TargetError, TimeoutError, OSError):
            return False

    def _is_pristine(self) -> bool:
        self.subtree.empty_run(self.run, self.scope)
        if list(namespaces.descendants(self.init_pid)) != [self.init_pid]:
            return False
        for hierarchy in self.hierarchies:
            if processes_in(str(hierarchy.root)) != {self.init_pid}:
                return False
        return self._evidence() == (self._settings, self._mounts)

    def _thaw(self) -> None:
        for hierarchy in self.hierarchies:
            if hierarchy.is_v2 or "freezer" in hierarchy.controllers:
                thaw(str(hierarchy.root))

    async def end(self) -> None:
        """End init and with it every process, reap, remove the roots. TargetError when something of it stays."""
        self.abandon()
        await self._blocking(self.subtree.remove_run, self.run)
        await self._blocking(self.reap)

    def abandon(self) -> None:
        """Let go without waiting: init dies of it. Whoever removes the subtree then waits for its processes and reaps."""
        if self.control is not None:
            self.control.close()

    def reap(self) -> None:
        """Reap stage 1 and init once they were let go and their cgroups are gone. Blocks."""
        if self.control is None or self._stage1 is None:
            return
        self._stage1.wait()
        self.control.drain(SETTLE_S_MAX)
        if (pid := self.control.init_pid) is not None:
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, 0)

    async def _blocking(self, call: Callable[..., T], *arguments: object) -> T:
        # A thread cannot be stopped: when we are cancelled, it still ends before its result could be missed by anybody.
        return await asyncio.get_running_loop().run_in_executor(self._executor, call, *arguments)


async def wait_gone(pid: int) -> None:
    """Wait until the process (a child of ours, or any) has ended; at once when there is none. Does not reap."""
    try:
        handle = ProcessHandle(pid)
    except ProcessLookupError:
        return
    try:
        await handle.ended()
    finally:
        handle.close()
