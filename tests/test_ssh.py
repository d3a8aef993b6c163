"""Target ssh: runs on a machine that lacks what ten years brought; bad days of the connection, of the machine and of ours."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from ssh_kit import NEWER, OLD_SSHD, Place, booted, ended, needs_sshd

from cgrace.harness.errors import TargetError
from cgrace.harness.targets.remote import open_ssh
from cgrace.harness.targets.remote_runtime import interpreter_part

pytestmark = [needs_sshd, pytest.mark.timeout(400)]
QUICK = ("core/exec_scope", "core/late_job", "core/lost_signal", "core/no_reply_scope")
WAIT_S_MAX = 180.0


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """One machine for all of these tests."""
    with booted(tmp_path_factory.mktemp("ssh")) as machine:
        yield machine


def until(happened: Callable[[], bool], what: str) -> None:
    """Wait for what has no event."""
    deadline = time.monotonic() + WAIT_S_MAX
    while not happened():
        assert time.monotonic() < deadline, f"{what}: not within {WAIT_S_MAX:g} s"
        time.sleep(0.01)


def run(place: Place, host: str, *scenarios: str) -> list[dict[str, object]]:
    """Run scenarios on the driver of today; the results, all as expected."""
    done = place.cgrace("run", *scenarios, "--target", f"ssh:{host}", "--driver", "today", "--json")
    assert done.status == 0, done.all
    results: list[dict[str, object]] = json.loads(done.text)["results"]
    return results


def heads(place: Place) -> list[dict[str, str]]:
    """What the traces of the last run say took part."""
    traces = (place.folder / "state/cgrace/runs/last").resolve().glob("*.jsonl")
    return [json.loads(trace.open().readline())["versions"] for trace in traces]


def test_a_machine_that_lacks_everything(place: Place) -> None:
    """No tracefs, pidfds, seccomp or cgroup namespaces, no forwarding by its sshd: all runs, and the trace says what saw less."""
    host = place.name("rhel7", lacking=(*NEWER, "cgroup-namespaces"), sshd=OLD_SSHD)
    results = run(place, host, *QUICK)
    assert len(results) == len(QUICK)
    assert all(head["cgroup events"].startswith("inotify") for head in heads(place))
    assert place.left() == []


@pytest.mark.parametrize(
    "lacking",
    [
        ("pidfd_open", "pidfd_send_signal", "cgroup-namespaces"),
        ("fsopen", "fsconfig", "fsmount"),
        ("clone3", "statx", "openat2", "close_range", "memfd_create", "copy_file_range"),
    ],
    ids=lambda names: names[0],
)
def test_each_by_itself(place: Place, lacking: tuple[str, ...]) -> None:
    """One thing is missing, and the rest is used."""
    host = place.name(f"no-{lacking[0]}", lacking=lacking)
    run(place, host, "core/exec_scope")
    assert all(("cgroup events" in head) == ("fsopen" in lacking) for head in heads(place))
    assert place.left() == []


def test_what_cannot_run_is_said_before(place: Place) -> None:
    """A fault that needs what the kernel lacks, and a layout that the machine has not, are n/a with the reason."""
    host = place.name("no-notify", lacking=("seccomp",))
    words = ("runc_1780/enoent_between_mkdir_and_write", "core/cgroup_deleted", "core/late_job")
    done = place.cgrace("run", *words, "--target", f"ssh:{host}", "--driver", "today")
    assert done.status == 0, done.all
    assert "the kernel has no seccomp user notification" in done.all
    assert f"it is about cgroup v2, and ssh:{host} has cgroup v1" in done.all


def test_doctor_tells_which_way(place: Place) -> None:
    """Every fallback has its row, on a machine that lacks everything, and exit 0 says that it is enough."""
    host = place.name("doctor", lacking=(*NEWER, "cgroup-namespaces"), sshd=OLD_SSHD)
    done = place.cgrace("doctor", "--target", f"ssh:{host}", "--json")
    told = json.loads(done.text)
    rows = {row["name"]: row for row in told["checks"]}
    assert done.status == 0 and told["passed"], done.all
    lacks = {name for name, row in rows.items() if not row["ok"]}
    assert lacks == {"witness", "held calls", "pidfd", "mounts", "cgroup namespace"}
    assert "inotify" in rows["witness"]["found"] and "waitid" in rows["pidfd"]["found"]
    assert "brought along" in rows["runtime"]["found"] and "this sshd refuses it" in rows["forwarding"]["found"]
    assert rows["systemd"]["needed"] and rows["cgroups"]["found"] == "v1"
    assert any("runc_1780/enoent_between_mkdir_and_write" in one["scenarios"] for one in told["cannot_run"])
    assert place.left() == []


def test_a_talkative_login(place: Place) -> None:
    """A shell's own file that says something, and an sshd that gives one session to a connection, change nothing."""
    host = place.name("talks", sshd=("MaxSessions 1", "Banner /etc/os-release"))
    (place.root / "root/.bashrc").write_text("echo welcome; echo to this machine\n")
    try:
        run(place, host, "core/exec_scope")
    finally:
        (place.root / "root/.bashrc").unlink()
    assert place.left() == []


def test_not_root(place: Place) -> None:
    """A user who is not root there is told so, by a run and by the doctor, whose other rows stand."""
    host = place.name("guest", config="  User guest\n")
    done = place.cgrace("run", "core/late_job", "--target", f"ssh:{host}", "--driver", "today")
    assert done.status == 2 and "we are not root there" in done.all, done.all
    done = place.cgrace("doctor", "--target", f"ssh:{host}")
    assert done.status == 2 and f"nothing can run on ssh:{host}: root" in done.all, done.all
    assert place.left() == []


def test_a_host_that_is_not_there(place: Place) -> None:
    """Exit 2 and ssh's own words."""
    for words in (("doctor",), ("run", "core/late_job", "--driver", "today")):
        done = place.cgrace(*words, "--target", "ssh:nobody.invalid")
        assert done.status == 2 and "ssh does not connect to nobody.invalid" in done.all, done.all
        assert "Traceback" not in done.all


def test_another_host_key(place: Place) -> None:
    """A machine that is not the one that the user knows is not worked on."""
    other = place.folder / "other_hosts"
    other.write_text(f"machine {(place.folder / 'id.pub').read_text()}")
    host = place.name("impostor", config=f"  UserKnownHostsFile {other}\n")
    done = place.cgrace("run", "core/late_job", "--target", f"ssh:{host}", "--driver", "today")
    assert done.status == 2 and "Host key verification failed" in done.all, done.all


def _busy(place: Place) -> bool:
    """Whether a run is in the middle of something there."""
    return any(path.name.endswith((".slice", ".scope")) for path in place.cgroups())


def _master(pid: int) -> int:
    """The ssh of that cgrace that holds the connection."""
    for path in Path("/proc").glob("[0-9]*"):
        try:
            words = (path / "cmdline").read_bytes().split(b"\0")
            parent = int((path / "stat").read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue
        if parent == pid and b"-M" in words:
            return int(path.name)
    raise AssertionError("there is no master connection")


def test_the_connection_drops_in_the_middle(place: Place) -> None:
    """What was to run is inconclusive with the reason, exit 2; the machine clears itself, and the next run works."""
    host = place.name("drops")
    process = place.start("run", "core", "--target", f"ssh:{host}", "--driver", "today")
    until(lambda: _busy(place), "a run is under way")
    os.kill(_master(process.pid), signal.SIGKILL)
    done = ended(process)
    assert done.status == 2 and f"the connection to {host} was lost" in done.all, done.all
    until(lambda: not place.left(), "the machine is clear")
    run(place, host, "core/exec_scope")


def test_we_are_killed(place: Place) -> None:
    """kill -9 of cgrace here: the machine clears itself, and the next run works."""
    host = place.name("killed")
    process = place.start("run", "core", "--target", f"ssh:{host}", "--driver", "today")
    until(lambda: _busy(place), "a run is under way")
    process.kill()
    ended(process)
    until(lambda: not place.left(), "the machine is clear")
    run(place, host, "core/exec_scope")
    assert place.left() == []


def test_the_worker_there_is_killed(place: Place) -> None:
    """What it left, units and cgroups, is cleared by the next run, which does not take it for the machine's own."""
    host = place.name("worker")
    process = place.start("run", "core", "--target", f"ssh:{host}", "--driver", "today")
    until(lambda: _busy(place), "a run is under way")
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            theirs = (path.parent / "ns/pid").readlink() == Path(f"/proc/{place.init_pid}/ns/pid").readlink()
            if theirs and b"cgrace.harness.worker" in path.read_bytes():
                os.kill(int(path.parent.name), signal.SIGKILL)
        except OSError:
            continue
    done = ended(process)
    assert done.status == 2 and f"cgrace inside ssh:{host} ended" in done.all, done.all
    assert run(place, host, "core/exec_scope", "core/unit_exists_slice")
    assert place.left() == []


def test_a_disk_that_is_full(place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where there is no room the next folder is taken; a disk that fills up meanwhile is one clear error."""
    host = place.name("full")
    enter = ["nsenter", "--target", str(place.init_pid), "--mount", "--"]
    subprocess.run([*enter, "mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", "/var/tmp"], check=True)
    monkeypatch.setenv("PATH", place.environment["PATH"])

    async def fill() -> None:
        async with open_ssh(host) as machine:
            assert machine.base.startswith("/opt/")
            await machine.channel.put((await interpreter_part()).file.read_bytes(), "/var/tmp/here")

    try:
        with pytest.raises(TargetError, match="files cannot be put into /var/tmp/here") as caught:
            asyncio.run(fill())
        assert "No space left" in (caught.value.detail or "")
    finally:
        subprocess.run([*enter, "umount", "/var/tmp"], check=True)
    assert place.left() == []
