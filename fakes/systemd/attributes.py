"""What is written into a unit's control files when it is realised or its properties change (cgroup.c, cgroup_context_apply).

All attributes of every controller in the mask are written, those without a setting to the kernel's default: so a limit
that somebody else wrote by hand does not survive. The slices of the boot are left alone: nobody's limits are there. A
file that is missing or refuses is logged at most, never an error. In a cgroup that was just made the kernel's defaults stand
already, so they are not written: nobody can tell.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from cgrace.fakes.systemd.names import ROOT_SLICE
from cgrace.fakes.systemd.profile import Profile
from cgrace.fakes.systemd.tree import CgroupTree
from cgrace.fakes.systemd.units import Unit

if TYPE_CHECKING:
    from collections.abc import Iterable

_INFINITY = 2**64 - 1
_ALL_OF_KIND = {"char-*": "c *:*", "block-*": "b *:*"}
_CPU_PERIOD_US = 100_000
# What a new cgroup has by itself. (A new v1 devices cgroup has what its parent has: "a" gives it no more than that.)
DEFAULTS = {
    "blkio.weight": "500",
    "cpu.cfs_quota_us": "-1",
    "cpu.max": f"max {_CPU_PERIOD_US}",
    "cpu.shares": "1024",
    "cpu.weight": "100",
    "devices.allow": "a",
    "io.weight": "default 100",
    "memory.high": "max",
    "memory.limit_in_bytes": "-1",
    "memory.low": "0",
    "memory.max": "max",
    "memory.min": "0",
    "memory.swap.max": "max",
    "pids.max": "max",
}


class KnownHierarchy(Protocol):
    """A hierarchy and the managed controllers that it carries."""

    @property
    def name(self) -> str:
        """Its name."""
        ...

    @property
    def controllers(self) -> frozenset[str]:
        """What it carries."""
        ...


def apply_attributes(
    tree: CgroupTree,
    known: Iterable[KnownHierarchy],
    unit: Unit,
    mask: frozenset[str],
    *,
    profile: Profile,
    is_v2: bool,
    fresh: Collection[str] = (),
) -> list[str]:
    """Write everything in the mask. The root has no attributes. fresh: hierarchies in which the cgroup was just made.

    What a log line is worth comes back.
    """
    if unit.name == ROOT_SLICE or unit.at_boot:
        return []
    problems = []
    writes = _v2(unit, mask) if is_v2 else _v1(profile, known, unit, mask)
    for hierarchy, file, text in writes:
        if hierarchy in fresh and DEFAULTS.get(file) == text:
            continue
        try:
            tree.write(hierarchy, unit.cgroup, file, text)
        except OSError as error:
            if error.errno not in (errno.ENOENT, errno.EINVAL, errno.EACCES, errno.EPERM, errno.EROFS):
                problems.append(f"cannot write '{text}' to {file}: {error.strerror}")
    return problems


def _v1(
    profile: Profile, known: Iterable[KnownHierarchy], unit: Unit, mask: frozenset[str]
) -> Iterator[tuple[str, str, str]]:
    settings = unit.settings
    for each in known:
        here = each.controllers & mask
        if "cpu" in here:
            yield each.name, "cpu.shares", str(_shares(settings))
            quota = settings.get("CPUQuotaPerSecUSec", _INFINITY)
            yield (
                each.name,
                "cpu.cfs_quota_us",
                "-1" if quota == _INFINITY else str(quota * _CPU_PERIOD_US // 1_000_000),
            )
        if "blkio" in here:
            weight = _blkio_weight(settings)
            yield each.name, "blkio.weight", str(weight)
            if profile.version >= 244:
                yield each.name, "blkio.bfq.weight", str(_bfq_weight(weight) if profile.bfq_scaled else weight)
        if "memory" in here:
            limit = _or(settings.get("MemoryMax"), _or(settings.get("MemoryLimit"), -1))
            yield each.name, "memory.limit_in_bytes", str(limit)
        if "devices" in here:
            yield from _devices(each.name, unit)
        if "pids" in here:
            yield each.name, "pids.max", str(_or(settings.get("TasksMax"), "max"))


def _shares(settings: Mapping[str, Any]) -> int:
    """CPUWeight= wins over CPUShares=, and is translated (cgroup.c, cgroup_cpu_weight_to_shares)."""
    weight = settings.get("CPUWeight", _INFINITY)
    if weight == _INFINITY:
        return int(_or(settings.get("CPUShares"), 1024))
    return int(min(max(weight * 1024 // 100, 2), 262144))


def _blkio_weight(settings: Mapping[str, Any]) -> int:
    """IOWeight= wins over BlockIOWeight=, and is translated (cgroup.c, cgroup_weight_io_to_blkio)."""
    weight = settings.get("IOWeight", _INFINITY)
    if weight == _INFINITY:
        return int(_or(settings.get("BlockIOWeight"), 500))
    return int(min(max(weight * 500 // 100, 10), 1000))


def _bfq_weight(weight: int) -> int:
    """1 to 10000 brought to bfq's 1 to 1000, with 100 as 100 (cgroup.h, BFQ_WEIGHT)."""
    return weight if weight <= 100 else 100 + (weight - 100) * (1000 - 100) // (10000 - 100)


def _devices(hierarchy: str, unit: Unit) -> Iterator[tuple[str, str, str]]:
    """Without a policy or list everything is allowed again: a container's own deny list vanishes."""
    allow = unit.settings.get("DeviceAllow") or []
    policy = unit.settings.get("DevicePolicy", "auto")
    if policy == "auto" and not allow:
        yield hierarchy, "devices.allow", "a"
        return
    yield hierarchy, "devices.deny", "a"
    if policy == "closed" or (policy == "auto" and allow):
        for node in ("1:3", "1:5", "1:7", "1:8", "1:9", "5:0"):  # null zero full random urandom tty
            yield hierarchy, "devices.allow", f"c {node} rwm"
        yield hierarchy, "devices.allow", "c 136:* rw"  # pts
    for node, mode in allow:
        if rule := _device_rule(node):
            yield hierarchy, "devices.allow", f"{rule} {mode}"


def _device_rule(node: str) -> str:
    """A DeviceAllow node as the kernel reads it; "" where it names no device that is there."""
    for prefix, kind in (("/dev/char/", "c"), ("/dev/block/", "b")):
        if node.startswith(prefix):
            return f"{kind} {node.removeprefix(prefix)}"
    if node in _ALL_OF_KIND:
        return _ALL_OF_KIND[node]
    try:
        found = Path(node).stat()
    except OSError:
        return ""
    kind = "c" if stat.S_ISCHR(found.st_mode) else "b" if stat.S_ISBLK(found.st_mode) else ""
    return f"{kind} {os.major(found.st_rdev)}:{os.minor(found.st_rdev)}" if kind else ""


def _v2(unit: Unit, mask: frozenset[str]) -> Iterator[tuple[str, str, str]]:
    settings = unit.settings
    if "cpu" in mask:
        yield "unified", "cpu.weight", str(_or(settings.get("CPUWeight"), 100))
        quota = settings.get("CPUQuotaPerSecUSec", _INFINITY)
        text = "max" if quota == _INFINITY else str(quota * _CPU_PERIOD_US // 1_000_000)
        yield "unified", "cpu.max", f"{text} {_CPU_PERIOD_US}"
    if "io" in mask:
        yield "unified", "io.weight", f"default {_or(settings.get('IOWeight'), 100)}"
    if "memory" in mask:
        for name, file, default in (
            ("MemoryMin", "memory.min", "0"),
            ("MemoryLow", "memory.low", "0"),
            ("MemoryHigh", "memory.high", "max"),
            ("MemoryMax", "memory.max", "max"),
            ("MemorySwapMax", "memory.swap.max", "max"),
        ):
            yield "unified", file, str(_or(settings.get(name), default))
    if "pids" in mask:
        yield "unified", "pids.max", str(_or(settings.get("TasksMax"), "max"))


def _or(value: int | str | None, default: int | str) -> int | str:
    return default if value is None or value == _INFINITY else value
