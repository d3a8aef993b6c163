"""A wire between two lists: what the tests of plans and lanes share. No sockets, no processes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cgrace.harness import events as ev
from cgrace.harness import faults as ft
from cgrace.harness.dbus.frames import Frame
from cgrace.harness.dbus.message import Message, MessageType
from cgrace.harness.dbus.systemd1 import BUS_NAME
from cgrace.harness.engine.plan import Plan
from cgrace.harness.engine.wire import Wire
from cgrace.harness.events import Event
from cgrace.harness.points import parse_point
from cgrace.harness.scenario.model import Scenario, Setting, Step

MANAGER = "org.freedesktop.systemd1.Manager"


@dataclass(eq=False)
class FakeConnection:
    """What a wire needs of a connection; keeps what is written to either side."""

    id: int
    pid: int = 1
    to_driver_frames: list[Frame] = field(default_factory=list)
    to_systemd_frames: list[Frame] = field(default_factory=list)
    unfinished: int = 0
    bytes_in: int = 0

    def to_driver(self, frame: Frame) -> None:
        """As of the relay."""
        self.to_driver_frames.append(frame)

    def to_systemd(self, frame: Frame) -> None:
        """As of the relay."""
        self.to_systemd_frames.append(frame)

    def queues(self) -> tuple[int, int]:
        """As of the relay."""
        return self.bytes_in + self.unfinished, 0


@dataclass
class Bench:
    """A plan, a wire and connections; every recorded event goes through the plan, as in a run."""

    faults: Sequence[ft.Fault] = ()
    orders: Sequence[ft.Order] = ()
    steps: Sequence[Step] = ()
    ready: bool = True
    events: list[Event] = field(default_factory=list)
    acts: list[ft.Fault] = field(default_factory=list)
    failures: list[tuple[str, str]] = field(default_factory=list)
    serial: int = 0

    def __post_init__(self) -> None:
        scenario = Scenario(
            file=Path("x.toml"),
            name="x",
            title="x",
            settings=(Setting(profile="219-rhel7"),),
            steps=tuple(self.steps),
            faults=tuple(self.faults),
            orders=tuple(self.orders),
        )
        self.plan = Plan(scenario)
        self.wire = Wire(self.plan, self.record, lambda pid: "driver")
        self.wire.failed = lambda fault, why: self.failures.append((fault.id, why))
        self.connections: list[FakeConnection] = []
        if self.ready:
            self.get_ready()

    def get_ready(self) -> None:
        """The driver says hello."""
        self.wire.ready.add("driver")
        self.record(ev.DriverReady(process="driver", ok=True))

    def record(self, event: Event) -> None:
        """As a run does it: every event is fed to the plan, and what is due is done at once."""
        self.events.append(event)
        due = self.plan.on_event(event)
        for keep in due.open:
            was_closed, keep.open = keep.closed, True
            if was_closed:
                self.events.append(ev.HoldLetGo(hold=keep.fault.id, why="point"))
            self.wire.let_go(keep)
        self.acts += due.act

    def connect(self) -> FakeConnection:
        """One more connection of the driver."""
        connection = FakeConnection(len(self.connections) + 1)
        self.connections.append(connection)
        self.wire.connected(connection)  # type: ignore[arg-type]
        return connection

    def signal(self, connection: FakeConnection, unit: str, member: str = "JobRemoved", job: int = 1) -> int:
        """systemd says this to the connection; gives its serial."""
        self.serial += 1
        message = Message(
            type=MessageType.SIGNAL,
            serial=self.serial,
            path="/org/freedesktop/systemd1",
            interface=MANAGER,
            member=member,
            sender=":1.0",
            signature="uoss",
            body=(job, f"/org/freedesktop/systemd1/job/{job}", unit, "done"),
        )
        self.wire.from_systemd(connection, Frame.of(message))  # type: ignore[arg-type]
        return self.serial

    def call(self, connection: FakeConnection, unit: str, member: str = "StopUnit") -> int:
        """The driver calls systemd; gives the call's serial."""
        self.serial += 1
        message = Message(
            type=MessageType.CALL,
            serial=self.serial,
            path="/org/freedesktop/systemd1",
            interface=MANAGER,
            member=member,
            destination="org.freedesktop.systemd1",
            signature="ss",
            body=(unit, "replace"),
        )
        self.wire.from_driver(connection, Frame.of(message))  # type: ignore[arg-type]
        return self.serial

    def reply(self, connection: FakeConnection, to: int) -> int:
        """systemd answers a call; gives the reply's serial."""
        self.serial += 1
        message = Message(
            type=MessageType.REPLY,
            serial=self.serial,
            reply_serial=to,
            sender=":1.0",
            signature="o",
            body=("/org/freedesktop/systemd1/job/1",),
        )
        self.wire.from_systemd(connection, Frame.of(message))  # type: ignore[arg-type]
        return self.serial

    def listen(self, connection: FakeConnection) -> None:
        """The driver adds a match rule: from now on it is the signals' connection."""
        self.serial += 1
        rule = "type='signal',sender='org.freedesktop.systemd1'"
        message = Message(
            type=MessageType.CALL,
            serial=self.serial,
            path="/org/freedesktop/DBus",
            interface=BUS_NAME,
            member="AddMatch",
            destination=BUS_NAME,
            signature="s",
            body=(rule,),
        )
        self.wire.from_driver(connection, Frame.of(message))  # type: ignore[arg-type]

    def of(self, kind: type[Any]) -> list[Any]:
        """Recorded events of a kind."""
        return [event for event in self.events if isinstance(event, kind)]


def serials(frames: Sequence[Frame]) -> list[int]:
    """The serials of what was written."""
    return [frame.message.serial for frame in frames]


def match(unit: str = "", member: str = "JobRemoved", kind: str = "signal", nth: int | None = 1) -> ft.Match:
    """Which messages a fault acts on."""
    return ft.Match(text=f"{member} of {unit}", kind=kind, member=member, unit=unit, nth=nth)


def hold(name: str, until: str, which: ft.Match, *, overtake: bool = False) -> ft.Hold:
    """A hold without patience."""
    return ft.Hold(id=name, match=which, until=parse_point(until), patience_ns=None, overtake=overtake)


def step(name: str, after: Sequence[str] = (), unit: str = "cgrace-a.slice", process: str = "driver") -> Step:
    """A step that applies a unit."""
    points = tuple(parse_point(text) for text in after)
    return Step(id=name, do="apply", unit=unit, parent="cgrace.slice", after=points, process=process)
