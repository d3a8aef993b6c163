"""What the parts of the manager share: one state, and what has to happen whenever it changes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum, auto

from cgrace.fakes.systemd.jobs import Job, Jobs
from cgrace.fakes.systemd.outbox import Outbox
from cgrace.fakes.systemd.profile import Profile
from cgrace.fakes.systemd.properties import Change, Checker, apply
from cgrace.fakes.systemd.readable import describe
from cgrace.fakes.systemd.realise import Realiser
from cgrace.fakes.systemd.refusal import Refuse, refuser
from cgrace.fakes.systemd.transaction import stopped_with
from cgrace.fakes.systemd.tree import CgroupTree
from cgrace.fakes.systemd.units import THAWED, Freezer, Load, Sub, Unit, Units
from cgrace.harness import events as ev
from cgrace.harness.dbus.message import Message


class Mark(Enum):
    """What a look at who refers to a unit has brought (manager.c, GC_OFFSET_...)."""

    IN_PATH = auto()
    UNSURE = auto()
    GOOD = auto()
    BAD = auto()


Observe = Callable[[ev.Event], None]
Kill = Callable[[int, int], None]


@dataclass(slots=True, kw_only=True)
class Core:
    """kill: sends a signal to an outer pid. container: it believes to run in one.

    gc: units to look at for collection. now_ns: time as the shell tells it.

    rewatch: scopes whose processes are to be looked up anew, when there is nothing else to do.

    controls: what SetUnitProperties left as files for units that are not transient. watched: units whose cgroup is watched for
    emptiness. freezing: calls whose answer waits until the kernel has frozen or thawed the unit, with their callers.
    kernel_tells: units of which the kernel has yet to tell that they are frozen (or not). waits_for_kernel: the call in hand is
    one to wait. emptied: units whose cgroup is perhaps empty.
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
    rewatch: dict[Unit, None] = field(default_factory=dict)
    freezing: dict[Unit, tuple[Message, str]] = field(default_factory=dict)
    kernel_tells: dict[Unit, bool] = field(default_factory=dict)
    waits_for_kernel: bool = False
    emptied: dict[Unit, None] = field(default_factory=dict)
    now_ns: int = 0
    starts: int = 0

    def __post_init__(self) -> None:
        self.refuse = refuser(self.profile)
        self.units = Units(self.consider, self._loaded, self.named, remember=self.profile.version < 256)
        self.out = Outbox(self.profile.announce_early, lambda unit, job: describe(self, unit, job))
        self.jobs = Jobs(
            self.units,
            self.refuse,
            self._job_event,
            self.end_job,
            self.out.queued,
            by_priority=self.profile.version >= 247,
            failed_pull_stays=self.profile.version < 254,
        )
        self.realiser = Realiser(self.profile, self.tree, self.said)
        self.checker = Checker(self.profile, self.refuse, self.tree.outer, self.named_slice)

    def said(self, text: str, unit: str = "") -> None:
        """A line of the log."""
        self.observe(ev.SystemdSaid(text=text, unit=unit))

    def _job_event(self, event: ev.Event) -> None:
        self.observe(event)

    def load(self, name: str) -> Unit:
        """The unit, loaded if need be; a unit that nothing holds is collected in the next turn."""
        return self.units.load(name)

    def named_slice(self, name: str) -> Unit:
        """The slice that a request names: it is loaded after the unit that is to be in it (dbus-unit.c,
        bus_unit_set_transient_property)."""
        return self.units.prepare(name) if self.profile.version >= 229 else self.units.load(name)

    def _loaded(self, unit: Unit) -> None:
        apply(unit, self.controls.get(unit.name, ()))
        self.join_freeze(unit)
        self.out.changed(unit)
        self.consider(unit)

    def join_freeze(self, unit: Unit) -> None:
        """A unit that is loaded is frozen where its slice is (256+; unit.c, unit_add_slice_dependencies)."""
        above = unit.slice
        if self.profile.frozen_jobs_fail and above is not None and above.freezer not in THAWED:
            unit.freezer = Freezer.FROZEN_BY_PARENT

    def named(self, unit: Unit, other: Unit) -> None:
        """The unit is in this slice now, or names that other unit as a dependency: it is announced, by later versions the other
        one, too (unit.c, unit_add_dependency)."""
        self.out.changed(unit)
        if self.profile.version >= 249:
            self.out.changed(other)

    def set_state(self, unit: Unit, sub: Sub) -> None:
        """Change a unit's state: tell the observer and the bus, remove the cgroup of what went down, end its job where that was
        what the job was for (unit.c, unit_notify)."""
        before = unit.active_state
        if unit.sub is sub:
            return
        if self.profile.announce_early and unit.announced:
            self.out.flush_now(unit, unit.job)
        unit.sub = sub
        self.out.changed(unit)
        if unit.job is not None and not unit.job.running:
            unit.job.in_run_queue = True
        if unit.active_state != before:
            self.observe(ev.UnitChanged(unit=unit.name, state=unit.active_state))
        if unit.is_down:
            unit.deadline_ns = None
            unit.living = set()
            self.watched.pop(unit, None)
            self.rewatch.pop(unit, None)
            self.realiser.prune(unit)
            if unit.busy and not self.profile.collects_populated:
                self.watched[unit] = None
        self._process_job(unit)
        if unit.is_down:
            self.consider(unit)

    def _process_job(self, unit: Unit) -> None:
        """unit_process_job."""
        job = unit.job
        if job is None or job.forced:
            return
        if job.kind == "stop":
            if unit.is_down:
                self.end_job(job, "done")
        elif unit.is_active:
            self.end_job(job, "done")
        elif job.running and unit.is_down:
            self.end_job(job, "failed" if unit.sub is Sub.FAILED else "done")

    def end_job(self, job: Job, result: str) -> None:
        """A job is over: JobRemoved, and its unit may go; what cannot start without it does not (job_finish_and_invalidate)."""
        self.out.job_removed(job, result)
        self.jobs.remove(job)
        self.consider(job.unit)
        self.out.changed(job.unit)
        self.observe(ev.JobChanged(job=job.path, unit=job.unit.name, type=job.kind, state="ended", result=result))
        if job.kind == "start" and result not in ("done", "canceled"):
            for other in tuple(stopped_with(job.unit)):
                if other.job is not None and other.job.kind == "start":
                    self.end_job(other.job, "dependency")

    # ---- collection

    def consider(self, unit: Unit) -> None:
        """Look at the unit when units are collected next, if nothing of its own speaks against that now (unit_add_to_gc_queue)."""
        if unit not in self.gc and self._may_collect(unit):
            self.gc[unit] = None

    def collect(self) -> None:
        """One pass over the units that may have become unneeded: both queues are stacks (manager_dispatch_gc_unit_queue,
        manager_dispatch_cleanup_queue)."""
        marks: dict[Unit, Mark] = {}
        gone: dict[Unit, None] = {}
        while self.gc:
            unit = next(reversed(self.gc))
            self._sweep(unit, marks, gone)
            self.gc.pop(unit)
            if marks[unit] is not Mark.GOOD:
                marks[unit] = Mark.BAD
                gone.setdefault(unit)
        for unit in reversed(gone):
            self._drop(unit)

    def _sweep(self, unit: Unit, marks: dict[Unit, Mark], gone: dict[Unit, None]) -> None:
        """unit_gc_sweep: nothing that stays may refer to it; in a ring nobody is sure."""
        if unit in marks:
            return
        if not self._may_collect(unit):
            self._mark_good(unit, marks)
            return
        marks[unit] = Mark.IN_PATH
        verdict = Mark.BAD
        for other in (*unit.referrers, *unit.children.values()):
            self._sweep(other, marks, gone)
            if marks[other] is Mark.GOOD:
                self._mark_good(unit, marks)
                return
            if marks[other] is not Mark.BAD:
                verdict = Mark.UNSURE
        marks[unit] = verdict
        (self.gc if verdict is Mark.UNSURE else gone).setdefault(unit)

    def _mark_good(self, unit: Unit, marks: dict[Unit, Mark]) -> None:
        marks[unit] = Mark.GOOD
        for other, mark in marks.items():
            if mark is Mark.UNSURE and (unit in other.referrers or unit.slice is other):
                self._mark_good(other, marks)

    def _may_collect(self, unit: Unit) -> bool:
        """Whether nothing of its own keeps the unit (unit_may_gc)."""
        if self.units.get(unit.name) is not unit or unit.perpetual or unit.phantom:
            return False
        if not unit.is_down or unit.job is not None or unit.refs:
            return False
        if unit.sub is Sub.FAILED and unit.settings.get("CollectMode") != "inactive-or-failed":
            return False
        told = unit.realised and self.realiser.is_v2 and self.profile.prunes_empty  # of its end, when it comes
        if (unit.busy or told) and not self.profile.collects_populated and self.realiser.is_populated(unit):
            return False
        # 247 and 252 collect first: a unit that comes and goes is then announced at its end, both at once.
        return not self.out.is_waiting(unit) or 240 <= self.profile.version < 253

    def _drop(self, unit: Unit) -> None:
        """unit_free."""
        self.out.unit_removed(unit)
        above = unit.slice
        self.watched.pop(unit, None)
        if not self.profile.prunes_empty:
            self.emptied.pop(unit, None)
        for other in self.units.drop(unit):
            self.consider(other)
        if unit.load is Load.LOADED:
            self.observe(ev.UnitChanged(unit=unit.name, state="gone"))
        if above is not None:
            self.consider(above)
            if self.profile.family_on_free:
                self.realiser.queue_family(above)

    def unreferenced(self, unit: Unit) -> None:
        """The last client let go of it: to 257 a reason to look whether its cgroup is empty (bus_unit_track_handler)."""
        if unit.realised and not unit.phantom and self.profile.version < 258:
            self.emptied[unit] = None
        self.consider(unit)

    def cgroup_empty(self, unit: Unit) -> None:
        """Its cgroup is empty, if it is (on_cgroup_empty_event, scope_notify_cgroup_empty_event)."""
        if not unit.realised or self.realiser.is_populated(unit):
            return
        self.consider(unit)
        if unit.is_down:
            if self.profile.prunes_empty or (unit.type == "scope" and self.profile.version >= 247):
                self.realiser.prune(unit)
        elif unit.type == "scope":
            self.set_state(unit, Sub.DEAD if unit.result == "success" else Sub.FAILED)

    @property
    def is_busy(self) -> bool:
        """Whether `between_events` has something to do."""
        to_do = self.units.to_load or self.gc or self.realiser.queue or self.out.units or self.out.jobs or self.emptied
        return bool(to_do)

    def between_events(self) -> None:
        """What the main loop does before it looks at the next event: collect, realise, announce, until nothing is left to do
        (manager.c, manager_loop)."""
        while self.is_busy:
            if self.units.to_load:
                self.units.dispatch_load_queue()
            elif self.gc:
                self.collect()
            elif self.realiser.queue:
                self.realiser.run_queue()
            elif self.emptied and not (self.out.units or self.out.jobs):
                unit = next(iter(self.emptied))
                del self.emptied[unit]
                self.cgroup_empty(unit)
            else:
                for unit in self.out.flush():
                    if not 240 <= self.profile.version < 253:
                        self.consider(unit)

    def take(self) -> list[Message]:
        """The messages so far."""
        return self.out.take()
