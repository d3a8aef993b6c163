"""Cgroup realisation: which controllers a unit has, and what is made, moved and removed for it (cgroup.c).

The target mask of a unit is what it needs itself, what its children need and what its siblings need, limited to the
controllers that are managed and mounted. On v1 a controller in the mask gets a directory and one outside it is trimmed;
when, and who is moved along, differs by version (the profile's `trim` and `migrate`). On v2 the slice above enables them.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from cgrace.fakes.systemd.attributes import apply_attributes
from cgrace.fakes.systemd.masks import Masks
from cgrace.fakes.systemd.names import ROOT_SLICE
from cgrace.fakes.systemd.profile import Profile
from cgrace.fakes.systemd.tree import CgroupTree, is_populated
from cgrace.fakes.systemd.units import NOTHING, Unit
from cgrace.harness.targets.base import Hierarchy


@dataclass(frozen=True, slots=True)
class Known:
    """A hierarchy that carries managed controllers: cpu and cpuacct may share one."""

    name: str
    controllers: frozenset[str]


class AttachError(Exception):
    """A process could not be put into its unit's cgroup."""


class FrozenError(Exception):
    """A unit on the way is frozen, and is left as it is."""


class Realiser:
    """Keeps the tree as the units need it. `said` gets (text, unit) for each thing that a log line is worth."""

    def __init__(self, profile: Profile, tree: CgroupTree, said: Callable[[str, str], None]) -> None:
        self._profile = profile
        self._tree = tree
        self._said = said
        self.queue: dict[Unit, None] = {}
        self.masks = Masks(profile, tree)
        self.is_v2 = self.masks.is_v2
        self.main = self._main_hierarchy(tree.hierarchies)
        self._known = () if self.is_v2 else self._known_hierarchies(self.masks.managed)
        self._cpuset = next((known.name for known in self._known if "cpuset" in known.controllers), "")
        apart = frozenset({"cpuacct"}) if profile.cpuacct_joined else None
        # From 240 on a unit is not realised with all above it, but these get what is missing (cgroup.c, unit_realize_cgroup_now).
        self._in_steps = profile.trim == "after"
        self._kept = tuple(known for known in self._known if known.controllers != apart)
        # cgroup-setup.c, cg_migrate_v1_controllers
        self._migrated = self._known if profile.cpuacct_migrated else self._kept

    def _main_hierarchy(self, hierarchies: tuple[Hierarchy, ...]) -> Hierarchy | None:
        """Where systemd keeps its own tree: name=systemd, or the unified one."""
        wanted = "unified" if self.is_v2 else "systemd"
        return next((h for h in hierarchies if h.name == wanted), None)

    def _known_hierarchies(self, managed: tuple[str, ...]) -> tuple[Known, ...]:
        """In systemd's order of controllers, each hierarchy once."""
        known: dict[str, Known] = {}
        for controller in managed:
            for h in self._tree.hierarchies:
                if controller in h.controllers and not h.is_v2:
                    known[h.name] = Known(h.name, frozenset(h.controllers) & frozenset(managed))
        return tuple(known.values())

    def is_realised(self, unit: Unit) -> bool:
        """Whether nothing would be done for the unit (unit_has_mask_realized)."""
        if unit.invalid:
            return False
        return (
            unit.realised
            and unit.realised_mask == self.masks.target(unit)
            and unit.enabled_mask == self.masks.enabled(unit)
        )

    # ---- realisation

    def realise(self, unit: Unit) -> None:
        """Make the unit's cgroup as it should be now; its siblings follow in a later turn."""
        if unit.slice is not None:
            self.queue_family(unit.slice)
        self._now(unit)

    def queue_family(self, above: Unit) -> None:
        """Queue what is not as it should be any more: the units in this slice, those in the slices above, and (247+) these
        slices themselves (unit_add_siblings_to_cgroup_realize_queue, later unit_add_family_...)."""
        at: Unit | None = above
        family = self._profile.family_on_free
        while at is not None:
            # What a member must have is what the slice's members need: while that stands, so does each of them.
            at.members_mask = None
            mask = self.masks.members(at)
            if mask != at.family_mask:
                at.family_mask = mask
                for member in at.children.values():
                    if not member.is_down and not member.phantom and (member.realised or not family):
                        self._queue_if_changed(member)
            if family:
                self._queue_if_changed(at)
            at = at.slice

    def _queue_if_changed(self, unit: Unit) -> None:
        if not self.is_realised(unit):
            self.queue[unit] = None

    def run_queue(self) -> None:
        """One pass over the realisation queue."""
        while self.queue:
            unit = next(iter(self.queue))
            del self.queue[unit]
            if not unit.is_down:
                self._now(unit)

    def _now(self, unit: Unit) -> None:
        """unit_realize_cgroup_now."""
        self.queue.pop(unit, None)
        has_no_place = unit.slice is not None and not unit.cgroup  # cgroup.c, unit_pick_cgroup_path
        if unit.phantom or has_no_place or self.is_realised(unit):
            return
        target = self.masks.target(unit)
        try:
            if not self._in_steps:
                if unit.slice is not None:
                    self._now(unit.slice)
            else:
                self._disable_down(unit)
                if unit.slice is not None:
                    self._enable_up(unit.slice)
            self._update(unit, target, self.masks.enabled(unit))
        except FrozenError:
            return
        unit.invalid = False

    def _enable_up(self, unit: Unit) -> None:
        """The slices above get what is missing, and keep what they have (unit_realize_cgroup_now_enable)."""
        if unit.slice is not None:
            self._enable_up(unit.slice)
        target, enable = self.masks.target(unit), self.masks.enabled(unit)
        if unit.phantom or (unit.realised and target <= unit.realised_mask and enable <= unit.enabled_mask):
            return
        self._update(unit, unit.realised_mask | target, unit.enabled_mask | enable)

    def _disable_down(self, unit: Unit) -> None:
        """A member that lacks something is first brought to what it has and is to keep (unit_realize_cgroup_now_disable)."""
        for member in unit.children.values():
            if member.phantom or not member.realised:
                continue
            self._disable_down(member)
            target, enable = self.masks.target(member), self.masks.enabled(member)
            if target <= member.realised_mask and enable <= member.enabled_mask:
                continue
            self._update(member, member.realised_mask & target, member.enabled_mask & enable)

    def _look_again(self, unit: Unit) -> None:
        """What its siblings were realised for is no longer sure to hold for each."""
        if unit.slice is not None:
            unit.slice.family_mask = None

    def _update(self, unit: Unit, target: frozenset[str], enable: frozenset[str]) -> None:
        """unit_update_cgroup. FrozenError from 256 on."""
        if self._profile.frozen_jobs_fail and unit.frozen:
            self._said("Cannot realize cgroup for frozen unit.", unit.name)
            raise FrozenError
        unit.remembers = True
        if unit.realised and unit.realised_mask != target:
            self._look_again(unit)
        if self.is_v2:
            fresh = self._update_v2(unit, target, enable)
        elif self._profile.trim == "before":
            fresh = self._update_v1_trim_first(unit, target)
        else:
            fresh = self._update_v1_trim_last(unit, target, enable)
        for problem in apply_attributes(
            self._tree, self._known, unit, target, profile=self._profile, is_v2=self.is_v2, fresh=fresh
        ):
            self._said(problem, unit.name)

    def _make(self, unit: Unit, target: frozenset[str]) -> list[str]:
        """Make the unit's cgroup where it is needed; the hierarchies in which it was not there before."""
        wanted = [known.name for known in self._kept if known.controllers & target]
        if self.main is not None:
            wanted.insert(0, self.main.name)
        return [name for name in wanted if self._mkdir(name, unit.cgroup)]

    def _mkdir(self, hierarchy: str, path: str) -> bool:
        """Make it; one in cpuset gets the cpus and memory of the one above, or no process could enter (RHEL 8 mounts it so that
        the kernel does that: clone_children of cpuset(7))."""
        if not self._tree.mkdir(hierarchy, path):
            return False
        if hierarchy == self._cpuset:
            for file in ("cpuset.cpus", "cpuset.mems"):
                try:
                    given = self._tree.read(hierarchy, path.rpartition("/")[0], file).strip()
                    self._tree.write(hierarchy, path, file, given)
                except OSError as error:
                    self._said(f"cannot hand {file} down to {path}: {error.strerror}", "")
        return True

    def _update_v1_trim_first(self, unit: Unit, target: frozenset[str]) -> list[str]:
        """To 246: make or trim controller by controller, then migrate (cg_create_everywhere)."""
        made = []
        if self.main is not None and self._tree.mkdir(self.main.name, unit.cgroup):
            made.append(self.main.name)
        for known in self._kept:
            if known.controllers & target:
                if self._mkdir(known.name, unit.cgroup):
                    made.append(known.name)
            else:
                self._trim(known, unit)
        unit.realised, unit.realised_mask = True, target
        if self._profile.migrate == "flatten" and unit.type != "slice" and not unit.delegate:
            self._migrate(unit, self._known)
        return made

    def _update_v1_trim_last(self, unit: Unit, target: frozenset[str], enable: frozenset[str]) -> list[str]:
        """247 on: make, migrate where membership changed, then trim (unit_update_cgroup)."""
        made = self._make(unit, target)
        is_new = self.main is not None and self.main.name in made  # and so empty
        changed = NOTHING
        if is_new or not unit.realised or not unit.delegate:
            unit.enabled_mask = enable
            changed = NOTHING if is_new else unit.realised_mask ^ target
        unit.realised, unit.realised_mask = True, target
        self._migrate(unit, (known for known in self._migrated if known.controllers & changed))
        for known in self._kept:
            if not known.controllers & target:
                self._trim(known, unit)
        return made

    def _trim(self, known: Known, unit: Unit) -> None:
        if self._tree.rmdir(known.name, unit.cgroup, keep_root=unit.name == ROOT_SLICE):
            self._said(f"trimmed {known.name}{unit.cgroup or '/'}: no unit needs it", unit.name)

    def _migrate(self, unit: Unit, hierarchies: Iterable[Known]) -> None:
        """Move every process below the unit in name=systemd to the cgroup that it should have in these hierarchies."""
        if self.main is None:
            return
        pids: tuple[int, ...] | None = None
        for known in hierarchies:
            if pids is None:
                pids = self._tree.procs(self.main.name, unit.cgroup, recursive=True)
            if not pids:
                return
            to = self._realised_path(unit, known) or ""
            while to and not self._tree.exists(known.name, to):  # cg_migrate_recursive_fallback
                to = to.rpartition("/")[0]
            moved = 0
            for pid in pids:
                if self._tree.locate(known.name, pid) == to:
                    continue
                try:
                    self._tree.attach(known.name, to, pid)
                except OSError as error:
                    if error.errno == errno.ESRCH:
                        continue
                    self._said(f"cannot move a process to {known.name}{to or '/'}: {error.strerror}", unit.name)
                else:
                    moved += 1
            if moved:
                self._said(f"moved {moved} of its processes to {known.name}{to or '/'}", unit.name)

    def _realised_path(self, unit: Unit, known: Known) -> str | None:
        """The innermost cgroup from the unit upwards that has the controller; None where not even the root has."""
        at: Unit | None = unit
        while at is not None:
            if at.realised and known.controllers & at.realised_mask:
                return at.cgroup
            at = at.slice
        return None

    def _update_v2(self, unit: Unit, target: frozenset[str], enable: frozenset[str]) -> list[str]:
        """mkdir, then the unit's own subtree_control where what its children need has changed."""
        assert self.main is not None
        created = self._tree.mkdir(self.main.name, unit.cgroup)
        if created or not unit.realised or not unit.delegate:
            self._enable(unit, enable)
        unit.realised, unit.realised_mask = True, target
        unit.watch = unit.watch or self.cgroup_id(unit)  # unit_watch_cgroup
        return [self.main.name] if created else []

    def _enable(self, unit: Unit, enable: frozenset[str]) -> None:
        assert self.main is not None
        for controller in sorted(enable ^ unit.enabled_mask):
            sign = "+" if controller in enable else "-"
            if sign == "-":
                self._disable_below(unit, controller)
            try:
                self._tree.write(self.main.name, unit.cgroup, "cgroup.subtree_control", sign + controller)
            except OSError as error:
                self._said(f"cannot write {sign}{controller} to {unit.cgroup or '/'}: {error.strerror}", unit.name)
                continue
            if sign == "-":
                self._said(f"disabled {controller} below {unit.cgroup or '/'}: no unit needs it", unit.name)
                unit.enabled_mask -= {controller}
            else:
                unit.enabled_mask |= {controller}

    def _disable_below(self, unit: Unit, controller: str) -> None:
        """A controller is disabled leaf first (240+)."""
        for child in unit.children.values():
            if child.realised and controller in child.enabled_mask:
                self._enable(child, child.enabled_mask - {controller})

    # ---- processes

    def attach_initial(self, unit: Unit, pids: Iterable[int]) -> int:
        """Put the outer pids into the started unit's cgroup, in every hierarchy. The number attached.

        AttachError when one could not be and the version minds.
        """
        if not unit.realised:
            raise AttachError("it has no cgroup")
        done = 0
        for pid in pids:
            try:
                if self.main is not None:
                    self._tree.attach(self.main.name, unit.cgroup, pid)
                for known in self._known:
                    self._attach_known(unit, known, pid)
            except OSError as error:
                if self._profile.any_pid_fails:
                    raise AttachError(error.strerror) from error
                continue
            done += 1
        above = unit.slice
        while above is not None and done:  # the kernel tells of each, also when another unit takes the process at once
            above.populated, above = True, above.slice
        return done

    def _attach_known(self, unit: Unit, known: Known, pid: int, sub_path: str = "") -> None:
        if self._profile.attach == "everywhere":
            self._attach_or_above(known, unit.cgroup + sub_path, pid)
            return
        if unit.delegate and self.masks.delegated_to(unit) & unit.realised_mask & known.controllers:
            try:
                self._tree.attach(known.name, unit.cgroup + sub_path, pid)
            except OSError:
                pass
            else:
                return
        to = self._realised_path(unit, known)
        if to is None:
            return  # not realised at all: the process stays where it is
        if known in self._kept or self._tree.exists(known.name, to):
            self._tree.attach(known.name, to, pid)
        if to != unit.cgroup:
            self._said(f"put its process into {known.name}{to or '/'}: not realised further down", unit.name)

    def _attach_or_above(self, known: Known, path: str, pid: int) -> None:
        """cg_attach_fallback: the path, or the next directory above it that exists."""
        while True:
            try:
                self._tree.attach(known.name, path, pid)
                return
            except OSError as error:
                if error.errno == errno.ESRCH or not path:
                    raise
                path = path.rpartition("/")[0]

    def attach_below(self, unit: Unit, sub_path: str, pid: int) -> None:
        """AttachProcessesToUnit: into a directory below the unit where that is delegated, else where the unit's processes are
        (unit_attach_pids_to_cgroup). FileNotFoundError where there is no such directory: systemd makes none."""
        if self.main is not None:
            self._tree.attach(self.main.name, unit.cgroup + sub_path, pid)
        for known in self._known:
            self._attach_known(unit, known, pid, sub_path)

    def cgroup_id(self, unit: Unit) -> int:
        """The inode of its cgroup in systemd's own hierarchy, 0 where it has none."""
        if self.main is None or not unit.realised:
            return 0
        return self._tree.inode(self.main.name, unit.cgroup)

    def is_there(self, unit: Unit) -> bool:
        """Whether the unit's cgroup is there, in systemd's own hierarchy."""
        return self.main is not None and self._tree.exists(self.main.name, unit.cgroup)

    def is_populated(self, unit: Unit) -> bool:
        """Whether a process is in the unit's cgroup or below, in systemd's own hierarchy."""
        return self.main is not None and is_populated(self._tree, self.main, unit.cgroup)

    def is_set_frozen(self, unit: Unit) -> bool:
        """Whether cgroup.freeze says so, its own or that of a cgroup above (v2). OSError where the cgroup is gone."""
        assert self.main is not None
        path = unit.cgroup
        while path:
            if self._tree.read(self.main.name, path, "cgroup.freeze").strip() == "1":
                return True
            path = path.rpartition("/")[0]
        return False

    def prune(self, unit: Unit) -> None:
        """The unit went down: remove its cgroups everywhere, as far as they are empty (unit_prune_cgroup)."""
        self.queue.pop(unit, None)
        if not unit.realised or unit.phantom or unit.name == ROOT_SLICE:
            return
        gone = True
        if self.main is not None:
            self._tree.rmdir(self.main.name, unit.cgroup)
            gone = not self._tree.exists(self.main.name, unit.cgroup)
        unit.busy = not gone and self.is_populated(unit)
        if gone:  # else the others are left as they are (cgroup-setup.c, cg_trim_everywhere)
            for known in self._kept:
                self._tree.rmdir(known.name, unit.cgroup)
        if not unit.busy:
            unit.realised, unit.realised_mask, unit.enabled_mask = False, NOTHING, NOTHING
            unit.watch, unit.populated = 0, False  # what was seen was seen of this cgroup, not of the next one

    def release(self, unit: Unit) -> None:
        """A unit that is down and whose cgroup was busy: it is not any more."""
        unit.busy = False
