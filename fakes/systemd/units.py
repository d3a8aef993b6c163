"""Units: what the manager knows of each, and the tree of slices that they hang in. No bus, no cgroup file system."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from cgrace.fakes.systemd import names
from cgrace.harness.dbus import systemd1

if TYPE_CHECKING:
    from cgrace.fakes.systemd.jobs import Job

NOTHING: frozenset[str] = frozenset()


class Load(StrEnum):
    """LoadState."""

    STUB = "stub"
    LOADED = "loaded"
    NOT_FOUND = "not-found"
    BAD_SETTING = "bad-setting"
    ERROR = "error"
    MASKED = "masked"


class Sub(StrEnum):
    """SubState of the types that are made here."""

    DEAD = "dead"
    ACTIVE = "active"  # a slice
    RUNNING = "running"  # a scope
    ABANDONED = "abandoned"
    STOP_SIGTERM = "stop-sigterm"
    STOP_SIGKILL = "stop-sigkill"
    FAILED = "failed"


class Freezer(StrEnum):
    """FreezerState."""

    RUNNING = "running"
    FREEZING = "freezing"
    FROZEN = "frozen"
    FREEZING_BY_PARENT = "freezing-by-parent"
    FROZEN_BY_PARENT = "frozen-by-parent"
    THAWING = "thawing"


THAWED = (Freezer.RUNNING, Freezer.THAWING)

_ACTIVE_STATES = {
    Sub.DEAD: "inactive",
    Sub.ACTIVE: "active",
    Sub.RUNNING: "active",
    Sub.ABANDONED: "active",
    Sub.STOP_SIGTERM: "deactivating",
    Sub.STOP_SIGKILL: "deactivating",
    Sub.FAILED: "failed",
}


@dataclass(slots=True, eq=False, kw_only=True)
class Unit:
    """One unit. at_boot: it was there first; phantom: a boot unit that counts for its siblings' needs and has no cgroup here.

    realised_mask: controllers whose cgroup systemd believes to have made; enabled_mask: its subtree_control (v2) as systemd
    remembers it. refs: how often each bus client holds it. deadline_ns: when its stop times out.
    load_error: with which refusal it is said that it could not be loaded.
    living: outer pids that it watches: those that it is to start with, then those in its cgroup, as far as systemd heard.
    watch: the inode of the v2 cgroup that it is told of, 0 where none is; another one made in its place is not watched.
    busy: its cgroup could not be removed when it went down. populated: so its v2 cgroup was when it was looked at last.
    delegates: the controllers that it delegates, None for all that its version delegates; referrers: units that name this one as a
    dependency. remembers: what it computed of its members; from 256 on only once it had a cgroup (CGroupRuntime). own_mask,
    members_mask: caches, None when not valid; family_mask: what a slice's members were last realised for.
    """

    name: str
    type: str
    load: Load = Load.STUB
    sub: Sub = Sub.DEAD
    slice: Unit | None = None
    children: dict[str, Unit] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)
    transient: bool = False
    fragment: bool = False
    dropins: bool = False
    perpetual: bool = False
    phantom: bool = False
    at_boot: bool = False
    load_error: str = "load_error"
    needs: frozenset[str] = NOTHING
    pids: list[int] = field(default_factory=list)
    living: set[int] = field(default_factory=set)
    job: Job | None = None
    refs: dict[str, int] = field(default_factory=dict)
    cgroup: str = ""
    realised: bool = False
    realised_mask: frozenset[str] = NOTHING
    enabled_mask: frozenset[str] = NOTHING
    invalid: bool = True
    own_mask: frozenset[str] | None = None
    members_mask: frozenset[str] | None = None
    family_mask: frozenset[str] | None = None
    remembers: bool = True
    delegates: frozenset[str] | None = None
    referrers: dict[Unit, None] = field(default_factory=dict)
    result: str = "success"
    was_active: bool = False
    announced: bool = False
    freezer: Freezer = Freezer.RUNNING
    deadline_ns: int | None = None
    invocation: int = 0
    busy: bool = False
    populated: bool = False
    watch: int = 0

    @property
    def active_state(self) -> str:
        """ActiveState."""
        return _ACTIVE_STATES[self.sub]

    @property
    def is_active(self) -> bool:
        """Active, not deactivating."""
        return self.sub in (Sub.ACTIVE, Sub.RUNNING, Sub.ABANDONED)

    @property
    def is_down(self) -> bool:
        """Inactive or failed."""
        return self.sub in (Sub.DEAD, Sub.FAILED)

    @property
    def frozen(self) -> bool:
        """Frozen, or on the way there or back."""
        return self.freezer is not Freezer.RUNNING

    @property
    def delegate(self) -> bool:
        """Delegate=yes; the versions that do not know it on slices refuse it there."""
        return bool(self.settings.get("Delegate"))

    @property
    def path(self) -> str:
        """Its object path."""
        return systemd1.unit_path(self.name)


class Units:
    """All loaded units by name. `made` is told of each new one, `loaded` when it is known what it is, `joined` of each member
    that a slice got. remember: units remember from the start what they computed of their members."""

    def __init__(
        self,
        made: Callable[[Unit], None],
        loaded: Callable[[Unit], None],
        joined: Callable[[Unit, Unit], None],
        *,
        remember: bool = True,
    ) -> None:
        self._remember = remember
        self._units: dict[str, Unit] = {}
        self._dispatching = False
        self.to_load: list[Unit] = []
        self._made = made
        self._loaded = loaded
        self._joined = joined

    def __iter__(self) -> Iterator[Unit]:
        return iter(tuple(self._units.values()))

    def __len__(self) -> int:
        return len(self._units)

    def get(self, name: str) -> Unit | None:
        """The unit, if it is loaded."""
        return self._units.get(name)

    def load(self, name: str) -> Unit:
        """The unit, loaded if need be. A slice needs no file; another unit that nobody made is not-found."""
        unit = self._units.get(name)
        if unit is None:
            unit = self.prepare(name)
            self.dispatch_load_queue()
        return unit

    def prepare(self, name: str) -> Unit:
        """The unit, which is loaded later if need be (manager_load_unit_prepare)."""
        unit = self._units.get(name)
        if unit is not None:
            return unit
        unit = Unit(name=name, type=names.unit_type(name), remembers=self._remember)
        self._units[name] = unit
        self.to_load.append(unit)
        self._made(unit)
        return unit

    def dispatch_load_queue(self, first: Callable[[], None] = lambda: None) -> None:
        """Load what waits for it, `first` before all: what is named by a unit that is being loaded is loaded after it
        (manager_dispatch_load_queue)."""
        if self._dispatching:
            return
        self._dispatching = True
        try:
            first()
            while self.to_load:
                unit = self.to_load.pop()
                if unit.type == "slice":
                    self._load_slice(unit)
                else:
                    unit.load = Load.NOT_FOUND
                self._loaded(unit)
        finally:
            self._dispatching = False

    def _load_slice(self, unit: Unit) -> None:
        try:
            above = names.parent_slice(unit.name)
        except ValueError:
            unit.load = Load.ERROR
            return
        slice_ = self.load(above) if above else None
        unit.load = Load.LOADED
        if slice_ is not None:
            self.put_in_slice(unit, slice_)

    def put_in_slice(self, unit: Unit, slice_: Unit) -> None:
        """Make the unit a member of the slice; its cgroup path follows."""
        if unit.slice is not None:
            unit.slice.children.pop(unit.name, None)
            forget_masks(unit.slice)
        unit.slice = slice_
        slice_.children[unit.name] = unit
        try:
            unit.cgroup = f"{names.slice_cgroup(slice_.name)}/{unit.name}"
        except ValueError:
            unit.cgroup = ""  # of a slice that will not load: it never gets one
        self._joined(unit, slice_)
        forget_masks(unit)

    def drop(self, unit: Unit) -> list[Unit]:
        """Forget the unit. The units that it named as dependencies."""
        if unit.slice is not None:
            unit.slice.children.pop(unit.name, None)
            forget_masks(unit.slice)
            unit.slice = None
        self._units.pop(unit.name, None)
        named = [other for other in self._units.values() if unit in other.referrers]
        for other in named:
            del other.referrers[unit]
        return named

    def find_by_cgroup(self, path: str) -> Unit | None:
        """The unit whose cgroup holds this path, the innermost one."""
        parts = [part for part in path.split("/") if part]
        for part in reversed(parts):
            unit = self._units.get(part)
            if unit is not None and (path == unit.cgroup or path.startswith(unit.cgroup + "/")):
                return unit
        return None


def forget_masks(unit: Unit) -> None:
    """The unit's needs may have changed: what was computed from them, up to the root, is void; but a unit that remembers nothing
    has those above it remember what they do (cgroup.c, unit_invalidate_cgroup_members_masks)."""
    unit.own_mask = None
    at: Unit | None = unit
    while at is not None and at.remembers:
        at.members_mask = None
        at = at.slice
