"""Drivers stopped between two system calls: where they open a cgroup's list of processes for writing.

Only in runs whose scenario holds such a call or names it in a point; the drivers of all others run unsupervised. What a driver
opens elsewhere goes on at once and leaves no trace.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Final

from cgrace.harness import events as ev
from cgrace.harness import faults as ft
from cgrace.harness.engine.plan import Keep, Plan
from cgrace.harness.events import Event
from cgrace.harness.targets.base import Hierarchy
from cgrace.harness.targets.notify import Handover, Listener, Opening

FILES: Final = ("cgroup.procs", "tasks")
"""The files that put a process into a cgroup."""


@dataclass(slots=True)
class _Held:
    keep: Keep
    opening: Opening


@dataclass(slots=True)
class _Process:
    """One supervised driver process, and its calls that we hold, by thread: a thread makes one call at a time."""

    listener: Listener
    held: dict[int, _Held] = field(default_factory=dict)


class Opens:
    """One run's watch over what its drivers open. `before`: called before an opening is recorded, so that what the kernel
    saw before it stands before it."""

    def __init__(self, plan: Plan, hierarchies: tuple[Hierarchy, ...], record: Callable[[Event], object]) -> None:
        self._plan = plan
        self._hierarchies = hierarchies
        self._record = record
        self._processes: dict[str, _Process] = {}
        self._counts: dict[str, int] = {}
        self.before: Callable[[], None] = lambda: None

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
        if not self._plan.wants_opens():
            yield None
            return
        handover = Handover()
        try:
            yield handover.theirs
            self._processes[name] = process = _Process(await handover.listener())
            process.listener.listen(lambda opening: self._opens(name, opening))
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
                    process.listener.go_on(held.opening)

    def exited(self, name: str) -> None:
        """The process is gone, and with it the calls that we held: those holds keep nothing any more."""
        process = self._processes.get(name)
        if process is not None:
            for held in process.held.values():
                held.keep.keeps = False
            process.held.clear()

    # ---- an opening's way

    def _opens(self, name: str, opening: Opening) -> None:
        process = self._processes[name]
        if (interrupted := self._interrupted(process, opening)) is not None:
            process.held[opening.tid] = _Held(interrupted, opening)
            return
        cgroup = self._cgroup(opening)
        if cgroup is None:
            process.listener.go_on(opening)
            return
        self.before()
        hierarchy, path, file = cgroup
        keep = self._keep(hierarchy, path) if self._plan.is_ready(name) else None
        if keep is not None:
            keep.keeps = True
            process.held[opening.tid] = _Held(keep, opening)
        hold = keep.fault.id if keep is not None else ""
        self._record(ev.DriverOpens(process=name, hierarchy=hierarchy, path=path, file=file, hold=hold))
        if keep is None:
            process.listener.go_on(opening)

    @staticmethod
    def _interrupted(process: _Process, opening: Opening) -> Keep | None:
        """The hold of a call that a signal took out of our hands, when this is the same one begun anew: by the kernel in the
        same thread, or by the driver (EINTR) in any."""
        for tid, held in process.held.items():
            if held.opening.path == opening.path and not process.listener.waits(held.opening):
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

    def _keep(self, hierarchy: str, path: str) -> Keep | None:
        """The hold that keeps this opening back; counts it for every hold of its cgroup, and records which of them act."""
        found = None
        for fault in self._plan.open_faults:
            if (fault.hierarchy, fault.path) != (hierarchy, path):
                continue
            self._counts[fault.id] = count = self._counts.get(fault.id, 0) + 1
            if count != fault.nth:
                continue
            keep = self._plan.keeps[fault.id]
            how = f"goes on at once: {fault.until} was before" if keep.open else f"held until {fault.until}"
            what = f"the driver opens {hierarchy}{path}, {how}"
            self._record(ev.FaultFired(fault=fault.id, grade=ft.grade(fault), what=what))
            if found is None and not keep.open:
                found = keep
        return found
