"""What one request does to the job queue: which jobs it takes, or why it is refused (transaction.c).

Every job of a transaction is of one kind here: nothing that a client may give a unit pulls in a stop with a start.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from cgrace.fakes.systemd.refusal import Refusal, Refuse
from cgrace.fakes.systemd.units import Load, Unit, Units

_PULLS = ("Requires", "BindsTo")
_STOPPED_BY = ("Requires", "Requisite", "BindsTo", "PartOf")
NO_DEPENDENCIES = frozenset(("ignore-dependencies", "ignore-requirements"))


@dataclass(slots=True, eq=False, kw_only=True)
class Planned:
    """A job that a transaction would make, or one that is there. pulled_by: the jobs that asked for it, and whether they fail
    without it.

    matters: the job that was asked for fails without it. on_path, cleared: of the look for cycles.
    """

    unit: Unit
    kind: str
    ignores_order: bool = False
    matters: bool = False
    pulled_by: dict[Planned, bool] = field(default_factory=dict)
    pulls: dict[Planned, bool] = field(default_factory=dict)
    came_from: Planned | None = None
    on_path: bool = False
    cleared: bool = False


class CycleBroken(Exception):
    """A job was left out because the order would have been a circle: look again."""


class Transaction:
    """The jobs of one request, by unit. failed_pull_stays: a job that is merely wanted stays although what it requires cannot
    be had (to 252; transaction_add_job_and_dependencies)."""

    def __init__(self, units: Units, refuse: Refuse, kind: str, mode: str, *, failed_pull_stays: bool) -> None:
        self._units = units
        self._refuse = refuse
        self._kind = kind
        self._mode = mode
        self._failed_pull_stays = failed_pull_stays
        self._jobs: dict[Unit, Planned] = {}
        self._installed: dict[Unit, Planned] = {}

    def plan(self, unit: Unit) -> list[Planned]:
        """The jobs to install, that of `unit` first; Refusal where it cannot be done."""
        anchor = self._add(unit, None, matters=True)
        assert anchor is not None
        _mark_mattering(anchor)
        if self._mode == "fail":
            self._minimize()
        self._drop_redundant(anchor)
        while True:
            self._collect(anchor)
            try:
                self._verify_order()
            except CycleBroken:
                continue
            break
        self._check_destructive(unit)
        return list(self._jobs.values())

    # ---- what is pulled in

    def _add(self, unit: Unit, by: Planned | None, *, matters: bool) -> Planned | None:
        """transaction_add_job_and_dependencies; None where a job of this kind does not apply."""
        if unit.load is Load.STUB:
            raise self._refuse("stub_job", unit=unit.name)
        if self._kind == "start":
            self._check_loaded(unit)
        elif unit.perpetual or unit.phantom:
            return None
        job = self._jobs.get(unit)
        is_new = job is None
        if job is None:
            job = self._jobs[unit] = Planned(unit=unit, kind=self._kind)
        job.ignores_order |= self._mode == "ignore-dependencies"
        if by is not None:
            job.pulled_by[by] = by.pulls[job] = by.pulls.get(job, False) or matters
        if not is_new or (by is None and self._mode in NO_DEPENDENCIES):
            return job
        try:
            if self._kind == "start":
                self._pull_in(job)
            else:
                for other in stopped_with(unit):
                    self._add(other, job, matters=True)
        except Refusal:
            if not self._failed_pull_stays:
                self._unlink(job)
            raise
        return job

    def _pull_in(self, job: Planned) -> None:
        unit = job.unit
        if unit.slice is not None:
            self._add(unit.slice, job, matters=True)
        for name in (name for kind in _PULLS for name in unit.settings.get(kind, ())):
            if name != unit.name:
                self._add(self._units.load(name), job, matters=True)
        for name in unit.settings.get("Wants", ()):
            if name != unit.name:
                try:
                    self._add(self._units.load(name), job, matters=False)
                except Refusal:
                    continue

    def _check_loaded(self, unit: Unit) -> None:
        """bus_unit_validate_load_state."""
        match unit.load:
            case Load.LOADED:
                return
            case Load.NOT_FOUND:
                raise self._refuse("dependency_not_found", unit=unit.name)
            case Load.ERROR:
                raise self._refuse(unit.load_error, unit=unit.name)
            case _:
                raise self._refuse("bad_setting", unit=unit.name)

    # ---- what is left out

    def _unlink(self, job: Planned, *, with_those: bool = False) -> None:
        """transaction_delete_job. with_those: also what fails without it."""
        self._jobs.pop(job.unit, None)
        for below in job.pulls:
            below.pulled_by.pop(job, None)
        above, job.pulled_by = job.pulled_by, {}
        for by, matters in above.items():
            by.pulls.pop(job, None)
            if with_those and matters and self._jobs.get(by.unit) is by:
                self._unlink(by, with_those=True)

    def _minimize(self) -> None:
        """Mode "fail" leaves out what only was wanted and would stop something or turn a job round."""
        again = True
        while again:
            again = False
            for job in self._jobs.values():
                stops = self._kind == "stop" and job.unit.is_active
                if not job.matters and (stops or self._turns_round(job.unit)):
                    self._unlink(job, with_those=True)
                    again = True
                    break

    def _turns_round(self, unit: Unit) -> bool:
        return unit.job is not None and unit.job.kind != self._kind

    def _drop_redundant(self, anchor: Planned) -> None:
        for job in tuple(self._jobs.values()):
            done = job.unit.is_active if self._kind == "start" else job.unit.is_down
            if job is not anchor and done and not self._turns_round(job.unit):
                self._unlink(job)

    def _collect(self, anchor: Planned) -> None:
        """What nothing pulls in any more goes, and then what that pulled in."""
        again = True
        while again:
            again = False
            for job in tuple(self._jobs.values()):
                if job is not anchor and not job.pulled_by:
                    self._unlink(job)
                    again = True

    def _check_destructive(self, anchor: Unit) -> None:
        for unit in self._jobs:
            job = unit.job
            if job is not None and self._turns_round(unit) and (self._mode == "fail" or job.irreversible):
                names = {"unit": anchor.name, "other": unit.name}
                raise self._refuse("destructive", kind=self._kind, have=job.kind, **names)

    # ---- order

    def _verify_order(self) -> None:
        """Refuse a circle, or break it at a job that only was wanted. Jobs that are installed already may close it, too."""
        self._installed = {}
        for job in self._jobs.values():
            job.on_path = job.cleared = False
        for job in tuple(self._jobs.values()):
            self._walk(job, None)

    def _walk(self, job: Planned, came_from: Planned | None) -> None:
        if job.cleared:
            return
        if job.on_path:
            self._break(job, came_from)
        job.came_from, job.on_path = came_from, True
        for other in self._later(job):
            self._walk(other, job)
        job.on_path, job.cleared = False, True

    def _break(self, job: Planned, came_from: Planned | None) -> None:
        at = came_from
        while at is not None:
            if not at.matters and self._jobs.get(at.unit) is at:
                self._unlink(at, with_those=True)
                raise CycleBroken
            if at is job:
                break
            at = at.came_from
        raise self._refuse("cyclic")

    def _later(self, job: Planned) -> Iterator[Planned]:
        """The jobs that must run after this one (job_compare): stops go first, the later unit's first of all."""
        if job.ignores_order:
            return
        for unit in before(self._units, job.unit):
            other = self._job_of(unit)
            if other is not None and other.kind != "stop" and not other.ignores_order:
                yield other
        for unit in after(self._units, job.unit) if job.kind == "stop" else ():
            other = self._job_of(unit)
            if other is not None and not other.ignores_order:
                yield other

    def _job_of(self, unit: Unit) -> Planned | None:
        """The transaction's, else the installed one."""
        if unit in self._jobs:
            return self._jobs[unit]
        if unit.job is not None and unit not in self._installed:
            have = unit.job
            self._installed[unit] = Planned(unit=unit, kind=have.kind, ignores_order=have.ignores_order, matters=True)
        return self._installed.get(unit)


def _mark_mattering(anchor: Planned) -> None:
    todo = [anchor]
    while todo:
        job = todo.pop()
        if not job.matters:
            job.matters = True
            todo += [below for below, matters in job.pulls.items() if matters]


def stopped_with(unit: Unit) -> Iterator[Unit]:
    """Units that are stopped when this one is: those in a slice, and those that require it (unit-dependency-atom.c,
    UNIT_ATOM_PROPAGATE_STOP)."""
    yield from unit.children.values()
    for other in unit.referrers:
        if any(unit.name in other.settings.get(kind, ()) for kind in _STOPPED_BY):
            yield other


def after(units: Units, unit: Unit) -> Iterator[Unit]:
    """The units that this one is ordered after."""
    if unit.slice is not None:
        yield unit.slice
    yield from _named(units.get, unit, "After", "Before")


def before(units: Units, unit: Unit) -> Iterator[Unit]:
    """The units that this one is ordered before."""
    yield from unit.children.values()
    yield from _named(units.get, unit, "Before", "After")


def _named(get: Callable[[str], Unit | None], unit: Unit, kind: str, inverse: str) -> Iterator[Unit]:
    for name in unit.settings.get(kind, ()):
        other = get(name)
        if other is not None and other is not unit:
            yield other
    for other in unit.referrers:
        if other is not unit and unit.name in other.settings.get(inverse, ()):
            yield other
