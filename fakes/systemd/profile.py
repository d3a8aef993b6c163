"""What one systemd version does, as data. profiles/*.toml holds the values; this file says which there are.

A profile is loaded strictly: an unknown key, a missing key or a value outside its choices is a UsageError that names the file.
`base = "219"` takes everything from another profile first, so that a vendor build shows only its deltas.
"""

from __future__ import annotations

import tomllib
from dataclasses import MISSING, dataclass, fields
from functools import lru_cache
from pathlib import Path
from typing import Any

from cgrace.harness.errors import UsageError

_FOLDER = Path(__file__).parent / "profiles"

REFUSALS = frozenset(
    """
    path_relative path_not_normalized isolate_not_start
    bad_mode mode_isolate mode_triggering bad_type missing_instance not_transient exists read_only type_mismatch
    setter_invalid delegate_on_slice slice_on_slice bad_slice_name not_a_slice no_pids pid_manager pid_kernel
    pid_gone bad_choice attach_no_cgroup
    out_of_range quota_out_of_range device_node device_mode bad_dependency dependency_not_found
    destructive bad_setting load_error stub stub_job cyclic masked bad_unit_name bad_job_mode stop_not_loaded reset_not_loaded
    kill_whom kill_no_main kill_signal kill_nothing kill_no_cgroup set_not_found get_not_loaded not_member no_unit_for_pid
    cgroup_relative cgroup_no_unit already_subscribed not_subscribed attach_not_loaded attach_not_delegated
    attach_inactive attach_gone freeze_unsupported freeze_busy freeze_inactive freeze_in_progress
    freeze_by_parent freeze_cancelled freeze_no_cgroup ref_not_found not_referenced no_job
    unknown_method unknown_property unknown_object bad_unit_path bad_unit_path_property not_writable bad_arguments
    """.split()  # noqa: SIM905 - a list of this length is unreadable as strings
)
"""Every reason to answer with an error, by our name; a profile gives each its D-Bus name and text."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BootUnit:
    """A unit that is there before any driver comes. needs: controllers it wants for itself; it counts for its siblings."""

    name: str
    slice: str = ""
    needs: frozenset[str] = frozenset()
    fragment: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """One systemd version. Where a field names a rule, its choices are in `_CHOICES`.

    evidence: "recorded" (a real one answered the probes so: reports/baselines), or "read" (in its source).
    version: the number that properties are compared with; version_string: the Manager's Version property.
    mode_before_name: a bad job mode is reported before a bad unit name (dbus-manager.c, method_start_transient_unit).
    load_at_call: a unit that cannot be loaded is refused by unit_load itself, not when its job is enqueued.
    announce_early: JobNew goes out before the method's reply, and a unit's pending change before JobNew and JobRemoved.
    exists: what makes a unit "already there" (unit.c, unit_is_pristine; facts 1.3).
    controllers_v1, controllers_v2: what it manages; cpuacct alone is only in the first list where it does so apart from cpu.
    delegate_v1, delegate_v2: what Delegate=yes covers. accounting: controllers that every unit has by default.
    trim: when unneeded directories go, before or after the migration. migrate: "flatten" (undelegated units but slices, every
    controller, each time) or "changed" (all units, only controllers whose membership changed).
    attach: where PIDs= go at first: "everywhere" (the path, else its next ancestor that exists) or "realised".
    family_on_free: when a unit is freed, its slice's family is realised again.
    stop_waits_v1: whether a stop job waits until the cgroup is empty.
    cpuacct_joined: cpuacct is taken for mounted together with cpu: where it is not, processes are moved in it all the same, but
    its directories are neither made nor removed. cpuacct_migrated: they are also moved in it when what their unit needs changes.
    prunes_empty: when the cgroup of a unit that is down runs empty it is removed (cgroup.c, on_cgroup_empty_event).
    collects_populated: a unit is collected although a process is in its cgroup. bfq_scaled: a blkio weight is scaled to bfq's
    range. quota_step_us: what CPUQuotaPerSecUSec is rounded down to in the unit's file, as a reload shows.
    pids_checked: PIDs= are checked at the call. any_pid_fails: one missing process of several fails the job.
    attach_fails_unit: the unit becomes failed (220+), else it stays dead. reload: what daemon-reload re-applies.
    ignored_properties: taken whatever they are, and forgotten. all_fail_counts: KillUnit of whom "all-fail" fails where nobody was
    hit, else only where there is no cgroup.
    job_ids_scope: ids that a scope with default dependencies consumes. refusals: reason -> (error name, text).
    """

    name: str
    evidence: str
    version: int
    version_string: str
    features: str
    mode_before_name: bool
    load_at_call: bool
    announce_early: bool
    exists: str
    modes: frozenset[str]
    transient_types: frozenset[str]
    slice_delegate: bool
    controllers_v1: tuple[str, ...]
    controllers_v2: tuple[str, ...]
    delegate_v1: frozenset[str]
    delegate_v2: frozenset[str]
    accounting: frozenset[str]
    trim: str
    migrate: str
    attach: str
    family_on_free: bool
    stop_waits_v1: str
    collects_populated: bool
    prunes_empty: bool
    cpuacct_joined: bool
    cpuacct_migrated: bool
    bfq_scaled: bool
    quota_step_us: int
    pids_checked: bool
    any_pid_fails: bool
    attach_fails_unit: bool
    frozen_jobs_fail: bool
    once: bool
    reload: str
    job_ids_scope: int
    extra_properties: frozenset[str]
    ignored_properties: frozenset[str]
    all_fail_counts: bool
    extra_methods: frozenset[str]
    default_timeout_stop_us: int
    refusals: dict[str, tuple[str, str]]
    boot: tuple[BootUnit, ...]


_CHOICES = {
    "evidence": {"read", "recorded"},
    "exists": {"loaded-or-referenced", "file-dropin-or-referenced", "file-dropin-or-job", "file-or-job"},
    "trim": {"before", "after"},
    "migrate": {"flatten", "changed"},
    "attach": {"everywhere", "realised"},
    "stop_waits_v1": {"always", "undelegated", "never"},
    "reload": {"unrealise", "attributes", "nothing"},
}
_PREFIXES = {"D:": "org.freedesktop.DBus.Error.", "S:": "org.freedesktop.systemd1."}


def profile_names() -> tuple[str, ...]:
    """All profiles there are, sorted."""
    return tuple(sorted(path.stem for path in _FOLDER.glob("*.toml")))


@lru_cache
def load_profile(name: str) -> Profile:
    """The profile of that name; UsageError when there is none or its file is not right."""
    if name not in profile_names():
        raise UsageError(f"there is no profile '{name}'", hint=f"one of: {', '.join(profile_names())}")
    return profile_from(name, _merged(name))


def _merged(name: str) -> dict[str, Any]:
    """The profile's table over its base's; `refusals` are merged key by key."""
    with (_FOLDER / f"{name}.toml").open("rb") as file:
        table = tomllib.load(file)
    base = table.pop("base", None)
    if base is None:
        return table
    below = _merged(base)
    table["refusals"] = below.get("refusals", {}) | table.get("refusals", {})
    return below | table


def profile_from(name: str, table: dict[str, Any]) -> Profile:
    """Check a whole table and make the profile of it."""
    wanted = {field.name for field in fields(Profile)} - {"name"}
    _expect(name, "key", set(table), wanted)
    refusals = table["refusals"]
    _expect(name, "refusal", set(refusals), set(REFUSALS))
    for key, choices in _CHOICES.items():
        if table[key] not in choices:
            raise _wrong(name, f"{key} = '{table[key]}'", f"one of: {', '.join(sorted(choices))}")
    values: dict[str, Any] = {"name": name}
    for field in fields(Profile):
        if field.name in ("name", "refusals", "boot"):
            continue
        values[field.name] = _value(name, field.name, str(field.type), table[field.name])
    values["refusals"] = {key: (_full(each[0]), each[1]) for key, each in refusals.items()}
    values["boot"] = tuple(_boot_unit(name, each) for each in table["boot"])
    return Profile(**values)


def _value(profile: str, key: str, kind: str, value: object) -> object:
    if kind.startswith(("frozenset", "tuple")):
        if not isinstance(value, list) or not all(isinstance(each, str) for each in value):
            raise _wrong(profile, f"{key} is not a list of strings")
        return frozenset(value) if kind.startswith("frozenset") else tuple(value)
    if type(value).__name__ != kind:
        raise _wrong(profile, f"{key} is {type(value).__name__}, not {kind}")
    return value


def _boot_unit(profile: str, table: dict[str, Any]) -> BootUnit:
    known = {field.name for field in fields(BootUnit)}
    needed = {field.name for field in fields(BootUnit) if field.default is MISSING}
    _expect(profile, "key of [[boot]]", set(table) | (known - needed), known)
    return BootUnit(**(table | {"needs": frozenset(table.get("needs", ()))}))


def _full(name: str) -> str:
    return _PREFIXES[name[:2]] + name[2:] if name[:2] in _PREFIXES else name


def _expect(profile: str, what: str, have: set[str], wanted: set[str]) -> None:
    if extra := sorted(have - wanted):
        raise _wrong(profile, f"unknown {what}: {', '.join(extra)}")
    if missing := sorted(wanted - have):
        raise _wrong(profile, f"missing {what}: {', '.join(missing)}")


def _wrong(profile: str, what: str, hint: str = "") -> UsageError:
    return UsageError(f"{what}, in the profile '{profile}'", hint=hint, file=_FOLDER / f"{profile}.toml")
