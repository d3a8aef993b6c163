"""The fake systemd as the engine sees it: behind the embedded bus, its jobs gated by the scenario, its turns run at once."""

from __future__ import annotations

from collections.abc import Callable

from cgrace.fakes.systemd.manager import Manager
from cgrace.fakes.systemd.profile import load_profile
from cgrace.fakes.systemd.tree import KernelTree
from cgrace.harness import events as ev
from cgrace.harness import faults as ft
from cgrace.harness.dbus.bus import EmbeddedBus
from cgrace.harness.dbus.systemd1 import NAME
from cgrace.harness.engine.plan import Plan
from cgrace.harness.events import Event
from cgrace.harness.relay.embedded import Embedded
from cgrace.harness.targets.base import Sandbox

TURNS_MAX = 100_000


class FakeSystemd:
    """Manager, bus and backend of one run."""

    def __init__(self, profile: str, sandbox: Sandbox, record: Callable[[Event], object], plan: Plan) -> None:
        self._record = record
        self._plan = plan
        self._sandbox = sandbox
        self._jobs: dict[str, str] = {}
        self.tree = KernelTree(sandbox.hierarchies, outer=sandbox.outer)
        self.manager = Manager(load_profile(profile), self.tree, on_event=self._on_event, kill=self._kill)
        self.bus = EmbeddedBus({NAME: self.manager})
        self.backend = Embedded(self.bus, after=self.settle)
        self.paused = False
        self.before_job: Callable[[], None] = lambda: None

    def close(self) -> None:
        """Let go of the cgroup tree."""
        self.tree.close()

    def _kill(self, pid_outer: int, number: int) -> None:
        inner = self._sandbox.inner(pid_outer)
        if inner is not None:
            self._sandbox.signal(inner, number)

    def arm(self) -> None:
        """The driver's own probes are over: gates and job faults hold from now on."""
        for fault in self._plan.job_faults:
            if isinstance(fault, ft.JobEnds):
                self.manager.end_job(fault.unit, fault.result, fault.nth)
            elif not self._plan.keeps[fault.id].open:
                self.manager.stay_queued(fault.unit, fault.nth)

    def _on_event(self, event: Event) -> None:
        if isinstance(event, ev.JobChanged):
            self._jobs[event.unit] = event.job
            self.before_job()  # what the kernel saw of the tree until now stands before the job's next state
        self._record(event)
        if isinstance(event, ev.JobChanged):
            self._job_faults(event)

    def _job_faults(self, event: ev.JobChanged) -> None:
        for fault in self._plan.job_faults:
            if fault.unit != event.unit:
                continue
            if isinstance(fault, ft.JobStays) and event.state == "blocked":
                self._plan.keeps[fault.id].keeps = True
                self._fired(fault, f"job of {fault.unit} stays queued until {fault.until}")
            elif isinstance(fault, ft.JobEnds) and event.state == "ended" and event.result == fault.result:
                self._fired(fault, f"job of {fault.unit} ends as {fault.result}")

    def _fired(self, fault: ft.Fault, what: str) -> None:
        self._record(ev.FaultFired(fault=fault.id, grade=ft.grade(fault), what=what))

    def let_go(self, fault: ft.JobStays) -> None:
        """The gate opens: the job runs now."""
        self.manager.let_go(fault.unit)
        self.settle()

    def settle(self) -> None:
        """Run the manager's turns until it has nothing left to do; what it says goes out by the bus."""
        for _ in range(TURNS_MAX):
            if self.paused or not self.manager.pending():
                return
            self.backend.emit(NAME, self.manager.turn())
        raise AssertionError("the fake systemd never comes to rest")

    def process_ended(self) -> None:
        """A process of the run ended: a scope that ran empty may end with it."""
        if self.manager.watching():
            self.backend.emit(NAME, self.manager.poll_empty())
            self.settle()

    def busy(self) -> bool:
        """Whether it or the bus still has something to do by itself."""
        return not self.paused and (self.manager.pending() or self.backend.busy)

    def queued(self) -> tuple[str, ...]:
        """Jobs that have not ended."""
        return self.manager.queued_jobs()

    def newest_job(self, unit: str) -> str:
        """The path of the newest job of a unit, "" when there was none."""
        return self._jobs.get(unit, "")

    @property
    def unique_name(self) -> str:
        """The sender of what systemd says."""
        return ":1.0"

    def loaded(self) -> tuple[str, ...]:
        """Units that somebody made and that are still there."""
        return self.manager.transient_units()

    def cgroup_of(self, unit: str) -> str:
        """The unit's cgroup below the run's root, where systemd (still) knows one."""
        found = self.manager.unit(unit)
        return found.cgroup if found is not None else ""

    def do(self, what: str) -> bool:
        """Carry out what the scenario does to systemd; False where the fake cannot."""
        match what:
            case "reload":
                self.backend.emit(NAME, self.manager.reload())
            case "reexec":
                self.backend.emit(NAME, self.manager.reexec())
            case "pause":
                self.paused = True
                self.backend.pause()
            case "resume":
                self.paused = False
                self.backend.resume()
            case "kill":
                self.paused = True
                self.backend.queue(self.bus.service_gone(NAME))
            case "restart":
                self.backend.queue(self.bus.service_gone(NAME))
                self.backend.queue(self.bus.service_back(NAME, self.manager))
            case _:
                return False
        self.settle()
        return True
