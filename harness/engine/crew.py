"""The processes of a run: the drivers and the workloads that they place, from their start to their end."""

from __future__ import annotations

import asyncio
import contextlib
import os
from typing import TYPE_CHECKING

from cgrace.harness import events as ev
from cgrace.harness.drivers.shim import Shim
from cgrace.harness.engine.process import DriverProcess, environment, owner, pipes
from cgrace.harness.targets.base import Spawned
from cgrace.harness.targets.machine import MachineSandbox
from cgrace.harness.witnesses.world import Ours

if TYPE_CHECKING:
    from cgrace.harness.engine.run import Run
    from cgrace.harness.scenario.model import Step

HELLO_S_MAX = 20.0
EXIT_S_MAX = 1.0  # a driver whose stdout ended has so long to end itself, which says more


class Crew:
    """Who takes part. processes: drivers by name; workloads: what they place, by name; partings: tasks that wait for an exit."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self.processes: dict[str, DriverProcess] = {}
        self.workloads: dict[str, Spawned] = {}
        self.partings: list[asyncio.Task[None]] = []
        self._starts = ""

    async def start(self) -> None:
        """Start all, one after the other; what goes on with them afterwards belongs to the run's tasks."""
        for name in () if self._run.built.spec.places_own else self._run.scenario.workloads:
            await self._start_workload(name)
        for name in self._run.scenario.processes:
            self._starts = name
            await self._start_driver(name)
        self._starts = ""

    async def _start_workload(self, name: str) -> None:
        null = os.open("/dev/null", os.O_RDWR)
        try:
            spawned = await self._run.sandbox.spawn(
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
        self._run.acts.started(name)
        self._started(ev.ProcessStarted(process=name, role="workload", pid=spawned.pid, pid_outer=spawned.pid_outer))

    @property
    def _of_user(self) -> bool:
        return isinstance(self._run.sandbox, MachineSandbox) and self._run.sandbox.uses_session_bus

    async def _start_driver(self, name: str) -> None:
        async with pipes() as (ours, theirs), self._run.opens.supervised(name) as listener:
            inodes = frozenset(os.fstat(fd).st_ino for fd in ours)
            spawned = await self._run.sandbox.spawn(
                name,
                [*(self._run.built.argv or (str(self._run.built.binary),)), *self._words()],
                env=environment(str(self._run.socket), str(self._run.stem.parent), of_user=self._of_user),
                stdin=theirs[0],
                stdout=theirs[1],
                stderr=theirs[2],
                role="driver",
                on_exit=lambda status: self._exited(name, status),
                listener=listener,
                closes=self._run.plan.wants_closes(),
            )
        shim = Shim(
            *ours,
            on_babble=lambda line: self._said(name, line, babble=True),
            on_stderr=lambda line: self._said(name, line, babble=False),
            on_gone=lambda: self._lost(process),
        )
        process = DriverProcess(name, spawned, shim, inodes, stdout=ours[1])
        self.processes[name] = process
        self._run.acts.started(name)
        self._started(ev.ProcessStarted(process=name, role="driver", pid=spawned.pid, pid_outer=spawned.pid_outer))
        await shim.start()
        assert self._run.tasks is not None
        self._run.tasks.create_task(self._greet(process))

    def _started(self, event: ev.ProcessStarted) -> None:
        if self._run.witness is not None:
            self._run.witness.started(event)
        self._run.record(event)

    def adopt(self, name: str, pid: int) -> None:
        """A process that the driver made and placed is the scenario's workload from now on."""
        outer = self._run.sandbox.outer(pid)
        if name and outer is not None:
            self.workloads[name] = Spawned(name=name, pid=pid, pid_outer=outer)
            self._started(ev.ProcessStarted(process=name, role="workload", pid=pid, pid_outer=outer))

    def _words(self) -> list[str]:
        """What the shim is told: only which manager to use, where one binary has several."""
        return ["cgroupfs"] if not self._run.built.spec.uses_bus else []

    async def _greet(self, process: DriverProcess) -> None:
        try:
            async with asyncio.timeout(HELLO_S_MAX):
                hello = await process.shim.hello()
        except TimeoutError:
            self._run.finish("driver died", f"{process.name}: no hello within {HELLO_S_MAX:g} s")
            return
        if hello.gone:
            return
        await self._run.systemd.arrived()
        process.ready = hello.ok
        if hello.ok:
            self._run.wire.ready.add(process.name)
            self._run.systemd.arm()
        self._run.record(
            ev.DriverReady(process=process.name, ok=hello.ok, error=hello.error, conclusions=tuple(hello.conclusions))
        )
        if not hello.ok:
            self._run.finish("driver died", f"{process.name} is not usable: {hello.error}")

    def _said(self, name: str, line: str, babble: bool) -> None:
        if not self._run.stopping:
            self._run.record(ev.DriverSaid(process=name, text=line[:2000], babble=babble))

    def _lost(self, process: DriverProcess) -> None:
        """Its stdout ended, or cannot be understood any more."""
        if self._run.tasks is not None and self._run.ended is None:
            self.partings.append(self._run.tasks.create_task(self._part(process)))

    async def _part(self, process: DriverProcess) -> None:
        """Its exit comes behind the end of its stdout, and says more; one that lives on is of no use any more."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(EXIT_S_MAX):
                await process.exited.wait()
        if not process.gone:
            self._run.finish("driver died", f"{process.name} can no longer be understood: {process.shim.gone}")

    def _exited(self, name: str, status: int) -> None:
        self._run.acts.exited(name)
        self._run.opens.exited(name)
        if self._run.stopping:
            return
        if self._run.sandbox.ended:  # the driver did not die of itself, so nothing is said of it
            if not self._run.systemd.tells_end():
                self._run.finish("error", "the sandbox ended: somebody killed its init")
            return
        self._run.systemd.process_ended()
        self._run.acts.died(name)
        expected = name in self._run.acts.killed
        process = self.processes.get(name)
        if process is not None:
            process.gone = True
            process.exited.set()
        if self._run.ended is not None:  # it ends because we closed its stdin: that is no part of the run
            return
        self._run.record(ev.ProcessExited(process=name, status=status, expected=expected))
        if process is not None and not expected:
            self._run.finish("driver died", f"{name} ended with status {status}")

    def process_of(self, pid_outer: int) -> str:
        """The name of the driver process behind a connection; a child of it counts as it.

        Drivers are started one after the other, and one that connects before we know its pid is the one that is being started.
        """
        return owner(self._run.sandbox, pid_outer) or self._starts or next(iter(self._run.scenario.processes))

    def ours(self, process: DriverProcess) -> Ours:
        """For which of a process's descriptors and children we can speak: nothing comes from there unless we make it."""
        return Ours(
            connections=self._run.wire.descriptors(process.name),
            pipes=process.pipes,
            pids=frozenset(workload.pid_outer for workload in self.workloads.values()),
        )

    def out(self) -> dict[str, Step]:
        """Steps that have been called and can still end."""
        alive = (process for process in self.processes.values() if not process.gone)
        return {name: step for process in alive for name, step in process.out.items()}
