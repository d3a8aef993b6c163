"""What the parts of the manager share: one state, and what has to happen whenever it changes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from cgrace.fakes.systemd.jobs import Job, Jobs
from cgrace.fakes.systemd.outbox import Outbox
from cgrace.fakes.systemd.profile import Profile
from cgrace.fakes.systemd.properties import Change, Checker, apply
from cgrace.fakes.systemd.readable import describe
from cgrace.fakes.systemd.realise import Realiser
from cgrace.fakes.systemd.refusal import Refuse, refuser
from cgrace.fakes.systemd.tree import CgroupTree
from cgrace.fakes.systemd.units import Load, Sub, Unit, Units
from cgrace.harness import events as ev
from cgrace.harness.dbus.message import Message

Observe = Callable[[ev.Event], None]
Kill = Callable[[int, int], None]


@dataclass(slots=True, kw_only=True)
class Core:
    """kill: sends a signal to an outer pid. container: it believes to run in one.

    gc: units to look at for collection. now_ns: time as the shell tells it.

    controls: what SetUnitProperties left as files for units that are not transient. watched: units whose cgroup is watched for
    emptiness. freezing: calls whose answer waits for the kernel.
    """

    profile: Profile
    tree: CgroupTree
    observe: Observe
    kill: Kill
    container: bool = False
    units: Units = field(init=False)
    refuse: Refuse = field(init=False)
    out: Outbox = field(init=False)
    jobs: Jobs = field(init=False)
    realiser: Realiser = field(init=False)
    checker: Checker = field(init=False)
    controls: dict[str, list[Change]] = field(default_factory=dict)
    gc: dict[Unit, None] = field(default_factory=dict)
    watched: dict[Unit, None] = field(default_factory=dict)
    now_ns: int = 0
    starts: int = 0

    def __post_init__(self) -> None:
        self.refuse = refuser(self.profile)
        self.units = Units(self._loaded, self.named)
        self.out = Outbox(self.profile.announce_early, lambda unit, job: describe(self, unit, job))
        self.jobs = Jobs(
            self.units,
            self.refuse,
            self._job_event,
            self.end_job,
            self.out.queued,
            by_priority=self.profile.version >= 247,
        )
        self.realiser = Realiser(self.profile, self.tree, self.said)
        self.checker = Checker(self.profile, self.refuse, self.tree.outer, self.load)

    def said(self, text: str, unit: str = "") -> None:
        """A line of the log."""
        self.observe(ev.SystemdSaid(text=text, unit=unit))

    def _job_event(self, event: ev.Event) -> None:
        self.observe(event)

    def load(self, name: str) -> Unit:
        """The unit, loaded if need be; a unit that nothing holds is collected in the next turn."""
        return self.units.load(name)

    def _loaded(self, unit: Unit) -> None:
        apply(unit, self.controls.get(unit.name, ()))
        self.out.changed(unit)
        self.gc[unit] = None

    def named(self, unit: Unit) -> None:
        """Another unit is in this slice now, or names this unit as a dependency: later versions announce it (unit.c,
        unit_add_dependency; seen on 252, not on 247)."""
        if self.profile.version >= 249:
            self.out.changed(unit)

    def set_state(self, unit: Unit, sub: Sub) -> None:
        """Change a unit's state: tell the observer and the bus, remove the cgroup of what went down."""
        before = unit.active_state
        if unit.sub is sub:
            return
        unit.sub = sub
        self.out.changed(unit)
        if unit.active_state != before:
            self.observe(ev.UnitChanged(unit=unit.name, state=unit.active_state))
        if unit.is_down:
            self.jobs.dirty = True
            unit.deadline_ns = None
            self.watched.pop(unit, None)
            self.realiser.prune(unit)
            if unit.busy and not self.profile.collects_populated:
                self.watched[unit] = None
            self.gc[unit] = None

    def end_job(self, job: Job, result: str) -> None:
        """A job is over: JobRemoved, and its unit may go."""
        self.out.job_removed(job, result)
        self.jobs.remove(job)
        self.out.changed(job.unit)
        self.gc[job.unit] = None
        self.observe(ev.JobChanged(job=job.path, unit=job.unit.name, type=job.kind, state="ended", result=result))

    def collect(self) -> None:
        """One pass over the units that may have become unneeded (unit_may_gc)."""
        gone = []
        while self.gc:
            unit = next(iter(self.gc))
            del self.gc[unit]
            if self._may_collect(unit):
                self._drop(unit)
                gone.append(unit)
        for unit in reversed(gone) if self.profile.announce_early else gone:  # the cleanup queue is a stack
            self.out.unit_removed(unit)

    def _may_collect(self, unit: Unit) -> bool:
        if self.units.get(unit.name) is not unit or unit.perpetual or unit.phantom:
            return False
        if _is_held(unit) or self._is_referred(unit, {unit}):
            return False
        if unit.sub is Sub.FAILED and unit.settings.get("CollectMode") != "inactive-or-failed":
            return False
        if unit.busy and not self.profile.collects_populated and self.realiser.is_populated(unit):
            return False
        # 247 and 252 collect first: a unit that comes and goes is then announced at its end, both at once.
        return not self.out.is_waiting(unit) or 240 <= self.profile.version < 253

    def _is_referred(self, unit: Unit, seen: set[Unit]) -> bool:
        """Whether a unit that stays names this one: a ring of units that nothing else holds goes (unit_gc_sweep)."""
        for other in unit.referrers:
            if other not in seen:
                seen.add(other)
                if _is_held(other) or self._is_referred(other, seen):
                    return True
        return False

    def _drop(self, unit: Unit) -> None:
        above = unit.slice
        for other in self.units.drop(unit):
            self.gc[other] = None
        self.watched.pop(unit, None)
        if unit.load is Load.LOADED:
            self.observe(ev.UnitChanged(unit=unit.name, state="gone"))
        if above is not None:
            self.gc[above] = None
            if self.profile.family_on_free and unit.load is Load.LOADED:
                self.realiser.queue_family(above)

    @property
    def is_busy(self) -> bool:
        """Whether `between_events` has something to do."""
        return bool(self.gc or self.realiser.queue or self.out.units or self.out.jobs)

    def between_events(self) -> None:
        """What the main loop does before it looks at the next event: collect, realise, announce, until nothing is left to do
        (manager.c, manager_loop)."""
        while self.is_busy:
            if self.gc:
                self.collect()
            if self.realiser.queue:
                self.realiser.run_queue()
            if self.out.units or self.out.jobs:
                for unit in self.out.flush():
                    self.gc[unit] = None

    def take(self) -> list[Message]:
        """The messages so far."""
        return self.out.take()


def _is_held(unit: Unit) -> bool:
    """Whether a unit stays for what it is or has itself."""
    return not unit.is_down or unit.job is not None or bool(unit.refs or unit.children)
