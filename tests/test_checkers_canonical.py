"""The canonical trace: the same for the same schedule, another for another."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
from checker_traces import (
    MS,
    call,
    called,
    closed,
    ended,
    gone,
    made,
    removed,
    reply,
    scenario,
    seen,
    sent,
    start,
    trace,
)
from hypothesis import given
from hypothesis import strategies as st

from cgrace.harness import events as ev
from cgrace.harness.canonical import canonical, canonical_hash
from cgrace.harness.events import Actor, Event, Grade
from cgrace.harness.trace import Trace

STEPS = [
    [(60.0, ev.StepReturned(step="first", driver_ns=5 * MS))],
    [(11.0, call(1, "late.slice")), (11.1, sent(1))],
    [(14.0, reply(2, 1, "late.slice")), (14.1, sent(2)), (15.0, removed(3, "late.slice")), (15.1, sent(3))],
    [(11.0, call(4, "other.slice")), (11.1, sent(4))],
    [(12.0, ev.JobChanged(job="/job/1", unit="late.slice", type="start", state="queued"))],
    [(12.0, ev.JobChanged(job="/job/2", unit="other.slice", type="start", state="queued"))],
    [(20.0, made("/late.slice")), (30.0, gone("/late.slice"))],
]


def told(lanes: list[list[tuple[float, Event]]], shuffle: int | None = None, noise: int = 0) -> Trace:
    """One trace of these lanes: in order of time, or interleaved by a seed; with `noise` observations between."""
    order = [(t, event) for lane in lanes for t, event in lane]
    if shuffle is None:
        order.sort(key=lambda item: item[0])
    else:
        pick = random.Random(shuffle)
        left = [list(lane) for lane in lanes]
        order = []
        while any(left):
            order.append(pick.choice([lane for lane in left if lane]).pop(0))
    for i in range(noise):
        order.insert(i % len(order), (16.0, ev.DriverWaits(process="driver", bound_ns=i)))
        order.insert(i % len(order), (16.0, ev.StepWaits(step="first", bound_ns=i)))
    look = [(80.0, seen("first", "/late.slice", exists=False)), (90.0, ended())]
    return trace(scenario(), *start(), (10, called("first")), *order, *look)


@given(st.integers(0, 10_000), st.integers(0, 5))
def test_interleaving_and_observations_do_not_matter(seed: int, noise: int) -> None:
    """However events of different lanes interleave, and however often the waits were looked at, the text is the same."""
    assert canonical(told(STEPS, seed, noise)) == canonical(told(STEPS))


@given(st.integers(1, 10**6))
def test_times_and_ids_do_not_matter(shift: int) -> None:
    """Other clocks, serials, message ids and job paths give the same text."""
    first = told(STEPS)

    def other(event: Event) -> Event:
        if isinstance(event, ev.MessageSeen):
            job = event.job and f"/job/{shift}"
            event = replace(event, serial=event.serial + shift, job=job, sender=f":1.{shift}")
        if isinstance(event, ev.MessageSeen | ev.MessageSent):
            event = replace(event, message=event.message + shift)
        if isinstance(event, ev.JobChanged):
            event = replace(event, job=f"/job/{shift}" if event.job == "/job/1" else "/job/other")
        return event

    entries = tuple(replace(entry, t_ns=entry.t_ns + shift, event=other(entry.event)) for entry in first.entries)
    assert canonical(replace(first, entries=entries)) == canonical(first)


@pytest.mark.parametrize(
    "change",
    [
        lambda lanes: lanes[0].pop(),
        lambda lanes: lanes[2].pop(),
        lambda lanes: lanes[2].__setitem__(2, (13.0, removed(3, "late.slice"))),
        lambda lanes: lanes[6].pop(),
        lambda lanes: lanes[6].append((31.0, made("/late.slice"))),
        lambda lanes: lanes[0].append((61.0, ev.FaultFired(fault="f", grade=Grade.LEGAL, what="x"))),
        lambda lanes: lanes.__setitem__(0, [(60.0, ev.StepReturned(step="first", error="no"))]),
    ],
)
def test_what_happened_matters(change: object) -> None:
    """A lost event, another order within a lane, another result: each is another canonical trace."""
    lanes = [list(lane) for lane in STEPS]
    change(lanes)  # type: ignore[operator]
    assert canonical_hash(told(lanes)) != canonical_hash(told(STEPS))


def test_the_tidying_after_a_proof_does_not_matter() -> None:
    """What the harness does once a step was given up for hung is not part of the run."""
    head = [*start(), (10, called("first")), (11, call(1, "late.slice")), (150, closed())]
    never = (151, ev.StepNever(step="first", why="proved"))
    tidy = [
        (152, removed(9, "late.slice")),
        (153, ev.ProcessExited(process="driver", status=-9)),
        (154, gone("/late.slice")),
    ]
    plain = trace(scenario(), *head, never, (160, ended("proved")))
    assert canonical(trace(scenario(), *head, never, *tidy, (160, ended("proved")))) == canonical(plain)
    assert "never (proved)" in canonical(plain)


def test_start_up_probes_do_not_matter() -> None:
    """Units that a driver tries before its hello carry its pid; they, and cgroups beside the steps' own, are left out."""

    def run(pid: int) -> Trace:
        unit = f"probe_{pid}.slice"
        return trace(
            scenario(),
            (1, ev.JobChanged(job=f"/job/{pid}", unit=unit, type="start", state="queued")),
            *start(),
            (3, made(f"/{unit}")),
            (10, called("first")),
            (11, gone(f"/{unit}")),
            (12, ev.UnitChanged(unit=unit, state="gone")),
            (13, made("/cgrace.slice", Actor.SYSTEMD if pid % 2 else Actor.DRIVER)),
            (14, made("/cgrace.slice/late.slice", Actor.SYSTEMD if pid % 2 else Actor.DRIVER)),
            *([(15, made("/system.slice"))] if pid % 2 else []),
            (20, ended()),
        )

    assert canonical(run(33)) == canonical(run(48))
    assert "pids/cgrace.slice/late.slice]" in canonical(run(33))
