"""Target container: a real systemd boots, answers, and leaves nothing, however it ends."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from cgrace.harness.dbus import systemd1
from cgrace.harness.drivers import cache
from cgrace.harness.errors import TargetError
from cgrace.harness.targets import boot, owner, roots
from cgrace.harness.targets.bus_client import BusClient
from cgrace.harness.targets.container import ContainerTarget
from cgrace.harness.targets.layout import host_hierarchies
from cgrace.harness.targets.roots_build import SUITES, check_can_build
from cgrace.harness.targets.sweep import sweep

SUITE = next((suite for suite in ("trixie", "bookworm", "bullseye") if roots.look_up(suite)), "")
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="booting a systemd takes root")
needs_built = pytest.mark.skipif(not SUITE, reason="no root is built here yet (tests do not download one)")


def left_of(name: str) -> list[str]:
    """What is still there of a machine: folders and cgroups."""
    found = [str(path) for path in Path(tempfile.gettempdir()).glob(f"{name}*")]
    for hierarchy in host_hierarchies():
        mount = hierarchy.mount()
        try:
            for place in ("", hierarchy.own.rstrip("/")):
                found += [str(path) for path in Path(f"/proc/self/fd/{mount}{place}").glob(f"{name}*-c*")]
        finally:
            os.close(mount)
    return found


@needs_root
@needs_built
def test_a_real_systemd_boots_answers_and_is_gone() -> None:
    """Its manager answers on its bus, all hierarchies are its own, and afterwards nothing of it is there."""

    async def go() -> tuple[int, str]:
        async with ContainerTarget.open(SUITE) as machine:
            assert machine.version.startswith(SUITES[SUITE])
            async with BusClient(machine.bus_path) as bus:
                assert await bus.get(systemd1.PATH, systemd1.MANAGER, "ControlGroup") == ""
            systemd = next(one for one in machine.hierarchies if one.name in ("systemd", "unified"))
            assert (systemd.root / "system.slice").is_dir()
            assert "cgrace" in machine.console_tail(200)
            return machine.init_pid, machine.name

    pid, name = asyncio.run(go())
    assert not Path(f"/proc/{pid}").exists()
    assert left_of(name) == []


@needs_root
@needs_built
def test_two_machines_side_by_side() -> None:
    """Several machines of one process are apart, and one's end leaves the other running."""

    async def go() -> None:
        async with ContainerTarget.open(SUITE) as first:
            async with ContainerTarget.open(SUITE) as second:
                assert first.cgroup_prefix != second.cgroup_prefix
            assert not first.ended.done()
            async with BusClient(first.bus_path) as bus:
                assert await bus.get(systemd1.PATH, systemd1.MANAGER, "Version") == first.version

    asyncio.run(go())


@needs_root
@needs_built
def test_a_failure_inside_ends_the_machine() -> None:
    """An exception in the block comes out as it is, after the machine's end."""
    names = []

    async def go() -> None:
        async with ContainerTarget.open(SUITE) as machine:
            names.append(machine.name)
            raise LookupError("ours")

    with pytest.raises(LookupError, match="ours"):
        asyncio.run(go())
    assert left_of(names[0]) == []


@needs_root
@needs_built
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_a_killed_cgrace_takes_its_machine_along(number: signal.Signals) -> None:
    """After kill -9 the machine is dead at once and a sweep removes its cgroups; after Ctrl-C nothing is left."""
    child, name, pid = start_one()
    with child:
        handle = os.pidfd_open(pid)
        child.send_signal(number)
        asyncio.run(boot_gone(handle))
    if number == signal.SIGKILL:
        sweep()
    assert left_of(name) == []


def start_one(booted_by: str = "", suite: str = SUITE) -> tuple[subprocess.Popen[bytes], str, int]:
    """Another cgrace with a machine: its process, the machine's name, its PID 1."""
    code = f"""
import asyncio
from cgrace.harness.targets.container import ContainerTarget
async def go():
    async with ContainerTarget.open({suite!r}, booted_by={booted_by!r}) as machine:
        print(machine.name, machine.init_pid, flush=True)
        await asyncio.Event().wait()
asyncio.run(go())
"""
    child = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, start_new_session=True
    )
    assert child.stdout is not None
    name, pid = child.stdout.readline().split()
    return child, name.decode(), int(pid)


async def boot_gone(handle: int) -> None:
    """Wait for the end of the process behind a pidfd."""
    loop = asyncio.get_running_loop()
    gone = loop.create_future()
    loop.add_reader(handle, lambda: gone.done() or gone.set_result(None))
    async with asyncio.timeout(10):
        await gone
    loop.remove_reader(handle)
    os.close(handle)


def lone_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Use a cache with nothing but cgrace-boot, where that is built; the folders of those."""
    built = list((cache.cache_root() / "builds").glob("cgrace-boot-*"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    for path in built:
        shutil.copytree(path, tmp_path / "cgrace/builds" / path.name)
    return built


def fake_root(suite: str) -> Path:
    """An entry that looks whole and has no systemd."""
    folder = roots._entry_folder(suite)
    for name in ("root/usr/lib/systemd", "root/proc", "root/sys", "root/dev", "root/run", "mnt"):
        (folder / name).mkdir(parents=True)
    (folder / roots.NOTE_FILE).write_text("{}")
    return folder


async def boot_fails(suite: str = "broken", booted_by: str = "") -> TargetError:
    """Open a machine that cannot boot."""
    with pytest.raises(TargetError) as caught:
        async with ContainerTarget.open(suite, booted_by=booted_by):
            pass
    assert left_of(owner.own_name()) == []
    return caught.value


@needs_root
def test_a_root_without_systemd_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A root that has no systemd is an error that says so, and leaves nothing."""
    lone_cache(tmp_path, monkeypatch)
    fake_root("broken")
    assert "has no systemd" in asyncio.run(boot_fails()).message


@needs_root
def test_an_init_that_ends_is_said_with_its_console(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A PID 1 that dies during boot is an error with the last lines of the console."""
    init_ends(tmp_path, monkeypatch)


def init_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, booted_by: str = "") -> None:
    """Boot a static program that says something and ends: our own, which wants other arguments."""
    built = lone_cache(tmp_path, monkeypatch)
    if not built:
        pytest.skip("cgrace-boot is not built here yet")
    folder = fake_root("broken")
    shutil.copy(built[0] / "cgrace-boot", folder / "root/usr/lib/systemd/systemd")
    error = asyncio.run(boot_fails(booted_by=booted_by))
    assert "PID 1 ended" in error.message
    assert "started by cgrace, not by hand" in error.detail


def test_a_console_without_commands() -> None:
    """What a terminal would take for commands does not reach an error message."""
    assert boot._plain("\x1b[0;32m  OK  \x1b[0m] Started\x07.\r") == "  OK  ] Started."


def test_a_suite_that_cannot_be_one() -> None:
    """Nothing that could be taken for an option or a path is handed to the builder."""
    for suite in ("--mode=x", "../etc", "a b", ""):
        with pytest.raises(TargetError):
            check_can_build(suite, "a root")


def test_a_missing_builder_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without mmdebstrap the error names the package."""
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setenv("PATH", "/nonexistent")
    with pytest.raises(TargetError) as caught:
        check_can_build("trixie", "a root")
    assert "apt install mmdebstrap" in caught.value.hint
