"""The relay with real clients in front of it and the embedded bus or a real dbus-daemon behind it."""

from __future__ import annotations

import asyncio
import gc
import os
import shutil
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from cgrace.harness.dbus import systemd1
from cgrace.harness.dbus.bus import EmbeddedBus
from cgrace.harness.dbus.codec import encode, rewrite_reply_serial
from cgrace.harness.dbus.frames import Frame, Framer
from cgrace.harness.dbus.message import Message, MessageType
from cgrace.harness.errors import TargetError
from cgrace.harness.events import Actor
from cgrace.harness.relay import Backend, Connection, Embedded, Limits, Relay, Upstream

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


@pytest.fixture
def handler() -> Recording:
    return Recording()


def run(coroutine: object) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(WAIT_S):
            await coroutine  # type: ignore[misc]

    asyncio.run(bounded())


async def until(condition: Callable[[], bool]) -> None:
    """Turn the loop until it holds."""
    while not condition():  # noqa: ASYNC110 (what it looks at has no event to wait for)
        await asyncio.sleep(0.001)


# ---- the embedded bus


@pytest.mark.parametrize("little", [True, False])
def test_call_reply_and_signal_in_order(tmp_path: Path, handler: Recording, little: bool) -> None:
    """A call comes back with its reply first and the signal behind it, in both byte orders."""

    async def main() -> None:
        async with embedded(tmp_path, handler):
            client = await Client.connect(tmp_path / "bus")
            await client.call("AddMatch", "s", "type='signal',member='JobRemoved'")
            answer = await client.call("Echo", "su", "a", 5, to=systemd1.NAME, little=little)
            assert (answer.body, answer.little_endian) == (("a", 5), little)
            signal = await client.next()
            assert signal is not None
            assert (signal.member, signal.body[2], signal.sender) == ("JobRemoved", "a.slice", answer.sender)

    run(main())
    assert handler.conns[0].pid == os.getpid()
    assert [m.member for way, m in handler.seen if way == "driver"] == ["Hello", "AddMatch", "Echo"]
    assert handler.ended == [(1, Actor.CGRACE, "the run is over")]


def test_pipelined_start_a_byte_at_a_time(tmp_path: Path, handler: Recording) -> None:
    """Everything from the NUL to a first call may come in one write, or byte by byte."""

    async def main() -> None:
        async with embedded(tmp_path, handler):
            for size in (1, 100_000):
                client = await Client.connect(tmp_path / "bus", hello=False)
                data = AUTH + client.make("Hello") + client.make("GetId")
                for start in range(0, len(data), size):
                    await client.send(data[start : start + size])
                skipped = b""
                while skipped.count(b"\r\n") < 2:
                    skipped += await asyncio.get_running_loop().sock_recv(client.sock, 1)
                answers = [await client.next() for _ in range(3)]
                assert [m.reply_serial for m in answers if m is not None] == [1, 0, 2]

    run(main())


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"GET / HTTP/1.1\r\n\r\n", "NUL"),
        (b"\0BEGIN\r\n", "before authentication"),
        (AUTH + b"noise that is no message", "byte order"),
        (AUTH + b"l\1\0\1" + b"\xff" * 12, "bytes"),
        (AUTH + b"l\1\0\1" + b"\0\0\0\0\1\0\0\0\x08\0\0\0" + b"\1\1o\0\0\0\0\0", "header ends"),
    ],
)
def test_garbage_ends_the_connection_with_a_reason(tmp_path: Path, handler: Recording, data: bytes, why: str) -> None:
    """What is not D-Bus costs the driver its connection, and us nothing."""

    async def main() -> None:
        async with embedded(tmp_path, handler):
            client = await Client.connect(tmp_path / "bus", hello=False)
            await client.send(data)
            await until(lambda: bool(handler.ended))

    run(main())
    ((_, by, said),) = handler.ended
    assert by is Actor.DRIVER
    assert why in said


def test_half_a_message_and_nothing_at_all(tmp_path: Path, handler: Recording) -> None:
    """A driver that leaves early is told apart by where it left."""

    async def main() -> None:
        async with embedded(tmp_path, handler):
            for data in (b"", AUTH + b"l\1\0\1", AUTH):
                client = await Client.connect(tmp_path / "bus", hello=False)
                await client.send(data)
                await until(lambda: bool(handler.conns))
                client.sock.shutdown(socket.SHUT_WR)
                ended = len(handler.ended)
                await until(lambda ended=ended: len(handler.ended) > ended)  # type: ignore[misc]

    run(main())
    assert [why for _, _, why in handler.ended] == [
        "closed before it had authenticated",
        "closed inside a message, 4 bytes of it had come",
        "",
    ]


def test_a_held_message_comes_later_and_others_pass(tmp_path: Path, handler: Recording) -> None:
    """A handler keeps a message by not sending it, and sends it at any later time."""
    held: list[tuple[Connection, Frame]] = []

    def decide(conn: Connection, way: str, frame: Frame) -> bool:
        if way == "systemd" and frame.message.body == ("slow",):
            held.append((conn, frame))
            return True
        return False

    handler.decide = decide

    async def main() -> None:
        async with embedded(tmp_path, handler):
            client = await Client.connect(tmp_path / "bus")
            await client.send(client.make("Echo", "s", "slow", to=systemd1.NAME))
            assert (await client.call("Echo", "s", "fast", to=systemd1.NAME)).body == ("fast",)
            ((conn, frame),) = held
            conn.to_driver(frame)
            message = await client.next()
            assert message is not None and message.body == ("slow",)
            assert conn.queues() == (0, 0)

    run(main())


def test_a_paused_connection_keeps_what_it_has_read(tmp_path: Path, handler: Recording) -> None:
    """After pause_reading the handler sees nothing more, not even of what came in the same read; resuming goes on in order."""

    def decide(conn: Connection, way: str, frame: Frame) -> bool:
        if way == "driver" and frame.message.body == ("1",):
            conn.pause_reading()
        return False

    handler.decide = decide

    async def main() -> None:
        async with embedded(tmp_path, handler):
            client = await Client.connect(tmp_path / "bus")
            await client.send(b"".join(client.make("Echo", "s", str(n), to=systemd1.NAME) for n in range(5)))
            await until(lambda: handler.seen[-1][1].body == ("1",) and handler.seen[-1][0] == "systemd")
            conn = handler.conns[0]
            assert conn.queues()[0] > 0
            conn.resume_reading()
            bodies: list[str] = []
            while len(bodies) < 5:
                message = await client.next()
                assert message is not None
                bodies += [message.body[0]] if message.reply_serial > 1 else []
            assert bodies == ["0", "1", "2", "3", "4"]

    run(main())


def test_a_driver_that_does_not_read_is_cut_off(tmp_path: Path, handler: Recording) -> None:
    """What waits for a driver is bounded: beyond the limit its connection ends, with the reason."""

    async def main() -> None:
        async with embedded(tmp_path, handler, Limits(unsent_bytes_max=100_000, pause_bytes=1_000_000)):
            client = await Client.connect(tmp_path / "bus")
            frame = Frame.of(
                systemd1.reply_to(Message(type=MessageType.CALL, serial=1), "ay", (bytes(50_000),), serial=9)
            )
            while not handler.ended:
                handler.conns[0].to_driver(frame)
                await asyncio.sleep(0)
            assert client.sock.fileno() >= 0

    run(main())
    assert handler.ended[0][1] is Actor.CGRACE
    assert "does not read" in handler.ended[0][2]


def test_a_flood_is_slowed_down_not_dropped(tmp_path: Path, handler: Recording) -> None:
    """A driver that writes without reading is no longer read from; once it reads, every answer is there."""
    count, size = 60, 20_000

    async def main() -> None:
        async with embedded(tmp_path, handler, Limits(pause_bytes=100_000)):
            client = await Client.connect(tmp_path / "bus")
            calls = [client.make("Echo", "ay", bytes(size), to=systemd1.NAME) for _ in range(count)]
            async with asyncio.TaskGroup() as group:
                group.create_task(client.send(b"".join(calls)))
                await until(lambda: handler.conns[0].queues()[1] > 100_000)
                serials: list[int] = []
                while len(serials) < count:
                    message = await client.next()
                    assert message is not None
                    serials += [message.reply_serial] if message.reply_serial > 1 else []
            assert serials == list(range(2, count + 2))

    run(main())


def test_a_bug_in_a_handler_is_not_lost(tmp_path: Path, handler: Recording) -> None:
    """What a handler raises comes out of the relay's context, not out of the event loop's log."""

    def decide(conn: Connection, way: str, frame: Frame) -> bool:
        raise ZeroDivisionError("a bug")

    handler.decide = decide

    async def main() -> None:
        async with embedded(tmp_path, handler) as relay:
            client = await Client.connect(tmp_path / "bus", hello=False)
            await client.send(AUTH + client.make("Hello"))
            await asyncio.wait([relay.broken])

    with pytest.raises(ZeroDivisionError):
        run(main())


def test_cut_by_the_handler_is_told_once(tmp_path: Path, handler: Recording) -> None:
    """close() ends the driver's socket at once, `disconnected` comes in a later turn and only once."""

    async def main() -> None:
        async with embedded(tmp_path, handler):
            client = await Client.connect(tmp_path / "bus")
            assert await client.next() is not None  # NameAcquired
            conn = handler.conns[0]
            conn.close("fault 1")
            assert handler.ended == [] and not conn.open and conn.fileno() == -1
            conn.close()
            conn.to_driver(Frame.of(systemd1.reply_to(Message(type=MessageType.CALL, serial=1), serial=1)))
            assert await client.next() is None

    run(main())
    assert handler.ended == [(1, Actor.CGRACE, "fault 1")]


def test_raw_bytes_reach_the_driver_as_they_are(tmp_path: Path, handler: Recording) -> None:
    """send_raw is for garbage."""

    async def main() -> None:
        async with embedded(tmp_path, handler):
            client = await Client.connect(tmp_path / "bus")
            assert await client.next() is not None  # NameAcquired
            handler.conns[0].send_raw(b"half a mess")
            assert await asyncio.get_running_loop().sock_recv(client.sock, 100) == b"half a mess"

    run(main())


# ---- a real bus


def test_a_service_on_a_real_bus_through_the_relay(tmp_path: Path, handler: Recording) -> None:
    """Two clients talk over dbus-daemon, both through the relay; descriptors arrive and leave none behind."""
    gc.collect()
    before = _descriptors()

    async def main() -> None:
        async with daemon(tmp_path) as address, Relay(tmp_path / "bus", handler, Upstream(address)):
            service, client = [await Client.connect(tmp_path / "bus") for _ in range(2)]
            assert (await service.call("RequestName", "su", systemd1.NAME, 0)).body == (1,)
            call = client.make("Echo", "h", 0, to=systemd1.NAME)
            call = encode(_with_fds(call))
            read_end, write_end = os.pipe()
            socket.send_fds(client.sock, [call], [write_end])
            os.close(write_end)
            await _skip_to_call(service, read_end)
            service.sock.close()
            answer = await client.next()
            while answer is not None and answer.type is MessageType.SIGNAL:
                answer = await client.next()
            assert answer is not None and answer.error_name.endswith("NoReply")
            client.sock.close()
            os.close(read_end)

    run(main())
    assert _descriptors() <= before


def _descriptors() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


def _with_fds(raw: bytes) -> Message:
    from dataclasses import replace

    from cgrace.harness.dbus.codec import decode

    return replace(decode(raw), fds=1)


async def _skip_to_call(service: Client, read_end: int) -> None:
    """Receive the call with its descriptor, write through that."""
    framer = Framer()
    while True:
        await until(lambda: _readable(service.sock))
        data, fds, _, _ = socket.recv_fds(service.sock, 65536, 4)
        for frame in framer.feed(data, fds):
            if frame.message.member == "Echo":
                assert frame.fds
                os.write(frame.fds[0], b"through")
                os.close(frame.fds[0])
                assert os.read(read_end, 100) == b"through"
                return


def _readable(sock: socket.socket) -> bool:
    import select

    return bool(select.select([sock], [], [], 0)[0])


def test_a_bus_that_is_not_there(tmp_path: Path, handler: Recording) -> None:
    """Without a bus behind it the relay accepts and hangs up, with the reason, by systemd's side."""

    async def main() -> None:
        async with Relay(tmp_path / "bus", handler, Upstream(f"unix:path={tmp_path}/none")):
            client = await Client.connect(tmp_path / "bus", hello=False)
            assert await client.next() is None

    run(main())
    assert handler.ended == [(1, Actor.SYSTEMD, "the bus cannot be reached: No such file or directory")]


def test_a_bus_that_dies(tmp_path: Path, handler: Recording) -> None:
    """When the bus goes, the driver's connection goes."""

    async def main() -> None:
        async with daemon(tmp_path) as address:
            relay = Relay(tmp_path / "bus", handler, Upstream(address))
            await relay.__aenter__()
            client = await Client.connect(tmp_path / "bus")
        while await client.next() is not None:
            pass
        await relay.__aexit__(None, None, None)

    run(main())
    assert handler.ended == [(1, Actor.SYSTEMD, "the bus closed the connection")]


def test_addresses() -> None:
    """D-Bus addresses of unix sockets and plain paths are taken, everything else is named."""
    assert Upstream("unix:path=/a%20b,guid=00").path == "/a b"
    assert Upstream("tcp:host=x;unix:abstract=y").path == "\0y"
    assert Upstream("/x").path == "/x"
    with pytest.raises(TargetError, match="only unix:path"):
        Upstream("tcp:host=localhost,port=1")


# ---- other people's clients


CLIENTS = {
    "dbus-send": ("--bus=unix:path={bus}", "--print-reply", "--dest=org.freedesktop.systemd1", "/org/freedesktop/systemd1",
                  "org.freedesktop.systemd1.Manager.Echo", "string:hello"),
    "busctl": ("--address=unix:path={bus}", "call", "org.freedesktop.systemd1", "/org/freedesktop/systemd1",
               "org.freedesktop.systemd1.Manager", "Echo", "s", "hello"),
    "gdbus": ("call", "--address", "unix:path={bus}", "--dest", "org.freedesktop.systemd1", "--object-path",
              "/org/freedesktop/systemd1", "--method", "org.freedesktop.systemd1.Manager.Echo", "hello"),
}  # fmt: skip


@pytest.mark.parametrize("program", CLIENTS)
def test_other_clients_through_the_embedded_bus(tmp_path: Path, handler: Recording, program: str) -> None:
    """libdbus, sd-bus and GDBus take the relay for a bus."""
    if shutil.which(program) is None:
        pytest.skip(f"{program} is not installed")
    output = b""

    async def main() -> None:
        nonlocal output
        async with embedded(tmp_path, handler):
            argv = [part.format(bus=tmp_path / "bus") for part in CLIENTS[program]]
            process = await asyncio.create_subprocess_exec(
                program, *argv, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
            )
            output, _ = await process.communicate()

    run(main())
    assert b"hello" in output, output
    assert "Echo" in [m.member for _, m in handler.seen]


def test_dbus_fast_through_the_embedded_bus(tmp_path: Path, handler: Recording) -> None:
    """dbus-fast calls, subscribes and gets the signal."""
    from dbus_fast import Message as Theirs
    from dbus_fast.aio import MessageBus

    got: list[object] = []

    async def main() -> None:
        async with embedded(tmp_path, handler):
            bus = await MessageBus(bus_address=f"unix:path={tmp_path}/bus", negotiate_unix_fd=True).connect()
            bus.add_message_handler(
                lambda message: got.append(message.member) if message.member == "JobRemoved" else None
            )
            await bus.call(
                Theirs(destination=BUS, path=systemd1.BUS_PATH, interface=BUS, member="AddMatch", signature="s",
                       body=["type='signal',interface='org.freedesktop.systemd1.Manager'"])
            )  # fmt: skip
            reply = await bus.call(
                Theirs(destination=systemd1.NAME, path=systemd1.PATH, interface=systemd1.MANAGER, member="Echo",
                       signature="a(sv)", body=[[]])
            )  # fmt: skip
            assert reply is not None and reply.body == [[]]
            await until(lambda: bool(got))
            bus.disconnect()

    run(main())
    assert got == ["JobRemoved"]


def test_reply_serial_rewritten() -> None:
    """A reply can be turned into the answer of another call without being encoded anew."""
    reply = encode(systemd1.reply_to(Message(type=MessageType.CALL, serial=7, sender=":1.2"), "s", ("x",), serial=3))
    again = encode(systemd1.reply_to(Message(type=MessageType.CALL, serial=9, sender=":1.2"), "s", ("x",), serial=3))
    assert rewrite_reply_serial(reply, 9) == again


def _checks_types(embedded_backend: Embedded, upstream: Upstream) -> tuple[Backend, Backend]:
    """Both backends keep the protocol; the type checker says so."""
    return embedded_backend, upstream
