"""Target `container` for a user who is not root: in a user namespace, inside a booted container where they have a systemd."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import signal
import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Final

import pytest
from test_podman import needs_podman
from test_roots_tree import tree_of
from test_targets_container import SUITE
from test_targets_machine import cgroups, on_machine
from test_targets_user import UID, as_user, folder, log_in, own_cache

from cgrace.harness.errors import TargetError, UnavailableError
from cgrace.harness.targets import registry, rootless, roots, subtree, user
from cgrace.harness.targets.container import ContainerTarget
from cgrace.harness.targets.layout import HostHierarchy
from cgrace.harness.targets.subtree import Subtree

__all__ = ["folder"]  # a fixture
PROGRAMS: Final = ("setpriv", "unshare", "newuidmap", "tar")
pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="booting a systemd takes root"),
    pytest.mark.timeout(240),
]
needs_built = pytest.mark.skipif(not SUITE, reason="no root is built here yet (tests do not download one)")
needs_programs = pytest.mark.skipif(
    any(shutil.which(name) is None for name in PROGRAMS), reason=f"one of {', '.join(PROGRAMS)} is not installed"
)
# Boots one, runs a scenario on it, and boots another to be killed with.
_INSIDE: Final = """
import os, subprocess, sys
root, store, booted_by = sys.argv[1:]
target = f"container:{root}{booted_by and '@'}{booted_by}:v2"
words = ["run", "core/late_job_scope", "--target", target, "--driver", "today", "--store", store]
done = subprocess.run([sys.executable, "-m", "cgrace.harness.cli", *words], capture_output=True, text=True)
print(done.stdout[-3000:], done.stderr[-1000:])
assert done.returncode == 0
code = '''
import asyncio, os, signal, sys
from test_podman import conmons, conmons_of
from cgrace.harness.targets.container import ContainerTarget
from cgrace.harness.targets.rootless import settle
settle()
async def go():
    async with ContainerTarget.open(sys.argv[1], layout="v2", booted_by=sys.argv[2]) as machine:
        print(machine.version, "booted by", *open("/proc/self/uid_map").read().split(), flush=True)
        print(*conmons().values(), *conmons_of(machine.name), "conmon", flush=True)
        os.kill(os.getpid(), signal.SIGKILL)
asyncio.run(go())
'''
import asyncio
from cgrace.harness.targets import rootless, user
assert rootless.why_not() == "", rootless.why_not()
asyncio.run(user.delegate(user.bus_of(), "run-cgrace-test.scope", os.getpid()))
sys.stdout.flush()
os.execvp("unshare", ["unshare", *rootless.NAMESPACES, sys.executable, "-c", code, root, booted_by])
"""


@pytest.fixture
def archive(folder: Path) -> Path:
    """A root that is built here, as a tar that the user may read."""
    path = folder / "root.tar"
    root = roots.look_up(SUITE)
    assert root is not None
    left_out = [
        f"--exclude=./{name}/*" for name in ("dev", "var/cache", "var/lib/apt", "usr/share/i18n", "usr/share/zoneinfo")
    ]
    subprocess.run(["tar", "-C", root.folder / "root", *left_out, "-cf", path, "."], check=True)
    path.chmod(0o644)
    return path


@needs_built
@needs_programs
@pytest.mark.parametrize("built", [False, True], ids=["root", "tree"])
@pytest.mark.parametrize("booted_by", ["", pytest.param("podman", marks=needs_podman)])
def test_a_user_boots_a_container_and_nothing_is_left(folder: Path, archive: Path, booted_by: str, built: bool) -> None:
    """A scenario comes out on it as for root, its scope ends with it, and one that is killed takes its machine along: with the
    suite's own systemd, and with one that somebody has built."""
    place, version = str(archive), "2"
    if built:
        version = tree_of(SUITE, folder / "built")
        place = f"{archive}+{folder}/built"

    async def body(machine: ContainerTarget) -> None:
        await own_cache(folder)
        async with machine.sandbox() as sandbox:
            manager = await log_in(machine)
            words = (place, str(folder / "store"), booted_by)
            status, text = await as_user(sandbox, manager, folder, _INSIDE, *words)
            assert status == -signal.SIGKILL, text
            assert "1 case: 1 clean" in text, text
            assert bool(re.search(r"^(\d+) \1 conmon$", text, re.MULTILINE)) == (booted_by == "podman"), text
            assert re.search(rf"^{re.escape(version)}\S* booted by 0 {UID} 1 1 \d+ \d+", text, re.MULTILINE), text
            status, said = await as_user(sandbox, manager, folder, user_clean(), "")
            assert status == 0, said
            assert cgroups(machine, "run-cgrace*") == []
        assert machine.dirty == ""

    on_machine(body, "v2")


def user_clean() -> str:
    """Waits until the user's systemd has seen the scope's end, then sweeps."""
    return """
import asyncio
from cgrace.harness.targets import user
from cgrace.harness.targets.bus_client import BusClient
from cgrace.harness.targets.sweep import sweep
async def go():
    async with asyncio.timeout(10), BusClient(user.bus_of()) as bus:
        while True:
            (rows,) = (await bus.call("org.freedesktop.systemd1", "/org/freedesktop/systemd1",
                "org.freedesktop.systemd1.Manager", "ListUnits")).body
            if not any(row[0].startswith("run-cgrace") for row in rows):
                return
            await asyncio.sleep(0.05)
asyncio.run(go())
assert not [one for one in sweep() if one.problem]
"""


def test_what_a_user_lacks_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """First what target user lacks, then the programs, then subordinate ids; and inside it is not entered again."""
    monkeypatch.delenv(rootless.ENTERED, raising=False)
    monkeypatch.setattr(user, "why_not", lambda: "no systemd")
    assert rootless.why_not() == "no systemd"
    monkeypatch.setattr(user, "why_not", lambda: "")
    monkeypatch.setattr(rootless, "find_program", lambda name: None if name == "newuidmap" else "/bin/true")
    assert "apt install uidmap" in rootless.why_not()
    monkeypatch.setattr(rootless, "find_program", lambda _: "/bin/true")
    ids = tmp_path / "subuid"
    ids.write_text("others:100000:65536\n")
    monkeypatch.setattr(rootless, "RANGES", (str(ids),))
    assert "usermod" in rootless.why_not()
    ids.write_text(f"{os.getuid()}:100000:65536\n")
    assert rootless.why_not() == ""
    monkeypatch.setenv(rootless.ENTERED, "1")
    assert "already" in rootless.why_not()


def test_who_is_not_root_has_v2_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cases of cgroup v1 are not planned on a container there; where one has nothing else, it is listed, and no failure."""

    async def built(*_: object, **__: object) -> SimpleNamespace:
        return SimpleNamespace(note={"packages": {"systemd": "257.13-1"}})

    def taken(*_: object) -> None:
        raise TargetError("another cgrace has it")

    monkeypatch.setattr(registry, "build_root", built)
    monkeypatch.setattr(subtree, "host_hierarchies", lambda: ())
    theirs = HostHierarchy(name="net_cls", controllers=("net_cls",), options=(("net_cls", None),), own="/")
    monkeypatch.setattr(subtree, "choose", lambda *_: (theirs,))
    monkeypatch.setattr(subtree, "_grow", taken)
    name = registry.parse_target("container:/root.tar@podman")
    monkeypatch.delenv(rootless.ENTERED, raising=False)
    assert asyncio.run(registry.describe(name)).layouts == ("v1", "v2")
    with pytest.raises(TargetError) as caught:
        Subtree.open("v1", "cgrace-test")
    assert not isinstance(caught.value, UnavailableError)
    monkeypatch.setenv(rootless.ENTERED, "1")
    assert asyncio.run(registry.describe(name)).layouts == ("v2",)
    with pytest.raises(UnavailableError, match="who is not root has v2 alone"):
        Subtree.open("v1", "cgrace-test")


def test_a_machine_without_any_controller_of_v1(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cases of cgroup v1 are listed there with the reason, and no failure: it does not matter how often they are tried."""
    monkeypatch.setattr(subtree, "host_hierarchies", lambda: ())
    monkeypatch.setattr(subtree, "choose", lambda *_: ())
    with pytest.raises(UnavailableError, match="needs a cgroup v1 controller"):
        Subtree.open("v1", "cgrace-test")
