"""Runs on a booted machine: what a driver sees there, what is undone after it, and what bad days leave."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from test_targets_container import SUITE, boot_gone, left_of

from cgrace.harness.dbus import systemd1
from cgrace.harness.dbus.message import Variant
from cgrace.harness.drivers.base import Answer
from cgrace.harness.drivers.build import build
from cgrace.harness.drivers.catalogue import find
from cgrace.harness.drivers.shim import Shim, ShimGone
from cgrace.harness.engine.process import pipes
from cgrace.harness.errors import TargetError
from cgrace.harness.targets import filters, owner
from cgrace.harness.targets.base import Spawned
from cgrace.harness.targets.bus_client import BusClient
from cgrace.harness.targets.container import BUS_SOCKET_INSIDE, ContainerTarget
from cgrace.harness.targets.machine import MachineSandbox
from cgrace.harness.targets.notify import Handover
from cgrace.harness.targets.pool import ContainerPool
from cgrace.harness.targets.sweep import sweep

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="booting a systemd takes root"),
    pytest.mark.skipif(not SUITE, reason="no root is built here yet (tests do not download one)"),
    pytest.mark.timeout(90),
]
ENV = {"PATH": f"{os.defpath}:/usr/sbin:/sbin"}
AT_BUS = {**ENV, "DBUS_SYSTEM_BUS_ADDRESS": f"unix:path={BUS_SOCKET_INSIDE}"}
Body = Callable[[ContainerTarget], Awaitable[None]]


def on_machine(body: Body, layout: str = "v1") -> None:
    """Run `body` with a booted machine; nothing of it may be left."""

    async def go() -> None:
        async with ContainerTarget.open(SUITE, layout=layout) as machine:
            await body(machine)

    asyncio.run(go())
    assert left_of(owner.own_name()) == []


@contextlib.contextmanager
def null() -> Iterator[int]:
    """A descriptor of /dev/null."""
    fd = os.open(os.devnull, os.O_RDWR)
    try:
        yield fd
    finally:
        os.close(fd)


async def shell(sandbox: MachineSandbox, script: str) -> str:
    """The output of a shell script inside, which must succeed."""
    reader, writer = os.pipe()
    ended: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    argv = ["/bin/sh", "-ec", script]
    with null() as fd:
        await sandbox.spawn(
            "sh", argv, env=ENV, stdin=fd, stdout=writer, stderr=writer, role="driver", on_exit=ended.set_result
        )
    os.close(writer)
    status = await ended
    with os.fdopen(reader, "rb") as output:
        text = output.read().decode()
    assert status == 0, text
    return text


async def workload(sandbox: MachineSandbox, on_exit: Callable[[int], None] = lambda _: None) -> Spawned:
    """A process that waits until it is killed."""
    with null() as fd:
        return await sandbox.spawn(
            "w", ["workload"], env={}, stdin=fd, stdout=fd, stderr=fd, role="workload", on_exit=on_exit
        )


@contextlib.asynccontextmanager
async def driver(sandbox: MachineSandbox, env: Mapping[str, str] = AT_BUS) -> AsyncIterator[Shim]:
    """Today's driver, at the machine's own bus or where the environment says."""
    built = (await build([find("today")]))["today"]
    async with pipes() as (ours, theirs):
        await sandbox.spawn(
            "driver",
            [str(built.binary)],
            env=env,
            stdin=theirs[0],
            stdout=theirs[1],
            stderr=theirs[2],
            role="driver",
            on_exit=lambda _: None,
        )
    shim = Shim(*ours)
    await shim.start()
    try:
        assert (await shim.hello()).ok
        yield shim
    finally:
        shim.close()


def apply(unit: str, parent: str, pid: int) -> dict[str, Any]:
    """A request to a shim."""
    return {
        "id": unit,
        "op": "apply",
        "unit": unit,
        "parent": parent,
        "pid": pid,
        "fresh": True,
        "delegate": None,
        "resources": {"pids": 10},
    }


def answered(answer: Answer | ShimGone) -> Answer:
    """The answer, which must be a good one."""
    assert isinstance(answer, Answer)
    assert not answer.error, answer.error
    return answer


async def start_transient(bus: BusClient, unit: str, properties: list[tuple[str, Variant]]) -> None:
    """Manager.StartTransientUnit."""
    await bus.call(
        systemd1.NAME,
        systemd1.PATH,
        systemd1.MANAGER,
        "StartTransientUnit",
        "ssa(sv)a(sa(sv))",
        unit,
        "replace",
        properties,
        [],
    )


def where(pid: int) -> str:
    """/proc/PID/cgroup, "" when the process is gone."""
    try:
        return Path(f"/proc/{pid}/cgroup").read_text()
    except FileNotFoundError:
        return ""


def cgroups(machine: ContainerTarget, name: str) -> list[Path]:
    """Directories of that name anywhere in the machine's hierarchies."""
    return [path for hierarchy in machine.hierarchies for path in hierarchy.root.rglob(name)]


def test_a_driver_places_a_process_by_the_machine_s_systemd() -> None:
    """A slice and a scope become real cgroups, the process is in them, and the next run finds neither."""

    async def body(machine: ContainerTarget) -> None:
        for epoch in (1, 2):
            async with machine.sandbox() as sandbox:
                assert sandbox.epoch == epoch
                assert cgroups(machine, "a.slice") == []
                placed = await workload(sandbox)
                async with driver(sandbox) as shim:
                    answered(await shim.call(apply("a.slice", "-.slice", -1)))
                    answer = answered(await shim.call(apply("cgrace-x.scope", "a.slice", placed.pid)))
                assert dict(answer.paths)["pids"] == "/sys/fs/cgroup/pids/a.slice/cgrace-x.scope"
                there = where(placed.pid_outer)
                assert there.count(f"{sandbox.cgroup_prefix}/a.slice/cgrace-x.scope\n") == len(machine.hierarchies)
            assert machine.dirty == ""
            assert where(placed.pid_outer) == ""

    on_machine(body)


def test_what_a_driver_sees() -> None:
    """systemd is PID 1, /run/systemd has nothing but system/, a run's sockets are at the same path, pids translate."""

    async def body(machine: ContainerTarget) -> None:
        (machine.runtime_dir / "here").touch()
        async with machine.sandbox() as sandbox:
            said = await shell(
                sandbox, f"cat /proc/1/comm; find /run/systemd; ls {machine.runtime_dir}; cat /proc/self/cgroup"
            )
            assert said.splitlines()[:3] == ["systemd", "/run/systemd", "/run/systemd/system"]
            assert "here" in said
            assert ":pids:/\n" in said
            one = await workload(sandbox)
            assert (sandbox.outer(one.pid), sandbox.inner(one.pid_outer)) == (one.pid_outer, one.pid)
            assert (sandbox.outer(1), sandbox.inner(machine.init_pid)) == (machine.init_pid, 1)
            assert sandbox.name_of(one.pid) == "w"
            assert sandbox.inner(os.getpid()) is None
            journald = int((await shell(sandbox, "pidof systemd-journald")).split()[0])
            outer = sandbox.outer(journald)
            assert outer is not None and sandbox.inner(outer) == journald

    on_machine(body)


def test_a_v2_machine_keeps_its_root_free_of_processes() -> None:
    """Under v2 a run's processes sit in a leaf, which is no unit and stays for the next run."""

    async def body(machine: ContainerTarget) -> None:
        for _ in range(2):
            async with machine.sandbox() as sandbox:
                assert "0::/cgrace-run" in await shell(sandbox, "cat /proc/self/cgroup")
                await shell(sandbox, "mkdir /sys/fs/cgroup/cgrace-run/below /sys/fs/cgroup/beside")
            assert machine.dirty == ""
        assert cgroups(machine, "below") + cgroups(machine, "beside") == []

    on_machine(body, "v2")


def test_whatever_a_run_did_is_undone() -> None:
    """Failed, running, queued and stubborn units, hand-made and frozen cgroups, orphans, drop-ins, a stopped PID 1."""

    async def body(machine: ContainerTarget) -> None:
        root = Path(f"/proc/{machine.init_pid}/root")
        async with machine.sandbox() as sandbox, BusClient(machine.bus_path) as bus:
            stubborn = ["/bin/sh", "-c", "trap '' TERM; while :; do sleep 1; done"]
            for unit, command, more in (
                ("fails.service", ["/bin/false"], []),
                ("stays.service", stubborn, []),
                ("late.service", ["/bin/sleep", "99"], [("Type", Variant(signature="s", value="oneshot"))]),
                ("after.service", ["/bin/true"], [("After", Variant(signature="as", value=["late.service"]))]),
            ):
                start = Variant(signature="a(sasb)", value=[(command[0], command, False)])
                await start_transient(bus, unit, [("ExecStart", start), *more])
            (root / "run/systemd/system/stays.service.d").mkdir(parents=True)
            (root / "run/systemd/system/stays.service.d/ours.conf").write_text("[Unit]\nDescription=x\n")
            freezer = next(one for one in sandbox.hierarchies if "freezer" in one.controllers)
            one = await workload(sandbox)
            await shell(sandbox, f"mkdir -p {freezer.inner}/by/hand; sleep 99 >/dev/null 2>&1 &")
            (freezer.root / "by/hand/cgroup.procs").write_text(str(one.pid_outer))
            (freezer.root / "by/freezer.state").write_text("FROZEN")
            os.kill(machine.init_pid, signal.SIGSTOP)
        assert machine.dirty == ""
        assert not (root / "run/systemd/system/stays.service.d").exists()
        async with BusClient(machine.bus_path) as bus:
            answer = await bus.call(systemd1.NAME, systemd1.PATH, systemd1.MANAGER, "ListUnits")
            units = {row[0] for row in answer.body[0]}
        assert not units & {"fails.service", "stays.service", "late.service", "after.service"}
        assert cgroups(machine, "by") + cgroups(machine, "stays.service") == []
        assert "sleep" not in {path.read_text().strip() for path in machines_processes(machine)}

    on_machine(body)


def machines_processes(machine: ContainerTarget) -> list[Path]:
    """The `comm` files of what lives in the machine."""
    systemds = next(one for one in machine.hierarchies if not one.controllers)
    pids = [pid for path in systemds.root.rglob("cgroup.procs") for pid in path.read_text().split()]
    return [Path(f"/proc/{pid}/comm") for pid in pids]


def test_peers_that_were_restarted_serve_the_next_run() -> None:
    """After a reload, a re-execution, and a bus that was killed or stopped, the machine counts as it was."""

    async def ask(machine: ContainerTarget, member: str) -> None:
        async with BusClient(machine.bus_path) as bus:
            with contextlib.suppress(TargetError):  # who re-executes itself does not answer
                await bus.call(systemd1.NAME, systemd1.PATH, systemd1.MANAGER, member)

    async def body(machine: ContainerTarget) -> None:
        for member in ("Reload", "Reexecute"):
            async with machine.sandbox():
                await ask(machine, member)
            assert machine.dirty == ""
        for number in (signal.SIGSTOP, signal.SIGKILL):
            async with machine.sandbox() as sandbox:
                bus = sandbox.outer(int((await shell(sandbox, "pidof dbus-daemon")).split()[0]))
                assert bus is not None
                os.kill(bus, number)
            assert machine.dirty == ""

    on_machine(body)


def test_what_cannot_be_undone_is_said() -> None:
    """A run that stops a unit of the machine's own leaves it dirty, and so does one that changes the root's settings."""

    async def body(machine: ContainerTarget) -> None:
        async with machine.sandbox() as sandbox:
            pids = next(one for one in sandbox.hierarchies if "cpu" in one.controllers)
            before = (pids.root / "cpu.shares").read_text()
            (pids.root / "cpu.shares").write_text("99")
        assert "cpu.shares" in machine.dirty
        (pids.root / "cpu.shares").write_text(before)
        async with machine.sandbox():
            pass
        assert machine.dirty == ""
        async with machine.sandbox(), BusClient(machine.bus_path) as bus:
            unit = "systemd-journald-dev-log.socket"
            await bus.call(systemd1.NAME, systemd1.PATH, systemd1.MANAGER, "StopUnit", "ss", unit, "replace")
        assert "journald" in machine.dirty

    on_machine(body)


def test_a_machine_ends_with_frozen_processes() -> None:
    """A frozen process does not die of SIGKILL under v1, so it is thawed first."""

    async def body(machine: ContainerTarget) -> None:
        with pytest.raises(LookupError):
            async with machine.sandbox() as sandbox:
                freezer = next(one for one in sandbox.hierarchies if "freezer" in one.controllers)
                (freezer.root / "cold").mkdir()
                one = await workload(sandbox)
                (freezer.root / "cold/cgroup.procs").write_text(str(one.pid_outer))
                (freezer.root / "cold/freezer.state").write_text("FROZEN")
                os.kill(machine.init_pid, signal.SIGKILL)
                raise LookupError

    on_machine(body)


def test_the_parent_of_a_run_is_killed() -> None:
    """All that waits for it ends; the machine is dirty, as nobody knows what its children did."""

    async def body(machine: ContainerTarget) -> None:
        ended: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        async with machine.sandbox() as sandbox:
            await workload(sandbox, ended.set_result)
            os.kill(sandbox.init_pid_outer, signal.SIGKILL)
            assert await ended == -signal.SIGKILL
            assert sandbox.ended
            with pytest.raises(TargetError):
                await workload(sandbox)
        assert machine.dirty

    on_machine(body)


def test_the_machine_s_pid_1_is_killed() -> None:
    """The run hears of it at once, and leaving does not hang."""

    async def body(machine: ContainerTarget) -> None:
        ended: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        async with machine.sandbox() as sandbox:
            await workload(sandbox, ended.set_result)
            os.kill(machine.init_pid, signal.SIGKILL)
            async with asyncio.timeout(5):
                await machine.ended
                await ended
            assert sandbox.ended
        assert machine.dirty

    on_machine(body)


@pytest.mark.skipif(bool(filters.available()), reason=filters.available() or "it can be had")
def test_system_calls_can_be_held() -> None:
    """A supervised process on a machine waits where it opens a file, and goes on when it is let go."""

    async def body(machine: ContainerTarget) -> None:
        ended: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        async with machine.sandbox() as sandbox:
            handover = Handover()
            with null() as fd:
                argv = ["/bin/sh", "-c", "mkdir /sys/fs/cgroup/pids/a; echo $$ > /sys/fs/cgroup/pids/a/cgroup.procs"]
                spawned = await sandbox.spawn(
                    "held",
                    argv,
                    env=ENV,
                    stdin=fd,
                    stdout=fd,
                    stderr=fd,
                    role="driver",
                    on_exit=ended.set_result,
                    listener=handover.theirs,
                )
            listener = await handover.listener()
            handover.close()
            seen: asyncio.Future[None] = asyncio.get_running_loop().create_future()

            def opened(opening: Any) -> None:
                if opening.may_be(("cgroup.procs",)) and not seen.done():
                    assert ":pids:/" in where(spawned.pid_outer)
                    seen.set_result(None)
                listener.go_on(opening)

            listener.listen(opened)
            async with asyncio.timeout(10):
                await seen
                assert await ended == 0
            listener.close()
        assert machine.dirty == ""

    on_machine(body)


def test_a_pool_replaces_what_is_broken() -> None:
    """Runs on two machines, of which one is killed and another loses the parent of its run; every run gets a sound one."""
    seen: list[int] = []

    async def one(pool: ContainerPool, number: int) -> None:
        async with pool.sandbox("v1") as sandbox:
            assert "pristine" in await shell(sandbox, "test -d /sys/fs/cgroup/pids/left || echo pristine")
            await shell(sandbox, "mkdir /sys/fs/cgroup/pids/left")
            seen.append(sandbox.machine.init_pid)
            if number == 2:
                os.kill(sandbox.machine.init_pid, signal.SIGKILL)
            if number == 3:
                os.kill(sandbox.init_pid_outer, signal.SIGKILL)

    async def go() -> None:
        async with ContainerPool.open(SUITE, machines=2) as pool, asyncio.TaskGroup() as tasks:
            for number in range(8):
                tasks.create_task(one(pool, number))

    asyncio.run(go())
    assert len(seen) == 8
    assert 3 <= len(set(seen)) <= 4
    assert left_of(owner.own_name()) == []


def test_a_pool_says_why_nothing_boots() -> None:
    """Whoever waits for a machine hears why there is none; a layout that was not asked for is refused."""

    async def go() -> None:
        async with ContainerPool.open("no such suite", machines=1) as pool:
            with pytest.raises(TargetError, match="layout 'v2'"):
                async with pool.sandbox("v2"):
                    pass
            for _ in range(2):
                with pytest.raises(TargetError):
                    async with pool.sandbox("v1"):
                        pass

    asyncio.run(go())


def test_a_pool_ends_as_its_block_does() -> None:
    """An exception in the block comes out as it is, once every machine is gone."""

    async def go() -> None:
        async with ContainerPool.open(SUITE, machines=1) as pool, pool.sandbox():
            raise LookupError("ours")

    with pytest.raises(LookupError, match="ours"):
        asyncio.run(go())
    assert left_of(owner.own_name()) == []


def test_a_killed_cgrace_leaves_nothing_of_a_run() -> None:
    """After kill -9 in the middle of a run, machine and run are dead at once, and a sweep removes the cgroups."""
    code = f"""
import asyncio, os
from test_targets_machine import workload
from cgrace.harness.targets.pool import ContainerPool
async def go():
    async with ContainerPool.open({SUITE!r}) as pool, pool.sandbox() as sandbox:
        one = await workload(sandbox)
        for hierarchy in sandbox.hierarchies:
            (hierarchy.root / "a.slice").mkdir()
            if "cpuset" not in hierarchy.controllers:
                (hierarchy.root / "a.slice/cgroup.procs").write_text(str(one.pid_outer))
        print(sandbox.cgroup_prefix.split("/")[1], one.pid_outer, flush=True)
        await asyncio.Event().wait()
asyncio.run(go())
"""
    folder = str(Path(__file__).parent)
    with subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, env={**os.environ, "PYTHONPATH": folder}
    ) as child:
        assert child.stdout is not None
        name, pid = child.stdout.readline().split()
        handle = os.pidfd_open(int(pid))
        child.kill()
        asyncio.run(boot_gone(handle))
    sweep()
    assert left_of(name.decode()) == []
