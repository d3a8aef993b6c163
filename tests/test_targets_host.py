"""Target `host`, on a machine of its own: inside a booted container, which a process of a run takes for its host."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

import pytest
from test_targets_container import SUITE
from test_targets_machine import BUS_SOCKET_INSIDE, ENV, cgroups, null, on_machine

from cgrace.harness.errors import TargetError
from cgrace.harness.targets.container import ContainerTarget
from cgrace.harness.targets.host import HostTarget

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="target host takes root"),
    pytest.mark.timeout(90),
]
needs_built = pytest.mark.skipif(not SUITE, reason="no root is built here yet (tests do not download one)")

# What runs inside: units of a run and one of somebody else's, which has to survive.
INSIDE = """
import asyncio, sys
from pathlib import Path
from test_targets_machine import driver, apply, answered, shell, start_transient, workload
from cgrace.harness.dbus.message import Variant
from cgrace.harness.errors import TargetError
from cgrace.harness.targets.bus_client import BusClient
from cgrace.harness.targets.host import HostTarget

async def go():
    async with HostTarget.open(allow_host=True) as host:
        try:
            async with host.place("v2"):
                raise SystemExit("v2 was not refused")
        except TargetError:
            pass
        for _ in range(2):
            async with host.place(host.layout) as sandbox, BusClient(host.bus_path) as bus:
                assert (await shell(sandbox, "ls -A /run/systemd")).split() == ["system"]
                one = await workload(sandbox)
                async with driver(sandbox) as shim:
                    answered(await shim.call(apply("cgrace-t.slice", "-.slice", -1)))
                    answered(await shim.call(apply("cgrace-x.scope", "cgrace-t.slice", one.pid)))
                assert "/cgrace.slice/cgrace-t.slice/cgrace-x.scope\\n" in Path(f"/proc/{one.pid_outer}/cgroup").read_text()
                other = [("ExecStart", Variant(signature="a(sasb)", value=[("/bin/sleep", ["sleep", "99"], False)]))]
                if not _:
                    await start_transient(bus, "others.service", other)
                mine = [("ExecStart", Variant(signature="a(sasb)", value=[("/bin/false", ["false"], False)]))]
                await start_transient(bus, "cgrace-fails.service", mine)
        print(host.version, "undone", one.pid_outer)
asyncio.run(go())
"""


@needs_built
def test_runs_on_a_host_are_undone_and_others_units_are_not_touched() -> None:
    """A slice, a scope with a process, a failed service: gone after each run; a stranger's service lives on."""

    async def body(machine: ContainerTarget) -> None:
        reader, writer = os.pipe()
        ended: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        env = {
            **ENV,
            "HOME": str(Path.home()),
            "PYTHONPATH": str(Path(__file__).parent),
            "DBUS_SYSTEM_BUS_ADDRESS": f"unix:path={BUS_SOCKET_INSIDE}",
            "XDG_CACHE_HOME": os.environ.get("XDG_CACHE_HOME", f"{Path.home()}/.cache"),
        }
        async with machine.sandbox() as sandbox:
            with null() as fd:
                argv = [sys.executable, "-c", INSIDE]
                await sandbox.spawn(
                    "py", argv, env=env, stdin=fd, stdout=writer, stderr=writer, role="driver", on_exit=ended.set_result
                )
            os.close(writer)
            status = await ended
            text = await asyncio.to_thread(os.read, reader, 1 << 16)
            os.close(reader)
            assert status == 0, text.decode()
            assert b"undone" in text
            assert cgroups(machine, "cgrace*") == []
            assert cgroups(machine, "others.service")
        assert machine.dirty == ""

    on_machine(body)


def test_a_machine_without_systemd_is_refused() -> None:
    """Where PID 1 is not systemd the message says what it is, and what to do."""
    if Path("/proc/1/comm").read_text().strip() == "systemd":
        pytest.skip("PID 1 is systemd here, and tests do not touch it")

    async def go() -> None:
        async with HostTarget.open(allow_host=True):
            pass

    with pytest.raises(TargetError, match="PID 1 is systemd, and here it is"):
        asyncio.run(go())


def test_it_has_to_be_allowed() -> None:
    """Nothing happens unless the user said so."""

    async def go() -> None:
        async with HostTarget.open(allow_host=False):
            pass

    with pytest.raises(TargetError) as caught:
        asyncio.run(go())
    assert "--allow-host" in caught.value.hint
