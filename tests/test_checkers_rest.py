"""Leaks, faults that never fired, and drivers that died: a trace that passes and traces that must not."""

from __future__ import annotations

from typing import Any

import pytest
from checker_traces import MS, call, called, ended, point, removed, scenario, start, trace

from cgrace.harness import events as ev
from cgrace.harness.checkers import CHECKERS, alive, check_all, fired, leaks
from cgrace.harness.events import Actor, Direction, Event, Grade
from cgrace.harness.faults import DeleteCgroup, Disconnect, Drop, JobStays, Match, Peer
from cgrace.harness.trace import Trace
from cgrace.harness.verdict import Finding, Invariant, Verdict

DESTROY = {"first": "apply late.slice", "gone": "destroy late.slice"}


def drop(unit: str = "late.slice", **more: Any) -> Drop:
    """A fault that drops JobRemoved of a unit."""
    return Drop(id="lost", line=12, match=Match(text="x", kind="signal", member="JobRemoved", unit=unit, **more))


def lone(found: tuple[Finding, ...]) -> Finding:
    """The only finding."""
    (finding,) = found
    return finding


# ---- leaks


def left(*told: tuple[float, Event], error: str = "") -> Finding:
    """The leak finding of a run that applied and destroyed late.slice."""
    done = trace(
        scenario(steps=DESTROY),
        *start(),
        (10, called("first")),
        (20, ev.StepReturned(step="first")),
        (30, called("gone", op="destroy", unit="late.slice")),
        (40, ev.StepReturned(step="gone", error=error)),
        *told,
        (60, ended()),
    )
    return lone(leaks.check(done))


def test_nothing_left_holds() -> None:
    """A run without leftovers holds."""
    assert left().verdict is Verdict.HOLDS


@pytest.mark.parametrize(
    ("kind", "name"), [("unit", "late.slice"), ("cgroup", "pids/late.slice"), ("process", "sleep 12")]
)
def test_a_leftover_is_a_leak(kind: str, name: str) -> None:
    """What outlives its destroy is named."""
    finding = left((50, ev.Leftover(kind=kind, name=name, step="gone")))
    assert (finding.verdict, finding.subject, finding.short) == (Verdict.VIOLATED, "gone", "LEAK")
    assert name in finding.summary


def test_a_failed_destroy_promised_nothing() -> None:
    """Units are judged only where destroy returned without an error."""
    assert left((50, ev.Leftover(kind="unit", name="late.slice", step="gone")), error="no").verdict is Verdict.HOLDS


def test_a_unit_that_nobody_destroyed_is_no_leak() -> None:
    """Slices never end by themselves."""
    assert left((50, ev.Leftover(kind="unit", name="other.slice"))).verdict is Verdict.HOLDS


@pytest.mark.parametrize(("kind", "word"), [("freeze", "FROZEN"), ("thaw", "THAWED")])
def test_a_cgroup_left_frozen_is_a_leak(kind: str, word: str) -> None:
    """A driver that dies between its freeze and its thaw leaves a container that nobody wakes, destroyed or not."""
    finding = left((50, ev.Leftover(kind=kind, name="/late.slice", step="limit")), error="no")
    assert finding.verdict is Verdict.VIOLATED
    assert finding.subject == "limit"
    assert finding.summary == f"{word}: /late.slice, which nobody had asked for"


def test_match_rules_are_judged_by_closed_connection() -> None:
    """No Go driver takes its rule back: only one that outlives its connection is a leak."""
    rule = (5, ev.MatchRule(connection=2, rule="type='signal'", added=True))
    still = (50, ev.Leftover(kind="match rule", name="type='signal'"))
    closed = (45, ev.Disconnected(connection=2, by=Actor.DRIVER))
    assert left(rule, still).verdict is Verdict.HOLDS
    assert left(rule, closed, still).verdict is Verdict.VIOLATED


# ---- fired


def fault_run(
    fault: Any, *told: tuple[float, Event], why: str = "complete", driver: dict[str, str] | None = None
) -> Trace:
    """A run of one fault."""
    return trace(scenario(fault), *start(), (10, called("first")), *told, (60, ended(why)), driver=driver)


def test_a_fault_that_acted_holds() -> None:
    """FaultFired is enough."""
    told = fault_run(drop(), (20, ev.FaultFired(fault="lost", grade=Grade.IMPOSSIBLE, what="dropped")))
    assert lone(fired.check(told)).verdict is Verdict.HOLDS


@pytest.mark.parametrize(
    ("fault", "told", "hint"),
    [
        (drop(), (), "no JobRemoved was ever seen"),
        (drop(), ((20, removed(3, "other.slice")),), "JobRemoved was seen of other.slice, never of late.slice"),
        (drop(nth=2), ((20, removed(3, "late.slice")),), "seen 1 times, the fault waits for number 2"),
        (JobStays(id="j", unit="late.slice", until=point("first returned"), patience_ns=None), (), "never had a job"),
        (Disconnect(id="d", when=point("third called")), (), "its point 'third called' was not reached"),
    ],
)
def test_a_fault_that_never_acted_is_named_with_what_came_nearest(
    fault: Any, told: tuple[tuple[float, Event], ...], hint: str
) -> None:
    """An unfired fault is violated, with a hint."""
    finding = lone(fired.check(fault_run(fault, *told)))
    assert finding.verdict is Verdict.VIOLATED
    assert hint in finding.summary


def test_probes_are_a_near_miss() -> None:
    """A message seen only before the hello is told apart."""
    probe = ev.MessageSeen(
        message=3,
        connection=2,
        direction=Direction.TO_DRIVER,
        kind="signal",
        member="JobRemoved",
        unit="late.slice",
        probe=True,
    )
    assert "start-up probes" in lone(fired.check(fault_run(drop(), (5, probe)))).summary


def test_the_control_group_has_no_bus() -> None:
    """cgroupfs never says a word on the bus: its message faults do not apply, its cgroup faults do."""
    driver = {"uses_bus": "false"}
    assert lone(fired.check(fault_run(drop(), driver=driver))).verdict is Verdict.HOLDS
    delete = DeleteCgroup(id="d", when=point("first returned"), hierarchy="pids", path="/late.slice")
    assert lone(fired.check(fault_run(delete, driver=driver))).verdict is Verdict.VIOLATED


def test_a_run_that_ended_early_gave_it_no_chance() -> None:
    """A hang before the fault's unit was ever on the bus excuses the fault; a hang beside it does not."""
    assert lone(fired.check(fault_run(drop("other.slice"), why="proved"))).verdict is Verdict.HOLDS
    told = fault_run(drop(), (11, call(1, "late.slice")), why="proved")
    assert lone(fired.check(told)).verdict is Verdict.VIOLATED


def test_a_fault_on_steps_that_failed_could_not_act() -> None:
    """systemd refuses the unit: there is no job to keep; that the step failed is judged by what was expected."""
    fault = JobStays(id="j", unit="late.slice", until=point("first ended"), patience_ns=None)
    refused = (20.0, ev.StepReturned(step="first", error="Unit type does not support transient units"))
    assert lone(fired.check(fault_run(fault, refused))).verdict is Verdict.HOLDS
    assert lone(fired.check(fault_run(fault, (20, ev.StepReturned(step="first"))))).verdict is Verdict.VIOLATED


def test_an_answer_to_a_driver_that_was_killed_need_not_come() -> None:
    """Whether a real systemd still answers before its bus has seen that is a matter of luck; that it was asked is not."""
    answer = Match(text="x", kind="answer", member="StartTransientUnit", unit="late.slice")
    kill = Peer(id="killed", when=point("StartTransientUnit of late.slice seen"), peer="driver", do="kill")
    asked = (11, call(1, "late.slice"))
    killed = (12, ev.FaultFired(fault="killed", grade=Grade.LEGAL, what="driver kill"))

    def of_drop(*told: tuple[float, Event]) -> Verdict:
        done = trace(
            scenario(kill, Drop(id="lost", match=answer)), *start(), (10, called("first")), *told, (60, ended())
        )
        return next(one.verdict for one in fired.check(done) if one.subject == "lost")

    assert of_drop(asked, killed) is Verdict.HOLDS
    assert of_drop(asked) is Verdict.VIOLATED
    assert of_drop(killed) is Verdict.VIOLATED


def test_an_unmet_order_is_named() -> None:
    """A run that could not be what was asked for is not judged by its other findings."""
    told = trace(scenario(), *start(), (60, ev.RunEnded(why="unmet order", text="a before b")))
    finding = lone(fired.check(told))
    assert (finding.verdict, finding.summary) == (Verdict.VIOLATED, "UNMET: a before b")


# ---- alive


def life(*told: tuple[float, Event], why: str = "complete", faults: tuple[Any, ...] = ()) -> Finding:
    """The finding about the driver's life."""
    return lone(alive.check(trace(scenario(*faults), *start(), *told, (60, ended(why)))))


def test_a_living_driver_holds() -> None:
    """Stderr alone is no crime, nor is being stopped after the run."""
    assert life((20, ev.DriverSaid(process="driver", text="warning"))).verdict is Verdict.HOLDS
    after = trace(scenario(), *start(), (60, ended()), (61, ev.ProcessExited(process="driver", status=-9)))
    assert lone(alive.check(after)).verdict is Verdict.HOLDS


def test_a_panic_is_a_finding_with_its_words() -> None:
    """The panic's text is in the summary, and the lines from there are the evidence."""
    finding = life(
        (20, ev.DriverSaid(process="driver", text="warning")),
        (21, ev.DriverSaid(process="driver", text="panic: runtime error: nil pointer")),
        *((22, ev.DriverSaid(process="driver", text=f"line {i}")) for i in range(50)),
        (23, ev.ProcessExited(process="driver", status=2)),
        why="driver died",
    )
    assert finding.verdict is Verdict.VIOLATED
    assert finding.summary == "DIED: driver ended with status 2: panic: runtime error: nil pointer"
    assert finding.evidence[0].startswith("panic:")


@pytest.mark.parametrize(
    ("told", "words"),
    [
        ((3, ev.DriverSaid(process="driver", text="hello?", babble=True)), "wrote what is not an answer: 'hello?'"),
        ((3, ev.DriverReady(process="driver", ok=False, error="no bus")), "refused to start: no bus"),
        ((3, ev.ProcessExited(process="driver", status=-11)), "was killed by SIGSEGV"),
        ((3, ev.ProcessExited(process="driver", status=-200)), "was killed by signal 200"),
    ],
)
def test_death_babble_and_refusal(told: tuple[float, Event], words: str) -> None:
    """Each way in which a driver fails to be one is violated and said."""
    finding = life(told)
    assert finding.verdict is Verdict.VIOLATED
    assert words in finding.summary


def test_a_kill_that_the_scenario_asked_for_is_expected() -> None:
    """A fault that kills the driver is no finding."""
    kill = Peer(id="k", when=point("first called"), peer="driver", do="kill")
    told = [
        (20, ev.FaultFired(fault="k", grade=Grade.NATURAL, what="killed")),
        (21, ev.ProcessExited(process="driver", status=-9)),
    ]
    assert life(*told, faults=(kill,)).verdict is Verdict.HOLDS
    assert life(*told).verdict is Verdict.VIOLATED


def test_a_checker_that_fails_is_unknown_and_hides_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """A bug of ours in one checker is a finding of that checker; the others still speak."""

    def broken(_: object) -> tuple[Finding, ...]:
        raise RuntimeError("oops")

    monkeypatch.setattr("cgrace.harness.checkers.CHECKERS", {**CHECKERS, Invariant.NOTHING_LEAKED: broken})
    told = trace(
        scenario(), *start(), (5, called("first")), (9, ev.StepReturned(step="first", driver_ns=MS)), (60, ended())
    )
    found = {f.invariant: f for f in check_all(told)}
    assert found[Invariant.NOTHING_LEAKED].verdict is Verdict.UNKNOWN
    assert "oops" in found[Invariant.NOTHING_LEAKED].summary
    assert found[Invariant.NO_DEADLOCK].verdict is Verdict.HOLDS
