"""When a driver is not at rest although all its threads sleep: what it owes us, or we owe it, is still on its way."""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path
from typing import cast

from engine_wire_kit import Bench, step
from relay_kit import until

from cgrace.harness.dbus.bus import EmbeddedBus
from cgrace.harness.drivers.base import Answer
from cgrace.harness.drivers.shim import Shim, ShimGone
from cgrace.harness.engine.process import DriverProcess
from cgrace.harness.relay.embedded import Embedded
from cgrace.harness.relay.relay import Relay
from cgrace.harness.targets.base import Spawned


class Silent:
    """A shim from which nothing can come."""

    gone = "its stdout ended"


def test_who_knocks_is_known_before_being_let_in(tmp_path: Path) -> None:
    """A connection in the listener's queue: its driver sleeps until we accept it, which is our delay and not its wait."""

    async def run() -> None:
        path = tmp_path / "bus"
        async with Relay(path, Bench().wire, Embedded(EmbeddedBus({}))) as relay:
            assert not relay.knocked
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as driver:
                driver.connect(str(path))
                assert relay.knocked
                await until(lambda: bool(relay.connections))
                assert not relay.knocked
        assert not relay.knocked

    asyncio.run(run())


def test_a_step_that_was_not_written_yet_is_not_waited_in() -> None:
    """Nor is one whose answer came and was not taken up."""

    async def run() -> None:
        process = DriverProcess("driver", Spawned(name="driver", pid=2, pid_outer=3), cast(Shim, Silent()))
        assert not process.has_said()
        process.out["first"] = step("first")
        assert process.has_said()
        answer: asyncio.Future[Answer | ShimGone] = asyncio.get_running_loop().create_future()
        process.answers["first"] = answer
        assert not process.has_said()
        answer.set_result(Answer(id="first"))
        assert process.has_said()

    asyncio.run(run())
