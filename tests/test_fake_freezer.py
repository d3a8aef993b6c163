"""The fake's freezer on v2: states, whose answer waits, and what is refused (unit.c, cgroup.c, slice.c, dbus-unit.c)."""

from __future__ import annotations

import pytest
from fake_world import World, error, properties, said, v2_hierarchy

from cgrace.harness.dbus.message import Message, MessageType

A, X, XY = "t-a.scope", "t-x.slice", "t-x-y.slice"
NEW = ("257", "262")


def world_of(profile: str) -> World:
    """A manager on v2."""
    return World(profile, hierarchies=v2_hierarchy())


def make(world: World, *units: str) -> None:
    """Start them; a scope is in t-x.slice and has a process."""
    for unit in units:
        world.start(unit, **({"PIDs": [100], "Slice": X} if unit == A else {}))
        world.settle()


def results(messages: list[Message]) -> list[str]:
    """How jobs ended."""
    return [each.body[3] for each in messages if each.member == "JobRemoved"]


@pytest.mark.parametrize("profile", NEW)
def test_a_slice_freezes_what_is_in_it(profile: str) -> None:
    """A unit is frozen with its slice and thawed with it, not by itself (unit.c, unit_next_freezer_state)."""
    world = world_of(profile)
    make(world, XY)
    world.do("FreezeUnit", "s", X)
    assert (world.get(X, "Unit", "FreezerState"), world.get(XY, "Unit", "FreezerState")) == (
        "frozen",
        "frozen-by-parent",
    )
    assert error(world.do("ThawUnit", "s", XY))[0] == "S:FrozenByParent"
    world.do("ThawUnit", "s", X)
    assert world.get(XY, "Unit", "FreezerState") == "running"


@pytest.mark.parametrize("profile", NEW)
def test_what_was_frozen_for_itself_stays_so(profile: str) -> None:
    """A slice that thaws leaves a unit frozen that was frozen by name; that one thaws into its slice's state while it lasts."""
    world = world_of(profile)
    make(world, XY)
    world.do("FreezeUnit", "s", XY)
    world.do("FreezeUnit", "s", X)
    world.do("ThawUnit", "s", XY)
    assert world.get(XY, "Unit", "FreezerState") == "frozen-by-parent"
    world.do("FreezeUnit", "s", XY)
    world.do("ThawUnit", "s", X)
    assert world.get(XY, "Unit", "FreezerState") == "frozen"


@pytest.mark.parametrize("profile", NEW)
def test_jobs_of_what_is_frozen_with_its_slice(profile: str) -> None:
    """They fail as frozen; what is loaded into a frozen slice is frozen from the start (unit.c, unit_add_slice_dependencies)."""
    world = world_of(profile)
    make(world, X)
    world.do("FreezeUnit", "s", X)
    assert results(world.start(XY) + world.settle()) == ["frozen"]
    world.do("ThawUnit", "s", X)
    make(world, XY)
    world.do("FreezeUnit", "s", X)
    assert results(world.stop(XY) + world.settle()) == ["frozen"]
    assert world.where(f"/t.slice/{X}/{XY}") == {"unified"}


@pytest.mark.parametrize("profile", NEW)
def test_what_is_under_way(profile: str) -> None:
    """A second freeze is refused while processes are being frozen; a thaw calls the freeze off (dbus-unit.c,
    bus_unit_method_freezer_generic)."""
    world = world_of(profile)
    make(world, X, A)
    assert world.send("FreezeUnit", "s", X) == []
    first = world.serial
    assert error(world.send("FreezeUnit", "s", X))[0] == "S:UnitBusy"
    messages = world.do("ThawUnit", "s", X)
    answers = [(each.reply_serial, each.type) for each in messages if each.type is not MessageType.SIGNAL]
    assert answers == [(first, MessageType.ERROR), (world.serial, MessageType.REPLY)]
    assert world.get(A, "Unit", "FreezerState") == "running"


@pytest.mark.parametrize("profile", NEW)
def test_no_cgroup_to_freeze(profile: str) -> None:
    """Where somebody removed the cgroup: an error, another one since 258 (cgroup.c, unit_cgroup_freezer_kernel_state)."""
    world = world_of(profile)
    make(world, X)
    world.tree.rmdir("unified", f"/t.slice/{X}")
    wanted = "System.Error.ENODATA" if profile == "257" else "D:FileNotFound"
    assert error(world.do("FreezeUnit", "s", X))[0] == wanted


@pytest.mark.parametrize("profile", NEW)
def test_a_cgroup_made_anew_tells_nothing(profile: str) -> None:
    """Where somebody removed a cgroup and systemd made it again it watches the old one: who freezes it is not answered (cgroup.c,
    unit_watch_cgroup)."""
    world = world_of(profile)
    make(world, X)
    world.tree.rmdir("unified", f"/t.slice/{X}")
    world.do("SetUnitProperties", "sba(sv)", X, True, properties(TasksMax=50))
    assert said(world.do("FreezeUnit", "s", X)) == []
    assert world.get(X, "Unit", "FreezerState") == "freezing"


def test_what_kills_a_cgroup_at_once() -> None:
    """SIGKILL is written into cgroup.kill: that nobody is hit is no failure, that there is no cgroup is one (unit.c, unit_kill)."""
    world = world_of("262")
    make(world, X)
    assert said(world.do("KillUnit", "ssi", X, "all-fail", 9)) == ["reply"]
    assert error(world.do("KillUnit", "ssi", X, "all-fail", 15))[0] == "S:NoSuchProcess"
    world.tree.rmdir("unified", f"/t.slice/{X}")
    assert error(world.do("KillUnit", "ssi", X, "all", 9))[0] == "D:FileNotFound"
    assert said(world.do("KillUnit", "ssi", X, "all", 15)) == ["reply"]


@pytest.mark.parametrize("profile", NEW)
def test_nothing_is_made_for_a_unit_that_is_frozen(profile: str) -> None:
    """One below a frozen slice gets no cgroup by a setting, and one that is up and frozen no other values (unit_update_cgroup)."""
    world = world_of(profile)
    make(world, A)
    slice_, file = "/t.slice/t-x.slice", ("unified", f"/t.slice/t-x.slice/{A}", "memory.max")

    def set_limit(unit: str, limit: int) -> None:
        world.do("SetUnitProperties", "sba(sv)", unit, True, properties(MemoryMax=limit))

    set_limit(A, 2**20)
    world.do("RefUnit", "s", XY)
    world.do("FreezeUnit", "s", X)
    set_limit(XY, 2**21)
    set_limit(A, 2**21)
    assert world.tree.exists("unified", slice_) and not world.tree.exists("unified", f"{slice_}/{XY}")
    assert world.tree.read(*file) == str(2**20)
    world.do("ThawUnit", "s", X)
    set_limit(A, 2**22)
    assert world.tree.read(*file) == str(2**22)
