"""Whose turn it is where systemd is real: it does all that it can before the driver hears of any of it.

A race is an order, never a delay: who is first where a scenario orders nothing must not be a matter of how busy a machine is. The
fake does its jobs between two messages; so here what systemd says to drivers waits until it rests, and is handed out in the
order in which systemd said it, over all connections (a bus passes on the sender's serial). That is a legal schedule, the one in
which systemd is quick. A job that a gate keeps back is no reason to wait, nor is one that takes longer than TURN_S_MAX.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

from cgrace.harness.dbus.frames import Frame
from cgrace.harness.dbus.systemd1 import BUS_NAME
from cgrace.harness.events import Actor
from cgrace.harness.relay.base import Handler
from cgrace.harness.relay.connection import Connection

TURN_S_MAX: Final = 0.25
LOOK_S: Final = 0.0005
LOOK_S_MAX: Final = 0.004


class Turns:
    """A relay's handler before the handler. rests: whether systemd has nothing more to do by itself. bug: gets what is raised."""

    def __init__(self, handler: Handler, rests: Callable[[], bool], bug: Callable[[Exception], None]) -> None:
        self._handler = handler
        self._rests = rests
        self._bug = bug
        self._waiting: dict[Connection, list[Frame]] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._since = 0.0

    @property
    def busy(self) -> bool:
        """Whether something waits to be handed out."""
        return bool(self._waiting)

    def close(self) -> None:
        """Hand out nothing more."""
        self._waiting.clear()
        if self._timer is not None:
            self._timer.cancel()

    # ---- as a handler

    def connected(self, conn: Connection) -> None:
        """At once."""
        self._handler.connected(conn)

    def disconnected(self, conn: Connection, by: Actor, why: str) -> None:
        """Behind what had been said to it."""
        for frame in self._waiting.pop(conn, ()):
            self._handler.from_systemd(conn, frame)
        self._handler.disconnected(conn, by, why)

    def from_driver(self, conn: Connection, frame: Frame) -> None:
        """At once."""
        self._handler.from_driver(conn, frame)

    def from_systemd(self, conn: Connection, frame: Frame) -> None:
        """What the bus itself says at once, unless something else for that connection waits already."""
        if frame.message.sender == BUS_NAME and conn not in self._waiting:
            self._handler.from_systemd(conn, frame)
            return
        if not self._waiting:
            self._since = asyncio.get_running_loop().time()
            self._look_soon(0.0)
        self._waiting.setdefault(conn, []).append(frame)

    # ---- turns

    def _look_soon(self, seconds: float) -> None:
        self._timer = asyncio.get_running_loop().call_later(seconds, self._look)

    def _look(self) -> None:
        try:
            waited_s = asyncio.get_running_loop().time() - self._since
            if self._waiting and waited_s < TURN_S_MAX and not self._rests():
                self._look_soon(min(max(waited_s, LOOK_S), LOOK_S_MAX))
                return
            while self._waiting:
                self._hand_out()
        except Exception as error:
            self._bug(error)

    def _hand_out(self) -> None:
        """The next one: of the first of each connection the one that was said first. What the bus says is in no such order."""
        conn = min(self._waiting, key=lambda one: _place(self._waiting[one][0]))
        frames = self._waiting[conn]
        frame = frames.pop(0)
        if not frames:
            del self._waiting[conn]
        self._handler.from_systemd(conn, frame)


def _place(frame: Frame) -> int:
    return 0 if frame.message.sender == BUS_NAME else frame.message.serial
