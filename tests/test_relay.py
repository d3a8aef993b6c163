"""The relay in front of the embedded bus."""

from __future__ import annotations

import asyncio
import os
import socket
from pathlib import Path

import pytest
from relay_kit import AUTH, Client, Echo, Recording, embedded, run, until

from cgrace.harness.dbus import systemd1
from cgrace.harness.dbus.bus import EmbeddedBus
from cgrace.harness.dbus.frames import Frame
from cgrace.harness.dbus.message import Message, MessageType
from cgrace.harness.events import Actor
from cgrace.harness.relay import Connection, Embedded, Limits, Relay


@pytest.fixture
def handler() -> Recording:
    return Recording()


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


def test_what_a_call_causes_comes_in_one_piece(tmp_path: Path, handler: Recording) -> None:
    """Nobody is woken for an answer and again for the signal behind it."""

    async def main() -> None:
        async with embedded(tmp_path, handler):
            client = await Client.connect(tmp_path / "bus")
            await client.call("AddMatch", "s", "type='signal',member='JobRemoved'")
            await client.send(client.make("Echo", "su", "a", 5, to=systemd1.NAME))
            answer = await client.next()
            assert answer is not None and answer.type is MessageType.REPLY
            assert [frame.message.member for frame in client.inbox] == ["JobRemoved"]

    run(main())


def test_a_bug_between_reading_and_handing_out_leaves_the_bus_in_order(tmp_path: Path) -> None:
    """What a handler raises ends the relay's context; what came before it was still delivered."""

    class Failing(Recording):
        def from_driver(self, conn: Connection, frame: Frame) -> None:
            super().from_driver(conn, frame)
            if frame.message.member == "Echo":
                raise RuntimeError("a bug")

    async def main() -> None:
        async with embedded(tmp_path, Failing()):
            client = await Client.connect(tmp_path / "bus")
            await client.send(client.make("GetId") + client.make("Echo", "s", "a", to=systemd1.NAME))
            answers = [await client.next() for _ in range(3)]
            assert [m.reply_serial for m in answers if m is not None] == [0, 2, 3]  # the first is NameAcquired

    with pytest.raises(RuntimeError, match="a bug"):
        run(main())


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


def test_a_service_that_stops_for_a_while(tmp_path: Path, handler: Recording) -> None:
    """What is said to a paused service is kept and comes in order; a driver that left meanwhile does no harm."""

    async def main() -> None:
        backend = Embedded(EmbeddedBus({systemd1.NAME: Echo()}))
        async with Relay(tmp_path / "bus", handler, backend):
            stays, leaves = [await Client.connect(tmp_path / "bus") for _ in range(2)]
            backend.pause()
            for client in (leaves, stays):
                await client.send(client.make("Echo", "s", "kept", to=systemd1.NAME))
            assert (await stays.call("NameHasOwner", "s", systemd1.NAME)).body == (True,)
            await until(lambda: [m.member for _, m in handler.seen].count("Echo") == 2)
            leaves.sock.close()
            await until(lambda: bool(handler.ended))
            backend.resume()
            message = await stays.next()
            assert message is not None and message.body == ("kept",)

    run(main())


def test_raw_bytes_reach_the_driver_as_they_are(tmp_path: Path, handler: Recording) -> None:
    """send_raw is for garbage."""

    async def main() -> None:
        async with embedded(tmp_path, handler):
            client = await Client.connect(tmp_path / "bus")
            assert await client.next() is not None  # NameAcquired
            handler.conns[0].send_raw(b"half a mess")
            assert await asyncio.get_running_loop().sock_recv(client.sock, 100) == b"half a mess"

    run(main())
