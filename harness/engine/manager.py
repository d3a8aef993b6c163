"""The fake systemd as the engine sees it: on its seat at a bus, its jobs gated by the scenario, its turns run at once."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path

from cgrace.fakes.systemd.manager import Manager
from cgrace.fakes.systemd.profile import load_profile
from cgrace.fakes.systemd.tree import KernelTree
from cgrace.harness import events as ev
from cgrace.harness import faults as ft
from cgrace.harness.engine.plan import Plan
from cgrace.harness.engine.seats import EmbeddedSeat, RealSeat, SystemdSeat
from cgrace.harness.events import Event
from cgrace.harness.relay.base import Backend, Handler
from cgrace.harness.relay.seat import POLL_S_MAX
from cgrace.harness.targets.base import Sandbox
from cgrace.harness.targets.buses import EMBEDDED

TURNS_MAX = 100_000
IDLE_LOOKS_MAX = 2_000
_DOINGS = frozenset({"reload", "reexec", "pause", "resume", "kill", "restart"})


class FakeSystemd:
    """Manager and seat of one run. bus: "embedded", or a real one's kind (targets/buses.py), which then runs in the sandbox with
    its files beside `stem`. lost: that bus failed; gets why."""

    is_real = False

    def __init__(
        self,
        profile: str,
        sandbox: Sandbox,
        record: Callable[[Event], object],
        plan: Plan,
        *,
        bus: str = EMBEDDED,
        stem: Path,
        lost: Callable[[str], None],
    ) -> None:
        self._record = record
        self._plan = plan
        self._sandbox = sandbox
        self._jobs: dict[str, str] = {}
        self.tree = KernelTree(sandbox.hierarchies, outer=sandbox.outer)
        self.manager = Manager(load_profile(profile), self.tree, on_event=self._on_event, kill=self._kill)
        self._seat: SystemdSeat
        if bus == EMBEDDED:
            self._seat = seat = EmbeddedSeat(self.manager, self.settle)
            self.manager.listen(seat.hears)
        else:
            self._seat = RealSeat(bus, sandbox, stem, self.manager, after=self.settle, lost=lost)
        self.paused = False
        self._tells = False  # it is in the middle of something, and says so: nothing else happens to it meanwhile
        self._later: list[str] = []
        self.before_job: Callable[[], None] = lambda: None

    @property
    def backend(self) -> Backend:
        """What stands behind the relay."""
        return self._seat.backend

    def open(self) -> AbstractAsyncContextManager[None]:
        """Systemd is on its bus inside of this. TargetError where the bus cannot be had."""
        return self._seat.open()

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
                self.manager.end_job(fault.unit, fault.result, fault.nth, fault.type)
            elif not self._plan.keeps[fault.id].open:
                self.manager.stay_queued(fault.unit, fault.nth, fault.type)

    def _on_event(self, event: Event) -> None:
        if isinstance(event, ev.JobChanged):
            self._jobs[event.unit] = event.job
            self.before_job()  # what the kernel saw of the tree until now stands before the job's next state
        before, self._tells = self._tells, True
        try:
            self._record(event)
            if isinstance(event, ev.JobChanged):
                self._job_faults(event)
        finally:
            self._tells = before

    def _job_faults(self, event: ev.JobChanged) -> None:
        for fault in self._plan.job_faults:
            if (fault.unit, fault.type) != (event.unit, event.type):
                continue
            if isinstance(fault, ft.JobStays) and event.state == "blocked":
                self._plan.keeps[fault.id].keeps = True
                self._fired(fault)
            elif isinstance(fault, ft.JobEnds) and event.state == "ended" and event.result == fault.result:
                self._fired(fault)

    def _fired(self, fault: ft.JobStays | ft.JobEnds) -> None:
        self._record(ev.FaultFired(fault=fault.id, grade=ft.grade(fault), what=fault.what))

    def let_go(self, fault: ft.JobStays) -> None:
        """The gate opens: the job runs now."""
        self.manager.let_go(fault.unit, fault.type)
        self.settle()

    def handler(self, handler: Handler) -> Handler:
        """It takes its turns between two messages."""
        return handler

    def passes(self, seen: ev.MessageSeen) -> None:
        """The manager will see it itself."""

    def catch_up(self) -> None:
        """What it said has been recorded as it said it."""

    def settle(self) -> None:
        """Run the manager's turns until it has nothing left to do; what it says goes out by the bus. In the middle of a call or a
        turn that has to wait: whoever began that settles behind it."""
        if self._tells:
            return
        while self._later:
            self._carry_out(self._later.pop(0))
        for _ in range(TURNS_MAX):
            if self.paused or (said := self.manager.step()) is None:
                return
            if said:
                self._seat.emit(said)
        raise AssertionError("the fake systemd never comes to rest")

    def tells_end(self) -> bool:
        """It lives in our own process."""
        return False

    def process_ended(self) -> None:
        """A process of the run ended: a scope that ran empty may end with it."""
        if self.manager.watching():
            self._seat.emit(self.manager.poll_empty())
            self.settle()

    def busy(self) -> bool:
        """Whether it or the bus still has something to do by itself, or a message is under way between the relay and it."""
        if self.paused and not self._seat.arrives:
            return False
        return (self.manager.pending() and not self.paused) or self._seat.busy

    async def idle(self) -> None:
        """Wait until all that is under way has arrived; not for ever, where a driver keeps the bus busy."""
        pause = self._seat.poll_s
        for _ in range(IDLE_LOOKS_MAX):
            if not self.busy():
                return
            await asyncio.sleep(pause)
            pause = min(pause * 2, POLL_S_MAX)

    async def arrived(self) -> None:
        """Before the run goes on from something that the driver did: what that caused has arrived. It always has on the
        embedded bus; a real one takes a moment, and the schedule must not depend on how long."""
        if self._seat.arrives:
            await self.idle()

    def processes(self) -> dict[int, str]:
        """Processes of systemd's side in the sandbox: the real bus, by its outer pid."""
        return self._seat.processes()

    def unaccounted(self) -> tuple[str, ...]:
        """What of the bus could still bring something about by itself."""
        return self._seat.unaccounted()

    async def perished(self) -> ev.RunEnded | None:
        """The fake ends with us."""
        return None

    def queued(self) -> tuple[str, ...]:
        """Jobs that have not ended."""
        return self.manager.queued_jobs()

    def newest_job(self, unit: str) -> str:
        """The path of the newest job of a unit, "" when there was none."""
        return self._jobs.get(unit, "")

    @property
    def unique_name(self) -> str:
        """The sender of what systemd says."""
        return self._seat.unique_name

    def loaded(self) -> tuple[str, ...]:
        """Units that somebody made and that are still there."""
        return self.manager.transient_units()

    def cgroup_of(self, unit: str) -> str:
        """The unit's cgroup below the run's root, where systemd (still) knows one."""
        found = self.manager.unit(unit)
        return found.cgroup if found is not None else ""

    def do(self, what: str) -> bool:
        """Carry out what the scenario does to systemd; False where the fake cannot."""
        if what not in _DOINGS:
            return False
        if self._tells and what in ("reload", "reexec"):
            self._later.append(what)
        else:
            self._carry_out(what)
            self.settle()
        return True

    def _carry_out(self, what: str) -> None:
        match what:
            case "reload":
                self._seat.emit(self.manager.reload())
            case "reexec":
                self._seat.emit(self.manager.reexec())
            case "pause":
                self.paused = True
                self._seat.pause()
            case "resume":
                self.paused = False
                self._seat.resume()
            case "kill":
                self.paused = True
                self._seat.leave()
            case "restart":
                self._seat.leave()
                self._seat.join()

    def do_to_bus(self, what: str) -> None:
        """Its bus ends with the connections, which the relay cuts."""
