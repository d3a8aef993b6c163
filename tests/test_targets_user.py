"""Target `user`: what keeps it from being had, and runs by a user who is not root, in a container where they have a systemd."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Iterator
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from types import SimpleNamespace
from typing import Final, cast

import pytest
import test_targets_machine
from test_targets_container import SUITE
from test_targets_machine import ENV, null, on_machine

from cgrace.harness.dbus import systemd1
from cgrace.harness.drivers.build import build
from cgrace.harness.drivers.catalogue import find
from cgrace.harness.drivers.gobuild import build_go_program
from cgrace.harness.drivers.shim import Shim
from cgrace.harness.engine.process import environment
from cgrace.harness.errors import TargetError
from cgrace.harness.targets import registry, user
from cgrace.harness.targets.bus_client import BusClient
from cgrace.harness.targets.container import BOOT_SOURCE, ContainerTarget
from cgrace.harness.targets.control import build_init
from cgrace.harness.targets.machine import MachineSandbox
from cgrace.harness.targets.rootless import RANGES
from cgrace.harness.targets.user import UserTarget

UID: Final = 1000
SERVICE: Final = f"user@{UID}.service"
HOME: Final = f"/run/user/{UID}"
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="booting a systemd takes root")
needs_built = pytest.mark.skipif(not SUITE, reason="no root is built here yet (tests do not download one)")
needs_setpriv = pytest.mark.skipif(shutil.which("setpriv") is None, reason="no setpriv (util-linux)")
# As `loginctl enable-linger` and dbus-user-session have it; the roots have neither a login manager nor that package.
_UNIT: Final = f"""[Service]
User={UID}
ExecStart=/lib/systemd/systemd --user --unit=basic.target
Environment=XDG_RUNTIME_DIR={HOME} HOME=/tmp
Type=notify
Delegate=yes
Slice=user-{UID}.slice
"""
_SOCKET: Final = "[Socket]\nListenStream=%t/bus\n"
_BUS: Final = """[Unit]
Requires=dbus.socket
[Service]
ExecStart=/usr/bin/dbus-daemon --session --address=systemd: --nofork --nopidfile --systemd-activation --syslog-only
"""
# Run as the user. Three runs: their units are gone after each, a stranger's is not. Then it stops what it is told to.
_INSIDE: Final = """
import asyncio, os, signal, sys
from pathlib import Path
from test_targets_machine import apply, answered, start_transient, workload
from test_targets_user import driver, scopes
from cgrace.harness.dbus.message import Variant
from cgrace.harness.targets.bus_client import BusClient
from cgrace.harness.targets.user import UserTarget

async def go(ends):
    async with UserTarget.open() as target:
        for turn in range(2):
            async with target.sandbox() as sandbox, BusClient(target.bus_path) as bus:
                one = await workload(sandbox)
                assert sandbox.inner(one.pid_outer) == one.pid == one.pid_outer
                async with driver(sandbox, target) as shim:
                    answered(await shim.call(apply("cgrace-t.slice", "-.slice", -1)))
                    paths = answered(await shim.call(apply("cgrace-x.scope", "cgrace-t.slice", one.pid))).paths
                where = Path(f"/proc/{one.pid}/cgroup").read_text()
                assert where.endswith("@1000.service/cgrace.slice/cgrace-t.slice/cgrace-x.scope\\n"), where
                sleep = [("ExecStart", Variant(signature="a(sasb)", value=[("/bin/sleep", ["sleep", "99"], False)]))]
                if not turn and ends == "well":
                    await start_transient(bus, "others.service", sleep)
                if ends == "killed":
                    os.kill(target.init_pid, signal.SIGSTOP)
                    os.kill(os.getpid(), signal.SIGKILL)
            assert target.dirty == "", target.dirty
            assert (await scopes(target.bus_path)) != []  # ours, from which the next run starts
    assert await scopes(target.bus_path) == [], await scopes(target.bus_path)
    print(target.version, "undone")

asyncio.run(go(sys.argv[1]))
"""
_CLEAN: Final = """
import asyncio
from cgrace.harness.targets.user import UserTarget
print(*(f"{one.kind} {one.name} {one.problem or 'removed'};" for one in asyncio.run(UserTarget.clean())))
"""


async def scopes(bus_path: str) -> list[str]:
    """Units with our prefix, the scope of a living cgrace among them; waits a moment for what is just ending."""
    async with BusClient(bus_path) as bus:
        for _ in range(50):
            (rows,) = (await bus.call(*systemd1.TO_MANAGER, "ListUnits")).body
            found = [row[0] for row in rows if row[0].startswith("cgrace")]
            if not found:
                break
            await asyncio.sleep(0.01)
    return found


def driver(sandbox: MachineSandbox, target: UserTarget) -> AbstractAsyncContextManager[Shim]:
    """Today's driver, at the user's own bus."""
    return test_targets_machine.driver(sandbox, environment(target.bus_path, str(target.runtime_dir), of_user=True))


async def log_in(machine: ContainerTarget) -> int:
    """Give the user a systemd with a bus; its pid as the machine sees it."""
    root = Path(f"/proc/{machine.init_pid}/root")
    run = root / HOME[1:]
    run.mkdir(parents=True)
    os.chown(run, UID, UID)
    with (root / "etc/passwd").open("a") as file:
        file.write(f"joe:x:{UID}:{UID}::/tmp:/bin/sh\n")
    wants = root / "etc/systemd/user/basic.target.wants"
    wants.mkdir(parents=True, exist_ok=True)
    (root / "etc/systemd/user/dbus.service").write_text(_BUS)
    (root / "etc/systemd/user/dbus.socket").write_text(_SOCKET)
    (wants / "dbus.service").symlink_to("../dbus.service")
    (root / f"run/systemd/system/{SERVICE}").write_text(_UNIT)
    async with asyncio.timeout(20), BusClient(machine.bus_path) as bus:
        await bus.call(*systemd1.TO_MANAGER, "Reload")
        await bus.subscribe(f"type='signal',sender='{systemd1.NAME}',member='JobRemoved'")
        await bus.call(*systemd1.TO_MANAGER, "StartUnit", "ss", SERVICE, "fail")
        async for said in bus.signals():
            if said.member == "JobRemoved" and said.body[2] == SERVICE:
                assert said.body[3] == "done", machine.console_tail()
                break
        return int(await bus.get(systemd1.unit_path(SERVICE), systemd1.SERVICE, "MainPID"))


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder that the user may go into; pytest closes those of its own to others."""
    made = Path(tempfile.mkdtemp(prefix="users-"))
    yield made
    shutil.rmtree(made, ignore_errors=True)


async def own_cache(folder: Path) -> None:
    """A cache that belongs to the user, with what a run needs."""
    programs = [await build_init(), await build_go_program(BOOT_SOURCE, "cgrace-boot")]
    for entry in (*(one.parent for one in programs), (await build([find("today")]))["today"].binary.parent):
        shutil.copytree(entry, folder / "cgrace/builds" / entry.name)
    for path, _, files in os.walk(folder):
        for name in (".", *files):
            os.chown(f"{path}/{name}", UID, UID)


def _opened(wanted: Path, scratch: Path) -> str:
    """Shell commands that show a folder to everybody, where one above it is root's alone (an interpreter below /root)."""
    closed = next((path for path in reversed(wanted.parents) if not path.stat().st_mode & 0o001), None)
    if closed is None:
        return ""
    aside = scratch / "aside"
    aside.mkdir(exist_ok=True)
    return (
        f"umask 022; mount --bind {closed} {aside}; mount -t tmpfs -o mode=755 tmpfs {closed}; mkdir -p {wanted}; "
        f"mount --bind {aside / wanted.relative_to(closed)} {wanted}; umount {aside}; "
    )


async def as_user(sandbox: MachineSandbox, manager: int, cache_home: Path, script: str, *words: str) -> tuple[int, str]:
    """Run a Python script as the user: its status, and what it said."""
    reader, writer = os.pipe()
    ended: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    runtime = f"/proc/{manager}/root{HOME}"
    env = {
        **ENV,
        "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *filter(None, sys.path)]),
        "XDG_RUNTIME_DIR": runtime,
        "PATH": os.environ["PATH"],
        "XDG_CACHE_HOME": str(cache_home),
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    # It may read what root may, as the interpreter and the cache can be root's alone; it has no other privilege.
    read = ("--inh-caps=-all,+dac_read_search", "--ambient-caps=+dac_read_search")
    ranges = cache_home / "ranges"
    ranges.write_text(f"{UID}:100000:65536\n")
    mounts = "".join(f"mount --bind {ranges} {file}; " for file in RANGES)
    mounts += _opened(Path(sys.base_prefix), cache_home)
    apart = ("/usr/bin/unshare", "--mount", "/bin/sh", "-ec", f'{mounts}exec "$@"', "sh")
    become = (shutil.which("setpriv") or "", f"--reuid={UID}", f"--regid={UID}", "--clear-groups", *read)
    with null() as fd:
        await sandbox.spawn(
            "user",
            [*apart, *become, sys.executable, "-c", script, *words],
            env=env,
            stdin=fd,
            stdout=writer,
            stderr=writer,
            role="driver",
            on_exit=ended.set_result,
        )
    os.close(writer)
    with os.fdopen(reader, "rb") as output:
        text = await asyncio.to_thread(output.read)
    return await ended, text.decode()


@needs_root
@needs_built
@needs_setpriv
@pytest.mark.timeout(240)
def test_runs_without_root_are_undone_and_one_that_was_killed_is_swept(folder: Path) -> None:
    """Slices and scopes go after each run, and a stranger's service stays; after kill -9 the user's systemd goes on, and `clean`
    ends what is left."""

    async def body(machine: ContainerTarget) -> None:
        await own_cache(folder)
        async with machine.sandbox() as sandbox:
            manager = await log_in(machine)
            status, text = await as_user(sandbox, manager, folder, _INSIDE, "well")
            assert status == 0, text
            assert f"{machine.version} undone" in text
            status, text = await as_user(sandbox, manager, folder, _INSIDE, "killed")
            assert status == -signal.SIGKILL, text
            status, text = await as_user(sandbox, manager, folder, _CLEAN)  # a systemd that is stopped would not answer
            assert (status, "unit cgrace-t.slice removed" in text) == (0, True), text
            status, text = await as_user(sandbox, manager, folder, _CLEAN)
            assert (status, text) == (0, "\n")

    on_machine(body, "v2")


def test_a_machine_with_cgroup_v1_has_none() -> None:
    """Where cgroup v2 is not alone the message says that, and what to do."""
    if Path("/sys/fs/cgroup/cgroup.controllers").exists():
        pytest.skip("cgroup v2 is alone here")

    async def go() -> None:
        async with UserTarget.open():
            pass

    with pytest.raises(TargetError, match="cgroup v1 is in use here") as caught:
        asyncio.run(go())
    assert "vm:trixie:v2" in caught.value.hint


def test_a_user_without_a_bus_is_told_what_helps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No runtime folder, a systemd without a bus, and one with a bus are told apart."""
    monkeypatch.setattr(user, "INNER_ROOT", str(tmp_path))
    (tmp_path / "cgroup.controllers").touch()
    monkeypatch.delenv("DBUS_SESSION_BUS_ADDRESS", raising=False)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    assert "loginctl enable-linger" in user.hint_for(user.why_not())
    (tmp_path / "systemd").mkdir()
    (tmp_path / "systemd/private").touch()
    assert "dbus-user-session" in user.hint_for(user.why_not())
    (tmp_path / "bus").touch()
    assert user.why_not() == ""
    monkeypatch.setenv("DBUS_SESSION_BUS_ADDRESS", f"unix:path={tmp_path}/bus,guid=1")
    assert user.bus_of() == f"{tmp_path}/bus"


def test_a_systemd_that_has_ended_is_said() -> None:
    """No more runs where the user's systemd is gone, as with their last session, and the hint is what keeps it."""

    async def go() -> None:
        ended = asyncio.get_running_loop().create_future()
        ended.set_result(None)
        alone = registry._Alone(cast(UserTarget, SimpleNamespace(layout="v2", dirty="the bus is gone", ended=ended)))
        async with alone.sandbox("v2"):
            pass

    with pytest.raises(TargetError, match="has ended meanwhile") as caught:
        asyncio.run(go())
    assert "enable-linger" in caught.value.hint
