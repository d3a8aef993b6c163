"""What each version answers, as literal tables: names and texts of errors, and which of two faults is told first."""

from __future__ import annotations

from typing import Any

import pytest
from fake_world import ACCOUNTING, World, error, properties, said, v2_hierarchy

from cgrace.fakes.systemd.profile import REFUSALS, load_profile, profile_from, profile_names
from cgrace.harness.dbus.message import Variant
from cgrace.harness.errors import UsageError

ALL = ("219", "219-rhel7.4", "219-rhel7", "247", "257")
OLD, NEW = ALL[:3], ALL[3:]
X = "cgrace-a.scope"


def V(signature: str, value: Any) -> Variant:
    """A variant."""
    return Variant(signature=signature, value=value)


START = [
    (ALL, X, "nonsense", {"PIDs": [100]}, "D:InvalidArgs", "Job mode nonsense is invalid."),
    (ALL, X, "isolate", {"PIDs": [100]}, "S:NoIsolation", "Operation refused, unit may not be isolated."),
    (OLD, X, "triggering", {}, "D:InvalidArgs", "Job mode triggering is invalid."),
    (NEW, X, "triggering", {"PIDs": [100]}, "D:InvalidArgs", "--job-mode=triggering is only valid for stop."),
    (
        ("247",),
        X,
        "restart-dependencies",
        {"PIDs": [100]},
        "D:InvalidArgs",
        "Job mode restart-dependencies is invalid.",
    ),
    (("257",), X, "restart-dependencies", {"PIDs": [100]}, "", ""),
    (OLD, "nosuffix", "bad", {}, "D:InvalidArgs", "Invalid unit type."),
    (NEW, "nosuffix", "bad", {}, "D:InvalidArgs", "Job mode bad is invalid."),
    (NEW, "nosuffix", "fail", {}, "D:InvalidArgs", "Invalid unit name or type."),
    (NEW, "a" * 255 + ".scope", "fail", {}, "D:InvalidArgs", "Invalid unit name or type."),
    (("219",), "a@.scope", "fail", {}, "D:InvalidArgs", "Unit name a@.scope is not valid."),
    (ALL[1:], "a@.scope", "fail", {}, "D:InvalidArgs", "Unit name a@.scope is missing the instance name."),
    (("219",), "a.slice", "fail", {}, "D:InvalidArgs", "Unit type slice does not support transient units."),
    (ALL, "a.target", "fail", {}, "D:InvalidArgs", "Unit type target does not support transient units."),
    (ALL, X, "fail", {"Nonsense": True}, "D:PropertyReadOnly", "Cannot set property Nonsense, or unknown property."),
    (
        ALL[1:],
        "a.slice",
        "fail",
        {"PIDs": [100]},
        "D:PropertyReadOnly",
        "Cannot set property PIDs, or unknown property.",
    ),
    (ALL[:4], X, "fail", {"PIDs": V("ai", [100])}, "System.Error.ENXIO", "No such device or address"),
    (
        ("257",),
        X,
        "fail",
        {"PIDs": V("ai", [100])},
        "System.Error.ENXIO",
        "Failed to set unit properties: Unexpected message contents",
    ),
    (
        ("247",),
        X,
        "fail",
        {"PIDFDs": V("ah", [0])},
        "D:PropertyReadOnly",
        "Cannot set property PIDFDs, or unknown property.",
    ),
    (NEW, "a.slice", "fail", {"Delegate": True}, "D:InvalidArgs", "Delegation not available for unit type"),
    (OLD[1:], "a.slice", "fail", {"Delegate": True}, "", ""),
    (ALL[1:], "a.slice", "fail", {"Slice": "b.slice"}, "D:InvalidArgs", "Slice may not be set for slice units."),
    (ALL, X, "fail", {"Slice": "b c"}, "D:InvalidArgs", "Invalid unit name 'b c'"),
    (ALL, X, "fail", {"Slice": ""}, "D:InvalidArgs", "Invalid unit name ''"),
    (ALL, X, "fail", {"Slice": "b.scope"}, "D:InvalidArgs", "Unit name 'b.scope' is not a slice"),
    (OLD, X, "fail", {}, "D:InvalidArgs", "Invalid argument"),
    (("247",), X, "fail", {}, "D:FileNotFound", f"Unit {X} failed to load properly: No such file or directory."),
    (
        ("257",),
        X,
        "fail",
        {},
        "D:FileNotFound",
        f"Unit {X} failed to load properly, please adjust/correct and reload service manager: No such file or directory",
    ),
    (ALL[:4], X, "fail", {"PIDs": []}, "D:InvalidArgs", "Invalid argument"),
    (("257",), X, "fail", {"PIDs": []}, "D:InvalidArgs", "Failed to set unit properties: Invalid argument"),
    (OLD, X, "fail", {"PIDs": [1]}, "D:InvalidArgs", "Invalid argument"),
    (NEW, X, "fail", {"PIDs": [1]}, "D:InvalidArgs", "Process 1 is a manager process, refusing."),
    (OLD, X, "fail", {"PIDs": [999]}, "", ""),
    (("247",), X, "fail", {"PIDs": [999]}, "D:UnixProcessIdUnknown", "Process with ID 999 does not exist."),
    (("257",), X, "fail", {"PIDs": [999]}, "D:UnixProcessIdUnknown", "Failed to set unit properties: No such process"),
    (ALL, X, "fail", {"CPUShares": 1}, "D:InvalidArgs", "Value specified in CPUShares is out of range"),
    (ALL, X, "fail", {"CPUQuotaPerSecUSec": 0}, "D:InvalidArgs", "CPUQuotaPerSecUSec= value out of range"),
    (("247",), X, "fail", {"CPUWeight": 0}, "D:InvalidArgs", "Value specified in CPUWeight is out of range"),
    (("219",), X, "fail", {"TasksMax": 5}, "D:PropertyReadOnly", "Cannot set property TasksMax, or unknown property."),
    (OLD[1:], "a.slice", "fail", {"TasksMax": 5}, "", ""),
    (ALL[:4], X, "fail", {"DevicePolicy": "never"}, "D:InvalidArgs", "Invalid argument"),
    (
        ALL,
        X,
        "fail",
        {"DeviceAllow": V("a(ss)", [["tty", "rw"]])},
        "D:InvalidArgs",
        "DeviceAllow= requires device node or pattern",
    ),
    (
        ALL,
        X,
        "fail",
        {"DeviceAllow": V("a(ss)", [["/dev/null", "x"]])},
        "D:InvalidArgs",
        "DeviceAllow= requires combination of rwm flags",
    ),
    (ALL, X, "fail", {"Wants": ["b c"]}, "D:InvalidArgs", "Invalid unit name b c"),
    (NEW, X, "fail", {"PIDs": [100], "Requires": ["no.scope"]}, "S:NoSuchUnit", "Unit no.scope not found."),
    (NEW, "a--b.slice", "fail", {}, "S:UnitExists", None),
    (NEW, "a.mount", "fail", {}, "S:BadUnitSetting", "Unit a.mount has a bad unit file setting."),
    (ALL[1:], "user.slice", "fail", {}, "S:UnitExists", None),
    (NEW, "system.slice", "fail", {}, "", ""),
    (NEW, "-.slice", "fail", {}, "", ""),
]


@pytest.mark.parametrize(("profile", "row"), [(profile, row[1:]) for row in START for profile in row[0]])
def test_start_transient_unit(profile: str, row: tuple[Any, ...]) -> None:
    """StartTransientUnit answers as that version does, and a refused call leaves nothing behind."""
    unit, mode, settings, name, text = row
    world = World(profile)
    before = set(world.manager.loaded_units())
    got = error(world.start(unit, mode, **settings))
    assert got[0] == name
    assert text is None or got[1] == text
    if name:
        world.settle()
        assert set(world.manager.loaded_units()) == before
        assert world.manager.queued_jobs() == ()


OTHER = [
    (ALL, "StopUnit", "ss", ["no.scope", "replace"], "S:NoSuchUnit", "Unit no.scope not loaded."),
    (ALL, "StopUnit", "ss", ["no.slice", "replace"], "", ""),
    (ALL, "StopUnit", "ss", ["no", "replace"], "D:InvalidArgs", "Unit name no is not valid."),
    (ALL, "StopUnit", "ss", ["no.slice", "bad"], "D:InvalidArgs", "Job mode bad invalid"),
    (NEW, "StartUnit", "ss", ["no.scope", "replace"], "S:NoSuchUnit", "Unit no.scope not found."),
    (OLD, "ResetFailedUnit", "s", ["no.scope"], "S:NoSuchUnit", "Unit no.scope is not loaded."),
    (NEW, "ResetFailedUnit", "s", ["no.scope"], "S:NoSuchUnit", "Unit no.scope not loaded."),
    (ALL, "ResetFailedUnit", "s", ["system.slice"], "", ""),
    (ALL, "KillUnit", "ssi", ["no.scope", "all", 15], "S:NoSuchUnit", "Unit no.scope not loaded."),
    (("247",), "KillUnit", "ssi", ["user.slice", "x", 15], "D:InvalidArgs", "Invalid who argument x"),
    (("257",), "KillUnit", "ssi", ["user.slice", "x", 15], "D:InvalidArgs", "Invalid whom argument: x"),
    (NEW, "KillUnit", "ssi", ["user.slice", "main", 15], "S:NoSuchProcess", "slice units have no main processes"),
    (NEW, "KillUnit", "ssi", ["user.slice", "all", 99], "D:InvalidArgs", "Signal number out of range."),
    (OLD, "SetUnitProperties", "sba(sv)", ["no.scope", True, []], "S:NoSuchUnit", "Unit no.scope is not loaded."),
    (NEW, "SetUnitProperties", "sba(sv)", ["no.scope", True, []], "S:NoSuchUnit", "Unit no.scope not found."),
    (NEW, "SetUnitProperties", "sba(sv)", ["no.slice", True, []], "", ""),
    (
        NEW,
        "SetUnitProperties",
        "sba(sv)",
        ["user.slice", True, properties(DefaultDependencies=True)],
        "D:PropertyReadOnly",
        "Cannot set property DefaultDependencies, or unknown property.",
    ),
    (NEW, "GetUnit", "s", ["no.scope"], "S:NoSuchUnit", "Unit no.scope not loaded."),
    (NEW, "GetUnit", "s", [""], "S:NoSuchUnit", "Client not member of any unit."),
    (ALL, "LoadUnit", "s", ["no.scope"], "", ""),
    (ALL, "GetUnitByPID", "u", [999], "S:NoUnitForPID", "PID 999 does not belong to any loaded unit."),
    (OLD, "GetUnitByControlGroup", "s", ["/a"], "D:UnknownMethod", None),
    (("257",), "GetUnitByControlGroup", "s", ["a"], "D:InvalidArgs", "Control group path is not absolute: a"),
    (ALL, "Unsubscribe", "", [], "S:NotSubscribed", "Client is not subscribed."),
    (NEW, "AttachProcessesToUnit", "ssau", ["no.scope", "", [1]], "S:NoSuchUnit", "Unit no.scope not loaded."),
    (OLD, "FreezeUnit", "s", ["user.slice"], "D:UnknownMethod", None),
    (("247",), "FreezeUnit", "s", ["user.slice"], "D:NotSupported", "Unit 'user.slice' does not support freezing."),
    (("257",), "FreezeUnit", "s", ["user.slice"], "D:NotSupported", "Unit does not support freeze/thaw"),
    (NEW, "RefUnit", "s", ["no.scope"], "S:NoSuchUnit", "Unit no.scope not found."),
    (NEW, "UnrefUnit", "s", ["user.slice"], "S:NotReferenced", "Unit has not been referenced yet."),
    (ALL, "GetJob", "u", [77], "S:NoSuchJob", "Job 77 does not exist."),
    (ALL, "CancelJob", "u", [77], "S:NoSuchJob", "Job 77 does not exist."),
    (ALL, "Nonsense", "", [], "D:UnknownMethod", None),
    (ALL, "GetUnit", "u", [1], "D:InvalidArgs", None),
]


@pytest.mark.parametrize(("profile", "row"), [(profile, row[1:]) for row in OTHER for profile in row[0]])
def test_other_methods(profile: str, row: tuple[Any, ...]) -> None:
    """The other methods answer as that version does."""
    member, signature, body, name, text = row
    got = error(World(profile).send(member, signature, *body))
    assert got[0] == name
    assert text is None or got[1] == text


@pytest.mark.parametrize(
    ("profile", "text"),
    [
        ("219", "Unit cgrace-a.scope already exists."),
        ("219-rhel7", "Unit cgrace-a.scope already exists."),
        ("247", "Unit cgrace-a.scope already exists."),
        ("257", "Unit cgrace-a.scope was already loaded or has a fragment file."),
    ],
)
def test_unit_exists(profile: str, text: str) -> None:
    """A queued scope, and then an active one, is refused; bad properties are told only after that."""
    world = World(profile)
    world.start(X, PIDs=[100], Description="d")
    assert error(world.start(X, Nonsense=True)) == ("S:UnitExists", text)
    world.settle()
    assert error(world.start(X, PIDs=[100])) == ("S:UnitExists", text)


@pytest.mark.parametrize("profile", ALL[1:])
def test_implicit_slice_is_accepted_once(profile: str) -> None:
    """A slice that only came up as a parent gives UnitExists by its children on RHEL 7, and is accepted later on."""
    world = World(profile)
    world.start("cgrace-a.slice", **ACCOUNTING)
    world.settle()
    first = error(world.start("cgrace.slice", **ACCOUNTING))
    assert first[0] == ("S:UnitExists" if profile.startswith("219") else "")
    assert error(world.start("cgrace.slice", **ACCOUNTING))[0] == "S:UnitExists"


@pytest.mark.parametrize("profile", ALL)
def test_refused_stub_may_be_retried_at_once(profile: str) -> None:
    """After a bad property the same name works in the very next call, with no turn between."""
    world = World(profile)
    assert error(world.start(X, PIDs=[100], Nonsense=True))[0] == "D:PropertyReadOnly"
    assert error(world.start(X, PIDs=[100])) == ("", "")


@pytest.mark.parametrize("profile", ["247", "257"])
def test_freeze_on_v2(profile: str) -> None:
    """An active unit freezes and thaws on v2; a queued job or a unit that is down is refused."""
    world = World(profile, hierarchies=v2_hierarchy())
    world.start(X, PIDs=[100])
    assert error(world.send("FreezeUnit", "s", X))[0] == "S:UnitBusy"
    world.settle()
    assert said(world.do("FreezeUnit", "s", X)) == ["reply"], "when the kernel has done it"
    assert world.tree.read("unified", f"/system.slice/{X}", "cgroup.freeze") == "1"
    world.stop(X)
    results = [each.body[3] for each in world.settle() if each.member == "JobRemoved"]
    assert results == (["frozen"] if profile == "257" else results)


def test_unknown_key_in_a_profile() -> None:
    """A profile with a key that is not one is refused, by name."""
    with pytest.raises(UsageError, match="unknown key: speed"):
        profile_from("x", {"speed": 1})


def test_unknown_profile() -> None:
    """A profile that does not exist: the hint says which do."""
    with pytest.raises(UsageError) as caught:
        load_profile("208")
    assert "219-rhel7.4" in caught.value.hint


def test_every_profile_loads_whole() -> None:
    """All profiles have all texts."""
    for name in profile_names():
        assert set(load_profile(name).refusals) == REFUSALS


@pytest.mark.parametrize("profile", ["247", "252", "257"])
def test_a_slice_whose_name_has_no_place(profile: str) -> None:
    """A scope in a--b.slice is refused for that slice, which does not load (slice.c, slice_verify; unit-name.c,
    slice_build_parent_slice); one that is started without it gets no cgroup (cgroup.c, unit_pick_cgroup_path)."""
    name, text = error(World(profile).start("a.scope", PIDs=[100], Slice="a--b.slice"))
    assert name == "D:InvalidArgs"
    assert text.startswith("Unit a--b.slice failed to load properly")
    world = World(profile)
    world.start("a.scope", "ignore-dependencies", PIDs=[100], Slice="a--b.slice")
    assert "JobRemoved a.scope failed" in said(world.settle())
