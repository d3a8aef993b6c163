"""The plan alone: events in, decisions out."""

from __future__ import annotations

import pytest
from engine_wire_kit import Bench, hold, match, step

from cgrace.harness import events as ev
from cgrace.harness import faults as ft
from cgrace.harness.engine.plan import Plan
from cgrace.harness.errors import ScenarioError
from cgrace.harness.events import Event, Grade
from cgrace.harness.points import parse_point

A = "cgrace-a.slice"


def plan(**parts: object) -> Plan:
    """A plan of a scenario with these steps, faults and orders, whose driver has not said hello."""
    return Bench(**parts, ready=False).plan  # type: ignore[arg-type]


def ready(process: str = "driver") -> Event:
    """The hello of a driver process."""
    return ev.DriverReady(process=process, ok=True)


def called(name: str, process: str = "driver") -> Event:
    """A step is called."""
    return ev.StepCalled(step=name, process=process, op="apply", unit=A)


def returned(name: str, error: str = "") -> Event:
    """A step ends."""
    return ev.StepReturned(step=name, error=error)


def names(steps: tuple[object, ...]) -> list[str]:
    """The ids of steps."""
    return [getattr(one, "id", "") for one in steps]


def test_steps_wait_for_the_hello_and_their_points() -> None:
    """Each is due once, when the last of its points is reached."""
    it = plan(steps=[step("first"), step("second", ["first ended"])])
    assert names(it.on_event(ready()).steps) == ["first"]
    assert names(it.on_event(called("first")).steps) == []
    assert names(it.on_event(returned("first", "no")).steps) == ["second"]
    assert it.steps_waiting() == ()


def test_a_step_of_another_process_waits_for_that_one() -> None:
    """One hello arms the points; each process is called only when it is ready itself."""
    it = plan(steps=[step("first"), step("second", process="other")])
    assert names(it.on_event(ready()).steps) == ["first"]
    assert names(it.on_event(ready("other")).steps) == ["second"]


def test_nothing_counts_before_the_hello() -> None:
    """Start-up probes reach no point."""
    it = plan(steps=[step("first", ["JobRemoved of cgrace-a.slice seen"])])
    seen = ev.MessageSeen(
        message=1,
        connection=1,
        direction=ev.Direction.TO_DRIVER,
        kind="signal",
        member="JobRemoved",
        unit=A,
        probe=True,
    )
    it.on_event(seen)
    assert it.on_event(ready()).steps == ()


def test_a_fault_acts_once_at_its_point() -> None:
    """And is still to come until then."""
    fault = ft.Disconnect(id="cut", when=parse_point("first called"))
    it = plan(steps=[step("first")], faults=[fault])
    it.on_event(ready())
    assert it.to_come() == (fault,)
    assert it.on_event(called("first")).act == (fault,)
    assert it.to_come() == ()
    assert it.on_event(called("first")).act == ()


def test_stop_reading_acts_at_both_its_points() -> None:
    """At the first it stops, at the second it goes on."""
    fault = ft.StopReading(id="stop", when=parse_point("first called"), until=parse_point("first waits"))
    it = plan(steps=[step("first")], faults=[fault])
    it.on_event(ready())
    assert it.on_event(called("first")).act == (fault,)
    assert it.on_event(ev.StepWaits(step="first", bound_ns=None)).act == (fault,)


def test_orders_become_holds_gates_and_points() -> None:
    """By what the later point is: a message, a job, a step."""
    texts = (
        ("first called", f"JobRemoved of {A} delivered"),
        ("first called", f"job of {A} started"),
        ("first returned", "second called"),
    )
    orders = [
        ft.Order(first=parse_point(one), second=parse_point(two), text=f"{one} before {two}") for one, two in texts
    ]
    it = plan(steps=[step("first"), step("second")], orders=orders)
    kinds = {name: type(keep.fault) for name, keep in it.keeps.items()}
    assert kinds == {"order 1": ft.Hold, "order 2": ft.JobStays}
    assert all(keep.fault.patience_ns is None for keep in it.keeps.values())
    assert names(it.on_event(ready()).steps) == ["first"]
    assert names(it.on_event(returned("first")).steps) == ["second"]


def test_an_order_that_nothing_can_make_happen_is_refused() -> None:
    """Nobody can hold back when a driver returns."""
    order = ft.Order(first=parse_point("second called"), second=parse_point("first returned"), line=7, text="so")
    with pytest.raises(ScenarioError, match="nothing can hold back 'first returned'") as caught:
        plan(steps=[step("first"), step("second")], orders=[order])
    assert caught.value.line == 7


def test_patience_ends_with_a_wait_that_is_longer() -> None:
    """Without a limit, or with one beyond the patience; a hold without patience has none to lose."""
    patient = ft.Hold(id="p", match=match(A), until=parse_point("first ended"), patience_ns=500)
    it = plan(faults=[patient, hold("stubborn", "first ended", match(A))])
    for keep in it.keeps.values():
        keep.keeps = True
    assert it.on_wait(500) == ()
    for bound in (501, None):
        assert [keep.fault.id for keep in it.on_wait(bound)] == ["p"]
    it.keeps["p"].open = True
    assert it.on_wait(None) == ()
    assert [keep.fault.id for keep in it.closed()] == ["stubborn"]


def test_a_driver_without_a_bus_waits_for_no_message() -> None:
    """Points that cannot come are waived, and named; others stay."""
    bench = Bench(steps=[step("first", ["JobRemoved of cgrace-a.slice seen", "fault x fired"])], ready=False)
    it = Plan(bench.plan.scenario, uses_bus=False)
    assert [str(point) for _, point in it.waived] == ["JobRemoved of cgrace-a.slice seen"]
    it.on_event(ready())
    assert names(it.on_event(ev.FaultFired(fault="x", grade=Grade.LEGAL, what="")).steps) == ["first"]


def test_a_driver_without_a_bus_waits_for_no_fault_that_acts_on_it() -> None:
    """What a message would bring about by way of a fault is waived with it; a fault that acts at a step is not."""
    there = parse_point("JobRemoved of cgrace-a.slice seen")
    faults = [
        ft.Peer(id="died", when=there, peer="driver", do="kill"),
        ft.Peer(id="stopped", when=parse_point("first called"), peer="driver", do="pause"),
    ]
    steps = [step("first"), step("second", ["fault died fired", "fault stopped fired"])]
    it = Plan(Bench(steps=steps, faults=faults, ready=False).plan.scenario, uses_bus=False)
    assert [(name, str(point)) for name, point in it.waived] == [("second", "fault died fired")]


def test_a_step_left_without_a_point_follows_the_one_before_it() -> None:
    """What was to cross it on the bus comes after it where there is no bus."""
    steps = [step("first"), step("second", ["job of cgrace-a.slice queued"])]
    it = Plan(Bench(steps=steps, ready=False).plan.scenario, uses_bus=False)
    assert names(it.on_event(ready()).steps) == ["first"]
    it.on_event(called("first"))
    assert names(it.on_event(returned("first")).steps) == ["second"]


def test_a_step_behind_a_cut_is_known() -> None:
    """What waits for connections to be cut is called once its driver has noticed; other faults are no such thing."""
    cut = ft.Disconnect(id="cut", when=parse_point("first ended"))
    other = ft.Peer(id="died", when=parse_point("first ended"), peer="container", do="kill")
    steps = [step("first"), step("second", ["fault cut fired"]), step("third", ["fault died fired"])]
    plan = Bench(steps=steps, faults=[cut, other], ready=False).plan
    assert [s.id for s in plan.scenario.steps if plan.is_behind_cut(s)] == ["second"]
