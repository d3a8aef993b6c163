"""The Manager interface, one function a method: (core, sender, message body) -> the reply's signature and body.

A Refusal is the error answer. Texts and rules: facts section 2, sources in systemd's dbus-manager.c.
"""

from __future__ import annotations

import signal
from collections.abc import Callable
from typing import Any

from cgrace.fakes.systemd import freezer, lifecycle, names, properties, transient
from cgrace.fakes.systemd.core import Core
from cgrace.fakes.systemd.jobs import Job
from cgrace.fakes.systemd.units import Load, Sub, Unit

Answer = tuple[str, tuple[Any, ...]]
Method = Callable[[Core, str, tuple[Any, ...]], Answer]
_SIGNALS_MAX = 64


def _job_answer(core: Core, job: Job) -> Answer:
    """A job's path; from 240 on JobNew goes out before the reply."""
    if core.profile.announce_early:
        core.out.force_job(job)
    return "o", (job.path,)


def _loaded(core: Core, name: str, reason: str) -> Unit:
    """A unit that is in memory, be it as one that was not found; or the refusal of this name."""
    _check_member(core, name)
    unit = core.units.get(name)
    if unit is None:
        raise core.refuse(reason, unit=name)
    return unit


def _check_member(core: Core, name: str) -> None:
    """No name means the caller's own unit: nobody here has one (bus_get_unit_by_name, bus_load_unit_by_name)."""
    if not name and core.profile.version >= 229:
        raise core.refuse("not_member")


def _check_loaded(core: Core, unit: Unit) -> None:
    """Refuse what was found and is not right (bus_unit_validate_load_state)."""
    if unit.load is not Load.LOADED:
        reason = {Load.ERROR: unit.load_error, Load.STUB: "stub", Load.NOT_FOUND: "set_not_found"}.get(
            unit.load, "bad_setting"
        )
        raise core.refuse(reason, unit=unit.name)


def _named(core: Core, name: str) -> Unit:
    """Load by name; an invalid one is refused."""
    if not names.unit_type(name):
        raise core.refuse("bad_unit_name", unit=name)
    if names.is_template(name):
        raise core.refuse("missing_instance", unit=name)
    return core.load(name)


def start_transient_unit(core: Core, sender: str, body: tuple[Any, ...]) -> Answer:
    """See transient.py."""
    return _job_answer(core, transient.start_transient(core, sender, body))


def start_unit(core: Core, sender: str, body: tuple[Any, ...]) -> Answer:
    """Start what is loaded, or a slice."""
    name, mode = body
    unit = _named(core, name)
    transient.check_mode(core, mode, "bad_job_mode")
    return _job_answer(core, core.jobs.enqueue(unit, "start", mode, sender))


def stop_unit(core: Core, sender: str, body: tuple[Any, ...]) -> Answer:
    """Stop; a slice that never was is stopped too, it needs no file."""
    name, mode = body
    unit = _named(core, name)
    transient.check_mode(core, mode, "bad_job_mode")
    if unit.load in (Load.NOT_FOUND, Load.BAD_SETTING, Load.ERROR) and unit.sub is Sub.DEAD:
        raise core.refuse("stop_not_loaded", unit=name)
    return _job_answer(core, core.jobs.enqueue(unit, "stop", mode, sender))


def reset_failed_unit(core: Core, sender: str, body: tuple[Any, ...]) -> Answer:
    """A failed unit becomes inactive; on any other loaded one nothing happens."""
    _reset(core, _loaded(core, body[0], "reset_not_loaded"))
    return "", ()


def _reset(core: Core, unit: Unit) -> None:
    if unit.sub is Sub.FAILED:
        unit.result = "success"
        core.set_state(unit, Sub.DEAD)


def reset_failed(core: Core, sender: str, body: tuple[Any, ...]) -> Answer:
    """All failed units."""
    for unit in core.units:
        _reset(core, unit)
    return "", ()


def kill_unit(core: Core, sender: str, body: tuple[Any, ...]) -> Answer:
    """A signal to all processes of the unit."""
    name, whom, number = body
    unit = _loaded(core, name, "stop_not_loaded")
    if whom not in ("", "all", "main", "control", "all-fail", "main-fail", "control-fail"):
        raise core.refuse("kill_whom", whom=whom)
    if not 0 < number <= _SIGNALS_MAX:
        raise core.refuse("kill_signal")
    if whom.startswith(("main", "control")):
        raise core.refuse("kill_no_main", type=unit.type, whom=whom.removesuffix("-fail"))
    # From 255 on cgroup.kill is written where there is one, and whom that hits nobody counts (unit.c, unit_kill).
    at_once = number == signal.SIGKILL and core.realiser.is_v2 and core.profile.version >= 255 and unit.realised
    if at_once and not core.realiser.is_there(unit):
        raise core.refuse("kill_no_cgroup")
    hit = lifecycle.kill_all(core, unit, number)
    # Until 257 a cgroup of its own is enough (unit.c, unit_kill_common).
    if whom == "all-fail" and not (hit or at_once) and (core.profile.all_fail_counts or not unit.realised):
        raise core.refuse("kill_nothing")
    return "", ()


def set_unit_properties(core: Core, sender: str, body: tuple[Any, ...]) -> Answer:
    """Change live settings: the cgroup files are written before the reply."""
    name, _, array = body
    _check_member(core, name)
    unit = _named(core, name) if core.profile.version >= 229 else _loaded(core, name, "set_not_found")
    if unit.load is Load.NOT_FOUND:
        raise core.refuse("set_not_found", unit=name)
    _check_loaded(core, unit)
    changes = core.checker.check(unit, array, creating=False)
    if not unit.transient:
        core.controls.setdefault(unit.name, []).extend(changes)
    described = unit.settings.get("Description")
    if properties.apply(unit, changes, is_v2=core.realiser.is_v2):
        unit.invalid = True
    core.realiser.realise(unit)  # up or not: bus_slice_commit_properties, bus_scope_commit_properties
    if unit.settings.get("Description") != described:
        core.out.changed(unit)
    return "", ()


def get_unit(core: Core, sender: str, body: tuple[Any, ...]) -> Answer:
    """The object path of a loaded unit."""
    return "o", (_loaded(core, body[0], "get_not_loaded").path,)


def load_unit(core: Core, sender: str, body: tuple[Any, ...]) -> Answer:
    """The object path of any unit: one that does not exist is loaded as not-found."""
    _check_member(core, body[0])
    return "o", (_named(core, body[0]).path,)


def get_unit_by_pid(core: Core, sender: str, body: tuple[Any, ...]) -> Answer:
    """The unit that a process is in, by its place in systemd's own hierarchy; else one that watches it, as one that is to start
    with it (cgroup.c, manager_get_unit_by_pid)."""
    pid = body[0]
    outer = core.tree.outer(pid)
    main = core.realiser.main
    where = core.tree.locate(main.name, outer) if main is not None and outer is not None else None
    unit = core.units.find_by_cgroup(where) if where is not None else None
    if unit is None and outer is not None:
        unit = next((one for one in core.units if outer in one.living), None)
    if unit is None:
        raise core.refuse("no_unit_for_pid", pid=pid)
    return "o", (unit.path,)


def get_unit_by_control_group(core: Core, sender: str, body: tuple[Any, ...]) -> Answer:
    """The unit at or above a path."""
    if not body[0].startswith("/"):
        raise core.refuse("cgroup_relative", value=body[0])
    unit = core.units.find_by_cgroup(body[0].rstrip("/"))
    if unit is None:
        raise core.refuse("cgroup_no_unit", value=body[0])
    return "o", (unit.path,)


def subscribe(core: Core, sender: str, body: tuple[Any, ...]) -> Answer:
    """From now on everything is announced."""
    if sender in core.out.subscribers:
        raise core.refuse("already_subscribed")
    core.out.subscribers.add(sender)
    return "", ()


def unsubscribe(core: Core, sender: str, body: tuple[Any, ...]) -> Answer:
    """The inverse."""
    if sender not in core.out.subscribers:
        raise core.refuse("not_subscribed")
    core.out.subscribers.discard(sender)
    return "", ()


def attach_processes(core: Core, sender: str, body: tuple[Any, ...]) -> Answer:
    """Put processes into a sub-cgroup of a delegated, active unit. No job."""
    name, sub_path, pids = body
    unit = _loaded(core, name, "attach_not_loaded")
    _check_loaded(core, unit)
    if sub_path and not sub_path.startswith("/"):
        raise core.refuse("path_relative", value=sub_path)
    if sub_path not in ("", "/") and not {"", ".", ".."}.isdisjoint(sub_path[1:].split("/")):
        raise core.refuse("path_not_normalized", value=sub_path)
    if not unit.delegate:
        raise core.refuse("attach_not_delegated")
    if unit.is_down:
        raise core.refuse("attach_inactive")
    for pid in pids:
        outer = core.tree.outer(pid)
        if outer is None:
            raise core.refuse("attach_gone", pid=pid)
        try:
            core.realiser.attach_below(unit, sub_path.rstrip("/"), outer)
        except FileNotFoundError:
            raise core.refuse("attach_no_cgroup") from None
    return "", ()


def _freezable(core: Core, name: str) -> Unit:
    unit = _loaded(core, name, "attach_not_loaded")
    if core.profile.version >= 257:
        _check_loaded(core, unit)
    return unit


def freeze_unit(core: Core, sender: str, body: tuple[Any, ...]) -> Answer:
    """Freeze by the v2 freezer."""
    freezer.act(core, _freezable(core, body[0]), frozen=True)
    return "", ()


def thaw_unit(core: Core, sender: str, body: tuple[Any, ...]) -> Answer:
    """Thaw."""
    freezer.act(core, _freezable(core, body[0]), frozen=False)
    return "", ()


def ref_unit(core: Core, sender: str, body: tuple[Any, ...]) -> Answer:
    """Keep a unit from being collected."""
    _check_member(core, body[0])
    unit = _named(core, body[0])
    if unit.load is Load.NOT_FOUND:
        raise core.refuse("ref_not_found", unit=unit.name)
    _check_loaded(core, unit)
    unit.refs[sender] = unit.refs.get(sender, 0) + 1
    return "", ()


def unref_unit(core: Core, sender: str, body: tuple[Any, ...]) -> Answer:
    """The inverse."""
    unit = _loaded(core, body[0], "get_not_loaded")
    # While another holds it nobody minds, in later versions (bus_unit_track_remove_sender, sd_bus_track_remove_name).
    if not unit.refs or (sender not in unit.refs and core.profile.version < 249):
        raise core.refuse("not_referenced")
    if sender not in unit.refs:
        return "", ()
    unit.refs[sender] -= 1
    if not unit.refs[sender]:
        del unit.refs[sender]
    if not unit.refs:
        core.unreferenced(unit)
    return "", ()


def _job(core: Core, number: int) -> Job:
    job = core.jobs.by_id.get(number)
    if job is None:
        raise core.refuse("no_job", id=number)
    return job


def get_job(core: Core, sender: str, body: tuple[Any, ...]) -> Answer:
    """A job's path."""
    return "o", (_job(core, body[0]).path,)


def cancel_job(core: Core, sender: str, body: tuple[Any, ...]) -> Answer:
    """End a job as canceled."""
    core.end_job(_job(core, body[0]), "canceled")
    return "", ()


def list_units(core: Core, sender: str, body: tuple[Any, ...]) -> Answer:
    """Every loaded unit: name, description, load, active, sub, following, path, job id, type, path."""
    rows = []
    for unit in core.units:
        job = unit.job
        described = unit.settings.get("Description", unit.name)
        row = [unit.name, described, str(unit.load), unit.active_state, str(unit.sub), "", unit.path]
        row += [job.id, job.kind, job.path] if job else [0, "", "/"]
        rows.append(row)
    return "a(ssssssouso)", (rows,)


def list_jobs(core: Core, sender: str, body: tuple[Any, ...]) -> Answer:
    """Every job: id, unit, type, state, path, unit path."""
    rows = [
        [job.id, job.unit.name, job.kind, "running" if job.running else "waiting", job.path, job.unit.path]
        for job in core.jobs.by_id.values()
    ]
    return "a(usssoo)", (rows,)


def get_unit_processes(core: Core, sender: str, body: tuple[Any, ...]) -> Answer:
    """Nothing is told of processes: their pids here are not those of the driver."""
    _loaded(core, body[0], "get_not_loaded")
    return "a(sus)", ([],)


METHODS: dict[str, tuple[str, int, Method]] = {
    "StartTransientUnit": ("ssa(sv)a(sa(sv))", 0, start_transient_unit),
    "StartUnit": ("ss", 0, start_unit),
    "StopUnit": ("ss", 0, stop_unit),
    "ResetFailedUnit": ("s", 0, reset_failed_unit),
    "ResetFailed": ("", 0, reset_failed),
    "KillUnit": ("ssi", 0, kill_unit),
    "SetUnitProperties": ("sba(sv)", 0, set_unit_properties),
    "GetUnit": ("s", 0, get_unit),
    "LoadUnit": ("s", 0, load_unit),
    "GetUnitByPID": ("u", 0, get_unit_by_pid),
    "GetUnitByControlGroup": ("s", 239, get_unit_by_control_group),
    "Subscribe": ("", 0, subscribe),
    "Unsubscribe": ("", 0, unsubscribe),
    "AttachProcessesToUnit": ("ssau", 238, attach_processes),
    "FreezeUnit": ("s", 246, freeze_unit),
    "ThawUnit": ("s", 246, thaw_unit),
    "RefUnit": ("s", 232, ref_unit),
    "UnrefUnit": ("s", 232, unref_unit),
    "GetJob": ("u", 0, get_job),
    "CancelJob": ("u", 0, cancel_job),
    "ListUnits": ("", 0, list_units),
    "ListJobs": ("", 0, list_jobs),
    "GetUnitProcesses": ("s", 238, get_unit_processes),
}
"""Member -> (argument signature, first version that has it, function)."""
