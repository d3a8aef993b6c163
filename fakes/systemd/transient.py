"""StartTransientUnit: the order of checks and what each says, by version (dbus-manager.c, transient_unit_from_message)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from cgrace.fakes.systemd import names, properties
from cgrace.fakes.systemd.core import Core
from cgrace.fakes.systemd.jobs import Job
from cgrace.fakes.systemd.units import Load, Unit, forget_masks

SYSTEM_SLICE = "system.slice"


def start_transient(core: Core, sender: str, body: tuple[Any, ...]) -> Job:
    """Make the unit and its start job; Refusal says what is wrong."""
    name, mode, array, aux = body
    if core.profile.mode_before_name:
        check_mode(core, mode)
        check_name(core, name)
    else:
        check_name(core, name)
        check_mode(core, mode)
    unit = make(core, sender, name, array)
    for aux_name, aux_array in aux:
        check_name(core, aux_name)
        load(core, make(core, sender, aux_name, aux_array))
    load(core, unit)
    with_defaults = unit.type == "scope" and unit.settings.get("DefaultDependencies", True)
    return core.jobs.enqueue(unit, "start", mode, sender, core.profile.job_ids_scope if with_defaults else 0)


def check_mode(core: Core, mode: str, reason: str = "bad_mode") -> None:
    """Refuse a job mode that is not one. Whether it is one for this job is asked when that is made (jobs.py)."""
    if mode not in core.profile.modes:
        raise core.refuse(reason, mode=mode)


def check_name(core: Core, name: str) -> None:
    """Refuse what is no unit name, or one of a type that cannot be transient."""
    kind = names.unit_type(name)
    if not kind:
        raise core.refuse("bad_type", unit=name)
    if kind not in core.profile.transient_types:
        raise core.refuse("not_transient", type=kind)
    if names.is_template(name):
        raise core.refuse("missing_instance", unit=name)


def exists(core: Core, unit: Unit) -> bool:
    """Whether the unit is "already there" (facts 1.3)."""
    rule = core.profile.exists
    if rule == "loaded-or-referenced":
        return unit.load is not Load.NOT_FOUND or bool(unit.children)
    if unit.load not in (Load.NOT_FOUND, Load.LOADED) or unit.fragment:
        return True
    match rule:
        case "file-dropin-or-referenced":
            return unit.dropins or bool(unit.children or unit.refs)
        case "file-dropin-or-job":
            return unit.dropins or unit.job is not None
        case _:
            return unit.job is not None


def make(core: Core, sender: str, name: str, array: Iterable[Any]) -> Unit:
    """Load the unit, refuse one that exists, make it transient and give it its properties."""
    unit = core.load(name)
    if exists(core, unit):
        raise core.refuse("exists", unit=name)
    # From here on it is a stub, and stays one when the rest is refused: also a slice that is up (unit.c, unit_make_transient).
    unit.load, unit.transient, unit.own_mask = Load.STUB, True, None
    core.consider(unit)
    changes = core.checker.check(unit, array, creating=True)
    unit.at_boot = False
    # From 230 on a transient unit has a file; before, one drop-in for each property.
    unit.fragment = core.profile.version >= 230
    controls = core.controls.get(name, [])
    if controls and unit.is_down:
        unit.settings.clear()  # its own file first, then those
    if properties.apply(unit, [*changes, *controls], is_v2=core.realiser.is_v2):
        unit.invalid = True
        core.realiser.queue[unit] = None  # for one that is up (cgroup.c, unit_invalidate_cgroup)
    for change in changes:
        _carry_out(core, unit, change)
    if [change.value for change in changes if change.name == "AddRef"][-1:] == [True]:
        unit.refs[sender] = unit.refs.get(sender, 0) + 1
    return unit


def _carry_out(core: Core, unit: Unit, change: properties.Change) -> None:
    match change.name:
        case "PIDs":
            unit.pids += change.value
            unit.living.update(pid for pid in map(core.tree.outer, change.value) if pid is not None)
        case "Slice":
            core.units.put_in_slice(unit, core.named_slice(change.value))
        case name if name in properties.DEPENDENCIES:
            for other in map(core.load, change.value):
                if other is not unit:
                    other.referrers[unit] = None
                    core.named(unit, other)


def load(core: Core, unit: Unit) -> None:
    """Load what was made, then what it names."""
    core.units.dispatch_load_queue(first=lambda: finish_loading(core, unit))


def finish_loading(core: Core, unit: Unit) -> None:
    """unit_load: a scope needs processes, a unit a slice; types that are not made here have a bad setting."""
    at_call = core.profile.load_at_call
    unit.load = Load.LOADED
    if unit.slice is None and unit.name != names.ROOT_SLICE:
        above = names.parent_slice(unit.name) if unit.type == "slice" else SYSTEM_SLICE
        core.units.put_in_slice(unit, core.load(above))
    if unit.type == "scope" and not unit.pids:
        if at_call:
            raise core.refuse("no_pids", unit=unit.name)
        unit.load, unit.load_error = Load.ERROR, "no_pids"
    if unit.type not in ("scope", "slice"):
        if at_call:
            raise core.refuse("bad_setting", unit=unit.name)
        unit.load = Load.BAD_SETTING
    core.join_freeze(unit)
    forget_masks(unit)
    core.out.changed(unit)
