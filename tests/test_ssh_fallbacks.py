"""What stands in for what an old kernel lacks, each by itself: pidfds, NSpid, lists of children, cgroup events, seccomp."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import errno
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import lacking
import pytest
from ssh_kit import NEWER

from cgrace.harness.cli import main
from cgrace.harness.commands.doctor_target import cannot_run
from cgrace.harness.engine import sight
from cgrace.harness.errors import TargetError, UnavailableError
from cgrace.harness.events import CgroupMade, CgroupRemoved, Event, WitnessLost
from cgrace.harness.points import parse_point
from cgrace.harness.proc.handle import ProcessHandle
from cgrace.harness.scenario.parse import load_tree
from cgrace.harness.targets import namespaces
from cgrace.harness.targets.base import Hierarchy
from cgrace.harness.targets.probe import Check
from cgrace.harness.targets.survey import Survey
from cgrace.harness.targets.survey_inside import HELD_CALLS, STANDSTILL, WITNESS
from cgrace.harness.witnesses import inotify, tracefs, waits
from cgrace.harness.witnesses.attribution import of_this_machine
from cgrace.harness.witnesses.inotify import InotifyWitness
from cgrace.harness.witnesses.tracefs import KernelRecord, KernelWitness, Subscription

SCENARIOS = Path(__file__).resolve().parent.parent / "scenarios"


@pytest.fixture(params=["pidfd", "none", "refused"])
def pidfds(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """With pidfds, on a kernel without, and under a filter that refuses them."""
    kind: str = request.param
    if kind != "pidfd":
        number = errno.ENOSYS if kind == "none" else errno.EPERM

        def pidfd_open(pid: int, flags: int = 0) -> int:
            raise OSError(number, os.strerror(number))

        monkeypatch.setattr(os, "pidfd_open", pidfd_open)
    return kind


@contextlib.contextmanager
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    """A child that waits."""
    with subprocess.Popen(["sleep", "60"]) as child:
        try:
            yield child
        finally:
            child.kill()


def test_the_end_of_a_child_is_told_once_and_not_reaped(pidfds: str) -> None:
    """Whoever started it can still collect its status."""

    async def wait() -> list[str]:
        told: list[str] = []
        ended = asyncio.Event()

        def tell() -> None:
            told.append("ended")
            ended.set()

        with sleeper() as child:
            handle = ProcessHandle(child.pid)
            assert handle.is_exact == (pidfds == "pidfd")
            handle.on_end(tell)
            handle.kill(signal.SIGKILL)
            await ended.wait()
            assert child.poll() == -signal.SIGKILL
            with pytest.raises(ProcessLookupError):
                handle.kill(signal.SIGKILL)
            handle.close()
            await asyncio.sleep(0.02)
        return told

    assert asyncio.run(wait()) == ["ended"]


def test_the_end_of_a_stranger_is_told(pidfds: str) -> None:
    """A grandchild is nobody whom we could wait for."""

    async def wait() -> None:
        parent = await asyncio.create_subprocess_exec(
            *("sh", "-c", "sleep 60 >/dev/null & echo $!; read line"), stdin=-1, stdout=-1
        )
        assert parent.stdout is not None and parent.stdin is not None
        handle = ProcessHandle(int(await parent.stdout.readline()))
        try:
            assert not handle.wait(0.02)
            os.kill(handle.pid, signal.SIGKILL)
            assert handle.wait(5)
            async with asyncio.timeout(5):
                await handle.ended()
        finally:
            handle.close()
            parent.stdin.close()
            await parent.wait()

    asyncio.run(wait())


def test_nobody_is_told_after_a_close(pidfds: str) -> None:
    """Letting go ends the watch, and no process is an error of its own."""

    async def wait() -> list[str]:
        told: list[str] = []
        with sleeper() as child:
            handle = ProcessHandle(child.pid)
            handle.on_end(lambda: told.append("ended"))
            handle.close()
            handle.close()
            child.kill()
            child.wait()
            await asyncio.sleep(0.02)
            with pytest.raises(ProcessLookupError):
                ProcessHandle(child.pid)
        return told

    assert asyncio.run(wait()) == []


def test_pids_without_nspid(monkeypatch: pytest.MonkeyPatch) -> None:
    """In our own namespace a pid is the same on both sides."""
    real = namespaces._status
    monkeypatch.setattr(
        namespaces, "_status", lambda pid: {key: value for key, value in real(pid).items() if key != "NSpid"}
    )
    me = os.getpid()
    assert not namespaces.tells_pids()
    assert (namespaces.levels(me), namespaces.inner_pid(me, me), namespaces.outer_pid(me, me)) == (1, me, me)
    assert namespaces.levels(2**22 + 1) == 0


def test_children_without_a_list(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every process is asked for its parent, and the answer is the same."""
    with sleeper() as child:
        listed = waits.sample(os.getpid()).children
        monkeypatch.setattr(waits, "lists_children", lambda: False)
        assert waits.sample(os.getpid()).children == listed
        assert child.pid in listed


class Shared:
    """As much of a machine's own systemd as a witness asks for."""

    cgroup_prefix = ""
    layout = "v1"

    def __init__(self, root: Path) -> None:
        self.hierarchies = (Hierarchy(name="devices", controllers=("devices",), root=root, inner="/"),)


def test_inotify_on_a_machine_that_others_use(tmp_path: Path) -> None:
    """Only what bears our prefix is told, wherever below slices it is; what others' services make is not even watched."""
    seen: list[Event] = []
    (tmp_path / "system.slice/others.service").mkdir(parents=True)
    with_us = [tmp_path / "system.slice/cgrace-x.scope", tmp_path / "cgrace.slice/cgrace-a.slice/sub"]

    async def scenario() -> None:
        with InotifyWitness() as witness:
            run = witness.attach(Shared(tmp_path), lambda event, _: seen.append(event))  # type: ignore[arg-type]
            (tmp_path / "others.slice").mkdir()
            (tmp_path / "system.slice/others.service/cgrace-not-seen").mkdir()
            for path in with_us:
                path.mkdir(parents=True)
                await witness.settle()
            with_us[0].rmdir()
            run.close()

    asyncio.run(scenario())
    assert [(event.KIND, event.path) for event in seen if isinstance(event, CgroupMade | CgroupRemoved)] == [
        ("cgroup-made", "/system.slice/cgrace-x.scope"),
        ("cgroup-made", "/cgrace.slice"),
        ("cgroup-made", "/cgrace.slice/cgrace-a.slice"),
        ("cgroup-made", "/cgrace.slice/cgrace-a.slice/sub"),
        ("cgroup-removed", "/system.slice/cgrace-x.scope"),
    ]


def test_a_kernel_without_cgroup_events(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A tracefs that has none (before Linux 4.11) is as good as no tracefs, and the caller is told so."""
    (tmp_path / "instances").mkdir()
    monkeypatch.setattr(tracefs, "_tracefs", lambda: (None, tmp_path))
    with pytest.raises(TargetError, match="cannot make a tracefs instance"):
        KernelWitness.open()


def test_inotify_says_when_it_may_watch_no_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A limit of the user's watches makes it blind, which is said once."""
    seen: list[Event] = []

    def refuse(*_: object) -> int:
        inotify.ctypes.set_errno(errno.ENOSPC)
        return -1

    async def scenario() -> None:
        with InotifyWitness() as witness:
            libc = SimpleNamespace(inotify_init1=inotify._libc.inotify_init1, inotify_add_watch=refuse)
            monkeypatch.setattr(inotify, "_libc", libc)
            (tmp_path / "a.slice").mkdir()
            witness.attach(Shared(tmp_path), lambda event, _: seen.append(event)).close()  # type: ignore[arg-type]

    asyncio.run(scenario())
    assert seen == [WitnessLost(witness="inotify")]


def test_whose_a_cgroup_is() -> None:
    """Ours by our units' prefix; not a tree that another cgrace has for itself."""
    assert of_this_machine("/system.slice/cgrace-a.scope/sub")
    assert not of_this_machine("/system.slice/sshd.service")
    assert not of_this_machine("/cgrace-12-3456-c1/run/cgrace-a.slice")


def test_a_machine_in_a_cgroup_namespace() -> None:
    """The kernel's paths begin where that machine's root is, which may lie in a tree of another cgrace."""
    told: list[KernelRecord] = []
    run = Subscription("", told.append, {4: "/cgrace-1-2-c1/run", 5: ""})

    def share(root: int, path: str) -> str | None:
        record = run.share(KernelRecord(1, "made", root, path, 0, 0))
        return record.path if record is not None else None

    assert share(4, "/cgrace-1-2-c1/run/cgrace-a.slice") == "/cgrace-a.slice"
    assert share(4, "/elsewhere/cgrace-a.slice") is None
    assert share(5, "/cgrace-1-2-c1/run/cgrace-a.slice") is None
    assert share(5, "/system.slice/cgrace-b.scope") == "/system.slice/cgrace-b.scope"


def test_what_scenarios_want_to_see() -> None:
    """Of those that are shipped one stops a driver in a call, and a point on a process's move is refused where inotify watches."""
    scenarios = {scenario.name: scenario for scenario in load_tree(SCENARIOS)}
    assert "runc_1780/enoent_between_mkdir_and_write" in {n for n, one in scenarios.items() if sight.stops_calls(one)}
    plain = scenarios["core/late_job"]
    sight.check_inotify(plain)
    step = plain.steps[0]
    moved = dataclasses.replace(step, after=(parse_point("process moved: a to devices/x"),))
    with pytest.raises(UnavailableError, match="cannot be seen here"):
        sight.check_inotify(dataclasses.replace(plain, steps=(moved, *plain.steps[1:])))


@pytest.mark.skipif(os.uname().machine not in lacking.NUMBERS, reason="its system calls are not in the table")
@pytest.mark.skipif(os.geteuid() != 0, reason="the survey opens a tracefs instance")
def test_the_survey_of_an_old_kernel() -> None:
    """Under a filter that takes away what is younger than Linux 3.10 every row says what stands in."""
    names = ",".join((*NEWER, "getrandom", "cgroup-namespaces"))
    code = (
        "import json, dataclasses, sys; from cgrace.harness.targets.survey_inside import look; "
        "json.dump([dataclasses.asdict(check) for check in look()], sys.stdout)"
    )
    argv = [sys.executable, lacking.__file__, names, sys.executable, "-c", code]
    rows = {row["name"]: row for row in json.loads(subprocess.run(argv, capture_output=True, check=True).stdout)}
    for name in (HELD_CALLS, "pidfd", "mounts", "cgroup namespace"):
        assert not rows[name]["ok"] and ": " in rows[name]["found"], rows[name]
    assert rows[WITNESS]["ok"] == Path("/sys/kernel/tracing/instances").is_dir()
    assert rows["process tree"]["ok"] and rows["pids"]["ok"]


@pytest.mark.parametrize(("target", "known"), [("fake", True), ("nobody", False)])
def test_doctor_of_what_stands_here(target: str, known: bool, capsys: pytest.CaptureFixture[str]) -> None:
    """The fake runs everything where a driver can be stopped in a call; what is no target is an error of the command line."""
    status = main(["doctor", "--target", target, "--json"])
    said = capsys.readouterr().out
    assert status == (0 if known else 2)
    if known:
        told = json.loads(said)
        assert {row["name"] for row in told["checks"]} >= {"witness", "pidfd", "held calls"}
        assert all("user notification" in one["reason"] for one in told["cannot_run"])


def test_a_pid_1_that_nobody_can_stop_refuses_scenarios_that_stop_it() -> None:
    """doctor says which scenarios stop systemd, where tracing PID 1 is refused, and names nobody else for that reason."""
    row = Check(name=STANDSTILL, ok=False, found="nobody can stop PID 1 here: such scenarios cannot run", needed_for="")
    found = Survey(checks=(row,), systemd=257, layouts=("v1", "v2"))
    cannot = cannot_run(load_tree(SCENARIOS), found)
    assert cannot["nobody can stop PID 1 here"] == ["corpus/systemd_does_not_read"]
