"""The private buses: they start, end with their run and with cgrace, and what is inside them counts as under way."""

from __future__ import annotations

import asyncio
import os
import select
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from bus_stage import HostSandbox, stage
from engine_kit import needs_root
from relay_kit import WAIT_S, run, until
from test_engine_buses import installed
from test_fake_service import converse

from cgrace.harness.cli import parser
from cgrace.harness.errors import TargetError, UsageError
from cgrace.harness.targets import buses
from cgrace.harness.targets.buses import BUSES, REAL_BUSES, bus_version, find_bus, run_bus
from cgrace.harness.targets.probe import probe
from cgrace.harness.witnesses.waits import at_rest

CHILD = """
import asyncio, sys
from pathlib import Path
from cgrace.harness.targets.buses import run_bus
from cgrace.harness.targets.fake import FakeTarget

async def main():
    async with FakeTarget.open(["v1"], warm=1) as target, target.sandbox("v1") as sandbox:
        async with run_bus(sys.argv[1], sandbox, Path(sandbox.runtime_dir) / "x", print) as bus:
            print(bus.pid_outer, flush=True)
            await asyncio.Event().wait()

asyncio.run(main())
"""


@pytest.mark.parametrize("bus", REAL_BUSES)
def test_ends_with_its_block(bus: str, tmp_path: Path) -> None:
    """Nothing is left of it: no process, no file; it was at rest while nobody spoke."""
    installed(bus)

    async def main() -> int:
        sandbox = HostSandbox()
        async with asyncio.timeout(WAIT_S), run_bus(bus, sandbox, tmp_path / "b", _never) as running:
            await until(lambda: at_rest(running.pid_outer) is not None)
            rest = at_rest(running.pid_outer)
            assert rest is not None
            assert rest.bound_ns is None, "it waits for us alone"
            assert running.path.is_socket()
        await sandbox.end()
        return running.pid_outer

    assert not Path(f"/proc/{asyncio.run(main())}").exists()
    assert list(tmp_path.iterdir()) == []


def _never(why: str) -> None:
    raise AssertionError(why)


@pytest.mark.parametrize("bus", REAL_BUSES)
def test_a_message_inside_the_bus_is_under_way(bus: str, tmp_path: Path) -> None:
    """While the bus does not run nothing is concluded: not before it has read a message, and not when it holds one."""
    installed(bus)

    async def main() -> None:
        async with stage(bus, tmp_path) as on:
            await on.enter("a")
            (pid,) = on.seat.processes()
            await until(lambda: not on.seat.busy)  # it answered, and then goes to sleep
            assert on.seat.unaccounted() == ()
            os.kill(pid, signal.SIGSTOP)
            try:
                await until(lambda: _is_stopped(pid))
                assert on.seat.busy, "stopped, with who knows what inside"
                await on.clients["a"].send(on.clients["a"].make("GetId"))
                for _ in range(20):
                    await asyncio.sleep(0)
                    assert on.seat.busy
                assert on.seat.unaccounted() == (f"{bus}, which is not idle",)
            finally:
                os.kill(pid, signal.SIGCONT)
            answer = await on.clients["a"].next()
            assert answer is not None
            await on.settle()

    run(main())


def _is_stopped(pid: int) -> bool:
    return Path(f"/proc/{pid}/stat").read_text(encoding="ascii").split()[2] == "T"


@needs_root
@pytest.mark.parametrize("bus", REAL_BUSES)
def test_ends_with_cgrace(bus: str, tmp_path: Path) -> None:
    """kill -9 of cgrace takes the bus along."""
    installed(bus)
    command = [sys.executable, "-c", CHILD, bus]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, env=os.environ | {"TMPDIR": str(tmp_path)}
    ) as child:
        assert child.stdout is not None
        handle = os.pidfd_open(int(child.stdout.readline()))
        child.kill()
    try:
        assert select.select([handle], [], [], WAIT_S)[0], "it lives on"
    finally:
        os.close(handle)
    subprocess.run(
        [sys.executable, "-m", "cgrace.harness.cli", "clean"], env=os.environ | {"TMPDIR": str(tmp_path)}, check=True
    )


@pytest.mark.parametrize("bus", REAL_BUSES)
def test_the_fake_by_itself_on_a_real_bus(bus: str, tmp_path: Path) -> None:
    """`python -m fakes.systemd --bus-address` serves there, and ends when the bus goes away."""
    installed(bus)

    async def main() -> None:
        sandbox = HostSandbox()
        async with run_bus(bus, sandbox, tmp_path / "b", _never) as running:
            address = f"unix:path={running.path}"
            fake = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "cgrace.fakes.systemd", "--bus-address", address, "--profile", "247",
                stdout=asyncio.subprocess.PIPE,
            )  # fmt: skip
            assert fake.stdout is not None
            assert (await fake.stdout.readline()).startswith(b"ready as :")
            said = await converse(address)
        await sandbox.end()
        assert await fake.wait() == 0
        assert said == ["247.3-7+deb11u5", "cgrace-a.slice", "done", "True", "org.freedesktop.systemd1.UnitExists"]

    run(main())


def test_what_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """The package that would help; a bus that nobody has heard of is a mistake."""
    monkeypatch.setattr(buses, "find_program", lambda _: None)
    with pytest.raises(TargetError, match="'dbus-broker' is not installed") as raised:
        find_bus("dbus-broker")
    assert "apt install dbus-broker" in raised.value.hint
    with pytest.raises(UsageError, match="no bus 'kdbus'"):
        find_bus("kdbus")


def test_a_bus_that_does_not_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its own words are shown; a path that no socket can have is refused before."""
    broken = tmp_path / "dbus-daemon"
    broken.write_text("#!/bin/sh\necho out of luck >&2\nexit 3\n", encoding="utf-8")
    broken.chmod(0o755)
    monkeypatch.setattr(buses, "find_bus", lambda _: broken)

    async def start(stem: Path) -> None:
        sandbox = HostSandbox()
        try:
            async with run_bus("dbus-daemon", sandbox, stem, _never):
                pass
        finally:
            await sandbox.end()

    with pytest.raises(TargetError, match="did not start: it ended at once\nout of luck"):
        run(start(tmp_path / "b"))
    with pytest.raises(TargetError, match="longer than 107 bytes"):
        run(start(tmp_path / ("b" * 120)))


@pytest.mark.parametrize("bus", REAL_BUSES)
def test_versions(bus: str) -> None:
    """What took part is told with its version."""
    installed(bus)
    assert asyncio.run(bus_version(bus)).split()[0] == bus
    assert asyncio.run(bus_version(bus)).split()[1][0].isdigit()


def test_said_where_people_look() -> None:
    """The command line knows the same buses, and doctor looks for the real ones."""
    arguments = [parser().parse_args(["reproduce", "1780", "--bus", bus]).bus for bus in BUSES]
    assert tuple(arguments) == BUSES
    assert set(REAL_BUSES) <= {check.name for check in probe()}
