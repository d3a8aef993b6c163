"""daemon-reload and daemon-reexec: what is announced, what survives, and what is applied again (facts 3.6, 5.4)."""

from __future__ import annotations

from cgrace.fakes.systemd.core import Core
from cgrace.fakes.systemd.properties import INFINITY
from cgrace.fakes.systemd.units import NOTHING, Load


def reload(core: Core) -> None:
    """Every unit goes and comes back; jobs keep their id, path and clients. Then attributes are applied again, by version."""
    announce = bool(core.out.subscribers)
    if announce:
        core.out.signal("Reloading", "b", (True,))
        for unit in core.units:
            core.out.signal("UnitRemoved", "so", (unit.name, unit.path))
        for unit in core.units:
            core.out.signal("UnitNew", "so", (unit.name, unit.path))
    _load_again(core)
    _lose_pids(core)
    _round_quotas(core)
    _void_realisation(core, core.profile.reload)
    if announce:
        core.out.signal("Reloading", "b", (False,))


def reexec(core: Core) -> None:
    """As a reload, but nobody hears UnitNew; every version applies the attributes again."""
    if core.out.subscribers:
        core.out.signal("Reloading", "b", (True,))
        for unit in core.units:
            core.out.signal("UnitRemoved", "so", (unit.name, unit.path))
    _load_again(core)
    _lose_pids(core)
    _round_quotas(core)
    _void_realisation(core, "attributes" if core.profile.reload == "nothing" else core.profile.reload)


def _load_again(core: Core) -> None:
    """What was refused half-way has a file by now, with what was good of it. Jobs that wait are looked at again."""
    core.jobs.look_again()
    for unit in core.units:
        if unit.load is Load.STUB and unit.type == "slice":
            unit.load = Load.LOADED
            core.out.changed(unit)


def _lose_pids(core: Core) -> None:
    """Before 247 the PIDs= of a queued scope are not serialised: it starts without its processes."""
    if core.profile.version < 247:
        for unit in core.units:
            if unit.job is not None and unit.is_down:
                unit.pids = []


def _round_quotas(core: Core) -> None:
    """A quota is read again from the unit's file, where it stands as a percentage (dbus-cgroup.c; unit files)."""
    step = core.profile.quota_step_us
    for unit in core.units:
        quota = unit.settings.get("CPUQuotaPerSecUSec")
        if quota is not None and quota != INFINITY:
            unit.settings["CPUQuotaPerSecUSec"] = quota - quota % step


def _void_realisation(core: Core, rule: str) -> None:
    for unit in core.units:
        unit.family_mask = None
        if unit.phantom or unit.is_down or not unit.realised:
            continue
        if rule == "unrealise":
            # Not serialised: the unit is done again at its next realisation, or when a sibling starts.
            unit.realised, unit.realised_mask, unit.invalid = False, NOTHING, True
        elif rule == "attributes":
            unit.invalid = True
            core.realiser.queue[unit] = None
