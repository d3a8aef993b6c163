"""What a real systemd says of its jobs and units, kept up to date from its signals, and told as events of the run."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final

from cgrace.harness import events as ev
from cgrace.harness.dbus import systemd1
from cgrace.harness.dbus.message import Message, Variant
from cgrace.harness.engine.gates import is_gate
from cgrace.harness.events import Event

# Results of a job that never ran.
_NEVER_RAN: Final = frozenset({"canceled", "dependency", "collected", "timeout"})
_UP: Final = frozenset({"active", "reloading", "deactivating"})
_STARTS: Final = frozenset({"StartTransientUnit", "StartUnit", "RestartUnit"})
_STOPS: Final = frozenset({"StopUnit", "KillUnit"})


@dataclass(slots=True)
class _Job:
    path: str
    unit: str
    type: str
    runs: bool = False


class Jobs:
    """Jobs and units of one run; those of gates are left out. record: to the trace. on_queued, on_ended: told of each job
    that is new, or has ended, behind its event.

    units: which are loaded now of those that were loaded since the run began, with their ActiveState ("" where not said yet).
    """

    def __init__(
        self,
        record: Callable[[Event], object],
        on_queued: Callable[[ev.JobChanged], None],
        on_ended: Callable[[ev.JobChanged], None],
    ) -> None:
        self._record = record
        self._on_queued = on_queued
        self._on_ended = on_ended
        self._jobs: dict[str, _Job] = {}
        self._newest: dict[str, str] = {}
        self._asked: dict[str, str] = {}
        self._reloads = False
        self.units: dict[str, str] = {}
        self.before_job: Callable[[], None] = lambda: None

    # ---- what is known

    def queued(self) -> tuple[str, ...]:
        """Jobs that have not ended, as "start of a.slice"."""
        return tuple(f"{job.type} of {job.unit}" for job in self._jobs.values())

    @property
    def any(self) -> bool:
        """Whether there is a job."""
        return bool(self._jobs)

    @property
    def any_runs(self) -> bool:
        """Whether one runs, by what systemd said."""
        return any(job.runs for job in self._jobs.values())

    def newest(self, unit: str) -> str:
        """The path of the unit's newest job, "" where it had none."""
        return self._newest.get(unit, "")

    # ---- what is said

    def asked(self, seen: ev.MessageSeen) -> None:
        """A driver's call goes to systemd: of what type the unit's next job is."""
        if seen.kind == "call" and seen.unit and seen.member in _STARTS | _STOPS:
            self._asked[seen.unit] = "start" if seen.member in _STARTS else "stop"

    def on_signal(self, message: Message) -> None:
        """A signal of systemd's."""
        match message.interface, message.member, message.body:
            case systemd1.MANAGER, "JobNew", (_, str(path), str(unit)):
                self._queued(path, unit)
            case systemd1.MANAGER, "JobRemoved", (_, str(path), str(unit), str(result)):
                self._ended(path, unit, result)
            case systemd1.MANAGER, "Reloading", (bool(begins),):
                self._reloads = begins
            case systemd1.MANAGER, "UnitNew", (str(unit), _) if not self._reloads and not is_gate(unit):
                self.units.setdefault(unit, "")
            case systemd1.MANAGER, "UnitRemoved", (str(unit), _) if not self._reloads and unit in self.units:
                self._unit(unit, "gone")
                self.units.pop(unit, None)
            case systemd1.PROPERTIES, "PropertiesChanged", (systemd1.JOB, dict(changed), *_):
                if _value(changed, "State") == "running":
                    self._started(message.path)
            case systemd1.PROPERTIES, "PropertiesChanged", (systemd1.UNIT, dict(changed), *_):
                unit = systemd1.unit_of_path(message.path)
                if (state := _value(changed, "ActiveState")) and unit in self.units:
                    self._unit(unit, state)

    def reloaded(self) -> None:
        """Systemd is back under another name: what it said of every unit while it went is no news."""
        self._reloads = False

    def listed(self, jobs: Iterable[tuple[str, str, str]]) -> None:
        """Signals were missed: (path, unit, state) of all the jobs there are now. Those that have ended did so with an unknown
        result."""
        there = {path: (unit, state) for path, unit, state in jobs}
        for job in list(self._jobs.values()):
            if job.path not in there:
                self._ended(job.path, job.unit, "")
        for path, (unit, state) in there.items():
            if path not in self._jobs:
                self._queued(path, unit)
            if state == "running":
                self._started(path)

    def _unit(self, unit: str, state: str) -> None:
        if self.units[unit] not in (state, "" if state in ("inactive", "gone") else state):
            self._record(ev.UnitChanged(unit=unit, state=state))
        self.units[unit] = state

    def _queued(self, path: str, unit: str) -> None:
        if is_gate(unit):
            return
        kind = self._asked.pop(unit, "") or ("stop" if self.units.get(unit) in _UP else "start")
        job = self._jobs[path] = _Job(path, unit, kind)
        self._newest[unit] = path
        self._on_queued(self._change(job, "queued"))

    def blocked(self, path: str) -> None:
        """A gate keeps this job."""
        self._change(self._jobs[path], "blocked")

    def _started(self, path: str) -> None:
        job = self._jobs.get(path)
        if job is not None and not job.runs:
            job.runs = True
            self._change(job, "started")

    def _ended(self, path: str, unit: str, result: str) -> None:
        """Of a job that was run and done within one turn systemd says nothing in between."""
        job = self._jobs.get(path)
        if job is None:
            return
        if result not in _NEVER_RAN:
            self._started(path)
        del self._jobs[path]
        self._on_ended(self._change(job, "ended", result))

    def _change(self, job: _Job, state: str, result: str = "") -> ev.JobChanged:
        self.before_job()
        changed = ev.JobChanged(job=job.path, unit=job.unit, type=job.type, state=state, result=result)
        self._record(changed)
        return changed


def _value(changed: dict[str, object], name: str) -> str:
    found = changed.get(name)
    return str(found.value) if isinstance(found, Variant) else ""
