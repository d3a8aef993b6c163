"""Carries out the faults that act at a point: on the cgroup tree, on connections, on peers."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from cgrace.harness import events as ev
from cgrace.harness import faults as ft
from cgrace.harness.clock import NS_PER_S, now_ns
from cgrace.harness.dbus.message import Message, MessageType
from cgrace.harness.events import Actor
from cgrace.harness.targets.base import Hierarchy

if TYPE_CHECKING:
    from cgrace.harness.engine.run import Run
    from cgrace.harness.engine.wire import Line

MANAGER_PATH = "/org/freedesktop/systemd1"
MANAGER_INTERFACE = "org.freedesktop.systemd1.Manager"
REAP_S_MAX = 5.0
_SIGNALS = {"pause": signal.SIGSTOP, "resume": signal.SIGCONT, "kill": signal.SIGKILL}
# A little-endian method call that claims a body of 100 bytes and ends in the middle of its header.
_HALF_A_MESSAGE = b"l\x01\x00\x01\x64\x00\x00\x00\x01\x00\x00\x00\x80\x00"
_GARBAGE = {
    "noise": bytes(range(255, 127, -1)) * 4,
    "half a message": _HALF_A_MESSAGE,
    "huge length": b"l\x02\x01\x01\xff\xff\xff\x7f\x01\x00\x00\x00\xff\xff\xff\x0f" + b"\0" * 16,
    "bad endian": b"X\x02\x01\x01" + b"\0" * 28,
}


class Acts:
    """One run's doer of faults; also knows which processes live and which it killed itself."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self.killed: set[str] = set()
        self.paused: set[str] = set()
        self._dying: dict[str, tuple[ft.Peer, int]] = {}  # workloads that we killed, when, and that are not reaped yet
        self._none_dying = asyncio.Event()
        self._none_dying.set()
        self._frozen: list[tuple[Hierarchy, ft.FreezeCgroup]] = []
        self._alive: set[str] = set()
        self._ended: set[str] = set()
        self._none_alive = asyncio.Event()
        self._none_alive.set()

    # ---- processes

    def started(self, name: str) -> None:
        """A process of the run lives."""
        self._alive.add(name)
        self._none_alive.clear()

    def exited(self, name: str) -> None:
        """It ended."""
        self._alive.discard(name)
        self._ended.add(name)
        if not self._alive:
            self._none_alive.set()

    def died(self, name: str) -> None:
        """It is gone, and systemd knows: a fault that killed a workload has come true, and what follows from it may happen."""
        if name in self._dying:
            self._note_peer(self._dying.pop(name)[0])
        if not self._dying:
            self._none_dying.set()

    def kills(self) -> bool:
        """Whether a workload that was killed is still to go. One that is frozen never does, and is not waited for."""
        return any(now_ns() - since_ns < REAP_S_MAX * NS_PER_S for _, since_ns in self._dying.values())

    async def buried(self) -> None:
        """Wait until the workloads that the scenario killed are gone: it says so, and a run's last step may be what killed them."""
        await _wait(self._none_dying)

    async def reaped(self) -> None:
        """Wait until every process of the run has been reaped."""
        await _wait(self._none_alive)

    # ---- faults

    def act(self, fault: ft.Fault) -> None:
        """Carry out one fault, and record that it fired and how."""
        match fault:
            case ft.DeleteCgroup():
                self._tree(fault, f"{fault.hierarchy}{fault.path} deleted", lambda h: self._delete(h, fault.path))
            case ft.MoveProcess():
                self._tree(
                    fault, f"{fault.process} moved to {fault.hierarchy}{fault.path}", lambda h: self._move(h, fault)
                )
            case ft.DisableController():
                self._tree(
                    fault,
                    f"{fault.controller} disabled below {fault.path}",
                    lambda h: _write(h.root, fault.path, "cgroup.subtree_control", f"-{fault.controller}"),
                )
            case ft.FreezeCgroup():
                self._tree(
                    fault, f"{fault.path} {'thawed' if fault.thaw else 'frozen'}", lambda h: self._freeze(h, fault)
                )
            case ft.Forge():
                self._forge(fault)
            case ft.Disconnect():
                if lines := self._lines(fault, fault.which):
                    self._fired(fault, f"{fault.which} connections cut")
                for line in lines:
                    line.connection.close("cut by the scenario")
            case ft.StopReading():
                self._stop_reading(fault)
            case ft.Garbage():
                self._garbage(fault)
            case ft.Peer():
                self._peer(fault)

    def _fired(self, fault: ft.Fault, what: str) -> None:
        self._run.record(ev.FaultFired(fault=fault.id, grade=ft.grade(fault), what=what))

    def failed(self, fault: ft.Fault, why: str) -> None:
        """A fault cannot be carried out: this is not the run that was asked for."""
        self._run.finish("error", f"fault '{fault.id}' could not be carried out: {why}")

    # ---- the cgroup tree

    def _tree(self, fault: ft.Fault, what: str, do: Callable[[Hierarchy], object]) -> None:
        wanted = getattr(fault, "hierarchy", "") or ("unified" if self._run.setting.layout == "v2" else "freezer")
        if isinstance(fault, ft.DisableController):
            wanted = "unified"
        hierarchy = self._hierarchy(wanted)
        if hierarchy is None:
            self.failed(fault, f"this run has no hierarchy '{wanted}'")
            return
        self._fired(fault, what)
        try:
            with self.acting():
                do(hierarchy)
        except OSError as error:
            self.failed(fault, str(error))

    @contextlib.contextmanager
    def acting(self) -> Iterator[None]:
        """What cgrace does to the tree in here is a fault of the scenario's, not the fake systemd's doing."""
        if self._run.witness is None:
            yield
        else:
            with self._run.witness.acting(Actor.CGRACE):
                yield

    def _hierarchy(self, name: str) -> Hierarchy | None:
        for hierarchy in self._run.sandbox.hierarchies:
            if name == hierarchy.name or name in hierarchy.controllers:
                return hierarchy
        return None

    def _delete(self, hierarchy: Hierarchy, path: str) -> None:
        top = Path(f"{hierarchy.root}{path}")
        if not top.is_dir():
            raise FileNotFoundError(f"there is no cgroup {hierarchy.name}{path}")
        for folder, _, _ in os.walk(top, topdown=False):
            for pid in _pids(Path(folder)):
                with contextlib.suppress(ProcessLookupError):
                    (top.parent / "cgroup.procs").write_text(str(pid), encoding="ascii")
            Path(folder).rmdir()

    def _move(self, hierarchy: Hierarchy, fault: ft.MoveProcess) -> None:
        _write(hierarchy.root, fault.path, "cgroup.procs", str(self._run.crew.workloads[fault.process].pid_outer))

    def thaw(self) -> None:
        """Thaw what the scenario froze and left so: nothing frozen can be killed."""
        for hierarchy, fault in self._frozen:
            with contextlib.suppress(OSError):
                self._freeze(hierarchy, dataclasses.replace(fault, thaw=True))

    def _freeze(self, hierarchy: Hierarchy, fault: ft.FreezeCgroup) -> None:
        if not fault.thaw:
            self._frozen.append((hierarchy, fault))
        if hierarchy.is_v2:
            _write(hierarchy.root, fault.path, "cgroup.freeze", "0" if fault.thaw else "1")
        else:
            _write(hierarchy.root, fault.path, "freezer.state", "THAWED" if fault.thaw else "FROZEN")

    # ---- the wire

    def _forge(self, fault: ft.Forge) -> None:
        job = fault.job
        if job.startswith("job of ") or not job:
            job = self._run.systemd.newest_job(job.removeprefix("job of ") or fault.unit)
        number = int(job.rsplit("/", 1)[-1]) if job.rsplit("/", 1)[-1].isdigit() else 0
        message = Message(
            type=MessageType.SIGNAL,
            path=MANAGER_PATH,
            interface=MANAGER_INTERFACE,
            member=fault.member,
            sender=fault.sender or self._run.systemd.unique_name,
            signature="uoss",
            body=(number, job or f"{MANAGER_PATH}/job/0", fault.unit, fault.result),
        )
        lines = self._lines(fault, "signals")
        heard = [line for line in lines if not fault.sender or line.hears(message, (fault.sender,))]
        if lines and not heard:
            self._fired(fault, f"{fault.member} of {fault.unit} made up by {fault.sender}, which nobody listens to")
        for line in heard:
            for _ in range(fault.times):
                self._run.wire.forge(line, message, fault)

    def _lines(self, fault: ft.Fault, which: str) -> list[Line]:
        """The connections that a fault is about; where a driver that uses the bus has none, that ends the run."""
        lines = self._run.wire.choose(which)
        if not lines and self._run.built.spec.uses_bus:
            kind = {"calls": "calls alone", "signals": "signals"}.get(which, "anything")
            self.failed(fault, f"the driver has no connection for {kind}")
        return lines

    def _stop_reading(self, fault: ft.StopReading) -> None:
        ends = fault.until is not None and fault.until in self._run.plan.watch.reached
        if not ends:
            self._fired(fault, "the bus reads nothing more")
        self._run.wire.read(ends)

    def _garbage(self, fault: ft.Garbage) -> None:
        lines = self._lines(fault, fault.which)
        if lines:
            what = "no more answers" if fault.what == "nothing" else f"{fault.what} sent"
            self._fired(fault, f"{what} on {fault.which} connections")
        for line in lines:
            if fault.what == "nothing":
                line.mute = True
            else:
                line.connection.send_raw(_GARBAGE[fault.what])

    # ---- peers

    def _peer(self, fault: ft.Peer) -> None:
        run = self._run
        known = {name: process.spawned.pid_outer for name, process in run.crew.processes.items()}
        known |= {name: workload.pid_outer for name, workload in run.crew.workloads.items()}
        if fault.peer in known:
            number = _SIGNALS.get(fault.do)
            if number is None:
                self.failed(fault, f"'{fault.do}' cannot be done to a process")
                return
            if fault.do == "kill":
                run.looker.parting(fault.peer)
                self.killed.add(fault.peer)
            if fault.do == "kill" and fault.peer in run.crew.workloads and fault.peer in self._alive:
                self._dying[fault.peer] = (fault, now_ns())
                self._none_dying.clear()
            else:
                self._note_peer(fault)
            if fault.peer not in self._ended:
                _signal(known[fault.peer], number)
        elif fault.peer == "bus":
            self._note_peer(fault)
            self._bus(fault.do)
        elif fault.peer != "systemd":
            pass  # a command makes its workload itself, and it is not known yet: the fault does not fire
        else:
            self._note_peer(fault)
            if not run.systemd.do(fault.do):
                self.failed(fault, f"this systemd cannot '{fault.do}'")

    def _note_peer(self, fault: ft.Peer) -> None:
        self._fired(fault, f"{fault.peer} {fault.do}")
        if fault.do == "pause":
            self.paused.add(fault.peer)
        else:
            self.paused.discard(fault.peer)

    def _bus(self, do: str) -> None:
        wire = self._run.wire
        if do in ("pause", "resume"):
            wire.stall(do == "pause")
        else:
            wire.stall(False)
            wire.down(True)
            self._run.systemd.do_to_bus(do)
            if do == "restart":
                wire.down(False)

    def suspended(self) -> str:
        """What we made to stop, and would make to go on at a point that has not come; "" for nothing.

        What no fault of the scenario sets going again has stopped for good, as the scenario wants it.
        """
        plan = self._run.plan
        for fault in self._run.scenario.faults:
            if not isinstance(fault, ft.StopReading) or fault.id not in plan.acted:
                continue
            if fault.until is not None and fault.until not in plan.watch.reached:
                return f"'{fault.until}' cannot come, and until then the bus reads nothing"
        for fault in plan.to_come():
            if isinstance(fault, ft.Peer) and fault.peer in self.paused and fault.do in ("resume", "restart"):
                return f"'{fault.when}' cannot come, and until then {fault.peer} is paused"
        return ""


async def _wait(event: asyncio.Event) -> None:
    """For what the kernel does with killed processes, which may be never: a frozen one does not die."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(REAP_S_MAX):
            await event.wait()


def _signal(pid_outer: int, number: int) -> None:
    """At once, and not by way of the sandbox's init: the process must not go on with what it is stopped before."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid_outer, number)


def _pids(folder: Path) -> list[int]:
    return [int(line) for line in (folder / "cgroup.procs").read_text(encoding="ascii").split()]


def _write(root: Path, path: str, file: str, text: str) -> None:
    (Path(f"{root}{path}") / file).write_text(text, encoding="ascii")
