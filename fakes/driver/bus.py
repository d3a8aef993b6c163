"""A blocking connection to a bus: one thread reads, any thread calls. What a plain client library does, and no more."""

from __future__ import annotations

import itertools
import os
import select
import socket
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

from cgrace.harness.dbus.address import unix_path
from cgrace.harness.dbus.auth import ClientAuth
from cgrace.harness.dbus.codec import encode
from cgrace.harness.dbus.frames import Framer
from cgrace.harness.dbus.message import Message, MessageType
from cgrace.harness.dbus.systemd1 import BUS_NAME, NAME, call_to
from cgrace.harness.errors import ProtocolError, TargetError

MANAGER = "org.freedesktop.systemd1.Manager"
MANAGER_PATH = "/org/freedesktop/systemd1"
READ_BYTES = 1 << 16
CALL_S_MAX = 30.0


class BusError(Exception):
    """The bus answered with an error, or not at all. name: the error's name, "" where there was no answer."""

    def __init__(self, name: str, text: str) -> None:
        super().__init__(f"{name}: {text}" if name else text)
        self.name = name


def address() -> str:
    """The path of the bus's socket, from DBUS_SYSTEM_BUS_ADDRESS."""
    given = os.environ.get("DBUS_SYSTEM_BUS_ADDRESS", "unix:path=/run/dbus/system_bus_socket")
    try:
        return unix_path(given)
    except TargetError as error:
        raise BusError("", f"cannot use the bus address {given!r}") from error


class Bus:
    """One connection. on_signal is called in the reading thread."""

    def __init__(self, on_signal: Callable[[Message], None] = lambda message: None) -> None:
        self._on_signal = on_signal
        self._serials = itertools.count(1)
        self._calls: dict[int, Future[Message]] = {}
        self._lock = threading.Lock()
        self._framer = Framer()
        self._ended = ""
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)

    def connect(self) -> None:
        """Authenticate, say Hello and begin to read."""
        self.socket.connect(address())
        auth = ClientAuth(os.geteuid(), want_fds=False)
        self.socket.sendall(auth.start())
        while not auth.done:
            if not (data := self.socket.recv(READ_BYTES)):
                raise BusError("", "the bus hung up")
            self.socket.sendall(auth.feed(data))
        threading.Thread(target=self._read, daemon=True).start()
        self.call("Hello", destination=BUS_NAME, path="/org/freedesktop/DBus", interface=BUS_NAME)

    def call(
        self,
        member: str,
        signature: str = "",
        body: tuple[Any, ...] = (),
        *,
        destination: str = NAME,
        path: str = MANAGER_PATH,
        interface: str = MANAGER,
        limit_s: float | None = CALL_S_MAX,
    ) -> tuple[Any, ...]:
        """Call and wait for the answer; BusError for an error, for none within the limit, and where the bus is gone."""
        serial = next(self._serials)
        message = call_to((destination, path, interface), member, signature, body, serial=serial)
        answer: Future[Message] = Future()
        with self._lock:
            if self._ended:
                raise BusError("", self._ended)
            self._calls[serial] = answer
        self.write(encode(message))
        try:
            reply = answer.result(limit_s)
        except TimeoutError:
            raise BusError("", f"no answer to {member} within {limit_s:g} s") from None
        if reply.type is MessageType.ERROR:
            raise BusError(reply.error_name, str(reply.body[0]) if reply.body else "")
        return reply.body

    def write(self, data: bytes) -> None:
        """Write all of it."""
        try:
            self.socket.sendall(data)
        except OSError as error:
            raise BusError("", f"the bus is gone: {error.strerror}") from None

    def _read(self) -> None:
        why = "the bus hung up"
        try:
            while data := self._receive():
                for frame in self._framer.feed(data):
                    self._take(frame.message)
        except (OSError, ProtocolError) as error:
            why = f"the bus is gone: {error}"
        with self._lock:
            self._ended, calls, self._calls = why, self._calls, {}
        self.socket.close()
        for answer in calls.values():
            answer.set_exception(BusError("", why))

    def _receive(self) -> bytes:
        # Wait in poll(2), whose limit the kernel shows; one of recv(2) hides in the socket (SO_RCVTIMEO).
        ready = select.poll()
        ready.register(self.socket, select.POLLIN)
        ready.poll()
        return self.socket.recv(READ_BYTES)

    def _take(self, message: Message) -> None:
        if message.type is MessageType.SIGNAL:
            self._on_signal(message)
            return
        with self._lock:
            answer = self._calls.pop(message.reply_serial, None)
        if answer is not None:
            answer.set_result(message)
