"""Properties that may be set: their types, since when, and what values are refused (dbus-unit.c, dbus-cgroup.c, dbus-scope.c).

`check` goes over a whole array and returns what is to be applied; the first bad one wins and nothing is applied. A property
that is unknown, of another unit type or not settable now is PropertyReadOnly, a wrong D-Bus type System.Error.ENXIO.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from cgrace.fakes.systemd import names
from cgrace.fakes.systemd.profile import Profile
from cgrace.fakes.systemd.refusal import Refuse
from cgrace.fakes.systemd.units import Unit

INFINITY = 2**64 - 1
FIELDS_OF_UNIT = frozenset(("PIDs", "PIDFDs", "Slice", "AddRef"))
"""Properties that are no settings: they are carried out where they are applied."""
_NEVER_WRITTEN = frozenset(("PIDs", "PIDFDs", "AddRef"))


@dataclass(frozen=True, slots=True)
class Setting:
    """signature: its D-Bus type. where: "cgroup" (scope and slice), "scope", "unit". live: also after creation.

    since: the first version that has it. low, high: bounds of a number. appends: a list adds to what is there.
    """

    signature: str
    where: str
    live: bool = False
    since: int = 205
    low: int = 0
    high: int = INFINITY
    appends: bool = False


def _table() -> dict[str, Setting]:
    table: dict[str, Setting] = {}

    def add(where: str, signature: str, spelled: str, *, live: bool = False, appends: bool = False) -> None:
        for word in spelled.split():
            name, _, rest = word.partition("/")
            since, _, bounds = rest.partition(":")
            low, _, high = bounds.partition("-")
            table[name] = Setting(
                signature, where, live, int(since or 205), int(low or 0), int(high or INFINITY), appends
            )

    add(
        "cgroup",
        "b",
        "CPUAccounting MemoryAccounting BlockIOAccounting TasksAccounting/227 IOAccounting/230",
        live=True,
    )
    add("cgroup", "b", "IPAccounting/235", live=True)
    add("cgroup", "t", "CPUShares/205:2-262144 StartupCPUShares/214:2-262144 CPUWeight/232:0-10000", live=True)
    add("cgroup", "t", "StartupCPUWeight/232:0-10000 CPUQuotaPerSecUSec/213:1 CPUQuotaPeriodUSec/242", live=True)
    add("cgroup", "t", "BlockIOWeight/205:10-1000 StartupBlockIOWeight/214:10-1000 IOWeight/230:1-10000", live=True)
    add("cgroup", "t", "MemoryLimit/205:1 MemoryLow/231 MemoryHigh/231:1 MemoryMax/231:1 MemorySwapMax/232", live=True)
    add("cgroup", "t", "MemoryMin/240 MemoryZSwapMax/253 TasksMax/227:1", live=True)
    add("cgroup", "s", "DevicePolicy", live=True)
    add("cgroup", "a(ss)", "DeviceAllow", live=True, appends=True)
    add("cgroup", "a(st)", "BlockIODeviceWeight BlockIOReadBandwidth BlockIOWriteBandwidth", live=True, appends=True)
    add("cgroup", "a(st)", "IODeviceWeight/230 IOReadBandwidthMax/230 IOWriteBandwidthMax/230", live=True, appends=True)
    add("cgroup", "a(st)", "IOReadIOPSMax/230 IOWriteIOPSMax/230", live=True, appends=True)
    add("cgroup", "ay", "AllowedCPUs/244 AllowedMemoryNodes/244", live=True)
    add("cgroup", "b", "Delegate/218")
    add("cgroup", "as", "DelegateControllers/236", appends=True)
    add("cgroup", "as", "DisableControllers/243", live=True, appends=True)
    add("cgroup", "s", "ManagedOOMSwap/247 ManagedOOMMemoryPressure/247", live=True)
    add("cgroup", "s", "DelegateSubgroup/254")
    add("scope", "au", "PIDs", appends=True)
    add("scope", "ah", "PIDFDs/255", appends=True)
    add("scope", "s", "Controller KillMode OOMPolicy/253 User/252 Group/252")
    add("scope", "t", "TimeoutStopUSec RuntimeMaxUSec/244")
    add("scope", "i", "KillSignal")
    add("scope", "b", "SendSIGHUP SendSIGKILL")
    add("unit", "s", "Description", live=True)
    add("unit", "s", "Slice SourcePath/227 CollectMode/236")
    add("unit", "t", "JobTimeoutUSec/258 JobRunningTimeoutUSec/258")
    add("unit", "b", "DefaultDependencies/219 AddRef/232 IgnoreOnIsolate/227 StopWhenUnneeded/227")
    add(
        "unit",
        "as",
        "Requires Requisite Wants BindsTo PartOf Conflicts Before After OnFailure Documentation/227",
        appends=True,
    )
    return table


SETTINGS = _table()
DEPENDENCIES = frozenset(
    ("Requires", "Requisite", "Wants", "BindsTo", "PartOf", "Conflicts", "Before", "After", "OnFailure")
)
_DEVICE_NODE = re.compile(r"^(/dev/|/run/systemd/inaccessible/|char-|block-)")


@dataclass(frozen=True, slots=True)
class Change:
    """A property that passed: its value without the variant."""

    name: str
    value: Any


class Checker:
    """Judges property arrays by one version's rules."""

    def __init__(
        self, profile: Profile, refuse: Refuse, outer: Callable[[int], int | None], slice_of: Callable[[str], Unit]
    ) -> None:
        self._slice_of = slice_of
        self._profile = profile
        self.refuse = refuse
        self._outer = outer
        self._known = {
            name: setting
            for name, setting in SETTINGS.items()
            if setting.since <= profile.version or name in profile.extra_properties
        }

    def check(self, unit: Unit, properties: Iterable[Any], *, creating: bool, sender_pid: int = 0) -> list[Change]:
        """The first pass. `creating`: the unit is being made by this call."""
        changes = []
        for name, variant in properties:
            if name in self._profile.ignored_properties and unit.type in ("scope", "slice", "service"):
                continue
            setting = self._known.get(name)
            if setting is None or not self._applies(setting, unit, creating):
                raise self.refuse("read_only", property=name)
            if variant.signature != setting.signature:
                raise self.refuse("type_mismatch")
            value = variant.value
            if setting.signature == "t":
                self._check_number(name, setting, value)
            elif name in _CHECKS:
                value = _CHECKS[name](self, unit, value)
            elif name in DEPENDENCIES:
                for each in value:
                    if not names.unit_type(each):
                        raise self.refuse("bad_dependency", value=each)
            changes.append(Change(name, value))
        return changes

    def _applies(self, setting: Setting, unit: Unit, creating: bool) -> bool:
        if not creating and not setting.live:
            return False
        if setting.where == "scope":
            return unit.type == "scope" or (unit.type == "service" and setting.signature not in ("au", "ah"))
        return setting.where != "cgroup" or unit.type in ("scope", "slice", "service")

    def _check_number(self, name: str, setting: Setting, value: int) -> None:
        if setting.low <= value <= setting.high or value == INFINITY:
            if name == "CPUWeight" and value == 0 and self._profile.version < 252:
                raise self.refuse("out_of_range", property=name)
            return
        reason = "quota_out_of_range" if name == "CPUQuotaPerSecUSec" else "out_of_range"
        raise self.refuse(reason, property=name)

    def _delegate(self, unit: Unit, value: Any) -> Any:
        if unit.type == "slice" and not self._profile.slice_delegate:
            raise self.refuse("delegate_on_slice")
        return value

    def _slice(self, unit: Unit, value: str) -> str:
        if unit.type == "slice":
            raise self.refuse("slice_on_slice")
        if not names.unit_type(value):
            raise self.refuse("bad_slice_name", value=value)
        self._slice_of(value)  # what is wrong with the rest is seen later
        if names.unit_type(value) != "slice":
            raise self.refuse("not_a_slice", value=value)
        return value

    def _pids(self, unit: Unit, value: list[int]) -> list[int]:
        if not value:
            raise self.refuse("setter_invalid")
        for pid in value:
            if pid == 1:
                raise self.refuse("pid_manager")
            if pid == 0 and not self._profile.pids_checked:
                raise self.refuse("setter_invalid")
            if pid and self._profile.pids_checked and self._outer(pid) is None:
                raise self.refuse("pid_gone", pid=pid)
        return value

    def _device_policy(self, unit: Unit, value: str) -> str:
        if value not in ("auto", "closed", "strict"):
            raise self.refuse("setter_invalid")
        return value

    def _device_allow(self, unit: Unit, value: list[Any]) -> list[Any]:
        for node, mode in value:
            if not _DEVICE_NODE.match(node):
                raise self.refuse("device_node")
            if not mode or set(mode) - set("rwm"):
                raise self.refuse("device_mode")
        return value


def _choice(name: str, *choices: str) -> Callable[[Checker, Unit, Any], Any]:
    def check(checker: Checker, unit: Unit, value: str) -> str:
        if value not in choices:
            raise checker.refuse("bad_choice", property=name, value=value)
        return value

    return check


_CHECKS: dict[str, Callable[[Checker, Unit, Any], Any]] = {
    "Delegate": Checker._delegate,
    "DelegateControllers": Checker._delegate,
    "DelegateSubgroup": Checker._delegate,
    "Slice": Checker._slice,
    "PIDs": Checker._pids,
    "DevicePolicy": Checker._device_policy,
    "DeviceAllow": Checker._device_allow,
    "CollectMode": _choice("CollectMode", "inactive", "inactive-or-failed"),
    "KillMode": _choice("KillMode", "control-group", "process", "mixed", "none"),
    "OOMPolicy": _choice("OOMPolicy", "continue", "stop", "kill"),
}


def _devices_with(have: Iterable[Any], added: Iterable[Any]) -> list[Any]:
    """A device that is there gets the new mode; others are put in front (cgroup.c, cgroup_context_add_device_allow)."""
    devices = [list(one) for one in have]
    for node, mode in added:
        known = next((one for one in devices if one[0] == node), None)
        if known is not None:
            known[1] = mode
        else:
            devices.insert(0, [node, mode])
    return devices


def _delegate(unit: Unit, value: Any) -> None:
    """Delegate= is about all controllers or none, DelegateControllers= adds some (dbus-cgroup.c, bus_cgroup_set_property)."""
    if isinstance(value, bool):
        unit.delegates = None if value else frozenset()
        return
    if not unit.settings.get("Delegate") or not value:
        unit.delegates = frozenset()
    if unit.delegates is not None:
        unit.delegates |= frozenset(value)
    unit.settings["Delegate"] = True


def apply(unit: Unit, changes: Iterable[Change], *, is_v2: bool = False) -> bool:
    """The second pass, for settings. True when one was about the cgroup's controllers."""
    touched = False
    for change in changes:
        unit.dropins |= change.name not in _NEVER_WRITTEN
        if change.name in FIELDS_OF_UNIT:
            continue
        setting = SETTINGS[change.name]
        if change.name == "DeviceAllow" and change.value:
            unit.settings[change.name] = _devices_with(unit.settings.get(change.name, ()), change.value)
        elif setting.appends and change.value:
            unit.settings[change.name] = [*unit.settings.get(change.name, ()), *change.value]
        else:
            unit.settings[change.name] = change.value
        if change.name in ("Delegate", "DelegateControllers"):
            _delegate(unit, change.value)
        # On v2 cpu time is counted without a controller (cgroup.c, get_cpu_accounting_mask).
        touched |= setting.where == "cgroup" and not (is_v2 and change.name == "CPUAccounting")
    if touched:
        unit.own_mask = None  # what those above computed stands (cgroup.c, unit_invalidate_cgroup)
    return touched
