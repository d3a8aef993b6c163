"""Freezing by the v2 freezer to 255, on the fake systemd (unit.c, cgroup.c, slice.c, dbus-unit.c)."""

from __future__ import annotations

import pytest
from fake_world import World, error, said, v2_hierarchy

from cgrace.harness.dbus.message import Message


def world_with_scope(profile: str) -> World:
    """a.scope in x.slice, with a process."""
    world = World(profile, v2_hierarchy())
    world.start("a.scope", PIDs=[100], Slice="x.slice")
    world.settle()
    return world


def freeze(world: World, unit: str) -> list[Message]:
    """FreezeUnit, and what follows."""
    return world.do("FreezeUnit", "s", unit)


def thaw(world: World, unit: str) -> list[Message]:
    """ThawUnit, and what follows."""
    return world.do("ThawUnit", "s", unit)


def state(world: World, unit: str) -> str:
    """FreezerState."""
    return str(world.get(unit, "Unit", "FreezerState"))


@pytest.mark.parametrize("profile", ["247", "252"])
def test_the_answer_waits_for_the_kernel(profile: str) -> None:
    """A call that changes something is answered when the kernel has told of it, another one at once; in between there is no other
    (unit_freezer_action, unit_check_cgroup_events)."""
    world = world_with_scope(profile)
    assert world.send("FreezeUnit", "s", "a.scope") == []
    assert error(world.send("FreezeUnit", "s", "a.scope"))[1].endswith("is still in progress.")
    assert said(world.settle()) == ["reply"]
    assert state(world, "a.scope") == "frozen"
    assert said(world.send("FreezeUnit", "s", "a.scope")) == ["reply"]


@pytest.mark.parametrize(("profile", "words"), [("247", ["error"]), ("252", ["error", "reply"])])
def test_a_thaw_cancels_a_freeze_after_247(profile: str, words: list[str]) -> None:
    """252 thaws what is being frozen, and says so to who had asked for that; 247 refuses (bus_unit_method_freezer_generic)."""
    world = world_with_scope(profile)
    world.send("FreezeUnit", "s", "a.scope")
    assert said(world.send("ThawUnit", "s", "a.scope")) == words
    world.settle()
    assert state(world, "a.scope") == ("frozen" if profile == "247" else "running")


@pytest.mark.parametrize(("profile", "slice_"), [("247", "frozen"), ("252", "running")])
def test_a_slice_and_its_members(profile: str, slice_: str) -> None:
    """A slice freezes its members with it; later than 247 a member that is thawed thaws its slices (unit_cgroup_freezer_action)."""
    world = world_with_scope(profile)
    freeze(world, "x.slice")
    assert (state(world, "x.slice"), state(world, "a.scope")) == ("frozen", "frozen")
    thaw(world, "a.scope")
    assert (state(world, "x.slice"), state(world, "a.scope")) == (slice_, slice_)


@pytest.mark.parametrize(("profile", "words"), [("247", []), ("252", ["reply"])])
def test_a_slice_that_is_frozen_already(profile: str, words: list[str]) -> None:
    """247 never answers: it waits for the kernel to tell of a slice whatever is to be done (slice_freezer_action)."""
    world = world_with_scope(profile)
    freeze(world, "x.slice")
    assert said(freeze(world, "x.slice")) == words


def test_thawing_below_a_frozen_slice_is_never_answered() -> None:
    """247: the kernel does not tell of a scope that was never frozen itself (Linux, cgroup_freeze)."""
    world = world_with_scope("247")
    freeze(world, "x.slice")
    world.start("b.scope", PIDs=[101], Slice="x.slice")
    world.settle()
    assert thaw(world, "b.scope") == []


@pytest.mark.parametrize("profile", ["247", "252"])
def test_who_is_stopped_is_thawed_first(profile: str) -> None:
    """Who is frozen does not hear a SIGTERM (unit_stop)."""
    world = world_with_scope(profile)
    freeze(world, "a.scope")
    world.stop("a.scope")
    world.manager.turn()
    assert world.tree.read("unified", "/x.slice/a.scope", "cgroup.freeze") == "0"


def test_a_slice_with_a_member_that_is_down() -> None:
    """247 does not freeze a slice when one that is loaded in it has no cgroup: it calls that busy (unit_cgroup_freezer_action)."""
    world = world_with_scope("247")
    world.do("RefUnit", "s", "a.scope")
    world.stop("a.scope")
    world.settle()
    assert error(freeze(world, "x.slice")) == ("S:UnitBusy", "Unit has a pending job.")


@pytest.mark.parametrize("profile", ["247", "252", "257"])
def test_who_dies_while_it_freezes_is_answered(profile: str) -> None:
    """That a cgroup is frozen stands beside that it is empty, and both are read before the unit goes (unit_check_cgroup_events)."""
    world = world_with_scope(profile)
    world.send("FreezeUnit", "s", "a.scope")
    world.tree.exit(100)
    assert said(world.settle()) == ["reply"]
    assert world.manager.unit("a.scope") is None
