"""Which cgroups are made, for whom, and when; who is moved, what is trimmed, which settings are written (cgroup.c)."""

from __future__ import annotations

from typing import Any

from cgrace.harness.validate.probe import EVERY, LADDER, LATER, Subject
from cgrace.harness.validate.stage import Answer, Stage

REALISE = "cgroup.c unit_realize_cgroup, unit_get_target_mask, unit_add_family_to_cgroup_realize_queue"
MIGRATE = (
    "cgroup.c unit_attach_pids_to_cgroup, unit_update_cgroup; "
    "cgroup-setup.c cg_migrate_v1_controllers, cg_trim_v1_controllers (until 257)"
)
APPLY = "cgroup.c cgroup_context_apply"
MAN = "systemd.resource-control(5)"
STORY = ("runc_1780/late_job_*", "runc_1780/realised_again", "runc_1780/later_*", "core/late_job*")
V1 = ("v1",)

probe = Subject("cgroup", REALISE, tree=True, scenarios=STORY)


@probe.habit(
    "at-job",
    "When the call has returned and the job waits: is the cgroup there? And when the job is done?",
    relied_on=EVERY,
)
async def at_job(s: Stage) -> Answer:
    await s.listen()
    job, gate = await s.queued("t-a.scope")
    before = s.made(s.path("t-a.scope"))
    result = await s.let_go(job, gate)
    return [before, result, s.made(s.path("t-a.scope")), s.where()]


def _made_probe(id: str, question: str, unit: str, relied_on: tuple[str, ...], values: dict[str, Any]) -> None:
    async def ask(s: Stage) -> Answer:
        if unit.endswith(".scope"):
            result = await s.scope(unit, **values)
            await s.quiet()
            return [result, s.made(s.path(unit)), s.where()]
        result = await s.up(unit, **values)
        await s.quiet()
        return [result, s.made(s.path(unit))]

    probe.habit(
        f"made-{id}", f"{question}: in which hierarchies is its cgroup, and where is its process?", relied_on=relied_on
    )(ask)


_ACCOUNTED: dict[str, Any] = {"CPUAccounting": True, "MemoryAccounting": True, "BlockIOAccounting": True}
_MADE: tuple[tuple[str, str, str, tuple[str, ...], dict[str, Any]], ...] = (
    ("scope", "A scope without settings", "t-a.scope", LADDER, {}),
    (
        "scope-bare",
        "A scope without accounting",
        "t-a.scope",
        (),
        {"MemoryAccounting": False, "TasksAccounting": False},
    ),
    ("scope-delegated", "A scope with Delegate=yes", "t-a.scope", EVERY, {"Delegate": True}),
    ("scope-accounted", "A scope with the accounting that runc asks for", "t-a.scope", EVERY, _ACCOUNTED),
    ("scope-shares", "A scope with CPUShares", "t-a.scope", EVERY, {"CPUShares": 300}),
    (
        "scope-devices",
        "A scope with DeviceAllow",
        "t-a.scope",
        LATER,
        {"DevicePolicy": "strict", "DeviceAllow": [["/dev/null", "rw"]]},
    ),
    ("slice", "A slice without settings", "t-a.slice", LADDER, {}),
    ("slice-accounted", "A slice with the accounting that the kubelet asks for", "t-a.slice", EVERY, _ACCOUNTED),
    ("slice-tasks", "A slice with TasksMax", "t-a.slice", EVERY, {"TasksMax": 100}),
)
for _row in _MADE:
    _made_probe(*_row)


@probe.habit("parents", "A scope in a slice in a slice: which of their cgroups are made?", relied_on=EVERY)
async def parents(s: Stage) -> Answer:
    await s.scope("t-a.scope", Slice="t-b-c.slice", CPUShares=300)
    await s.quiet()
    paths = (s.path("t-b.slice"), s.path("t-b-c.slice"), s.path("t-a.scope", within="t-b-c.slice"))
    return [s.made(path) for path in paths]


@probe.habit(
    "sibling",
    "A sibling comes that needs cpu and blkio, and goes: where is the first scope's cgroup?",
    relied_on=LADDER,
)
async def sibling(s: Stage) -> Answer:
    await s.scope("t-a.scope", Slice="t-b.slice")
    path = s.path("t-a.scope", within="t-b.slice")
    found: list[Answer] = [s.made(path)]
    await _sibling(s)
    await s.quiet()
    found += [s.made(path), s.where()]
    await s.end("t-d.scope", "other")
    await s.quiet()
    return [*found, s.made(path), s.where()]


async def _sibling(s: Stage) -> None:
    """A scope beside the first that needs cpu and blkio."""
    await s.scope("t-d.scope", worker="other", Slice="t-b.slice", CPUShares=300, BlockIOWeight=300)


async def _foreign(s: Stage, **values: Any) -> str:
    """A scope whose process was moved by hand into a cgroup below it, in every hierarchy."""
    await s.scope("t-a.scope", Slice="t-b.slice", **values)
    await s.quiet()
    path = s.path("t-a.scope", within="t-b.slice")
    s.put("worker", f"{path}/sub")
    return path


def _foreign_probe(id: str, question: str, values: dict[str, Any], trigger: str) -> None:
    async def ask(s: Stage) -> Answer:
        path = await _foreign(s, **values)
        match trigger:
            case "sibling":
                await _sibling(s)
            case "sibling-gone":
                await _sibling(s)
                await s.quiet()
                await s.end("t-d.scope", "other")
            case "cousin":
                await s.up("t-e.slice", BlockIOWeight=300)
                await s.quiet()
                await s.down("t-e.slice")
            case "set":
                await s.set("t-a.scope", TasksMax=100)
            case "reload":
                await s.call("Reload")
        await s.quiet()
        return [s.made(f"{path}/sub"), s.where()]

    probe.habit(f"foreign-{id}", question, source=MIGRATE, relied_on=EVERY)(ask)


for _delegated, _values in (("", {}), ("-delegated", {"Delegate": True})):
    for _trigger, _when in (
        ("sibling", "a sibling comes that needs cpu and blkio"),
        ("sibling-gone", "such a sibling has come and gone"),
        ("cousin", "another slice that needs blkio has come and gone"),
        ("set", "SetUnitProperties was called"),
        ("reload", "the manager was reloaded"),
    ):
        _who = "with Delegate=yes " if _delegated else ""
        _foreign_probe(
            f"{_trigger}{_delegated}",
            f"A process in a foreign cgroup below a scope {_who}when {_when}: where is it?",
            _values,
            _trigger,
        )


@probe.habit(
    "late",
    "A driver made a scope's cgroups by hand while the job waited: where is the process afterwards?",
    source=MIGRATE,
    relied_on=LADDER,
)
async def late(s: Stage) -> Answer:
    return await _late(s, _ACCOUNTED)


@probe.habit(
    "late-bare", "The same without accounting: the scope needs no cpu and no blkio", source=MIGRATE, relied_on=LADDER
)
async def late_bare(s: Stage) -> Answer:
    return await _late(s, {})


@probe.habit("late-delegated", "The same with Delegate=yes", source=MIGRATE, relied_on=EVERY)
async def late_delegated(s: Stage) -> Answer:
    return await _late(s, {"Delegate": True, **_ACCOUNTED})


async def _late(s: Stage, values: dict[str, Any]) -> Answer:
    await s.listen()
    job, gate = await s.queued("t-a.scope", Slice="t-b.slice", **values)
    path = s.path("t-a.scope", within="t-b.slice")
    await s.quiet()  # the gate's own cgroup is made
    s.put("worker", path)
    result = await s.let_go(job, gate)
    await s.quiet()
    return [result, s.made(path), s.where()]


@probe.habit(
    "late-slice",
    "A driver made a slice's cgroups by hand and put a process there while the job waited",
    source=MIGRATE,
    relied_on=EVERY,
)
async def late_slice(s: Stage) -> Answer:
    gate = await s.gate()
    await s.worker()
    await s.listen()
    job = await s.queue("t-a.slice", After=[gate.unit], **_ACCOUNTED)
    await s.quiet()
    s.mkdir(s.path("t-a.slice"))
    if s.machine.layout == "v1":
        s.put("worker", s.path("t-a.slice"))
    result = await s.let_go(job, gate)
    await s.quiet()
    return [result, s.made(s.path("t-a.slice")), s.where()]


@probe.habit(
    "foreign-slice",
    "A process in a foreign cgroup straight in a slice, when the slice's last unit that needs cpu has gone",
    source=MIGRATE,
    relied_on=EVERY,
    layouts=V1,
    needs=("cpu",),
)
async def foreign_slice(s: Stage) -> Answer:
    await s.worker()
    await s.up("t-b.slice")
    await s.scope("t-d.scope", worker="other", Slice="t-b.slice", CPUShares=300)
    await s.quiet()
    path = s.path("t-b.slice") + "/foreign"
    s.put("worker", path)
    await s.end("t-d.scope", "other")
    await s.quiet()
    return [s.made(path), s.where()]


@probe.habit(
    "unmanaged",
    "After a scope's end: cgroups of its name in hierarchies that systemd does not manage",
    source="cgroup.c unit_prune_cgroup",
    layouts=V1,
    relied_on=EVERY,
)
async def unmanaged(s: Stage) -> Answer:
    await s.scope("t-a.scope")
    s.mkdir(s.path("t-a.scope"))
    await s.end("t-a.scope", "worker")
    await s.quiet()
    return s.made(s.path("t-a.scope"))


# ---- settings

settings = Subject("setting", APPLY, tree=True)


@settings.contract(
    "v1-files",
    "What is in the files of a slice with limits (v1)",
    source=MAN,
    layouts=V1,
    relied_on=EVERY,
    needs=("cpu", "memory", "pids"),
)
async def v1_files(s: Stage) -> Answer:
    files = ("cpu.shares", "cpu.cfs_quota_us", "cpu.cfs_period_us", "memory.limit_in_bytes", "pids.max")
    return await _written(s, files, CPUShares=300, CPUQuotaPerSecUSec=500_000, MemoryLimit=64 << 20, TasksMax=100)


async def _written(s: Stage, files: tuple[str, ...], **values: Any) -> dict[str, str]:
    """What is in a slice's files (each named after its controller) when it was given these settings."""
    await s.up("t-a.slice", **values)
    await s.quiet()
    return {file: s.read(file.partition(".")[0], s.path("t-a.slice"), file) for file in files}


@settings.contract(
    "v2-files",
    "What is in the files of a slice with limits (v2)",
    source=MAN,
    layouts=("v2",),
    relied_on=LATER,
    needs=("cpu", "memory", "pids"),
)
async def v2_files(s: Stage) -> Answer:
    limits = {"CPUQuotaPerSecUSec": 500_000, "MemoryMax": 64 << 20, "MemoryHigh": 32 << 20, "TasksMax": 100}
    files = ("cpu.weight", "cpu.max", "memory.max", "memory.high", "pids.max")
    return await _written(s, files, CPUWeight=300, **limits)


@settings.contract(
    "v1-weights", "CPUWeight and IOWeight on v1: are they translated?", source=MAN, layouts=V1, needs=("cpu", "blkio")
)
async def v1_weights(s: Stage) -> Answer:
    files = ("cpu.shares", "blkio.weight", "blkio.bfq.weight", "memory.limit_in_bytes")
    return await _written(s, files, CPUWeight=200, IOWeight=300, MemoryMax=32 << 20)


@settings.contract(
    "v2-control",
    "What is enabled below a slice: with a scope, with a delegated one, when they are gone",
    source=MAN,
    layouts=("v2",),
    relied_on=LATER,
)
async def v2_control(s: Stage) -> Answer:
    found = []

    def look() -> None:
        found.append(sorted(s.read("unified", s.path("t-b.slice"), "cgroup.subtree_control").split()))

    await s.up("t-b.slice")
    look()
    await s.scope("t-a.scope", Slice="t-b.slice")
    await s.quiet()
    look()
    await s.scope("t-d.scope", worker="other", Slice="t-b.slice", Delegate=True)
    await s.quiet()
    look()
    found.append(sorted(s.read("unified", s.path("t-d.scope", within="t-b.slice"), "cgroup.subtree_control").split()))
    await s.end("t-d.scope", "other")
    await s.quiet()
    look()
    return found


@settings.habit(
    "before-reply",
    "SetUnitProperties: is the file written when the reply comes?",
    layouts=V1,
    relied_on=LATER,
    needs=("pids",),
)
async def before_reply(s: Stage) -> Answer:
    await s.up("t-a.slice", TasksMax=100)
    await s.quiet()
    await s.set("t-a.slice", TasksMax=200)
    return s.read("pids", s.path("t-a.slice"), "pids.max")


@settings.habit(
    "hand-set",
    "A limit that was set by hand, after SetUnitProperties of another one",
    layouts=V1,
    relied_on=EVERY,
    needs=("pids", "memory"),
)
async def hand_set(s: Stage) -> Answer:
    await _set_by_hand(s, TasksMax=100, MemoryMax=64 << 20)
    await s.set("t-a.slice", MemoryMax=32 << 20)
    await s.quiet()
    return [
        s.read("pids", s.path("t-a.slice"), "pids.max"),
        s.read("memory", s.path("t-a.slice"), "memory.limit_in_bytes"),
    ]


async def _set_by_hand(s: Stage, **values: Any) -> None:
    """A slice with these settings, and then a limit of tasks by hand."""
    await s.up("t-a.slice", **values)
    await s.quiet()
    s.write("pids", s.path("t-a.slice"), "pids.max", "12")


@settings.habit(
    "hand-set-infinite",
    "A limit that was set by hand and that systemd knows as infinity, after SetUnitProperties of another one",
    layouts=V1,
    relied_on=EVERY,
    needs=("pids", "memory"),
)
async def hand_set_infinite(s: Stage) -> Answer:
    await _set_by_hand(s, TasksAccounting=True, MemoryMax=64 << 20)
    await s.set("t-a.slice", MemoryMax=32 << 20)
    await s.quiet()
    return s.read("pids", s.path("t-a.slice"), "pids.max")


@settings.habit(
    "hand-set-reload", "A limit that was set by hand, after Reload", layouts=V1, relied_on=EVERY, needs=("pids",)
)
async def hand_set_reload(s: Stage) -> Answer:
    await _set_by_hand(s, TasksMax=100)
    await s.call("Reload")
    await s.quiet()
    return s.read("pids", s.path("t-a.slice"), "pids.max")


def _devices_probe(id: str, question: str, values: dict[str, Any], trigger: str) -> None:
    async def ask(s: Stage) -> Answer:
        await s.scope("t-a.scope", Slice="t-b.slice", **values)
        await s.quiet()
        path = s.path("t-a.scope", within="t-b.slice")
        s.mkdir(path, ("devices",))
        s.write("devices", path, "devices.deny", "a")
        s.write("devices", path, "devices.allow", "c 1:3 rwm")
        match trigger:
            case "set":
                await s.set("t-a.scope", TasksMax=100)
            case "reload":
                await s.call("Reload")
            case "sibling":
                await s.scope("t-d.scope", worker="other", Slice="t-b.slice", DevicePolicy="strict")
        await s.quiet()
        return s.read("devices", path, "devices.list").splitlines()

    settings.habit(id, question, layouts=V1, relied_on=EVERY, needs=("devices",))(ask)


for _delegated, _values in (("", {}), ("-delegated", {"Delegate": True})):
    for _trigger, _when in (
        ("set", "SetUnitProperties of TasksMax"),
        ("reload", "Reload"),
        ("sibling", "a sibling with DevicePolicy came"),
    ):
        _who = "with Delegate=yes " if _delegated else ""
        _devices_probe(
            f"devices-{_trigger}{_delegated}",
            f"A scope {_who}whose device list a driver wrote by hand: what is in it after {_when}?",
            _values,
            _trigger,
        )


@settings.contract(
    "devices-list",
    "DevicePolicy=strict with one node, then another one added",
    source=MAN,
    layouts=V1,
    relied_on=LATER,
    needs=("devices",),
)
async def devices_list(s: Stage) -> Answer:
    await s.up("t-a.slice", DevicePolicy="strict", DeviceAllow=[["/dev/null", "rw"]])
    await s.quiet()
    first = s.read("devices", s.path("t-a.slice"), "devices.list").splitlines()
    await s.set("t-a.slice", DeviceAllow=[["/dev/char/1:5", "r"]])
    await s.quiet()
    return [first, s.read("devices", s.path("t-a.slice"), "devices.list").splitlines()]
