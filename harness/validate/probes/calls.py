"""The Manager's other methods: what each says of units in every state (dbus-manager.c)."""

from __future__ import annotations

import signal
from typing import Any

from cgrace.harness.dbus import systemd1
from cgrace.harness.validate.probe import EVERY, LATER, Subject
from cgrace.harness.validate.stage import GONE, Answer, Stage

DOCUMENT = "org.freedesktop.systemd1(5), The Manager Object: Methods"
# What is said of a call that cannot be done is written nowhere but in the code; GetUnit's is promised to fail.
_JOB = "dbus-manager.c method_start_unit_generic; dbus-unit.c bus_unit_queue_job_one"
_FIND = "dbus-manager.c bus_get_unit_by_name"
_LOAD = "dbus-manager.c bus_load_unit_by_name"
_OPERATION = "dbus-manager.c method_generic_unit_operation"
_PIDS = "dbus-manager.c method_get_unit_by_pid"
_CGROUP = "dbus-manager.c method_get_unit_by_control_group"
_ATTACH = "dbus-unit.c bus_unit_method_attach_processes"
_FREEZE = "dbus-unit.c bus_unit_method_freezer_generic"

probe = Subject("call", DOCUMENT)

# A call on units that are not there: (id, question, member, signature, arguments, who relies on it, source)
_Call = tuple[str, str, str, str, tuple[Any, ...], tuple[str, ...], str]
_CALLS: tuple[_Call, ...] = (
    ("stop-no-scope", "StopUnit of a scope that never was", "StopUnit", "ss", ("t-x.scope", "replace"), EVERY, _JOB),
    ("stop-no-slice", "StopUnit of a slice that never was", "StopUnit", "ss", ("t-x.slice", "replace"), EVERY, _JOB),
    ("stop-no-service", "StopUnit of a service that never was", "StopUnit", "ss", ("t-x.service", "replace"), (), _JOB),
    ("stop-bad-name", "StopUnit of what is no name", "StopUnit", "ss", ("nonsense", "replace"), (), _JOB),
    (
        "stop-bad-mode",
        "StopUnit in a mode that is none",
        "StopUnit",
        "ss",
        ("t-x.slice", "nonsense"),
        (),
        "dbus-unit.c bus_unit_method_start_generic",
    ),
    ("start-no-scope", "StartUnit of a scope that never was", "StartUnit", "ss", ("t-x.scope", "replace"), (), _JOB),
    ("start-no-slice", "StartUnit of a slice that never was", "StartUnit", "ss", ("t-x.slice", "replace"), (), _JOB),
    (
        "reset-none",
        "ResetFailedUnit of a unit that is not loaded",
        "ResetFailedUnit",
        "s",
        ("t-x.scope",),
        LATER,
        _OPERATION,
    ),
    ("reset-bad-name", "ResetFailedUnit of what is no name", "ResetFailedUnit", "s", ("nonsense",), (), _OPERATION),
    (
        "kill-none",
        "KillUnit of a unit that is not loaded",
        "KillUnit",
        "ssi",
        ("t-x.scope", "all", 9),
        LATER,
        _OPERATION,
    ),
    ("get-none", "GetUnit of a unit that is not loaded", "GetUnit", "s", ("t-x.scope",), (), _FIND),
    ("get-bad-name", "GetUnit of what is no name", "GetUnit", "s", ("nonsense",), (), _FIND),
    ("load-none", "LoadUnit of a unit that is not there", "LoadUnit", "s", ("t-x.scope",), (), _LOAD),
    ("ref-none", "RefUnit of a unit that is not there", "RefUnit", "s", ("t-x.scope",), (), _OPERATION),
    ("freeze-none", "FreezeUnit of a unit that is not there", "FreezeUnit", "s", ("t-x.scope",), LATER, _OPERATION),
    (
        "job-none",
        "GetJob of a job that is not there",
        "GetJob",
        "u",
        (4_000_000_000,),
        (),
        "dbus-manager.c method_get_job",
    ),
    ("pid-none", "GetUnitByPID of a process that is not there", "GetUnitByPID", "u", (GONE,), LATER, _PIDS),
    (
        "cgroup-relative",
        "GetUnitByControlGroup of a relative path",
        "GetUnitByControlGroup",
        "s",
        ("x.slice",),
        (),
        _CGROUP,
    ),
    ("unknown-method", "A method that is none", "Nonsense", "", (), (), "bus-objects.c bus_process_object"),
    (
        "bad-arguments",
        "A method with the wrong arguments",
        "StopUnit",
        "s",
        ("t-x.slice",),
        (),
        "bus-objects.c method_callbacks_run",
    ),
    (
        "attach-none",
        "AttachProcessesToUnit of a unit that is not loaded",
        "AttachProcessesToUnit",
        "ssau",
        ("t-x.scope", "", [1]),
        LATER,
        _OPERATION,
    ),
)


def _call_probe(row: _Call) -> None:
    id, question, member, signature, arguments, relied_on, source = row

    async def ask(s: Stage) -> Answer:
        return await s.call(member, signature, *arguments)

    probe.habit(id, f"{question}: what is said?", relied_on=relied_on, source=source)(ask)


for _row in _CALLS:
    _call_probe(_row)


@probe.habit(
    "stop-down",
    "StopUnit of a unit that is loaded and down: how does the job end?",
    relied_on=EVERY,
    source="job.c job_run_and_invalidate; unit.c unit_stop",
)
async def stop_down(s: Stage) -> Answer:
    await s.failed("t-a.scope")
    return [await s.down("t-a.scope"), await s.state("t-a.scope")]


@probe.habit(
    "reset-active",
    "ResetFailedUnit of a unit that did not fail",
    relied_on=LATER,
    source="dbus-unit.c bus_unit_method_reset_failed; scope.c scope_reset_failed",
)
async def reset_active(s: Stage) -> Answer:
    await s.scope("t-a.scope")
    return [await s.call("ResetFailedUnit", "s", "t-a.scope"), await s.state("t-a.scope")]


@probe.contract("reset-failed", "ResetFailedUnit of a scope that failed: what is it then?", relied_on=LATER)
async def reset_failed(s: Stage) -> Answer:
    failed = await s.failed("t-a.scope")
    said = await s.call("ResetFailedUnit", "s", "t-a.scope")
    await s.quiet()
    return [failed, said, await s.call("GetUnit", "s", "t-a.scope"), await s.state("t-a.scope")]


@probe.contract("kill-all", "KillUnit of a scope's processes, those in a cgroup below too", relied_on=LATER)
async def kill_all(s: Stage) -> Answer:
    await s.worker("below")
    await s.scope("t-a.scope", Delegate=True)
    s.put("below", s.path("t-a.scope") + "/sub")
    said = await s.call("KillUnit", "ssi", "t-a.scope", "all", int(signal.SIGKILL))
    return [said, await s.ends(), await s.ends("below")]


@probe.habit(
    "kill-whom",
    "KillUnit of whom there is not: 'nonsense', 'main', 'control', '', 'all-fail'",
    source="dbus-unit.c bus_unit_method_kill; unit.c unit_kill",
)
async def kill_whom(s: Stage) -> Answer:
    await s.up("t-a.slice")
    words = ("nonsense", "main", "control", "", "all-fail")
    return [await s.call("KillUnit", "ssi", "t-a.slice", word, int(signal.SIGTERM)) for word in words]


@probe.habit("kill-signal", "KillUnit with the signals 0, 65 and -1", source="dbus-unit.c bus_unit_method_kill")
async def kill_signal(s: Stage) -> Answer:
    await s.up("t-a.slice")
    return [await s.call("KillUnit", "ssi", "t-a.slice", "all", number) for number in (0, 65, -1)]


@probe.habit(
    "set-none",
    "SetUnitProperties of a scope that never was, and of a slice that never was",
    relied_on=EVERY,
    source="dbus-manager.c method_set_unit_properties, method_generic_unit_operation",
)
async def set_none(s: Stage) -> Answer:
    s.own("t-x.slice")
    return [await s.set("t-x.scope", CPUShares=300), await s.set("t-x.slice", CPUShares=300)]


@probe.habit(
    "set-refused",
    "SetUnitProperties of what may be set only at the start",
    relied_on=LATER,
    source="dbus-unit.c bus_unit_set_properties",
)
async def set_refused(s: Stage) -> Answer:
    await s.scope("t-a.scope")
    one_by_one: list[dict[str, Any]] = [
        {"Nonsense": True},
        {"PIDs": [s.pid()]},
        {"Delegate": True},
        {"Slice": "t-b.slice"},
        {"DefaultDependencies": False},
        {"TimeoutStopUSec": 1_000_000},
        {},
    ]
    return [await s.set("t-a.scope", **values) for values in one_by_one]


@probe.habit(
    "set-nothing-applied",
    "SetUnitProperties with one good and one bad property: is anything applied?",
    source="dbus-unit.c bus_unit_set_properties",
)
async def set_nothing_applied(s: Stage) -> Answer:
    await s.up("t-a.slice", CPUShares=300)
    said = await s.set("t-a.slice", CPUShares=400, Nonsense=True)
    return [said, await s.get("t-a.slice", "Slice", "CPUShares")]


@probe.contract(
    "set-lists",
    "DeviceAllow set again: does it add to the list, and does an empty one clear it?",
    source="org.freedesktop.systemd1(5), The Manager Object: Methods (SetUnitProperties)",
    relied_on=LATER,
)
async def set_lists(s: Stage) -> Answer:
    await s.up("t-a.slice", DeviceAllow=[["/dev/null", "r"]])
    found = []
    for value in ([["/dev/zero", "rw"]], [], [["/dev/full", "m"]]):
        await s.set("t-a.slice", DeviceAllow=value)
        found.append(await s.get("t-a.slice", "Slice", "DeviceAllow"))
    return found


@probe.habit(
    "get-path",
    "The object's path of a unit: is it the escaped name?",
    relied_on=EVERY,
    source="unit-def.c unit_dbus_path_from_name",
)
async def get_path(s: Stage) -> Answer:
    await s.up("t-a_b:c.slice")
    answer = await s.client.call("GetUnit", "s", s.name("t-a_b:c.slice"))
    return [s.told(answer), answer.body[0] == systemd1.unit_path(s.name("t-a_b:c.slice"))]


@probe.habit("path-bad", "Properties.Get of objects that are none", source="dbus.c bus_unit_find, find_unit")
async def path_bad(s: Stage) -> Answer:
    paths = (f"{systemd1.PATH}/unit/garbage", f"{systemd1.PATH}/nonsense", f"{systemd1.PATH}/job/4000000000")
    return [s.told(await s.client.get(path, systemd1.UNIT, "ActiveState")) for path in paths]


@probe.contract(
    "get-by-pid", "GetUnitByPID of a scope's process, of one in a cgroup below, and of one in no unit", relied_on=LATER
)
async def get_by_pid(s: Stage) -> Answer:
    await s.worker("below")
    await s.worker("outside")
    await s.scope("t-a.scope", Delegate=True)
    s.put("below", s.path("t-a.scope") + "/sub")
    return [await s.call("GetUnitByPID", "u", s.pid(name)) for name in ("worker", "below", "outside")]


@probe.habit(
    "get-by-cgroup",
    "GetUnitByControlGroup of a scope's cgroup, of one below, and of one that is not there",
    source=_CGROUP,
)
async def get_by_cgroup(s: Stage) -> Answer:
    await s.scope("t-a.scope", Slice="t-b.slice")
    path = s.path("t-a.scope", within="t-b.slice")
    return [
        await s.call("GetUnitByControlGroup", "s", one)
        for one in (s.whole(path), s.whole(f"{path}/sub"), s.whole(s.path("t-x.slice")), "/none", "/")
    ]


@probe.habit(
    "attach",
    "AttachProcessesToUnit: into a delegated scope, below it, an undelegated one, with a bad path",
    relied_on=LATER,
    source=_ATTACH,
)
async def attach(s: Stage) -> Answer:
    other = await s.worker("other")
    await s.scope("t-a.scope", Delegate=True)
    said = [
        await s.call("AttachProcessesToUnit", "ssau", "t-a.scope", where, [other])
        for where in ("", "/sub", "sub", "/a/../b")
    ]
    said.append(s.systemd_says("other"))
    await s.scope("t-b.scope", worker="third")
    said.append(await s.call("AttachProcessesToUnit", "ssau", "t-b.scope", "", [other]))
    said.append(await s.call("AttachProcessesToUnit", "ssau", "t-a.scope", "", [GONE]))
    return said


@probe.habit("freeze", "FreezeUnit and ThawUnit of an active scope, each twice", relied_on=LATER, source=_FREEZE)
async def freeze(s: Stage) -> Answer:
    await s.scope("t-a.scope")
    return [await s.call(member, "s", "t-a.scope") for member in ("FreezeUnit", "FreezeUnit", "ThawUnit", "ThawUnit")]


@probe.habit(
    "freeze-down",
    "FreezeUnit of a slice that is down, and of a scope that waits for its job",
    relied_on=LATER,
    source=_FREEZE,
)
async def freeze_down(s: Stage) -> Answer:
    gate = await s.gate()
    await s.worker()
    await s.start("t-a.scope", PIDs=[s.pid()], After=[gate.unit])
    return [await s.call("FreezeUnit", "s", s.own(unit)) for unit in ("t-b.slice", "t-a.scope")]


@probe.habit(
    "freeze-stop",
    "StopUnit of a frozen scope: how does the job end?",
    source="job.c job_run_and_invalidate; unit.c unit_stop",
    layouts=("v2",),
    relied_on=LATER,
)
async def freeze_stop(s: Stage) -> Answer:
    await s.scope("t-a.scope")
    frozen = await s.call("FreezeUnit", "s", "t-a.scope")
    stopped = await s.down("t-a.scope")
    state = await s.state("t-a.scope")
    return [frozen, stopped, state, await s.call("ThawUnit", "s", "t-a.scope")]


@probe.habit(
    "references", "RefUnit, and UnrefUnit twice", source="dbus-unit.c bus_unit_method_ref, bus_unit_method_unref"
)
async def references(s: Stage) -> Answer:
    await s.up("t-a.slice")
    # Not RefUnit twice: after an UnrefUnit of that, PID 1 of a 247 answers nobody any more.
    members = ("RefUnit", "UnrefUnit", "UnrefUnit")
    return [await s.call(member, "s", "t-a.slice") for member in members]


@probe.habit(
    "list-units",
    "ListUnits: is a made slice in it, and of how many parts is a row?",
    source="dbus-manager.c reply_unit_info",
    relied_on=(),
)
async def list_units(s: Stage) -> Answer:
    await s.up("t-a.slice", Description="ours")
    answer = await s.client.call("ListUnits")
    rows = [row for row in answer.body[0] if row[0] == s.name("t-a.slice")]
    return [answer.signature, [s.plain(row[:6]) for row in rows]]
