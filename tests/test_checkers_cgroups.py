"""No lost cgroups: who took what away decides, and whether the driver had said that it was there."""

from __future__ import annotations

from typing import Any

import pytest
from checker_traces import call, called, ended, gone, made, moved, point, scenario, seen, start, trace

from cgrace.harness import events as ev
from cgrace.harness.checkers import cgroups
from cgrace.harness.events import Actor, Event, Grade
from cgrace.harness.faults import DeleteCgroup, Fault
from cgrace.harness.verdict import Finding, Verdict

PATH = "/cgrace.slice/cgrace-a.slice"
STEPS = {"first": "apply cgrace-a.slice", "second": "apply cgrace-a.slice", "gone": "destroy cgrace-a.slice"}
DELETE = DeleteCgroup(id="del", when=point("first returned"), hierarchy="pids", path=PATH)


def back(step: str = "first", error: str = "", paths: tuple[tuple[str, str], ...] = (("pids", PATH),)) -> Event:
    """A step returned and reported these paths."""
    return ev.StepReturned(step=step, error=error, paths=() if error else paths)


def applied(
    *told: tuple[float, Event], workload: str = "", faults: tuple[Fault, ...] = (), why: str = "complete"
) -> Any:
    """first was called at 10, made its directory, and returned at 20; then what is told."""
    return trace(
        scenario(*faults, steps=STEPS),
        *start(),
        (10, called("first", unit="cgrace-a.slice", workload=workload)),
        (12, ev.JobChanged(job="/job/1", unit="cgrace-a.slice", type="start", state="queued")),
        (15, made(PATH)),
        (20, back()),
        *told,
        (100, ended(why)),
    )


def only(told: Any, step: str = "first") -> Finding:
    """The finding about a step."""
    (finding,) = [f for f in cgroups.check(told) if f.subject == step]
    return finding


def test_a_cgroup_that_is_there_holds() -> None:
    """Every reported path exists and the process is in it."""
    told = applied((16, moved(PATH, Actor.DRIVER)), (90, seen("first", PATH, inside=True)), workload="w")
    assert only(told).verdict is Verdict.HOLDS


def test_systemd_trimmed_it() -> None:
    """Rows 1 to 4: the late job removes the directory after the step had returned; the evidence says who, when, in what."""
    told = applied(
        (20.2, ev.JobChanged(job="/job/1", unit="cgrace-a.slice", type="start", state="started")),
        (20.3, gone(PATH)),
        (21, ev.JobChanged(job="/job/1", unit="cgrace-a.slice", type="start", state="ended", result="done")),
        (90, seen("first", PATH, exists=False)),
    )
    finding = only(told)
    assert (finding.verdict, finding.short) == (Verdict.VIOLATED, "LOST")
    assert (
        finding.summary == "LOST pids of first (cgrace-a.slice): systemd removed it 0.3 ms after the step had returned"
    )
    removal = next(line for line in finding.evidence if "removed it" in line)
    assert "systemd removed it, 0.3 ms after the return, during the start job of cgrace-a.slice" in removal


def test_the_process_was_moved_out() -> None:
    """Rows 1-4c: the directory stays, and the process is elsewhere."""
    told = applied(
        (16, moved(PATH, Actor.DRIVER)),
        (22, moved("/", Actor.SYSTEMD)),
        (90, seen("first", PATH, inside=False, actual="/")),
        workload="w",
    )
    finding = only(told)
    assert finding.verdict is Verdict.VIOLATED
    assert "systemd moved its process to / 2.0 ms after the step had returned" in finding.summary


@pytest.mark.parametrize("by", [Actor.OTHER, Actor.CGRACE])
def test_what_our_own_fault_deleted_later_is_not_lost(by: Actor) -> None:
    """A deletion by cgrace after the return asks a question about the next step, and none about this one."""
    fired = (30, ev.FaultFired(fault="del", grade=Grade.LEGAL, what=""))
    told = applied(fired, (30.1, gone(PATH, by)), (90, seen("first", PATH, exists=False)), faults=(DELETE,))
    assert only(told).verdict is Verdict.HOLDS


def test_a_later_step_that_claims_what_cgrace_deleted_has_lost_it() -> None:
    """Success after the deletion, with a path that is not there, is the driver's error."""
    told = applied(
        (30, ev.FaultFired(fault="del", grade=Grade.LEGAL, what="")),
        (30, gone(PATH, Actor.CGRACE)),
        (40, called("second", unit="cgrace-a.slice")),
        (45, back("second")),
        (90, seen("first", PATH, exists=False)),
        (90, seen("second", PATH, exists=False)),
        faults=(DELETE,),
    )
    assert only(told).verdict is Verdict.HOLDS
    finding = only(told, "second")
    assert finding.verdict is Verdict.VIOLATED
    assert "cgrace removed it 15 ms before the step had returned" in finding.summary
    assert finding.grade is Grade.LEGAL


def test_systemd_removing_it_again_after_our_fault_is_lost() -> None:
    """The last one to remove a path is who took it."""
    told = applied(
        (30, gone(PATH, Actor.CGRACE)), (40, made(PATH)), (50, gone(PATH)), (90, seen("first", PATH, exists=False))
    )
    assert only(told).verdict is Verdict.VIOLATED


def test_what_the_driver_destroyed_is_not_lost() -> None:
    """Looks after a destroy was called say nothing; the look before it does."""
    destroyed = [
        (40.0, called("gone", op="destroy", unit="cgrace-a.slice")),
        (41.0, gone(PATH, Actor.DRIVER)),
        (90.0, seen("first", PATH, exists=False)),
    ]
    assert only(applied((39, seen("first", PATH)), *destroyed)).verdict is Verdict.HOLDS
    assert only(applied((39, seen("first", PATH, exists=False)), *destroyed)).verdict is Verdict.VIOLATED
    assert only(applied(*destroyed)).verdict is Verdict.HOLDS
    assert only(applied((30, gone(PATH)), *destroyed)).verdict is Verdict.UNKNOWN


def test_without_kernel_events_only_the_evidence_is_poorer() -> None:
    """The look decides, and no more is told than was seen: who did it is then not known, nor that somebody did."""
    finding = only(applied((90, seen("first", PATH, exists=False))))
    assert finding.verdict is Verdict.VIOLATED
    assert "it was made and is gone, and nobody was seen to remove it" in finding.summary
    unmade = [
        *start(),
        (10, called("first", unit="cgrace-a.slice")),
        (20, back()),
        (90, seen("first", PATH, exists=False)),
        (100, ended()),
    ]
    finding = only(trace(scenario(steps=STEPS), *unmade))
    assert "it is not there, and nobody was seen to make it" in finding.summary
    assert "it is not there, and nobody was seen to make it" in finding.explanation
    finding = only(trace(scenario(steps=STEPS), *unmade[:-2], (30, made("/other")), *unmade[-2:]))
    assert "nobody ever made what it reported" in finding.summary


def test_nobody_looked() -> None:
    """A successful apply whose paths were never looked at is unknown, and the run's end says why."""
    finding = only(applied(why="unmet order"))
    assert finding.verdict is Verdict.UNKNOWN
    assert "unmet order" in finding.summary


def test_a_failed_apply_reports_nothing() -> None:
    """A clean failure loses nothing (row 1-4b)."""
    told = trace(
        scenario(steps=STEPS),
        *start(),
        (10, called("first", unit="cgrace-a.slice")),
        (20, back(error="ENOENT")),
        (30, ended()),
    )
    assert [f.verdict for f in cgroups.check(told)] == [Verdict.HOLDS]


def test_an_exited_process_is_nowhere_and_not_lost() -> None:
    """Placement ends with the process."""
    told = applied((50, ev.ProcessExited(process="w", status=0)), (90, seen("first", PATH, inside=False)), workload="w")
    assert only(told).verdict is Verdict.HOLDS


def test_a_process_that_a_later_step_placed_elsewhere_is_not_lost() -> None:
    """The driver was asked to."""
    told = applied(
        (16, moved(PATH, Actor.DRIVER)),
        (30, called("second", unit="other.slice", workload="w")),
        (31, moved("/other.slice", Actor.DRIVER)),
        (32, call(9, "other.slice")),
        (90, seen("first", PATH, inside=False, actual="/other.slice")),
        workload="w",
    )
    assert only(told).verdict is Verdict.HOLDS


@pytest.mark.parametrize("workload", ["", "w"])
def test_a_path_that_nobody_made_is_lost(workload: str) -> None:
    """Whoever relies on the report finds nothing there, with a process or without."""
    paths = (("pids", PATH), ("devices", PATH))
    told = trace(
        scenario(steps=STEPS),
        *start(),
        (10, called("first", unit="cgrace-a.slice", workload=workload)),
        (15, made(PATH)),
        (20, back(paths=paths)),
        (90, seen("first", PATH, inside=True if workload else None)),
        (90, seen("first", PATH, exists=False, hierarchy="devices")),
        (100, ended()),
    )
    assert only(told).verdict is Verdict.VIOLATED
    assert only(told).summary == "LOST devices of first (cgrace-a.slice): nobody ever made what it reported"
