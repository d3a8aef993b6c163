"""Target `fake`: namespaces and a cgroup subtree on this machine, for as many runs at once as one likes.

Making and ending a sandbox costs more than a run, so both happen beside the runs: a few cells are kept warm, one that its
run left pristine serves again, and the others end in the background, awaited when the target closes.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import itertools
import os
import shutil
import tempfile
from collections import deque
from collections.abc import AsyncIterator, Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, ClassVar, Final

from cgrace.harness.clock import now_ns
from cgrace.harness.errors import CgraceError, TargetError
from cgrace.harness.targets import owner
from cgrace.harness.targets.cell import Cell
from cgrace.harness.targets.control import build_init
from cgrace.harness.targets.sandbox import FakeSandbox
from cgrace.harness.targets.subtree import Subtree
from cgrace.harness.targets.sweep import record_owner, sweep

WARM: Final = 2  # cells kept ready for each layout
IDLE_MAX: Final = 16  # cells kept for reuse for each layout
_THREADS: Final = 2


class FakeTarget:
    """The sandboxes of this cgrace process. At most one is open at a time: what it makes carries the process's name.

    Made by `FakeTarget.open`. runtime_dir: a private directory (0700) of this process below $TMPDIR.
    """

    _current: ClassVar[FakeTarget | None] = None

    def __init__(self, init: Path, runtime_dir: Path) -> None:
        self.runtime_dir = runtime_dir
        self.init = init
        self.executor = ThreadPoolExecutor(_THREADS, "cgrace-sandbox")
        self.runs = itertools.count(1)
        self._subtrees: list[Subtree] = []
        self._pools: dict[str, _Pool] = {}
        self._lock: int | None = None

    @classmethod
    @contextlib.asynccontextmanager
    async def open(cls, layouts: Sequence[str] = ("v1",), *, warm: int = WARM) -> AsyncIterator[FakeTarget]:
        """Sweep, make this process's cgroups for the layouts ("v1", "v2") and warm `warm` sandboxes of each.

        TargetError where the machine cannot; then, and when the block ends, however it ends, nothing is left.
        """
        if FakeTarget._current is not None:
            raise TargetError("target fake is already open in this process", hint="share the one FakeTarget")
        if os.geteuid() != 0:
            raise TargetError(
                "target fake makes cgroups and namespaces, which takes root (CAP_SYS_ADMIN)",
                hint="sudo cgrace ..., or a container with --privileged --cgroupns=private",
            )
        init = await build_init()
        FakeTarget._current = target = cls(init, Path(tempfile.gettempdir(), owner.own_name()))
        failure: BaseException | None = None
        try:
            await target._set_up(layouts)
            async with asyncio.TaskGroup() as tasks:
                for subtree in target._subtrees:
                    target._pools[subtree.layout] = _Pool(target, subtree, tasks, warm)
                try:
                    yield target
                except BaseException as error:  # raised again below: the group would wrap it in one of its own
                    failure = error
                finally:
                    for pool in target._pools.values():
                        pool.close()
        finally:
            FakeTarget._current = None
            await target._tear_down(failure)
        if failure is not None:
            raise failure

    @contextlib.asynccontextmanager
    async def sandbox(self, layout: str = "v1") -> AsyncIterator[FakeSandbox]:
        """A sandbox for one run. When the block ends, whatever still runs in it is killed, in the background."""
        pool = self._pools.get(layout)
        if pool is None:
            have = ", ".join(self._pools)
            raise TargetError(f"target fake was opened without layout {layout!r}", hint=f"it has: {have}")
        cell = await pool.take()
        cell.epoch += 1
        try:
            yield FakeSandbox(cell, self.runtime_dir, now_ns())
        finally:
            pool.give_back(cell)

    async def _set_up(self, layouts: Sequence[str]) -> None:
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(self.executor, sweep)
        await loop.run_in_executor(self.executor, self._make_runtime_dir)
        for layout in dict.fromkeys(layouts):
            await loop.run_in_executor(self.executor, self._open_subtree, layout)

    def _make_runtime_dir(self) -> None:
        try:
            self.runtime_dir.mkdir(mode=0o700)
            self._lock = owner.lock(str(self.runtime_dir))
            record_owner(self.runtime_dir)
        except OSError as error:
            raise TargetError(
                f"cannot make the folder for sockets {self.runtime_dir}: {error.strerror}",
                hint="set TMPDIR to a directory that you may write, with room in it",
            ) from error

    def _open_subtree(self, layout: str) -> None:
        # In the thread: the subtree is known even when the caller was cancelled while it waited.
        self._subtrees.append(Subtree.open(layout, owner.own_name()))

    async def _tear_down(self, failure: BaseException | None) -> None:
        """End every cell that is left, remove every directory. Runs whole: when we are cancelled meanwhile, the event
        loop's end waits for the thread. What cannot be removed is raised, or noted on the failure that came first."""
        for pool in self._pools.values():
            pool.abandon()
        try:
            await asyncio.shield(asyncio.to_thread(self._remove_all))
        except CgraceError as error:
            if failure is None:
                raise
            failure.add_note(str(error))

    def _remove_all(self) -> None:
        self.executor.shutdown(wait=True)  # nothing is being made any more
        with contextlib.ExitStack() as last:
            if self._lock is not None:
                last.callback(os.close, self._lock)
                last.callback(shutil.rmtree, self.runtime_dir, ignore_errors=True)
            for pool in self._pools.values():
                last.callback(pool.reap)
            for subtree in self._subtrees:
                last.callback(subtree.close)


class _Pool:
    """The cells of one layout. Making and ending are tasks of the target; a run only takes and gives back.

    Invariant: `_cells` holds every cell whose `end` has not been completed.
    """

    def __init__(self, target: FakeTarget, subtree: Subtree, tasks: asyncio.TaskGroup, warm: int) -> None:
        self._target = target
        self._subtree = subtree
        self._tasks = tasks
        self._warm = warm
        self._idle: deque[Cell] = deque()
        self._waiting: deque[asyncio.Future[Cell]] = deque()
        self._cells: set[Cell] = set()
        self._making = 0
        self._settling = 0
        self._closed = False
        self._top_up()

    async def take(self) -> Cell:
        """A cell for one run: an idle one, else the next that is ready."""
        if self._idle:
            cell = self._idle.popleft()
            self._top_up()
            return cell
        waiter: asyncio.Future[Cell] = asyncio.get_running_loop().create_future()
        self._waiting.append(waiter)
        self._top_up()
        try:
            return await waiter
        except asyncio.CancelledError:
            if waiter.done() and not waiter.cancelled() and waiter.exception() is None:
                self._hand_out(waiter.result())
            raise

    def give_back(self, cell: Cell) -> None:
        """Take a cell back from its run; it serves again when it settles, else it ends."""
        self._settling += 1
        self._start(self._settle(cell))

    def close(self) -> None:
        """Make no more cells, and end those that nobody uses."""
        self._closed = True
        while self._idle:
            self._start(self._end(self._idle.popleft()))

    def abandon(self) -> None:
        """Let go of every cell at once: their processes die, `Subtree.close` removes the rest."""
        for cell in self._cells:
            cell.abandon()

    def reap(self) -> None:
        """After `abandon`, once the cgroups are gone: reap what is left of the cells. Blocks."""
        for cell in self._cells:
            cell.reap()
        self._cells.clear()

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        try:
            self._tasks.create_task(work)
        except RuntimeError:  # the group is ending: `abandon` will deal with the cell
            work.close()

    def _top_up(self) -> None:
        """Have enough cells on their way for those who wait, and `warm` to spare."""
        coming = len(self._idle) + self._making + self._settling
        wanted = len(self._waiting) + self._warm
        for _ in range(0 if self._closed else max(0, wanted - coming)):
            self._making += 1
            self._start(self._make())

    async def _make(self) -> None:
        cell = Cell(self._subtree, f"r{next(self._target.runs)}", self._target.executor)
        self._cells.add(cell)
        try:
            await cell.make(self._target.init, (self._target.runtime_dir,))
        except (CgraceError, OSError) as error:
            self._making -= 1
            if self._waiting and not (waiter := self._waiting.popleft()).done():
                waiter.set_exception(_as_told(error))
            await self._end(cell)
        else:
            self._making -= 1
            self._hand_out(cell)

    async def _settle(self, cell: Cell) -> None:
        try:
            pristine = await cell.settle()
        finally:
            self._settling -= 1
        if pristine and not self._closed and len(self._idle) < IDLE_MAX:
            self._hand_out(cell)
            return
        self._top_up()
        await self._end(cell)

    def _hand_out(self, cell: Cell) -> None:
        while self._waiting:
            if not (waiter := self._waiting.popleft()).done():
                waiter.set_result(cell)
                return
        if self._closed:
            self._start(self._end(cell))
        else:
            self._idle.append(cell)

    async def _end(self, cell: Cell) -> None:
        # What stays is tried again when the target closes, and reported then.
        with contextlib.suppress(CgraceError, OSError):
            await cell.end()
            self._cells.discard(cell)


def _as_told(error: CgraceError | OSError) -> CgraceError:
    """What the system refused, as a message."""
    if isinstance(error, CgraceError):
        return error
    hint = "ulimit -n 1024" if error.errno == errno.EMFILE else ""
    return TargetError(f"a sandbox cannot be made: {error.strerror or error}", hint=hint)
