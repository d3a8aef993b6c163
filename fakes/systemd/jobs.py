"""Jobs: the queue, the transaction that fills it, and the gates by which a scenario keeps one queued (job.c, transaction.c)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from cgrace.fakes.systemd.refusal import Refuse
from cgrace.fakes.systemd.transaction import Planned, Transaction, after, before
from cgrace.fakes.systemd.units import Unit, Units
from cgrace.harness import events as ev
from cgrace.harness.dbus import systemd1

_ID_MAX = 2**32 - 1
_Kind = tuple[str, str]  # a unit and "start" or "stop"


@dataclass(slots=True, eq=False, kw_only=True)
class Job:
    """kind: "start" or "stop". held: a gate keeps it queued. forced: the result that it will end with, doing nothing.

    announced: JobNew was sent. running: it has begun and waits for its unit (a stop that waits). in_run_queue: it is to be
    looked at; one that cannot run then waits until something puts it there again.
    """

    id: int
    unit: Unit
    kind: str
    clients: set[str] = field(default_factory=set)
    irreversible: bool = False
    ignores_order: bool = False
    announced: bool = False
    running: bool = False
    in_run_queue: bool = False
    held: bool = False
    forced: str = ""

    @property
    def path(self) -> str:
        """Its object path."""
        return systemd1.job_path(self.id)


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
        failed_pull_stays: bool,
    ) -> None:
        self._sorted = by_priority
        self._failed_pull_stays = failed_pull_stays
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
            job.in_run_queue = True
        return bool(held)

    # ---- the queue

    def enqueue(self, unit: Unit, kind: str, mode: str, client: str, ids: int = 0) -> Job:
        """A transaction: the job, those that it pulls in, and the end of those that it replaces. `ids`: how many it uses up."""
        self.check_mode(kind, mode)
        transaction = Transaction(self._units, self._refuse, kind, mode, failed_pull_stays=self._failed_pull_stays)
        planned = transaction.plan(unit)
        first_id = self._last_id
        for each in planned:
            self._install(each, kind, mode)
        job = unit.job
        assert job is not None
        if client:
            job.clients.add(client)
        # One id goes to every job that was considered, the redundant ones too (transaction_add_job_and_dependencies).
        while self._last_id - first_id < ids:
            self._next_id()
        return job

    def check_mode(self, kind: str, mode: str) -> None:
        """Refuse a mode that is not one for this job (manager_add_job)."""
        if mode == "isolate":
            raise self._refuse("mode_isolate" if kind == "start" else "isolate_not_start")
        if mode == "triggering" and kind != "stop":
            raise self._refuse("mode_triggering", mode=mode)

    def _install(self, planned: Planned, kind: str, mode: str) -> None:
        """Put it into the queue; one of its kind that is there takes it in (job_install)."""
        unit, irreversible = planned.unit, mode == "replace-irreversibly"
        have = unit.job
        if have is not None and have.kind == kind:
            have.irreversible |= irreversible
            have.ignores_order |= planned.ignores_order
            have.in_run_queue = True
            self._queued(have)
            return
        if have is not None:
            self._finish(have, "canceled")
        job = Job(
            id=self._next_id(),
            unit=unit,
            kind=kind,
            irreversible=irreversible,
            ignores_order=planned.ignores_order,
            in_run_queue=True,
        )
        unit.job = job
        self.by_id[job.id] = job
        self._queued(job)
        self._observe(ev.JobChanged(job=job.path, unit=unit.name, type=kind, state="queued"))
        self._arm(job)

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
        """The job is over; those that are ordered after or before it are looked at again (job_finish_and_invalidate)."""
        self.by_id.pop(job.id, None)
        unit, job.unit.job = job.unit, None
        for other in (*after(self._units, unit), *before(self._units, unit)):
            if other.job is not None:
                other.job.in_run_queue = True

    def look_again(self) -> None:
        """Put every job that waits into the run queue (job_coldplug)."""
        for job in self.by_id.values():
            job.in_run_queue |= not job.running

    @property
    def any_to_run(self) -> bool:
        """Whether the run queue holds a job; perhaps none of them can run."""
        return any(job.in_run_queue for job in self.by_id.values())

    def next_runnable(self) -> Job | None:
        """Take jobs from the run queue up to one that nothing orders after another one; None when it is empty. From 247 on scopes
        go before slices, then by CPUWeight and name (unit.c, unit_compare_priority)."""
        queue = [job for job in self.by_id.values() if job.in_run_queue]
        if self._sorted:
            queue.sort(key=_priority)
        for job in queue:
            job.in_run_queue = False
            if not (job.running or job.held) and self._may_run(job):
                return job
        return None

    def _may_run(self, job: Job) -> bool:
        """Whether no job stands before it in order (job_is_runnable)."""
        unit = job.unit
        if job.ignores_order:
            return True
        # Stops go first, the later unit's first of all (job_compare).
        if job.kind == "start" and any(_in_order(other.job) for other in after(self._units, unit)):
            return False
        return not any(
            other.job is not None and other.job.kind == "stop" and _in_order(other.job)
            for other in before(self._units, unit)
        )


def _in_order(job: Job | None) -> bool:
    return job is not None and not job.ignores_order
