"""The words that a scenario file may use. One list each; the parser, its hints and the JSON Schema read them here."""

from __future__ import annotations

from difflib import get_close_matches

from cgrace.harness.verdict import Invariant

EVERY_DRIVER = "any"
"""In an expectation: every driver, a user's own included (for faults that no driver can withstand)."""

GENERATIONS = (
    "async",
    "wait-forever",
    "timeout",
    "err-nil",
    "err-nil-delegate",
    "buffered",
    "rc4",
    "today",
    "cgroupfs",
    "checked",
    "bounded",
    "exists-error",
    "exists-accepted",
    "reconnects",
    "containerd-1s",
    "containerd",
    "containerd-v1",
    "no-limit",
    "six-minutes",
    "retry",
    "unlocked",
)
"""One behaviour each, that of the released drivers' steps too (drivers/versions.toml); drivers/base.py calls it the column."""

PROFILES = (
    "219",
    "219-rhel7.4",
    "219-rhel7",
    "229",
    "234",
    "237",
    "239",
    "239-rhel8",
    "247",
    "252",
    "255",
    "256",
    "257",
    "258",
    "262",
)
"""systemd versions. The fake has some of them; a real target compares its own version."""

LAYOUTS = ("v1", "v2")
RUNGS = ("rc5", "rc6")
OPERATIONS = ("apply", "exec", "set", "freeze", "thaw", "destroy", "exists", "paths", "pids")
INVARIANTS = tuple(str(invariant) for invariant in Invariant)
MARKERS = ("primer", "slow")

HIERARCHIES = (
    "blkio",
    "cpu",
    "cpu,cpuacct",
    "cpuacct",
    "cpuset",
    "devices",
    "freezer",
    "hugetlb",
    "memory",
    "net_cls",
    "net_cls,net_prio",
    "net_prio",
    "perf_event",
    "pids",
    "systemd",
    "unified",
)
"""Mounted cgroup hierarchies by name; "systemd" is name=systemd, "unified" is cgroup v2."""

CONTROLLERS_V2 = ("cpu", "cpuset", "hugetlb", "io", "memory", "misc", "pids", "rdma")

CALLS = (
    "AddMatch",
    "AttachProcessesToUnit",
    "FreezeUnit",
    "Get",
    "GetAll",
    "GetNameOwner",
    "GetUnit",
    "GetUnitByPID",
    "Hello",
    "KillUnit",
    "ListUnits",
    "Reload",
    "RemoveMatch",
    "ResetFailedUnit",
    "SetUnitProperties",
    "StartTransientUnit",
    "StartUnit",
    "StopUnit",
    "Subscribe",
    "ThawUnit",
    "Unsubscribe",
)
SIGNALS = ("JobNew", "JobRemoved", "NameOwnerChanged", "PropertiesChanged", "Reloading", "UnitNew", "UnitRemoved")

NEVER = "never"
"""What a job comes to that stays queued for ever."""

JOB_RESULTS = (
    "done",
    "canceled",
    "timeout",
    "failed",
    "dependency",
    "skipped",
    "invalid",
    "assert",
    "unsupported",
    "collected",
    "once",
    "frozen",
    "concurrency",
)
"""What a JobRemoved may carry (systemd job.c, job_result_table, and later versions)."""

JOB_TYPES = ("start", "stop")
CONNECTIONS = ("calls", "signals", "all")
GARBAGE = ("noise", "half a message", "huge length", "bad endian", "nothing")
PEER_ACTIONS = ("pause", "resume", "kill", "restart", "reload", "reexec")
PEERS = ("systemd", "bus")


def closest(word: str, known: tuple[str, ...]) -> str:
    """The known word that was probably meant, "" when none is near."""
    near = get_close_matches(word[:80], known, n=1, cutoff=0.6)
    return near[0] if near else ""


def listed(words: tuple[str, ...], last: str = "or") -> str:
    """Words as people list them: "a, b or c"."""
    if len(words) < 2:
        return "".join(words)
    return f"{', '.join(words[:-1])} {last} {words[-1]}"
