"""What the relay's tests share: a handler that records, a small client, the embedded bus and a private dbus-daemon."""

from __future__ import annotations

import asyncio
import shutil
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from cgrace.harness.dbus import systemd1
from cgrace.harness.dbus.bus import EmbeddedBus
from cgrace.harness.dbus.codec import encode
from cgrace.harness.dbus.frames import Frame, Framer
from cgrace.harness.dbus.message import Message, MessageType
from cgrace.harness.events import Actor
from cgrace.harness.relay import Connection, Embedded, Limits, Relay

BUS = systemd1.BUS_NAME
WAIT_S = 20
AUTH = b"\0AUTH EXTERNAL 30\r\nNEGOTIATE_UNIX_FD\r\nBEGIN\r\n"


@dataclass
class Recording:
    """A handler that passes everything on and writes down what it saw; `decide` may take a message over."""

    seen: list[tuple[str, Message]] = field(default_factory=list)
    ended: list[tuple[int, Actor, str]] = field(default_factory=list)
    conns: list[Connection] = field(default_factory=list)
    decide: Callable[[Connection, str, Frame], bool] = lambda conn, way, frame: False

    def connected(self, conn: Connection) -> None:
        self.conns.append(conn)

    def disconnected(self, conn: Connection, by: Actor, why: str) -> None:
        self.ended.append((conn.id, by, why))

    def from_driver(self, conn: Connection, frame: Frame) -> None:
        self.seen.append(("driver", frame.message))
        if not self.decide(conn, "driver", frame):
            conn.to_systemd(frame)

    def from_systemd(self, conn: Connection, frame: Frame) -> None:
        self.seen.append(("systemd", frame.message))
        if not self.decide(conn, "systemd", frame):
            conn.to_driver(frame)


class Echo:
    """A service: answers Echo with its arguments, and broadcasts a signal behind the reply."""

    def call(self, sender: str, message: Message) -> list[Message]:
        if message.member != "Echo":
            name = "org.freedesktop.DBus.Error.UnknownMethod"
            return [systemd1.error_to(message, name, f"Unknown method {message.member}")]
        return [systemd1.reply_to(message, message.signature, message.body), job_removed(1)]

    def peer_gone(self, sender: str) -> list[Message]:
        return []


def job_removed(number: int) -> Message:
    """The signal of a job's end."""
    return Message(
        type=MessageType.SIGNAL,
        path=systemd1.PATH,
        interface=systemd1.MANAGER,
        member="JobRemoved",
        signature="uoss",
        body=(number, systemd1.job_path(number), "a.slice", "done"),
    )


class Client:
    """A D-Bus client of a few lines, blocking nothing but itself."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.framer = Framer()
        self.inbox: list[Frame] = []
        self.serial = 0

    @classmethod
    async def connect(cls, path: Path, *, hello: bool = True) -> Client:
        sock = socket.socket(socket.AF_UNIX)
        sock.setblocking(False)
        await asyncio.get_running_loop().sock_connect(sock, str(path))
        client = cls(sock)
        if hello:
            await asyncio.get_running_loop().sock_sendall(sock, AUTH)
            answered = b""
            while answered.count(b"\r\n") < 2:
                answered += await asyncio.get_running_loop().sock_recv(sock, 1)
            assert (await client.call("Hello")).type is MessageType.REPLY
        return client

    async def send(self, data: bytes) -> None:
        await asyncio.get_running_loop().sock_sendall(self.sock, data)

    async def next(self) -> Message | None:
        """The next message, None at the end."""
        while not self.inbox:
            async with asyncio.timeout(WAIT_S):
                try:
                    data = await asyncio.get_running_loop().sock_recv(self.sock, 65536)
                except ConnectionResetError:
                    return None
            if not data:
                return None
            self.inbox += self.framer.feed(data)
        return self.inbox.pop(0).message

    def make(self, member: str, signature: str = "", *body: object, to: str = BUS, little: bool = True) -> bytes:
        self.serial += 1
        path = systemd1.BUS_PATH if to == BUS else systemd1.PATH
        interface = BUS if to == BUS else systemd1.MANAGER
        message = Message(
            type=MessageType.CALL,
            serial=self.serial,
            path=path,
            interface=interface,
            member=member,
            destination=to,
            signature=signature,
            body=body,
            little_endian=little,
        )
        return encode(message)

    async def call(
        self, member: str, signature: str = "", *body: object, to: str = BUS, little: bool = True
    ) -> Message:
        """Call and wait for the answer; signals that come before it are dropped."""
        await self.send(self.make(member, signature, *body, to=to, little=little))
        while (message := await self.next()) is not None:
            if message.reply_serial == self.serial:
                return message
        raise AssertionError("the connection ended before the answer came")


@asynccontextmanager
async def embedded(path: Path, handler: Recording, limits: Limits | None = None) -> AsyncIterator[Relay]:
    backend = Embedded(EmbeddedBus({systemd1.NAME: Echo()}))
    async with Relay(path / "bus", handler, backend, limits=limits) as relay:
        yield relay


@asynccontextmanager
async def daemon(path: Path) -> AsyncIterator[str]:
    """A private dbus-daemon; its address."""
    if shutil.which("dbus-daemon") is None:
        pytest.skip("dbus-daemon is not installed")
    config = path / "bus.conf"
    config.write_text(
        f"<busconfig><listen>unix:path={path}/real</listen><auth>EXTERNAL</auth><policy context='default'>"
        "<allow send_destination='*'/><allow own='*'/><allow receive_sender='*'/></policy></busconfig>"
    )
    process = await asyncio.create_subprocess_exec(
        "dbus-daemon", f"--config-file={config}", "--nofork", "--nopidfile", "--print-address",
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL,
    )  # fmt: skip
    try:
        assert process.stdout is not None
        address = (await process.stdout.readline()).decode().strip()
        assert address
        yield address
    finally:
        process.kill()
        await process.wait()


def run(coroutine: object) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(WAIT_S):
            await coroutine  # type: ignore[misc]

    asyncio.run(bounded())


async def until(condition: Callable[[], bool]) -> None:
    """Turn the loop until it holds."""
    while not condition():  # noqa: ASYNC110 (what it looks at has no event to wait for)
        await asyncio.sleep(0.001)
