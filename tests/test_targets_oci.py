"""A container booted by an OCI runtime: the same machine as cgrace's own boot makes, and nothing left of it however it ends."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

import pytest
from test_targets_container import SUITE, boot_fails, boot_gone, left_of, needs_built, needs_root, start_one
from test_targets_machine import answered, apply, driver, shell, workload

from cgrace.harness.errors import TargetError, UsageError
from cgrace.harness.proc.find import find_program
from cgrace.harness.proc.pidstat import stat_fields
from cgrace.harness.targets import oci, owner
from cgrace.harness.targets.container import ContainerTarget
from cgrace.harness.targets.oci import RUNTIMES, split_runtime
from cgrace.harness.targets.registry import parse_target
from cgrace.harness.targets.sweep import sweep

HERE = tuple(name for name in RUNTIMES if find_program(name))
needs_runtime = pytest.mark.skipif(not HERE, reason="neither runc nor crun is installed")
_SEEN = "cut -d' ' -f2,3 /proc/mounts | grep cgroup | sort; ls /sys/fs/cgroup; cat /proc/1/cgroup"


async def seen_on(booted_by: str, layout: str) -> str:
    """What a run sees on a machine that was booted so."""
    async with ContainerTarget.open(SUITE, layout=layout, booted_by=booted_by) as machine:
        async with machine.sandbox() as sandbox:
            one = await workload(sandbox)
            async with driver(sandbox) as shim:
                answered(await shim.call(apply("cgrace-t.slice", "-.slice", -1)))
                answered(await shim.call(apply("cgrace-x.scope", "cgrace-t.slice", one.pid)))
            text = await shell(sandbox, f"{_SEEN}; cat /proc/{one.pid}/cgroup")
        assert machine.dirty == ""
        return text.replace(str(one.pid), "PID")


@needs_root
@needs_built
@needs_runtime
@pytest.mark.timeout(90)
@pytest.mark.parametrize("layout", ["v1", "v2"])
@pytest.mark.parametrize("runtime", HERE)
def test_a_run_sees_the_same_machine(runtime: str, layout: str) -> None:
    """Hierarchies, where PID 1 is in them, and where a slice and a scope end up: as on a machine that cgrace boots itself."""
    assert asyncio.run(seen_on(runtime, layout)) == asyncio.run(seen_on("", layout))
    assert left_of(owner.own_name()) == []


@needs_root
@needs_built
@needs_runtime
@pytest.mark.timeout(60)
def test_a_killed_cgrace_takes_its_machine_along() -> None:
    """After kill -9 the keeper ends PID 1 and itself, and a sweep removes folder and cgroups."""
    child, name, pid = start_one(HERE[0])
    with child:
        handles = [os.pidfd_open(pid), os.pidfd_open(parent_of(pid))]
        child.send_signal(signal.SIGKILL)
    for handle in handles:
        asyncio.run(boot_gone(handle))
    sweep()
    assert left_of(name) == []


def parent_of(pid: int) -> int:
    """The pid of its parent."""
    fields = stat_fields(pid)
    assert fields is not None
    return int(fields[1])


@needs_root
@needs_built
def test_what_a_runtime_says_is_the_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A runtime that fails is quoted, and nothing of the machine is left."""
    program = tmp_path / "runc"
    program.write_text("#!/bin/sh\necho 'no such thing here' >&2\nexit 3\n")
    error = boot_by(program, monkeypatch)
    assert "runc create: exit status 3: no such thing here" in str(error)


def boot_by(program: Path, monkeypatch: pytest.MonkeyPatch) -> TargetError:
    """Have a script that fails boot a machine in place of the booter of its name."""
    program.chmod(0o755)
    monkeypatch.setattr(oci, "find_runtime", lambda _: str(program))
    return asyncio.run(boot_fails(SUITE, program.name))


def test_a_runtime_in_a_name(tmp_path: Path) -> None:
    """It stands behind the suite and before the layout, is no part of what a trace calls the target, and a path may hold an @."""
    name = parse_target("container:bookworm@runc:v1")
    assert (name.place, name.booted_by, name.layout, name.base) == ("bookworm", "runc", "v1", "container:bookworm")
    assert parse_target("container:bookworm@podman").booted_by == "podman"
    assert split_runtime("bookworm") == ("bookworm", "")
    assert split_runtime("/srv/a@b/root") == ("/srv/a@b/root", "")
    (folder := tmp_path / "a@b").mkdir()
    assert split_runtime(str(folder)) == (str(folder), "")
    with pytest.raises(UsageError) as caught:
        parse_target("container:bookworm@lxc")
    assert "container:bookworm@crun" in caught.value.hint


def test_a_runtime_that_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """The hint says the package, and that cgrace needs none."""
    monkeypatch.setattr(oci, "find_program", lambda _: None)
    with pytest.raises(TargetError) as caught:
        oci.find_runtime("crun")
    assert "apt install crun" in caught.value.hint
