"""Row 1-4b end to end: real drivers held between their mkdir and their write to cgroup.procs."""

from __future__ import annotations

import asyncio
import dataclasses
import os
from collections import Counter
from pathlib import Path

import pytest

from cgrace.harness import events as ev
from cgrace.harness.drivers import gobuild
from cgrace.harness.drivers.catalogue import find
from cgrace.harness.errors import DriverError
from cgrace.harness.events import Actor, Grade
from cgrace.harness.runner import run_cases
from cgrace.harness.scenario.model import Scenario
from cgrace.harness.scenario.parse import load, load_text
from cgrace.harness.suite import Case, CaseResult
from cgrace.harness.targets import filters
from cgrace.harness.trace import Trace, read_trace
from cgrace.harness.verdict import Outcome

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="target fake takes root (cgroups, namespaces)"),
    pytest.mark.skipif(bool(filters.available()), reason=filters.available() or "it can be had"),
    pytest.mark.timeout(120),
]
SHIPPED = Path(__file__).resolve().parents[1] / "scenarios" / "runc_1780" / "enoent_between_mkdir_and_write.toml"
HEAD = """
title = "t"
on = { profile = "219-rhel7.4" }
wall = "20s"
steps = [{ id = "first", do = "apply", unit = "cgrace-a.scope", parent = "cgrace.slice", pid = "container" }]
"""
PIDS = ("pids", "/cgrace.slice/cgrace-a.scope")


def run(scenario: Scenario, folder: Path, *drivers: str, times: int = 1) -> list[tuple[CaseResult, Trace]]:
    """Run a scenario on these drivers, several times each, side by side."""
    cases = [
        Case(scenario=scenario, setting=scenario.settings[0], driver=find(name), turn=turn)
        for name in drivers
        for turn in range(times)
    ]
    try:
        results = asyncio.run(run_cases(cases, store=folder))
    except DriverError as error:
        if "dial tcp" in error.detail or gobuild.try_find_go() is None:
            pytest.skip(f"drivers are not built, and cannot be here: {error}")
        raise
    assert [result.error for result in results if result.error] == []
    return [(result, read_trace(result.trace)) for result in results if result.trace is not None]


def faults(text: str) -> Scenario:
    """A scenario like the shipped one, with other faults."""
    return load_text(HEAD + f"faults = [{text}]\n", Path("/story/my.toml"))


def test_row(tmp_path: Path) -> None:
    """Who does not wait fails with ENOENT, every time; who waits, and who uses no bus, is clean; all unfold alike."""
    done = run(load(SHIPPED), tmp_path, "async", "wait-forever", "today", "cgroupfs", times=2)
    outcomes = Counter((result.case.driver.name, result.judgement.outcome) for result, _ in done)
    assert outcomes == {
        ("async", Outcome.REPRODUCED): 2,
        ("wait-forever", Outcome.CLEAN): 2,
        ("today", Outcome.CLEAN): 2,
        ("cgroupfs", Outcome.CLEAN): 2,
    }
    assert len({(result.case.driver.name, result.canonical) for result, _ in done}) == 4
    for result, trace in done:
        if result.case.driver.name == "async":
            _check_async(trace)


def _check_async(trace: Trace) -> None:
    """mkdir by the driver, its open, the job, rmdir by systemd, the open fails; in this order by the one clock."""
    made = trace.last(ev.CgroupMade, lambda e: (e.hierarchy, e.path) == PIDS)
    opens = trace.first(ev.DriverOpens, lambda e: (e.hierarchy, e.path) == PIDS)
    started = trace.first(ev.JobChanged, lambda e: e.unit == "cgrace-a.scope" and e.state == "started")
    removed = trace.first(ev.CgroupRemoved, lambda e: (e.hierarchy, e.path) == PIDS)
    let_go = trace.first(ev.HoldLetGo, lambda e: e.hold == "stopped")
    failed = trace.first(ev.StepReturned)
    fired = trace.first(ev.FaultFired, lambda e: e.fault == "stopped")
    assert made and opens and started and removed and let_go and failed and fired
    assert (made[1].by, removed[1].by) == (Actor.DRIVER, Actor.SYSTEMD)
    assert (opens[1].file, opens[1].hold) == ("cgroup.procs", "stopped")
    assert let_go[1].why == "point"
    assert fired[1].grade is Grade.NATURAL
    assert "no such file" in failed[1].error
    times = [entry.t_ns for entry, _ in (made, opens, started, removed, let_go, failed)]
    assert times == sorted(times)


def test_hold_that_cannot_end_is_named(tmp_path: Path) -> None:
    """A point that only the held driver itself could bring about is an unmet order within moments, not a time-out."""
    ((result, trace),) = run(
        faults('{ hold_open = "pids of cgrace-a.scope", until = "first ended" }'), tmp_path, "async"
    )
    assert result.judgement.outcome is not Outcome.CLEAN
    ended = trace.last(ev.RunEnded)
    assert ended is not None
    assert ended[1].why == "unmet order"
    assert "'first ended' cannot come" in ended[1].text
    assert result.wall_ns < 10e9
    assert not list(trace.of(ev.WorldClosed))


def test_our_hold_spends_no_patience(tmp_path: Path) -> None:
    """While we hold the driver its sleep is no wait of its own: a job gate that waits for something else stays closed."""
    scenario = faults(
        '{ id = "late", job = "cgrace-a.scope", stays_queued_until = "first ended", patience = "1ms" },'
        '{ id = "stopped", hold_open = "pids of cgrace-a.scope", until = "job of cgrace-a.scope started" }'
    )
    ((_, trace),) = run(scenario, tmp_path, "async")
    ended = trace.last(ev.RunEnded)
    assert ended is not None
    assert ended[1].why == "unmet order"
    assert [e.why for _, e in trace.of(ev.HoldLetGo)] == ["end", "end"]


def test_driver_killed_while_held(tmp_path: Path) -> None:
    """Killed by the scenario at that very moment: the run ends, and nothing is left of the hold."""
    scenario = faults(
        '{ hold_open = "pids of cgrace-a.scope", until = "first ended" },'
        '{ peer = "driver", do = "kill", when = "driver opens: pids of cgrace-a.scope" }'
    )
    ((result, trace),) = run(scenario, tmp_path, "async")
    exited = trace.first(ev.ProcessExited)
    assert exited is not None
    assert (exited[1].process, exited[1].expected) == ("driver", True)
    assert result.wall_ns < 10e9


def test_point_without_a_hold(tmp_path: Path) -> None:
    """The point alone is watched, too: the second opening of a cgroup is a moment like any other."""
    scenario = dataclasses.replace(
        faults('{ id = "at", peer = "systemd", do = "reload", when = "driver opens: devices of cgrace-a.scope" }'),
        expect=(),
    )
    ((result, trace),) = run(scenario, tmp_path, "wait-forever")
    assert result.judgement.outcome is Outcome.CLEAN
    fired = trace.first(ev.FaultFired)
    opens = trace.first(ev.DriverOpens, lambda e: e.hierarchy == "devices")
    assert fired and opens
    assert fired[0].index > opens[0].index
    assert {e.hold for _, e in trace.of(ev.DriverOpens)} == {""}


def test_fault_that_never_acts_is_told(tmp_path: Path) -> None:
    """A hold of a cgroup that no driver opens has not fired, and the finding says what was opened instead."""
    scenario = faults('{ id = "never", hold_open = "pids of cgrace.slice", until = "job of cgrace-a.scope ended" }')
    ((result, _),) = run(scenario, tmp_path, "wait-forever")
    texts = [finding.summary for finding in result.judgement.findings if "UNFIRED" in finding.summary]
    assert len(texts) == 1
    assert "the driver never opened pids/cgrace.slice, only " in texts[0]


def test_machine_without_it_runs_the_rest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where no driver can be held the case says so and counts as not available here; a case that holds none runs."""
    monkeypatch.setattr(filters, "ARCHITECTURES", {})
    plain = load_text(HEAD, Path("/story/my.toml"))
    cases = [
        Case(
            scenario=scenario, setting=scenario.settings[0], driver=find("wait-forever")
        )  # whoever does not wait may lose
        for scenario in (load(SHIPPED), plain)
    ]
    held, free = asyncio.run(run_cases(cases, store=tmp_path))
    assert "cannot be held inside a system call here" in held.error
    assert (held.judgement.outcome, held.unavailable) == (Outcome.INCONCLUSIVE, True)
    assert free.judgement.outcome is Outcome.CLEAN


def test_stopped_where_it_closes(tmp_path: Path) -> None:
    """A driver that gave up is held where it closes its connection for calls, and takes a signal on the other one meanwhile."""
    scenario = load_text(
        """
title = "t"
on = { profile = "257", layout = "v2" }
bound = "3s"
drivers = ["containerd@3.0.2"]
steps = [{ id = "first", do = "apply", unit = "cgrace-a.slice" }]
faults = [
  { id = "late", hold = "JobRemoved of cgrace-a.slice", until = "driver closes: calls", patience = "2s" },
  { id = "closing", hold_close = "calls", until = "JobRemoved of cgrace-a.slice delivered" },
]
""",
        Path("/story/my.toml"),
    )
    ((result, trace),) = run(scenario, tmp_path, "containerd@3.0.2")
    assert result.judgement.outcome is Outcome.CLEAN
    closes = list(trace.of(ev.DriverCloses))
    assert [(event.connection, event.hold) for _, event in closes] == [("calls", "closing"), ("signals", "")]
    assert [event.hold for _, event in trace.of(ev.HoldLetGo) if event.why == "point"] == ["late", "closing"]
