"""Waits until a process has come to rest. The polls observe and order nothing: how long they pause changes no outcome."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

from cgrace.harness.witnesses.waits import ProcessGone, Rest, at_rest

POLL_S_FIRST: Final = 0.001
POLL_S_MAX: Final = 0.020


def _empty() -> tuple[int, int]:
    return (0, 0)


class RestWatcher:
    """Watches one process.

    queues: bytes that lie in its bus connections, (not read by the relay, not read by the process); see world.socket_queues.
    sysmon_note: as for waits.at_rest.
    """

    def __init__(
        self,
        pid_outer: int,
        sysmon_note: tuple[int, int] | None = None,
        queues: Callable[[], tuple[int, int]] = _empty,
    ) -> None:
        self._pid = pid_outer
        self._note = sysmon_note
        self._queues = queues

    def look(self, *, unread_too: bool = False) -> Rest | None:
        """A Rest if the process sleeps and its connections are empty, both before and after it was seen asleep.

        unread_too: also when it leaves bytes unread. They cannot wake it any more (waits.py, "What follows from it"): a driver
        whose reader is blocked behind a lock looks like this. Bytes that the relay has not read always count as movement.
        None too when the process has ended.
        """
        if not self._quiet(unread_too):
            return None
        try:
            rest = at_rest(self._pid, self._note)
        except ProcessGone:
            return None
        return rest if self._quiet(unread_too) else None

    def _quiet(self, unread_too: bool) -> bool:
        unread_by_us, unread_by_it = self._queues()
        return unread_by_us == 0 and (unread_too or unread_by_it == 0)

    async def until_rest(self, timeout_s: float, *, unread_too: bool = False) -> Rest | None:
        """Look at once, then after 1, 2, 4 ... 20 ms until it rests; None when it did not within the time."""
        pause = POLL_S_FIRST
        try:
            async with asyncio.timeout(timeout_s):
                while True:
                    rest = self.look(unread_too=unread_too)
                    if rest is not None:
                        return rest
                    await asyncio.sleep(pause)
                    pause = min(pause * 2, POLL_S_MAX)
        except TimeoutError:
            return None
