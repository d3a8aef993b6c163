"""Runs on a machine, one after the other: entering, leaving, and the machine put back in between."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Final

from cgrace.harness.clock import now_ns
from cgrace.harness.errors import TargetError
from cgrace.harness.targets.base import Hierarchy
from cgrace.harness.targets.control import build_init
from cgrace.harness.targets.folder import RuntimeFolder
from cgrace.harness.targets.joined import Joined
from cgrace.harness.targets.machine import MachineSandbox
from cgrace.harness.targets.putback import PutBack

UNDO_S_MAX: Final = 3.0


class MachineRuns(ABC):
    """Satisfies `machine.Machine`; what a target of one machine is made of.

    hierarchies, cgroup_prefix: as of `base.Sandbox`. version: what its systemd calls itself ("257.9-1~deb13u1"). epoch: how many
    runs it has had. undo_s_max: how long each half of undoing a run may take. dirty: what the last run left that could not be
    undone, "" when the machine is as it was before its first.
    """

    def __init__(self, layout: str, runtime_dir: Path) -> None:
        self.layout = layout
        self.runtime_dir = runtime_dir
        self.version = ""
        self.hierarchies: tuple[Hierarchy, ...] = ()
        self.cgroup_prefix = ""
        self.dirty = ""
        self.undo_s_max = UNDO_S_MAX
        self.epoch = 0
        self._folder = RuntimeFolder(runtime_dir)
        self._turn = asyncio.Lock()
        self._joined: Joined | None = None
        self._put_back: PutBack | None = None

    # ---- the machine

    @property
    @abstractmethod
    def init_pid(self) -> int:
        """Its PID 1 as cgrace sees it."""

    @property
    @abstractmethod
    def bus_path(self) -> str:
        """Its system bus's socket."""

    @property
    @abstractmethod
    def ended(self) -> asyncio.Future[None]:
        """Done when its PID 1 is gone."""

    @abstractmethod
    def console_tail(self, lines: int = 20) -> str:
        """The last lines of its console, "" where it has none."""

    @abstractmethod
    def _view(self) -> dict[str, Any]:
        """What a run's processes see of its cgroups (`Subtree.view`); {} for what cgrace itself sees."""

    @abstractmethod
    def _entrance(self) -> tuple[int | None, tuple[Hierarchy, ...]]:
        """Whose namespaces a run's processes enter, None for cgrace's own; and the hierarchies in which they get seats."""

    @abstractmethod
    def _comparison(self) -> PutBack:
        """How what a run did is found and undone."""

    @abstractmethod
    def _wake(self) -> None:
        """Thaw and continue whatever a run may have frozen or stopped. Blocks for a ms."""

    # ---- runs

    @contextlib.asynccontextmanager
    async def sandbox(self) -> AsyncIterator[MachineSandbox]:
        """A place on this machine for one run; a second one waits for the first to end.

        At the block's end whatever the run left is undone: processes, units, jobs, cgroups, runtime unit files. What cannot be is
        said by `dirty`, and nothing is promised to another run then. Reading `dirty` makes sense when no run is in.
        """
        sandbox = await self.enter()
        try:
            yield sandbox
        finally:
            await self.leave()

    async def enter(self) -> MachineSandbox:
        """`sandbox` in two halves: whoever enters has to leave."""
        await self._turn.acquire()
        try:
            joined = await self.prepare()
        except BaseException:
            self._turn.release()
            raise
        self.epoch += 1
        self.dirty = "its run was not undone"
        return self._sandbox(joined)

    def _sandbox(self, joined: Joined) -> MachineSandbox:
        return MachineSandbox(self, joined, epoch=self.epoch, started_ns=now_ns())

    async def leave(self) -> None:
        """Undo what the run did, and let the next one in."""
        try:
            self.dirty = await self._undo()
        finally:
            self._turn.release()

    async def prepare(self) -> Joined:
        """Have the process of ours inside, which serves one run after the other: `enter` is then a matter of microseconds."""
        if self._joined is None or self._joined.control.closed:
            program = await build_init()
            if self._joined is not None:
                self._joined.let_go()
                await asyncio.to_thread(self._joined.reap)
            self._joined = Joined()
            init_pid, seats = self._entrance()
            await self._joined.make(program, seats, self._view(), init_pid=init_pid, keep=(self.runtime_dir,))
        if self._put_back is None:
            self._put_back = self._comparison()
            await self._put_back.look()
        return self._joined

    async def _undo(self) -> str:
        assert self._put_back is not None and self._joined is not None
        if self.ended.done():
            return "its PID 1 ended"
        try:
            async with asyncio.timeout(self.undo_s_max):
                self._wake()
                await self._joined.control.clear()
        except TimeoutError:
            return f"processes of its run live on after {self.undo_s_max:g} s"
        except TargetError as error:
            return error.message
        return await self._put_back.put_back(self.undo_s_max)


def resume(pids: set[int]) -> None:
    """SIGCONT, which does nothing to a process that was not stopped."""
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)
