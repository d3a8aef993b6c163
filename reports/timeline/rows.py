"""Rows of the timeline: what a reader sees as one thing, from the events that it is made of. Pure.

A message that passes the relay is one row, though three events tell it; the same directory made in seven hierarchies is one
row with seven marks. Rows are in order of time: the kernel's events are recorded when they are read, which is later.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from cgrace.harness import events as ev
from cgrace.harness.events import Event, MessageSeen
from cgrace.harness.faults import Hold, JobStays
from cgrace.harness.scenario.model import Scenario
from cgrace.harness.trace import Entry
from cgrace.reports.console.timeline import tell
from cgrace.reports.console.words import span
from cgrace.reports.timeline.lanes import Lanes

UNIT_SUFFIXES = (".slice", ".scope", ".service")
RELAY_DEEDS = {"Drop": "dropped", "Duplicate": "sent twice", "Reorder": "overtaken", "Amend": "amended"}


@dataclass(frozen=True, slots=True)
class Arrow:
    """A message between two lanes. kind: call, reply, error or signal. deed: what the relay did to it ("" for nothing)."""

    source: int
    target: int
    kind: str
    deed: str = ""


@dataclass(frozen=True, slots=True)
class Mark:
    """Something at one place. shape: who did it (an Actor's word, "step", "fault", ...); glyph: what (made, removed, ...)."""

    lane: int
    shape: str
    glyph: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One row. events: indices of its entries. quiet: seldom worth a look; probe: before the driver was ready."""

    events: tuple[int, ...]
    text: str
    unit: str = ""
    arrow: Arrow | None = None
    marks: tuple[Mark, ...] = ()
    quiet: bool = False
    probe: bool = False


@dataclass(slots=True)
class _Told:
    """What is known of a message so far."""

    seen: MessageSeen
    deed: str = ""


@dataclass(slots=True)
class _Rows:
    """Walks over the entries in order of time."""

    lanes: Lanes
    kinds: dict[str, str]  # fault id: the class of the scenario's fault
    until: dict[str, str]  # what keeps something back: the point at which it lets go
    ready: int  # index of the first DriverReady
    messages: dict[int, _Told] = field(default_factory=dict)

    def make(self, entries: Sequence[Entry]) -> Iterator[Row]:
        place = 0
        while place < len(entries):
            event = entries[place].event
            if isinstance(event, MessageSeen):
                row, place = self._message(entries, place)
            elif isinstance(event, ev.CgroupMade | ev.CgroupRemoved | ev.ProcessMoved):
                row, place = self._kernel(entries, place)
            else:
                row, place = self._single(entries[place]), place + 1
            yield row

    # ---- messages

    def _message(self, entries: Sequence[Entry], place: int) -> tuple[Row, int]:
        """A message's arrival, with what became of it at once."""
        seen = entries[place].event
        assert isinstance(seen, MessageSeen)
        self.messages[seen.message] = told = _Told(seen)
        events, sent, fires = [entries[place].index], False, ""
        if seen.origin != "peer":
            told.deed = "forged"
        after = place + 1
        while after < len(entries) and not sent and getattr(entries[after].event, "message", None) == seen.message:
            match entries[after].event:
                case ev.FaultFired() as fired:
                    told.deed = told.deed or RELAY_DEEDS.get(self.kinds.get(fired.fault, ""), "")
                    fires = f"{fired.fault}: {fired.what}"
                case ev.MessageHeld() as held:
                    told.deed = "queued" if held.behind else "held"
                    fires = f"waits behind what {held.hold} holds" if held.behind else self._held(held.hold)
                case ev.MessageDropped() as dropped:
                    told.deed = "answered" if self.kinds.get(dropped.fault) == "AnswerError" else "dropped"
                    fires = f"{told.deed} by {dropped.fault}"
                case ev.MessageSent():
                    sent = True
                case _:
                    break
            events.append(entries[after].index)
            after += 1
        notes = (["forged by cgrace"] if seen.origin != "peer" else []) + ([fires] if fires else [])
        text = self._words(seen) + "".join(f" [{note}]" for note in notes)
        far = self._far_end(seen)
        source = self.lanes.relay if told.deed == "forged" else self._near_end(seen)
        target = far if sent or told.deed == "" else self.lanes.relay
        if told.deed == "forged":
            target = far
        row = Row(
            events=tuple(events),
            text=text,
            unit=seen.unit,
            arrow=Arrow(source, target, seen.kind, told.deed),
            probe=seen.probe,
        )
        return row, after

    def _words(self, seen: MessageSeen) -> str:
        way = "→" if seen.direction is ev.Direction.TO_SYSTEMD else "←"
        answers = {"reply": "reply to ", "error": "error to "}.get(seen.kind, f"{seen.kind} ")
        what = f"{answers}{seen.member or '?'}" + (f" of {seen.unit}" if seen.unit else "")
        job = seen.job.rpartition("/")[2]
        more = [seen.name.rpartition(".")[2], seen.result, f"job {job}" if job else ""]
        told = ", ".join(part for part in more if part)
        return f"{way} {what}" + (f": {told}" if told else "")

    def _near_end(self, seen: MessageSeen) -> int:
        driver = self.lanes.of_connection(seen.connection)
        return driver if seen.direction is ev.Direction.TO_SYSTEMD else self._peer(seen)

    def _far_end(self, seen: MessageSeen) -> int:
        driver = self.lanes.of_connection(seen.connection)
        return self._peer(seen) if seen.direction is ev.Direction.TO_SYSTEMD else driver

    def _peer(self, seen: MessageSeen) -> int:
        """The bus itself is our relay; everything else is systemd."""
        bus = "org.freedesktop.DBus"
        own = bus in (seen.interface, seen.sender)
        return self.lanes.relay if own else self.lanes.systemd

    def _later(self, event: ev.MessageSent | ev.MessageHeld | ev.MessageDropped) -> tuple[str, Arrow | None]:
        """What became of a message that had been kept back."""
        told = self.messages.get(event.message)
        if told is None:
            return "", None
        words = self._words(told.seen)
        if isinstance(event, ev.MessageSent):
            return f"{words} [sent on]", Arrow(self.lanes.relay, self._far_end(told.seen), told.seen.kind, "let go")
        if isinstance(event, ev.MessageDropped):
            told.deed = "dropped"
            relay = self.lanes.relay
            return f"{words} [dropped: {event.fault}]", Arrow(relay, relay, told.seen.kind, "dropped")
        return f"{words} [{self._held(event.hold)}]", None

    def _held(self, hold: str) -> str:
        return f"held by {hold}" + (f" until {self.until[hold]}" if hold in self.until else "")

    # ---- the kernel

    def _kernel(self, entries: Sequence[Entry], place: int) -> tuple[Row, int]:
        """What one hand did to one path, in as many hierarchies as it did it at one go."""
        first = entries[place].event
        assert isinstance(first, ev.CgroupMade | ev.CgroupRemoved | ev.ProcessMoved)
        group = [entries[place]]
        after = place + 1
        while after < len(entries) and _alike(first, entries[after].event):
            group.append(entries[after])
            after += 1
        glyph = {"cgroup-made": "made", "cgroup-removed": "removed"}.get(first.KIND, "moved")
        where = [e.event.hierarchy for e in group if isinstance(e.event, type(first))]
        marks = tuple(Mark(self.lanes.of_hierarchy(name), str(first.by), glyph) for name in where)
        if isinstance(first, ev.ProcessMoved):
            what = f"{first.by} moves {first.process or f'pid {first.pid}'} to {first.path}"
        else:
            what = f"{first.by} {'makes' if glyph == 'made' else 'removes'} {first.path}"
        row = Row(
            events=tuple(e.index for e in group),
            text=f"{what} in {' '.join(where)}",
            unit=unit_of_path(first.path),
            marks=marks,
            probe=group[0].index < self.ready,
        )
        return row, after

    # ---- all else

    def _single(self, entry: Entry) -> Row:
        event = entry.event
        arrow: Arrow | None = None
        text = tell(event).strip()
        if isinstance(event, ev.MessageSent | ev.MessageHeld | ev.MessageDropped):
            text, arrow = self._later(event)
        message = self.messages.get(getattr(event, "message", 0))
        if isinstance(event, ev.MessageTaken) and message is not None:
            text = f"{self._words(message.seen)} [taken by the driver]"
        if isinstance(event, ev.StepWatched):
            text = f"step {event.step} was looked at {event.looks} times, at least every {span(event.gap_ns)}"
        if isinstance(event, ev.Stacks):
            text = f"the stacks of {event.process}"
        if isinstance(event, ev.CgroupSeen) and not text:
            text = f"{event.hierarchy}{event.path}, reported by {event.step}, is there"
        quiet = not text or isinstance(
            event, ev.MessageTaken | ev.DriverWaits | ev.MatchRule | ev.StepWatched | ev.Connected | ev.Disconnected
        )
        return Row(
            events=(entry.index,),
            text=text or event.KIND.replace("-", " "),
            unit=self._unit(event, message),
            arrow=arrow,
            marks=() if arrow is not None else (self._mark(event, message),),
            quiet=quiet or (isinstance(event, ev.CgroupSeen) and event.exists and event.inside is not False),
            probe=entry.index < self.ready or (message is not None and message.seen.probe),
        )

    def _unit(self, event: Event, message: _Told | None) -> str:
        if message is not None:
            return message.seen.unit
        if isinstance(event, ev.CgroupSeen | ev.DriverOpens):
            return unit_of_path(event.path)
        if isinstance(event, ev.Leftover) and event.name.endswith(UNIT_SUFFIXES):
            return unit_of_path(event.name)
        step = getattr(event, "step", "")
        return str(getattr(event, "unit", "") or self.lanes.units.get(step, ""))

    def _mark(self, event: Event, message: _Told | None) -> Mark:
        lanes = self.lanes
        match event:
            case ev.StepCalled(step=step) | ev.StepReturned(step=step) | ev.StepNever(step=step):
                glyph = {"step-called": "called", "step-never": "never"}.get(event.KIND, "returned")
                if isinstance(event, ev.StepReturned) and event.error:
                    glyph = "failed"
                return Mark(lanes.of_step(step), "step", glyph)
            case ev.StepWaits(step=step) | ev.StepWatched(step=step) | ev.OrderWaived(step=step):
                return Mark(lanes.of_step(step), "look", "wait")
            case ev.CgroupSeen(hierarchy=hierarchy):
                bad = not event.exists or event.inside is False
                return Mark(lanes.of_hierarchy(hierarchy), "look", "missing" if bad else "there")
            case ev.DriverOpens(hierarchy=hierarchy):
                return Mark(lanes.of_hierarchy(hierarchy), "driver", "opens")
            case ev.DriverCloses(process=process):
                return Mark(lanes.of_process(process), "driver", "opens")
            case ev.JobChanged() | ev.UnitChanged():
                return Mark(lanes.systemd, "systemd", event.state)
            case ev.SystemdSaid():
                return Mark(lanes.systemd, "systemd", "said")
            case ev.MessageTaken() if message is not None:
                return Mark(lanes.of_connection(message.seen.connection), "look", "taken")
            case ev.FaultFired() | ev.HoldLetGo():
                return Mark(lanes.relay, "fault", "fault" if isinstance(event, ev.FaultFired) else "let go")
            case ev.Connected(connection=number) | ev.Disconnected(connection=number):
                return Mark(lanes.of_connection(number), "look", "connection")
        process = getattr(event, "process", "")
        return Mark(lanes.of_process(process) if process else lanes.relay, "look", "note")


def _alike(one: Event, other: Event) -> bool:
    if isinstance(one, ev.ProcessMoved) and isinstance(other, ev.ProcessMoved):
        return (one.by, one.path, one.pid) == (other.by, other.path, other.pid)
    if isinstance(one, ev.CgroupMade | ev.CgroupRemoved) and isinstance(other, ev.CgroupMade | ev.CgroupRemoved):
        return (one.KIND, one.by, one.path) == (other.KIND, other.by, other.path)
    return False


def unit_of_path(path: str) -> str:
    """The innermost unit that a cgroup's path names, "" for none."""
    return next((part for part in reversed(path.split("/")) if part.endswith(UNIT_SUFFIXES)), "")


def by_time(entries: Sequence[Entry]) -> list[Entry]:
    """Entries in order of time; those of one instant as they were recorded."""
    return sorted(entries, key=lambda entry: (entry.t_ns, entry.index))


def rows_of(entries: Sequence[Entry], lanes: Lanes, scenario: Scenario | None) -> list[Row]:
    """Every entry in exactly one row. `entries` in order of time; `scenario` explains its faults."""
    faults = scenario.faults if scenario is not None else ()
    kinds = {fault.id: type(fault).__name__ for fault in faults}
    until = {fault.id: str(fault.until) for fault in faults if isinstance(fault, Hold | JobStays)}
    orders = scenario.orders if scenario is not None else ()
    until |= {f"order {number}": str(order.first) for number, order in enumerate(orders, 1)}
    ready = next((e.index for e in entries if isinstance(e.event, ev.DriverReady)), 0)
    return list(_Rows(lanes, kinds, until, ready).make(entries))
