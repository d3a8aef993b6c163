"""Jobs, signals and lifetimes of the fake systemd: what comes in which order, and what ends how."""

from __future__ import annotations

import pytest
from fake_world import ACCOUNTING, ME, World, error, properties, said, v2_hierarchy

from cgrace.harness import events as ev
from cgrace.harness.dbus.message import MessageType, Variant

OLD = ("219", "219-rhel7.4", "219-rhel7")
NEW = ("247", "257")
X = "cgrace-a.scope"


def results(world: World) -> list[str]:
    """How jobs ended, in order."""
    return [each.result for each in world.events if isinstance(each, ev.JobChanged) and each.state == "ended"]


@pytest.mark.parametrize("profile", OLD + NEW)
def test_order_of_reply_and_signals(profile: str) -> None:
    """JobNew comes after the reply before 240 and before it since; only the caller's own job is announced."""
    world = World(profile)
    call = said(world.start(X, PIDs=[100], Slice="cgrace.slice"))
    late = said(world.settle())
    assert call == (["reply"] if profile in OLD else [f"JobNew {X}", "reply"])
    assert late == ([f"JobNew {X}"] if profile in OLD else []) + [f"JobRemoved {X} done"]


@pytest.mark.parametrize("profile", NEW)
def test_subscriber_hears_everything(profile: str) -> None:
    """With a subscriber the slice's job and all unit changes are broadcast too, each unit's before its job ends."""
    world = World(profile)
    world.send("Subscribe", "", sender=":1.9")
    call = said(world.start(X, PIDs=[100], Slice="cgrace.slice"))
    late = [word for word in said(world.settle()) if not word.startswith("PropertiesChanged")]
    assert call == [f"UnitNew {X}", f"JobNew {X}", "reply"]
    assert late == [
        "UnitNew cgrace.slice",
        "JobNew cgrace.slice",
        "JobRemoved cgrace.slice done",
        f"JobRemoved {X} done",
    ]


def test_order_of_property_changes() -> None:
    """From 240 on a unit's change is announced before its JobRemoved, and the job is cleared after it."""
    world = World("257")
    world.send("Subscribe", "")
    world.start("cgrace.slice")
    words = []
    for each in world.settle():
        if each.member == "PropertiesChanged" and "ActiveState" in each.body[1]:
            words.append((each.body[1]["ActiveState"].value, each.body[1]["Job"].value[0]))
        elif each.type is MessageType.SIGNAL and each.member == "JobRemoved":
            words.append(("removed", each.body[0]))
    assert words[-3:] == [("active", 1), ("removed", 1), ("active", 0)]


@pytest.mark.parametrize(("profile", "step"), [("247", 4), ("257", 6)])
def test_job_ids_are_not_consecutive(profile: str, step: int) -> None:
    """A scope with default dependencies uses up as many ids as were seen on a real one."""
    world = World(profile)
    ids = [int(world.start(f"cgrace-{n}.scope", PIDs=[100 + n])[-1].body[0].rpartition("/")[2]) for n in range(2)]
    assert ids[1] - ids[0] == step


def test_job_removed_stays_away_without_turns() -> None:
    """However often the manager is called, a job does not run before a turn."""
    world = World("257")
    world.start(X, PIDs=[100])
    for _ in range(3):
        assert "JobRemoved" not in " ".join(said(world.send("ListJobs", "")))
    assert said(world.settle())[-1] == f"JobRemoved {X} done"


def test_job_path_is_gone_after_the_end() -> None:
    """Reading a job that ended is UnknownObject."""
    world = World("257")
    path = world.start(X, PIDs=[100])[-1].body[0]
    world.settle()
    fields = {"path": path, "interface": "org.freedesktop.DBus.Properties"}
    assert error(world.send("GetAll", "s", "org.freedesktop.systemd1.Job", **fields))[0] == "D:UnknownObject"


@pytest.mark.parametrize("profile", OLD + NEW)
def test_gone_process_fails_the_job(profile: str) -> None:
    """A process that dies before the job runs: failed; the unit is dead on 219 and failed, to be reset, later."""
    world = World(profile)
    world.start(X, PIDs=[100], Description="d")
    world.tree.exit(100)
    world.settle()
    assert results(world)[-1] == "failed"
    again = error(world.start(X, PIDs=[101]))[0]
    assert again == ("" if profile in OLD else "S:UnitExists")
    if profile in NEW:
        assert world.get(X, "Unit", "ActiveState") == "failed"
        assert error(world.send("ResetFailedUnit", "s", X)) == ("", "")
        assert error(world.start(X, PIDs=[101])) == ("", "")


@pytest.mark.parametrize(("profile", "result"), [("247", "failed"), ("257", "done")])
def test_one_of_two_processes_gone(profile: str, result: str) -> None:
    """One missing process fails the job up to 249, none left does since."""
    world = World(profile)
    world.start(X, PIDs=[100, 101])
    world.tree.exit(100)
    world.settle()
    assert results(world)[-1] == result


def test_gate_holds_what_depends_on_it() -> None:
    """A slice whose job is held keeps the scope in it queued, and a stop of it cancels the start."""
    world = World("257")
    world.manager.stay_queued("cgrace.slice")
    world.start(X, PIDs=[100], Slice="cgrace.slice")
    assert world.settle() == []
    assert world.manager.queued_jobs() == (f"start of {X}", "start of cgrace.slice")
    assert world.manager.held_jobs() == ("cgrace.slice",)
    states = [each.state for each in world.events if isinstance(each, ev.JobChanged)]
    assert states == ["queued", "queued", "blocked"]
    world.manager.let_go("cgrace.slice")
    assert said(world.settle()) == [f"JobRemoved {X} done"]


def test_gate_counts_from_now() -> None:
    """stay_queued of the second start job lets the first one run."""
    world = World("257")
    world.manager.stay_queued("cgrace.slice", nth=2)
    for expected in ((), ("start of cgrace.slice",)):
        world.start("cgrace.slice")
        world.settle()
        assert world.manager.queued_jobs() == expected
        if not expected:
            world.stop("cgrace.slice")
            world.settle()


def test_gate_holds_a_stop() -> None:
    """A held stop job takes further stops into itself, and a new start finds the unit there."""
    world = World("257")
    world.start("cgrace.slice")
    world.settle()
    world.manager.stay_queued("cgrace.slice", kind="stop")
    world.stop("cgrace.slice")
    world.stop("cgrace.slice")
    assert world.settle() == []
    assert world.manager.queued_jobs() == ("stop of cgrace.slice",)
    assert "UnitExists" in str(world.start("cgrace.slice")[-1])
    assert not world.manager.let_go("cgrace.slice")
    assert world.manager.let_go("cgrace.slice", "stop")
    assert said(world.settle()) == ["JobRemoved cgrace.slice done"]


def test_a_slice_has_no_failed_state() -> None:
    """A slice whose start job failed is inactive (slice.c knows dead and active alone)."""
    world = World("257")
    world.manager.end_job("cgrace.slice", "failed")
    world.start("cgrace.slice")
    world.settle()
    unit = world.manager.unit("cgrace.slice")
    assert unit is None or unit.active_state == "inactive"


@pytest.mark.parametrize("result", ["failed", "canceled", "timeout", "dependency", "skipped"])
def test_forced_result(result: str) -> None:
    """end_job ends the job so, and no cgroup is made."""
    world = World("257")
    world.manager.end_job(X, result)
    world.start(X, PIDs=[100])
    assert said(world.settle())[-1] == f"JobRemoved {X} {result}"
    assert world.where(f"/system.slice/{X}") == set()


def test_stop_replaces_a_queued_start() -> None:
    """The start is canceled before the stop is announced, the stop is done, the processes were never moved."""
    world = World("257")
    world.manager.stay_queued(X)
    world.start(X, PIDs=[100])
    assert said(world.stop(X)) == [f"JobRemoved {X} canceled", f"JobNew {X}", "reply"]
    assert said(world.settle()) == [f"JobRemoved {X} done"]
    assert world.tree.locate("systemd", 100) == ""
    assert world.manager.unit(X) is None


def test_stop_with_fail_is_destructive() -> None:
    """StopUnit(fail) over a queued start is refused."""
    world = World("257")
    world.start(X, PIDs=[100])
    name, text = error(world.stop(X, "fail"))
    assert name == "S:TransactionIsDestructive"
    assert text.startswith(f"Transaction for {X}/stop is destructive ({X} has 'start' job queued")


def test_stop_of_a_slice_stops_what_is_in_it() -> None:
    """All in the slice is stopped first, the slice's JobRemoved is the last."""
    world = World("257")
    world.start(X, PIDs=[100], Slice="cgrace.slice")
    world.settle()
    world.stop("cgrace.slice")
    world.settle()
    ended = [each.unit for each in world.events if isinstance(each, ev.JobChanged) and each.state == "ended"]
    assert ended[-2:] == [X, "cgrace.slice"]
    assert world.manager.transient_units() == ()
    assert world.where("/cgrace.slice") == set()


@pytest.mark.parametrize(
    ("profile", "delegate", "waits"),
    [
        ("219", False, False),
        ("219-rhel7", True, True),
        ("247", True, True),
        ("257", False, True),
        ("257", True, False),
    ],
)
def test_stop_on_v1(profile: str, delegate: bool, waits: bool) -> None:
    """Whether the stop job of a scope on v1 waits until its processes are gone."""
    world = World(profile, kills_work=False)
    world.start(X, PIDs=[100], Delegate=delegate)
    world.settle()
    world.stop(X)
    world.settle()
    assert world.manager.queued_jobs() == ((f"stop of {X}",) if waits else ())
    assert ((100, 9) in world.killed) is not waits
    if waits:
        assert world.manager.watching()
        path = world.stop(X)[-1].body[0]
        assert path.endswith(str(next(iter(world.manager.job_ids())))), "a second stop is the same job"
        world.tree.exit(100)
        assert said(world.manager.poll_empty())[-1] == f"JobRemoved {X} done"


def test_stop_that_times_out_is_done_and_failed() -> None:
    """After 90 s SIGKILL, after 90 more given up: the job is done, the unit failed, its result timeout."""
    world = World("247", kills_work=False)
    world.start(X, PIDs=[100])
    world.settle()
    world.stop(X)
    world.settle()
    assert world.manager.next_deadline_ns() == 90_000_000_000
    assert world.manager.elapsed(89_999_999_999) == []
    world.manager.elapsed(1)
    assert world.killed[-1] == (100, 9)
    assert said(world.manager.elapsed(90_000_000_000))[-1] == f"JobRemoved {X} done"
    assert world.get(X, "Unit", "ActiveState") == "failed"
    assert world.get(X, "Scope", "Result") == "timeout"


@pytest.mark.parametrize(("agent", "v2", "gone"), [(False, False, False), (True, False, True), (False, True, True)])
def test_end_of_the_last_process(agent: bool, v2: bool, gone: bool) -> None:
    """A scope ends by itself on v2, and on v1 only where a release agent works."""
    world = World("257", agent=agent)
    if v2:
        world = World("257", hierarchies=v2_hierarchy())
    world.start(X, PIDs=[100])
    world.settle()
    assert world.manager.watching() is gone
    world.tree.exit(100)
    world.settle()
    assert (world.manager.unit(X) is None) is gone


def test_empty_slice_stays() -> None:
    """A slice that nobody stops stays active, also when it came up implicitly."""
    world = World("257")
    world.start("cgrace-a.slice", **ACCOUNTING)
    world.settle()
    world.stop("cgrace-a.slice")
    world.settle()
    assert world.get("cgrace.slice", "Unit", "ActiveState") == "active"


def test_reference_keeps_a_unit() -> None:
    """A held reference keeps a stopped scope, so the name is taken until its holder leaves the bus."""
    world = World("257")
    world.start(X, PIDs=[100], AddRef=True)
    world.settle()
    world.stop(X)
    world.settle()
    assert error(world.start(X, PIDs=[101]))[0] == "S:UnitExists"
    world.manager.peer_gone(ME)
    world.settle()
    assert error(world.start(X, PIDs=[101])) == ("", "")


def test_client_that_left_hears_nothing() -> None:
    """When the only client of a job is gone, its end is not broadcast; the job goes on."""
    world = World("257")
    world.start(X, PIDs=[100])
    world.manager.peer_gone(ME)
    assert world.settle() == []
    assert world.get(X, "Unit", "ActiveState") == "active"


def test_reading_an_unknown_unit_loads_it_for_a_moment() -> None:
    """A unit that never was reads as inactive and not-found, and is gone again."""
    world = World("257")
    assert world.get("no.scope", "Unit", "ActiveState") == "inactive"
    assert world.get("no.scope", "Unit", "LoadState") == "not-found"
    world.settle()
    assert world.manager.unit("no.scope") is None


def test_properties_are_on_their_interface() -> None:
    """ControlGroup is the type's, not Unit's; a setting reads back; Set is refused."""
    world = World("257")
    world.start(X, PIDs=[100], MemoryLimit=4096, Slice="cgrace.slice")
    assert world.get(X, "Scope", "ControlGroup") == ""
    world.settle()
    assert world.get(X, "Scope", "ControlGroup") == f"/cgrace.slice/{X}"
    assert world.get(X, "Unit", "ControlGroup") == "org.freedesktop.DBus.Error.UnknownProperty"
    assert world.get(X, "Scope", "MemoryLimit") == 4096
    assert world.get(X, "Scope", "DevicePolicy") == "auto"
    assert world.get(X, "Unit", "CanStart") is False


def test_probes_of_old_drivers() -> None:
    """What rc4 to rc6 ask before their first Apply: each is refused as on a real one, the default slice is made."""
    world = World("219-rhel7")
    assert error(world.start("test.scope", "nonsense"))[0] == "D:InvalidArgs"
    scope = "libcontainer-1-systemd-test-default-dependencies.scope"
    assert error(world.start(scope, DefaultDependencies=False)) == ("D:InvalidArgs", "Invalid argument")
    assert error(world.stop(scope))[0] == "S:NoSuchUnit"
    assert error(world.start("libcontainer_1_systemd_test_default.slice", Delegate=True)) == ("", "")
    world.settle()
    world.stop("libcontainer_1_systemd_test_default.slice")
    world.settle()
    assert world.manager.transient_units() == ()


def test_reload_keeps_jobs_and_subscriptions() -> None:
    """Over a reload every unit goes and comes, jobs keep their path, and the reply comes last."""
    world = World("257")
    world.send("Subscribe", "")
    world.manager.stay_queued(X)
    path = world.start(X, PIDs=[100])[-1].body[0]
    world.settle()
    words = said(world.send("Reload", ""))
    assert (words[0], words[-2], words[-1]) == ("Reloading True", "Reloading False", "reply")
    world.manager.let_go(X)
    removed = [each.body[1] for each in world.settle() if each.member == "JobRemoved"]
    assert path in removed


def test_reexec_is_never_answered() -> None:
    """Reexecute has no reply."""
    assert World("257").send("Reexecute", "") == []


@pytest.mark.parametrize(("profile", "after"), [("247", "100"), ("257", "12")])
def test_reload_and_hand_written_limits(profile: str, after: str) -> None:
    """A limit set behind systemd's back: put back by a reload on 247, not on 257; always by SetUnitProperties."""
    world = World(profile)
    world.start(X, PIDs=[100], TasksMax=100, DefaultDependencies=False)
    world.settle()
    where = ("pids", f"/system.slice/{X}", "pids.max")
    world.tree.write(*where, "12")
    world.do("Reload", "")
    assert world.tree.read(*where) == after
    world.tree.write(*where, "12")
    from fake_world import properties

    world.send("SetUnitProperties", "sba(sv)", X, True, properties(MemoryLimit=8192))
    assert world.tree.read(*where) == "100", "before the reply, all attributes are written"


def test_subtree_control_on_v2() -> None:
    """A slice enables what its units need, and takes it back when the last one ends; a scope's own is left alone."""
    world = World("257", hierarchies=v2_hierarchy())

    def enabled(path: str) -> str:
        return str(world.tree.read("unified", path, "cgroup.subtree_control"))

    world.start(X, PIDs=[100], Slice="cgrace.slice", Delegate=True)
    world.settle()
    assert enabled("/cgrace.slice") == "cpu cpuset io memory pids"
    assert enabled(f"/cgrace.slice/{X}") == ""
    world.stop(X)
    world.settle()
    assert world.manager.unit(X) is None
    assert enabled("/cgrace.slice") == ""
    assert enabled("") == "memory pids"


def test_a_description_that_stays_is_no_change() -> None:
    """SetUnitProperties with the description that is there announces nothing (unit.c, unit_set_description)."""
    world = World("257")
    world.send("Subscribe", "")
    world.start(X, PIDs=[100], Description="a")
    world.settle()
    assert said(world.do("SetUnitProperties", "sba(sv)", X, True, properties(Description="a"))) == ["reply"]
    assert len(said(world.do("SetUnitProperties", "sba(sv)", X, True, properties(Description="b")))) > 1


def test_scopes_end_one_after_the_other_on_v2() -> None:
    """What follows from one cgroup that ran empty is done before the next is looked at, the last one first (cgroup.c,
    on_cgroup_empty_event)."""
    world = World("262", hierarchies=v2_hierarchy())
    world.send("Subscribe", "")
    for unit, pid in (("a.scope", 100), ("b.scope", 101)):
        world.start(unit, PIDs=[pid], Slice="x.slice")
        world.settle()
    world.stop("x.slice")
    words = [word for word in said(world.settle()) if word.startswith(("JobRemoved", "UnitRemoved"))]
    assert words[:4] == [
        "JobRemoved b.scope done",
        "UnitRemoved b.scope",
        "JobRemoved a.scope done",
        "UnitRemoved a.scope",
    ]


def test_a_busy_scope_that_goes_with_another() -> None:
    """Two scopes that are down with processes in them, let go of at once: each is looked at once, though the first takes the other
    along (manager.c, manager_dispatch_gc_unit_queue)."""
    world = World("262", hierarchies=v2_hierarchy())
    for unit, pid in (("a.scope", 100), ("b.scope", 101)):
        world.start(unit, PIDs=[pid], KillMode=Variant(signature="s", value="none"))
        world.settle()
        world.stop(unit)
        world.settle()
    world.tree.exit(100)
    world.tree.exit(101)
    world.settle()
    assert world.manager.unit("a.scope") is None and world.manager.unit("b.scope") is None
