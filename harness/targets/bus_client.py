"""A plain client of a message bus, for what a target itself has to ask: calls with their answers, signals as they come."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator
from types import TracebackType
from typing import Any, Final, Self

from cgrace.harness.dbus import systemd1
from cgrace.harness.dbus.client_stream import ClientStream
from cgrace.harness.dbus.codec import encode
from cgrace.harness.dbus.message import Message, MessageType
from cgrace.harness.errors import ProtocolError, TargetError

_READ_BYTES: Final = 1 << 16


class BusClient:
    """One connection, used by one task at a time. An async context manager: connected and named inside.

    path: the bus's socket. Signals that arrive while an answer is waited for are kept for `signals`.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self.unique_name = ""
        self._stream = ClientStream(os.geteuid())
        self._unread: list[Message] = []
        self._serial = 0
        self._reader: asyncio.StreamReader
        self._writer: asyncio.StreamWriter

    async def __aenter__(self) -> Self:
        try:
            self._reader, self._writer = await asyncio.open_unix_connection(self.path)
        except OSError as error:
            raise TargetError(f"the bus at {self.path} cannot be reached: {error.strerror}") from None
        try:
            await self._authenticate()
            self.unique_name = (await self.call(*systemd1.TO_BUS, "Hello")).body[0]
        except BaseException:
            self._writer.close()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._writer.close()
        with contextlib.suppress(OSError):
            await self._writer.wait_closed()

    async def call(
        self, destination: str, path: str, interface: str, member: str, signature: str = "", *body: Any
    ) -> Message:
        """Call and wait for the answer; an error is raised as TargetError with its name and text."""
        self._serial += 1
        serial = self._serial
        message = systemd1.call_to((destination, path, interface), member, signature, body, serial=serial)
        self._writer.write(encode(message))
        while True:
            for position, answer in enumerate(self._unread):
                if answer.reply_serial == serial and answer.type is not MessageType.SIGNAL:
                    del self._unread[position]
                    if answer.type is MessageType.ERROR:
                        text = f": {answer.body[0]}" if answer.body else ""
                        raise TargetError(f"{member} was refused with {answer.error_name}{text}")
                    return answer
            await self._read()

    async def get(self, path: str, interface: str, name: str) -> Any:
        """A property of an object of systemd."""
        answer = await self.call(systemd1.NAME, path, systemd1.PROPERTIES, "Get", "ss", interface, name)
        return answer.body[0].value

    async def subscribe(self, rule: str) -> None:
        """Ask the bus for the signals that match, and systemd to send signals at all (Manager.Subscribe)."""
        await self.call(*systemd1.TO_BUS, "AddMatch", "s", rule)
        await self.call(*systemd1.TO_MANAGER, "Subscribe")

    async def signals(self) -> AsyncIterator[Message]:
        """The signals from here on, those kept first. Ends by TargetError when the bus goes away."""
        while True:
            # Looked up anew each time: a call made between two signals keeps more of them.
            message = next((one for one in self._unread if one.type is MessageType.SIGNAL), None)
            if message is None:
                await self._read()
            else:
                self._unread.remove(message)
                yield message

    async def _authenticate(self) -> None:
        self._writer.write(self._stream.start())
        while not self._stream.let_in:
            answer, frames = self._stream.feed(await self._receive())
            self._writer.write(answer)
            self._unread += [frame.message for frame in frames]

    async def _read(self) -> None:
        try:
            _, frames = self._stream.feed(await self._receive())
            self._unread += [frame.message for frame in frames]
        except ProtocolError as error:
            raise TargetError(f"the bus at {self.path} broke the protocol: {error.message}") from None

    async def _receive(self) -> bytes:
        try:
            data = await self._reader.read(_READ_BYTES)
        except OSError as error:
            raise TargetError(f"the bus at {self.path} went away: {error.strerror}") from None
        if not data:
            raise TargetError(f"the bus at {self.path} closed the connection")
        return data
