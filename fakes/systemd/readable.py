"""Properties that can be read, on Manager, Unit, Scope, Slice and Job: those that the drivers and their tools ask for.

Each reader returns (D-Bus signature, value). Where a setting was never given, its default is the version's.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from cgrace.fakes.systemd.properties import INFINITY, SETTINGS
from cgrace.fakes.systemd.units import Load, Unit
from cgrace.harness.dbus import systemd1
from cgrace.harness.dbus.message import Variant

if TYPE_CHECKING:
    from cgrace.fakes.systemd.core import Core
    from cgrace.fakes.systemd.jobs import Job

MANAGER, UNIT, JOB = systemd1.MANAGER, systemd1.UNIT, systemd1.JOB
UNIT_INTERFACES = {"scope": systemd1.SCOPE, "slice": systemd1.SLICE, "service": systemd1.SERVICE}

Value = tuple[str, Any]

_ANNOUNCED = ("ActiveState", "SubState", "Job", "LoadState", "FragmentPath", "CanStart", "CanStop", "InvocationID")
_DEFAULTS: dict[str, Any] = {"b": False, "t": INFINITY, "s": "", "as": [], "a(ss)": [], "a(st)": [], "ay": b"", "i": 15}
_NAMED_DEFAULTS: dict[str, Any] = {
    "DevicePolicy": "auto",
    "KillMode": "control-group",
    "SendSIGKILL": True,
    "DefaultDependencies": True,
    "CollectMode": "inactive",
    "OOMPolicy": "stop",
    "MemoryLow": 0,
    "MemoryMin": 0,
    "CPUQuotaPeriodUSec": INFINITY,
}
_SINCE_READABLE = {"PIDs", "PIDFDs", "AddRef", "Slice", "Controller"}


def manager_property(core: Core, name: str) -> Value | None:
    """One of Manager's, None where it has no such property."""
    reader = _MANAGER.get(name)
    return reader(core) if reader else None


def unit_property(core: Core, unit: Unit, name: str, job: Job | None) -> Value | None:
    """One of Unit's. `job`: the one to show."""
    reader = _UNIT.get(name)
    if reader is not None:
        return reader(core, unit, job)
    setting = SETTINGS.get(name)
    if setting is None or setting.where != "unit" or name in _SINCE_READABLE:
        return None
    return setting.signature, _setting(core, unit, name, setting.signature)


def type_property(core: Core, unit: Unit, name: str) -> Value | None:
    """One of Scope's or Slice's."""
    reader = _TYPE.get(name)
    if reader is not None:
        if name == "ControlGroupId" and core.profile.version < 251:
            return None
        return None if name in _SCOPE_ONLY and unit.type != "scope" else reader(core, unit)
    setting = SETTINGS.get(name)
    if setting is None or setting.where == "unit" or name in _SINCE_READABLE:
        return None
    if (setting.where == "scope" and unit.type != "scope") or setting.since > _version(core, name):
        return None
    return setting.signature, _setting(core, unit, name, setting.signature)


def job_property(job: Job, name: str) -> Value | None:
    """One of Job's."""
    values: dict[str, Value] = {
        "Id": ("u", job.id),
        "Unit": ("(so)", [job.unit.name, job.unit.path]),
        "JobType": ("s", job.kind),
        "State": ("s", "running" if job.running else "waiting"),
    }
    return values.get(name)


def all_properties(core: Core, interface: str, unit: Unit | None, job: Job | None) -> dict[str, Variant]:
    """GetAll."""
    found: dict[str, Value | None] = {}
    if interface == MANAGER:
        found = {name: manager_property(core, name) for name in _MANAGER}
    elif interface == JOB and job is not None:
        found = {name: job_property(job, name) for name in ("Id", "Unit", "JobType", "State")}
    elif interface == UNIT and unit is not None:
        found = {name: unit_property(core, unit, name, unit.job) for name in [*_UNIT, *SETTINGS]}
    elif unit is not None:
        found = {name: type_property(core, unit, name) for name in [*_TYPE, *SETTINGS]}
    return {name: Variant(signature=value[0], value=value[1]) for name, value in found.items() if value is not None}


def describe(core: Core, unit: Unit, job: Job | None) -> list[tuple[str, dict[str, Variant], list[str]]]:
    """What PropertiesChanged carries: the type's interface first, then Unit with all that is announced."""
    messages: list[tuple[str, dict[str, Variant], list[str]]] = []
    if unit.type == "scope":
        own = {"Result": Variant(signature="s", value=unit.result)}
        messages.append((UNIT_INTERFACES["scope"], own, []))
    elif unit.type in UNIT_INTERFACES and unit.type != "slice":  # no property of a slice's own is announced
        messages.append((UNIT_INTERFACES[unit.type], {}, []))
    changed = {}
    for name in _ANNOUNCED:
        value = unit_property(core, unit, name, job)
        if value is not None:
            changed[name] = Variant(signature=value[0], value=value[1])
    messages.append((UNIT, changed, ["Conditions", "Asserts"]))
    return messages


def _version(core: Core, name: str) -> int:
    return 10**6 if name in core.profile.extra_properties else core.profile.version


def _setting(core: Core, unit: Unit, name: str, signature: str) -> Any:
    if name in unit.settings:
        return unit.settings[name]
    if name == "TimeoutStopUSec":
        return core.profile.default_timeout_stop_us
    if name in ("MemoryAccounting", "TasksAccounting"):
        return name.removesuffix("Accounting").lower().replace("tasks", "pids") in core.profile.accounting
    if name == "CPUAccounting":  # costs nothing on v2 (cgroup.c, get_cpu_accounting_mask)
        return core.realiser.is_v2
    return _NAMED_DEFAULTS.get(name, _DEFAULTS.get(signature, ""))


def _description(core: Core, unit: Unit) -> str:
    """What it was given, else (in later versions) a slice's place in words (slice.c, slice_load)."""
    if "Description" in unit.settings or unit.type != "slice" or core.profile.version < 252 or not unit.cgroup:
        return str(unit.settings.get("Description", unit.name))
    return "Slice /" + unit.name.removesuffix(".slice").replace("-", "/")


def _fragment_path(core: Core, unit: Unit) -> str:
    if not unit.fragment:
        return ""
    folder = "/run/systemd/transient" if unit.transient else "/usr/lib/systemd/system"
    return f"{folder}/{unit.name}"


def _current(file: str, hierarchy: str) -> Callable[[Core, Unit], Value]:
    def read(core: Core, unit: Unit) -> Value:
        for each in core.tree.hierarchies:
            if hierarchy in each.controllers and unit.realised and not unit.phantom:
                try:
                    return "t", int(core.tree.read(each.name, unit.cgroup, file))
                except (OSError, ValueError):
                    break
        return "t", INFINITY

    return read


_MANAGER: dict[str, Callable[[Core], Value]] = {
    "Version": lambda core: ("s", core.profile.version_string),
    "Features": lambda core: ("s", core.profile.features),
    "Virtualization": lambda core: ("s", "container-other" if core.container else ""),
    "Architecture": lambda core: ("s", "x86-64"),
    "Tainted": lambda core: ("s", "cgroupsv1" if core.profile.version >= 256 and not core.realiser.is_v2 else ""),
    "SystemState": lambda core: ("s", "starting" if len(core.jobs) else "running"),
    "ControlGroup": lambda core: ("s", ""),
    "DefaultTimeoutStopUSec": lambda core: ("t", core.profile.default_timeout_stop_us),
    "DefaultTasksMax": lambda core: ("t", INFINITY),
    "DefaultMemoryAccounting": lambda core: ("b", "memory" in core.profile.accounting),
    "DefaultTasksAccounting": lambda core: ("b", "pids" in core.profile.accounting),
    "DefaultCPUAccounting": lambda core: ("b", core.realiser.is_v2),
    "DefaultBlockIOAccounting": lambda core: ("b", False),
    "NJobs": lambda core: ("u", len(core.jobs)),
    "NNames": lambda core: ("u", len(core.units)),
    "Environment": lambda core: ("as", []),
}

_UNIT: dict[str, Callable[[Core, Unit, Job | None], Value]] = {
    "Id": lambda core, unit, job: ("s", unit.name),
    "Names": lambda core, unit, job: ("as", [unit.name]),
    "LoadState": lambda core, unit, job: ("s", str(unit.load)),
    "ActiveState": lambda core, unit, job: ("s", unit.active_state),
    "SubState": lambda core, unit, job: ("s", str(unit.sub)),
    "Description": lambda core, unit, job: ("s", _description(core, unit)),
    "Job": lambda core, unit, job: ("(uo)", [job.id, job.path] if job else [0, "/"]),
    "InvocationID": lambda core, unit, job: ("ay", unit.invocation.to_bytes(16, "big") if unit.invocation else b""),
    "Transient": lambda core, unit, job: ("b", unit.transient),
    "Perpetual": lambda core, unit, job: ("b", unit.perpetual),
    "CanStart": lambda core, unit, job: ("b", unit.type != "scope" and unit.load is Load.LOADED),
    "CanStop": lambda core, unit, job: ("b", not unit.perpetual and unit.load is Load.LOADED),
    "CanFreeze": lambda core, unit, job: ("b", core.realiser.is_v2 and not unit.phantom),
    "FreezerState": lambda core, unit, job: ("s", str(unit.freezer)),
    "FragmentPath": lambda core, unit, job: ("s", _fragment_path(core, unit)),
    "DropInPaths": lambda core, unit, job: ("as", []),
    "NeedDaemonReload": lambda core, unit, job: ("b", False),
    "Refs": lambda core, unit, job: ("as", sorted(unit.refs)),
}

_SCOPE_ONLY = {"Result", "Controller", "RuntimeMaxUSec"}
_TYPE: dict[str, Callable[[Core, Unit], Value]] = {
    "ControlGroup": lambda core, unit: ("s", unit.cgroup or "/" if unit.realised or unit.phantom else ""),
    "Slice": lambda core, unit: ("s", unit.slice.name if unit.slice else ""),
    "Result": lambda core, unit: ("s", unit.result),
    "Controller": lambda core, unit: ("s", unit.settings.get("Controller", "")),
    "ControlGroupId": lambda core, unit: ("t", core.realiser.cgroup_id(unit)),
    "MemoryCurrent": _current("memory.usage_in_bytes", "memory"),
    "TasksCurrent": _current("pids.current", "pids"),
    "CPUUsageNSec": _current("cpuacct.usage", "cpuacct"),
    "DelegateControllers": lambda core, unit: (
        "as",
        sorted(core.realiser.masks.named_to_delegate(unit)),
    ),
}
