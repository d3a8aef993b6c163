"""Scenarios on a booted systemd: the same files, its own jobs, gates by its own rules, and what is done to it and its bus."""

from __future__ import annotations

import dataclasses
import os
import signal
from collections.abc import Sequence
from pathlib import Path

import pytest
from engine_kit import ONE, TWO, Ran, case, run_all
from test_targets_container import SUITE, left_of

from cgrace.harness import events as ev
from cgrace.harness import runner
from cgrace.harness.commands.common import baselines_folder, scenarios_folder
from cgrace.harness.drivers.catalogue import find
from cgrace.harness.engine.ground import Ground
from cgrace.harness.engine.run import Run
from cgrace.harness.errors import UnavailableError
from cgrace.harness.scenario.model import Scenario, Step
from cgrace.harness.scenario.parse import load
from cgrace.harness.targets import owner
from cgrace.harness.targets.registry import Facts, parse_target, systemd_number
from cgrace.harness.targets.roots import look_up
from cgrace.harness.verdict import Invariant, Outcome, Verdict

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="booting a systemd takes root"),
    pytest.mark.skipif(not SUITE, reason="no root is built here yet (tests do not download one)"),
    pytest.mark.timeout(120),
]
AFTER = '{ id = "second", do = "apply", unit = "cgrace-b.slice", after = ["first ended", "fault x fired"] }'
THEN = f'steps = [{{ id = "first", do = "apply", unit = "cgrace-a.slice" }}, {AFTER}]\n'


def ground(folder: Path) -> Ground:
    """The target, and a folder in which nothing was recorded."""
    root = look_up(SUITE)
    assert root is not None
    version = root.note["packages"]["systemd"]
    name = parse_target(f"container:{SUITE}:v1")
    return Ground(Facts(name=name, version=version, systemd=systemd_number(version), layouts=("v1", "v2")), folder)


def run_on(folder: Path, *cases: tuple[Scenario, str]) -> list[Ran]:
    """Run scenarios on drivers, one after the other on one machine; nothing of it may be left."""
    on = ground(folder)
    planned = [one for scenario, driver in cases for one in runner.plan([scenario], [find(driver)], on=on)]
    assert len(planned) == len(cases)
    planned = [dataclasses.replace(one, turn=turn) for turn, one in enumerate(planned)]
    done = run_all(folder, planned, target=on.facts.name)
    assert left_of(owner.own_name()) == []
    return done


def text(folder: Path, content: str) -> Scenario:
    """A scenario from its text."""
    return case(folder, content, "today", profile="257").scenario


def lost(ran: Ran) -> Verdict:
    """Whether a cgroup was lost."""
    return ran.finding(Invariant.NO_LOST_CGROUPS).verdict


def test_a_late_job_and_a_late_signal_come_out_as_history_says(tmp_path: Path) -> None:
    """The story's own files: who does not wait loses what it made; who stops to wait keeps go-systemd's lock."""
    late = load(scenarios_folder() / "runc_1780" / "late_job_slice.toml")
    lock = load(scenarios_folder() / "runc_1780" / "late_signal_lock.toml")
    cases = [(late, "async@rc6"), (late, "wait-forever@rc6"), (late, "today"), (lock, "err-nil@rc6"), (lock, "today")]
    async_, forever, today, err_nil, fixed = run_on(tmp_path, *cases)
    assert lost(async_) is Verdict.VIOLATED
    assert async_.fired() == ["late", "parent"] or set(async_.fired()) == {"late", "parent"}
    assert [lost(forever), lost(today), lost(fixed)] == [Verdict.HOLDS] * 3
    hang = err_nil.finding(Invariant.NO_DEADLOCK, "second")
    assert hang.verdict is Verdict.VIOLATED
    assert err_nil.end.why == "proved"
    assert fixed.judgement.outcome is Outcome.CLEAN
    removed = [event for event in async_.of(ev.CgroupRemoved) if event.path.endswith("/cgrace-a.slice")]
    assert {(event.hierarchy, event.by) for event in removed} == {("devices", ev.Actor.SYSTEMD)}


def test_a_gate_keeps_the_job_of_a_unit_and_of_the_slice_above_it(tmp_path: Path) -> None:
    """By systemd's own order: blocked until the point, and then it runs."""
    gate = 'faults = [{ id = "late", job = "%s", stays_queued_until = "first waits", patience = "2s" }]\n'
    for ran in run_on(
        tmp_path, *((text(tmp_path, ONE + gate % u), "today") for u in ("cgrace-a.slice", "cgrace.slice"))
    ):
        assert ran.judgement.outcome is Outcome.CLEAN, ran.judgement.reasons
        blocked = next(event for event in ran.of(ev.JobChanged) if event.state == "blocked")
        states = [event.state for event in ran.of(ev.JobChanged) if event.job == blocked.job]
        assert states == ["queued", "blocked", "started", "ended"]
        waits = ran.index(ev.StepWaits, step="first")
        assert ran.index(ev.JobChanged, unit=blocked.unit, state="blocked") < waits
        assert waits < ran.index(ev.JobChanged, unit=blocked.unit, state="started")
        assert not [event for event in ran.of(ev.JobChanged) if event.unit.startswith("cgrace-gate")]


def states(ran: Ran, unit: str) -> list[str]:
    """What its jobs did, one behind the other."""
    return [f"{event.type} {event.state}" for event in ran.of(ev.JobChanged) if event.unit == unit]


def test_a_gate_keeps_a_stop_job_and_a_later_start_job(tmp_path: Path) -> None:
    """Behind another unit that stops first; and closed only once the job before it has ended."""
    run = ("apply", "destroy", "apply", "destroy")
    steps = ", ".join(f'{{ id = "s{n}", do = "{do}", unit = "cgrace-a.slice" }}' for n, do in enumerate(run, 1))
    gate = 'faults = [{ id = "x", job = "cgrace-a.slice", type = "%s", nth = %d, stays_queued_until = "s%d waits" }]\n'
    gated = {("stop", 1): 2, ("start", 2): 3, ("stop", 2): 4}
    texts = [f"steps = [{steps}]\n" + gate % (*which, step) for which, step in gated.items()]
    done = run_on(tmp_path, *((text(tmp_path, one), "today") for one in texts))
    plain = [f"{kind} {state}" for kind in ("start", "stop") * 2 for state in ("queued", "started", "ended")]
    for (which, step), ran in zip(gated.items(), done, strict=True):
        assert ran.fired() == ["x"], which
        assert ran.judgement.outcome is Outcome.CLEAN, (which, ran.judgement.reasons)
        kept = plain.copy()
        kept.insert(3 * (step - 1) + 1, f"{which[0]} blocked")
        assert states(ran, "cgrace-a.slice") == kept
        assert ran.index(ev.StepWaits, step=f"s{step}") < ran.index(ev.HoldLetGo, hold="x")


def test_a_job_ends_otherwise_by_rules_of_systemd(tmp_path: Path) -> None:
    """Cancelled, for what it requires, or after its time: the driver hears of it, and the unit was never started."""
    steps = 'steps = [{ id = "s1", do = "apply", unit = "cgrace-a.scope", pid = "p", may_fail = true }]\n'
    results = ("canceled", "dependency", "timeout")
    faults = [f'faults = [{{ id = "x", job = "cgrace-a.scope", ends = "{result}" }}]\n' for result in results]
    done = run_on(tmp_path, *((text(tmp_path, steps + fault), "today") for fault in faults))
    for result, ran in zip(results, done, strict=True):
        assert f"got `{result}`" in ran.error("s1")
        assert ran.fired() == ["x"]
        assert states(ran, "cgrace-a.scope") == ["start queued", "start ended"]


def test_a_process_joins_a_unit_by_way_of_systemd(tmp_path: Path) -> None:
    """AttachProcessesToUnit wants its caller's pid of the bus: the relay connects as a process of the machine's own."""
    (ran,) = run_on(tmp_path, (load(scenarios_folder() / "core" / "exec_scope.toml"), "today"))
    assert ran.judgement.outcome is Outcome.CLEAN, ran.judgement.reasons
    attached = [event for event in ran.of(ev.MessageSeen) if event.member == "AttachProcessesToUnit"]
    assert [event.kind for event in attached] == ["call", "reply"] * 2


RECORDED = (
    "job_canceled",
    "two_stops_one_job",
    "destroy_twice",
    "slice_with_live_scope_stopped",
    "unit_exists_starting",
)


def test_the_corpus_comes_out_as_it_was_recorded(tmp_path: Path) -> None:
    """Some quick entries of it, with today's driver and one that ends its wait: `cgrace run corpus --target` runs them all."""
    on = ground(baselines_folder())
    scenarios = [load(scenarios_folder() / "corpus" / f"{name}.toml") for name in RECORDED]
    cases = runner.plan(scenarios, [find(name) for name in ("today", "buffered", "buffered@rc6")], on=on)
    if not any(case.recorded for case in cases):
        pytest.skip(f"nothing was recorded on {SUITE}")
    assert len([case for case in cases if case.recorded]) == 2 * len(RECORDED)
    for ran in run_all(tmp_path, cases, target=on.facts.name):
        assert ran.judgement.outcome.passes, (ran.trace.head.scenario["name"], ran.judgement.reasons)


PEERS = {
    "pause": ('{ id = "x", peer = "systemd", do = "pause", when = "first ended" }', "hangs"),
    "resume": (
        '{ id = "x", peer = "systemd", do = "pause", when = "first ended" },'
        '{ id = "y", peer = "systemd", do = "resume", when = "second waits" }',
        "",
    ),
    "bus restart": ('{ id = "x", peer = "bus", do = "restart", when = "first ended" }', ""),
    "bus kill": ('{ id = "x", peer = "bus", do = "kill", when = "first ended" }', "fails"),
    "reload": ('{ id = "x", peer = "systemd", do = "reload", when = "first ended" }', ""),
    "reexec": ('{ id = "x", peer = "systemd", do = "reexec", when = "first ended" }', ""),
}


def test_what_is_done_to_systemd_and_its_bus(tmp_path: Path) -> None:
    """Each on the same machine, one after the other: it serves the next run all the same."""
    done = run_on(tmp_path, *((text(tmp_path, f"{THEN}faults = [{fault}]\n"), "today") for fault, _ in PEERS.values()))
    for (name, (_, comes_to)), ran in zip(PEERS.items(), done, strict=True):
        assert "x" in ran.fired(), name
        hung = ran.finding(Invariant.NO_DEADLOCK).verdict is Verdict.VIOLATED
        assert hung == (comes_to == "hangs"), (name, ran.judgement.reasons)
        if not hung:
            assert bool(ran.error("second")) == (comes_to == "fails"), (name, ran.judgement.reasons)


def test_what_a_real_systemd_cannot_do_is_said_before_anything_runs(tmp_path: Path) -> None:
    """The case is unavailable, with the fault and the reason."""
    fails = text(tmp_path, ONE + 'faults = [{ id = "bad", job = "cgrace-a.slice", ends = "failed" }]\n')
    with pytest.raises(ExceptionGroup) as told:
        run_on(tmp_path, (fails, "today"))
    (error,) = told.value.exceptions
    assert isinstance(error, UnavailableError)
    assert "fault 'bad' cannot be done" in error.message


def test_a_machine_that_ends_in_a_run_says_so_and_the_next_run_has_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Inconclusive, with the last lines of its console."""
    call = Run._call
    killed: list[int] = []

    def call_and_kill(self: Run, step: Step) -> None:
        call(self, step)
        if step.id == "second" and not killed:
            killed.append(self.sandbox.machine.init_pid)  # type: ignore[union-attr]
            os.kill(killed[0], signal.SIGKILL)

    monkeypatch.setattr(Run, "_call", call_and_kill)
    pauses = TWO + 'faults = [{ id = "x", peer = "systemd", do = "pause", when = "first ended" }]\n'
    dead, alive = run_on(tmp_path, (text(tmp_path, pauses), "today"), (text(tmp_path, TWO), "today"))
    assert dead.judgement.outcome is Outcome.INCONCLUSIVE
    assert dead.end.text.startswith("the machine ended; its console said last: ")
    assert any("cgrace.target" in line for line in dead.end.details)
    assert alive.judgement.outcome is Outcome.CLEAN


def test_the_outcome_is_the_same_each_time(tmp_path: Path) -> None:
    """Where a scenario orders nothing, systemd comes first: a driver that does not wait loses nothing by luck."""
    scenario = text(tmp_path, TWO)
    done: Sequence[Ran] = run_on(tmp_path, *[(scenario, "async@rc6")] * 6)
    assert [ran.judgement.outcome for ran in done] == [Outcome.CLEAN] * 6
