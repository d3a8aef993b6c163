"""The relay in front of a real dbus-daemon, and with other people's clients."""

from __future__ import annotations

import asyncio
import gc
import os
import shutil
import socket
from pathlib import Path

import pytest
from relay_kit import BUS, Client, Recording, daemon, embedded, run, until

from cgrace.harness.dbus import systemd1
from cgrace.harness.dbus.codec import encode, rewrite_reply_serial
from cgrace.harness.dbus.frames import Framer
from cgrace.harness.dbus.message import Message, MessageType
from cgrace.harness.errors import TargetError
from cgrace.harness.events import Actor
from cgrace.harness.relay import Backend, Embedded, Relay, Upstream


@pytest.fixture
def handler() -> Recording:
    return Recording()


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
