"""What is left after kill -9, and that a sweep removes exactly that."""

from __future__ import annotations

import contextlib
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from test_targets_fake import traces_of

from cgrace.harness.targets import owner, removal, subtree
from cgrace.harness.targets.layout import choose, host_hierarchies, v1_controllers_free
from cgrace.harness.targets.linux import detached_mount
from cgrace.harness.targets.sweep import Swept, sweep

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="target fake takes root (cgroups, namespaces)"),
    pytest.mark.timeout(60),
]
CHILD = """
import asyncio, os, sys
from cgrace.harness.targets import owner
from cgrace.harness.targets.fake import FakeTarget

async def main():
    async with FakeTarget.open(["v1", "v2"]) as target, target.sandbox("v1") as sandbox:
        nothing = os.open(os.devnull, os.O_RDWR)
        spawned = await sandbox.spawn(
            "w", ["workload"], env={}, stdin=nothing, stdout=nothing, stderr=nothing, role="workload", on_exit=print)
        for hierarchy in sandbox.hierarchies:
            (hierarchy.root / "a.slice").mkdir()
            if "freezer" in hierarchy.controllers:
                (hierarchy.root / "a.slice/cgroup.procs").write_text(str(spawned.pid_outer))
                (hierarchy.root / "a.slice/freezer.state").write_text(sys.argv[1])
        print(owner.own_name(), sandbox.init_pid_outer, spawned.pid_outer, flush=True)
        await asyncio.Event().wait()

asyncio.run(main())
"""
SET_UP = """
import asyncio
from cgrace.harness.targets import owner
from cgrace.harness.targets.fake import FakeTarget

async def main():
    print(owner.own_name(), flush=True)
    async with FakeTarget.open(["v1"], warm=4):
        await asyncio.Event().wait()

asyncio.run(main())
"""


@contextlib.contextmanager
def child_of(code: str, *arguments: str) -> Iterator[tuple[subprocess.Popen[bytes], list[str]]]:
    """A cgrace process of its own and the first line that it said."""
    argv = [sys.executable, "-c", code, *arguments]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, start_new_session=True) as child:
        assert child.stdout is not None
        try:
            yield child, child.stdout.readline().decode().split()
        finally:
            child.kill()


def wait_for_death(pid: int, seconds_max: float = 10.0) -> None:
    """Wait on the process itself, not on time."""
    with contextlib.suppress(ProcessLookupError):
        handle = os.pidfd_open(pid)
        try:
            assert select.select([handle], [], [], seconds_max)[0], f"process {pid} still runs"
        finally:
            os.close(handle)


def kinds_of(name: str, swept: list[Swept]) -> set[str]:
    """What kinds of things of an owner a sweep dealt with. A subset of what there was: others may sweep at the same time."""
    return {one.kind for one in swept if name in one.name}


@pytest.mark.parametrize("state", ["THAWED", "FROZEN"])
def test_killed_cgrace_leaves_nothing_after_a_sweep(state: str) -> None:
    """After kill -9 the processes die by themselves (the frozen ones by the sweep), and the sweep removes the rest."""
    with child_of(CHILD, state) as (child, (name, init, victim)):
        assert traces_of(name)
        child.kill()
        child.wait()
        if state == "THAWED":
            wait_for_death(int(init))
            wait_for_death(int(victim))
        swept = sweep()
    assert kinds_of(name, swept) <= {"cgroup", "folder"}
    assert not any(one.problem for one in swept)
    assert not traces_of(name)
    wait_for_death(int(init))
    wait_for_death(int(victim))


def test_sweep_leaves_the_living_alone() -> None:
    """Another cgrace process that runs keeps everything, and so does one whose pid means nothing here but holds its lock."""
    with child_of(CHILD, "THAWED") as (child, (name, init, victim)):
        # Sandboxes may still be warming, so processes come and go: these two stay.
        before = {trace for trace in traces_of(name) if not trace.startswith("/proc/")}
        before |= {f"/proc/{init}", f"/proc/{victim}"}
        assert not [one for one in sweep() if name in one.name]
        assert before <= set(traces_of(name))
        child.send_signal(signal.SIGINT)
        child.wait()
        assert not traces_of(name)
        wait_for_death(int(init))


def test_owner_in_another_pid_namespace_is_known_by_its_lock() -> None:
    """A name whose pid is nobody's here is spared while somebody holds its directory."""
    folder = Path(tempfile.gettempdir(), f"cgrace-999999999-{os.getpid()}")
    folder.mkdir(mode=0o700)
    try:
        fd = owner.lock(str(folder))
        assert not [one for one in sweep() if folder.name in one.name]
        os.close(fd)
        assert kinds_of(folder.name, sweep()) <= {"folder"}
        assert not folder.exists()
    finally:
        with contextlib.suppress(FileNotFoundError):
            folder.rmdir()


def test_folders_that_are_not_ours_are_spared() -> None:
    """Anybody may make a folder of such a name in /tmp: one that is open to others is not ours; neither is a symlink."""
    folder = Path(tempfile.gettempdir(), f"cgrace-999999998-{os.getpid()}")
    link = Path(tempfile.gettempdir(), f"cgrace-999999997-{os.getpid()}")
    folder.mkdir()
    folder.chmod(0o755)
    link.symlink_to(folder)
    try:
        sweep()
        assert folder.is_dir()
        assert link.is_symlink()
    finally:
        link.unlink()
        folder.rmdir()


def test_stale_tracefs_instance_is_removed() -> None:
    """The tracing instance of a dead owner goes, a living one's stays."""
    fd = detached_mount("tracefs")
    instances = Path(f"/proc/self/fd/{fd}/instances")
    stale, other = instances / f"cgrace-999999996-{os.getpid()}", instances / f"cgrace-{os.getpid()}x"
    try:
        stale.mkdir()
        other.mkdir()
        assert kinds_of(stale.name, sweep()) <= {"tracefs instance"}
        assert not stale.exists()
        assert other.exists()
    finally:
        for path in (stale, other):
            with contextlib.suppress(FileNotFoundError):
                path.rmdir()
        os.close(fd)


@pytest.mark.parametrize("steps", range(6))
def test_killed_in_the_middle_of_set_up(steps: int) -> None:
    """Wherever kill -9 hits while sandboxes are being made, a sweep removes all of it."""
    with child_of(SET_UP) as (child, (name,)):
        assert child.stdout is not None
        deadline = time.monotonic() + 5.0
        # The n-th thing of the owner's that can be seen is the moment: a folder, a cgroup, a process, ...
        while len(traces_of(name)) < 2 * steps and time.monotonic() < deadline:
            pass
        child.kill()
        child.wait()
        sweep()
        assert not traces_of(name)


def test_killed_stage_1_or_init_during_set_up() -> None:
    """A sandbox whose stages are killed while it is made is a TargetError or works; the target closes clean."""
    with child_of(SET_UP) as (child, (name,)):
        deadline = time.monotonic() + 5.0
        killed: set[int] = set()
        while len(killed) < 3 and time.monotonic() < deadline:
            for pid in children_of(child.pid) - killed:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
                    killed.add(pid)
        child.send_signal(signal.SIGINT)
        child.wait()
        assert killed
        assert not traces_of(name)


def children_of(pid: int) -> set[int]:
    """Direct children, by the main thread."""
    try:
        return {int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()}
    except OSError:
        return set()


def test_sweep_is_quick_when_there_is_nothing() -> None:
    """Every start sweeps, so it may cost no more than a few ms; the best of three tells."""
    sweep()
    times = []
    for _ in range(3):
        started = time.monotonic()
        sweep()
        times.append(time.monotonic() - started)
    assert min(times) < 0.010


def test_stranger_in_our_cgroup_is_named_and_not_killed() -> None:
    """A process that somebody else put into a cgroup of ours is neither moved nor killed: the error names it."""
    hierarchy = next(
        hierarchy for hierarchy in host_hierarchies() if "pids" in hierarchy.controllers or hierarchy.is_v2
    )
    fd = hierarchy.mount()
    root = Path(f"/proc/self/fd/{fd}/cgrace-999999995-{os.getpid()}")
    root.mkdir()
    with subprocess.Popen(["/bin/cat"], stdin=subprocess.PIPE) as stranger:
        try:
            (root / "cgroup.procs").write_text(str(stranger.pid))
            with pytest.raises(removal.TargetError, match=f"process {stranger.pid} is in it"):
                removal.remove_trees([str(root)])
            assert stranger.poll() is None
            assert root.is_dir()
        finally:
            stranger.kill()
            stranger.wait()
            removal.remove_trees([str(root)])
            os.close(fd)


def test_interrupt_during_a_run_leaves_nothing() -> None:
    """Ctrl-C ends the run and removes everything without a sweep."""
    with child_of(CHILD, "FROZEN") as (child, (name, init, victim)):
        child.send_signal(signal.SIGINT)
        assert child.wait(timeout=20) != 0
        assert not traces_of(name)
        wait_for_death(int(init))
        wait_for_death(int(victim))


WITHOUT_SYSTEMD = """
import asyncio, os
from cgrace.harness.targets.fake import FakeTarget

async def main():
    async with FakeTarget.open(["v1"]) as target, target.sandbox("v1") as sandbox:
        ended = asyncio.get_running_loop().create_future()
        (sandbox.runtime_dir / "x").write_text("seen")
        script = f"ls -A /run /run/systemd; cat /run/file /run/link /run/directory/file {sandbox.runtime_dir}/x"
        nothing = os.open(os.devnull, os.O_RDWR)
        await sandbox.spawn("sh", ["/bin/sh", "-c", script], env={"PATH": os.defpath}, stdin=nothing, stdout=1, stderr=1,
                            role="driver", on_exit=ended.set_result)
        assert await ended == 0

asyncio.run(main())
"""


@pytest.mark.skipif(shutil.which("unshare") is None, reason="needs unshare (util-linux) to hide /run/systemd")
def test_run_without_systemd_is_masked_and_the_rest_stays() -> None:
    """Where /run/systemd does not exist, inside it does, and everything else below /run is still there, sockets too."""
    script = (
        "mount -t tmpfs x /run && mkdir /run/directory /run/tmp && echo a > /run/file && ln -s file /run/link && "
        'echo b > /run/directory/file && TMPDIR=/run/tmp exec "$0" -c "$1"'
    )
    argv = ["unshare", "--mount", "/bin/sh", "-c", script, sys.executable, WITHOUT_SYSTEMD]
    done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=30)
    assert done.returncode == 0, done.stderr
    listing, _, rest = done.stdout.partition("/run/systemd:")
    assert listing.split() == ["/run:", "directory", "file", "link", "systemd", "tmp"]
    assert rest.split() == ["system", "a", "a", "b", "seen"]


def test_hierarchies_that_only_we_mounted_end_with_us(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a host with v2 only gets for layout v1 is gone from the kernel afterwards."""
    found = host_hierarchies()
    free = v1_controllers_free(Path("/proc/cgroups").read_text(), found)
    if not free:
        pytest.skip("every v1-only controller is in use on this machine")
    unified = tuple(hierarchy for hierarchy in found if hierarchy.is_v2)
    monkeypatch.setattr(subtree, "choose", lambda layout, _, __: choose(layout, unified, free))
    made = subtree.Subtree.open("v1", owner.own_name())
    try:
        assert {hierarchy.name for hierarchy in host_hierarchies()} >= set(free)
        assert [hierarchy.controllers for hierarchy in made.make_run("r1") if hierarchy.controllers] == [
            (name,) for name in free
        ]
    finally:
        made.close()
    assert not {hierarchy.name for hierarchy in host_hierarchies()} & set(free)


FORKED = CHILD.replace(
    "        await asyncio.Event().wait()",
    """        if os.fork() == 0:
            import signal
            while True:
                signal.pause()
        os.kill(os.getpid(), 9)""",
)


def test_init_dies_even_if_a_fork_of_cgrace_holds_its_socket() -> None:
    """The end of the control socket may be delayed by whoever inherited it; the death signal of the parent is not."""
    with child_of(FORKED, "THAWED") as (child, (name, init, victim)):
        child.wait()
        wait_for_death(int(init))
        wait_for_death(int(victim))
        os.killpg(child.pid, signal.SIGKILL)
        sweep()
        assert not traces_of(name)
