"""The canonical trace: what two runs of one schedule have in common, as text and as a hash.

Promise: when the same driver meets the same schedule, the text is the same, also on a busy machine and on another day. A change
of what was asked, what was answered, in which order, what the faults did, which cgroups were made, and removed or filled by
whom, how each step and the run ended, changes it.

Events of different witnesses, steps and units interleave as the machine pleases, unless the schedule orders them. So the trace is
split into lanes, and only the order within a lane is kept:
  calls            the order in which steps were called
  step S           how it was called, how it ended, what it reported
  P DIRECTION U    what arrived at the relay from or for process P about unit U, on whichever of its connections
  P DIRECTION U sent|dropped by F|held by F   what became of those messages, in the order in which it did
  fault F          what it did, and how its hold let go
  P opens CGROUP   its calls that open the cgroup's list of processes, and what held them (in runs that watch them)
  job, unit U      the unit's jobs and states
  cgroup PATH      of a step's unit or below: made, removed by whom, entered, moved by whom
  look S           what the looks at a step's claims found; beside it, as sorted sets: leftovers, exits, match rules
Renamed by first appearance: jobs (of a unit), connections (of a process). Replaced in texts: what looks like a time, pid,
address, job or bus name. Dropped: times and durations, message ids and serials, stacks, waits and how often they were looked
at, stderr and log lines, ends of connections (a fault's is in its lane), what was held only behind another message; the
drivers' start-up probes (their messages, and units that were heard of before the first step and that no step names); who made
a cgroup, and all of cgroups that are no step's (a parent slice's own job and the driver's `mkdir -p` race, and no schedule
orders them); and whatever the harness did to tidy up after the run had stopped mattering.
"""

from __future__ import annotations

import hashlib
import re
from collections import defaultdict
from dataclasses import dataclass, field

from cgrace.harness import events as ev
from cgrace.harness.events import Event
from cgrace.harness.trace import Entry, Trace

_VOLATILE = (
    (re.compile(r"/org/freedesktop/systemd1/job/\d+"), "JOB"),
    (re.compile(r":\d+\.\d+"), "BUSNAME"),
    (re.compile(r"0x[0-9a-fA-F]+"), "ADDRESS"),
    (re.compile(r"\b\d+(?:\.\d+)? ?(?:ns|us|µs|ms|s|min)\b"), "TIME"),
    (re.compile(r"\b(?:pid|PID)[ =:]\d+"), "PID"),
    (re.compile(r"\bwrite \d+ to (?=\S*(?:cgroup\.procs|tasks)\b)"), "write PID to "),
    (re.compile(r"@au \[[\d, ]+\]"), "@au PIDS"),  # as godbus prints the property PIDs in runc's errors
    (re.compile(r"\br\d+\.bus\b"), "RUN.bus"),
    (re.compile(r"\b\d{4,}\b"), "NUMBER"),
)


def scrub(text: str) -> str:
    """A text without what differs from run to run: addresses, times, pids, job and bus names, long numbers."""
    for pattern, word in _VOLATILE:
        text = pattern.sub(word, text)
    return text


@dataclass(slots=True)
class _Names:
    """Names by first appearance: `job 1`, `job 2`, ..."""

    known: dict[tuple[str, object], str] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=lambda: defaultdict(int))

    def name(self, words: str, key: object, alias: str = "") -> str:
        """The name of a thing: `words` with a count. Known again by `alias` (default: `words`) and key; "" for none."""
        if key in ("", 0):
            return ""
        kind = alias or words
        if (kind, key) not in self.known:
            self.counts[words] += 1
            self.known[kind, key] = f"{words} {self.counts[words]}"
        return self.known[kind, key]


@dataclass(slots=True)
class _Canon:
    """The lanes while they are filled. `stopped` is set by the run's end: after it connections say nothing that counts."""

    names: _Names = field(default_factory=_Names)
    lanes: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    sets: dict[str, set[str]] = field(default_factory=lambda: defaultdict(set))
    processes: dict[int, str] = field(default_factory=dict)
    messages: dict[int, tuple[str, str]] = field(default_factory=dict)
    probed: frozenset[str] = frozenset()
    stopped: bool = False

    def feed(self, event: Event) -> None:
        """Put one event where it belongs."""
        for part in (self._step, self._message, self._systemd, self._kernel, self._set):
            if part(event):
                return

    def _step(self, event: Event) -> bool:
        match event:
            case ev.StepCalled(step=step):
                self.lanes["calls"].append(step)
                lane, line = f"step {step}", f"called: {event.op} {event.unit} {event.workload} by {event.process}"
            case ev.StepReturned(step=step):
                paths = " ".join(sorted(h + p for h, p in event.paths))
                how = f"failed: {scrub(event.error)}" if event.error else "returned"
                value = re.sub(r"\d+", "N", event.value)  # a value's numbers are pids
                lane, line = f"step {step}", f"{how} {value} {paths}"
            case ev.StepNever(step=step, why=why):
                self.stopped = True
                lane, line = f"step {step}", f"never ({why})"
            case ev.RunEnded(why=why):
                self.stopped = True
                lane, line = "run", f"ended: {why}"
            case ev.DriverReady(process=process, ok=ok, error=error):
                lane, line = f"process {process}", f"ready {ok} {scrub(error)} {' '.join(event.conclusions)}"
            case _:
                return False
        self.lanes[lane].append(" ".join(line.split()))
        return True

    def _message(self, event: Event) -> bool:
        match event:
            case ev.MessageSeen():
                self._seen(event)
            case ev.Connected(connection=number, process=process):
                self.names.name(f"{process} connection", number, alias="connection")
                self.processes[number] = process
            case ev.MessageHeld(message=number, hold=hold, behind=behind):
                if not behind:
                    self._about(number, f"held by {hold}")
            case ev.MessageSent(message=number):
                self._about(number, "sent")
            case ev.MessageDropped(message=number, fault=fault):
                self._about(number, f"dropped by {fault}")
            case ev.FaultFired(fault=fault, message=number):
                self.lanes[f"fault {fault}"].append(
                    "fired" + (f" on {self.messages[number][1]}" if number in self.messages else "")
                )
            case ev.DriverAsks():
                if not self.stopped:
                    self._asks(event)
            case ev.HoldLetGo(hold=hold, why=why):
                self.lanes[f"fault {hold}"].append(f"let go: {why}")
            case _:
                return False
        return True

    def _asks(self, event: ev.DriverAsks) -> None:
        held = f", held by {event.hold}" if event.hold else ""
        match event:
            case ev.DriverOpens(hierarchy=hierarchy, path=path):
                self.lanes[f"{event.process} opens {hierarchy}{path}"].append(f"{event.file}{held}")
            case ev.DriverCloses(connection=connection):
                self.lanes[f"{event.process} closes"].append(f"{connection}{held}")

    def _seen(self, message: ev.MessageSeen) -> None:
        if message.probe or self.stopped or message.unit in self.probed:
            return
        job = self._job(message.job, message.unit)
        words = (message.kind, message.member, message.unit, job, message.result, message.name, message.origin)
        text = " ".join(word for word in words if word)
        connection = self.names.name("connection", message.connection)
        text = f"{text} ({connection})"
        lane = f"{self.processes.get(message.connection, '')} {message.direction} {message.unit}".strip()
        self.messages[message.message] = (lane, text)
        self.lanes[lane].append(text)

    def _job(self, job: str, unit: str) -> str:
        """A job is named by its unit, so that jobs of several units may come in any order."""
        return self.names.name(f"job of {unit}", job, alias="job")

    def _about(self, number: int, what: str) -> None:
        """What became of a message. A lane of its own: how sends interleave with arrivals is the machine's choice."""
        if number in self.messages and not self.stopped:
            lane, text = self.messages[number]
            self.lanes[f"{lane} {what}"].append(text)

    def _systemd(self, event: Event) -> bool:
        match event:
            case ev.JobChanged(unit=unit):
                if not self.stopped and unit not in self.probed:
                    name = self._job(event.job, unit)
                    self.lanes[f"jobs {unit}"].append(f"{name} {event.type} {event.state} {event.result}".strip())
            case ev.UnitChanged(unit=unit):
                if not self.stopped and unit not in self.probed:
                    self.lanes[f"unit {unit}"].append(event.state)
            case _:
                return False
        return True

    def _kernel(self, event: Event) -> bool:
        match event:
            case ev.CgroupMade(hierarchy=hierarchy, path=path):
                line = "made"  # where driver and systemd both make it, who comes first is nobody's order
            case ev.CgroupRemoved(hierarchy=hierarchy, path=path, by=by):
                line = f"removed by {by}"
            case ev.ProcessMoved(hierarchy=hierarchy, path=path, by=by):
                line = f"entered by {event.process or 'a process'}, moved by {by}"
            case _:
                return False
        if not self.stopped:
            self.lanes[f"cgroup {hierarchy}{path}"].append(line)
        return True

    def _set(self, event: Event) -> bool:
        match event:
            case ev.CgroupSeen():
                found = f"{event.step} {event.hierarchy}{event.path} exists {event.exists} inside {event.inside}"
                self.lanes[f"look {event.step} {event.hierarchy}"].append(f"{found} {scrub(event.actual)}".strip())
            case ev.Leftover():
                self.sets["leftovers"].add(f"{event.kind} {scrub(event.name)} {event.step}")
            case ev.ProcessExited(process=process, status=status) if not self.stopped:
                self.sets["processes"].add(f"{process} ended {status}")
            case ev.MatchRule(rule=rule, added=added) if not self.stopped:
                self.sets["match rules"].add(f"{'added' if added else 'removed'} {scrub(rule)}")
            case _:
                return False
        return True

    def text(self) -> str:
        """Every lane under its name, lanes in order of name."""
        lanes = {**self.lanes, **{name: sorted(items) for name, items in self.sets.items()}}
        return "".join(f"[{name}]\n" + "".join(f"{line}\n" for line in lanes[name]) for name in sorted(lanes))


_KERNEL = (ev.CgroupMade, ev.CgroupRemoved, ev.ProcessMoved)


def _kernel_events(entries: tuple[Entry, ...], units: frozenset[str], since_ns: int) -> list[Entry]:
    """Kernel events of the run about the steps' units: by time and not by index, for they are recorded when they are read."""
    stop = next((e for e in entries if isinstance(e.event, ev.StepNever | ev.RunEnded)), None)
    found: list[tuple[int, int, str, Entry]] = []
    for entry in entries:
        match entry.event:
            case ev.CgroupMade(path=path) | ev.CgroupRemoved(path=path) | ev.ProcessMoved(path=path):
                if since_ns <= entry.t_ns and (stop is None or entry.t_ns <= stop.t_ns):
                    found.append((entry.t_ns, entry.index, path.rstrip("/") + "/", entry))
    inside = {path for _, _, path, _ in found if units.intersection(path.split("/"))}
    return [
        entry
        for _, _, path, entry in sorted(found, key=lambda item: item[:2])
        if path in inside or (isinstance(entry.event, ev.ProcessMoved) and entry.event.process)
    ]


def _unit_of(event: Event) -> str:
    return event.unit if isinstance(event, ev.JobChanged | ev.UnitChanged | ev.MessageSeen) else ""


def canonical(trace: Trace) -> str:
    """The canonical text of a trace (see the module for what it promises)."""
    units = frozenset(call.unit for _, call in trace.of(ev.StepCalled))
    first = next((entry for entry, _ in trace.of(ev.StepCalled)), None)
    before = trace.entries[: first.index] if first is not None else ()
    canon = _Canon(probed=frozenset(unit for entry in before if (unit := _unit_of(entry.event)) and unit not in units))
    for entry in _kernel_events(trace.entries, units, first.t_ns if first is not None else 0):
        canon.feed(entry.event)
    for entry in trace.entries:
        if not isinstance(entry.event, _KERNEL):
            canon.feed(entry.event)
    return canon.text()


def canonical_hash(trace: Trace) -> str:
    """The first 16 hexadecimal digits of the SHA-256 of the canonical text."""
    return hashlib.sha256(canonical(trace).encode()).hexdigest()[:16]
