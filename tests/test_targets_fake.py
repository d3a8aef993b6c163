"""Target `fake`: what a driver sees in a sandbox, and what is left of it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import pytest

from cgrace.harness.errors import TargetError
from cgrace.harness.targets import owner
from cgrace.harness.targets.base import Sandbox, Spawned
from cgrace.harness.targets.fake import FakeTarget
from cgrace.harness.targets.layout import host_hierarchies
from cgrace.harness.targets.sandbox import FakeSandbox

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="target fake takes root (cgroups, namespaces)"),
    pytest.mark.timeout(60),
]
SHELL = "/bin/sh"


def in_sandbox(
    body: Callable[[FakeTarget, FakeSandbox], Awaitable[None]], *, layout: str = "v1", warm: int = 1
) -> None:
    """Run `body` with a target and one sandbox of it; nothing of ours may be left behind."""

    async def run() -> None:
        async with FakeTarget.open([layout], warm=warm) as target, target.sandbox(layout) as sandbox:
            await body(target, sandbox)

    asyncio.run(run())
    assert not traces_of(owner.own_name())


def traces_of(name: str) -> list[str]:
    """Whatever on this machine bears the owner's name: cgroups, folders, processes in its cgroups.

    Zombies aside: those are the business of whoever adopted them.
    """
    found = [str(path) for path in Path("/tmp").glob(f"{name}*")]
    for hierarchy in host_hierarchies():
        fd = hierarchy.mount()
        for place in {"/", hierarchy.own}:
            path = Path(f"/proc/self/fd/{fd}{place}/{name}")
            found += [f"{hierarchy.name}:{place}"] if path.exists() else []
        os.close(fd)
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if name in (process / "cgroup").read_text() and (process / "stat").read_text().rsplit(")", 1)[1][1] != "Z":
                found.append(str(process))
    return found


@contextlib.contextmanager
def null() -> Iterator[int]:
    """A descriptor of /dev/null."""
    fd = os.open(os.devnull, os.O_RDWR)
    try:
        yield fd
    finally:
        os.close(fd)


def threads_of(pid: int) -> list[int]:
    """The thread ids of a process."""
    return [int(path.name) for path in Path(f"/proc/{pid}/task").iterdir()]


async def run_shell(sandbox: FakeSandbox, script: str) -> tuple[int, str]:
    """Exit status and output of a shell script inside."""
    reader, writer = os.pipe()
    ended: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    with null() as nothing:
        await sandbox.spawn(
            "sh",
            [SHELL, "-c", script],
            env={"PATH": os.defpath},
            stdin=nothing,
            stdout=writer,
            stderr=writer,
            role="driver",
            on_exit=ended.set_result,
        )
    os.close(writer)
    status = await ended
    with os.fdopen(reader, "rb") as output:
        return status, output.read().decode()


async def workload(sandbox: FakeSandbox, name: str = "w", on_exit: Callable[[int], None] = lambda _: None) -> Spawned:
    """A process that waits until it is killed."""
    with null() as nothing:
        return await sandbox.spawn(
            name, ["workload"], env={}, stdin=nothing, stdout=nothing, stderr=nothing, role="workload", on_exit=on_exit
        )


def test_pid_1_sits_at_the_root_of_every_v1_hierarchy() -> None:
    """What rc4 to rc6 read in /proc/1/cgroup is "/" everywhere."""

    async def body(_: FakeTarget, sandbox: FakeSandbox) -> None:
        status, text = await run_shell(sandbox, "cat /proc/1/cgroup")
        assert status == 0
        assert {line.split(":", 2)[2] for line in text.splitlines()} == {"/"}

    in_sandbox(body)


def test_v1_mounts_are_the_run_s_own() -> None:
    """A directory made inside appears below the run's root, and nothing of the host's tree shows inside."""

    async def body(_: FakeTarget, sandbox: FakeSandbox) -> None:
        made = " && ".join(f"mkdir {hierarchy.inner}/a.slice" for hierarchy in sandbox.hierarchies)
        status, text = await run_shell(sandbox, f"{made} && ls /sys/fs/cgroup")
        assert status == 0, text
        assert all((hierarchy.root / "a.slice").is_dir() for hierarchy in sandbox.hierarchies)
        assert {hierarchy.name for hierarchy in sandbox.hierarchies} <= set(text.split())
        assert "unified" not in text.split()

    in_sandbox(body)


def test_v2_is_mounted_on_the_cgroup_root() -> None:
    """With layout v2 the root is a cgroup2 file system, and PID 1 leaves its root cgroup empty."""

    async def body(_: FakeTarget, sandbox: FakeSandbox) -> None:
        status, text = await run_shell(sandbox, "stat -f -c %t /sys/fs/cgroup; grep ^0: /proc/1/cgroup")
        assert status == 0
        assert text.split() == ["63677270", "0::/init.scope"]
        assert (sandbox.hierarchies[0].root / "cgroup.procs").read_text() == ""

    in_sandbox(body, layout="v2")


def test_only_the_system_directory_of_systemd_is_visible() -> None:
    """Drivers ask for /run/systemd/system; nothing else of systemd may be there, least of all its private socket."""

    async def body(_: FakeTarget, sandbox: FakeSandbox) -> None:
        assert await run_shell(sandbox, "ls -A /run/systemd; ls -A /run/systemd/system") == (0, "system\n")

    in_sandbox(body)


def test_runtime_folder_is_private_and_visible_inside() -> None:
    """The sockets' folder has the same path on both sides and mode 0700."""

    async def body(_: FakeTarget, sandbox: FakeSandbox) -> None:
        (sandbox.runtime_dir / "x").write_text("hello")
        assert await run_shell(sandbox, f"cat {sandbox.runtime_dir}/x") == (0, "hello")
        assert sandbox.runtime_dir.stat().st_mode & 0o777 == 0o700

    in_sandbox(body)


def test_exit_statuses_are_decoded() -> None:
    """An exit code is >= 0, a signal is negative; children do not inherit ignored signals."""

    async def body(_: FakeTarget, sandbox: FakeSandbox) -> None:
        assert (await run_shell(sandbox, "exit 7"))[0] == 7
        assert (await run_shell(sandbox, "kill -TERM $$"))[0] == -signal.SIGTERM

    in_sandbox(body)


def test_pids_translate_both_ways() -> None:
    """Spawned processes by record, their children and threads by NSpid; strangers have no inner pid."""

    async def body(_: FakeTarget, sandbox: FakeSandbox) -> None:
        spawned = await workload(sandbox, "victim")
        assert sandbox.outer(spawned.pid) == spawned.pid_outer
        assert sandbox.inner(spawned.pid_outer) == spawned.pid
        assert sandbox.name_of(spawned.pid) == "victim"
        threads = threads_of(spawned.pid_outer)
        assert {sandbox.inner(thread) for thread in threads} == {spawned.pid}
        status, text = await run_shell(sandbox, "tail -f /dev/null > /dev/null 2>&1 & echo $!")
        assert status == 0, text
        child = int(text)
        outer = sandbox.outer(child)
        assert outer is not None
        assert sandbox.inner(outer) == child
        assert sandbox.name_of(child) == ""
        assert sandbox.inner(os.getpid()) is None
        assert sandbox.outer(1) == sandbox.init_pid_outer
        assert sandbox.outer(999_999_999) is None

    in_sandbox(body)


def test_signal_reaches_an_inner_pid() -> None:
    """A workload dies of what is sent to it; a pid that is gone is no error."""

    async def body(_: FakeTarget, sandbox: FakeSandbox) -> None:
        ended: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        spawned = await workload(sandbox, on_exit=ended.set_result)
        sandbox.signal(spawned.pid, signal.SIGKILL)
        assert await ended == -signal.SIGKILL
        sandbox.signal(spawned.pid, signal.SIGKILL)
        assert (await run_shell(sandbox, "true"))[0] == 0

    in_sandbox(body)


def test_program_that_does_not_exist() -> None:
    """A spawn that cannot be is a TargetError that names the program; the sandbox serves on."""

    async def body(_: FakeTarget, sandbox: FakeSandbox) -> None:
        with pytest.raises(TargetError, match="/no/such/program"):
            await sandbox.spawn(
                "x", ["/no/such/program"], env={}, stdin=0, stdout=1, stderr=2, role="driver", on_exit=print
            )
        assert (await run_shell(sandbox, "true"))[0] == 0

    in_sandbox(body)


def test_garbled_requests_do_not_kill_init() -> None:
    """Whatever comes over the control socket, init answers the next request."""

    async def body(_: FakeTarget, sandbox: FakeSandbox) -> None:
        control = sandbox._control
        assert control is not None
        for packet in (b"{", b"null", b"[1]", b'{"spawn": 3}', b"{}", b'{"spawn":"x","argv":["/bin/true"]}', b"\xff"):
            if b'"x"' not in packet:
                control._send_now(packet, ())
        assert (await run_shell(sandbox, "true"))[0] == 0
        assert len(control.garbled) == 6

    in_sandbox(body)


def test_workloads_and_cgroups_of_a_run_do_not_outlive_it() -> None:
    """The next run of the same cell finds neither the processes nor the cgroups of the one before, even frozen ones."""

    async def run() -> None:
        async with FakeTarget.open(["v1"], warm=0) as target:
            ended: asyncio.Future[int] = asyncio.get_running_loop().create_future()
            async with target.sandbox("v1") as first:
                spawned = await workload(first, on_exit=ended.set_result)
                for hierarchy in first.hierarchies:
                    (hierarchy.root / "a.slice").mkdir()
                    if "freezer" in hierarchy.controllers:
                        (hierarchy.root / "a.slice/cgroup.procs").write_text(str(spawned.pid_outer))
                        (hierarchy.root / "a.slice/freezer.state").write_text("FROZEN")
            assert await ended == -signal.SIGKILL
            async with target.sandbox("v1") as second:
                assert (second.cgroup_prefix, second.epoch) == (first.cgroup_prefix, 2)
                assert not any((hierarchy.root / "a.slice").exists() for hierarchy in second.hierarchies)

    asyncio.run(run())
    assert not traces_of(owner.own_name())


@pytest.mark.parametrize("spoil", ["setting", "mount"])
def test_a_cell_that_was_changed_is_not_used_again(spoil: str) -> None:
    """A run that changed its root's settings or init's mounts gets its cell retired."""

    async def run() -> None:
        async with FakeTarget.open(["v1"], warm=0) as target:
            async with target.sandbox("v1") as first:
                if spoil == "setting":
                    (first.hierarchies[0].root / "notify_on_release").write_text("1")
                else:
                    assert (await run_shell(first, "mount -t tmpfs x /tmp"))[0] == 0
            async with target.sandbox("v1") as second:
                assert second.cgroup_prefix != first.cgroup_prefix

    asyncio.run(run())


def test_death_of_init_is_told() -> None:
    """When init is killed, its children are reported as killed, later spawns are refused, and nothing stays."""

    async def body(target: FakeTarget, sandbox: FakeSandbox) -> None:
        ended: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        await workload(sandbox, on_exit=ended.set_result)
        os.kill(sandbox.init_pid_outer, signal.SIGKILL)
        assert await ended == -signal.SIGKILL
        with pytest.raises(TargetError, match="init has ended"):
            await workload(sandbox)
        async with target.sandbox("v1") as other:
            assert (await run_shell(other, "true"))[0] == 0

    in_sandbox(body)


def test_many_at_once() -> None:
    """Sandboxes are apart from each other."""

    async def run() -> None:
        async def one(target: FakeTarget) -> str:
            async with target.sandbox("v1") as sandbox:
                (sandbox.hierarchies[0].root / "mine").mkdir()
                await run_shell(sandbox, "true")
                return sandbox.cgroup_prefix

        async with FakeTarget.open(["v1"]) as target:
            async with asyncio.TaskGroup() as tasks:
                runs = [tasks.create_task(one(target)) for _ in range(8)]
            assert all(run.result().startswith(f"/{owner.own_name()}/r") for run in runs)

    asyncio.run(run())
    assert not traces_of(owner.own_name())


@pytest.mark.parametrize("turns", [0, 1, 2, 4, 8, 16, 40])
def test_cancelled_in_the_middle_of_set_up(turns: int) -> None:
    """Wherever a run is cancelled while it waits for its sandbox, nothing is left."""

    async def use() -> None:
        async with FakeTarget.open(["v1"]) as target, target.sandbox("v1"):
            await asyncio.Event().wait()

    async def run() -> None:
        task = asyncio.ensure_future(use())
        for _ in range(turns):
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(run())
    assert not traces_of(owner.own_name())


def test_failure_of_the_body_passes_through() -> None:
    """The first error is the one that comes out, and everything is removed."""

    async def body(_: FakeTarget, __: FakeSandbox) -> None:
        raise TargetError("the body's own")

    with pytest.raises(TargetError, match="the body's own"):
        in_sandbox(body)
    assert not traces_of(owner.own_name())


def test_satisfies_the_contract() -> None:
    """The type checker compares; this only keeps the assignment in sight."""

    async def body(_: FakeTarget, sandbox: FakeSandbox) -> None:
        contract: Sandbox = sandbox
        assert contract.layout == "v1"

    in_sandbox(body)
