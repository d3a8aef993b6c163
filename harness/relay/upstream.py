"""A real bus behind the relay: one connection of our own for each of the driver's, bytes and descriptors untouched."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
from collections import deque
from collections.abc import Callable, Sequence
from weakref import WeakSet

from cgrace.harness.dbus.address import unix_path
from cgrace.harness.dbus.auth import ClientAuth
from cgrace.harness.dbus.frames import Frame, Framer
from cgrace.harness.errors import ProtocolError, TargetError
from cgrace.harness.relay.base import Limits
from cgrace.harness.relay.connection import Connection
from cgrace.harness.relay.wire import Wire

CONNECT_RETRY_S = 0.01
CONNECT_TRIES_MAX = 200  # a full backlog answers EAGAIN, and nothing tells when there is room again
_PATH_BYTES_MAX = 107


Dial = Callable[[socket.socket, Callable[[int], None]], None]


class Upstream:
    """A backend. address: a D-Bus address or a path, checked here (TargetError), connected to for each driver connection. dial:
    connects a socket to it in our stead, and tells 0 or an errno once it has."""

    def __init__(
        self, address: str, *, limits: Limits | None = None, uid: int | None = None, dial: Dial | None = None
    ) -> None:
        self.path = unix_path(address)
        if len(os.fsencode(self.path)) > _PATH_BYTES_MAX:
            raise TargetError(f"the bus's path '{self.path}' is longer than {_PATH_BYTES_MAX} bytes")
        self.limits = limits or Limits()
        self.uid = os.geteuid() if uid is None else uid
        self.bug: Callable[[Exception], None] | None = None
        self._dial = dial or self._connect_ourselves
        self._dialing = 0
        self._links: WeakSet[_Link] = WeakSet()
        self._kept: deque[tuple[_Link, Frame]] | None = None

    def open(self, conn: Connection) -> None:
        """A driver connected: connect to the bus, authenticate, then listen to the driver."""
        self._connect(conn, 1)

    def _connect(self, conn: Connection, attempt: int) -> None:
        if not conn.open:
            return
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)

        def told(number: int) -> None:
            self._dialing -= 1
            self._connected(sock, conn, attempt, number)

        self._dialing += 1
        try:
            self._dial(sock, told)
        except OSError as error:
            told(error.errno or errno.ECONNREFUSED)
        except TargetError:
            told(errno.ECONNREFUSED)

    def _connect_ourselves(self, sock: socket.socket, told: Callable[[int], None]) -> None:
        sock.connect(self.path)
        told(0)

    def _connected(self, sock: socket.socket, conn: Connection, attempt: int, number: int) -> None:
        if not number and conn.open:
            self._links.add(_Link(sock, conn, self))
            return
        sock.close()
        if number == errno.EAGAIN and attempt < CONNECT_TRIES_MAX:
            asyncio.get_running_loop().call_later(CONNECT_RETRY_S, self._connect, conn, attempt + 1)
        elif number == errno.EAGAIN:
            conn.lost("the bus takes no connection: its queue of them is full")
        elif number:
            conn.lost(f"the bus cannot be reached: {os.strerror(number)}")

    def queues(self) -> tuple[int, int]:
        """(bytes from the bus that we have not handed out, bytes to the bus that it has not read), all links together; 0 is exact.

        What the bus says to a driver that takes nothing more does not count: only the driver can free that.
        """
        kept = self._dialing + sum(len(frame.raw) for _, frame in self._kept or ())
        links = list(self._links)
        pairs = [link.queues() for link in links]
        bytes_in = sum(pair[0] for link, pair in zip(links, pairs, strict=True) if not link.held_up)
        return bytes_in, kept + sum(pair[1] for pair in pairs)

    def keep(self) -> None:
        """What drivers say stays with us from now on: a service is between two connections, and nobody shall notice."""
        if self._kept is None:
            self._kept = deque()

    def let_go(self) -> None:
        """Pass it on, in order."""
        kept, self._kept = self._kept or deque(), None
        for link, frame in kept:
            link.send(frame)

    def keeps(self, link: _Link, frame: Frame) -> bool:
        """Whether this message of a driver stays with us for now."""
        if self._kept is None:
            return False
        self._kept.append((link, frame))
        return True

    def close(self) -> None:
        """Also those that still had something to write."""
        for link in list(self._links):
            link.abandon()


class _Link:
    """Our connection to the bus for one of the driver's."""

    def __init__(self, sock: socket.socket, conn: Connection, backend: Upstream) -> None:
        self.can_pass_fds = False
        self.held_up = False
        self._conn = conn
        self._backend = backend
        self._limits = backend.limits
        self._auth = ClientAuth(backend.uid)
        self._framer = Framer(backend.limits.message_bytes_max)
        self._wire = Wire(
            sock, on_data=self._data, on_closed=self._closed, on_drained=self._drained, bug=backend.bug or _raise
        )
        self._wire.write(self._auth.start())
        self._wire.start()

    def send(self, frame: Frame) -> None:
        """To the bus, as it is."""
        if not self._backend.keeps(self, frame):
            self._wire.write(frame.raw, frame.fds)

    def begin(self) -> None:
        """The bus's answers take a way of their own."""

    def end(self) -> None:
        """The bus's answers take a way of their own."""

    def close(self) -> None:
        """Flush and close."""
        self._wire.finish()

    def abandon(self) -> None:
        """Close at once."""
        self._wire.close()

    @property
    def unsent(self) -> int:
        """What the bus does not take yet."""
        return self._wire.unsent

    def pause(self) -> None:
        """The driver does not read."""
        self.held_up = True
        self._wire.pause("driver")

    def resume(self) -> None:
        """It does again."""
        self.held_up = False
        self._wire.resume("driver")

    def queues(self) -> tuple[int, int]:
        """The kernel's and ours, of our connection to the bus."""
        bytes_in, bytes_out = self._wire.kernel_queues()
        return bytes_in + self._framer.pending, bytes_out + self._wire.unsent

    def _data(self, data: bytes, fds: Sequence[int]) -> None:
        try:
            if not self._auth.done:
                data = self._authenticate(data)
            for frame in self._framer.feed(data, fds):
                _ = frame.message  # raises here and not in the handler
                self._conn.deliver(frame)
            self._framer.feed(b"")
        except ProtocolError as error:
            self._wire.close()
            self._conn.lost(f"the bus broke the protocol: {error.message}")

    def _authenticate(self, data: bytes) -> bytes:
        self._wire.write(self._auth.feed(data))
        if not self._auth.done:
            return b""
        self.can_pass_fds = self._auth.fds_agreed
        self._conn.linked(self)
        return self._auth.leftover

    def _closed(self, why: str) -> None:
        self._conn.lost(why or "the bus closed the connection")

    def _drained(self) -> None:
        if self._wire.unsent <= self._limits.pause_bytes:
            self._conn.systemd_drained()


def _raise(error: Exception) -> None:
    raise error
