"""Transactions, loading and collection of the fake systemd: what a request does to other units than its own."""

from __future__ import annotations

import pytest
from fake_world import ME, World, error, said, v2_hierarchy

from cgrace.harness.dbus.message import Variant

NEW = ("247", "252", "257")
A, B = "cgrace-a.scope", "cgrace-b.scope"
X, Y, Z = "cgrace-x.slice", "cgrace-x-y.slice", "cgrace-z.slice"


def new_jobs(words: list[str]) -> set[str]:
    """The units for which a job was announced."""
    return {word.removeprefix("JobNew ") for word in words if word.startswith("JobNew")}


@pytest.mark.parametrize("profile", NEW)
def test_what_only_an_active_slice_needs_is_not_started(profile: str) -> None:
    """A slice that is up although the one above is not takes nothing along (transaction_collect_garbage)."""
    world = World(profile)
    world.send("Subscribe", "")
    world.do("StartUnit", "ss", X, "ignore-dependencies")
    words = said(world.start(A, PIDs=[100], Slice=X) + world.settle())
    assert new_jobs(words) == {A}


@pytest.mark.parametrize("profile", NEW)
def test_an_order_in_a_circle_is_refused(profile: str) -> None:
    """A scope that its own slice is ordered after cannot be started with it (transaction_verify_order)."""
    world = World(profile)
    world.do("RefUnit", "s", X)
    world.start(X, "isolate", After=[A])  # refused for its mode, but loaded
    assert error(world.start(A, PIDs=[100], Slice=X))[0].endswith("TransactionOrderIsCyclic")


@pytest.mark.parametrize(("profile", "stays"), [("247", True), ("257", False)])
def test_a_wanted_unit_whose_own_needs_fail(profile: str, stays: bool) -> None:
    """What is only wanted, and requires what is not there, is started all the same up to 252."""
    world = World(profile)
    world.do("RefUnit", "s", Z)
    world.start(Z, "isolate", Requires=["cgrace-none.scope"])
    world.send("Subscribe", "")
    words = said(world.start(A, PIDs=[100], Wants=[Z]) + world.settle())
    assert (Z in new_jobs(words)) is stays


@pytest.mark.parametrize("profile", NEW)
def test_a_unit_that_was_half_made_has_no_job(profile: str) -> None:
    """A slice that is up, and whose making anew was refused, cannot be stopped before a reload (UNIT_STUB)."""
    world = World(profile)
    world.do("StartUnit", "ss", X, "replace")
    world.start(X, Nonsense=True)
    assert error(world.stop(X))[0].endswith("LoadFailed")
    world.do("Reload", "")
    assert said(world.stop(X) + world.settle())[-1] == f"JobRemoved {X} done"


def test_the_slice_above_is_loaded_last() -> None:
    """Slices are loaded one after the other, the inner one first, and announced last one first (manager_dispatch_load_queue)."""
    world = World("252")
    world.do("StartUnit", "ss", "cgrace.slice", "replace")
    world.send("Subscribe", "")
    words = [word for word in said(world.do("LoadUnit", "s", Y)) if "UnitRemoved" not in word and "Changed" not in word]
    assert words == ["reply", f"UnitNew {X}", f"UnitNew {Y}"]


@pytest.mark.parametrize("profile", NEW)
def test_a_ring_of_units_goes(profile: str) -> None:
    """Two units that name each other and that nobody needs are collected (unit_gc_sweep)."""
    world = World(profile)
    world.start(X, "isolate", Wants=[Z], AddRef=True)
    world.start(Z, "isolate", Wants=[X], AddRef=True)
    world.settle()
    assert {X, Z} <= set(world.manager.loaded_units())
    world.do("UnrefUnit", "s", X)
    assert {X, Z} <= set(world.manager.loaded_units())
    world.do("UnrefUnit", "s", Z)
    assert not {X, Z} & set(world.manager.loaded_units())


@pytest.mark.parametrize("profile", NEW)
def test_one_process_for_two_scopes(profile: str) -> None:
    """The second scope takes the process, and the first one is at its end (on_rewatch_pids_event)."""
    world = World(profile)
    world.start(A, PIDs=[100])
    world.start(B, PIDs=[100])
    world.settle()
    assert world.manager.transient_units() == (B,)
    assert world.get(B, "Unit", "ActiveState") == "active"


@pytest.mark.parametrize("profile", NEW)
def test_a_busy_scope_keeps_its_other_cgroups(profile: str) -> None:
    """When name=systemd cannot be removed, nothing else is (cg_trim_everywhere)."""
    world = World(profile, kills_work=False)
    world.start(A, PIDs=[100], Delegate=True, KillMode=Variant(signature="s", value="none"))
    world.settle()
    before = world.where(f"/system.slice/{A}")
    world.do("StopUnit", "ss", A, "replace")
    assert world.where(f"/system.slice/{A}") == before != set()


def test_who_watches_a_process_is_its_unit() -> None:
    """A process that a queued scope is to start with belongs to that already (manager_get_unit_by_pid)."""
    world = World("252")
    world.start(A, PIDs=[100])
    assert said(world.send("GetUnitByPID", "u", 100, sender=ME)) == ["reply"]


@pytest.mark.parametrize("profile", NEW)
def test_a_job_that_waits_is_looked_at_again_only_when_something_says_so(profile: str) -> None:
    """A slice's stop stays queued when the stop before it no longer counts in the order: nothing puts it into the run queue before
    a reload (job_install, job_coldplug)."""
    world = World(profile, hierarchies=v2_hierarchy(), kills_work=False)
    world.start(A, PIDs=[100], Slice=X)
    world.settle()
    world.send("Subscribe", "")
    world.stop(X)
    world.settle()
    assert [word.split()[0] for word in said(world.stop(A, "ignore-dependencies") + world.settle())] == ["reply"]
    assert f"JobRemoved {X} done" in said(world.do("Reload", ""))
