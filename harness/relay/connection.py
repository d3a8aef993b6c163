"""One driver's connection: its socket, its authentication, its frames, and its link to systemd's side."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections import deque
from collections.abc import Callable, Sequence

from cgrace.harness.dbus.auth import ServerAuth
from cgrace.harness.dbus.frames import Frame, Framer
from cgrace.harness.errors import ProtocolError
from cgrace.harness.events import Actor
from cgrace.harness.relay.base import Handler, Limits, Link
from cgrace.harness.relay.wire import Wire

_CREDENTIALS = struct.Struct("3i")


class Connection:
    """What a handler holds of a driver's connection.

    id: counts from 1 in order of accept. pid, uid, gid: of the process that connected, as cgrace sees them (SO_PEERCRED).
    """

    def __init__(
        self,
        sock: socket.socket,
        number: int,
        *,
        handler: Handler,
        guid: str,
        limits: Limits,
        bug: Callable[[Exception], None],
        forget: Callable[[Connection], None],
    ) -> None:
        self.id = number
        credentials = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
        self.pid, self.uid, self.gid = _CREDENTIALS.unpack(credentials)
        self._handler = handler
        self._guid = guid
        self._limits = limits
        self._forget = forget
        self._bug = bug
        self._auth: ServerAuth | None = None
        self._framer = Framer(limits.message_bytes_max)
        self._link: Link | None = None
        self._inbox: deque[Frame] = deque()  # cut, and not yet seen by the handler
        self._held_up = False
        self._ended = False
        self._wire = Wire(sock, on_data=self._data, on_closed=self._closed, on_drained=self._drained, bug=bug)

    def __repr__(self) -> str:
        return f"<Connection {self.id} of pid {self.pid}{' (ended)' if self._ended else ''}>"

    # ---- what a handler does

    @property
    def open(self) -> bool:
        """Whether the connection is still there."""
        return not self._ended

    @property
    def authenticated(self) -> bool:
        """Whether messages can flow."""
        return self._auth is not None and self._auth.done

    def to_systemd(self, frame: Frame) -> None:
        """Pass a message on, after those passed before."""
        if self._ended or self._link is None:
            return
        try:
            self._link.send(frame)
        except ProtocolError as error:
            self._end_soon(Actor.SYSTEMD, f"the bus hung up: {error.message}")
            return
        self._press_back()

    def to_driver(self, frame: Frame) -> None:
        """Write a message to the driver, after those written before."""
        if frame.fds and not (self._auth is not None and self._auth.fds_agreed):
            return  # a bus does not deliver to a client that cannot take descriptors
        self._write(frame.raw, frame.fds)

    def send_raw(self, data: bytes) -> None:
        """Write any bytes to the driver."""
        self._write(data, ())

    def pause_reading(self) -> None:
        """Read nothing more from the driver."""
        self._held_up = True
        self._wire.pause("asked")

    def resume_reading(self) -> None:
        """Read again."""
        self._held_up = False
        self._wire.resume("asked")
        if self._inbox:
            asyncio.get_running_loop().call_soon(self._hand_in)

    def close(self, why: str = "") -> None:
        """Cut both sides now; `disconnected` follows, by CGRACE."""
        self._end_soon(Actor.CGRACE, why)

    def queues(self) -> tuple[int, int]:
        """(bytes from the driver that no handler has seen, bytes to the driver that it has not read); 0 is exact.

        The kernel's part of the second counts memory, not bytes, where it is not 0.
        """
        bytes_in, bytes_out = self._wire.kernel_queues()
        bytes_in += self._framer.pending + sum(len(frame.raw) for frame in self._inbox)
        return bytes_in, bytes_out + self._wire.unsent

    @property
    def unfinished(self) -> int:
        """Of the first of `queues`: bytes of a message whose rest the driver has not sent."""
        return self._framer.pending

    def systemd_queues(self) -> tuple[int, int]:
        """(bytes from systemd that no handler has seen, bytes to systemd that it has not read); 0 is exact."""
        return self._link.queues() if self._link is not None and not self._ended else (0, 0)

    def fileno(self) -> int:
        """Our end of the driver's socket, -1 when closed."""
        return self._wire.fileno()

    # ---- what a backend does

    def linked(self, link: Link) -> None:
        """Systemd's side stands: begin to listen to the driver."""
        if self._ended:
            link.close()
            return
        self._link = link
        self._auth = ServerAuth(self._guid, can_pass_fds=link.can_pass_fds)
        self._wire.start()

    def lost(self, why: str) -> None:
        """Systemd's side is gone, or cannot be had; what was written to the driver before still arrives."""
        self._end(Actor.SYSTEMD, why, cut=False)

    def deliver(self, frame: Frame) -> None:
        """A message came from systemd's side; never called from inside a handler."""
        if not self._ended:
            self._handler.from_systemd(self, frame)

    def cork(self) -> None:
        """Several messages may be delivered in a row: gather them, up to `uncork`."""
        self._wire.cork()

    def uncork(self) -> None:
        """Write what was gathered."""
        self._wire.uncork()

    def systemd_drained(self) -> None:
        """Systemd's side has taken enough of what was waiting."""
        self._wire.resume("systemd")

    def abandon(self) -> None:
        """The relay ends: give up what an ended connection still had to write."""
        self._wire.close()

    # ---- inside

    def _write(self, data: bytes, fds: tuple[int, ...]) -> None:
        if self._ended:
            return
        if self._wire.unsent > self._limits.unsent_bytes_max:
            self._end_soon(Actor.CGRACE, f"the driver does not read: {self._wire.unsent} bytes wait for it")
            return
        self._wire.write(data, fds)
        if self._wire.unsent > self._limits.pause_bytes:
            self._wire.pause("driver")
            if self._link is not None:
                self._link.pause()

    def _drained(self) -> None:
        if self._wire.unsent <= self._limits.pause_bytes:
            self._wire.resume("driver")
            if self._link is not None:
                self._link.resume()

    def _press_back(self) -> None:
        """Stop reading from a driver that says more than systemd's side takes."""
        if self._link is not None and not self._ended and self._link.unsent > self._limits.pause_bytes:
            self._wire.pause("systemd")

    def _data(self, data: bytes, fds: Sequence[int]) -> None:
        try:
            if self._auth is None or not self._auth.done:
                data = self._authenticate(data)
            if data or fds:
                self._inbox.extend(self._framer.feed(data, fds))
                self._take_all()
        except ProtocolError as error:
            self._end(Actor.DRIVER, error.message)

    def _take_all(self) -> None:
        """Give the handler what has come; then what that caused may be delivered."""
        link = self._link
        assert link is not None  # reading starts with linked()
        link.begin()
        try:
            self._take()
        finally:
            link.end()

    def _hand_in(self) -> None:
        """Reading was resumed: go on with what had been read."""
        try:
            self._take_all()
        except ProtocolError as error:
            self._end(Actor.DRIVER, error.message)
        except Exception as error:
            self._bug(error)

    def _take(self) -> None:
        """Give the handler what is in the inbox, until it pauses or ends the connection."""
        while self._inbox and not self._held_up and not self._ended:
            frame = self._inbox.popleft()
            _ = frame.message  # raises here and not in the handler
            self._handler.from_driver(self, frame)
        if not self._inbox and not self._ended:
            self._framer.feed(b"")  # an error behind the last whole frame shows now

    def _authenticate(self, data: bytes) -> bytes:
        """Feed the exchange; what is left for the framer."""
        assert self._auth is not None  # reading starts with linked()
        answer = self._auth.feed(data)
        self._write(answer, ())
        return self._auth.leftover if self._auth.done else b""

    def _closed(self, why: str) -> None:
        if self._framer.pending:
            why = f"closed inside a message, {self._framer.pending} bytes of it had come" + (f" ({why})" if why else "")
        elif not self.authenticated:
            why = "closed before it had authenticated" + (f" ({why})" if why else "")
        self._end(Actor.DRIVER, why)

    def _end_soon(self, by: Actor, why: str) -> None:
        """End now, tell the handler in a later turn."""
        if self._ended:
            return
        self._shut(cut=by is Actor.CGRACE)
        asyncio.get_running_loop().call_soon(self._tell_end, by, why)

    def _end(self, by: Actor, why: str, *, cut: bool = True) -> None:
        if self._ended:
            return
        self._shut(cut=cut)
        self._tell_end(by, why)

    def _shut(self, *, cut: bool) -> None:
        self._ended = True
        self._inbox.clear()
        if cut:
            self._wire.close()
        else:
            self._wire.finish()
        if self._link is not None:
            self._link.close()
        self._forget(self)

    def _tell_end(self, by: Actor, why: str) -> None:
        try:
            self._handler.disconnected(self, by, why)
        except Exception as error:
            self._bug(error)
