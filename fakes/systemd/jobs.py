"""Jobs: the queue, the transaction that fills it, and the gates by which a scenario keeps one queued (job.c, transaction.c)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from cgrace.fakes.systemd.refusal import Refuse
from cgrace.fakes.systemd.units import Unit, Units
from cgrace.harness import events as ev
from cgrace.harness.dbus import systemd1

_ID_MAX = 2**32 - 1
_Kind = tuple[str, str]  # a unit and "start" or "stop"


@dataclass(slots=True, eq=False, kw_only=True)
class Job:
    """kind: "start" or "stop". held: a gate keeps it queued. forced: the result that it will end with, doing nothing.

    announced: JobNew was sent. running: it has begun and waits for its unit (a stop that waits).
    """

    id: int
    unit: Unit
    kind: str
    mode: str = "replace"
    clients: set[str] = field(default_factory=set)
    irreversible: bool = False
    announced: bool = False
    running: bool = False
    held: bool = False
    forced: str = ""

    @property
    def path(self) -> str:
        """Its object path."""
        return systemd1.job_path(self.id)


def _required_by(unit: Unit) -> set[str]:
    """Whose stop is a stop of this unit, too (unit-dependency-atom.c, UNIT_ATOM_PROPAGATE_STOP of the inverse)."""
    return {name for kind in ("Requires", "Requisite", "BindsTo", "PartOf") for name in unit.settings.get(kind, ())}


def _priority(job: Job) -> tuple[bool, int, str]:
    return job.unit.type != "scope", -int(job.unit.settings.get("CPUWeight", 100)), job.unit.name


class Jobs:
    """Every queued or running job. `finish` is the manager's: it sends JobRemoved and tells the observer; `queued` hears
    of each new one. by_priority: in which order those run that may."""

    def __init__(
        self,
        units: Units,
        refuse: Refuse,
        observe: Callable[[ev.Event], None],
        finish: Callable[[Job, str], None],
        queued: Callable[[Job], None],
        *,
        by_priority: bool,
    ) -> None:
        self._sorted = by_priority
        self._units = units
        self._refuse = refuse
        self._observe = observe
        self._finish = finish
        self._queued = queued
        self.by_id: dict[int, Job] = {}
        self._last_id = 0
        self._counts: Counter[_Kind] = Counter()
        self._stays: dict[_Kind, set[int]] = {}
        self._ends: dict[_Kind, dict[int, str]] = {}
        self.dirty = False

    def __len__(self) -> int:
        return len(self.by_id)

    # ---- gates

    def stay_queued(self, unit: str, nth: int = 1, kind: str = "start") -> None:
        """The nth job of that kind of the unit from now on stays queued until `let_go`."""
        self._stays.setdefault((unit, kind), set()).add(self._counts[unit, kind] + nth)

    def end_with(self, unit: str, result: str, nth: int = 1, kind: str = "start") -> None:
        """The nth job of that kind of the unit from now on ends with this result and does nothing."""
        self._ends.setdefault((unit, kind), {})[self._counts[unit, kind] + nth] = result

    def let_go(self, unit: str, kind: str = "start") -> bool:
        """Every held job of that kind of the unit may run; also one that was to be held and is not there yet. False: none was
        held."""
        self._stays.pop((unit, kind), None)
        held = [job for job in self.by_id.values() if job.held and (job.unit.name, job.kind) == (unit, kind)]
        for job in held:
            job.held = False
            self.dirty = True
        return bool(held)

    # ---- the queue

    def enqueue(self, unit: Unit, kind: str, mode: str, client: str, ids: int = 0) -> Job:
        """A transaction: the job, those that it pulls in, and the end of those that it replaces. `ids`: how many it uses up."""
        self.check_mode(kind, mode)
        alone = mode in ("ignore-dependencies", "ignore-requirements")
        wanted = [unit] if alone else self._starting(unit) if kind == "start" else self._stopping(unit)
        for each in wanted:
            self._check_conflict(each, unit, kind, mode)
        first_id = self._last_id
        job = self._add(unit, kind, mode)
        if client:
            job.clients.add(client)
        for each in wanted[1:]:
            self._add(each, kind, mode)
        # One id goes to every job that was considered, the redundant ones too (transaction_add_job_and_dependencies).
        while self._last_id - first_id < ids:
            self._next_id()
        self.dirty = True
        return job

    def check_mode(self, kind: str, mode: str) -> None:
        """Refuse a mode that is not one for this job (manager_add_job)."""
        if mode == "isolate":
            raise self._refuse("mode_isolate" if kind == "start" else "isolate_not_start")
        if mode == "triggering" and kind != "stop":
            raise self._refuse("mode_triggering", mode=mode)

    def _starting(self, unit: Unit) -> list[Unit]:
        """The unit and what it pulls in that is not up: the slices above, Requires=, Wants=; also what those pull in that are
        up, whose own jobs are redundant (transaction_add_job_and_dependencies, transaction_drop_redundant)."""
        wanted, todo, seen = [unit], [unit], {unit}
        while todo:
            at = todo.pop(0)
            pulled = [at.slice] if at.slice is not None else []
            for name in [*at.settings.get("Requires", ()), *at.settings.get("BindsTo", ())]:
                pulled.append(self._required(name))
            for name in at.settings.get("Wants", ()):
                other = self._units.load(name)
                if other.load == "loaded":
                    pulled.append(other)
            for each in pulled:
                if each in seen or each.type not in ("slice", "scope"):
                    continue
                seen.add(each)
                todo.append(each)
                if not each.is_active or each.job is not None:
                    wanted.append(each)
        return wanted

    def _required(self, name: str) -> Unit:
        other = self._units.load(name)
        if other.load == "not-found":
            raise self._refuse("dependency_not_found", unit=name)
        return other

    def _stopping(self, unit: Unit) -> list[Unit]:
        """The unit, all that is not down in a slice, and what requires it."""
        wanted, todo = {unit: None}, [unit]
        while todo:
            at = todo.pop(0)
            requiring = [one for one in at.referrers if at.name in _required_by(one)]
            for each in [*at.children.values(), *requiring]:
                if (not each.is_down or each.job is not None) and not each.phantom and each not in wanted:
                    wanted[each] = None
                    todo.append(each)
        return list(wanted)

    def _check_conflict(self, unit: Unit, anchor: Unit, kind: str, mode: str) -> None:
        job = unit.job
        if job is not None and job.kind != kind and (mode == "fail" or job.irreversible):
            raise self._refuse("destructive", unit=anchor.name, kind=kind, other=unit.name, have=job.kind)

    def _add(self, unit: Unit, kind: str, mode: str) -> Job:
        if unit.job is not None:
            if unit.job.kind == kind:
                return unit.job
            self._finish(unit.job, "canceled")
        job = Job(id=self._next_id(), unit=unit, kind=kind, mode=mode, irreversible=mode == "replace-irreversibly")
        unit.job = job
        self.by_id[job.id] = job
        self._queued(job)
        self._observe(ev.JobChanged(job=job.path, unit=unit.name, type=kind, state="queued"))
        self._arm(job)
        return job

    def _arm(self, job: Job) -> None:
        which = job.unit.name, job.kind
        self._counts[which] += 1
        job.forced = self._ends.get(which, {}).pop(self._counts[which], "")
        stays = self._stays.get(which, set())
        if self._counts[which] in stays:
            stays.discard(self._counts[which])
            job.held = True
            self._observe(ev.JobChanged(job=job.path, unit=job.unit.name, type=job.kind, state="blocked"))

    def _next_id(self) -> int:
        while True:
            self._last_id = self._last_id % _ID_MAX + 1
            if self._last_id not in self.by_id:
                return self._last_id

    def remove(self, job: Job) -> None:
        """The job is over; others may now run."""
        self.by_id.pop(job.id, None)
        job.unit.job = None
        self.dirty = True

    def next_runnable(self) -> Job | None:
        """The first job that nothing orders after another one; None when all wait. From 247 on scopes go before slices, then by
        CPUWeight and name (unit.c, unit_compare_priority)."""
        if not self.dirty:
            return None
        ready = (job for job in self.by_id.values() if not job.running and not job.held and self._may_run(job))
        found = min(ready, key=_priority, default=None) if self._sorted else next(ready, None)
        self.dirty = found is not None
        return found

    def _may_run(self, job: Job) -> bool:
        """A start comes after that of its slice and of After=; a slice's stop after those of all in it."""
        unit = job.unit
        if job.mode == "ignore-dependencies":
            return job.kind == "stop" or unit.active_state != "deactivating"
        if job.kind == "stop":
            return not any(child.job is not None for child in unit.children.values())
        if unit.active_state == "deactivating":
            return False
        if unit.slice is not None and unit.slice.job is not None:
            return False
        for name in unit.settings.get("After", ()):
            other = self._units.get(name)
            if other is not None and other.job is not None and other is not unit:
                return False
        return True
