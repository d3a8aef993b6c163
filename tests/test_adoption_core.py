"""The profile for pull requests: what it covers, and that an ordinary CI machine can run it."""

from __future__ import annotations

from pathlib import Path

import pytest

from cgrace.harness import faults as ft
from cgrace.harness.clock import NS_PER_MS
from cgrace.harness.events import Grade
from cgrace.harness.scenario.model import Scenario
from cgrace.harness.scenario.parse import load_tree
from cgrace.harness.scenario.words import EVERY_DRIVER

CORE = load_tree(Path(__file__).resolve().parent.parent / "scenarios" / "core")
# cgroup v1 hierarchies that can still be mounted where cgroup v2 has taken all others (systemd's hybrid and unified hosts).
V1_ANYWHERE = {"devices", "freezer", "systemd", "net_cls", "net_prio", "perf_event"}


def test_it_covers_what_the_issue_asks_for() -> None:
    """Late, lost and failed job, UnitExists of a slice and a scope, no reply, each connection cut, a controller deleted."""
    assert {one.name.partition("/")[2] for one in CORE} == {
        "late_job",
        "late_job_scope",
        "late_signal",
        "lost_signal",
        "lost_signal_scope",
        "failed_job",
        "unit_exists_slice",
        "unit_exists_scope",
        "no_reply",
        "no_reply_scope",
        "exec_scope",
        "disconnect_calls",
        "disconnect_signals",
        "controller_deleted",
        "controller_disabled",
        "cgroup_deleted",
    }
    assert {setting.layout for one in CORE for setting in one.settings} == {"v1", "v2"}


@pytest.mark.parametrize("scenario", CORE, ids=lambda s: s.name)
def test_a_scenario_of_it(scenario: Scenario) -> None:
    """Marked; an issue to read; bounds that a busy machine does not reach; only hierarchies that every machine can have."""
    assert scenario.markers == ("core",)
    assert scenario.issue
    assert all((step.bound_ns or scenario.bound_ns) >= 900 * NS_PER_MS for step in scenario.steps)
    named = {fault.hierarchy for fault in scenario.faults if isinstance(fault, ft.DeleteCgroup)}
    assert named <= V1_ANYWHERE | {"unified"}


@pytest.mark.parametrize("scenario", CORE, ids=lambda s: s.name)
def test_a_good_driver_can_be_clean(scenario: Scenario) -> None:
    """Nobody is excused whom the file does not name, and what no correct bus does leaves two good ends: success or an error."""
    assert not any(EVERY_DRIVER in expect.generations for expect in scenario.expect)
    if any(ft.grade(fault) is Grade.IMPOSSIBLE for fault in scenario.faults):
        assert any(step.may_fail for step in scenario.steps)
