"""The entries of `cgrace diagnose` as data, and the field's dumps, written by hand, which no driver of ours makes."""

from __future__ import annotations

from pathlib import Path

import pytest
from diagnose_kit import NO_JOBS, QUEUED, best, dump, judged, lasting

from cgrace.harness.diagnose.signatures import FOLDER, load, signatures
from cgrace.harness.errors import CgraceError, UsageError
from cgrace.harness.scenario import releases
from cgrace.harness.scenario.parse import load_tree
from cgrace.reports.links import issue_url

SCENARIOS = Path(__file__).resolve().parent.parent / "scenarios"
GODBUS = "\t/m/github.com/godbus/dbus/v5@v5.0.4/object.go:31 +0x10\n"


def goroutine(number: int, state: str, *calls: str) -> str:
    """A goroutine from "function @file" pairs, innermost first."""
    lines = [f"goroutine {number} [{state}]:"]
    for call in calls:
        function, _, file = call.partition(" @")
        lines += [f"{function}(0xc0000a0070)", f"\t{file or '/src/main.go'}:10 +0x10"]
    return "\n".join(lines) + "\n\n"


LOCKED = ("sync.runtime_SemacquireMutex", "sync.(*Mutex).lockSlow", "sync.(*Mutex).Lock")
SYSTEMD = "github.com/coreos/go-systemd/v22/dbus."
SEND = goroutine(9, "chan send, 41 minutes", f"{SYSTEMD}(*Conn).jobComplete", f"{SYSTEMD}(*Conn).dispatch.func1")
IDLE = goroutine(10, "chan receive", f"{SYSTEMD}(*Conn).dispatch.func1")
CALL = ("github.com/godbus/dbus/v5.(*Object).CallWithContext",)
RUNC = "github.com/opencontainers/runc/libcontainer/cgroups/systemd."
STOP = goroutine(31, "select", f"{RUNC}stopUnit", f"{RUNC}(*legacyManager).Destroy")
FIELD = {
    "crio-unbuffered-scope": SEND
    + goroutine(
        12,
        "semacquire, 40 minutes",
        *LOCKED,
        f"{SYSTEMD}(*Conn).startJob",
        f"{SYSTEMD}(*Conn).StartTransientUnitContext",
        "github.com/cri-o/cri-o/utils.RunUnderSystemdScope.func1",
        "github.com/cri-o/cri-o/utils.RunUnderSystemdScope",
    ),
    "unread-channel": SEND + goroutine(12, "semacquire", *LOCKED, f"{SYSTEMD}(*Conn).startJob", "main.main"),
    "scope-wait-without-limit": IDLE
    + goroutine(1, "chan receive, 9 minutes", "go.podman.io/common/pkg/systemd.RunUnderSystemdScope"),
    "containerd-endless-wait": IDLE
    + goroutine(7, "chan receive, 2 minutes", "github.com/containerd/cgroups/v3/cgroup2.(*Manager).DeleteSystemd"),
    "set-properties-frozen": IDLE
    + goroutine(
        8,
        "chan receive, 5 minutes",
        *CALL,
        f"{SYSTEMD}(*Conn).SetUnitPropertiesContext",
        f"{RUNC}setUnitProperties.func1",
        f"{RUNC}(*legacyManager).Set",
    ),
    "use-systemd-unanswered": goroutine(
        1,
        "chan receive, 9 minutes",
        "github.com/godbus/dbus.(*Object).Call",
        "github.com/coreos/go-systemd/dbus.(*Conn).startJob",
        f"{RUNC}UseSystemd",
    ),
    "connect-hangs": goroutine(
        4,
        "IO wait, 3 minutes",
        "internal/poll.runtime_pollWait",
        "github.com/godbus/dbus/v5.(*Conn).Auth",
        f"{RUNC}(*dbusConnManager).getConnection",
    )
    + goroutine(5, "sync.RWMutex.RLock, 3 minutes", *LOCKED[:1], f"{RUNC}(*dbusConnManager).getConnection"),
    "dispatcher-full": SEND.replace("/v22", "")
    + goroutine(3, "chan send, 41 minutes", "github.com/godbus/dbus.(*Conn).inWorker"),
    "closed-channel-panic": "panic: send on closed channel\n\n" + SEND.replace("chan send, 41 minutes", "running"),
    "nil-connection-panic": "panic: runtime error: invalid memory address or nil pointer dereference\n\n"
    + goroutine(1, "running", "github.com/coreos/go-systemd/dbus.(*Conn).startJob", f"{RUNC}(*Manager).Apply"),
    "bus-closed-for-ever": "kubelet.go:1684] failed to set up pod: dbus: connection closed by user",
    "timeout-continues": "Timed out while waiting for StartTransientUnit(a.slice) completion signal from dbus. Continuing...",
    "exists-refused": 'Failed to create cgroup: Unit kubepods-burstable-pod12.slice already exists."',
    "trimmed-between": "applying cgroup: open /sys/fs/cgroup/pids/a.scope/cgroup.procs: no such file or directory",
    "controller-missing": "Failed to start ContainerManager: root container [kubepods] doesn't exist",
    "manager-silent": "=== cgrace: manager ===\nFailed to get property Version: Connection timed out\n",
}


@pytest.mark.parametrize("entry", FIELD)
def test_a_dump_of_the_field(entry: str) -> None:
    """Each by its own name, and it comes first."""
    assert best(FIELD[entry]) == entry


def test_stops_that_lose_completions() -> None:
    """Two stops at once and no job left, or an earlier time-out in the log; a go-systemd with the fix speaks against it."""
    two = (
        STOP
        + STOP.replace("goroutine 31", "goroutine 32")
        + IDLE.replace("/src/main.go", "/m/github.com/coreos/go-systemd/v22@v22.6.0/dbus/subscription.go")
    )
    assert best(two, jobs=NO_JOBS) == "stops-lose-completions"
    assert best(two, jobs=QUEUED) is None
    assert best(two.replace("v22@v22.6.0", "v22@v22.7.0"), jobs=NO_JOBS) == "timed-wait"
    one = STOP + IDLE
    assert best(one, jobs=NO_JOBS) == "timed-wait"
    assert (
        best(one + "Timed out while waiting for systemd to remove a.slice\n", jobs=NO_JOBS) == "stops-lose-completions"
    )


GDB = """#0  0x00007f2a in ppoll () from /lib64/libc.so.6
#1  0x00007f2b in bus_poll (bus=0x5581, need_more=true) at sd-bus.c:3100
#2  0x00007f2c in sd_bus_wait () from /lib64/libsystemd.so.0
#3  0x00005577 in systemd_check_job_status (bus=0x5581, op=0x5579 "creating") at src/libcrun/cgroup-systemd.c:700
#4  0x00005578 in enter_systemd_cgroup_scope () at src/libcrun/cgroup-systemd.c:1500
"""
CALLING = GDB.replace("sd_bus_wait", "sd_bus_call")
SYSCALL = "271 0x7ffd 0x1 0x{0} 0x0 0x8 0x0 0x7ffc 0x7f2a\n"
EU_STACK = (
    "PID 99 - process\nTID 99:\n#0  0x00007f2a ppoll\n#1  0x00007f2b sd_bus_wait\n#2  0x5577 systemd_check_job_status\n"
)
STRACE = "ppoll([{fd=5, events=POLLIN}], 1, NULL, NULL, 8"


@pytest.mark.parametrize("stack", [GDB, EU_STACK, SYSCALL.format("0"), f"syscall: {SYSCALL.format('0')}", STRACE])
@pytest.mark.parametrize(("jobs", "entry"), [(NO_JOBS, "crun-job-gone"), (QUEUED, "crun-job-queued")])
def test_crun(stack: str, jobs: str, entry: str) -> None:
    """Its endless wait, in whatever way it was looked at; the jobs tell right from wrong."""
    assert best(stack, jobs=jobs) == entry
    assert best(dump("lost-signal-today"), crun=stack, jobs=jobs) in (entry, "timed-wait")


def test_crun_that_waits_for_a_reply() -> None:
    """A call has 25 s, by sd-bus: no hang."""
    assert best(CALLING, jobs=NO_JOBS) is None
    assert [one.signature.id for one in judged(CALLING).possible] == ["crun-call-unanswered"]
    assert best(SYSCALL.format("7ffd"), jobs=NO_JOBS) is None


def test_other_programs_polls_are_not_cruns() -> None:
    """A section of another process with an endless poll says nothing."""
    assert best(f"=== cgrace: process sshd 7 ===\n{SYSCALL.format('0')}", jobs=NO_JOBS) is None
    assert best(f"=== cgrace: process crun 7 ===\n{SYSCALL.format('0')}", jobs=NO_JOBS) == "crun-job-gone"


def test_what_is_no_list_or_no_stack_is_refused() -> None:
    """One message that says what it should have been."""
    with pytest.raises(UsageError, match="list-jobs"):
        judged(dump("unit-exists"), jobs="total 4\n")
    with pytest.raises(UsageError, match="crun stack"):
        judged(dump("unit-exists"), crun="hello\n")


@pytest.mark.parametrize("entry", signatures(), ids=lambda one: one.id)
def test_an_entry_says_all_that_is_needed(entry: object) -> None:
    """Title, mechanism, workaround, fixed versions, an issue that can be read, scenarios that exist."""
    known = next(one for one in signatures() if one is entry)
    names = {one.name for one in load_tree(SCENARIOS)}
    assert (
        known.title and known.mechanism.endswith(".") and known.workaround.endswith(".") and known.fixed.endswith(".")
    )
    assert known.issues
    assert all(issue_url(issue).rsplit("/", 1)[-1].isdecimal() for issue in known.issues)
    assert set(known.scenarios) <= names, set(known.scenarios) - names


def test_every_entry_is_tried() -> None:
    """No entry without a dump that is it."""
    kept = {
        "late-signal-lock",
        "unit-exists-wait",
        "lost-job-removed",
        "bus-lost-in-wait",
        "call-unanswered",
        "timed-wait",
    }
    kept |= {"bus-lost-timed", "crio-timed-wait", "crun-job-gone", "crun-job-queued", "crun-call-unanswered"}
    kept |= {"job-never-runs", "runc-call-unanswered", "runc-timed-wait"}
    assert {one.id for one in signatures()} == kept | set(FIELD) | {"stops-lose-completions"}


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (("certain = ", "certainly = "), "certainly"),
        (('certain = "structure"', 'certain = "maybe"'), "maybe"),
        (('needs = "may"', 'needs = "no"'), "needs is one of"),
        (('held_by = "holder"', 'held_by = "nobody"'), "nobody"),
        (("title = ", "title == "), "entry of cgrace"),
    ],
)
def test_an_entry_that_is_wrong_is_named(change: tuple[str, str], says: str, tmp_path: Path) -> None:
    """Its file and what is wrong with it."""
    wrong = tmp_path / "wrong.toml"
    wrong.write_text((FOLDER / "unread-channel.toml").read_text(encoding="utf-8").replace(*change), encoding="utf-8")
    with pytest.raises(CgraceError, match=says) as refused:
        load(wrong)
    assert refused.value.file == str(wrong)


def test_versions_are_in_upstreams_order() -> None:
    """Candidates by number, and a release after its candidates."""
    order = [
        "v0.0.0-20161114122254-48702e0da86b",
        "v1.0.0-rc4",
        "v1.0.0-rc10",
        "v1.0.0-rc91",
        "v1.0.0",
        "v1.1.15",
        "v22.7.0",
    ]
    keys = [releases.order(one) for one in order]
    assert keys == sorted(keys)
    assert releases.is_before("v1.0.0-rc9", "v1.0.0-rc10") is True
    assert releases.is_before("devel", "v1") is None
    assert lasting("goroutine 1 [select]:") == "goroutine 1 [select, 12 minutes]:"
