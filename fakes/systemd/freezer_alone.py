"""Freezing and thawing on v2 to 255, where a unit is frozen for itself alone (unit.c, cgroup.c, slice.c, dbus-unit.c).

A slice freezes the units in it, too; after 247 thawing a unit thaws the slices above it. Of a state nobody is told but who asked.
"""

from __future__ import annotations

from cgrace.fakes.systemd.core import Core
from cgrace.fakes.systemd.names import ROOT_SLICE
from cgrace.fakes.systemd.refusal import Refusal
from cgrace.fakes.systemd.units import Freezer, Load, Unit

SINCE, UNTIL = 246, 256
_SLICES_TOO = 248  # or soon after
_BEGUN = {True: Freezer.FREEZING, False: Freezer.THAWING}
_DONE = {True: Freezer.FROZEN, False: Freezer.RUNNING}


def act(core: Core, unit: Unit, *, frozen: bool) -> bool:
    """Begin; whether the answer is to wait for the kernel. Refusal says what is wrong (unit_freezer_action)."""
    if unit.load is not Load.LOADED:
        raise core.refuse("freeze_inactive")
    begun = unit.freezer in (Freezer.FREEZING, Freezer.THAWING)
    if begun if frozen or core.profile.version < _SLICES_TOO else unit.freezer is Freezer.THAWING:
        raise core.refuse("freeze_in_progress", unit=unit.name)
    return _act(core, unit, frozen=frozen)


def _act(core: Core, unit: Unit, *, frozen: bool) -> bool:
    """The type's own action (slice_freezer_action, unit_freeze_vtable_common)."""
    if unit.type != "slice":
        return _act_alone(core, unit, frozen=frozen)
    for member in unit.children.values():
        if core.profile.version < _SLICES_TOO or member.realised:
            _act(core, member, frozen=frozen)
    waits = _act_alone(core, unit, frozen=frozen)
    return waits or core.profile.version < _SLICES_TOO  # 247 waits even where there is nothing to wait for


def _act_alone(core: Core, unit: Unit, *, frozen: bool) -> bool:
    """unit_cgroup_freezer_action."""
    thaws_slices = core.profile.version >= _SLICES_TOO
    if thaws_slices and unit.name == ROOT_SLICE:
        return False
    if not unit.realised:
        raise core.refuse("freeze_busy")
    if thaws_slices and not frozen and unit.slice is not None:
        _act_alone(core, unit.slice, frozen=False)
    waits = _is_frozen(core, unit) is not frozen
    unit.freezer = (_BEGUN if waits else _DONE)[frozen]
    if waits or (thaws_slices and not frozen):
        told = _write(core, unit, frozen=frozen)
        if waits and told:
            core.kernel_tells[unit] = frozen
    return waits


def _is_frozen(core: Core, unit: Unit) -> bool | None:
    """What cgroup.events says; None where there is no cgroup any more (unit_freezer_state_kernel)."""
    if not core.realiser.is_there(unit):
        return None
    if core.kernel_tells.get(unit) and core.realiser.is_populated(unit):
        return False
    return core.realiser.is_set_frozen(unit)


def _write(core: Core, unit: Unit, *, frozen: bool) -> bool:
    """Whether the kernel tells of it: not of a file that stays as it is (Linux, kernel/cgroup/freezer.c, cgroup_freeze)."""
    assert core.realiser.main is not None
    where = core.realiser.main.name, unit.cgroup, "cgroup.freeze"
    try:
        changes = (core.tree.read(*where).strip() == "1") is not frozen
        core.tree.write(*where, str(int(frozen)))
    except OSError:
        raise core.refuse("freeze_no_cgroup") from None
    return changes


def thaw_first(core: Core, unit: Unit) -> None:
    """Who is frozen need not hear a SIGTERM: whatever starts or stops is thawed first (unit_start, unit_stop)."""
    if core.realiser.is_v2 and SINCE <= core.profile.version < UNTIL:
        try:
            _act_alone(core, unit, frozen=False)
        except Refusal:
            return


def kernel_told(core: Core, unit: Unit) -> bool:
    """The state as the kernel has it; whether who asked is answered: only what was begun here counts (unit_check_cgroup_events)."""
    if unit.freezer not in (Freezer.FREEZING, Freezer.THAWING):
        return False
    unit.freezer = _DONE[bool(_is_frozen(core, unit))]
    return True
