"""The fake systemd on real cgroup v1 hierarchies, below directories of this test's own that are gone afterwards."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from fake_world import World

from cgrace.fakes.systemd.hierarchies import hierarchies_of, hierarchy_of
from cgrace.fakes.systemd.tree import KernelTree
from cgrace.harness.errors import TargetError
from cgrace.harness.targets.base import Hierarchy

Sleeper = subprocess.Popen[bytes]
MOUNTS = Path("/sys/fs/cgroup")
NAMES = ("systemd", "devices", "pids", "freezer")


@pytest.fixture
def hierarchies() -> Iterator[tuple[Hierarchy, ...]]:
    """Private directories in four hierarchies."""
    roots = [MOUNTS / name / f"cgrace-test-{os.getpid()}" for name in NAMES]
    made: list[Path] = []
    try:
        for root in roots:
            if not root.parent.is_dir():
                pytest.skip(f"no cgroup v1 hierarchy at {root.parent}")
            try:
                root.mkdir()
            except OSError as error:
                pytest.skip(f"cannot make {root}: {error.strerror}")
            made.append(root)
        found = hierarchies_of(roots)
        yield found
        with KernelTree(found) as tree:
            for each in found:
                tree.rmdir(each.name, "", keep_root=True)
    finally:
        for root in made:
            root.rmdir()


@pytest.fixture
def sleeper() -> Iterator[Sleeper]:
    """A process that waits."""
    with subprocess.Popen(["sleep", "60"]) as process:
        yield process
        process.kill()


def test_names_and_controllers(hierarchies: tuple[Hierarchy, ...]) -> None:
    """The mount table tells which hierarchy a directory is in."""
    assert [each.name for each in hierarchies] == list(NAMES)
    assert [each.controllers for each in hierarchies] == [(), ("devices",), ("pids",), ("freezer",)]


def test_directory_elsewhere(tmp_path: Path) -> None:
    """A directory outside every cgroup file system is refused, with what would do."""
    with pytest.raises(TargetError, match="not in a cgroup file system"):
        hierarchies_of([tmp_path])


def test_joined_mount() -> None:
    """cpu and cpuacct on one mount are one hierarchy, and its name is the mount's options."""
    line = "30 25 0:26 / /sys/fs/cgroup/cpu,cpuacct rw,nosuid shared:9 - cgroup cgroup rw,cpu,cpuacct"
    found = hierarchy_of(Path("/sys/fs/cgroup/cpu,cpuacct/x"), line)
    assert (found.name, found.controllers) == ("cpu,cpuacct", ("cpu", "cpuacct"))


def test_late_slice_loses_pids(hierarchies: tuple[Hierarchy, ...]) -> None:
    """Rows 1-4 on the kernel's own file system: pids is trimmed by 219-rhel7.4."""
    with KernelTree(hierarchies) as tree:
        world = World("219-rhel7.4", hierarchies=hierarchies, tree=tree)
        world.manager.stay_queued("cgrace-a.slice")
        world.start("cgrace-a.slice", Delegate=True)
        world.settle()
        world.make_everywhere("/cgrace.slice/cgrace-a.slice")
        world.manager.let_go("cgrace-a.slice")
        world.settle()
        assert world.where("/cgrace.slice/cgrace-a.slice") == {"systemd", "devices", "freezer"}


def test_scope_takes_and_kills_a_real_process(hierarchies: tuple[Hierarchy, ...], sleeper: Sleeper) -> None:
    """A scope's process is in its cgroup when the job has ended; the stop kills it and removes the directories."""
    with KernelTree(hierarchies) as tree:
        world = World("257", hierarchies=hierarchies, tree=tree, kill=os.kill)
        world.start("cgrace-a.scope", PIDs=[sleeper.pid], Slice="cgrace.slice")
        world.settle()
        path = "/cgrace.slice/cgrace-a.scope"
        assert tree.locate("systemd", sleeper.pid) == tree.locate("pids", sleeper.pid) == path
        assert tree.locate("devices", sleeper.pid) == "/cgrace.slice", (
            "the slice's siblings need it, the scope's do not"
        )
        assert world.do("GetUnitByPID", "u", sleeper.pid)[0].body[0].endswith("cgrace_2da_2escope")
        world.stop("cgrace-a.scope")
        world.settle()
        assert sleeper.wait(10) == -signal.SIGTERM
        world.settle()
        assert world.where(path) == set()
        assert world.manager.queued_jobs() == ()


def test_recursive_rmdir_keeps_what_is_busy(hierarchies: tuple[Hierarchy, ...], sleeper: Sleeper) -> None:
    """A directory with a process stays, and so do those above it; the rest goes."""
    with KernelTree(hierarchies) as tree:
        tree.mkdir("pids", "/a/empty")
        tree.mkdir("pids", "/a/busy")
        tree.attach("pids", "/a/busy", sleeper.pid)
        assert tree.rmdir("pids", "/a")
        assert tree.children("pids", "/a") == ("busy",)
        assert tree.procs("pids", "/a", recursive=True) == (sleeper.pid,)
        tree.attach("pids", "", sleeper.pid)
        assert tree.rmdir("pids", "/a")
        assert not tree.rmdir("pids", "/a"), "nothing was left to remove"
