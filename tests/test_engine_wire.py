"""Lanes and the wire without sockets: what a fault does to messages, and what it leaves alone."""

from __future__ import annotations

from collections import Counter
from typing import cast

from engine_wire_kit import MANAGER, Bench, FakeConnection, hold, match, serials
from hypothesis import given, settings
from hypothesis import strategies as st

from cgrace.harness import events as ev
from cgrace.harness import faults as ft
from cgrace.harness.dbus.message import Message, MessageType
from cgrace.harness.dbus.systemd1 import PATH
from cgrace.harness.engine.wire import Line
from cgrace.harness.events import Actor
from cgrace.harness.relay.connection import Connection

A, B = "cgrace-a.slice", "cgrace-b.slice"


def fire(bench: Bench, name: str = "go") -> None:
    """The point `fault NAME fired`."""
    bench.record(ev.FaultFired(fault=name, grade=ev.Grade.LEGAL, what=""))


def test_a_hold_keeps_all_behind_it_and_no_other_connection() -> None:
    """Order within a connection is a promise of D-Bus; between connections there is none."""
    bench = Bench(faults=[hold("h", "fault go fired", match(A))])
    one, two = bench.connect(), bench.connect()
    sent = [bench.signal(one, A), bench.signal(one, B)]
    other = bench.signal(two, B)
    assert (serials(one.to_driver_frames), serials(two.to_driver_frames)) == ([], [other])
    assert [(e.hold, e.behind) for e in bench.of(ev.MessageHeld)] == [("h", False), ("h", True)]
    fire(bench)
    assert serials(one.to_driver_frames) == sent


def test_overtake_lets_others_pass() -> None:
    """Only what is held waits."""
    bench = Bench(faults=[hold("h", "fault go fired", match(A), overtake=True)])
    one = bench.connect()
    first, second = bench.signal(one, A), bench.signal(one, B)
    fire(bench)
    assert serials(one.to_driver_frames) == [second, first]


def test_two_holds_on_one_message_must_both_let_go() -> None:
    """It goes with the later of the two."""
    bench = Bench(faults=[hold("h", "fault x fired", match(A)), hold("i", "fault y fired", match(A))])
    one = bench.connect()
    bench.signal(one, A)
    fire(bench, "y")
    assert not one.to_driver_frames
    fire(bench, "x")
    assert len(one.to_driver_frames) == 1


def test_a_point_of_the_flush_itself_keeps_the_order() -> None:
    """A hold until the message before it was sent opens while that one is being written, and still comes after it."""
    bench = Bench(
        faults=[
            hold("h", "fault go fired", match(A)),
            hold("i", f"JobRemoved of {A} sent", match(B)),
        ]
    )
    one = bench.connect()
    sent = [bench.signal(one, A), bench.signal(one, B), bench.signal(one, B)]
    fire(bench)
    assert serials(one.to_driver_frames) == sent


def test_a_dropped_message_never_arrives() -> None:
    """And the next one of its kind does."""
    bench = Bench(faults=[ft.Drop(id="d", match=match(A))])
    one = bench.connect()
    bench.signal(one, A)
    second = bench.signal(one, A)
    assert serials(one.to_driver_frames) == [second]
    assert [e.fault for e in bench.of(ev.MessageDropped)] == ["d"]


def test_every_is_every() -> None:
    """A match without a number acts on all."""
    bench = Bench(faults=[ft.Drop(id="d", match=match(A, nth=None))])
    one = bench.connect()
    for _ in range(3):
        bench.signal(one, A)
    assert not one.to_driver_frames
    assert len(bench.of(ev.FaultFired)) == 3


def test_a_duplicated_signal_arrives_twice_alike() -> None:
    """Byte for byte."""
    bench = Bench(faults=[ft.Duplicate(id="d", match=match(A))])
    one = bench.connect()
    bench.signal(one, A)
    first, second = one.to_driver_frames
    assert first.raw == second.raw


def test_a_duplicated_call_has_a_serial_of_its_own_and_one_answer() -> None:
    """A bus refuses a serial that was used; the driver must not see a reply to what it never sent."""
    bench = Bench(faults=[ft.Duplicate(id="d", match=match(A, "StopUnit", "call"))])
    one = bench.connect()
    bench.call(one, A)
    first, second = serials(one.to_systemd_frames)
    assert first != second
    answer = bench.reply(one, first)
    bench.reply(one, second)
    assert serials(one.to_driver_frames) == [answer]


def test_a_held_duplicate_is_still_one_of_each() -> None:
    """Both copies wait, the second with its own serial."""
    which = match(A, "StopUnit", "call")
    bench = Bench(faults=[hold("h", "fault go fired", which), ft.Duplicate(id="d", match=which)])
    one = bench.connect()
    bench.call(one, A)
    assert not one.to_systemd_frames
    fire(bench)
    assert len(set(serials(one.to_systemd_frames))) == 2


def test_a_hold_behind_a_duplicate_holds_the_second_alone() -> None:
    """Faults act in the order of the file: what was sent already is not held any more."""
    bench = Bench(faults=[ft.Duplicate(id="d", match=match(A)), hold("h", "fault go fired", match(A))])
    one = bench.connect()
    bench.signal(one, A)
    assert len(one.to_driver_frames) == 1
    fire(bench)
    assert len(one.to_driver_frames) == 2


def test_reorder_swaps_with_the_next_one() -> None:
    """And the fault has fired only then."""
    bench = Bench(faults=[ft.Reorder(id="r", match=match(A))])
    one = bench.connect()
    first = bench.signal(one, A)
    assert not bench.of(ev.FaultFired)
    second, third = bench.signal(one, B), bench.signal(one, B)
    assert serials(one.to_driver_frames) == [second, first, third]
    assert [e.fault for e in bench.of(ev.FaultFired)] == ["r"]


def test_two_in_a_row_that_are_reordered_change_places() -> None:
    """The second is the next one of the first; neither is put off further."""
    bench = Bench(faults=[ft.Reorder(id="r", match=match(A, nth=None))])
    one = bench.connect()
    first, second, third = (bench.signal(one, unit) for unit in (A, A, B))
    assert serials(one.to_driver_frames) == [second, first, third]


def test_reorder_behind_a_hold_swaps_with_what_follows_it() -> None:
    """Not with what was held before it."""
    bench = Bench(faults=[hold("h", "fault go fired", match(A)), ft.Reorder(id="r", match=match(B))])
    one = bench.connect()
    a, b, c = bench.signal(one, A), bench.signal(one, B), bench.signal(one, "cgrace-c.slice")
    fire(bench)
    assert serials(one.to_driver_frames) == [a, c, b]


def test_reorder_without_a_next_one_is_given_up_and_has_not_fired() -> None:
    """Nothing stays with us; the checker will say that the fault never acted."""
    bench = Bench(faults=[ft.Reorder(id="r", match=match(A))])
    one = bench.connect()
    first = bench.signal(one, A)
    bench.wire.give_up_swaps()
    assert serials(one.to_driver_frames) == [first]
    assert not bench.of(ev.FaultFired)
    assert [e.why for e in bench.of(ev.HoldLetGo)] == ["end"]


def test_an_answered_call_goes_nowhere() -> None:
    """The driver gets the error, systemd nothing."""
    fault = ft.AnswerError(id="a", match=match(A, "StopUnit", "call"), name="org.x.Error", text="no")
    bench = Bench(faults=[fault])
    one = bench.connect()
    call = bench.call(one, A)
    (frame,) = one.to_driver_frames
    assert not one.to_systemd_frames
    assert (frame.message.type, frame.message.reply_serial) == (MessageType.ERROR, call)
    assert (frame.message.error_name, frame.message.body) == ("org.x.Error", ("no",))


def test_an_answer_is_replaced() -> None:
    """On match of an answer the call was carried out, and the driver hears of a failure."""
    bench = Bench(faults=[ft.AnswerError(id="a", match=match(A, "StopUnit", "answer"), name="org.x.Error", text="no")])
    one = bench.connect()
    call = bench.call(one, A)
    bench.reply(one, call)
    assert len(one.to_systemd_frames) == 1
    assert [(f.message.type, f.message.reply_serial) for f in one.to_driver_frames] == [(MessageType.ERROR, call)]


def test_amend_replaces_arguments() -> None:
    """Two amendments of one message add up."""
    faults = [
        ft.Amend(id="a", match=match(A), values=((3, "failed"),)),
        ft.Amend(id="b", match=match(A), values=((0, 7),)),
    ]
    bench = Bench(faults=faults)
    one = bench.connect()
    bench.signal(one, A)
    assert one.to_driver_frames[0].message.body == (7, "/org/freedesktop/systemd1/job/1", A, "failed")


def test_an_amendment_that_does_not_fit_is_named() -> None:
    """Wrong number or type: the message goes on as it was, and the run learns why."""
    for values in (((9, "x"),), ((0, "not a number"),)):
        bench = Bench(faults=[ft.Amend(id="a", match=match(A), values=values)])
        one = bench.connect()
        bench.signal(one, A)
        assert len(one.to_driver_frames) == 1
        assert [name for name, _ in bench.failures] == ["a"]
        assert not bench.of(ev.FaultFired)


def test_probes_are_left_alone_unless_meant() -> None:
    """Before the hello only a match with `probe` acts, and only those before it count for it."""
    meant = ft.Match(text="", kind="signal", member="JobRemoved", unit=A, probe=True)
    bench = Bench(faults=[ft.Drop(id="d", match=match(A)), ft.Drop(id="p", match=meant)], ready=False)
    one = bench.connect()
    bench.signal(one, A)
    assert [e.fault for e in bench.of(ev.FaultFired)] == ["p"]
    bench.get_ready()
    bench.signal(one, A)
    assert [e.fault for e in bench.of(ev.FaultFired)] == ["p", "d"]


def test_a_closed_connection_frees_its_holds() -> None:
    """What was kept for it goes nowhere, so that the hold is no reason to wait any more."""
    bench = Bench(faults=[hold("h", "fault go fired", match(A))])
    one = bench.connect()
    bench.signal(one, A)
    assert len(bench.plan.closed()) == 1
    bench.wire.disconnected(one, Actor.DRIVER, "")  # type: ignore[arg-type]
    assert not bench.plan.closed()
    assert [e.fault for e in bench.of(ev.MessageDropped)] == ["the connection is closed"]
    fire(bench)
    assert not one.to_driver_frames


def test_a_stalled_bus_passes_nothing_until_it_goes_on() -> None:
    """On connections made meanwhile neither."""
    bench = Bench()
    bench.wire.stall(True)
    one = bench.connect()
    sent = [bench.signal(one, A), bench.signal(one, B)]
    assert not one.to_driver_frames
    bench.wire.stall(False)
    assert serials(one.to_driver_frames) == sent


def test_a_strangers_signal_is_heard_by_who_names_no_sender() -> None:
    """A rule that names systemd does not pick what another peer sends, one that names nobody does, and junk picks nothing."""
    line = Line(cast(Connection, FakeConnection(1)), 1, "driver")
    signal = Message(
        type=MessageType.SIGNAL, path=PATH, interface=MANAGER, member="JobRemoved", sender=":1.99", serial=1
    )
    line.rules = ["no rule", "type='signal',member='JobRemoved',sender='org.freedesktop.systemd1'"]
    assert not line.hears(signal, (":1.99",))
    assert line.hears(signal, (":1.0", "org.freedesktop.systemd1"))
    line.rules.append(f"type='signal',interface='{MANAGER}',member='JobRemoved'")
    assert line.hears(signal, (":1.99",))


def test_half_a_message_is_no_movement() -> None:
    """A driver that owes the rest of a message is at rest; unread bytes of whole ones are movement, unless they shall stay."""
    bench = Bench()
    one = bench.connect()
    one.unfinished = 10
    assert bench.wire.queues("driver") == (0, 0)
    one.bytes_in = 5
    assert bench.wire.queues("driver") == (5, 0)
    bench.wire.lines[one.id].unread = True
    assert bench.wire.queues("driver") == (0, 0)


# ---- random schedules

UNITS = [f"cgrace-{letter}.slice" for letter in "abcd"]
_FAULTS = st.lists(
    st.tuples(
        st.sampled_from(["hold", "overtake", "drop", "duplicate", "reorder"]),
        st.sampled_from(UNITS),
        st.sampled_from([1, 2, None]),
        st.integers(0, 2),
    ),
    max_size=5,
)
_MOVES = st.lists(
    st.one_of(
        st.tuples(st.just("message"), st.integers(0, 1), st.sampled_from(UNITS)),
        st.tuples(st.just("open"), st.integers(0, 2), st.just("")),
    ),
    max_size=30,
)


def made(number: int, kind: str, unit: str, nth: int | None, gate: int) -> ft.Fault:
    """A fault of a random schedule; holds let go at `fault gate<N> fired`."""
    name, which = f"f{number}", match(unit, nth=nth)
    match kind:
        case "hold" | "overtake":
            return hold(name, f"fault gate{gate} fired", which, overtake=kind == "overtake")
        case "drop":
            return ft.Drop(id=name, match=which)
        case "duplicate":
            return ft.Duplicate(id=name, match=which)
    return ft.Reorder(id=name, match=which)


@settings(max_examples=150, deadline=None)
@given(_FAULTS, _MOVES)
def test_no_schedule_loses_what_no_fault_touched(
    faults: list[tuple[str, str, int | None, int]], moves: list[tuple[str, int, str]]
) -> None:
    """Every message arrives as often as the faults on it say; those that none reordered, in order; and nothing stays."""
    bench = Bench(faults=[made(number, *fault) for number, fault in enumerate(faults)])
    pair = (bench.connect(), bench.connect())
    sent: dict[FakeConnection, list[int]] = {one: [] for one in pair}
    units: dict[int, str] = {}
    for kind, number, unit in moves:
        if kind == "message":
            serial = bench.signal(pair[number], unit)
            sent[pair[number]].append(serial)
            units[serial] = unit
        else:
            fire(bench, f"gate{number}")
    for gate in range(3):
        fire(bench, f"gate{gate}")
    bench.wire.give_up_swaps()

    assert not bench.plan.closed()
    held = [lane.held() for line in bench.wire.lines.values() for lane in line.lanes.values()]
    assert not any(held)
    touched = {kind: {unit for what, unit, _, _ in faults if what == kind} for kind in ("drop", "duplicate")}
    moved = {unit for what, unit, _, _ in faults if what in ("reorder", "overtake")}
    for one, serials_sent in sent.items():
        arrived = Counter(serials(one.to_driver_frames))
        for serial in serials_sent:
            if units[serial] not in touched["drop"] | touched["duplicate"]:
                assert arrived[serial] == 1
            elif units[serial] not in touched["drop"]:
                assert arrived[serial] >= 1
            elif units[serial] not in touched["duplicate"]:
                assert arrived[serial] <= 1
        first = list(dict.fromkeys(serials(one.to_driver_frames)))
        kept = [serial for serial in first if units[serial] not in moved]
        assert kept == sorted(kept)
