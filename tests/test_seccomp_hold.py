"""Holding a real process in a sandbox where it opens a cgroup's list of processes."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from test_targets_fake import in_sandbox, traces_of
from test_targets_sweep import child_of, wait_for_death

from cgrace.harness.errors import TargetError
from cgrace.harness.targets import filters
from cgrace.harness.targets.base import Spawned
from cgrace.harness.targets.fake import FakeTarget
from cgrace.harness.targets.notify import Handover, Listener, Opening
from cgrace.harness.targets.sandbox import FakeSandbox

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="target fake takes root (cgroups, namespaces)"),
    pytest.mark.skipif(bool(filters.available()), reason=filters.available() or "it can be had"),
    pytest.mark.timeout(60),
]
IN = "/sys/fs/cgroup/pids/a.slice"
JOIN = f"mkdir {IN}; echo $$ > {IN}/cgroup.procs"


@dataclass
class Held:
    """A supervised process, what it opened for writing, and how it ended."""

    spawned: Spawned
    listener: Listener
    ended: asyncio.Future[int]
    openings: asyncio.Queue[Opening] = field(default_factory=asyncio.Queue)

    async def of_cgroup(self) -> Opening:
        """The next opening of a list of processes; all others go on."""
        while True:
            opening = await self.openings.get()
            if opening.may_be(("cgroup.procs", "tasks")):
                return opening
            self.listener.go_on(opening)


@contextlib.asynccontextmanager
async def supervised(sandbox: FakeSandbox, argv: list[str], stdout: int | None = None) -> AsyncIterator[Held]:
    """Start a process under the filter."""
    ended: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    nothing = os.open(os.devnull, os.O_RDWR)
    handover = Handover()
    try:
        spawned = await sandbox.spawn(
            "held",
            argv,
            env={"PATH": os.defpath},
            stdin=nothing,
            stdout=stdout or nothing,
            stderr=nothing,
            role="driver",
            on_exit=ended.set_result,
            listener=handover.theirs,
        )
        held = Held(spawned, await handover.listener(), ended)
    finally:
        handover.close()
        os.close(nothing)
    held.listener.listen(held.openings.put_nowait)
    try:
        yield held
    finally:
        held.listener.close()


def shell(script: str) -> list[str]:
    return ["/bin/sh", "-c", script]


def on_shell(script: str, body: Callable[[FakeSandbox, Held], Awaitable[None]]) -> None:
    """Run a body beside a shell script that is supervised in a sandbox."""

    async def run(target: FakeTarget, sandbox: FakeSandbox) -> None:
        async with supervised(sandbox, shell(script)) as held:
            await body(sandbox, held)

    in_sandbox(run)


def pids(sandbox: FakeSandbox) -> Path:
    """The run's root in the pids hierarchy."""
    found = next((h.root for h in sandbox.hierarchies if h.name == "pids"), None)
    if found is None:
        pytest.skip("this machine has no pids hierarchy of v1")
    return found


def state_of(tid: int) -> str:
    """The letter of a thread's state."""
    return Path(f"/proc/{tid}/stat").read_text().rsplit(")", 1)[1].split()[0]


def test_held_then_goes_on() -> None:
    """The call waits as long as we like, with the directory made and still empty; then it is carried out."""

    async def body(sandbox: FakeSandbox, held: Held) -> None:
        opening = await held.of_cgroup()
        folder = pids(sandbox) / "a.slice"
        assert opening.inner_path() == f"{IN}/cgroup.procs"
        assert opening.tid == held.spawned.pid_outer
        assert (folder / "cgroup.procs").read_text() == ""
        assert held.listener.waits(opening)
        assert state_of(opening.tid) == "S"
        held.listener.go_on(opening)
        held.listener.go_on(opening)  # twice does nothing
        assert await held.ended == 0
        assert not held.listener.waits(opening)

    on_shell(JOIN, body)


def test_directory_that_goes_meanwhile_is_missed() -> None:
    """What systemd does in row 1-4b: the directory goes while the process is held, and the open fails."""

    async def body(sandbox: FakeSandbox, held: Held) -> None:
        opening = await held.of_cgroup()
        (pids(sandbox) / "a.slice").rmdir()
        assert opening.inner_path() == f"{IN}/cgroup.procs"
        held.listener.go_on(opening)
        assert await held.ended == 2

    on_shell(JOIN, body)


@pytest.mark.parametrize(
    "script",
    [
        f"mkdir {IN}; cd {IN}; echo $$ > cgroup.procs",
        f"mkdir {IN}; exec 7<{IN}; echo $$ > /proc/self/fd/7/cgroup.procs",
        f"mkdir {IN}; echo $$ > /sys/fs/cgroup/cpu/../pids/a.slice/../a.slice/cgroup.procs",
    ],
    ids=["relative", "by descriptor", "roundabout"],
)
def test_every_way_to_say_it(script: str) -> None:
    """However the process spells the path, it is the same file."""

    async def body(sandbox: FakeSandbox, held: Held) -> None:
        opening = await held.of_cgroup()
        assert opening.inner_path() == f"{IN}/cgroup.procs"
        held.listener.go_on(opening)
        assert await held.ended == 0

    on_shell(script, body)


def test_nothing_else_is_heard_of() -> None:
    """Reading, making and removing directories, starting programs: the filter lets it through by itself."""

    async def body(sandbox: FakeSandbox, held: Held) -> None:
        assert await held.ended == 0
        assert held.openings.empty()
        assert not held.listener.asks()

    on_shell(f"mkdir {IN}; cat {IN}/cgroup.procs; ls /; rmdir {IN}", body)


def test_world_of_the_process_is_as_before() -> None:
    """It inherits none of our descriptors, may still gain privileges, and has the pid that it was given."""

    async def run(target: FakeTarget, sandbox: FakeSandbox) -> None:
        ours, theirs = os.pipe()
        script = "ls -l /proc/$$/fd; grep -E 'NoNewPrivs|Seccomp:' /proc/$$/status; echo pid $$"
        async with supervised(sandbox, shell(script), stdout=theirs) as held:
            os.close(theirs)
            assert await held.ended == 0
            text = os.read(ours, 65536).decode()
            os.close(ours)
            assert [line.split()[-3] for line in text.splitlines() if " -> " in line] == ["0", "1", "2"]
            assert "NoNewPrivs:\t0" in text
            assert "Seccomp:\t2" in text
            assert f"pid {held.spawned.pid}" in text

    in_sandbox(run)


def test_interrupted_call_comes_again() -> None:
    """A signal takes a held thread out of its call; when that begins anew it is the same thread's next opening."""
    script = (
        "import os, signal\n"
        "signal.signal(signal.SIGUSR1, lambda *_: None)\n"
        f"os.mkdir('{IN}')\n"
        f"open('{IN}/cgroup.procs', 'w').write('0')\n"
    )

    async def run(target: FakeTarget, sandbox: FakeSandbox) -> None:
        async with supervised(sandbox, [sys.executable, "-I", "-S", "-c", script]) as held:
            first = await held.of_cgroup()
            sandbox.signal(held.spawned.pid, signal.SIGUSR1)
            second = await held.of_cgroup()
            assert (first.tid, first.path) == (second.tid, second.path)
            assert not held.listener.waits(first)
            held.listener.go_on(second)
            assert await held.ended == 0

    in_sandbox(run)


def test_killed_while_held() -> None:
    """A held process dies at once of SIGKILL, and its sandbox ends without a trace."""

    async def body(sandbox: FakeSandbox, held: Held) -> None:
        opening = await held.of_cgroup()
        sandbox.signal(held.spawned.pid, signal.SIGKILL)
        assert await held.ended == -signal.SIGKILL
        assert not held.listener.waits(opening)
        held.listener.go_on(opening)
        await asyncio.sleep(0)  # the end of the last process must not wake us again and again
        assert not held.listener.asks()

    on_shell(JOIN, body)


def test_missing_program_is_said() -> None:
    """What cannot be started is named, as it is without a filter."""

    async def run(target: FakeTarget, sandbox: FakeSandbox) -> None:
        with pytest.raises(TargetError, match="/no/such: no such file"):
            async with supervised(sandbox, ["/no/such"]):
                pass

    in_sandbox(run)


def test_refused_filter_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    """A kernel that does not take the filter is a machine on which nothing can be held, and says so."""
    monkeypatch.setattr(filters, "program", lambda _, closes: bytes(8))

    async def run(target: FakeTarget, sandbox: FakeSandbox) -> None:
        with pytest.raises(TargetError, match="cannot be held inside a system call here"):
            async with supervised(sandbox, shell("true")):
                pass

    in_sandbox(run)


CHILD = f"""
import asyncio, os, sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
from test_seccomp_hold import JOIN, shell, supervised
from cgrace.harness.targets import owner
from cgrace.harness.targets.fake import FakeTarget

async def main():
    async with FakeTarget.open(["v1"]) as target, target.sandbox("v1") as sandbox:
        async with supervised(sandbox, shell(JOIN)) as held:
            await held.of_cgroup()
            print(owner.own_name(), sandbox.init_pid_outer, held.spawned.pid_outer, flush=True)
            await asyncio.Event().wait()

asyncio.run(main())
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT], ids=["SIGKILL", "SIGINT"])
def test_we_die_while_it_is_held(number: signal.Signals) -> None:
    """When cgrace dies, however, the held process and its sandbox end; what a kill left is removed by the next sweep."""
    with child_of(CHILD) as (child, (name, init, victim)):
        child.send_signal(number)
        child.wait(timeout=20)
        wait_for_death(int(init))
        wait_for_death(int(victim))
    in_sandbox(_nothing)  # opening a target sweeps
    assert not traces_of(name)


async def _nothing(target: FakeTarget, sandbox: FakeSandbox) -> None:
    pass
