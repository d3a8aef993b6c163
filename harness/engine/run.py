"""One run: a case on a driver in a sandbox, against the systemd behind the relay, fake or real. Ends with a frozen trace.

Everything happens because something was recorded: the recorder tells `_on_entry` each event in order, the plan says what that
brings about, and this file carries it out. Nothing here judges.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from pathlib import Path

from cgrace.harness import events as ev
from cgrace.harness import faults as ft
from cgrace.harness.clock import now_ns
from cgrace.harness.drivers.base import BuiltDriver
from cgrace.harness.drivers.shim import Shim, ShimGone
from cgrace.harness.engine.acts import Acts
from cgrace.harness.engine.look import Looker
from cgrace.harness.engine.manager import FakeSystemd
from cgrace.harness.engine.opens import Opens
from cgrace.harness.engine.plan import Due, Keep, Plan
from cgrace.harness.engine.process import DriverProcess, environment, owner, pipes
from cgrace.harness.engine.real import RealSystemd
from cgrace.harness.engine.systemd import Systemd
from cgrace.harness.engine.watch import Watch
from cgrace.harness.engine.wire import Wire
from cgrace.harness.errors import CgraceError
from cgrace.harness.events import Actor
from cgrace.harness.relay.relay import Relay
from cgrace.harness.scenario.model import Scenario, Setting, Step
from cgrace.harness.targets.base import Spawned
from cgrace.harness.targets.buses import EMBEDDED
from cgrace.harness.targets.machine import MachineSandbox
from cgrace.harness.targets.sandbox import FakeSandbox
from cgrace.harness.trace import Entry, Head, Recorder, Sink, Trace
from cgrace.harness.witnesses.inotify import InotifyRun, InotifyWitness
from cgrace.harness.witnesses.tracefs import KernelWitness, RunWitness
from cgrace.harness.witnesses.world import Ours

# Not progress: what witnesses see without anything having happened on the wire, in the tree or in a step.
_OBSERVATIONS = (
    ev.DriverWaits,
    ev.StepWaits,
    ev.StepWatched,
    ev.WorldClosed,
    ev.CgroupSeen,
    ev.MessageTaken,
    ev.Stacks,
)
HELLO_S_MAX = 20.0
COMMAND_CHARS_MAX = 15  # of a process's name the kernel keeps so much (TASK_COMM_LEN)
EXIT_S_MAX = 1.0  # a driver whose stdout ended has so long to end itself, which says more
MESSAGES_MAX = 50_000  # of one run; a driver that says more floods the bus


class Run:
    """The state of one run. `go` may be called once."""

    def __init__(
        self,
        *,
        scenario: Scenario,
        setting: Setting,
        built: BuiltDriver,
        sandbox: FakeSandbox | MachineSandbox,
        kernel: KernelWitness | InotifyWitness | None,
        head: Head,
        sink: Sink | None,
        bus: str = EMBEDDED,
    ) -> None:
        self.scenario = scenario
        self.setting = setting
        self.built = built
        self.sandbox = sandbox
        self.recorder = Recorder(head, sink)
        self.plan = Plan(scenario, uses_bus=built.spec.uses_bus)
        self.record = self.recorder.record
        self.processes: dict[str, DriverProcess] = {}
        self.workloads: dict[str, Spawned] = {}
        self._starts = ""
        self.wire = Wire(self.plan, self.record, self._process_of)
        self._stem = Path(sandbox.runtime_dir) / sandbox.run
        self.systemd: Systemd = self._make_systemd(bus)
        self.opens = Opens(self.plan, sandbox.hierarchies, self.record)
        self.acts = Acts(self)
        self.wire.failed = self.acts.failed
        self.wire.passes = self.systemd.passes
        self.wire.before_systemd = self.systemd.catch_up
        self.looker = Looker(self)
        self.watch = Watch(self)
        self.stir = asyncio.Event()
        self.over = asyncio.Event()
        self.ended: ev.RunEnded | None = None
        self.progress_ns = now_ns()
        self._kernel = kernel
        self._socket = self._stem.with_suffix(".bus")
        self.witness: RunWitness | InotifyRun | None = None
        self.relay: Relay  # from `go` on
        self._tasks: asyncio.TaskGroup | None = None
        self._partings: list[asyncio.Task[None]] = []
        self._stopping = False
        self._until_rest: list[Step] = []  # steps behind a cut, which their driver has to notice first
        self._coming: set[str] = set()  # steps whose points were reached, and that wait for systemd to rest

    def _make_systemd(self, bus: str) -> Systemd:
        if isinstance(self.sandbox, MachineSandbox):
            return RealSystemd(
                self.sandbox,
                self.record,
                self.plan,
                lost=lambda why, lines: self.finish("error", why, lines),
                uses_bus=self.built.spec.uses_bus,
                seconds_max=self.scenario.wall_ns / 1e9,
            )
        return FakeSystemd(
            self.setting.profile,
            self.sandbox,
            self.record,
            self.plan,
            bus=bus,
            stem=self._stem,
            lost=lambda why: self.finish("error", f"the bus failed: {why}"),
        )

    # ---- life

    async def go(self) -> Trace:
        """Run the case. Whatever happens, the trace is complete and frozen, and the processes are gone."""
        self.recorder.listen(self._on_entry)
        for step, point in self.plan.waived:
            self.record(ev.OrderWaived(step=step, point=str(point), why="the driver uses no bus"))
        async with contextlib.AsyncExitStack() as stack:
            stack.callback(self.systemd.close)
            await stack.enter_async_context(self.systemd.open())
            stack.callback(self.opens.close)
            if self._kernel is not None:
                self.witness = witness = self._kernel.attach(self.sandbox, self.record, known=self._known())
                stack.callback(witness.close)
                if isinstance(witness, RunWitness) and self.built.spec.program is not None:
                    witness.commands = frozenset({self.built.spec.program.name[:COMMAND_CHARS_MAX]})
                self.wire.before_driver = self.systemd.before_job = self.opens.before = self._kernel.drain
            self.relay = Relay(self._socket, self.systemd.handler(self.wire), self.systemd.backend)
            await stack.enter_async_context(self.relay)
            try:
                await self._live()
            finally:
                await self._end()
        return self.recorder.freeze()

    def _known(self) -> dict[int, Actor] | None:
        """Whom processes stand for that are there before the run, where systemd is one of them."""
        if not isinstance(self.sandbox, MachineSandbox):
            return None
        return {self.sandbox.machine.init_pid: Actor.SYSTEMD, self.sandbox.init_pid_outer: Actor.CGRACE}

    async def _live(self) -> None:
        try:
            async with asyncio.timeout(self.scenario.wall_ns / 1e9), asyncio.TaskGroup() as tasks:
                self._tasks = tasks
                await self._start_processes()
                watching = tasks.create_task(self.watch.run())
                await self.over.wait()
                for task in (watching, *self._partings):
                    task.cancel()
                await self.systemd.arrived()
                for process in self.processes.values():
                    process.shim.close()
        except TimeoutError:
            self.finish("bound", f"the wall-clock backstop of {self.scenario.wall_ns / 1e9:g} s")
            for process in self.processes.values():
                process.shim.close()
        except ExceptionGroup as group:
            # A process that cannot be started here is this run's reason, plain: others may well go on.
            raise next((error for error in group.exceptions if isinstance(error, CgraceError)), group) from None
        finally:
            self._tasks = None

    def finish(self, why: str, text: str = "", details: tuple[str, ...] = ()) -> None:
        """End the run; the first reason counts."""
        if self.ended is None:
            self.ended = ev.RunEnded(why=why, text=text, details=details)
            self.over.set()

    async def _end(self) -> None:
        """Let go of all, look once more, say what is left, and stop the processes."""
        self._stopping = True
        if why := await self.systemd.perished():
            self.ended = why
        for process in self.processes.values():
            for step in process.out:
                self.record(ev.StepNever(step=step, why=self.ended.why if self.ended else "error"))
        for keep in self.plan.closed():
            self._open(keep, "end", "the run ended")
        await self._idle()
        self.drain()
        self.looker.look_all()
        if self.ended is not None and self.ended.why == "complete":
            self.looker.leftovers()
        self.record(self.ended or ev.RunEnded(why="error"))
        self.acts.thaw()
        for process in self.processes.values():
            if not process.gone:
                self.sandbox.signal(process.spawned.pid, signal.SIGKILL)
        for workload in self.workloads.values():
            self.sandbox.signal(workload.pid, signal.SIGKILL)
        await self.acts.reaped()

    async def _idle(self) -> None:
        """Let what is under way inside this process arrive."""
        self.systemd.settle()
        await self.systemd.idle()

    def drain(self) -> None:
        """Record what the kernel saw until now."""
        if self._kernel is not None:
            self._kernel.drain()

    # ---- processes

    async def _start_processes(self) -> None:
        for name in () if self.built.spec.places_own else self.scenario.workloads:
            await self._start_workload(name)
        for name in self.scenario.processes:
            self._starts = name
            await self._start_driver(name)
        self._starts = ""

    async def _start_workload(self, name: str) -> None:
        null = os.open("/dev/null", os.O_RDWR)
        try:
            spawned = await self.sandbox.spawn(
                name,
                ("workload",),
                env={},
                stdin=null,
                stdout=null,
                stderr=null,
                role="workload",
                on_exit=lambda status: self._exited(name, status),
            )
        finally:
            os.close(null)
        self.workloads[name] = spawned
        self.acts.started(name)
        self._started(ev.ProcessStarted(process=name, role="workload", pid=spawned.pid, pid_outer=spawned.pid_outer))

    async def _start_driver(self, name: str) -> None:
        async with pipes() as (ours, theirs), self.opens.supervised(name) as listener:
            inodes = frozenset(os.fstat(fd).st_ino for fd in ours)
            spawned = await self.sandbox.spawn(
                name,
                [*(self.built.argv or (str(self.built.binary),)), *self._words()],
                env=environment(str(self._socket), str(self._stem.parent)),
                stdin=theirs[0],
                stdout=theirs[1],
                stderr=theirs[2],
                role="driver",
                on_exit=lambda status: self._exited(name, status),
                listener=listener,
            )
        shim = Shim(
            *ours,
            on_babble=lambda line: self._said(name, line, babble=True),
            on_stderr=lambda line: self._said(name, line, babble=False),
            on_gone=lambda: self._lost(process),
        )
        process = DriverProcess(name, spawned, shim, inodes, stdout=ours[1])
        self.processes[name] = process
        self.acts.started(name)
        self._started(ev.ProcessStarted(process=name, role="driver", pid=spawned.pid, pid_outer=spawned.pid_outer))
        await shim.start()
        assert self._tasks is not None
        self._tasks.create_task(self._greet(process))

    def _started(self, event: ev.ProcessStarted) -> None:
        if self.witness is not None:
            self.witness.started(event)
        self.record(event)

    def _adopt(self, name: str, pid: int) -> None:
        """A process that the driver made and placed is the scenario's workload from now on."""
        outer = self.sandbox.outer(pid)
        if name and outer is not None:
            self.workloads[name] = Spawned(name=name, pid=pid, pid_outer=outer)
            self._started(ev.ProcessStarted(process=name, role="workload", pid=pid, pid_outer=outer))

    def _words(self) -> list[str]:
        """What the shim is told: only which manager to use, where one binary has several."""
        return ["cgroupfs"] if not self.built.spec.uses_bus else []

    async def _greet(self, process: DriverProcess) -> None:
        try:
            async with asyncio.timeout(HELLO_S_MAX):
                hello = await process.shim.hello()
        except TimeoutError:
            self.finish("driver died", f"{process.name}: no hello within {HELLO_S_MAX:g} s")
            return
        if hello.gone:
            return
        await self.systemd.arrived()
        process.ready = hello.ok
        if hello.ok:
            self.wire.ready.add(process.name)
            self.systemd.arm()
        self.record(
            ev.DriverReady(process=process.name, ok=hello.ok, error=hello.error, conclusions=tuple(hello.conclusions))
        )
        if not hello.ok:
            self.finish("driver died", f"{process.name} is not usable: {hello.error}")

    def _said(self, name: str, line: str, babble: bool) -> None:
        if not self._stopping:
            self.record(ev.DriverSaid(process=name, text=line[:2000], babble=babble))

    def _lost(self, process: DriverProcess) -> None:
        """Its stdout ended, or cannot be understood any more."""
        if self._tasks is not None and self.ended is None:
            self._partings.append(self._tasks.create_task(self._part(process)))

    async def _part(self, process: DriverProcess) -> None:
        """Its exit comes behind the end of its stdout, and says more; one that lives on is of no use any more."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(EXIT_S_MAX):
                await process.exited.wait()
        if not process.gone:
            self.finish("driver died", f"{process.name} can no longer be understood: {process.shim.gone}")

    def _exited(self, name: str, status: int) -> None:
        self.acts.exited(name)
        self.opens.exited(name)
        if self._stopping:
            return
        if self.sandbox.ended:  # the driver did not die of itself, so nothing is said of it
            if not self.systemd.tells_end():
                self.finish("error", "the sandbox ended: somebody killed its init")
            return
        self.systemd.process_ended()
        self.acts.died(name)
        expected = name in self.acts.killed
        process = self.processes.get(name)
        if process is not None:
            process.gone = True
            process.exited.set()
        if self.ended is not None:  # it ends because we closed its stdin: that is no part of the run
            return
        self.record(ev.ProcessExited(process=name, status=status, expected=expected))
        if process is not None and not expected:
            self.finish("driver died", f"{name} ended with status {status}")

    def _process_of(self, pid_outer: int) -> str:
        """The name of the driver process behind a connection; a child of it counts as it.

        Drivers are started one after the other, and one that connects before we know its pid is the one that is being started.
        """
        return owner(self.sandbox, pid_outer) or self._starts or next(iter(self.scenario.processes))

    def ours(self, process: DriverProcess) -> Ours:
        """For which of a process's descriptors and children we can speak: nothing comes from there unless we make it."""
        return Ours(
            connections=self.wire.descriptors(process.name),
            pipes=process.pipes,
            pids=frozenset(workload.pid_outer for workload in self.workloads.values()),
        )

    # ---- events

    def _on_entry(self, entry: Entry) -> None:
        event = entry.event
        if isinstance(event, ev.MessageSeen) and event.message > MESSAGES_MAX:
            self.finish(
                "bound", f"more than {MESSAGES_MAX} messages, the last {event.member} of {event.unit or 'no unit'}"
            )
        if not isinstance(event, _OBSERVATIONS):
            self.progress_ns = now_ns()
            self.stir.set()
        if not self._stopping:
            self._carry_out(self.plan.on_event(event))
            self._maybe_complete()

    def _carry_out(self, due: Due) -> None:
        for keep in due.open:
            self._open(keep, "point", str(keep.fault.until))
        for fault in due.act:
            self.acts.act(fault)
        for step in due.steps:
            if self._tasks is None or self.ended is not None:
                continue
            if self.plan.is_behind_cut(step) and step not in self._until_rest:
                self._until_rest.append(step)
            elif self.systemd.is_real:
                self._coming.add(step.id)
                self._tasks.create_task(self._call_in_turn(step))
            else:
                self._call(step)

    def call_rested(self) -> bool:
        """All drivers rest: call the steps that waited for that. True when there were any."""
        self._carry_out(Due(steps=(due := tuple(self._until_rest))))
        self._until_rest.clear()
        return bool(due)

    async def _call_in_turn(self, step: Step) -> None:
        """A real systemd first does all that it can: what was done to it takes effect before the next step is called."""
        await self.systemd.arrived()
        if self.ended is None:
            self._call(step)
        self._coming.discard(step.id)

    def _open(self, keep: Keep, why: str, cause: str) -> None:
        """A hold or gate lets go for good."""
        was_closed, keep.open = keep.closed, True
        if was_closed:
            self.record(ev.HoldLetGo(hold=keep.fault.id, why=why, cause=cause))
        if isinstance(keep.fault, ft.JobStays):
            self.systemd.let_go(keep.fault)
        elif isinstance(keep.fault, ft.HoldOpen):
            self.opens.let_go(keep)
        else:
            self.wire.let_go(keep)

    def patience(self, bound_ns: int | None) -> bool:
        """The driver waits: keeps whose patience that exceeds let go. True when any did."""
        opened = self.plan.on_wait(bound_ns)
        for keep in opened:
            limit = "without limit" if bound_ns is None else f"{bound_ns / 1e6:.0f} ms"
            self._open(keep, "patience", f"the driver waits {limit}")
        return bool(opened)

    # ---- steps

    def _call(self, step: Step) -> None:
        process = self.processes[step.process]
        self.looker.before(step)
        process.out[step.id] = step
        self.watch.called(step.id)
        workload = self.workloads.get(step.workload)
        pid = workload.pid if workload is not None else -1
        request = {
            "id": step.id,
            "op": step.do,
            "unit": step.unit,
            "parent": step.parent,
            "pid": pid,
            "fresh": step.fresh,
            "delegate": step.delegate,
            "resources": dict(step.resources),
        }
        self.record(
            ev.StepCalled(
                step=step.id, process=step.process, op=step.do, unit=step.unit, workload=step.workload, pid=pid
            )
        )
        assert self._tasks is not None
        self._tasks.create_task(self._ask(process, step, request))

    async def _ask(self, process: DriverProcess, step: Step, request: dict[str, object]) -> None:
        process.answers[step.id] = process.shim.send(request)
        answer = await process.answers[step.id]
        if isinstance(answer, ShimGone):
            return
        await self.systemd.arrived()
        self.drain()
        del process.out[step.id], process.answers[step.id]
        if answer.pid:
            self._adopt(step.workload, answer.pid)
        self.record(self.watch.returned(step.id))
        paths = self.looker.resolve(answer.paths)
        self.record(
            ev.StepReturned(step=step.id, error=answer.error, driver_ns=answer.ns, paths=paths, value=answer.value)
        )

    def _maybe_complete(self) -> None:
        """All steps ended and none waits: the run is complete. What the scenario killed has no more steps."""
        if (
            self.ended is not None
            or self._coming
            or self._until_rest
            or len(self.processes) < len(self.scenario.processes)
        ):
            return
        alive = []
        for name, process in self.processes.items():
            if process.gone and name in self.acts.killed:
                continue
            if process.out or not process.ready:
                return
            alive.append(name)
        if not any(step.process in alive for step, _ in self.plan.steps_waiting()):
            self.finish("complete")

    def out(self) -> dict[str, Step]:
        """Steps that have been called and can still end."""
        alive = (process for process in self.processes.values() if not process.gone)
        return {name: step for process in alive for name, step in process.out.items()}
