"""The fake systemd on a real dbus-daemon, asked by another implementation of the client side."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from dbus_fast import Message, MessageType, Variant
from dbus_fast.aio import MessageBus

from cgrace.harness.dbus.address import unix_path
from cgrace.harness.errors import TargetError

CONFIG = """<busconfig><type>session</type><listen>unix:path={path}</listen><auth>EXTERNAL</auth>
<policy context="default"><allow send_destination="*" eavesdrop="true"/><allow eavesdrop="true"/><allow own="*"/></policy>
</busconfig>"""


@pytest.fixture
def address(tmp_path: Path) -> Iterator[str]:
    """A private bus with the fake on it."""
    if shutil.which("dbus-daemon") is None:
        pytest.skip("no dbus-daemon here")
    socket = tmp_path / "bus"
    (tmp_path / "bus.conf").write_text(CONFIG.format(path=socket))
    daemon = ["dbus-daemon", f"--config-file={tmp_path / 'bus.conf'}", "--nofork", "--print-address"]
    with subprocess.Popen(daemon, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as bus:
        assert bus.stdout is not None
        bus.stdout.readline()
        fake = [
            sys.executable,
            "-m",
            "cgrace.fakes.systemd",
            "--bus-address",
            f"unix:path={socket}",
            "--profile",
            "247",
        ]
        with subprocess.Popen(fake, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            assert process.stdout.readline().startswith("ready as :")
            yield f"unix:path={socket}"
            bus.terminate()
            assert process.wait(10) == 0, "it ends cleanly when the bus goes away"


def call(member: str, signature: str = "", *body: Any, **fields: str) -> Message:
    """A call of the manager."""
    values = {
        "destination": "org.freedesktop.systemd1",
        "path": "/org/freedesktop/systemd1",
        "interface": "org.freedesktop.systemd1.Manager",
    }
    return Message(member=member, signature=signature, body=list(body), **(values | fields))


async def ask(bus: MessageBus, message: Message) -> Message:
    """Its answer."""
    answer = await bus.call(message)
    assert answer is not None
    return answer


async def converse(address: str) -> list[str]:
    """Version, a scope from its start to JobRemoved without Subscribe, an error."""
    bus = await MessageBus(bus_address=address).connect()
    removed: asyncio.Queue[list[Any]] = asyncio.Queue()

    def listen(message: Message) -> None:
        if message.message_type is MessageType.SIGNAL and message.member == "JobRemoved":
            removed.put_nowait(message.body)

    bus.add_message_handler(listen)
    rule = "type='signal',interface='org.freedesktop.systemd1.Manager',member='JobRemoved'"
    dbus = {"destination": "org.freedesktop.DBus", "path": "/org/freedesktop/DBus", "interface": "org.freedesktop.DBus"}
    await ask(bus, call("AddMatch", "s", rule, **dbus))
    get = {"interface": "org.freedesktop.DBus.Properties"}
    version = await ask(bus, call("Get", "ss", "org.freedesktop.systemd1.Manager", "Version", **get))
    array = [["MemoryAccounting", Variant("b", True)], ["DefaultDependencies", Variant("b", False)]]
    started = await ask(bus, call("StartTransientUnit", "ssa(sv)a(sa(sv))", "cgrace-a.slice", "replace", array, []))
    _, job, unit, result = await asyncio.wait_for(removed.get(), 10)
    again = await ask(bus, call("StartTransientUnit", "ssa(sv)a(sa(sv))", "cgrace-a.slice", "replace", array, []))
    bus.disconnect()
    return [version.body[0].value, unit, result, str(job == started.body[0]), str(again.error_name)]


def test_on_a_real_bus(address: str) -> None:
    """Another D-Bus implementation gets the same answers and signals through a dbus-daemon."""
    said = asyncio.run(converse(address))
    assert said == ["247.3-7+deb11u5", "cgrace-a.slice", "done", "True", "org.freedesktop.systemd1.UnitExists"]


@pytest.mark.parametrize(
    ("address_text", "path"),
    [("unix:path=/a%20b,guid=12", "/a b"), ("unix:abstract=x", "\0x"), ("/run/bus", "/run/bus")],
)
def test_addresses(address_text: str, path: str) -> None:
    """The addresses that can be reached."""
    assert unix_path(address_text) == path


def test_address_that_cannot_be_reached() -> None:
    """tcp is refused, with what to give instead."""
    with pytest.raises(TargetError, match="neither unix:path"):
        unix_path("tcp:host=localhost")
