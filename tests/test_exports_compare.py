"""What changed between two runs."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
from checker_traces import ended, made, scenario, start, trace
from test_exports import write
from test_timeline import held

from cgrace.harness import cli
from cgrace.harness import events as ev
from cgrace.harness.trace import Trace
from cgrace.harness.verdict import Finding, Invariant, Verdict
from cgrace.reports.compare import Told, compare

HANG = Finding(
    invariant=Invariant.NO_DEADLOCK, verdict=Verdict.VIOLATED, subject="second", short="HANG", summary="HANG, 0.13 s"
)


def told(case: str = "a", outcome: str = "clean", *findings: Finding, of: Trace | None = None) -> Told:
    """A result."""
    return Told(case=case, outcome=outcome, findings=findings, trace=of or held())


def test_the_same_run_is_the_same() -> None:
    """Times, and texts of findings that hold times, do not count."""
    later = dataclasses.replace(HANG, summary="HANG, 0.15 s")
    found = compare([told("a", "reproduced", HANG)], [told("a", "reproduced", later)])
    assert found.same
    assert found.alike == 1


def test_outcomes_and_findings_that_changed() -> None:
    """What is no more and what is new, by what it is about."""
    found = compare([told("a", "reproduced", HANG)], [told("a", "vanished")])
    assert found.changed[0].outcome == ("reproduced", "vanished")
    assert found.changed[0].gone == ("HANG, 0.13 s",)
    assert not found.changed[0].new
    assert compare([told()], [told("a", "clean", HANG)]).changed[0].new == ("HANG, 0.13 s",)


def test_cases_that_only_one_run_has() -> None:
    """They are named, and the runs are not the same."""
    found = compare([told("a"), told("b")], [told("b"), told("c")])
    assert (found.only_first, found.only_second) == (("a",), ("c",))
    assert not found.same


def test_two_single_results_are_compared_whatever_they_are() -> None:
    """Two traces of two drivers, say."""
    assert compare([told("a")], [told("b")]).changed == ()


def test_the_first_difference_of_the_schedules() -> None:
    """The part where they part, and the lines around it; steps before cgroups."""
    first = trace(scenario(), *start(), (3, made("/late.slice")), (9, ended()))
    call = ev.StepCalled(step="first", process="driver", op="apply", unit="late.slice")
    second = trace(scenario(), *start(), (3, call), (4, ev.StepReturned(step="first")), (9, ended()))
    lines = compare([told(of=first)], [told(of=second)]).changed[0].schedule
    assert lines[0].startswith("first difference in: calls (and ")
    assert lines[1] == "+ first"


def test_versions_that_differ_are_told_and_are_no_difference() -> None:
    """Another kernel with the same outcome is the same run."""
    other = held()
    newer = Trace(dataclasses.replace(other.head, versions={"kernel": "7"}), other.entries)
    found = compare([told()], [told(of=newer)])
    assert found.versions == (("kernel", "none", "7"),)
    assert found.same


def test_a_trace_that_is_gone_does_not_stop_the_rest() -> None:
    """Its problem is told instead of its schedule."""
    lost = Told(case="a", outcome="clean", findings=(), problem="it is gone")
    assert compare([told()], [lost]).changed[0].schedule == ("the trace cannot be read: it is gone",)


@pytest.fixture
def traces(tmp_path: Path) -> tuple[str, str]:
    """Two traces that differ in one step."""
    one = held()
    cut = Trace(one.head, one.entries[:-1])
    return str(write(tmp_path / "a.jsonl", one)), str(write(tmp_path / "b.jsonl", cut))


def test_the_command(traces: tuple[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    """0 where both come to the same, 1 where they do not, and what it is in words or as JSON."""
    first, second = traces
    assert cli.main(["compare", first, first]) == 0
    assert "1 of 1 cases come to the same" in capsys.readouterr().out
    assert cli.main(["compare", first, second]) == 1
    assert "first difference in: run" in capsys.readouterr().out
    assert cli.main(["compare", "--json", first, second]) == 1
    data: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert data["passed"] is False
    assert len(data["changed"]) == 1


def test_what_is_no_run_is_one_line(traces: tuple[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    """A name that leads nowhere, or out of the store."""
    for word in ("20180309T101500Z-1", "../../etc", "/dev/null"):
        assert cli.main(["compare", traces[0], word]) == 2
        assert capsys.readouterr().err.startswith("cgrace: ")
