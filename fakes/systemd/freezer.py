"""Freezing and thawing on v2: what is asked, what the kernel does, and who is told (unit.c, cgroup.c, slice.c, dbus-unit.c).

From 256 on a slice freezes the units in it, too, and each knows whether it was frozen for itself or with its slice. An action is
over when the kernel says so in cgroup.events: at once where there is no process to stop, else later.
"""

from __future__ import annotations

from cgrace.fakes.systemd import freezer_alone
from cgrace.fakes.systemd.core import Core
from cgrace.fakes.systemd.units import THAWED, Freezer, Unit

_DONE = {
    Freezer.FREEZING: Freezer.FROZEN,
    Freezer.FREEZING_BY_PARENT: Freezer.FROZEN_BY_PARENT,
    Freezer.THAWING: Freezer.RUNNING,
}
_BEGUN = {done: begun for begun, done in _DONE.items()}
_BY_PARENT = (Freezer.FREEZING_BY_PARENT, Freezer.FROZEN_BY_PARENT)


def act(core: Core, unit: Unit, *, frozen: bool) -> None:
    """Begin to freeze or thaw; Refusal says what is wrong. core.waits_for_kernel tells whether the answer is to wait
    (bus_unit_method_freezer_generic)."""
    if core.realiser.main is None or not core.realiser.is_v2 or unit.phantom or unit.name == "init.scope":
        raise core.refuse("freeze_unsupported", unit=unit.name)
    if unit.job is not None:
        raise core.refuse("freeze_busy")
    if not unit.is_active:
        raise core.refuse("freeze_inactive")
    if core.profile.version < freezer_alone.UNTIL:
        waits = freezer_alone.act(core, unit, frozen=frozen)
    else:
        waits = _act_with_slice(core, unit, frozen=frozen)
    if unit in core.freezing:
        message, sender = core.freezing.pop(unit)
        core.out.refuse(message, sender, core.refuse("freeze_cancelled"))
    core.waits_for_kernel = waits


def _act_with_slice(core: Core, unit: Unit, *, frozen: bool) -> bool:
    """unit_freezer_action."""
    if unit.freezer in ((Freezer.FREEZING, Freezer.FREEZING_BY_PARENT) if frozen else (Freezer.THAWING,)):
        raise core.refuse("freeze_in_progress", unit=unit.name)
    if not frozen and unit.freezer in _BY_PARENT:
        raise core.refuse("freeze_by_parent")
    try:
        return _act(core, unit, frozen=frozen)
    except OSError:
        raise core.refuse("freeze_no_cgroup") from None


def _act(core: Core, unit: Unit, *, frozen: bool, by_parent: bool = False) -> bool:
    """slice_freezer_action and unit_cgroup_freezer_action: whether the kernel has something to do."""
    for child in unit.children.values():
        _act(core, child, frozen=frozen, by_parent=True)
    state = _next(unit, frozen=frozen, by_parent=by_parent)
    wanted = state not in THAWED
    waits = False
    if unit.realised:
        now = _kernel_state(core, unit)
        waits = now is not wanted
        if waits or not (wanted or unit.freezer in THAWED):
            state = _BEGUN.get(state, state)
            _write(core, unit, frozen=wanted)
    if waits:
        core.kernel_tells[unit] = wanted
    _set(core, unit, state if waits else _DONE.get(state, state))
    return waits


def _next(unit: Unit, *, frozen: bool, by_parent: bool) -> Freezer:
    """unit_next_freezer_state."""
    now = unit.freezer
    if frozen and not by_parent:
        return Freezer.FROZEN if now in (Freezer.FROZEN, Freezer.FROZEN_BY_PARENT) else Freezer.FREEZING
    if frozen:
        keeps = now in (Freezer.FREEZING, Freezer.FROZEN, Freezer.FROZEN_BY_PARENT)
        return now if keeps else Freezer.FREEZING_BY_PARENT
    if by_parent:
        return now if now in (Freezer.RUNNING, Freezer.FREEZING, Freezer.FROZEN) else Freezer.THAWING
    if now not in (Freezer.FREEZING, Freezer.FROZEN):
        return now
    if unit.slice is None or unit.slice.freezer in THAWED:
        return Freezer.THAWING
    return Freezer.FREEZING_BY_PARENT if now is Freezer.FREEZING else Freezer.FROZEN_BY_PARENT


def _kernel_state(core: Core, unit: Unit) -> bool:
    """What cgroup.events says: frozen, by its own setting or that of a cgroup above. OSError where the cgroup is gone."""
    assert core.realiser.main is not None
    core.tree.read(core.realiser.main.name, unit.cgroup, "cgroup.events")
    if unit in core.kernel_tells:
        return not core.kernel_tells[unit]
    return core.realiser.is_set_frozen(unit)


def _write(core: Core, unit: Unit, *, frozen: bool) -> None:
    assert core.realiser.main is not None
    core.tree.write(core.realiser.main.name, unit.cgroup, "cgroup.freeze", str(int(frozen)))


def _set(core: Core, unit: Unit, state: Freezer) -> None:
    """unit_set_freezer_state."""
    if unit.freezer is not state:
        unit.freezer = state
        core.out.changed(unit)


def kernel_tells(core: Core, *, at_once: bool = False) -> None:
    """The kernel has frozen and thawed what it was to (unit_check_cgroup_events). at_once: only where no process had to be
    stopped. Of a cgroup that is gone, or was made anew by itself, nothing is told, and so nobody is answered."""
    for unit in tuple(core.kernel_tells):
        if at_once and (core.profile.version < freezer_alone.UNTIL or core.realiser.is_populated(unit)):
            continue
        tell(core, unit)


def tell(core: Core, unit: Unit) -> None:
    """What the kernel has to say of one unit, if it has (`kernel_tells`)."""
    frozen = core.kernel_tells.pop(unit, None)
    if frozen is None:
        return
    if core.units.get(unit.name) is not unit or not unit.realised:
        core.freezing.pop(unit, None)
        return
    if unit.watch != core.realiser.cgroup_id(unit):
        return
    if core.profile.version < freezer_alone.UNTIL:
        if not freezer_alone.kernel_told(core, unit):
            return
    elif unit.freezer in _DONE:
        is_expected = frozen is (unit.freezer is not Freezer.THAWING)
        _set(core, unit, _DONE[unit.freezer] if is_expected else Freezer.FROZEN if frozen else Freezer.RUNNING)
    if unit in core.freezing:
        message, sender = core.freezing.pop(unit)
        core.out.reply(message, sender, "", ())
