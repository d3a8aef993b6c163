"""Target `container` for many runs: booted machines of one suite, handed out pristine, replaced when they are not.

Booting takes most of a second, undoing a run some 20 ms, so machines are kept: one that a run left as it was serves the next, one
that is dirty or dead ends in the background while another boots.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from typing import Any, Final

from cgrace.harness.errors import CgraceError, TargetError
from cgrace.harness.targets.container import ContainerTarget
from cgrace.harness.targets.machine import MachineSandbox

MACHINES: Final = 2  # of each layout: runs at once
_TRIES: Final = 2  # a machine may die while nobody uses it


class ContainerPool:
    """The machines of one suite. Made by `ContainerPool.open`; as `FakeTarget`, but its sandboxes are on machines.

    problem: what of an ended machine could not be removed.
    """

    def __init__(
        self, suite: str, machines: int, progress: Callable[[str], None], tasks: asyncio.TaskGroup, booted_by: str = ""
    ) -> None:
        self.suite = suite
        self.booted_by = booted_by
        self.machines = machines
        self.progress = progress
        self._tasks = tasks
        self._shelves: dict[str, _Shelf] = {}
        self.problem: CgraceError | None = None

    @classmethod
    @contextlib.asynccontextmanager
    async def open(
        cls,
        suite: str,
        layouts: Sequence[str] = ("v1",),
        *,
        machines: int = MACHINES,
        booted_by: str = "",
        progress: Callable[[str], None] = lambda _: None,
    ) -> AsyncIterator[ContainerPool]:
        """Machines are booted when they are first asked for, at most `machines` of each layout ("v1", "v2").

        When the block ends, however it ends, nothing is left of any of them.
        """
        failure: BaseException | None = None
        async with asyncio.TaskGroup() as tasks:
            pool = cls(suite, machines, progress, tasks, booted_by)
            for layout in dict.fromkeys(layouts):
                pool._shelves[layout] = _Shelf(pool, layout)
            try:
                yield pool
            except BaseException as error:  # raised again below: the group would wrap it in one of its own
                failure = error
            finally:
                for shelf in pool._shelves.values():
                    shelf.close()
        if failure is None:
            failure = pool.problem
        if failure is not None:
            raise failure

    @contextlib.asynccontextmanager
    async def sandbox(self, layout: str = "v1") -> AsyncIterator[MachineSandbox]:
        """A place on a pristine machine for one run. What the run left is undone in the background, once the block has ended.

        TargetError where no machine can be booted, with the console's last lines.
        """
        shelf = self._shelves.get(layout)
        if shelf is None:
            have = ", ".join(self._shelves)
            raise TargetError(f"target container was opened without layout {layout!r}", hint=f"it has: {have}")
        slot, sandbox = await shelf.take()
        try:
            yield sandbox
        finally:
            shelf.give_back(slot)

    def start(self, work: Coroutine[Any, Any, None]) -> None:
        """A task of the pool's."""
        try:
            self._tasks.create_task(work)
        except RuntimeError:  # the group is ending, and every machine with it
            work.close()


class _Slot:
    """A booted machine, and what ends it."""

    def __init__(self, machine: ContainerTarget) -> None:
        self.machine = machine
        self._dismissed = asyncio.Event()
        machine.ended.add_done_callback(lambda _: self._dismissed.set())

    @property
    def sound(self) -> bool:
        """Whether it may serve a run."""
        return not self.machine.dirty and not self._dismissed.is_set()

    def dismiss(self) -> None:
        """It will serve no more: it ends in the background."""
        self._dismissed.set()

    async def dismissed(self) -> None:
        """Wait for that."""
        await self._dismissed.wait()


class _Shelf:
    """The machines of one layout. A run only takes and gives back; each machine's life is a task of the pool.

    Invariant: `_alive` counts the machines that boot, wait, serve or undo, not those that end.
    """

    def __init__(self, pool: ContainerPool, layout: str) -> None:
        self._pool = pool
        self._layout = layout
        self._idle: deque[_Slot] = deque()
        self._waiting: deque[asyncio.Future[_Slot]] = deque()
        self._slots: set[_Slot] = set()
        self._coming = 0  # machines that boot or undo a run
        self._alive = 0
        self._closed = False

    async def take(self) -> tuple[_Slot, MachineSandbox]:
        """A pristine machine, entered. One that cannot be, as it may have died meanwhile, is replaced once."""
        for tries_left in reversed(range(_TRIES)):
            slot = await self._next()
            try:
                return slot, await slot.machine.enter()
            except BaseException as error:
                slot.dismiss()
                if not tries_left or not isinstance(error, TargetError):
                    raise
        raise AssertionError

    def give_back(self, slot: _Slot) -> None:
        """Take a machine back from its run; it serves again once that is undone, else it ends."""
        self._coming += 1
        self._pool.start(self._settle(slot))

    def close(self) -> None:
        """Boot no more, and end all."""
        self._closed = True
        for slot in self._slots:
            slot.dismiss()

    async def _next(self) -> _Slot:
        while self._idle:
            slot = self._idle.popleft()
            if slot.sound:
                return slot
        waiter: asyncio.Future[_Slot] = asyncio.get_running_loop().create_future()
        self._waiting.append(waiter)
        self._top_up()
        try:
            return await waiter
        except asyncio.CancelledError:
            if waiter.done() and not waiter.cancelled() and waiter.exception() is None:
                self._hand_out(waiter.result())
            raise

    def _top_up(self) -> None:
        waiting = sum(not waiter.done() for waiter in self._waiting)
        while not self._closed and self._coming < waiting and self._alive < self._pool.machines:
            self._coming += 1
            self._alive += 1
            self._pool.start(self._live())

    async def _live(self) -> None:
        """A machine's whole life."""
        slot: _Slot | None = None
        try:
            async with ContainerTarget.open(
                self._pool.suite,
                layout=self._layout,
                booted_by=self._pool.booted_by,
                progress=self._pool.progress,
            ) as machine:
                await machine.prepare()
                slot = _Slot(machine)
                self._slots.add(slot)
                self._coming -= 1
                self._hand_out(slot)
                await slot.dismissed()
                self._slots.remove(slot)
                self._alive -= 1
                self._top_up()
        except CgraceError as error:
            if slot is not None:
                self._pool.problem = self._pool.problem or error
                return
            self._coming -= 1
            self._alive -= 1
            while self._waiting:
                if not (waiter := self._waiting.popleft()).done():
                    waiter.set_exception(error)
                    break
            self._top_up()

    async def _settle(self, slot: _Slot) -> None:
        try:
            await slot.machine.leave()
        finally:
            self._coming -= 1
        self._hand_out(slot)

    def _hand_out(self, slot: _Slot) -> None:
        if self._closed or not slot.sound:
            slot.dismiss()
            self._top_up()  # who waited for this one needs another; its own end may have come before they asked
            return
        while self._waiting:
            if not (waiter := self._waiting.popleft()).done():
                waiter.set_result(slot)
                return
        self._idle.append(slot)
