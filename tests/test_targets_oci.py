"""A container booted by an OCI runtime: the same machine as cgrace's own boot makes, and nothing left of it however it ends."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

import pytest
from test_roots_tree import tree_of
from test_targets_container import SUITE, boot_fails, boot_gone, left_of, needs_built, needs_root, start_one
from test_targets_machine import answered, apply, driver, shell, workload

from cgrace.harness.cli import main
from cgrace.harness.errors import TargetError, UsageError
from cgrace.harness.proc.find import find_program
from cgrace.harness.proc.pidstat import stat_fields
from cgrace.harness.targets import oci, owner, podman
from cgrace.harness.targets.container import ContainerTarget
from cgrace.harness.targets.oci import BOOTERS, RUNTIMES, split_runtime
from cgrace.harness.targets.registry import parse_target
from cgrace.harness.targets.sweep import sweep

HERE = tuple(name for name in BOOTERS if find_program(name) and not (name == podman.PROGRAM and podman.missing()))
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
@pytest.mark.parametrize("runtime", [name for name in HERE if name in RUNTIMES])
def test_a_run_sees_the_same_machine(runtime: str, layout: str) -> None:
    """Hierarchies, where PID 1 is in them, and where a slice and a scope end up: as on a machine that cgrace boots itself."""
    assert asyncio.run(seen_on(runtime, layout)) == asyncio.run(seen_on("", layout))
    assert left_of(owner.own_name()) == []


@needs_root
@needs_built
@pytest.mark.timeout(60)
@pytest.mark.parametrize("booter", BOOTERS)
def test_what_somebody_has_built_is_booted(booter: str, tmp_path: Path) -> None:
    """An install tree is laid over the root for it, too: its systemd runs, and neither tree nor root is written to."""
    if booter not in HERE:
        pytest.skip(f"{booter} is not installed, or what it takes")
    version = tree_of(SUITE, tmp_path)
    (tmp_path / "usr/lib").mkdir(parents=True, exist_ok=True)
    (tmp_path / "usr/lib/ours").write_text("ours")
    before = sorted(path.name for path in tmp_path.rglob("*"))

    async def go() -> None:
        async with ContainerTarget.open(f"{SUITE}+{tmp_path}", booted_by=booter) as machine:
            assert machine.version == version
            seen = Path(f"/proc/{machine.init_pid}/root")
            assert (seen / "usr/lib/ours").read_text() == "ours" and (seen / "usr/bin/sh").exists()

    asyncio.run(go())
    assert sorted(path.name for path in tmp_path.rglob("*")) == before
    assert left_of(owner.own_name()) == []


@needs_root
@needs_built
@needs_runtime
@pytest.mark.timeout(60)
def test_a_build_that_does_not_boot_is_said_once(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """One message with its console, whoever boots it, and exit 2: not one for each of the cases."""
    version = tree_of(SUITE, tmp_path)
    (init,) = tmp_path.glob("**/systemd/systemd")
    init.write_text(f"#!/bin/sh\n# systemd {version} running in\necho this one ends >&2\n")
    for booter in ("", *HERE):
        target = f"container:{SUITE}+{tmp_path}{booter and '@'}{booter}"
        assert main(["run", "core", "--driver", "today", "--target", target]) == 2
        said = capfd.readouterr().err
        assert said.count("did not boot: its PID 1 ended") == 1
        assert said.count("\nthis one ends\n") == 1
    assert left_of(owner.own_name()) == []


@needs_root
@needs_built
@needs_runtime
@pytest.mark.timeout(60)
@pytest.mark.parametrize("built", [False, True], ids=["root", "tree"])
def test_a_killed_cgrace_takes_its_machine_along(built: bool, tmp_path: Path) -> None:
    """After kill -9 the keeper ends PID 1 and itself, and a sweep removes folder and cgroups; no mount is left."""
    suite = SUITE
    if built:
        tree_of(SUITE, tmp_path)
        suite = f"{SUITE}+{tmp_path}"
    child, name, pid = start_one(HERE[0], suite)
    with child:
        handles = [os.pidfd_open(pid), os.pidfd_open(parent_of(pid))]
        child.send_signal(signal.SIGKILL)
    for handle in handles:
        asyncio.run(boot_gone(handle))
    sweep()
    assert left_of(name) == []
    assert str(tmp_path) not in Path("/proc/self/mountinfo").read_text()


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
