"""The fake systemd on a real message bus: the thin shell around Manager. It owns org.freedesktop.systemd1 there.

One loop takes every decision: what the bus has sent comes first, turns of the manager only when nothing is left to read,
as in systemd, whose run queue is its lowest-priority event source.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections import deque
from collections.abc import Callable
from dataclasses import replace

from cgrace.fakes.systemd.manager import Manager
from cgrace.harness.dbus import systemd1
from cgrace.harness.dbus.address import unix_path
from cgrace.harness.dbus.client_stream import ClientStream
from cgrace.harness.dbus.frames import Frame
from cgrace.harness.dbus.message import Message, MessageType
from cgrace.harness.errors import ProtocolError, TargetError

_READ_BYTES = 65536
_POLL_S = 0.05
_REQUEST_NAME_DO_NOT_QUEUE = 4
_PRIMARY_OWNER = 1


class BusService:
    """One manager on one bus, from `connect` until the bus goes away."""

    def __init__(self, manager: Manager) -> None:
        self._manager = manager
        self._stream = ClientStream(os.geteuid())
        self._frames: deque[Frame] = deque()
        self._serial = 0
        self._reader: asyncio.StreamReader
        self._writer: asyncio.StreamWriter
        self.unique_name = ""

    async def connect(self, address: str) -> None:
        """Connect, authenticate, say hello and take the name; TargetError when the bus does not let us."""
        path = unix_path(address)
        try:
            self._reader, self._writer = await asyncio.open_unix_connection(path)
        except OSError as error:
            raise TargetError(f"cannot connect to the bus at {path!r}: {error.strerror}") from error
        try:
            await self._authenticate()
            hello = await self._ask("Hello", "", ())
            self.unique_name = hello.body[0]
            got = await self._ask("RequestName", "su", (systemd1.NAME, _REQUEST_NAME_DO_NOT_QUEUE))
            if got.body[0] != _PRIMARY_OWNER:
                raise TargetError(f"{systemd1.NAME} has an owner on this bus already")
            rule = f"type='signal',sender='{systemd1.BUS_NAME}',interface='{systemd1.BUS_NAME}',member='NameOwnerChanged',arg2=''"
            await self._ask("AddMatch", "s", (rule,))
        except (OSError, ProtocolError) as error:
            raise TargetError(f"the bus at {path!r} does not let us in: {error}") from error

    async def serve(self) -> None:
        """Answer until the bus closes the connection."""
        last_ns = time.monotonic_ns()
        while True:
            now_ns = time.monotonic_ns()
            self._send(self._manager.elapsed(now_ns - last_ns))
            last_ns = now_ns
            if self._frames:
                self._take(self._frames.popleft().message)
            elif self._manager.pending():
                self._send(self._manager.turn())
                await self._writer.drain()
                if not await self._read(0):
                    return
            else:
                await self._writer.drain()
                if not await self._read(_POLL_S if self._manager.watching() else None):
                    return
                self._send(self._manager.poll_empty())

    def close(self) -> None:
        """Leave the bus."""
        self._writer.close()

    async def _authenticate(self) -> None:
        self._writer.write(self._stream.start())
        while not self._stream.let_in:
            data = await self._reader.read(_READ_BYTES)
            if not data:
                raise ProtocolError("it closed the connection")
            answer, frames = self._stream.feed(data)
            self._writer.write(answer)
            self._frames.extend(frames)

    async def _ask(self, member: str, signature: str, body: tuple[object, ...]) -> Message:
        """Call the bus itself and wait for its answer; what else comes meanwhile stays queued."""
        self._serial += 1
        serial = self._serial
        call = systemd1.call_to(systemd1.TO_BUS, member, signature, body, serial=serial)
        self._writer.write(Frame.of(call).raw)
        while True:
            for frame in self._frames:
                if frame.message.reply_serial == serial:
                    self._frames.remove(frame)
                    if frame.message.type is MessageType.ERROR:
                        raise ProtocolError(f"{member}: {frame.message.error_name}")
                    return frame.message
            if not await self._read(None):
                raise ProtocolError("it closed the connection")

    async def _read(self, wait_s: float | None) -> bool:
        """Read what there is, waiting at most so long; False when the bus is gone."""
        try:
            async with asyncio.timeout(wait_s):
                data = await self._reader.read(_READ_BYTES)
        except TimeoutError:
            return True
        except ConnectionError:
            return False
        self._frames.extend(self._stream.feed(data)[1])
        return bool(data)

    def _take(self, message: Message) -> None:
        if message.type is MessageType.CALL:
            self._send(self._manager.call(message.sender, message))
        elif (
            message.type is MessageType.SIGNAL
            and message.sender == systemd1.BUS_NAME
            and message.member == "NameOwnerChanged"
        ):
            name, _, new = message.body
            if name.startswith(":") and not new:
                self._send(self._manager.peer_gone(name))

    def _send(self, messages: list[Message]) -> None:
        for message in messages:
            self._serial += 1
            self._writer.write(Frame.of(replace(message, serial=self._serial)).raw)


async def run(address: str, manager: Manager, ready: Callable[[str], None]) -> None:
    """Serve until the bus goes away or the task is cancelled. `ready` gets our unique name."""
    service = BusService(manager)
    await service.connect(address)
    ready(service.unique_name)
    try:
        await service.serve()
    finally:
        service.close()
