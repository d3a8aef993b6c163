"""A container booted by podman: the same machine, podman's own state untouched, and nothing left of it however it ends."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
from test_targets_container import SUITE, boot_gone, init_ends, left_of, needs_built, needs_root, start_one
from test_targets_oci import boot_by, parent_of, seen_on

from cgrace.harness.commands import targets as targets_command
from cgrace.harness.drivers.gobuild import build_go_program, try_find_go
from cgrace.harness.errors import TargetError
from cgrace.harness.targets import oci, owner, podman
from cgrace.harness.targets.container import BOOT_SOURCE, ContainerTarget
from cgrace.harness.targets.sweep import sweep

LACKING = podman.missing()
needs_podman = pytest.mark.skipif(bool(LACKING), reason=f"not installed: {', '.join(LACKING)}")
needs_go = pytest.mark.skipif(try_find_go() is None, reason="no Go that is new enough")
# Where a podman that nobody told otherwise keeps what it knows.
_PODMANS_OWN = (
    "/var/lib/containers",
    "/run/containers",
    "/run/libpod",
    "/run/runc",
    "/run/crun",
    "/dev/shm",
    "/etc/cni",
    "/run/lock",
)


def conmons() -> dict[str, int]:
    """All conmon processes, by the container's name."""
    found = {}
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            words = (entry / "cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        if words[0].endswith(b"conmon") and b"-n" in words:
            found[words[words.index(b"-n") + 1].decode()] = int(entry.name)
    return found


def conmons_of(owner_name: str) -> list[int]:
    """Those of a machine, or of all machines of one cgrace."""
    return [pid for name, pid in conmons().items() if name.startswith(owner_name)]


def podmans_own() -> list[str]:
    """Every file there, with when it was changed."""
    paths = [path for place in _PODMANS_OWN for path in (Path(place), *Path(place).rglob("*")) if path.exists()]
    return [f"{path} {path.stat().st_mtime_ns}" for path in paths]


@needs_root
@needs_built
@needs_podman
@pytest.mark.timeout(90)
@pytest.mark.parametrize("layout", ["v1", "v2"])
def test_a_run_sees_the_same_machine(layout: str) -> None:
    """Hierarchies, where PID 1 is in them, and where a slice and a scope end up: as on a machine that cgrace boots itself."""
    before = podmans_own()
    assert asyncio.run(seen_on("podman", layout)) == asyncio.run(seen_on("", layout))
    assert left_of(owner.own_name()) == []
    assert conmons_of(owner.own_name()) == []
    assert podmans_own() == before


@needs_root
@needs_built
@needs_podman
@pytest.mark.timeout(60)
def test_podman_knows_whose_it_is() -> None:
    """Its container has the machine's name and a label with it."""

    async def labels() -> list[str]:
        async with ContainerTarget.open(SUITE, booted_by="podman") as machine:
            folder = machine.runtime_dir / "podman"
            assert len(conmons_of(machine.name)) == 1
            texts = [path.read_text() for path in (folder / "storage").glob("*-containers/containers.json")]
            return [name for text in texts for one in json.loads(text) for name in one["names"]] + [machine.name]

    *names, machine = asyncio.run(labels())
    assert names == [machine]


@needs_root
@needs_built
@needs_podman
@pytest.mark.timeout(60)
@pytest.mark.parametrize("victims", ["cgrace", "cgrace and keeper", "keeper", "conmon"])
def test_whoever_is_killed(victims: str) -> None:
    """After kill -9 of cgrace, of the keeper or of conmon, PID 1 and conmon end at once, and nothing is left after a sweep."""
    child, name, pid = start_one("podman")
    with child:
        (conmon,) = conmons_of(name)
        keeper = parent_of(conmon)
        assert Path(f"/proc/{keeper}/cmdline").read_bytes().startswith(b"cgrace-init\0keeper\0")
        handles = [os.pidfd_open(one) for one in (pid, conmon, keeper)]
        if "keeper" in victims:
            os.kill(keeper, signal.SIGKILL)
        if victims == "conmon":
            os.kill(conmon, signal.SIGKILL)
            os.kill(child.pid, signal.SIGINT)
        if "cgrace" in victims:
            child.kill()
        for handle in handles:
            asyncio.run(boot_gone(handle))
        if victims == "keeper":
            child.send_signal(signal.SIGINT)
    if "cgrace" in victims:
        sweep()
    assert left_of(name) == []


@needs_root
@needs_built
@needs_podman
@pytest.mark.timeout(60)
def test_interrupted_while_podman_works() -> None:
    """A cgrace that is interrupted before its machine is ready takes podman along."""

    async def go() -> None:
        async with ContainerTarget.open(SUITE, booted_by="podman"):
            await asyncio.Event().wait()

    async def cancelled(reached: Callable[[], object]) -> None:
        task = asyncio.ensure_future(go())
        async with asyncio.timeout(20):
            while not reached():  # noqa: ASYNC110 (what it looks at has no event to wait for)
                await asyncio.sleep(0.005)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    name = owner.own_name()
    tmp = Path(tempfile.gettempdir())
    for reached in (
        lambda: list(tmp.glob(f"{name}-c*/podman/hooks/*")),
        lambda: list(tmp.glob(f"{name}-c*/podman/storage/*-containers/*")),
        lambda: conmons_of(name),
    ):
        asyncio.run(cancelled(reached))
        assert left_of(name) == []
        assert conmons_of(name) == []


@needs_root
@needs_built
@needs_podman
def test_what_podman_says_is_the_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A podman that fails is quoted, and nothing of the machine is left."""
    program = tmp_path / "podman"
    program.write_text("#!/bin/sh\necho 'Error: not today' >&2\nexit 125\n")
    assert "podman create: exit status 125: Error: not today" in str(boot_by(program, monkeypatch))


@needs_root
@needs_podman
@pytest.mark.timeout(60)
def test_an_init_that_ends_is_said_with_its_console(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a PID 1 that dies at once wrote on its standard error, which conmon would give no terminal, is in the error."""
    init_ends(tmp_path, monkeypatch, "podman")


@needs_go
def test_the_hook_puts_ours_over_podmans(tmp_path: Path) -> None:
    """What the file has replaces what podman made of the same name; what it does not have stays."""
    program = asyncio.run(build_go_program(BOOT_SOURCE, "cgrace-boot"))
    (tmp_path / "config.json").write_text('{"linux": {"cgroupsPath": "/m"}, "hostname": "cgrace"}')
    theirs = '{"linux": {"cgroupsPath": "/libpod-1", "seccomp": {}}, "annotations": {"a": "b"}}'
    hook = [str(program), "hook", str(tmp_path / "config.json")]
    done = subprocess.run(hook, input=theirs, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == {
        "linux": {"cgroupsPath": "/m"},
        "hostname": "cgrace",
        "annotations": {"a": "b"},
    }
    assert subprocess.run(hook, input="no json", capture_output=True, text=True, check=False).returncode == 1


def test_what_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """By its packages: podman, conmon, and a runtime; in the error and in the list of targets."""
    monkeypatch.setattr(podman, "find_program", lambda _: None)
    monkeypatch.setattr(oci, "find_program", lambda _: None)
    with pytest.raises(TargetError) as caught:
        oci.find_runtime("podman")
    assert caught.value.message == "podman, conmon, crun are not installed"
    assert "apt install podman conmon crun" in caught.value.hint
    row = targets_command._podman(("v2",), capable=True)
    assert row.layouts == ("v2",)
    assert (row.ready, row.found) == (False, "no podman, no conmon, no crun")


def test_podman_keeps_all_in_the_machines_folder(tmp_path: Path) -> None:
    """Each folder that podman is told of, by words, by files or by environment, is below ours."""
    if not podman.find_runtimes():
        pytest.skip("neither crun nor runc is installed")
    told = podman.commands(
        program="/usr/bin/podman",
        folder=tmp_path,
        name="cgrace-1-2-c1",
        hostname="cgrace",
        root="/root",
        argv=["/init"],
        pid_file=str(tmp_path / "pid"),
    )
    words = told["create"][0]["words"]
    for option in ("--root", "--runroot", "--tmpdir", "--hooks-dir"):
        assert words[words.index(option) + 1].startswith(str(tmp_path))
    settings = podman.settings(tmp_path)
    assert str(tmp_path) in settings["storage.conf"]
    assert str(tmp_path) in settings["containers.conf"]
    assert f"HOME={tmp_path}" in told["env"]
