"""What the parser makes of good files: every fault, the defaults of steps, units and their cgroups."""

from __future__ import annotations

from pathlib import Path

import pytest

from cgrace.harness import faults as f
from cgrace.harness.events import Direction, Grade
from cgrace.harness.points import parse_point
from cgrace.harness.scenario.model import Scenario, Setting
from cgrace.harness.scenario.parse import load_text
from cgrace.harness.scenario.units import cgroup_of, parent_of, unit_problem
from cgrace.harness.verdict import Invariant

HEAD = 'title = "t"\non = { profile = "219-rhel7" }\n'
STEPS = """steps = [
  { id = "first", do = "apply", unit = "cgrace-a.slice" },
  { id = "second", do = "apply", unit = "cgrace-b.scope", parent = "cgrace.slice", pid = "pod" },
]
"""
LATE = f.Match(text="JobRemoved of cgrace-a.slice", kind="signal", member="JobRemoved", unit="cgrace-a.slice")
CALL = f.Match(text="StopUnit", kind="call", member="StopUnit")
ENDED = parse_point("first ended")
A, B = "/cgrace.slice/cgrace-a.slice", "/cgrace.slice/cgrace-b.scope"


def parsed(text: str) -> Scenario:
    """The scenario of a text, as if it stood in story/my.toml."""
    return load_text(text, Path("/story/my.toml"))


FAULTS: list[tuple[str, f.Fault]] = [
    (
        'hold = "JobRemoved of cgrace-a.slice", until = "first ended"',
        f.Hold(id="fault 1", line=8, match=LATE, until=ENDED, patience_ns=500_000_000),
    ),
    (
        'id = "x", hold = "reply to StopUnit", until = "first ended", patience = "none", nth = "every", overtake = true',
        f.Hold(
            id="x",
            line=8,
            match=f.Match(text="reply to StopUnit", kind="answer", member="StopUnit", nth=None),
            until=ENDED,
            patience_ns=None,
            overtake=True,
        ),
    ),
    ('drop = "JobRemoved of cgrace-a.slice"', f.Drop(id="fault 1", line=8, match=LATE)),
    ('duplicate = "StopUnit"', f.Duplicate(id="fault 1", line=8, match=CALL)),
    (
        'reorder = "StopUnit", nth = 2, phase = "probe"',
        f.Reorder(
            id="fault 1", line=8, match=f.Match(text="StopUnit", kind="call", member="StopUnit", nth=2, probe=True)
        ),
    ),
    (
        'answer = "StopUnit", error = "org.a.B", text = "no"',
        f.AnswerError(id="fault 1", line=8, match=CALL, name="org.a.B", text="no"),
    ),
    (
        'amend = "StopUnit", set = { 1 = "fail", 0 = true }',
        f.Amend(id="fault 1", line=8, match=CALL, values=((0, True), (1, "fail"))),
    ),
    (
        'forge = "JobRemoved of cgrace-a.slice", when = "first ended"',
        f.Forge(
            id="fault 1",
            line=8,
            when=ENDED,
            member="JobRemoved",
            unit="cgrace-a.slice",
            job="job of cgrace-a.slice",
        ),
    ),
    (
        'forge = "JobRemoved of cgrace-a.slice", when = "first ended", job = "/x", result = "failed"',
        f.Forge(
            id="fault 1",
            line=8,
            when=ENDED,
            member="JobRemoved",
            unit="cgrace-a.slice",
            job="/x",
            result="failed",
        ),
    ),
    ('disconnect = "calls", when = "first ended"', f.Disconnect(id="fault 1", line=8, when=ENDED, which="calls")),
    (
        'stop_reading = true, when = "first ended", until = "second called"',
        f.StopReading(id="fault 1", line=8, when=ENDED, until=parse_point("second called")),
    ),
    (
        'garbage = "half a message", when = "first ended", which = "signals"',
        f.Garbage(id="fault 1", line=8, when=ENDED, what="half a message", which="signals"),
    ),
    (
        'job = "cgrace-a.slice", stays_queued_until = "first ended", patience = "1.5s"',
        f.JobStays(id="fault 1", line=8, unit="cgrace-a.slice", until=ENDED, patience_ns=1_500_000_000),
    ),
    (
        'job = "cgrace-a.slice", stays_queued_until = "first ended", type = "stop", nth = 2',
        f.JobStays(
            id="fault 1", line=8, unit="cgrace-a.slice", until=ENDED, patience_ns=500_000_000, nth=2, type="stop"
        ),
    ),
    (
        'job = "cgrace-a.slice", ends = "failed", nth = 2',
        f.JobEnds(id="fault 1", line=8, unit="cgrace-a.slice", result="failed", nth=2),
    ),
    (
        'job = "cgrace-a.slice", ends = "never"',
        f.JobStays(id="fault 1", line=8, unit="cgrace-a.slice", until=None, patience_ns=None),
    ),
    (
        'delete = "devices of cgrace-b.scope", when = "first ended"',
        f.DeleteCgroup(id="fault 1", line=8, when=ENDED, hierarchy="devices", path=B),
    ),
    (
        'move = "pod", to = "cpu,cpuacct/x/y", when = "first ended"',
        f.MoveProcess(id="fault 1", line=8, when=ENDED, process="pod", hierarchy="cpu,cpuacct", path="/x/y"),
    ),
    (
        'disable = "pids", at = "cgrace.slice", when = "first ended"',
        f.DisableController(id="fault 1", line=8, when=ENDED, controller="pids", path="/cgrace.slice"),
    ),
    (
        'freeze = "cgrace-a.slice", when = "first ended"',
        f.FreezeCgroup(id="fault 1", line=8, when=ENDED, path=A),
    ),
    (
        'thaw = "/x.slice", when = "first ended"',
        f.FreezeCgroup(id="fault 1", line=8, when=ENDED, path="/x.slice", thaw=True),
    ),
    (
        'hold_open = "pids of cgrace-a.slice", until = "job of cgrace-a.slice ended", nth = 2',
        f.HoldOpen(
            id="fault 1",
            line=8,
            hierarchy="pids",
            path=A,
            until=parse_point("job of cgrace-a.slice ended"),
            nth=2,
        ),
    ),
    (
        'hold_close = "calls", until = "JobRemoved of cgrace-a.slice sent"',
        f.HoldClose(id="fault 1", line=8, connection="calls", until=parse_point("JobRemoved of cgrace-a.slice sent")),
    ),
    (
        'peer = "systemd", do = "reload", when = "first ended"',
        f.Peer(id="fault 1", line=8, when=ENDED, peer="systemd", do="reload"),
    ),
]


@pytest.mark.parametrize(("body", "fault"), FAULTS)
def test_fault(body: str, fault: f.Fault) -> None:
    """Each verb becomes its record, defaults and all."""
    assert parsed(f"{HEAD}{STEPS}faults = [\n  {{ {body} }},\n]\n").faults == (fault,)


def test_every_verb_is_tested() -> None:
    """The table above has every kind of fault."""
    kinds = {kind for kind in vars(f).values() if isinstance(kind, type) and issubclass(kind, f.Fault)}
    assert {type(fault) for _, fault in FAULTS} == kinds - {f.Fault, f.HoldCall}


def test_defaults_of_a_file() -> None:
    """What a short file leaves out."""
    scenario = parsed(HEAD + STEPS)
    assert scenario.name == "story/my"
    assert scenario.settings == (Setting(profile="219-rhel7", layout="v1", rung="rc5"),)
    assert (scenario.bound_ns, scenario.patience_ns, scenario.wall_ns) == (500_000_000, 3_000_000_000, 30_000_000_000)
    assert (scenario.workloads, scenario.processes) == (("pod",), ("driver",))
    first, second = scenario.steps
    assert (first.parent, first.workload, first.after, first.fresh, first.line) == ("cgrace.slice", "", (), True, 4)
    assert (second.parent, second.workload, second.after) == ("cgrace.slice", "pod", (ENDED,))


def test_steps_of_two_processes_overlap() -> None:
    """By default a step waits for the one before it of its own process; with `after = []` for nothing."""
    scenario = parsed(
        HEAD
        + """
[[steps]]
id = "first"
do = "apply"
unit = "a.slice"

[[steps]]
id = "other"
do = "apply"
unit = "a-b.slice"
process = "kubelet-2"

[[steps]]
id = "third"
do = "destroy"
unit = "a.slice"
bound = "2m"

[[steps]]
id = "now"
do = "set"
unit = "a.slice"
after = []
resources = { pids = 10 }
delegate = false
fresh = false
"""
    )
    by_id = {step.id: step for step in scenario.steps}
    assert scenario.processes == ("driver", "kubelet-2")
    assert by_id["other"].after == by_id["now"].after == ()
    assert by_id["third"].after == (ENDED,)
    assert by_id["third"].bound_ns == 120_000_000_000
    assert (by_id["now"].resources, by_id["now"].delegate, by_id["now"].fresh) == ((("pids", 10),), False, False)
    assert by_id["first"].parent == "-.slice"


def test_points_by_unit() -> None:
    """A cgroup in a point may be named by its unit, and becomes a path."""
    text = HEAD + STEPS.replace(
        ' pid = "pod"', ' pid = "pod", after = ["cgroup made: devices of cgrace-a.slice nth 2"]'
    )
    (point,) = parsed(text.replace(" nth 2", "")).steps[1].after
    assert (point.stage, point.subject) == ("made", "devices" + A)
    moved = parsed(HEAD + STEPS + 'orders = ["process moved: pod to pids of cgrace-b.scope before second called"]')
    assert moved.orders[0].first.subject == "pids" + B


def test_expectations_apply_where_they_say() -> None:
    """By generation, profile, rung and layout; "any" is every driver; several steps are several pairs."""
    scenario = parsed(
        HEAD.replace("on = {", 'on = [{ profile = "257", layout = "v2", rung = "rc6" }, {').replace(" }\n", " }]\n")
        + STEPS
        + """
[[expect]]
generations = "async"
violated = { "no deadlock" = ["first", "second"] }
profiles = "257"

[[expect]]
generations = ["any"]
failed = { first = "no" }
layouts = ["v1"]

[[expect]]
generations = ["any"]
violated = { "bounded latency" = "" }
rungs = ["rc6"]
"""
    )
    new, old = scenario.settings
    by_profile, by_layout, by_rung = scenario.expect
    assert by_profile.violated == ((Invariant.NO_DEADLOCK, "first"), (Invariant.NO_DEADLOCK, "second"))
    assert scenario.expected("async", new) == (by_profile, by_rung)
    assert scenario.expected("source", new) == (by_rung,)
    assert scenario.expected("async", old) == (by_layout,)


@pytest.mark.parametrize(
    ("unit", "parent", "path"),
    [
        ("-.slice", "-.slice", "/"),
        ("a.slice", "-.slice", "/a.slice"),
        ("a-b-c.slice", "a-b.slice", "/a.slice/a-b.slice/a-b-c.slice"),
        ("a-b.scope", "system.slice", "/system.slice/a-b.scope"),
    ],
)
def test_where_a_unit_is(unit: str, parent: str, path: str) -> None:
    """A slice's name says where it is; a scope is in system.slice unless said."""
    assert (unit_problem(unit), parent_of(unit), cgroup_of(unit)) == ("", parent, path)
    assert cgroup_of("a-b.scope", "x-y.slice") == "/x.slice/x-y.slice/a-b.scope"
    assert cgroup_of("a-b.scope", "-.slice") == "/a-b.scope"


def test_match_directions_and_grades() -> None:
    """Calls go to systemd; a hold that lets others overtake is what no correct bus does."""
    assert (CALL.direction, LATE.direction) == (Direction.TO_SYSTEMD, Direction.TO_DRIVER)
    plain, overtaking = FAULTS[0][1], FAULTS[1][1]
    assert (f.grade(plain), f.grade(overtaking)) == (Grade.LEGAL, Grade.IMPOSSIBLE)
