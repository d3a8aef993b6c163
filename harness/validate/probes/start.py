"""What StartTransientUnit refuses, by which name and text, and which of two faults is told first."""

from __future__ import annotations

from typing import Any

from cgrace.harness.dbus.message import Variant
from cgrace.harness.validate.machine import START
from cgrace.harness.validate.probe import EVERY, LADDER, LATER, Subject
from cgrace.harness.validate.stage import GONE, Answer, Stage

SOURCE = "dbus-manager.c method_start_transient_unit, transient_unit_from_message"
_NAME = "dbus-manager.c method_start_transient_unit, transient_unit_from_message; unit-name.c unit_name_is_valid"
_MODE = "dbus-manager.c method_start_transient_unit; manager.c manager_add_job_full"
_UNIT = "dbus-unit.c bus_unit_set_properties, bus_unit_set_transient_property"
_SCOPE = "dbus-scope.c bus_scope_set_transient_property; scope.c scope_load"
_CGROUP = "dbus-cgroup.c bus_cgroup_set_property"
_DELEGATE = "dbus-cgroup.c bus_cgroup_set_transient_property"

probe = Subject("start", SOURCE)


def V(signature: str, value: Any) -> Variant:
    """A variant."""
    return Variant(signature=signature, value=value)


# ---- mode and name: (id, question, unit, mode). Which of them are refused is promised in part, how it is told nowhere.
_NAMES = (
    ("mode-bad", "A job mode that is none", "t-a.slice", "nonsense"),
    ("mode-isolate", "Mode 'isolate'", "t-a.slice", "isolate"),
    ("mode-triggering", "Mode 'triggering'", "t-a.slice", "triggering"),
    ("mode-restart-dependencies", "Mode 'restart-dependencies'", "t-a.slice", "restart-dependencies"),
    ("mode-lenient", "Mode 'lenient'", "t-a.slice", "lenient"),
    ("name-no-suffix", "A name without a suffix", "cgrace", "replace"),
    ("name-bad-suffix", "A name with an unknown suffix", "t-a.nonsense", "replace"),
    ("name-bad-characters", "A name with a blank and a slash", "a /b.scope", "replace"),
    ("name-empty", "An empty name", "", "replace"),
    ("name-template", "A template's name", "t-a@.slice", "replace"),
    ("name-too-long", "A name of 256 characters", "a" * 250 + ".slice", "replace"),
    ("name-longest", "A name of 255 characters", "a" * 249 + ".slice", "replace"),
    ("type-target", "A type that cannot be transient: target", "t-a.target", "replace"),
    ("type-device", "A type that cannot be transient: device", "t-a.device", "replace"),
    ("type-mount", "A mount without anything", "t-a.mount", "replace"),
    ("mode-before-name", "A bad mode and a bad name: which is told?", "cgrace", "nonsense"),
)


def _name_probe(id: str, question: str, unit: str, mode: str) -> None:
    async def ask(s: Stage) -> Answer:
        said = await s.start(unit, mode)
        if unit.startswith("aaa") and said == "job":
            await s.down(unit)
        return said

    source = _MODE if id.startswith("mode") else _NAME
    probe.habit(id, f"{question}: what is said?", source=source, relied_on=())(ask)


for _row in _NAMES:
    _name_probe(*_row)


# ---- properties: (id, question, unit, properties, who relies on it). A scope gets a process unless PIDs are given.
_VALUES: tuple[tuple[str, str, str, dict[str, Any], tuple[str, ...]], ...] = (
    ("unknown", "An unknown property", "t-a.slice", {"Nonsense": True}, LADDER),
    ("not-settable", "A property that can only be read", "t-a.slice", {"ActiveState": "active"}, ()),
    ("other-type", "A property of another type of unit", "t-a.slice", {"TimeoutStopUSec": 1}, ()),
    ("wrong-signature", "A property with the wrong D-Bus type", "t-a.slice", {"CPUShares": V("u", 512)}, ()),
    ("pids-signature", "PIDs as 'ai'", "t-a.scope", {"PIDs": V("ai", [GONE])}, ()),
    ("pids-empty", "PIDs with nothing in it", "t-a.scope", {"PIDs": []}, ()),
    ("pids-manager", "PIDs with 1", "t-a.scope", {"PIDs": [1]}, ()),
    ("pids-gone", "PIDs with a process that is not there", "t-a.scope", {"PIDs": [GONE]}, LATER),
    ("pids-none", "A scope without PIDs", "t-a.scope", {"PIDs": None}, ()),
    ("delegate-slice", "Delegate on a slice", "t-a.slice", {"Delegate": True}, LADDER),
    ("delegate-slice-no", "Delegate=no on a slice", "t-a.slice", {"Delegate": False}, ()),
    ("delegate-scope", "Delegate on a scope", "t-a.scope", {"Delegate": True}, EVERY),
    ("delegate-controllers", "DelegateControllers on a scope", "t-a.scope", {"DelegateControllers": ["cpu"]}, ()),
    ("slice-on-slice", "Slice on a slice", "t-a.slice", {"Slice": "t-b.slice"}, ()),
    ("slice-invalid", "Slice that is no unit's name", "t-a.scope", {"Slice": "b c"}, ()),
    ("slice-empty", "Slice that is empty", "t-a.scope", {"Slice": ""}, ()),
    ("slice-other-type", "Slice that is not a slice", "t-a.scope", {"Slice": "b.scope"}, ()),
    ("dependencies-scope", "DefaultDependencies=no on a scope", "t-a.scope", {"DefaultDependencies": False}, EVERY),
    (
        "dependencies-scope-yes",
        "DefaultDependencies=yes on a scope",
        "t-a.scope",
        {"DefaultDependencies": True},
        LADDER,
    ),
    ("dependencies-slice", "DefaultDependencies=no on a slice", "t-a.slice", {"DefaultDependencies": False}, EVERY),
    ("shares-low", "CPUShares=1", "t-a.slice", {"CPUShares": 1}, EVERY),
    ("shares-high", "CPUShares=262145", "t-a.slice", {"CPUShares": 262145}, EVERY),
    ("weight-zero", "CPUWeight=0", "t-a.slice", {"CPUWeight": 0}, ()),
    ("weight-high", "CPUWeight=10001", "t-a.slice", {"CPUWeight": 10001}, LATER),
    ("io-weight-high", "IOWeight=10001", "t-a.slice", {"IOWeight": 10001}, LATER),
    ("block-weight-low", "BlockIOWeight=9", "t-a.slice", {"BlockIOWeight": 9}, EVERY),
    ("memory-limit-zero", "MemoryLimit=0", "t-a.slice", {"MemoryLimit": 0}, EVERY),
    ("memory-max-zero", "MemoryMax=0", "t-a.slice", {"MemoryMax": 0}, LATER),
    ("memory-high-zero", "MemoryHigh=0", "t-a.slice", {"MemoryHigh": 0}, LATER),
    ("tasks-zero", "TasksMax=0", "t-a.slice", {"TasksMax": 0}, EVERY),
    ("quota-zero", "CPUQuotaPerSecUSec=0", "t-a.slice", {"CPUQuotaPerSecUSec": 0}, EVERY),
    ("period-small", "CPUQuotaPeriodUSec=1", "t-a.slice", {"CPUQuotaPeriodUSec": 1}, LATER),
    ("policy-bad", "DevicePolicy that is none", "t-a.slice", {"DevicePolicy": "nonsense"}, ()),
    ("device-bad-path", "DeviceAllow of a path outside /dev", "t-a.slice", {"DeviceAllow": [["/x", "r"]]}, LATER),
    ("device-bad-mode", "DeviceAllow with mode 'x'", "t-a.slice", {"DeviceAllow": [["/dev/null", "x"]]}, ()),
    (
        "device-no-node",
        "DeviceAllow of a node that is not there",
        "t-a.slice",
        {"DeviceAllow": [["/dev/none", "r"]]},
        LATER,
    ),
    ("device-number", "DeviceAllow of /dev/char/1:3", "t-a.slice", {"DeviceAllow": [["/dev/char/1:3", "rwm"]]}, LATER),
    ("device-all", "DeviceAllow of char-*", "t-a.slice", {"DeviceAllow": [["char-*", "m"]]}, LATER),
    ("collect-bad", "CollectMode that is none", "t-a.slice", {"CollectMode": "nonsense"}, ()),
    ("kill-mode-bad", "KillMode that is none", "t-a.scope", {"KillMode": "nonsense"}, ()),
    ("requires-bad", "Requires of no unit's name", "t-a.slice", {"Requires": ["b c"]}, ()),
    ("requires-missing", "Requires of a unit that is not there", "t-a.slice", {"Requires": ["t-none.service"]}, ()),
    ("wants-missing", "Wants of a unit that is not there", "t-a.slice", {"Wants": ["t-none.service"]}, LADDER),
    ("wants-slice", "Wants of a slice", "t-b.slice", {"Wants": ["t-c.slice"]}, EVERY),
)


_OF_UNITS = (
    "Nonsense",
    "ActiveState",
    "TimeoutStopUSec",
    "Slice",
    "DefaultDependencies",
    "CollectMode",
    "Requires",
    "Wants",
)


def _source_of(name: str) -> str:
    """Where it is decided whether a unit may have the property with that value."""
    if name in ("PIDs", "KillMode"):
        return _SCOPE
    if name.startswith("Delegate"):
        return _DELEGATE
    return _UNIT if name in _OF_UNITS else _CGROUP


def _value_probe(id: str, question: str, unit: str, values: dict[str, Any], relied_on: tuple[str, ...]) -> None:
    async def ask(s: Stage) -> Answer:
        given = dict(values)
        if unit.endswith(".scope") and "PIDs" not in given:
            given["PIDs"] = [await s.worker()]
        if given.get("PIDs", True) is None:
            del given["PIDs"]
        return await s.up(unit, **given)

    source = _source_of(next(iter(values)))
    probe.habit(id, f"{question}: what is said, or how does the job end?", source=source, relied_on=relied_on)(ask)


for _value in _VALUES:
    _value_probe(*_value)


@probe.habit("exists-before-property", "A unit that exists and a bad property: which is told?", relied_on=EVERY)
async def exists_before_property(s: Stage) -> Answer:
    await s.up("t-a.slice")
    return await s.start("t-a.slice", Nonsense=True)


@probe.habit("first-property", "Two bad properties: which is told?", relied_on=LADDER)
async def first_property(s: Stage) -> Answer:
    return await s.start("t-a.slice", CPUShares=1, Nonsense=True)


@probe.habit("nothing-applied", "One good and one bad property: is anything applied?")
async def nothing_applied(s: Stage) -> Answer:
    await s.start("t-a.slice", Description="ours", Nonsense=True)
    await s.quiet()
    return [await s.state("t-a.slice"), s.made(s.path("t-a.slice"))]


@probe.habit("property-twice", "The same property twice: which wins?")
async def property_twice(s: Stage) -> Answer:
    array = [["CPUShares", V("t", 300)], ["CPUShares", V("t", 400)]]
    await s.client.call("StartTransientUnit", START, s.own("t-a.slice"), "replace", array, [])
    return await s.get("t-a.slice", "Slice", "CPUShares")


@probe.habit("pids-taken", "PIDs with a process of another scope: is it moved?", source=_SCOPE, relied_on=LATER)
async def pids_taken(s: Stage) -> Answer:
    await s.worker()
    await s.worker("other")
    await s.up("t-a.scope", PIDs=[s.pid(), s.pid("other")])
    result = await s.up("t-b.scope", PIDs=[s.pid()])
    return [result, s.systemd_says("worker"), s.systemd_says("other")]


@probe.contract(
    "new-slice",
    "Slice that is not there yet: is it made, and what is it?",
    relied_on=EVERY,
    source="systemd.resource-control(5), Implicit Dependencies",
)
async def new_slice(s: Stage) -> Answer:
    result = await s.scope("t-a.scope", Slice="t-b-c.slice")
    return [result, await s.state("t-b-c.slice"), await s.state("t-b.slice"), s.systemd_says()]


@probe.habit(
    "aux", "An auxiliary unit: is it made, and started?", source="dbus-manager.c transient_aux_units_from_message"
)
async def aux(s: Stage) -> Answer:
    also = [[s.own("t-b.slice"), s.properties({"Description": "also"})]]
    answer = await s.client.call("StartTransientUnit", START, s.own("t-a.slice"), "replace", [], also)
    await s.quiet()
    return [s.told(answer), await s.state("t-a.slice"), await s.state("t-b.slice")]


@probe.habit("arguments", "StartTransientUnit with too few arguments", source="bus-objects.c method_callbacks_run")
async def arguments(s: Stage) -> Answer:
    return await s.call("StartTransientUnit", "ss", "t-a.slice", "replace")
