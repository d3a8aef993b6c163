"""Drivers stopped between two system calls: where they open a cgroup's list of processes for writing, or close a connection.

Only in runs whose scenario holds such a call or names it in a point; the drivers of all others run unsupervised. What a driver
opens or closes elsewhere goes on at once and leaves no trace.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

from cgrace.harness import events as ev
from cgrace.harness import faults as ft
from cgrace.harness.engine.plan import Keep, Plan
from cgrace.harness.engine.wire import Wire
from cgrace.harness.events import Event
from cgrace.harness.targets.base import Hierarchy
from cgrace.harness.targets.notify import Closing, Handover, Listener, Opening
from cgrace.harness.witnesses.sockdiag import SockDiag

FILES: Final = ("cgroup.procs", "tasks")
"""The files that put a process into a cgroup."""


def which_connection(wire: Wire, inode: int) -> str:
    """Which of the connections to the relay a driver's socket is the other end of: "calls", "signals", or "" for none."""
    with contextlib.suppress(OSError), SockDiag() as diag:
        peer = diag.peer(inode)
        for line in wire.choose("all"):
            if os.fstat(line.connection.fileno()).st_ino == peer:
                return "signals" if line.is_signals else "calls"
    return ""


@dataclass(slots=True)
class _Held:
    keep: Keep
    call: Opening | Closing


@dataclass(slots=True)
class _Process:
    """One supervised driver process, and its calls that we hold, by thread: a thread makes one call at a time."""

    listener: Listener
    held: dict[int, _Held] = field(default_factory=dict)


class Opens:
    """One run's watch over what its drivers open and close. `before`: called before a call is recorded, so that what the kernel
    saw before it stands before it. `connection`: "calls" or "signals" for the inode of a driver's socket that leads to the relay,
    else ""."""

    def __init__(self, plan: Plan, hierarchies: tuple[Hierarchy, ...], record: Callable[[Event], object]) -> None:
        self._plan = plan
        self._hierarchies = hierarchies
        self._record = record
        self._processes: dict[str, _Process] = {}
        self._counts: dict[str, int] = {}
        self.before: Callable[[], None] = lambda: None
        self.connection: Callable[[int], str] = lambda inode: ""

    def close(self) -> None:
        """Listen no more. The processes are gone by now, or about to be."""
        for process in self._processes.values():
            process.listener.close()
        self._processes.clear()

    @contextlib.asynccontextmanager
    async def supervised(self, name: str) -> AsyncIterator[int | None]:
        """What to pass to the sandbox's spawn of this process in the block; on leaving it its openings are heard of.

        None where the scenario does not care. TargetError where no process can be held on this machine.
        """
        if not self._plan.wants_calls():
            yield None
            return
        handover = Handover()
        try:
            yield handover.theirs
            self._processes[name] = process = _Process(await handover.listener())
            process.listener.listen(lambda call: self._asks(name, call))
        finally:
            handover.close()

    # ---- asked by the watcher

    def asks(self, name: str) -> bool:
        """Whether the process waits for us in a call that is not recorded yet."""
        process = self._processes.get(name)
        return process is not None and process.listener.asks()

    def holds(self, name: str) -> bool:
        """Whether a call of the process is held: what it then waits for is ours, not its own."""
        process = self._processes.get(name)
        return process is not None and bool(process.held)

    # ---- told by the engine

    def let_go(self, keep: Keep) -> None:
        """The hold lets go for good: its calls are carried out now."""
        for process in self._processes.values():
            for tid, held in list(process.held.items()):
                if held.keep is keep:
                    del process.held[tid]
                    process.listener.go_on(held.call)

    def exited(self, name: str) -> None:
        """The process is gone, and with it the calls that we held: those holds keep nothing any more."""
        process = self._processes.get(name)
        if process is not None:
            for held in process.held.values():
                held.keep.keeps = False
            process.held.clear()

    # ---- a call's way

    def _asks(self, name: str, call: Opening | Closing) -> None:
        process = self._processes[name]
        if (interrupted := self._interrupted(process, call)) is not None:
            process.held[call.tid] = _Held(interrupted, call)
        elif isinstance(call, Closing):
            self._closes(name, call)
        else:
            self._opens(name, call)

    def _opens(self, name: str, opening: Opening) -> None:
        cgroup = self._cgroup(opening)
        if cgroup is None:
            self._processes[name].listener.go_on(opening)
            return
        self.before()
        hierarchy, path, file = cgroup
        of_it = [
            f for f in self._plan.call_faults if isinstance(f, ft.HoldOpen) and f.hierarchy + f.path == hierarchy + path
        ]
        keep = self._keep(name, of_it, f"the driver opens {hierarchy}{path}")
        hold = keep.fault.id if keep is not None else ""
        self._take(
            name, keep, opening, ev.DriverOpens(process=name, hierarchy=hierarchy, path=path, file=file, hold=hold)
        )

    def _closes(self, name: str, closing: Closing) -> None:
        connection = self.connection(inode) if (inode := closing.socket()) else ""
        if not connection:
            self._processes[name].listener.go_on(closing)
            return
        self.before()
        of_it = [f for f in self._plan.call_faults if isinstance(f, ft.HoldClose) and f.connection == connection]
        keep = self._keep(name, of_it, f"the driver closes its connection for {connection}")
        hold = keep.fault.id if keep is not None else ""
        self._take(name, keep, closing, ev.DriverCloses(process=name, connection=connection, hold=hold))

    def _take(self, name: str, keep: Keep | None, call: Opening | Closing, event: ev.DriverAsks) -> None:
        """Hold the call, or let it go on, and record it."""
        process = self._processes[name]
        if keep is not None:
            keep.keeps = True
            process.held[call.tid] = _Held(keep, call)
        self._record(event)
        if keep is None:
            process.listener.go_on(call)

    @staticmethod
    def _interrupted(process: _Process, call: Opening | Closing) -> Keep | None:
        """The hold of a call that a signal took out of our hands, when this is the same one begun anew: by the kernel in the
        same thread, or by the driver (EINTR) in any."""
        for tid, held in process.held.items():
            if held.call.path == call.path and not process.listener.waits(held.call):
                del process.held[tid]
                return held.keep
        return None

    def _cgroup(self, opening: Opening) -> tuple[str, str, str] | None:
        """(hierarchy, path, file) of a list of processes, None for any other file."""
        if not opening.may_be(FILES):
            return None
        folder, _, file = opening.inner_path().rpartition("/")
        if file not in FILES:
            return None
        for hierarchy in self._hierarchies:
            if folder == hierarchy.inner or folder.startswith(hierarchy.inner + "/"):
                return hierarchy.name, folder[len(hierarchy.inner) :] or "/", file
        return None

    def _keep(self, name: str, faults: Sequence[ft.HoldCall], what: str) -> Keep | None:
        """The hold that keeps this call back; counts it for every hold of its kind, and records which of them act. Before its
        hello none acts on what a driver does."""
        found = None
        for fault in faults if self._plan.is_ready(name) else ():
            self._counts[fault.id] = count = self._counts.get(fault.id, 0) + 1
            if count != fault.nth:
                continue
            keep = self._plan.keeps[fault.id]
            how = f"goes on at once: {fault.until} was before" if keep.open else f"held until {fault.until}"
            self._record(ev.FaultFired(fault=fault.id, grade=ft.grade(fault), what=f"{what}, {how}"))
            if found is None and not keep.open:
                found = keep
        return found
