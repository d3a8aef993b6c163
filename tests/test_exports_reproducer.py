"""Scenarios written as files, and the scenario that stands alone."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from checker_traces import point, scenario, start, trace
from hypothesis import given
from hypothesis import strategies as st

from cgrace.harness import faults as f
from cgrace.harness.errors import TraceError
from cgrace.harness.faults import Fault, Match, Order
from cgrace.harness.scenario.model import Expect, Scenario, Setting, Step
from cgrace.harness.scenario.parse import load, load_text
from cgrace.harness.scenario.write import without_lines, write
from cgrace.harness.trace import Head, Trace
from cgrace.harness.verdict import Invariant
from cgrace.reports.exports.reproducer import reproducer

FOLDER = Path(__file__).resolve().parents[1] / "scenarios"
SIGNAL = Match(text="JobRemoved of late.slice", kind="signal", member="JobRemoved", unit="late.slice")
CALL = Match(text="StopUnit", kind="call", member="StopUnit", nth=None, probe=True)
WHEN = point("first returned")
FAULTS: tuple[Fault, ...] = (
    f.Hold(id="fault 1", match=SIGNAL, until=WHEN, patience_ns=500_000_000),
    f.Hold(id="a", match=CALL, until=WHEN, patience_ns=None, overtake=True),
    f.Drop(id="b", match=dataclasses.replace(SIGNAL, nth=3)),
    f.Duplicate(id="c", match=CALL),
    f.Reorder(id="d", match=CALL),
    f.AnswerError(id="e", match=CALL, name="org.x.Error", text='a "text"\nwith\x01\x7f\\ €'),
    f.Amend(id="g", match=CALL, values=((0, "x"), (1, 5), (2, True))),
    f.Forge(id="h", when=WHEN, member="JobRemoved", unit="late.slice", job="job of late.slice"),
    f.Forge(id="i", when=WHEN, member="JobRemoved", unit="late.slice", job="/org/x/1", result="failed", times=200),
    f.Forge(id="z", when=WHEN, member="JobRemoved", unit="late.slice", job="job of late.slice", sender=":1.99"),
    f.Disconnect(id="j", when=WHEN, which="signals"),
    f.StopReading(id="k", when=WHEN),
    f.StopReading(id="l", when=WHEN, until=point("second ended")),
    f.Garbage(id="m", when=WHEN, what="noise", which="calls"),
    f.JobStays(id="n", unit="late.slice", until=WHEN, patience_ns=1_500_000, nth=2),
    f.JobStays(id="w", unit="late.slice", until=None, patience_ns=None),
    f.JobEnds(id="o", unit="late.slice", result="failed"),
    f.JobEnds(id="x", unit="late.slice", result="canceled", type="stop"),
    f.JobStays(id="y", unit="late.slice", until=WHEN, patience_ns=1_500_000, type="stop"),
    f.HoldOpen(id="p", hierarchy="pids", path="/late.slice", until=WHEN),
    f.HoldClose(id="z", connection="signals", until=WHEN),
    f.DeleteCgroup(id="q", when=WHEN, hierarchy="pids", path="/late.slice"),
    f.MoveProcess(id="r", when=WHEN, process="w", hierarchy="cpu", path="/x"),
    f.DisableController(id="s", when=WHEN, controller="pids", path="/late.slice"),
    f.FreezeCgroup(id="t", when=WHEN, path="/late.slice"),
    f.FreezeCgroup(id="u", when=WHEN, path="/late.slice", thaw=True),
    f.Peer(id="v", when=WHEN, peer="systemd", do="reload"),
)


def test_every_kind_of_fault_is_tried() -> None:
    """A new fault must be written too."""
    kinds = {k for k in vars(f).values() if isinstance(k, type) and issubclass(k, Fault) and not k.__subclasses__()}
    assert {type(fault) for fault in FAULTS} == kinds


@pytest.mark.parametrize("path", sorted(FOLDER.rglob("*.toml")), ids=lambda path: path.stem)
def test_what_is_written_is_read_again(path: Path) -> None:
    """Every scenario that comes with cgrace survives the trip, apart from line numbers."""
    one = load(path)
    assert without_lines(load_text(write(one), path)) == without_lines(one)


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: f"{type(fault).__name__}-{fault.id}")
def test_every_fault_is_read_again(fault: Fault) -> None:
    """Each by itself, with each of its words."""
    steps = (
        Step(id="first", do="apply", unit="late.slice", parent="-.slice", workload="w"),
        Step(id="second", do="set", unit="late.slice", parent="-.slice", after=(point("first ended"),)),
    )
    one = dataclasses.replace(scenario(), steps=steps, workloads=("w",), faults=(fault,))
    again = load_text(write(one), one.file)
    assert without_lines(again) == without_lines(dataclasses.replace(one, name=again.name))


def test_every_word_of_a_scenario_is_read_again() -> None:
    """Settings, steps, orders, bounds and expectations away from their defaults."""
    one = Scenario(
        file=Path("a/b.toml"),
        name="a/b",
        title='A "title" with € and \\',
        issue="o/r#1",
        mechanism="One. Two.",
        rows=("1'", "2"),
        settings=(Setting(profile="219-rhel7", layout="v1", rung="rc6"), Setting(profile="257", layout="v2")),
        workloads=("w",),
        processes=("driver", "other"),
        steps=(
            Step(
                id="first", do="apply", unit="x-y.scope", parent="z.slice", workload="w", fresh=False, may_fail=True,
                resources=(("pids", 5), ("memory", "1G")), delegate=False, bound_ns=1_500_001,
            ),
            Step(id="again", do="destroy", unit="x-y.scope", parent="z.slice", process="other"),
            Step(id="third", do="exists", unit="x-y.scope", parent="z.slice"),
        ),
        orders=(Order(first=point("first returned"), second=point("again called")),),
        expect=(
            Expect(
                generations=("any",), violated=((Invariant.NO_DEADLOCK, ""), (Invariant.NO_DEADLOCK, "first")),
                failed=(("again", "no such"),), profiles=("257",), rungs=("rc5",), layouts=("v2",), note="why",
            ),
        ),
        drivers=("err-nil",),
        markers=("slow",),
        bound_ns=1,
        patience_ns=61_000_000_000,
        wall_ns=3_600_000_000_000,
    )  # fmt: skip
    text = write(one)
    assert "after = []" in text
    assert without_lines(load_text(text, one.file)) == without_lines(one)


@given(st.text(min_size=1))
def test_any_title_is_read_again_or_refused(title: str) -> None:
    """TOML has no lone surrogates and no empty titles; everything else survives."""
    one = dataclasses.replace(scenario(), title=title)
    try:
        assert load_text(write(one), one.file).title == title
    except TraceError:
        assert title.strip() != title or any(0xD800 <= ord(char) <= 0xDFFF for char in title)


def test_what_no_file_can_say_is_refused() -> None:
    """A trace of a stranger may hold a scenario that the parser would never make."""
    with pytest.raises(TraceError, match=r"cannot be written|no scenario file can say"):
        write(dataclasses.replace(scenario(), workloads=("ghost",)))
    with pytest.raises(TraceError):
        write(dataclasses.replace(scenario(), bound_ns=-1))


def run_of(one: Scenario, profile: str = "219-rhel7") -> Trace:
    """A trace of a scenario by err-nil."""
    head = Head(
        scenario=one.to_data(),
        driver={"name": "err nil; rm", "generation": "err-nil"},
        target="fake",
        profile=profile,
        layout="v1",
        versions={"kernel": "6.1\x1b"},
    )
    return Trace(head, trace(one, *start()).entries)


def test_a_reproducer_stands_alone() -> None:
    """One setting, what is expected of this driver there and nothing else, and the command."""
    settings = (Setting(profile="257"), Setting(profile="219-rhel7"))
    hang = ((Invariant.NO_DEADLOCK, "second"),)
    expect = (
        Expect(generations=("err-nil", "timeout"), violated=hang, profiles=("219-rhel7",)),
        Expect(generations=("err-nil",), violated=((Invariant.NO_LOST_CGROUPS, ""),), profiles=("257",)),
        Expect(generations=("async",), violated=hang),
    )
    files = reproducer(run_of(dataclasses.replace(scenario(), settings=settings, expect=expect)))
    one = load_text(files["y.toml"], Path("x/y.toml"))
    assert one.settings == (Setting(profile="219-rhel7"),)
    assert [e.violated for e in one.expect] == [hang]
    assert "cgrace run y.toml --driver 'err nil; rm'" in files["README.md"]
    assert "\x1b" not in files["README.md"]


def test_a_reproducer_needs_its_setting() -> None:
    """A trace of a setting that its scenario does not name is refused."""
    with pytest.raises(TraceError, match="does not name"):
        reproducer(run_of(scenario(), profile="1"))


def test_names_of_files_are_plain() -> None:
    """A scenario's name, whatever it is, makes no path."""
    assert sorted(reproducer(run_of(dataclasses.replace(scenario(), name="a/../../e vil")))) == [
        "README.md",
        "e_vil.toml",
    ]
