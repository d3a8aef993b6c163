"""One direction of one connection: what arrives leaves in the same order, unless a fault wants it otherwise.

No I/O: `write` gets every item when it leaves. It may cause anything, also that more is put in or let go here: whoever is at
work already goes on with that, so nothing leaves before what left before it has been written.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from cgrace.harness import faults as ft
from cgrace.harness.dbus.frames import Frame
from cgrace.harness.engine.plan import Keep


@dataclass(slots=True)
class Item:
    """A message on its way. keeps: what holds it back, all of which must let go. swap: the Reorder that wants it behind the
    next one."""

    message: int
    frame: Frame
    keeps: list[Keep] = field(default_factory=list)
    swap: ft.Reorder | None = None

    @property
    def holder(self) -> Keep | None:
        """The first keep that holds it, None when it may go; one that also holds those behind it before one that does not."""
        held = [keep for keep in self.keeps if keep.closed]
        return min(held, key=_overtakes, default=None)

    @property
    def is_passed(self) -> bool:
        """Whether others pass it."""
        holder = self.holder
        return holder is not None and _overtakes(holder)


def _overtakes(keep: Keep) -> bool:
    return isinstance(keep.fault, ft.Hold) and keep.fault.overtake


class Lane:
    """swapped: called with an item that a Reorder kept back and the message that it now follows."""

    def __init__(self, write: Callable[[Item], None], swapped: Callable[[Item, int], None] = lambda item, after: None):
        self._write = write
        self._swapped = swapped
        self._queue: deque[Item] = deque()
        self._passed: list[Item] = []  # held alone, others pass
        self._last: Item | None = None  # wants to leave behind the next other one
        self._working = False
        self.stalled = False

    def put(self, item: Item) -> Keep | None:
        """Take an item. Gives the keep behind which it now waits, where it is not held itself (None: it left, or is held)."""
        self._queue.append(item)
        self.flush()
        if item.holder is not None or not any(other is item for other in self._queue):
            return None
        return next((other.holder for other in self._queue if other.holder is not None), None)

    def flush(self) -> None:
        """Let leave whatever may."""
        if self._working:
            return
        self._working = True
        try:
            while (item := self._next()) is not None:
                self._leave(item)
        finally:
            self._working = False

    def held(self) -> tuple[Item, ...]:
        """All that is here, in order of arrival as far as that is kept."""
        return (*([self._last] if self._last else []), *self._passed, *self._queue)

    def give_up_swap(self) -> Item | None:
        """Nothing came that the reordered item could follow: it leaves now. Gives it, None where there is none."""
        item = self._last
        if item is None or self._queue or self._working:
            return None
        self._last = None
        self._write(item)
        self.flush()
        return item

    def drop(self) -> tuple[Item, ...]:
        """Forget all that is here, and give it."""
        gone = self.held()
        self._queue.clear()
        self._passed, self._last = [], None
        return gone

    def _leave(self, item: Item) -> None:
        last, self._last = self._last, None
        self._write(item)
        if last is not None:
            self._swapped(last, item.message)
            self._write(last)

    def _next(self) -> Item | None:
        if self.stalled:
            return None
        for item in self._passed:
            if item.holder is None:
                self._passed.remove(item)
                return item
        while self._queue:
            item = self._queue[0]
            if item.holder is not None and not item.is_passed:
                return None
            self._queue.popleft()
            if item.is_passed:
                self._passed.append(item)
            elif item.swap is not None and self._last is None:
                self._last = item
            else:
                return item
        return None
