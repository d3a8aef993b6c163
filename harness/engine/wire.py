"""The wire between driver and bus: names every message, asks the plan what acts on it, keeps back and lets go.

One lane for each direction of each connection keeps its order (lanes.py): what is held holds all behind it, unless it is to
be overtaken. The relay moves bytes; only this file touches messages.
"""

from __future__ import annotations

import base64
import contextlib
import dataclasses
from collections.abc import Callable, Collection
from dataclasses import dataclass, field

from cgrace.harness import events as ev
from cgrace.harness import faults as ft
from cgrace.harness.dbus.frames import Frame
from cgrace.harness.dbus.match import MatchRuleError, parse_rule
from cgrace.harness.dbus.message import Message, MessageType
from cgrace.harness.dbus.systemd1 import view
from cgrace.harness.engine.lanes import Item, Lane
from cgrace.harness.engine.plan import Keep, Plan
from cgrace.harness.errors import ProtocolError
from cgrace.harness.events import Actor, Direction, Event, MessageSeen
from cgrace.harness.relay.connection import Connection

# Serials of our own on a connection start here: no driver comes that far within a run.
OWN_SERIALS_FROM = 0x7F00_0000
BUS_NAME = "org.freedesktop.DBus"


@dataclass(slots=True)
class Line:
    """One driver connection as the wire knows it."""

    connection: Connection
    number: int
    process: str
    calls: dict[int, Message] = field(default_factory=dict)
    swallow: set[int] = field(default_factory=set)
    rules: list[str] = field(default_factory=list)
    lanes: dict[Direction, Lane] = field(default_factory=dict)
    untaken: list[int] = field(default_factory=list)
    own_serial: int = OWN_SERIALS_FROM
    mute: bool = False
    unread: bool = False  # a fault has it that nothing more is read from the driver
    is_open: bool = True

    @property
    def is_signals(self) -> bool:
        """Whether this is the connection on which the driver listens (Go drivers make two)."""
        return bool(self.rules)

    def hears(self, message: Message, sender_names: Collection[str]) -> bool:
        """Whether one of its rules picks this broadcast. A rule that is none (the bus refused it) picks nothing."""
        for rule in self.rules:
            with contextlib.suppress(MatchRuleError):
                if parse_rule(rule).matches(message, sender_names):
                    return True
        return False


class Wire:
    """Handler of a relay. `record` appends to the trace; `process_of` names the process behind an outer pid.

    before_driver: called before a message of the driver's is recorded, so that what the kernel saw before it stands before it.
    before_systemd: the same for a message of systemd's, and what systemd itself has told us. passes: told of a driver's message
    before it is recorded.
    failed: called with a fault that cannot be carried out, and why.
    """

    def __init__(self, plan: Plan, record: Callable[[Event], object], process_of: Callable[[int], str]) -> None:
        self._plan = plan
        self._record = record
        self.before_driver: Callable[[], None] = lambda: None
        self.before_systemd: Callable[[], None] = lambda: None
        self.passes: Callable[[MessageSeen], None] = lambda seen: None
        self.failed: Callable[[ft.Fault, str], None] = lambda fault, why: None
        self._process_of = process_of
        self._messages = 0
        self.lines: dict[int, Line] = {}
        self._stalled = False
        self._unread = False
        self._down = False
        self.ready: set[str] = set()

    # ---- called by the relay

    def connected(self, conn: Connection) -> None:
        """A driver connected and said who it is."""
        number = len(self.lines) + 1
        process = self._process_of(conn.pid)
        line = self.lines[conn.id] = Line(conn, number, process)
        for way in Direction:
            line.lanes[way] = lane = Lane(self._writer(line, way), self._swapped)
            lane.stalled = self._stalled
        line.unread = self._unread
        if self._unread:
            conn.pause_reading()
        if self._down:
            conn.close("there is no bus")
        self._record(ev.Connected(connection=number, process=process))

    def disconnected(self, conn: Connection, by: Actor, why: str) -> None:
        """A connection ended."""
        line = self.lines.get(conn.id)
        if line is not None and line.is_open:
            line.is_open = False
            untaken, line.untaken = line.untaken, []
            # Who closes a socket with nothing unread in it (the other end then sees a reset, and so `why`) had taken all of it.
            for message in untaken if by is Actor.DRIVER and not why else ():
                self._record(ev.MessageTaken(message=message))
            self._record(ev.Disconnected(connection=line.number, by=by, why=why))
            self._lose(line)

    def from_driver(self, conn: Connection, frame: Frame) -> None:
        """A message for systemd or the bus."""
        line = self.lines[conn.id]
        message = frame.message
        if line.process in self.ready:
            self.before_driver()
        if message.type is MessageType.CALL:
            line.calls[message.serial] = message
        self._note_rule(line, message)
        self._arrived(line, Direction.TO_SYSTEMD, frame, message, None)

    def from_systemd(self, conn: Connection, frame: Frame) -> None:
        """A message for the driver."""
        self.before_systemd()
        line = self.lines[conn.id]
        message = frame.message
        if message.reply_serial in line.swallow:
            line.swallow.discard(message.reply_serial)
            return
        self._arrived(line, Direction.TO_DRIVER, frame, message, line.calls.get(message.reply_serial))

    # ---- called by the engine

    def let_go(self, keep: Keep) -> None:
        """Send what the keep, which is open now, held back, and what waited behind it."""
        for line in tuple(self.lines.values()):
            for lane in line.lanes.values():
                if any(keep in item.keeps for item in lane.held()):
                    lane.flush()

    def stall(self, on: bool) -> None:
        """The bus stops, or goes on: nothing passes in either direction, on connections to come neither."""
        self._stalled = on
        for line in tuple(self.lines.values()):
            for lane in line.lanes.values():
                lane.stalled = on
                lane.flush()

    def read(self, on: bool) -> None:
        """Read what drivers say, or not any more, on connections to come neither."""
        self._unread = not on
        for line in tuple(self.lines.values()):
            line.unread = not on
            if line.is_open:
                line.connection.resume_reading() if on else line.connection.pause_reading()

    def down(self, on: bool) -> None:
        """The bus ends, and every connection with it; or it can be had again."""
        self._down = on
        for line in self.choose("all"):
            line.connection.close("the bus went away")

    def give_up_swaps(self) -> None:
        """Nothing more comes: what was to follow the next message goes without one, and its fault has not acted."""
        for line in tuple(self.lines.values()):
            for lane in line.lanes.values():
                if (item := lane.give_up_swap()) is not None and item.swap is not None:
                    self._record(
                        ev.HoldLetGo(hold=item.swap.id, why="end", cause="no message came that it could follow")
                    )

    def held_process(self, keep: Keep) -> str:
        """The process whose message the keep holds back ("" where it holds none)."""
        for line in self.lines.values():
            for lane in line.lanes.values():
                if any(keep in item.keeps for item in lane.held()):
                    return line.process
        return ""

    def queues(self, process: str) -> tuple[int, int]:
        """Bytes that lie in the sockets of a process's connections: (not read by the relay, not read by the driver).

        What is not to be read, or is half a message for which the driver owes the rest, is no movement and does not count.
        """
        bytes_in = bytes_out = 0
        for line in self.lines.values():
            if line.process == process and line.is_open:
                unread, unsent = line.connection.queues()
                bytes_in += 0 if line.unread else max(unread - line.connection.unfinished, 0)
                bytes_out += unsent
        return bytes_in, bytes_out

    def is_unread(self, process: str) -> bool:
        """Whether a fault has it that nothing is read from the process any more."""
        return any(line.unread for line in self.lines.values() if line.process == process and line.is_open)

    def taken(self, process: str) -> None:
        """The process came to rest with nothing left in its sockets: it has taken all that was sent."""
        for line in self.lines.values():
            if line.process == process:
                untaken, line.untaken = line.untaken, []
                for message in untaken:
                    self._record(ev.MessageTaken(message=message))

    def descriptors(self, process: str) -> tuple[int, ...]:
        """Our ends of the process's connections."""
        return tuple(
            line.connection.fileno() for line in self.lines.values() if line.process == process and line.is_open
        )

    def has_untaken(self) -> bool:
        """Whether something was sent that was not yet seen to be taken."""
        return any(line.untaken for line in self.lines.values())

    def choose(self, which: str) -> list[Line]:
        """Open connections: "calls", "signals" or "all"."""
        lines = [line for line in self.lines.values() if line.is_open]
        return lines if which == "all" else [line for line in lines if line.is_signals == (which == "signals")]

    def forge(self, line: Line, message: Message, fault: ft.Fault) -> None:
        """Send the driver a message that nobody sent."""
        line.own_serial += 1
        made = dataclasses.replace(message, serial=line.own_serial)
        frame = Frame.of(made)
        number = self._seen(line, Direction.TO_DRIVER, frame.raw, made, None, origin="fault").message
        self._fired(fault, f"{message.member or message.error_name} made up", number)
        self._deliver(line, Direction.TO_DRIVER, Item(number, frame))

    # ---- a message's way

    def _arrived(self, line: Line, way: Direction, frame: Frame, message: Message, call: Message | None) -> None:
        seen = self._seen(line, way, frame.raw, message, call, fds=len(frame.fds))
        item = Item(seen.message, frame)
        if line.mute:
            self._record(ev.MessageDropped(message=seen.message, fault="the peer never answers again"))
            return
        for fault in self._plan.on_message(seen):
            if not self._act(line, way, item, seen, fault=fault):
                return
        self._deliver(line, way, item)

    def _act(self, line: Line, way: Direction, item: Item, seen: MessageSeen, *, fault: ft.Fault) -> bool:
        """Carry out one fault on a message; whether the message still goes on by itself."""
        what = f"{seen.member} of {seen.unit}" if seen.unit else seen.member
        match fault:
            case ft.Hold():
                keep = self._plan.keeps[fault.id]
                self._fired(fault, f"{what} held until {fault.until}", seen.message)
                if not keep.open:
                    keep.keeps = True
                    item.keeps.append(keep)
                    self._record(ev.MessageHeld(message=seen.message, hold=fault.id))
                return True
            case ft.Drop():
                self._fired(fault, f"{what} dropped", seen.message)
                self._record(ev.MessageDropped(message=seen.message, fault=fault.id))
                return False
            case ft.Duplicate():
                self._fired(fault, f"{what} sent twice", seen.message)
                self._deliver(line, way, Item(item.message, item.frame, list(item.keeps)))
                item.frame = self._twin(line, way, item.frame)
                return True
            case ft.Reorder():
                item.swap = fault
                return True
            case ft.AnswerError():
                self._answer(line, way, item.frame.message, seen, fault)
                return False
            case ft.Amend():
                self._amend(item, what, fault)
                return True
        return True

    def _amend(self, item: Item, what: str, fault: ft.Amend) -> None:
        message = item.frame.message
        body = list(message.body)
        try:
            for index, value in fault.values:
                body[index] = value
            frame = Frame.of(dataclasses.replace(message, body=tuple(body)), item.frame.fds)
        except IndexError:
            self.failed(fault, f"{what} has {len(body)} arguments ('{message.signature}'), counted from 0")
        except ProtocolError as error:
            self.failed(fault, f"the arguments of {what} are '{message.signature}': {error.message}")
        else:
            item.frame = frame
            self._fired(fault, f"{what} amended", item.message)

    def _twin(self, line: Line, way: Direction, frame: Frame) -> Frame:
        """The second of two: a call needs a serial of its own, and its extra reply is swallowed."""
        message = frame.message
        if way is Direction.TO_DRIVER or message.type is not MessageType.CALL:
            return frame
        line.own_serial += 1
        line.swallow.add(line.own_serial)
        return Frame.of(dataclasses.replace(message, serial=line.own_serial), frame.fds)

    def _answer(self, line: Line, way: Direction, message: Message, seen: MessageSeen, fault: ft.AnswerError) -> None:
        serial = message.serial if way is Direction.TO_SYSTEMD else message.reply_serial
        self._record(ev.MessageDropped(message=seen.message, fault=fault.id))
        answer = Message(
            type=MessageType.ERROR,
            reply_serial=serial,
            error_name=fault.name,
            sender=message.destination if way is Direction.TO_SYSTEMD else message.sender,
            destination=message.destination if way is Direction.TO_DRIVER else "",
            signature="s",
            body=(fault.text,),
        )
        self.forge(line, answer, fault)

    def _deliver(self, line: Line, way: Direction, item: Item) -> None:
        if not line.is_open:
            self._record(ev.MessageDropped(message=item.message, fault="the connection is closed"))
            return
        behind = line.lanes[way].put(item)
        if behind is not None:
            self._record(ev.MessageHeld(message=item.message, hold=behind.fault.id, behind=True))

    def _writer(self, line: Line, way: Direction) -> Callable[[Item], None]:
        def write(item: Item) -> None:
            if line.mute:
                self._record(ev.MessageDropped(message=item.message, fault="the peer never answers again"))
                return
            self._record(ev.MessageSent(message=item.message))
            if way is Direction.TO_DRIVER:
                line.untaken.append(item.message)
                line.connection.to_driver(item.frame)
            else:
                line.connection.to_systemd(item.frame)

        return write

    def _swapped(self, item: Item, after: int) -> None:
        assert item.swap is not None
        seen = self._plan.watch.message(item.message)
        what = f"{seen.member} of {seen.unit}" if seen is not None and seen.unit else seen.member if seen else "message"
        self._fired(item.swap, f"{what} sent after message {after}", item.message)

    def _lose(self, line: Line) -> None:
        """The connection ended: what is kept back for it goes nowhere, and a keep that held nothing else is empty."""
        lost = [item for lane in line.lanes.values() for item in lane.drop()]
        for item in lost:
            self._record(ev.MessageDropped(message=item.message, fault="the connection is closed"))
            for keep in item.keeps:
                keep.keeps = bool(self.held_process(keep))

    # ---- records

    def _seen(
        self,
        line: Line,
        way: Direction,
        raw: bytes,
        message: Message,
        call: Message | None,
        *,
        fds: int = 0,
        origin: str = "peer",
    ) -> MessageSeen:
        if call is None and message.reply_serial:
            call = line.calls.get(message.reply_serial)
        said = view(message, call)
        self._messages += 1
        seen = MessageSeen(
            message=self._messages,
            connection=line.number,
            direction=way,
            kind=said.kind,
            member=said.member,
            unit=said.unit,
            job=said.job,
            result=said.result,
            name=said.name,
            text=said.text,
            interface=message.interface,
            path=message.path,
            sender=message.sender,
            serial=message.serial,
            reply_serial=message.reply_serial,
            size=len(raw),
            fds=fds,
            origin=origin,
            probe=line.process not in self.ready,
            raw=base64.b64encode(raw[: ev.RAW_BYTES_MAX]).decode("ascii"),
        )
        if way is Direction.TO_SYSTEMD:
            self.passes(seen)
        self._record(seen)
        return seen

    def _fired(self, fault: ft.Fault, what: str, message: int) -> None:
        self._record(ev.FaultFired(fault=fault.id, grade=ft.grade(fault), what=what, message=message))

    def _note_rule(self, line: Line, message: Message) -> None:
        if message.destination != BUS_NAME or message.member not in ("AddMatch", "RemoveMatch") or not message.body:
            return
        rule, added = str(message.body[0]), message.member == "AddMatch"
        if added:
            line.rules.append(rule)
        elif rule in line.rules:
            line.rules.remove(rule)
        self._record(ev.MatchRule(connection=line.number, rule=rule, added=added))
