"""Bounded latency: only a driver's own timed waits count, whatever the machine did meanwhile."""

from __future__ import annotations

import pytest
from checker_traces import (
    MS,
    S,
    call,
    called,
    ended,
    made,
    point,
    removed,
    reply,
    scenario,
    sent,
    start,
    trace,
)
from hypothesis import given
from hypothesis import strategies as st

from cgrace.harness import events as ev
from cgrace.harness.checkers import latency
from cgrace.harness.checkers.text import cell
from cgrace.harness.events import Actor, Event
from cgrace.harness.faults import JobStays, Peer
from cgrace.harness.trace import Trace
from cgrace.harness.verdict import Finding, Verdict

ONE = {"first": "apply late.slice"}
NOTHING: tuple[tuple[float, Event], ...] = ()


def asked(*told: tuple[float, Event]) -> list[tuple[float, Event]]:
    """The first apply, its call, and what follows."""
    return [*start(), (10, called("first")), (11, call(1, "late.slice")), (11, sent(1)), *told]


def back(t: float, error: str = "") -> tuple[float, Event]:
    """The first step returned at t."""
    return t, ev.StepReturned(step="first", driver_ns=round((t - 10) * MS), error=error)


def rest(t: float, bound_ms: float | None) -> tuple[float, Event]:
    """The driver came to rest in the first step."""
    return t, ev.StepWaits(step="first", bound_ns=None if bound_ms is None else round(bound_ms * MS))


def only(told: Trace) -> Finding:
    """The one finding."""
    (finding,) = latency.check(told)
    return finding


UNIT_EXISTS = [
    (12, reply(2, 1, "late.slice", "org.freedesktop.systemd1.UnitExists")),
    (12, sent(2)),
]


def test_row_7_costs_a_second_of_the_drivers_own() -> None:
    """UnitExists promises nothing more, and the driver waits a second all the same."""
    told = trace(scenario(steps=ONE), *asked(*UNIT_EXISTS, rest(15, 999), back(1015)), (1020, ended()))
    finding = only(told)
    assert finding.verdict is Verdict.VIOLATED
    assert finding.short == "SLOW 1s"
    assert finding.summary.startswith('SLOW 1s: "first" (late.slice) waited 1s on its own timer')


def test_a_bound_that_allows_it_holds() -> None:
    """The same second within the scenario's bound is none of ours to judge."""
    told = trace(scenario(steps=ONE, bound_ns=2 * S), *asked(*UNIT_EXISTS, rest(15, 999), back(1015)), (1020, ended()))
    assert only(told).verdict is Verdict.HOLDS


@given(
    late=st.floats(0, 900),
    busy=st.floats(0, 30_000),
    slow_end=st.floats(0, 20_000),
    wait=st.sampled_from([0, 999, 3000]),
)
def test_a_busy_machine_does_not_flip_a_verdict(late: float, busy: float, slow_end: float, wait: int) -> None:
    """However slowly everything goes, a driver without an own wait is never slow, and one with a long one never holds."""
    at = 15 + busy
    answer = [(at, UNIT_EXISTS[0][1]), (at, UNIT_EXISTS[1][1])]
    if wait:
        told = trace(
            scenario(steps=ONE),
            *asked(*answer, rest(at + late, wait - late), back(at + wait + slow_end)),
            (1e6, ended()),
        )
        assert only(told).verdict is (Verdict.VIOLATED if wait - late > 500 else Verdict.UNKNOWN)
    else:
        told = trace(scenario(steps=ONE), *asked(*answer, back(at + slow_end)), (1e6, ended()))
        assert only(told).verdict is not Verdict.VIOLATED


def test_a_job_that_we_hold_is_our_time() -> None:
    """The driver's second passes while a fault keeps the job queued: not the driver's fault."""
    fault = JobStays(id="late", unit="late.slice", until=point("first returned"), patience_ns=None)
    told = trace(
        scenario(fault, steps=ONE),
        *asked(
            (12, ev.JobChanged(job="/job/1", unit="late.slice", type="start", state="blocked")),
            (12, reply(2, 1, "late.slice")),
            (12, sent(2)),
            rest(15, 999),
            back(1015),
        ),
        (1016, ev.JobChanged(job="/job/1", unit="late.slice", type="start", state="started")),
        (1020, ended()),
    )
    finding = only(told)
    assert finding.verdict is Verdict.HOLDS
    assert "we held it 1.00 s" in finding.evidence[0]


def test_a_job_that_never_starts_is_no_excuse() -> None:
    """What the scenario keeps queued for ever is the driver's to survive: its long wait is its own."""
    fault = JobStays(id="stuck", unit="late.slice", until=None, patience_ns=None)
    told = trace(
        scenario(fault, steps=ONE),
        *asked(
            (12, ev.JobChanged(job="/job/1", unit="late.slice", type="start", state="blocked")),
            (12, reply(2, 1, "late.slice")),
            (12, sent(2)),
            rest(15, 999),
            back(1015),
        ),
        (1020, ended()),
    )
    assert only(told).verdict is Verdict.VIOLATED


def test_another_units_hold_excuses_nothing() -> None:
    """A hold on a message about some other unit is not what the step waits for."""
    told = trace(
        scenario(steps=ONE),
        *asked((12, removed(7, "zzz.slice")), (12, ev.MessageHeld(message=7, hold="h")), *UNIT_EXISTS),
        rest(15, 999),
        back(1015),
        (1020, ended()),
    )
    assert only(told).verdict is Verdict.VIOLATED


def test_a_dropped_answer_leaves_the_wait_to_the_driver() -> None:
    """Nothing of ours can still answer: the second is the driver's own."""
    told = trace(
        scenario(steps=ONE),
        *asked((12, reply(2, 1, "late.slice")), (12, sent(2)), rest(13, 998)),
        (14, removed(3, "late.slice")),
        (14, ev.MessageDropped(message=3, fault="lost")),
        back(1013),
        (1020, ended()),
    )
    assert only(told).verdict is Verdict.VIOLATED


def test_a_wait_that_an_answer_ended_is_the_answerers() -> None:
    """systemd took 900 ms, inside a timed wait of 30 s: the driver did well."""
    told = trace(
        scenario(steps=ONE),
        *asked((12, reply(2, 1, "late.slice")), (12, sent(2)), rest(13, 29_999)),
        (11, ev.JobChanged(job="/job/1", unit="late.slice", type="start", state="queued")),
        (913, removed(3, "late.slice")),
        (913, sent(3)),
        back(914),
        (1020, ended()),
    )
    assert only(told).verdict is Verdict.HOLDS


def test_a_forgotten_timer_is_not_what_the_step_waited_for() -> None:
    """A limit of 700 ms that did not pass before the step went on belongs to something else in the process."""
    told = trace(scenario(steps=ONE), *asked(*UNIT_EXISTS, rest(15, 700), back(25)), (1020, ended()))
    assert only(told).verdict is Verdict.HOLDS


def test_many_short_waits_add_up() -> None:
    """Retries of 300 ms each, none over the bound, are over it together."""
    told = trace(
        scenario(steps=ONE),
        *asked(rest(12, 299)),
        (312, call(4, "late.slice")),
        rest(313, 299),
        (613, made("/late.slice")),
        back(620),
        (700, ended()),
    )
    finding = only(told)
    assert (finding.verdict, finding.short) == (Verdict.VIOLATED, "SLOW 0.6s")


def test_a_paused_peer_that_went_on_is_our_time() -> None:
    """A pause by a fault that ends counts as held; one that never ends is the driver's to survive."""
    pause = Peer(id="p", when=point("first called"), peer="systemd", do="pause")
    resume = Peer(id="r", when=point("first returned"), peer="systemd", do="resume")
    told = [
        *asked(),
        (12, ev.FaultFired(fault="p", grade=ev.Grade.NATURAL, what="")),
        rest(13, 999),
        back(1015),
    ]
    after = [(1015.5, ev.FaultFired(fault="r", grade=ev.Grade.NATURAL, what="")), (1020, ended())]
    assert only(trace(scenario(pause, resume, steps=ONE), *told, *after)).verdict is Verdict.HOLDS
    assert only(trace(scenario(pause, resume, steps=ONE), *told, (1020, ended()))).verdict is Verdict.VIOLATED


@pytest.mark.parametrize("why", ["own wait", "bound"])
def test_a_wait_that_is_not_waited_out(why: str) -> None:
    """A step last seen in a timed wait of 30 s is slow, without waiting for it."""
    told = trace(
        scenario(steps=ONE),
        *asked(*UNIT_EXISTS, rest(15, 29_999)),
        (100, ev.StepNever(step="first", why=why)),
        (100, ended(why)),
    )
    finding = only(told)
    assert (finding.verdict, finding.short) == (Verdict.VIOLATED, "SLOW 30s")
    assert "the driver would wait 29.999 s more; not waited out" in finding.summary


@pytest.mark.parametrize(
    ("why", "told"),
    [
        ("bound", NOTHING),
        ("bound", (rest(15, None),)),
        ("unmet order", (rest(15, 29_999),)),
        ("own wait", ((14, removed(7, "late.slice")), (14, ev.MessageHeld(message=7, hold="h")), rest(15, 29_999))),
    ],
)
def test_unknown_where_the_waits_do_not_show_it(why: str, told: tuple[tuple[float, Event], ...]) -> None:
    """The wall-clock backstop alone, or a hold of ours, never makes a step slow."""
    done = trace(
        scenario(steps=ONE), *asked(*told), (30_000, ev.StepNever(step="first", why=why)), (30_000, ended(why))
    )
    assert only(done).verdict is Verdict.UNKNOWN


def test_time_that_nobody_accounts_for_is_unknown() -> None:
    """Wall time beyond the bound with no wait seen: a slow driver or a busy machine, and it says so."""
    told = trace(scenario(steps=ONE), *asked(*UNIT_EXISTS, back(900)), (1020, ended()))
    finding = only(told)
    assert finding.verdict is Verdict.UNKNOWN
    assert "busy machine" in finding.summary


MADE = made("/cgrace.slice/late.slice")


@pytest.mark.parametrize(
    ("acts", "verdict"),
    [
        ((), Verdict.UNKNOWN),
        (((450, MADE),), Verdict.HOLDS),
        (((450, made("/cgrace.slice/late.slice", by=Actor.SYSTEMD)),), Verdict.UNKNOWN),
        (((450, made("/cgrace.slice")),), Verdict.UNKNOWN),
        (((450, call(3, "late.slice")),), Verdict.UNKNOWN),
        (((100, MADE),), Verdict.UNKNOWN),
    ],
    ids=["nothing", "act", "systemd's act", "act elsewhere", "message that may be older", "act too early"],
)
def test_no_wait_hides_in_pieces_shorter_than_the_bound(
    acts: tuple[tuple[float, Event], ...], verdict: Verdict
) -> None:
    """Unwatched time longer than the bound holds where the kernel saw the driver act so that no piece of it is so long."""
    told = trace(scenario(steps=ONE), *asked(*UNIT_EXISTS, *acts, back(800)), (820, ended()))
    assert only(told).verdict is verdict


def test_an_act_that_may_be_anothers_cuts_nothing() -> None:
    """Two steps about one unit at a time: nobody knows whose mkdir it was."""
    second = (10, called("second", unit="late.slice"))
    told = trace(
        scenario(steps=ONE | {"second": "apply late.slice"}), *asked(second, *UNIT_EXISTS, (450, MADE), back(800))
    )
    assert latency.check(told)[0].verdict is Verdict.UNKNOWN


def test_a_step_within_its_bound_holds_whatever_its_timers_said() -> None:
    """A timer that would have run longer than the whole step took was not waited out."""
    told = trace(scenario(steps=ONE), *asked(*UNIT_EXISTS, rest(20, 700), back(400)), (420, ended()))
    assert only(told).verdict is Verdict.HOLDS


def test_a_slow_answer_is_accounted_for() -> None:
    """Two seconds between a call and its answer are the answerer's."""
    answer = ((2011, UNIT_EXISTS[0][1]), (2011, sent(2)))
    told = trace(scenario(steps=ONE), *asked(*answer, back(2015)), (2020, ended()))
    assert only(told).verdict is Verdict.HOLDS


@pytest.mark.parametrize(
    ("ns", "text"),
    [(999 * MS, "1s"), (29_999 * MS, "30s"), (1_520 * MS, "1.5s"), (87 * MS, "90ms"), (499 * MS, "0.5s"), (0, "0ms")],
)
def test_timers_are_rounded_as_they_were_written(ns: int, text: str) -> None:
    """A timer is read a little after it was set."""
    assert cell(ns) == text


def test_timers_that_run_out_one_after_the_other_add_up() -> None:
    """A driver whose connection is cut looks every second and sees nothing; nobody else sees that it looked."""
    ticks = [rest(15 + 1010 * n, 999) for n in range(6)]
    told = trace(scenario(steps=ONE, bound_ns=3 * S), *asked(*ticks), (5100, ended("bound", "again and again")))
    finding = only(told)
    assert (finding.verdict, finding.short) == (Verdict.VIOLATED, "SLOW 6s")
    assert "waited 5s on its own timers, and would wait 0.999 s more" in finding.summary
    few = trace(scenario(steps=ONE, bound_ns=7 * S), *asked(*ticks), (5100, ended("bound", "again and again")))
    assert only(few).verdict is Verdict.UNKNOWN
