"""Every fault on the wire and of systemd's jobs, in runs of real drivers on the fake: what it does, and how the driver takes it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from engine_kit import ONE, TWO, Ran, case, needs_root, run_all

from cgrace.harness import events as ev
from cgrace.harness.events import Actor, Direction, Grade
from cgrace.harness.verdict import Invariant, Outcome, Verdict

pytestmark = [needs_root, pytest.mark.timeout(120)]

A = "cgrace-a.slice"
SEEN = f'when = "StartTransientUnit of {A} seen"'
AT_ONCE = """
steps = [
  { id = "first", do = "apply", unit = "cgrace-a.slice", after = [] },
  { id = "second", do = "apply", unit = "cgrace-b.slice", after = [] },
]
"""
SOON = """
steps = [
  { id = "first", do = "apply", unit = "cgrace-a.slice" },
  { id = "second", do = "apply", unit = "cgrace-b.slice", after = ["JobRemoved of cgrace-a.slice seen"] },
]
"""
DENIED = 'error = "org.freedesktop.DBus.Error.AccessDenied", text = "not you"'


def faults(*texts: str) -> str:
    """The faults of a scenario."""
    return "faults = [\n" + "".join(f"  {{ {text} }},\n" for text in texts) + "]\n"


# By name: the driver and the scenario.
RUNS: dict[str, tuple[str, str]] = {
    "hold": (
        "today",
        SOON + faults(f'id = "x", hold = "JobRemoved of {A}", until = "StartTransientUnit of cgrace-b.slice seen"'),
    ),
    "overtake": (
        "today",
        SOON
        + faults(
            f'id = "x", hold = "JobRemoved of {A}", until = "JobRemoved of cgrace-b.slice", overtake = true, patience = "40s"'
        ),
    ),
    "hold-in-vain": (
        "today",
        SOON + faults(f'id = "x", hold = "JobRemoved of {A}", until = "JobRemoved of cgrace-b.slice"'),
    ),
    "drop": ("buffered", ONE + faults(f'id = "x", drop = "JobRemoved of {A}"')),
    "duplicate-signal": ("today", ONE + faults(f'id = "x", duplicate = "JobRemoved of {A}"')),
    "duplicate-call": ("today", ONE + faults(f'id = "x", duplicate = "StartTransientUnit of {A}"')),
    "reorder": ("today", SOON + faults(f'id = "x", reorder = "JobRemoved of {A}"')),
    "reorder-in-vain": ("today", ONE + faults(f'id = "x", reorder = "reply to StartTransientUnit of {A}"')),
    "answer-call": ("today", ONE + faults(f'id = "x", answer = "StartTransientUnit of {A}", {DENIED}')),
    "answer-reply": ("today", ONE + faults(f'id = "x", answer = "reply to StartTransientUnit of {A}", {DENIED}')),
    "amend": ("today", ONE + faults(f'id = "x", amend = "JobRemoved of {A}", set = {{ 3 = "failed" }}')),
    "amend-wrongly": ("today", ONE + faults(f'id = "x", amend = "JobRemoved of {A}", set = {{ 0 = "failed" }}')),
    "forge": (
        "today",
        ONE
        + faults(
            f'id = "gate", job = "{A}", stays_queued_until = "first returned", patience = "40s"',
            f'id = "x", forge = "JobRemoved of {A}", when = "job of {A} blocked"',
        ),
    ),
    "cut-calls": ("today", ONE + faults(f'id = "x", disconnect = "calls", {SEEN}')),
    "cut-signals": ("buffered", ONE + faults(f'id = "x", disconnect = "signals", {SEEN}')),
    "cut-all": ("err-nil", ONE + faults(f'id = "x", disconnect = "all", {SEEN}')),
    "stop": ("buffered", ONE + faults('id = "x", stop_reading = true, when = "first called"')),
    "stop-until": (
        "buffered",
        ONE + faults('id = "x", stop_reading = true, when = "first called", until = "first waits"'),
    ),
    "stop-in-vain": (
        "buffered",
        ONE + faults('id = "x", stop_reading = true, when = "first called", until = "first returned"'),
    ),
    "noise": ("today", ONE + faults(f'id = "x", garbage = "noise", {SEEN}')),
    "half": ("buffered", ONE + faults(f'id = "x", garbage = "half a message", {SEEN}')),
    "huge": ("today", ONE + faults(f'id = "x", garbage = "huge length", {SEEN}')),
    "endian": ("err-nil", ONE + faults(f'id = "x", garbage = "bad endian", {SEEN}')),
    "nothing": ("buffered", ONE + faults(f'id = "x", garbage = "nothing", {SEEN}')),
    "job-stays-until-queued": (
        "today",
        SOON.replace("JobRemoved of cgrace-a.slice seen", f"reply to StartTransientUnit of {A}")
        + faults(f'id = "x", job = "{A}", stays_queued_until = "job of cgrace-b.slice queued", patience = "none"'),
    ),
    "job-stays": ("today", ONE + faults(f'id = "x", job = "{A}", stays_queued_until = "first waits"')),
    "job-ends": ("today", ONE + faults(f'id = "x", job = "{A}", ends = "failed"')),
    "probe-drop": ("err-nil", ONE + faults('id = "x", drop = "reply to StartTransientUnit", phase = "probe"')),
    "probe-hold": (
        "err-nil",
        ONE + faults('id = "x", hold = "reply to StartTransientUnit", until = "driver ready", phase = "probe"'),
    ),
    "nth": ("today", TWO + faults(f'id = "x", answer = "StartTransientUnit", nth = 2, {DENIED}')),
    "every": ("today", TWO + faults(f'id = "x", answer = "StartTransientUnit", nth = "every", {DENIED}')),
    "no-bus": (
        "cgroupfs",
        ONE
        + faults(
            'disconnect = "all", when = "first called"',
            'garbage = "noise", when = "first called"',
            f'forge = "JobRemoved of {A}", when = "first called"',
        ),
    ),
    "order-step": ("today", AT_ONCE + 'orders = ["second returned before first called"]'),
    "order-job": ("today", ONE + f'orders = ["reply to StartTransientUnit of {A} before job of {A} started"]'),
    "order-message": ("today", SOON + f'orders = ["job of cgrace-b.slice ended before JobRemoved of {A} delivered"]'),
    "order-locked": ("today", AT_ONCE + f'orders = ["second returned before StartTransientUnit of {A} sent"]'),
    "order-in-vain": ("today", TWO + 'orders = ["cgroup made: devices/nowhere before second called"]'),
    "order-outlived": (
        "buffered",
        ONE + f'orders = ["cgroup made: devices/nowhere before JobRemoved of {A} delivered"]',
    ),
    "at-once": ("err-nil", AT_ONCE),
}


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Ran]:
    """All of them, side by side."""
    folder = tmp_path_factory.mktemp("faults")
    done = run_all(folder, [case(folder, text, driver) for driver, text in RUNS.values()])
    return dict(zip(RUNS, done, strict=True))


def messages(run: Ran, member: str, kind: str = "signal", unit: str = A) -> list[ev.MessageSeen]:
    """The messages of a member about a unit."""
    return [m for m in run.of(ev.MessageSeen) if (m.member, m.kind, m.unit) == (member, kind, unit) and not m.probe]


def sent(run: Ran, member: str = "JobRemoved", unit: str = A) -> int:
    """Where in the trace the first signal about a unit was written to the driver."""
    return run.index(ev.MessageSent, message=messages(run, member, unit=unit)[0].message)


def test_no_run_needs_the_backstop_or_fails_on_our_side(ran: dict[str, Ran]) -> None:
    """Whatever a fault does, the run ends by what is seen, and only a fault that cannot be carried out is an error."""
    ends = {name: run.end.why for name, run in ran.items()}
    assert "bound" not in ends.values()
    assert [name for name, why in ends.items() if why == "error"] == ["amend-wrongly"]


def test_hold(ran: dict[str, Ran]) -> None:
    """The signal waits for its point, and the driver for the signal."""
    run = ran["hold"]
    let_go = run.index(ev.HoldLetGo, hold="x", why="point")
    assert (
        run.index(ev.MessageHeld, hold="x", behind=False)
        < let_go
        < sent(run)
        < run.index(ev.StepReturned, step="first")
    )
    assert run.judgement.outcome is Outcome.CLEAN


def test_overtake(ran: dict[str, Ran]) -> None:
    """What a bus never does: the later signal of a connection arrives first."""
    run = ran["overtake"]
    assert sent(run, unit="cgrace-b.slice") < sent(run)
    assert {event.grade for event in run.of(ev.FaultFired)} == {Grade.IMPOSSIBLE}


def test_a_hold_in_vain_has_patience(ran: dict[str, Ran]) -> None:
    """Its point is behind what it holds, so it cannot come; today's driver waits longer than the patience, which ends it."""
    run = ran["hold-in-vain"]
    assert [event.why for event in run.of(ev.HoldLetGo)] == ["patience"]
    assert run.judgement.outcome is Outcome.CLEAN


def test_drop(ran: dict[str, Ran]) -> None:
    """The signal never comes; the driver gives up after its second and goes on."""
    run = ran["drop"]
    assert [event.fault for event in run.of(ev.MessageDropped)] == ["x"]
    assert not run.error("first")
    bounds = [event.bound_ns for event in run.of(ev.StepWaits) if event.bound_ns is not None]
    assert bounds and max(bounds) <= 1_000_000_000
    assert run.finding(Invariant.BOUNDED_LATENCY, "first").grade is Grade.IMPOSSIBLE


def test_duplicates(ran: dict[str, Ran]) -> None:
    """Twice the signal does no harm; a call that came twice has one answer."""
    twice = ran["duplicate-signal"]
    (signal,) = messages(twice, "JobRemoved")
    assert [event.message for event in twice.of(ev.MessageSent)].count(signal.message) == 2
    call = ran["duplicate-call"]
    (asked,) = messages(call, "StartTransientUnit", "call")
    assert [event.message for event in call.of(ev.MessageSent)].count(asked.message) == 2
    answers = messages(call, "StartTransientUnit", "reply") + messages(call, "StartTransientUnit", "error")
    assert len(answers) == 1
    assert {twice.judgement.outcome, call.judgement.outcome} == {Outcome.CLEAN}


def test_reorder(ran: dict[str, Ran]) -> None:
    """It comes right after the next message of its connection; without one it comes all the same, and has not acted."""
    run = ran["reorder"]
    (signal,) = messages(run, "JobRemoved")
    lane = [
        m.message
        for m in run.of(ev.MessageSeen)
        if (m.connection, m.direction) == (signal.connection, Direction.TO_DRIVER)
    ]
    way = [event.message for event in run.of(ev.MessageSent) if event.message in lane]
    swapped = lane.index(signal.message)
    assert way[swapped : swapped + 2] == [lane[swapped + 1], lane[swapped]]
    vain = ran["reorder-in-vain"]
    assert not vain.fired() and not vain.error("first")
    assert vain.judgement.outcome is Outcome.INCONCLUSIVE
    assert "no message came that it could follow" in vain.finding(Invariant.EVERY_FAULT_FIRED, "x").summary


def test_answers(ran: dict[str, Ran]) -> None:
    """Refused before systemd knew, or after it had done it: the driver hears the same."""
    before, after = ran["answer-call"], ran["answer-reply"]
    assert before.error("first") == after.error("first") == "not you"
    assert (len(before.of(ev.JobChanged)), len(after.of(ev.JobChanged)) > 0) == (0, True)


def test_amend(ran: dict[str, Ran]) -> None:
    """The driver believes what it reads; an amendment that no such message can have ends the run by its name."""
    assert "got `failed`" in ran["amend"].error("first")
    wrong = ran["amend-wrongly"]
    assert "fault 'x' could not be carried out" in wrong.end.text
    assert wrong.judgement.outcome is Outcome.INCONCLUSIVE


def test_forge(ran: dict[str, Ran]) -> None:
    """A JobRemoved that nobody sent ends the driver's wait before its job has run, and systemd then takes its cgroup away."""
    run = ran["forge"]
    assert run.index(ev.StepReturned, step="first") < run.index(ev.JobChanged, unit=A, state="started")
    finding = run.finding(Invariant.NO_LOST_CGROUPS, "first")
    assert (finding.verdict, finding.grade) == (Verdict.VIOLATED, Grade.IMPOSSIBLE)


def test_disconnects(ran: dict[str, Ran]) -> None:
    """A cut call fails at once; a cut signal is missed until the driver's own limit; the other connection lives on."""
    by_us = {
        name: [e for e in ran[name].of(ev.Disconnected) if e.by is Actor.CGRACE]
        for name in ran
        if name.startswith("cut")
    }
    assert {name: len(cut) for name, cut in by_us.items()} == {"cut-calls": 1, "cut-signals": 1, "cut-all": 2}
    assert all(event.why == "cut by the scenario" for cut in by_us.values() for event in cut)
    assert "EOF" in ran["cut-calls"].error("first")
    assert "EOF" in ran["cut-all"].error("first")
    assert not ran["cut-signals"].error("first")
    assert ran["cut-signals"].finding(Invariant.BOUNDED_LATENCY, "first").short.startswith("SLOW")


def test_a_bus_that_stops_reading(ran: dict[str, Ran]) -> None:
    """For good: this driver's call has no limit, and hangs by proof. Until a point: it goes on there. In vain: that is named."""
    assert ran["stop"].end.why == "proved"
    assert ran["stop"].finding(Invariant.NO_DEADLOCK, "first").grade is Grade.LEGAL
    assert ran["stop-until"].judgement.outcome is Outcome.CLEAN
    assert ran["stop-in-vain"].end.why == "unmet order"
    assert "'first returned' cannot come" in ran["stop-in-vain"].end.text


@pytest.mark.parametrize("name", ["noise", "half", "huge", "endian", "nothing"])
def test_garbage(ran: dict[str, Ran], name: str) -> None:
    """Every kind of it acts, and the run comes to a verdict: the step ends, or its hang is proved; nobody is judged natural."""
    run = ran[name]
    assert run.fired() == ["x"]
    assert run.end.why in ("complete", "proved")
    assert all(finding.grade is Grade.IMPOSSIBLE for finding in run.judgement.violated)


def test_half_a_message_makes_a_reader_wait_for_ever(ran: dict[str, Ran]) -> None:
    """So does an endless one, and one that is never answered."""
    assert {ran[name].end.why for name in ("half", "huge", "nothing")} == {"proved"}


def test_jobs(ran: dict[str, Ran]) -> None:
    """A job that stays queued keeps the driver waiting until it goes on; one that fails is told to it."""
    stays = ran["job-stays"]
    blocked = stays.index(ev.JobChanged, unit=A, state="blocked")
    assert blocked < stays.index(ev.StepWaits, step="first") < stays.index(ev.JobChanged, unit=A, state="started")
    assert stays.judgement.outcome is Outcome.CLEAN
    assert "got `failed`" in ran["job-ends"].error("first")


def test_a_job_that_a_call_lets_go_of_runs_behind_that_call(ran: dict[str, Ran]) -> None:
    """As on a real systemd, which is in the middle of the call when it queues the other job."""
    run = ran["job-stays-until-queued"]
    let_go = run.index(ev.HoldLetGo, hold="x")
    answered = run.index(ev.MessageSeen, unit="cgrace-b.slice", direction=Direction.TO_DRIVER)
    started = [run.index(ev.JobChanged, unit=unit, state="started") for unit in (A, "cgrace-b.slice")]
    assert let_go < answered < min(started)
    assert run.judgement.outcome is Outcome.CLEAN


def test_probes(ran: dict[str, Ran]) -> None:
    """What a driver asks before it is ready can be dropped, then it never is; or held, until patience ends that."""
    dropped = ran["probe-drop"]
    assert dropped.end.why == "driver died" and "no hello" in dropped.end.text
    assert dropped.finding(Invariant.DRIVER_ALIVE).verdict is Verdict.VIOLATED
    held = ran["probe-hold"]
    assert [event.why for event in held.of(ev.HoldLetGo)] == ["patience"]
    assert held.judgement.outcome is Outcome.CLEAN


def test_counting(ran: dict[str, Ran]) -> None:
    """The second alone, or every one."""
    assert [ran["nth"].error(step) for step in ("first", "second")] == ["", "not you"]
    assert [ran["every"].error(step) for step in ("first", "second")] == ["not you", "not you"]


def test_a_driver_without_a_bus_is_not_concerned(ran: dict[str, Ran]) -> None:
    """The control group runs as if those faults were not there."""
    assert ran["no-bus"].judgement.outcome is Outcome.CLEAN
    assert not ran["no-bus"].fired()


def test_orders_are_made_to_happen(ran: dict[str, Ran]) -> None:
    """A step, a job and a message are each kept back until what is to come first has come."""
    step, job, message = ran["order-step"], ran["order-job"], ran["order-message"]
    assert step.index(ev.StepReturned, step="second") < step.index(ev.StepCalled, step="first")
    (reply,) = messages(job, "StartTransientUnit", "reply")
    assert job.index(ev.MessageSent, message=reply.message) < job.index(ev.JobChanged, unit=A, state="started")
    assert message.index(ev.JobChanged, unit="cgrace-b.slice", state="ended") < sent(message)
    assert {run.judgement.outcome for run in (step, job, message)} == {Outcome.CLEAN}


UNMET: dict[str, Callable[[Ran], bool]] = {
    # go-systemd keeps its lock during the held call, so the other step cannot come first.
    "order-locked": lambda run: "'second returned' cannot come" in run.end.text,
    "order-in-vain": lambda run: "devices/nowhere" in run.end.text,
    # This driver gives up waiting, so that the run is over before the order.
    "order-outlived": lambda run: "order 1" in run.finding(Invariant.EVERY_FAULT_FIRED, "order 1").summary,
}


@pytest.mark.parametrize("name", UNMET)
def test_an_order_that_cannot_be_met_is_named(ran: dict[str, Ran], name: str) -> None:
    """It is not waited for without end, and the run shows nothing: inconclusive."""
    run = ran[name]
    assert UNMET[name](run), run.end
    assert run.judgement.outcome is Outcome.INCONCLUSIVE
    assert run.wall_s < 10


def test_operations_overlap_in_one_process(ran: dict[str, Ran]) -> None:
    """Both are called before either returns."""
    run = ran["at-once"]
    called = [run.index(ev.StepCalled, step=step) for step in ("first", "second")]
    assert max(called) < min(run.index(ev.StepReturned, step=step) for step in ("first", "second"))
    assert run.judgement.outcome is Outcome.CLEAN


def test_a_scenario_may_be_run_alone(tmp_path: Path) -> None:
    """The kit itself: one text, one run."""
    (run,) = run_all(tmp_path, [case(tmp_path, ONE, "reference")])
    assert run.judgement.outcome is Outcome.CLEAN
