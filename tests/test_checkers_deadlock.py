"""No deadlock: a literal trace of each kind, and every way in which a proof can be none."""

from __future__ import annotations

from typing import Any

import pytest
from checker_traces import MS, S, call, called, closed, ended, made, removed, reply, scenario, sent, start, trace

from cgrace.harness import events as ev
from cgrace.harness.checkers import check_all, deadlock, latency
from cgrace.harness.events import Event, Grade
from cgrace.harness.faults import Hold, Match
from cgrace.harness.points import parse_point
from cgrace.harness.verdict import Invariant, Verdict

DUMP = """goroutine 1 [IO wait]:
internal/poll.runtime_pollWait(0x7f0a, 0x72)
\t/usr/local/go/src/runtime/netpoll.go:351 +0x85
bufio.(*Scanner).Scan(0xc000055e70)
\t/usr/local/go/src/bufio/scan.go:226 +0x81e
main.main()
\t/src/shim/main.go:60 +0x1a5

goroutine 21 [sync.Mutex.Lock]:
internal/sync.runtime_SemacquireMutex(0x13?, 0x0?, 0x1?)
\t/usr/local/go/src/runtime/sema.go:95 +0x25
internal/sync.(*Mutex).lockSlow(0xc0000a00c8)
\t/usr/local/go/src/internal/sync/mutex.go:149 +0x15d
sync.(*Mutex).Lock(...)
\t/usr/local/go/src/sync/mutex.go:46
github.com/coreos/go-systemd/dbus.(*Conn).startJob(0xc0000a0070, 0xc0000b2000, {0x4bbee8, 0xb}, {0xc0000a5788?, 0x2, 0x3})
\t/build/vendor/github.com/coreos/go-systemd/dbus/methods.go:42 +0x89
github.com/coreos/go-systemd/dbus.(*Conn).StartTransientUnit(...)
\t/build/vendor/github.com/coreos/go-systemd/dbus/methods.go:180
github.com/opencontainers/runc/libcontainer/cgroups/systemd.(*Manager).Apply(0xc000018058, 0x8)
\t/build/vendor/github.com/opencontainers/runc/libcontainer/cgroups/systemd/apply_systemd.go:305 +0xca
created by main.(*server).dispatch in goroutine 1
\t/src/shim/shim.go:130 +0x185

goroutine 9 [chan send, 2 minutes]:
github.com/coreos/go-systemd/dbus.(*Conn).jobComplete(0xc0000a0070, {0x4bbc36, 0xa})
\t/build/vendor/github.com/coreos/go-systemd/dbus/methods.go:34 +0x88
github.com/coreos/go-systemd/dbus.(*Conn).dispatch.func1()
\t/build/vendor/github.com/coreos/go-systemd/dbus/subscription.go:70 +0x2d
created by github.com/coreos/go-systemd/dbus.(*Conn).dispatch in goroutine 6
\t/build/vendor/github.com/coreos/go-systemd/dbus/subscription.go:60 +0x4f
"""
HOLD = Hold(
    id="late",
    line=9,
    match=Match(text="JobRemoved of late.slice", kind="signal", member="JobRemoved", unit="late.slice"),
    until=parse_point("first returned"),
    patience_ns=1500 * MS,
)


def row_7b(*look: tuple[float, Event], why: str = "proved", text: str = "") -> Any:
    """The story's row 7b: JobRemoved comes after the driver's second, and the next apply hangs."""
    return trace(
        scenario(HOLD),
        *start(),
        (10, called("first")),
        (11, call(1, "late.slice")),
        (11, sent(1)),
        (12, reply(2, 1, "late.slice")),
        (12, sent(2)),
        (13, removed(3, "late.slice")),
        (13, ev.FaultFired(fault="late", grade=Grade.LEGAL, what="held", message=3)),
        (13, ev.MessageHeld(message=3, hold="late")),
        (15, ev.StepWaits(step="first", bound_ns=999 * MS)),
        (1012, ev.StepReturned(step="first", driver_ns=1001 * MS)),
        (1012, ev.HoldLetGo(hold="late", why="point")),
        (1013, sent(3)),
        (1020, called("second")),
        *look,
        (1200, ev.StepNever(step="second", why=why)),
        (1201, ended(why, text)),
    )


def test_a_proof_makes_a_hang() -> None:
    """A closed world after the last progress is a hang, with the wait graph, the time it took and the grade."""
    told = row_7b((1150, closed()), (1160, ev.Stacks(process="driver", text=DUMP)))
    (finding,) = deadlock.check(told)
    assert finding.verdict is Verdict.VIOLATED
    assert (finding.subject, finding.short) == ("second", "HANG")
    assert finding.summary == 'HANG of "second" (other.slice), proved in 0.13 s'
    assert finding.evidence == (
        "goroutine 9   jobComplete  sends to a channel that nobody reads, holds jobListener  dbus/methods.go:34",
        "goroutine 21  startJob     waits for jobListener                                    dbus/methods.go:42",
        "nothing can free it: bus idle, 0 holds, 0 jobs, all 7 threads wait without limit",
        'last progress: "second" was called',
    )
    assert finding.grade is Grade.LEGAL
    assert "jobComplete" in finding.explanation
    assert finding.explanation.count(". ") == 2
    assert any("1780" in text for text in finding.assumptions)


def test_a_hang_is_not_judged_as_slow() -> None:
    """A proved hang is the deadlock checker's alone; the held second of the first step is ours."""
    assert [f.verdict for f in latency.check(row_7b((1150, closed())))] == [Verdict.HOLDS, Verdict.HOLDS]


@pytest.mark.parametrize(
    ("spoiled", "named"),
    [
        ({"bound_ns": 5 * MS}, "wakes by itself within 5.0 ms"),
        ({"bytes_in": 3}, "3 bytes from it"),
        ({"holds": ("late",)}, "we still held late"),
        ({"jobs": ("a.slice/start",)}, "a.slice/start queued"),
        ({"unaccounted": ("timerfd 9",)}, "not accounted for: timerfd 9"),
        ({"quiet_ns": 49 * MS}, "quiet for only 49 ms"),
    ],
)
def test_what_a_look_lacks_is_named(spoiled: dict[str, Any], named: str) -> None:
    """Each missing part of a proof makes the finding unknown and is named."""
    (finding,) = deadlock.check(row_7b((1150, closed(**spoiled))))
    assert finding.verdict is Verdict.UNKNOWN
    assert named in finding.summary


def test_what_a_stuck_reader_leaves_unread_is_no_excuse() -> None:
    """Its threads slept on after it had been written, so it wakes nobody: still a proof."""
    (finding,) = deadlock.check(row_7b((1150, closed(bytes_out=768))))
    assert finding.verdict is Verdict.VIOLATED
    assert any("unread" in line for line in finding.evidence)


@pytest.mark.parametrize(
    "later",
    [
        (1160, call(9, "other.slice")),
        (1160, made("/other.slice")),
        (1160, ev.FaultFired(fault="late", grade=Grade.LEGAL, what="again")),
        (1149, call(9, "other.slice")),
    ],
)
def test_progress_after_or_just_before_the_look_undoes_it(later: tuple[float, Event]) -> None:
    """A look proves nothing when the process moved after it, or so shortly before that it cannot have been quiet."""
    (finding,) = deadlock.check(row_7b(*sorted([(1150, closed()), later], key=lambda told: told[0])))
    assert finding.verdict is Verdict.UNKNOWN
    assert "progress" in finding.summary


def test_a_later_look_may_prove_what_an_earlier_one_did_not() -> None:
    """Of several looks the first that lacks nothing counts."""
    told = row_7b((1100, closed()), (1101, call(9, "other.slice")), (1180, closed()))
    (finding,) = deadlock.check(told)
    assert finding.verdict is Verdict.VIOLATED
    assert "0.08 s" in finding.summary


def test_a_message_that_we_hold_is_no_deadlock() -> None:
    """The relay's own events are a second witness: while it keeps a message back nothing is proved."""
    told = row_7b((1030, removed(5, "other.slice")), (1031, ev.MessageHeld(message=5, hold="h")), (1150, closed()))
    (finding,) = deadlock.check(told)
    assert finding.verdict is Verdict.UNKNOWN
    assert "we still held h" in finding.summary


@pytest.mark.parametrize(
    ("why", "verdict"),
    [
        ("own wait", Verdict.HOLDS),
        ("bound", Verdict.UNKNOWN),
        ("unmet order", Verdict.UNKNOWN),
        ("interrupted", Verdict.UNKNOWN),
        ("driver died", Verdict.HOLDS),
    ],
)
def test_no_proof_no_violation(why: str, verdict: Verdict) -> None:
    """However a run ends, a step that is out without a proof is never called a deadlock."""
    told = row_7b((1100, ev.StepWaits(step="second", bound_ns=30 * S)), why=why, text="x")
    (finding,) = deadlock.check(told)
    assert finding.verdict is verdict


def test_several_hung_steps_are_several_findings() -> None:
    """One look proves every step of its process that was out; steps of another process are not touched."""
    told = trace(
        scenario(steps={"first": "apply late.slice", "second": "apply other.slice", "third": "apply third.slice"}),
        *start(),
        *start("driver2"),
        (10, called("first")),
        (11, called("second")),
        (12, called("third", process="driver2")),
        (150, closed()),
        (160, ev.StepNever(step="first", why="proved")),
        (160, ev.StepNever(step="second", why="proved")),
        (160, ev.StepNever(step="third", why="proved")),
        (161, ended("proved")),
    )
    found = {f.subject: f.verdict for f in deadlock.check(told)}
    assert found == {"first": Verdict.VIOLATED, "second": Verdict.VIOLATED, "third": Verdict.UNKNOWN}


def test_all_came_back() -> None:
    """A run in which every step ended holds, and so does every other checker of it."""
    told = trace(
        scenario(), *start(), (5, called("first")), (9, ev.StepReturned(step="first", driver_ns=4 * MS)), (20, ended())
    )
    assert {f.verdict for f in check_all(told)} == {Verdict.HOLDS}
    assert {f.invariant for f in check_all(told)} == set(Invariant)


def test_a_trace_with_a_foreign_scenario_is_unknown() -> None:
    """A head that carries no scenario makes every checker unknown, and raises nothing."""
    told = trace(scenario(), *start(), (20, ended()))
    spoiled = type(told)(type(told.head)(scenario={}, driver={}, target="", profile="", layout=""), told.entries)
    assert {f.verdict for f in check_all(spoiled)} == {Verdict.UNKNOWN}


@pytest.mark.parametrize(
    ("spoilt", "verdict"), [({}, Verdict.HOLDS), ({"jobs": ("start of late.slice",)}, Verdict.UNKNOWN)]
)
def test_a_driver_that_wakes_by_itself_is_in_no_deadlock(spoilt: dict[str, Any], verdict: Verdict) -> None:
    """It looks again every second and finds nothing; what else could still end that keeps it unknown."""
    told = trace(
        scenario(steps={"first": "apply late.slice"}),
        *start(),
        (10, called("first")),
        (12, ev.StepWaits(step="first", bound_ns=999 * MS)),
        (9000, closed(bound_ns=999 * MS, quiet_ns=1, **spoilt)),
        (9001, ev.StepNever(step="first", why="bound")),
        (9001, ended("bound", "again and again")),
    )
    (finding,) = deadlock.check(told)
    assert finding.verdict is verdict
