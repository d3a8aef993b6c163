"""One run: a case on a driver in a sandbox, against the systemd behind the relay, fake or real. Ends with a frozen trace.

Everything happens because something was recorded: the recorder tells `_on_entry` each event in order, the plan says what that
brings about, and this file carries it out. Nothing here judges.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
from functools import partial
from pathlib import Path

from cgrace.harness import events as ev
from cgrace.harness import faults as ft
from cgrace.harness.clock import now_ns
from cgrace.harness.drivers.base import BuiltDriver
from cgrace.harness.drivers.shim import ShimGone
from cgrace.harness.engine.acts import Acts
from cgrace.harness.engine.crew import Crew
from cgrace.harness.engine.look import Looker
from cgrace.harness.engine.manager import FakeSystemd
from cgrace.harness.engine.opens import Opens, which_connection
from cgrace.harness.engine.plan import Due, Keep, Plan
from cgrace.harness.engine.process import DriverProcess
from cgrace.harness.engine.real import RealSystemd
from cgrace.harness.engine.systemd import Systemd
from cgrace.harness.engine.watch import Watch
from cgrace.harness.engine.wire import Wire
from cgrace.harness.errors import CgraceError
from cgrace.harness.events import Actor
from cgrace.harness.relay.relay import Relay
from cgrace.harness.scenario.model import Scenario, Setting, Step
from cgrace.harness.targets.buses import EMBEDDED
from cgrace.harness.targets.machine import MachineSandbox
from cgrace.harness.targets.sandbox import FakeSandbox
from cgrace.harness.trace import Entry, Head, Recorder, Sink, Trace
from cgrace.harness.witnesses.inotify import InotifyRun, InotifyWitness
from cgrace.harness.witnesses.tracefs import KernelWitness, RunWitness

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
COMMAND_CHARS_MAX = 15  # of a process's name the kernel keeps so much (TASK_COMM_LEN)
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
        self.crew = Crew(self)
        self.wire = Wire(self.plan, self.record, self.crew.process_of)
        self.stem = Path(sandbox.runtime_dir) / sandbox.run
        self.systemd: Systemd = self._make_systemd(bus)
        self.opens = Opens(self.plan, sandbox.hierarchies, self.record)
        self.opens.connection = partial(which_connection, self.wire)
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
        self.socket = self.stem.with_suffix(".bus")
        self.witness: RunWitness | InotifyRun | None = None
        self.relay: Relay  # from `go` on
        self.tasks: asyncio.TaskGroup | None = None
        self.stopping = False
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
            stem=self.stem,
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
            self.relay = Relay(self.socket, self.systemd.handler(self.wire), self.systemd.backend)
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
                self.tasks = tasks
                try:
                    await self._until_over(tasks)
                finally:
                    self.tasks = None  # a group that ends takes no more tasks: whatever still arrives asks for nothing
        except TimeoutError:
            self.finish("bound", f"the wall-clock backstop of {self.scenario.wall_ns / 1e9:g} s")
            for process in self.crew.processes.values():
                process.shim.close()
        except ExceptionGroup as group:
            # A process that cannot be started here is this run's reason, plain: others may well go on.
            raise next((error for error in group.exceptions if isinstance(error, CgraceError)), group) from None

    async def _until_over(self, tasks: asyncio.TaskGroup) -> None:
        await self.crew.start()
        watching = tasks.create_task(self.watch.run())
        await self.over.wait()
        for task in (watching, *self.crew.partings):
            task.cancel()
        await self.systemd.arrived()
        for process in self.crew.processes.values():
            process.shim.close()

    def finish(self, why: str, text: str = "", details: tuple[str, ...] = ()) -> None:
        """End the run; the first reason counts."""
        if self.ended is None:
            self.ended = ev.RunEnded(why=why, text=text, details=details)
            self.over.set()

    async def _end(self) -> None:
        """Let go of all, look once more, say what is left, and stop the processes."""
        if self.ended is not None and self.ended.why == "complete":
            await self.acts.buried()
        self.stopping = True
        if why := await self.systemd.perished():
            self.ended = why
        for process in self.crew.processes.values():
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
        for process in self.crew.processes.values():
            if not process.gone:
                self.sandbox.signal(process.spawned.pid, signal.SIGKILL)
        for workload in self.crew.workloads.values():
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
        if not self.stopping:
            self._carry_out(self.plan.on_event(event))
            self._maybe_complete()

    def _carry_out(self, due: Due) -> None:
        for keep in due.open:
            self._open(keep, "point", str(keep.fault.until))
        for fault in due.act:
            self.acts.act(fault)
        for step in due.steps:
            if self.tasks is None or self.ended is not None:
                continue
            if self.plan.is_behind_cut(step) and step not in self._until_rest:
                self._until_rest.append(step)
            elif self.systemd.is_real:
                self._coming.add(step.id)
                self.tasks.create_task(self._call_in_turn(step))
            else:
                self._call(step)

    def call_rested(self) -> bool:
        """All drivers rest: call the steps that waited for that. True when there were any."""
        self._carry_out(Due(steps=(due := tuple(self._until_rest))))
        self._until_rest.clear()
        return bool(due)

    def owes(self) -> bool:
        """Whether something has been set off that has yet to come true: a step that systemd is given time before, a kill. Until
        then nothing that waits for it may be given up."""
        return bool(self._coming) or self.acts.kills()

    async def _call_in_turn(self, step: Step) -> None:
        """A real systemd first does all that it can: what was done to it takes effect before the next step is called."""
        await self.systemd.arrived()
        if self.ended is None and self.tasks is not None:
            self._call(step)
        self._coming.discard(step.id)

    def _open(self, keep: Keep, why: str, cause: str) -> None:
        """A hold or gate lets go for good."""
        was_closed, keep.open = keep.closed, True
        if was_closed:
            self.record(ev.HoldLetGo(hold=keep.fault.id, why=why, cause=cause))
        if isinstance(keep.fault, ft.JobStays):
            self.systemd.let_go(keep.fault)
        elif isinstance(keep.fault, ft.HoldCall):
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
        process = self.crew.processes[step.process]
        self.looker.before(step)
        process.out[step.id] = step
        self.watch.called(step.id)
        workload = self.crew.workloads.get(step.workload)
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
        assert self.tasks is not None
        self.tasks.create_task(self._ask(process, step, request))

    async def _ask(self, process: DriverProcess, step: Step, request: dict[str, object]) -> None:
        process.answers[step.id] = process.shim.send(request)
        answer = await process.answers[step.id]
        if isinstance(answer, ShimGone):
            return
        await self.systemd.arrived()
        self.drain()
        del process.out[step.id], process.answers[step.id]
        if answer.pid:
            self.crew.adopt(step.workload, answer.pid)
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
            or len(self.crew.processes) < len(self.scenario.processes)
        ):
            return
        alive = []
        for name, process in self.crew.processes.items():
            if process.gone and name in self.acts.killed:
                continue
            if process.out or not process.ready:
                return
            alive.append(name)
        if not any(step.process in alive for step, _ in self.plan.steps_waiting()):
            self.finish("complete")
