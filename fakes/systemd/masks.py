"""Controller masks: which controllers a unit needs itself, its members need, it delegates (cgroup.c, unit_get_*_mask)."""

from __future__ import annotations

from cgrace.fakes.systemd.profile import Profile
from cgrace.fakes.systemd.tree import CgroupTree
from cgrace.fakes.systemd.units import NOTHING, Load, Unit


class Masks:
    """Computes them for one version on one machine's hierarchies. is_v2: there is nothing but v2; supported: the controllers that
    are managed and mounted."""

    def __init__(self, profile: Profile, tree: CgroupTree) -> None:
        self._profile = profile
        self.is_v2 = bool(tree.hierarchies) and all(h.is_v2 for h in tree.hierarchies)
        self.managed = profile.controllers_v2 if self.is_v2 else profile.controllers_v1
        self.supported = frozenset(
            each for h in tree.hierarchies if h.is_v2 == self.is_v2 for each in h.controllers if each in self.managed
        )
        self._delegated = (profile.delegate_v2 if self.is_v2 else profile.delegate_v1) & self.supported

    def own(self, unit: Unit) -> frozenset[str]:
        """What the unit needs for itself; nothing while it is not loaded."""
        if unit.own_mask is None:
            unit.own_mask = self._compute_own(unit)
        return unit.own_mask

    def _compute_own(self, unit: Unit) -> frozenset[str]:
        if unit.load is not Load.LOADED or unit.type not in ("scope", "slice", "service"):
            return NOTHING
        mask = set(unit.needs | self._profile.accounting)
        controllers = _CONTROLLER_V2 if self.is_v2 else _CONTROLLER_V1
        wanted = set()
        for name, value in unit.settings.items():
            controller = controllers.get(name)
            if controller is None:
                continue
            if _is_set(name, value):
                wanted.add(controller)
            elif name.endswith("Accounting") and (controller != "pids" or unit.type == "slice"):
                mask.discard(controller)  # but DefaultTasksMax needs pids, except in slices
        mask |= wanted
        if unit.delegate:
            mask |= self.delegated_to(unit)
        return self._with_joined(frozenset(mask))

    def _with_joined(self, mask: frozenset[str]) -> frozenset[str]:
        """On v1 cpu and cpuacct go together (CGROUP_MASK_EXTEND_JOINED)."""
        return mask | _JOINED if _JOINED & mask and not self.is_v2 else mask

    def named_to_delegate(self, unit: Unit) -> frozenset[str]:
        """The controllers that the unit is told to delegate, as its property has it."""
        if not unit.delegate:
            return NOTHING
        return self._delegated if unit.delegates is None else self._delegated & unit.delegates

    def delegated_to(self, unit: Unit) -> frozenset[str]:
        """The controllers that the unit delegates (unit_get_delegate_mask)."""
        return self._with_joined(self.named_to_delegate(unit)) & self.supported

    def members(self, unit: Unit) -> frozenset[str]:
        """What the units below need: also what this cgroup must enable for its children."""
        if unit.type != "slice":
            return NOTHING
        if unit.members_mask is not None:
            return unit.members_mask
        mask: frozenset[str] = NOTHING
        for child in unit.children.values():  # some twenty of them each time: calls would be most of the work
            mask |= child.own_mask if child.own_mask is not None else self.own(child)
            if child.type == "slice":
                mask |= child.members_mask if child.members_mask is not None else self.members(child)
        if unit.remembers:
            unit.members_mask = mask
        return mask

    def target(self, unit: Unit) -> frozenset[str]:
        """Every controller that the unit's cgroup must exist in."""
        mask = self.own(unit) | self.members(unit)
        if unit.slice is not None:
            mask |= self.members(unit.slice)
        return mask & self.supported

    def enabled(self, unit: Unit) -> frozenset[str]:
        """What is to be enabled for the units below. 247+ keeps that on v1 too, though nothing is written there: so a slice whose
        members need something new is looked at again, and trimmed (unit_has_mask_realized)."""
        if self.is_v2:
            return self.members(unit) & self.supported
        return self.members(unit) & self.supported & _ON_BOTH if self._profile.trim == "after" else NOTHING


INFINITY = 2**64 - 1
_JOINED = frozenset({"cpu", "cpuacct"})
_ON_BOTH = frozenset({"cpu", "cpuset", "memory", "pids"})  # controllers of one name on v1 and v2

_NEEDS_V1 = {
    "cpu": ("CPUAccounting", "CPUShares", "StartupCPUShares", "CPUQuotaPerSecUSec", "CPUWeight", "StartupCPUWeight"),
    "blkio": (
        "BlockIOAccounting",
        "BlockIOWeight",
        "StartupBlockIOWeight",
        "BlockIODeviceWeight",
        "BlockIOReadBandwidth",
        "BlockIOWriteBandwidth",
        "IOAccounting",
        "IOWeight",
        "IODeviceWeight",
        "IOReadBandwidthMax",
        "IOWriteBandwidthMax",
    ),
    "memory": ("MemoryAccounting", "MemoryLimit", "MemoryMax", "MemoryLow", "MemoryHigh", "MemorySwapMax", "MemoryMin"),
    "devices": ("DeviceAllow", "DevicePolicy"),
    "pids": ("TasksAccounting", "TasksMax"),
}
_NEEDS_V2 = {
    "cpu": ("CPUWeight", "StartupCPUWeight", "CPUShares", "StartupCPUShares", "CPUQuotaPerSecUSec"),
    "cpuset": ("AllowedCPUs", "AllowedMemoryNodes"),
    "io": _NEEDS_V1["blkio"],
    "memory": _NEEDS_V1["memory"],
    "pids": _NEEDS_V1["pids"],
}
_CONTROLLER_V1 = {name: controller for controller, names in _NEEDS_V1.items() for name in names}
_CONTROLLER_V2 = {name: controller for controller, names in _NEEDS_V2.items() for name in names}


def _is_set(name: str, value: object) -> bool:
    """Whether a setting has a value that needs its controller."""
    if value is None or value is False:
        return False
    if name == "DevicePolicy":
        return value != "auto"
    if isinstance(value, int) and not isinstance(value, bool):
        return value != INFINITY
    return bool(value)
