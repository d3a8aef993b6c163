"""The embedded bus behind the relay: same process, same event loop, no socket.

What the bus answers goes into one queue and is handed out when the handler has returned, in order, so that a handler is never
entered while it is at work, and the same input always gives the same order.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterable, Sequence

from cgrace.harness.dbus.bus import EmbeddedBus
from cgrace.harness.dbus.frames import Frame
from cgrace.harness.dbus.message import Message
from cgrace.harness.dbus.roster import Outgoing
from cgrace.harness.dbus.systemd1 import BUS_NAME
from cgrace.harness.relay.connection import Connection


def _nothing() -> None:
    """The default of `after`."""


class Embedded:
    """A backend.

    after: called each time that the bus was told something and its direct answers are handed out: the fake systemd may then run
    what it has put off (jobs), and give what that says to `emit`.
    """

    def __init__(self, bus: EmbeddedBus, after: Callable[[], None] = _nothing) -> None:
        self.bus = bus
        self.bug: Callable[[Exception], None] | None = None
        self._after = after
        self._told = False
        self._links: dict[int, _Link] = {}
        self._queue: deque[tuple[_Link, Frame]] = deque()
        self._scheduled = False
        self._held = False  # somebody is at work who hands out at the end
        self._unread: deque[tuple[_Link, Frame]] | None = None

    def open(self, conn: Connection) -> None:
        """A driver connected."""
        number = self.bus.connect(pid=conn.pid, uid=conn.uid)
        link = _Link(self, conn, number)
        self._links[number] = link
        conn.linked(link)

    def emit(self, service_name: str, messages: Iterable[Message]) -> None:
        """A service says something by itself: signals, or answers that it kept back."""
        self.queue(self.bus.emit_all(service_name, messages))

    def bus_number(self, conn: Connection) -> int | None:
        """The number that the bus knows the connection by."""
        return next((number for number, link in self._links.items() if link.conn is conn), None)

    def queue(self, outgoing: Sequence[Outgoing]) -> None:
        """Hand these out, not before the caller has returned (what `bus.service_gone` and the like return)."""
        if not outgoing:
            return
        last: Message | None = None
        frame: Frame | None = None
        for item in outgoing:
            link = self._links.get(item.conn)
            if link is None:
                continue
            if frame is None or item.message is not last:  # a broadcast is encoded once
                last, frame = item.message, Frame.of(item.message)
            self._queue.append((link, frame))
            link.waiting += len(frame.raw)
        self._schedule()

    def close(self) -> None:
        """Every link is closed with its connection."""

    def _schedule(self) -> None:
        if (self._queue or self._told) and not self._scheduled and not self._held:
            self._scheduled = True
            asyncio.get_running_loop().call_soon(self._turn)

    def _turn(self) -> None:
        self._scheduled = False
        self._hand_out()

    def _hand_out(self) -> None:
        """What is in the queue, and what that causes. Written in one piece to each driver: an answer and the signals behind it."""
        corked: dict[_Link, None] = {}
        self._held = True
        try:
            while self._queue or self._told:
                while self._queue:
                    link, frame = self._queue.popleft()
                    link.waiting -= len(frame.raw)
                    if link not in corked:
                        corked[link] = None
                        link.conn.cork()
                    link.conn.deliver(frame)
                if self._told:
                    self._told = False
                    self._after()
        except Exception as error:
            if self.bug is None:
                raise
            self.bug(error)
        finally:
            for link in corked:
                link.conn.uncork()
            self._held = False
            self._schedule()

    @property
    def busy(self) -> bool:
        """Whether something is still on its way inside."""
        return bool(self._queue) or self._told

    def pause(self) -> None:
        """The service stops: what drivers say to it is kept, unread."""
        if self._unread is None:
            self._unread = deque()

    def resume(self) -> None:
        """It goes on, with what was kept, in order."""
        kept, self._unread = self._unread or deque(), None
        for link, frame in kept:
            link.conn.to_systemd(frame)  # nothing for one that has ended meanwhile

    def begin(self) -> None:
        """A driver's messages are being read: hand nothing out."""
        self._held = True

    def end(self) -> None:
        """They were read."""
        if self._queue or self._told:
            self._hand_out()
        self._held = False

    def receive(self, link: _Link, frame: Frame) -> None:
        """A driver's message reaches the bus."""
        if self._unread is not None and frame.header.destination not in ("", BUS_NAME):
            self._unread.append((link, frame))
            return
        self._told = True
        self.queue(self.bus.receive(link.number, frame.message))

    def gone(self, link: _Link) -> None:
        """A driver's connection ended."""
        if self._links.pop(link.number, None) is not None:
            self._told = True
            self.queue(self.bus.disconnect(link.number))
            self._schedule()  # also where nobody is told: the service is


class _Link:
    """A driver connection's place at the bus. waiting: bytes in the queue for it."""

    can_pass_fds = True

    def __init__(self, backend: Embedded, conn: Connection, number: int) -> None:
        self._backend = backend
        self.conn = conn
        self.number = number
        self.waiting = 0

    def send(self, frame: Frame) -> None:
        """To the bus; ProtocolError when it hangs up."""
        self._backend.receive(self, frame)

    def begin(self) -> None:
        """Nothing is handed out until `end`."""
        self._backend.begin()

    def end(self) -> None:
        """Hand out."""
        self._backend.end()

    def close(self) -> None:
        """Leave the bus."""
        self._backend.gone(self)

    def pause(self) -> None:
        """Nothing to pause: what the bus says is limited by what the driver asks, and by Limits.unsent_bytes_max."""

    def resume(self) -> None:
        """Nothing to resume."""

    @property
    def unsent(self) -> int:
        """The bus reads at once."""
        return 0

    def queues(self) -> tuple[int, int]:
        """The bus reads at once."""
        return self.waiting, 0
