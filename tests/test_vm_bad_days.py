"""Virtual machines on a bad day: each ends with one clear message and the console's last lines, and nothing of it is left.

They boot where that was asked for: CGRACE_TEST_VM=vm:sid:v2.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import tempfile
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import pytest
from test_bad_days import Desk, wait_for

from cgrace.harness.errors import TargetError
from cgrace.harness.proc.workers import WorkerDied
from cgrace.harness.targets import images, owner, vm_suite
from cgrace.harness.targets.linux import mount_detached
from cgrace.harness.targets.remote import RemoteVm, open_machine, parse_remote
from cgrace.harness.targets.vm import VmTarget
from cgrace.harness.targets.vm_suite import SuiteGuest

BOOT = os.environ.get("CGRACE_TEST_VM", "")
CASE = ("run", "core/late_job", "--driver", "today", "--target", BOOT)
UNDER_WAY_S_MAX = 600.0
GONE_S_MAX = 20.0

pytestmark = [
    pytest.mark.skipif(not BOOT, reason="boots machines for minutes: CGRACE_TEST_VM=vm:sid:v2"),
    pytest.mark.timeout(1500),
]


def left_of(name: str) -> list[str]:
    """Processes that were started for, or stand in, a machine's folder, mounts of it, and the folder itself."""
    found = [str(path) for path in Path(tempfile.gettempdir()).glob(f"{name}*")]
    found += [line for line in Path("/proc/self/mounts").read_text().splitlines() if name in line]
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            words, place = (entry / "cmdline").read_bytes().decode(errors="replace"), str((entry / "cwd").readlink())
        except OSError:
            continue
        if f"{name}-c" in words or f"{name}-c" in place:
            found.append(f"process {entry.name}: {words}")
    return found


@pytest.fixture(autouse=True)
def nothing_left() -> Iterator[None]:
    """Nothing of this process's machines is there afterwards."""
    yield
    assert left_of(owner.own_name()) == []


def fails(what: Callable[[], Coroutine[Any, Any, None]]) -> TargetError:
    """The error that it ends with."""
    with pytest.raises(TargetError) as caught:
        asyncio.run(what())
    return caught.value


def boot(words: str, layout: str = "v2") -> Callable[[], Coroutine[Any, Any, None]]:
    """Boot the suite's image with more words on its kernel's command line, and no further."""

    async def go() -> None:
        image = await images.build_image(parse_remote(BOOT).which)
        async with VmTarget.open(SuiteGuest(image, words), layout=layout):
            raise AssertionError("it was not to boot")

    return go


def test_a_guest_that_panics_at_boot() -> None:
    """Its kernel finds no init: that is said at once, with its own words."""
    error = fails(boot("rdinit=/nowhere"))
    assert "did not boot: the guest's kernel panicked" in error.message
    assert "Kernel panic" in error.detail


def test_a_guest_that_panics_and_stands_still() -> None:
    """The same where the kernel is told to stay as it is: nobody waits for ssh."""
    error = fails(boot("rdinit=/nowhere panic=0"))
    assert "the guest's kernel panicked" in error.message and "Kernel panic" in error.detail


def test_a_guest_that_hangs_at_boot(monkeypatch: pytest.MonkeyPatch) -> None:
    """It comes up without sshd: the patience ends, and what is on the console is shown."""
    monkeypatch.setattr(vm_suite, "BOOT_S_MAX", 60.0)
    error = fails(boot("systemd.unit=emergency.target"))
    assert "did not boot: no ssh within 60 s" in error.message
    assert "cgrace-vminit: started" in error.detail


def test_a_host_without_room(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the guest writes finds no room: that is its end, at once, and it is said as that."""
    room = mount_detached("tmpfs", {"size": "24m"})  # attached nowhere: it goes with this process, however that ends
    monkeypatch.setattr(tempfile, "tempdir", f"/proc/{os.getpid()}/fd/{room}")

    async def go() -> None:
        image = await images.build_image(parse_remote(BOOT).which)
        async with VmTarget.open(SuiteGuest(image), layout="v2") as target:
            with contextlib.suppress(TargetError):
                await target.channel.run("dd if=/dev/urandom of=/fill bs=1M count=64; sync")
            assert "no room" in await asyncio.wait_for(asyncio.shield(target.stopped), 10)
            raise target.channel.lost()

    try:
        error = fails(go)
        assert "was lost" in error.message and "this machine has no room" in error.detail
    finally:
        os.close(room)


def test_a_booted_machine() -> None:
    """Its disk is full: the snapshot makes room again. Its kernel panics in the middle: whoever waits hears of it at once."""

    async def look() -> None:
        async with open_machine(BOOT) as machine:
            assert isinstance(machine, RemoteVm)
            await machine.reset()
            filled = await machine.channel.run("for n in 1 2 3 4 5; do fallocate -l 500M /fill$n || exit; done")
            assert not filled.ok and "No space left" in filled.stderr.decode()
            await machine.reset()
            assert (await machine.channel.run("echo more > /more && ! test -e /fill1")).ok
            async with machine.worker("cgrace.harness.targets.remote_echo") as worker:
                assert await worker.ask("before") == "before"
                await machine.channel.run("(sleep 1; echo c > /proc/sysrq-trigger) > /dev/null 2>&1 &")
                with pytest.raises(WorkerDied):
                    await worker.ask("sleep")
                error = await machine.why_lost(worker)
                assert "was lost" in error.message and "the guest's kernel panicked" in error.detail
                assert "Kernel panic" in error.detail

    asyncio.run(look())


def started(desk: Desk, word: str) -> tuple[subprocess.Popen[str], str]:
    """A run that has come so far, and the name that its machines bear."""
    process = desk.start(*CASE)
    assert process.stderr is not None
    for line in process.stderr:
        if word in line:
            break
    else:
        raise AssertionError(process.communicate())
    name = next(path.name for path in desk.tmp.iterdir() if path.name.startswith(f"cgrace-{process.pid}-"))
    return process, name.rpartition("-c")[0] or name


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    """Folders of a command's own, but with the machine's cache."""
    return Desk(tmp_path)


def qemu_of(desk: Desk, name: str) -> int:
    """The pid of the machine's QEMU."""
    notes = list(desk.tmp.glob(f"{name}-c*/qemu.pid"))
    return int(notes[0].read_text().split()[0]) if notes else 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_a_command_that_ends_while_its_machine_boots(desk: Desk, number: signal.Signals) -> None:
    """Interrupted it leaves nothing; killed it takes QEMU along, and the next sweep takes the folder."""
    process, name = started(desk, "under tcg")
    wait_for(lambda: qemu_of(desk, name), UNDER_WAY_S_MAX)
    process.send_signal(number)
    process.communicate(timeout=60)
    assert process.returncode == (130 if number == signal.SIGINT else -number)
    wait_for(lambda: not [one for one in left_of(name) if one.startswith("process")], GONE_S_MAX)
    if number == signal.SIGKILL:
        desk.run("clean")
    assert not list(desk.tmp.glob("cgrace-*"))


def test_a_machine_that_is_killed_in_the_middle(desk: Desk) -> None:
    """Its case is inconclusive, the command cannot tell and says why; the next command works."""
    process, name = started(desk, "putting cgrace")
    os.kill(qemu_of(desk, name), signal.SIGKILL)
    said = process.communicate(timeout=120)
    assert process.returncode == 2, said
    assert "qemu ended" in said[0] + said[1] and "Traceback" not in said[0] + said[1]
    assert not list(desk.tmp.glob("cgrace-*")) and left_of(name) == []


def test_the_next_command_works_without_a_network(desk: Desk) -> None:
    """After all that, with no network but this machine's own, a case runs on a machine from the cache."""
    up = "ip link set lo up" if any(Path(place, "ip").exists() for place in ("/sbin", "/usr/sbin", "/bin")) else ":"
    words = ["unshare", "-n", "sh", "-c", f'{up} && exec "$@"', "sh", *desk.argv(*CASE)]
    done = subprocess.run(words, env=desk.env, capture_output=True, text=True, timeout=UNDER_WAY_S_MAX, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert not list(desk.tmp.glob("cgrace-*"))
