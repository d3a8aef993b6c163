"""A real systemd as the engine sees it: on its own bus, its jobs followed from a line of ours, its job gates by its own rules.

Nothing tells when a systemd has come to rest, so it is looked at: what went in has been read, the bus sleeps, PID 1 sleeps, the
bus sleeps again and nothing lies on the way back. The kernel makes a waiter runnable inside the writer's own system call
(witnesses/waits.py), so in this order nothing slips through between the looks, and a sleeping PID 1 has an empty run queue: a job
that still waits then waits for another one. The looks observe and order nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Final

from cgrace.harness import events as ev
from cgrace.harness import faults as ft
from cgrace.harness.dbus import systemd1
from cgrace.harness.dbus.message import Message
from cgrace.harness.engine.agent import ReleaseAgent
from cgrace.harness.engine.control import Control
from cgrace.harness.engine.gates import Gates
from cgrace.harness.engine.jobs import Jobs
from cgrace.harness.engine.plan import Plan
from cgrace.harness.engine.turns import LOOK_S, LOOK_S_MAX, Turns
from cgrace.harness.errors import TargetError
from cgrace.harness.events import Event
from cgrace.harness.proc import standstill
from cgrace.harness.proc.pidstat import DEAD, FLAGS, STATE, stat_fields
from cgrace.harness.relay.base import Backend, Handler
from cgrace.harness.relay.upstream import Upstream
from cgrace.harness.targets.machine import MachineSandbox
from cgrace.harness.witnesses.asleep import sleeps
from cgrace.harness.witnesses.waits import ProcessGone, at_rest

IDLE_S_MAX: Final = 10.0
LEAVE_S_MAX: Final = 5.0
_PF_EXITING: Final = 0x4  # include/linux/sched.h
GATES_S_SPARE: Final = 60.0
ENDS_S_MAX: Final = 1.0
CONSOLE_LINES: Final = 3  # in one sentence; the trace has more
_MADE: Final = (".slice", ".scope")
_DOWN: Final = ("", "inactive", "gone")
# systemd counts its starts and refuses the sixth within ten seconds, as it does after as many runs on one machine that end the bus;
# to reset a unit forgets them (systemd.unit(5), StartLimitBurst=; unit_reset_failed in core/unit.c).
BUS_UNIT: Final = "dbus.service"


class RealSystemd:
    """The systemd of a booted machine, for one run. lost: the machine or its bus failed us; gets why, and the console's lines."""

    is_real = True

    def __init__(
        self,
        sandbox: MachineSandbox,
        record: Callable[[Event], object],
        plan: Plan,
        *,
        lost: Callable[[str, tuple[str, ...]], None],
        uses_bus: bool,
        seconds_max: float,
    ) -> None:
        self._sandbox = sandbox
        self._machine = sandbox.machine
        self._record = record
        self._plan = plan
        self._lost = lost
        self._gated = [f for f in plan.job_faults if isinstance(f, ft.JobStays | ft.JobEnds)] if uses_bus else []
        self._jobs = Jobs(record, self._on_queued, self._on_ended)
        self._upstream = Upstream(self._machine.bus_path, dial=sandbox.dial if sandbox.is_outside else None)
        self.backend: Backend = self._upstream
        self._control = Control(
            self._machine.bus_path, on_signal=self._on_signal, on_closed=self._on_closed, bug=self._bug
        )
        self._gates = Gates(
            self._control,
            dropins=sandbox.dropins,
            seconds_max=seconds_max + GATES_S_SPARE,
        )
        self._agent = ReleaseAgent(self._machine.init_pid, self._machine.hierarchies)
        self._queued: Counter[tuple[str, str]] = Counter()
        self._bus_pid = 0
        self._later: list[ft.JobStays] = []  # gates to open when it is back
        self._goes = False  # it re-executes itself, or its bus ends: what is said to it now is lost
        self._closing = False
        self._back: asyncio.Task[None] | None = None
        self._cgroups: dict[str, str] = {}
        self.paused = False
        self._turns: Turns | None = None

    @property
    def before_job(self) -> Callable[[], None]:
        """See Systemd."""
        return self._jobs.before_job

    @before_job.setter
    def before_job(self, call: Callable[[], None]) -> None:
        self._jobs.before_job = call

    def handler(self, handler: Handler) -> Handler:
        """Its turns come before the driver hears of them."""
        self._turns = Turns(handler, lambda: not self._acts(), self._bug)
        return self._turns

    @property
    def unique_name(self) -> str:
        """Its name on the bus."""
        return self._control.unique_name

    # ---- life

    @contextlib.asynccontextmanager
    async def open(self) -> AsyncIterator[None]:
        """A line to it, and the gates, all closed; both are gone when the block ends."""
        await self._join()
        try:
            await self._gates.make(self._gated)
            yield
        finally:
            self._closing = True
            await self._leave()

    def close(self) -> None:
        """Nothing is left to let go of."""
        if self._turns is not None:
            self._turns.close()
        self._control.close()

    async def _join(self) -> None:
        await self._control.open()
        self._bus_pid = self._sandbox.outer(self._control.bus_pid) or 0

    async def _leave(self) -> None:
        """Undo what we did to it. What the run made the sandbox undoes."""
        if self.paused:
            self.do("resume")
        with contextlib.suppress(TargetError, TimeoutError):
            async with asyncio.timeout(LEAVE_S_MAX):
                if self._back is not None:
                    await self._back
                await self._gates.remove()
        self._control.close()

    def _units(self) -> list[str]:
        return [unit for unit in self._jobs.units if unit.endswith(_MADE)]

    def _bug(self, error: Exception) -> None:
        if self._upstream.bug is None:
            raise error
        self._upstream.bug(error)

    # ---- what it says

    def _on_signal(self, message: Message) -> None:
        if message.member == "NameOwnerChanged":
            if self._goes and self.unique_name:
                self._came_back()
            return
        self._gates.heard(message)
        if self._closing:  # what comes of leaving is no part of the run
            return
        self._jobs.on_signal(message)
        if message.member == "UnitRemoved" and (unit := str(message.body[0])) not in self._jobs.units:
            self._gates.forgotten(unit)

    def _came_back(self) -> None:
        """It can be spoken to again; what was said to it meanwhile it never read."""
        self._goes = False
        self._jobs.reloaded()
        later, self._later = self._later, []
        for fault in later:
            self._gates.open(fault)

    def _on_closed(self, why: str) -> None:
        if not self._closing and (self._back is None or self._back.done()):
            self._back = asyncio.ensure_future(self._come_back(why))

    async def _come_back(self, why: str) -> None:
        """The bus ended; systemd starts it again for whoever connects. Jobs that ended meanwhile ended unheard."""
        try:
            await self._join()
            (jobs,) = await self._control.ask("ListJobs")
            self._jobs.listed((path, unit, state) for _, unit, _, state, path, _ in jobs)
            self._control.call("ResetFailedUnit", "s", BUS_UNIT)
            self._came_back()
            self._upstream.let_go()
        except TargetError as error:
            await self._tell_loss(f"{why}, and then: {error.message}")

    async def _tell_loss(self, why: str) -> None:
        """The end of a machine is told a moment later than the end of its bus, and says more."""
        await self._end_seen()
        lines = tuple(self._machine.console_tail().splitlines())
        self._lost(self._last_words(lines) if self._machine.ended.done() else why, lines)

    async def _end_seen(self) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(ENDS_S_MAX):
                await asyncio.shield(self._machine.ended)

    def _last_words(self, lines: tuple[str, ...]) -> str:
        said = [line.strip() for line in lines if line.strip()][-CONSOLE_LINES:]
        return "the machine ended" + (f"; its console said last: {' / '.join(said)}" if said else "")

    async def perished(self) -> ev.RunEnded | None:
        """The end of a run whose machine is ending: whatever its driver met meanwhile says nothing of the driver."""
        if not _is_ending(self._machine.init_pid):
            return None
        await self._end_seen()
        lines = tuple(self._machine.console_tail().splitlines())
        return ev.RunEnded(why="error", text=self._last_words(lines), details=lines)

    def _on_queued(self, job: ev.JobChanged) -> None:
        """A new job: gates are for the unit's n-th of a type."""
        self._queued[job.unit, job.type] += 1
        for fault in self._meant(job):
            if isinstance(fault, ft.JobEnds):
                self._gates.end(fault, job.job)
            elif self._gates.closed(fault) and not (keep := self._plan.keeps[fault.id]).open:
                keep.keeps = True
                self._jobs.blocked(job.job)
                self._fired(fault)

    def _on_ended(self, job: ev.JobChanged) -> None:
        """A job is over: what was to keep it or end it is, too, and gates for the unit's next one close."""
        for fault in self._meant(job):
            if isinstance(fault, ft.JobEnds) and fault.result == job.result:
                self._fired(fault)
            self._gates.open(fault)
        self._gates.job_ended(job.unit, job.type)

    def _meant(self, job: ev.JobChanged) -> Iterator[ft.JobStays | ft.JobEnds]:
        """The faults that are about this very job, the newest of its unit and type."""
        this = (job.unit, job.type, self._queued[job.unit, job.type])
        yield from (fault for fault in self._gated if (fault.unit, fault.type, fault.nth) == this)

    def _fired(self, fault: ft.JobStays | ft.JobEnds) -> None:
        self._record(ev.FaultFired(fault=fault.id, grade=ft.grade(fault), what=fault.what))

    # ---- the engine's turn

    def arm(self) -> None:
        """Gates are closed from the start: no driver's probe starts a unit of a scenario's."""

    def let_go(self, fault: ft.JobStays) -> None:
        """The gate opens."""
        if self._goes:
            self._later.append(fault)
        else:
            self._gates.open(fault)

    def passes(self, seen: ev.MessageSeen) -> None:
        """Calls say of what type the next job is."""
        self._jobs.asked(seen)

    def catch_up(self) -> None:
        """What it said before a message came to the driver stands before it."""
        self._control.read_now()

    def settle(self) -> None:
        """It takes its turns by itself."""

    def tells_end(self) -> bool:
        """It is the machine's PID 1: its console is worth reading, and is told with the loss of its bus."""
        return self._machine.ended.done() or (self._back is not None and not self._back.done())

    def process_ended(self) -> None:
        """It sees that by itself, but for what the kernel tells no container."""
        self._agent.process_ended(unit for unit in self._units() if unit.endswith(".scope"))

    # ---- rest

    def busy(self) -> bool:
        """Whether anything is on its way."""
        return (self._turns is not None and self._turns.busy) or self._acts()

    def _acts(self) -> bool:
        """Whether it has something to do, or a job can go on by itself. One that waits while a gate is closed cannot."""
        if self._goes or self._control.busy or (self._back is not None and not self._back.done()):
            return True
        if self._gates.busy or self._under_way():
            return True
        if self.paused or not self._jobs.any:
            return False
        return self._jobs.any_runs or not self._closed()

    def _closed(self) -> bool:
        return any(keep.closed for fault in self._gated if (keep := self._plan.keeps.get(fault.id)) is not None)

    def _under_way(self) -> bool:
        if self._upstream.queues()[1] or not self._sleeps(self._bus_pid):
            return True
        if not self.paused and not self._sleeps(self._machine.init_pid):
            return True
        return not self._sleeps(self._bus_pid) or self._upstream.queues()[0] > 0 or self._control.busy

    def _sleeps(self, pid: int) -> bool:
        """Whether a process waits for somebody else; one that has ended has nothing inside any more."""
        try:
            rest = at_rest(pid, alone=True)
        except ProcessGone:
            return True
        except PermissionError:  # a user's systemd may have a capability that its user's own processes have not
            return sleeps(pid)
        return rest is not None and not rest.unjudged

    async def arrived(self) -> None:
        """Wait for rest."""
        pause = LOOK_S
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(IDLE_S_MAX):
                while self.busy():
                    await asyncio.sleep(pause)
                    pause = min(pause * 2, LOOK_S_MAX)

    async def idle(self) -> None:
        """Wait for rest, then ask where the units' cgroups are: the end of a run wants to know."""
        await self.arrived()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(0 if self.paused else IDLE_S_MAX):
                for unit in self._units():
                    kind = systemd1.SLICE if unit.endswith(".slice") else systemd1.SCOPE
                    with contextlib.suppress(TargetError):
                        path = systemd1.unit_path(unit)
                        said = str(await self._control.get(path, kind, "ControlGroup"))
                        self._cgroups[unit] = said.removeprefix(self._sandbox.cgroup_prefix)
        await self.arrived()

    def processes(self) -> dict[int, str]:
        """None of its processes descends from what runs drivers."""
        return {}

    def unaccounted(self) -> tuple[str, ...]:
        """A systemd that is not at rest could say anything, and one that is ending takes the driver with it."""
        if _is_ending(self._machine.init_pid):
            return ("systemd, which is ending",)
        return ("systemd, which is not idle",) if self.busy() else ()

    # ---- what is known

    def queued(self) -> tuple[str, ...]:
        """Jobs that have not ended, but those of gates."""
        return self._jobs.queued()

    def newest_job(self, unit: str) -> str:
        """The path of its newest job."""
        return self._jobs.newest(unit)

    def loaded(self) -> tuple[str, ...]:
        """Units of the run that are up, or failed."""
        return tuple(unit for unit in self._units() if self._jobs.units[unit] not in _DOWN)

    def cgroup_of(self, unit: str) -> str:
        """As it said at the end."""
        return self._cgroups.get(unit, "")

    # ---- faults

    def do(self, what: str) -> bool:
        """What its own administrators can do to it, and stopping PID 1."""
        match what:
            case "reload":
                self._control.call("Reload")
            case "reexec":
                self._goes = True
                self._control.call("Reexecute")
            case "pause":
                self.paused = True
                self._move(standstill.stop)
            case "resume":
                self.paused = False
                self._move(standstill.go_on)
            case _:
                return False
        return True

    def _move(self, do: Callable[[int], None]) -> None:
        if not self._machine.ended.done():
            with contextlib.suppress(ProcessLookupError):
                do(self._machine.init_pid)

    def do_to_bus(self, what: str) -> None:
        """End the bus's process; systemd starts another one as soon as somebody connects, and joins it a moment later. What
        drivers say in that moment waits with us: its answer, an error of the bus's, would be a matter of luck."""
        if what in ("kill", "restart") and self._bus_pid:
            self._goes = True
            self._upstream.keep()
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._bus_pid, signal.SIGKILL)


def _is_ending(pid: int) -> bool:
    """Whether a process has begun to end (PF_EXITING of its flags in /proc/PID/stat): PID 1 of a namespace takes as long for that
    as the namespace's other processes, which look as if they slept."""
    fields = stat_fields(pid)
    return fields is None or fields[STATE] in DEAD or bool(int(fields[FLAGS]) & _PF_EXITING)
