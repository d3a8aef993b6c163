"""What a real systemd's signals say of jobs, whose turn it is, and which faults it cannot do."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, cast

import pytest

from cgrace.harness import events as ev
from cgrace.harness import faults as ft
from cgrace.harness.dbus import systemd1
from cgrace.harness.dbus.frames import Frame
from cgrace.harness.dbus.message import Message, MessageType, Variant
from cgrace.harness.engine.gates import refused
from cgrace.harness.engine.jobs import Jobs
from cgrace.harness.engine.turns import TURN_S_MAX, Turns
from cgrace.harness.events import Actor
from cgrace.harness.points import parse_point
from cgrace.harness.relay.connection import Connection

SOON = parse_point("s called")
A, B = f"{systemd1.JOB_PREFIX}7", f"{systemd1.JOB_PREFIX}8"
DRIVER, OTHER = cast(Connection, "calls"), cast(Connection, "signals")


def said(member: str, *body: Any, path: str = systemd1.PATH, interface: str = systemd1.MANAGER) -> Message:
    """A signal."""
    return Message(type=MessageType.SIGNAL, path=path, interface=interface, member=member, body=body)


def changed(path: str, interface: str, **values: str) -> Message:
    """PropertiesChanged."""
    properties = {name: Variant(signature="s", value=value) for name, value in values.items()}
    return said("PropertiesChanged", interface, properties, [], path=path, interface=systemd1.PROPERTIES)


def follow(*signals: Message, before: Callable[[Jobs], None] = lambda jobs: None) -> tuple[Jobs, list[str]]:
    """What jobs are known after these signals, and what was recorded, in words."""
    told: list[str] = []

    def record(event: ev.Event) -> None:
        if isinstance(event, ev.JobChanged):
            told.append(f"{event.type} of {event.unit} {event.state} {event.result}".strip())
        elif isinstance(event, ev.UnitChanged):
            told.append(f"{event.unit} {event.state}")

    jobs = Jobs(record, lambda job: None, lambda job: None)
    before(jobs)
    for signal in signals:
        jobs.on_signal(signal)
    return jobs, told


def test_a_job_that_was_run_in_one_turn_has_started_all_the_same() -> None:
    """Systemd says nothing between the two."""
    jobs, told = follow(said("JobNew", 7, A, "a.slice"), said("JobRemoved", 7, A, "a.slice", "done"))
    assert told == ["start of a.slice queued", "start of a.slice started", "start of a.slice ended done"]
    assert not jobs.any
    assert jobs.newest("a.slice") == A


def test_a_canceled_job_has_never_started() -> None:
    """It was queued, and then it was not."""
    _, told = follow(said("JobNew", 7, A, "a.slice"), said("JobRemoved", 7, A, "a.slice", "canceled"))
    assert told == ["start of a.slice queued", "start of a.slice ended canceled"]


def test_a_running_job_is_told_apart_from_a_waiting_one() -> None:
    """By the property that systemd announces."""
    new = [said("JobNew", 7, A, "a.slice"), said("JobNew", 8, B, "b.slice")]
    jobs, _ = follow(*new)
    assert jobs.queued() == ("start of a.slice", "start of b.slice")
    assert not jobs.any_runs
    jobs, told = follow(*new, changed(B, systemd1.JOB, State="running"))
    assert jobs.any_runs
    assert told[-1] == "start of b.slice started"


def test_the_type_of_a_job_is_what_was_asked_for_else_what_the_unit_needs() -> None:
    """JobNew does not say."""
    path = systemd1.unit_path("a.slice")
    up = [said("UnitNew", "a.slice", path), changed(path, systemd1.UNIT, ActiveState="active")]
    _, told = follow(*up, said("JobNew", 7, A, "a.slice"))
    assert told == ["a.slice active", "stop of a.slice queued"]
    call = ev.MessageSeen(
        message=1,
        connection=1,
        direction=ev.Direction.TO_SYSTEMD,
        kind="call",
        member="StartTransientUnit",
        unit="a.slice",
        serial=1,
        size=1,
    )
    _, told = follow(*up, said("JobNew", 7, A, "a.slice"), before=lambda jobs: jobs.asked(call))
    assert told[-1] == "start of a.slice queued"


def test_gates_are_nobodys_jobs() -> None:
    """They are how a job is kept, and no part of the run."""
    jobs, told = follow(said("JobNew", 7, A, "cgrace-gate-1.service"), said("UnitNew", "cgrace-gate-1.service", "/x"))
    assert (told, jobs.any, jobs.units) == ([], False, {})


def test_a_reload_says_nothing_new_of_units() -> None:
    """UnitRemoved and UnitNew come for every unit there is (systemd-behaviour: daemon-reload)."""
    path = systemd1.unit_path("a.slice")
    flood = [said("UnitRemoved", "a.slice", path), said("UnitNew", "dbus.service", "/x")]
    jobs, told = follow(said("UnitNew", "a.slice", path), said("Reloading", True), *flood, said("Reloading", False))
    assert (jobs.units, told) == ({"a.slice": ""}, [])


def test_what_was_missed_is_made_up_for() -> None:
    """A job that is not listed any more has ended, nobody heard how."""
    jobs, told = follow(said("JobNew", 7, A, "a.slice"))
    jobs.listed([(B, "b.slice", "running")])
    assert told[1:] == [
        "start of a.slice started",
        "start of a.slice ended",
        "start of b.slice queued",
        "start of b.slice started",
    ]


# ---- turns


class Heard:
    """A handler that notes."""

    def __init__(self) -> None:
        self.what: list[str] = []

    def connected(self, conn: Connection) -> None:
        """Nothing to note."""

    def disconnected(self, conn: Connection, by: Actor, why: str) -> None:
        """The end of a connection."""
        self.what.append(f"{conn} ended")

    def from_driver(self, conn: Connection, frame: Frame) -> None:
        """Not used."""

    def from_systemd(self, conn: Connection, frame: Frame) -> None:
        """What came, and where."""
        self.what.append(f"{conn} {frame.message.serial}")


def frame(serial: int, sender: str = ":1.0") -> Frame:
    """A message of systemd's, or the bus's."""
    message = Message(type=MessageType.SIGNAL, serial=serial, path="/a", interface="a.b", member="C", sender=sender)
    return Frame.of(message)


def turn(rests: Callable[[], bool], *frames: tuple[Connection, Frame], wait_s: float = 0.02) -> list[str]:
    """Hand these in; what was handed out after a while."""

    def broken(error: Exception) -> None:
        raise error

    async def go() -> list[str]:
        heard = Heard()
        turns = Turns(heard, rests, broken)
        for conn, one in frames:
            turns.from_systemd(conn, one)
        await asyncio.sleep(wait_s)
        turns.close()
        return heard.what

    return asyncio.run(go())


def test_systemd_is_heard_once_it_rests_in_the_order_in_which_it_spoke() -> None:
    """Over all connections, whichever was read first."""
    frames = [(OTHER, frame(9)), (DRIVER, frame(7)), (OTHER, frame(11)), (DRIVER, frame(10))]
    assert turn(lambda: True, *frames) == ["calls 7", "signals 9", "calls 10", "signals 11"]
    assert turn(lambda: False, *frames) == []


def test_the_bus_itself_is_heard_at_once_but_overtakes_nothing() -> None:
    """Of one connection the order stays."""
    bus = systemd1.BUS_NAME
    frames = [(DRIVER, frame(3, bus)), (OTHER, frame(9)), (OTHER, frame(4, bus))]
    assert turn(lambda: False, *frames) == ["calls 3"]
    assert turn(lambda: True, *frames) == ["calls 3", "signals 9", "signals 4"]


def test_a_systemd_that_never_rests_is_heard_all_the_same() -> None:
    """A slow job must not become a late reply."""
    assert turn(lambda: False, (DRIVER, frame(7)), wait_s=TURN_S_MAX + 0.1) == ["calls 7"]


# ---- what cannot be


@pytest.mark.parametrize(
    ("fault", "systemd", "why"),
    [
        (ft.JobEnds(id="x", line=1, unit="a.scope", result="failed"), 257, "processes are gone"),
        (ft.JobEnds(id="x", line=1, unit="a.scope", result="skipped"), 257, "verify or reload"),
        (ft.JobEnds(id="x", line=1, unit="a.scope", result="assert"), 257, "does not end a start job as 'assert'"),
        (ft.JobEnds(id="x", line=1, unit="a.scope", result="timeout"), 257, ""),
        (ft.JobEnds(id="x", line=1, unit="a.slice", result="timeout"), 257, "drop-in"),
        (ft.JobEnds(id="x", line=1, unit="a.scope", result="dependency"), 247, ""),
        (ft.JobEnds(id="x", line=1, unit="a.slice", result="canceled", type="stop"), 247, ""),
        (ft.JobStays(id="x", line=1, unit="a.slice", until=SOON, patience_ns=1, type="stop"), 247, ""),
        (ft.JobStays(id="x", line=1, unit="a.slice", until=SOON, patience_ns=1, type="stop"), 239, "before 240"),
        (ft.JobStays(id="x", line=1, unit="a.slice", until=SOON, patience_ns=1), 219, "before 228"),
        (ft.JobStays(id="x", line=1, unit="a.slice", until=SOON, patience_ns=1), 257, ""),
        (ft.JobStays(id="x", line=1, unit="a.slice", until=SOON, patience_ns=1, nth=2), 257, ""),
        (ft.Peer(id="x", line=1, when=SOON, peer="systemd", do="kill"), 257, "PID 1"),
        (ft.Peer(id="x", line=1, when=SOON, peer="systemd", do="reexec"), 257, ""),
        (ft.Peer(id="x", line=1, when=SOON, peer="bus", do="kill"), 257, ""),
    ],
)
def test_what_a_real_systemd_cannot_do_is_known_before(fault: ft.Fault, systemd: int, why: str) -> None:
    """By fault, with the reason."""
    found = refused([fault], systemd)
    assert bool(found) == bool(why)
    assert why in found.get("x", "")
