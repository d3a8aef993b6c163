"""Which cgroups the fake systemd makes, and which processes it moves in which hierarchy, where versions agree with a real one."""

from __future__ import annotations

import pytest
from fake_world import World, properties, said, v2_hierarchy

RECENT = ["247", "252", "257"]


@pytest.mark.parametrize("profile", RECENT)
def test_cpuacct_apart_is_used_where_somebody_made_it(profile: str) -> None:
    """cpuacct mounted apart gets no cgroup, but a scope's processes go into one that is there (cgroup-setup.c,
    cg_create_everywhere; cgroup.c, unit_attach_pids_to_cgroup)."""
    world = World(profile)
    world.tree.mkdir("cpuacct", "/system.slice/a.scope")
    for name, pid in (("a.scope", 100), ("b.scope", 101)):
        world.start(name, PIDs=[pid], CPUShares=512)
        world.settle()
    assert world.tree.locate("cpuacct", 100) == "/system.slice/a.scope"
    assert world.tree.locate("cpuacct", 101) == ""
    assert not world.tree.exists("cpuacct", "/system.slice/b.scope")


@pytest.mark.parametrize("profile", RECENT)
def test_delegating_cpu_delegates_cpuacct(profile: str) -> None:
    """cpu and cpuacct are delegated together (cgroup.c, unit_get_delegate_mask: CGROUP_MASK_EXTEND_JOINED)."""
    world = World(profile)
    world.start("a.scope", PIDs=[100], DelegateControllers=["cpu"])
    world.settle()
    for hierarchy in ("systemd", "cpu", "cpuacct", "memory"):
        world.tree.mkdir(hierarchy, "/system.slice/a.scope/sub")
    world.do("AttachProcessesToUnit", "ssau", "a.scope", "/sub", [101])
    places = {name: world.tree.locate(name, 101) for name in ("systemd", "cpu", "cpuacct", "memory")}
    below = "/system.slice/a.scope/sub"
    assert places == {"systemd": below, "cpu": below, "cpuacct": below, "memory": "/system.slice/a.scope"}


@pytest.mark.parametrize(("profile", "place"), [("247", ""), ("252", "/elsewhere"), ("257", "/elsewhere")])
def test_a_change_of_needs_moves_in_cpuacct_until_247(profile: str, place: str) -> None:
    """Where cpuacct is mounted apart, 247 moves a unit's processes in it along with those in cpu; later ones take the two for done
    (cgroup-setup.c, cg_migrate_v1_controllers)."""
    world = World(profile)
    world.start("a.scope", PIDs=[100])
    world.settle()
    world.tree.mkdir("cpuacct", "/elsewhere")
    world.tree.attach("cpuacct", "/elsewhere", 100)
    world.do("SetUnitProperties", "sba(sv)", "a.scope", True, properties(CPUShares=512))
    assert world.tree.locate("cpu", 100) == "/system.slice/a.scope"
    assert world.tree.locate("cpuacct", 100) == place


@pytest.mark.parametrize(("profile", "stays"), [("247", True), ("252", True), ("257", False), ("262", True)])
def test_a_unit_that_is_freed_leaves_its_cgroup(profile: str, stays: bool) -> None:
    """A scope that was down and got a cgroup again by SetUnitProperties is forgotten before anybody looks whether that is empty
    (unit.c, unit_free; cgroup.c, unit_add_to_cgroup_empty_queue); from 258 on nobody does (dbus-unit.c, bus_unit_track_handler)."""
    world = World(profile, v2_hierarchy())
    world.start("a.scope", PIDs=[100], AddRef=True)
    world.settle()
    world.do("StopUnit", "ss", "a.scope", "replace")
    world.do("SetUnitProperties", "sba(sv)", "a.scope", True, properties(TasksMax=50))
    world.do("UnrefUnit", "s", "a.scope")
    assert world.manager.unit("a.scope") is None
    assert world.tree.exists("unified", "/system.slice/a.scope") is stays


@pytest.mark.parametrize("profile", RECENT)
def test_a_slice_that_came_back_stays_when_it_runs_empty(profile: str) -> None:
    """A slice that went down with a process in it and was started again is up: the end of that process does not stop it (slice.c
    has no notify_cgroup_empty)."""
    world = World(profile, v2_hierarchy())
    world.start("a.scope", PIDs=[100], Slice="x.slice")
    world.settle()
    world.stop("x.slice", "ignore-dependencies")
    world.settle()
    world.do("StartUnit", "ss", "x.slice", "replace")
    world.tree.exit(100)
    world.settle()
    assert world.get("x.slice", "Unit", "ActiveState") == "active"
    assert world.tree.exists("unified", "/x.slice")


def after_101_ended(profile: str, pids: list[int]) -> World:
    """a.scope may start with these processes, of which 101 ended while it waited."""
    world = World(profile, v2_hierarchy())
    world.manager.stay_queued("gate.scope")
    world.start("gate.scope", PIDs=[100])
    world.start("a.scope", PIDs=pids, After=["gate.scope"])
    world.settle()
    world.tree.exit(101)
    world.manager.process_ended(101)
    world.manager.let_go("gate.scope")
    return world


@pytest.mark.parametrize(("profile", "result", "state"), [("247", "done", "active"), ("252", "failed", "failed")])
def test_a_scope_whose_processes_ended_while_it_waited(profile: str, result: str, state: str) -> None:
    """PID 1 forgets children that ended, also those that a scope is to start with; 247 starts one with nobody, and no event ends it
    (unit.c, unit_unwatch_pid; scope.c, scope_start)."""
    world = after_101_ended(profile, [101])
    assert f"JobRemoved a.scope {result}" in said(world.settle())
    assert world.get("a.scope", "Unit", "ActiveState") == state


@pytest.mark.parametrize("profile", ["247", "252"])
def test_one_of_two_processes_ended_while_the_scope_waited(profile: str) -> None:
    """It starts with the other one (unit.c, unit_unwatch_pid)."""
    world = after_101_ended(profile, [101, 102])
    world.settle()
    assert world.tree.locate("unified", 102) == "/system.slice/a.scope"


@pytest.mark.parametrize("profile", ["257", "262"])
def test_a_slice_that_is_down_goes_with_its_last_process(profile: str) -> None:
    """A scope started beside its slice: when its process ends the slice's cgroup is looked at first, before the two are forgotten
    (cgroup.c, unit_add_to_cgroup_empty_queue)."""
    world = World(profile, v2_hierarchy())
    world.start("a.scope", "ignore-dependencies", PIDs=[100], Slice="x.slice")
    world.settle()
    world.tree.exit(100)
    world.settle()
    assert world.manager.unit("x.slice") is None
    assert not world.tree.exists("unified", "/x.slice")


def test_a_slice_that_is_down_goes_when_its_process_is_taken_away() -> None:
    """A scope started beside its slice, whose only process a second scope takes at once: the first one's slice ran empty (cgroup.c,
    unit_check_cgroup_events)."""
    world = World("262", v2_hierarchy())
    world.start("a.scope", "ignore-dependencies", PIDs=[100], Slice="x.slice")
    world.start("b.scope", PIDs=[100], Slice="y.slice")
    world.settle()
    assert not world.tree.exists("unified", "/x.slice")


def test_a_slice_with_a_process_of_somebody_is_kept() -> None:
    """A slice that never was up and whose cgroup somebody put a process into stays until that ends, and goes with its cgroup
    (unit.c, unit_may_gc)."""
    world = World("262", v2_hierarchy())
    world.start("a.scope", "ignore-dependencies", PIDs=[100], Slice="x.slice")
    world.settle()
    world.tree.attach("unified", "/x.slice", 100)
    world.settle()
    assert world.manager.unit("x.slice") is not None
    world.tree.exit(100)
    world.settle()
    assert world.manager.unit("x.slice") is None
    assert not world.tree.exists("unified", "/x.slice")


@pytest.mark.parametrize("profile", ["257", "262"])
def test_a_cgroup_made_anew_for_a_unit_that_is_down_stays(profile: str) -> None:
    """SetUnitProperties makes the cgroups of a scope and its slice again, which went down with a process of theirs: no event tells
    that the new ones are empty (cgroup.c, unit_check_cgroup_events)."""
    world = World(profile, v2_hierarchy())
    world.start("a.scope", PIDs=[100], Slice="x.slice")
    world.settle()
    world.do("RefUnit", "s", "a.scope")
    world.stop("x.slice")
    world.tree.exit(100)
    world.settle()
    world.do("SetUnitProperties", "sba(sv)", "a.scope", True, properties(TasksAccounting=False))
    world.settle()
    assert world.tree.exists("unified", "/x.slice/a.scope")


@pytest.mark.parametrize("profile", ["247", "252", "257", "262"])
def test_cpu_accounting_needs_no_controller_on_v2(profile: str) -> None:
    """It makes nothing anew that somebody removed (cgroup.c, get_cpu_accounting_mask and unit_invalidate_cgroup)."""
    world = World(profile, v2_hierarchy())
    world.do("StartUnit", "ss", "x.slice", "replace")
    world.tree.rmdir("unified", "/x.slice")
    world.do("SetUnitProperties", "sba(sv)", "x.slice", True, properties(CPUAccounting=True))
    assert not world.tree.exists("unified", "/x.slice")
    world.do("SetUnitProperties", "sba(sv)", "x.slice", True, properties(TasksMax=50))
    assert world.tree.exists("unified", "/x.slice")
