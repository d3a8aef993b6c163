"""Looks at the cgroup tree: does each path that a returned step reported exist, and is its process in exactly that cgroup?

A look counts only when the bus is idle and all jobs have ended; so it is made when a later step on the same unit is about to be
called, and once more at the end of the run.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from cgrace.harness import events as ev
from cgrace.harness import faults as ft
from cgrace.harness.scenario.model import Step
from cgrace.harness.scenario.units import ancestors
from cgrace.harness.targets.base import Hierarchy
from cgrace.harness.targets.namespaces import descendants

if TYPE_CHECKING:
    from cgrace.harness.engine.run import Run

GENERATIONS_MAX = 64  # of processes below a driver, to find whose they are


@dataclass(slots=True)
class _Claim:
    """What a successful apply or exec reported: paths by hierarchy. `looked` once a look was made while all was idle."""

    step: Step
    paths: tuple[tuple[str, str], ...]


class Looker:
    """One run's looks."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._claims: dict[str, _Claim] = {}
        self._destroyed: dict[str, str] = {}
        self._paths: dict[str, tuple[tuple[str, str], ...]] = {}  # by unit, what its last apply reported
        self._promised: dict[str, set[tuple[str, str]]] = {}
        self._wanted_frozen: dict[str, bool] = {}
        self._steps = {step.id: step for step in run.scenario.steps}
        run.recorder.listen(self._note)

    def resolve(self, paths: tuple[tuple[str, str], ...]) -> tuple[tuple[str, str], ...]:
        """(hierarchy, path below the run's root) for what a driver reported as (subsystem, path in its own namespace)."""
        found = []
        for subsystem, path in paths:
            hierarchy = self._hierarchy(subsystem, path)
            if hierarchy is not None:
                found.append((hierarchy.name, self._below(hierarchy, subsystem, path)))
        return tuple(sorted(set(found)))

    def _hierarchy(self, subsystem: str, path: str) -> Hierarchy | None:
        name = subsystem.removeprefix("name=")
        for hierarchy in self._run.sandbox.hierarchies:
            if name == hierarchy.name or name in hierarchy.controllers or (hierarchy.is_v2 and name in ("", "unified")):
                return hierarchy
        inside = [h for h in self._run.sandbox.hierarchies if path.startswith(h.inner + "/")]
        return inside[0] if inside else None

    @staticmethod
    def _below(hierarchy: Hierarchy, subsystem: str, path: str) -> str:
        for mount in (hierarchy.inner, f"/sys/fs/cgroup/{subsystem.removeprefix('name=')}"):
            if path == mount or path.startswith(mount + "/"):
                return path[len(mount) :] or "/"
        return path

    def _note(self, entry: object) -> None:
        event = getattr(entry, "event", None)
        if isinstance(event, ev.FaultFired):
            self._note_freeze(event)
        if not isinstance(event, ev.StepReturned):
            return
        step = self._steps[event.step]
        if event.error:
            return
        if step.do == "apply":
            self._claims[step.id] = _Claim(step, event.paths)
            self._paths[step.unit] = event.paths
            self._promised.setdefault(step.unit, set()).update(event.paths)
        elif step.do == "exec":  # what does not say where it is, is where the unit is
            self._claims[step.id] = _Claim(step, event.paths or self._paths.get(step.unit, ()))
        elif step.do in ("freeze", "thaw"):
            self._wanted_frozen |= {path: step.do == "freeze" for _, path in self._freezers(step.unit)}
        elif step.do == "destroy":
            self._destroyed[step.unit] = step.id

    def _note_freeze(self, event: ev.FaultFired) -> None:
        for fault in self._run.scenario.faults:
            if fault.id == event.fault and isinstance(fault, ft.FreezeCgroup):
                self._wanted_frozen[fault.path] = not fault.thaw

    def before(self, step: Step) -> None:
        """A step is about to be called: look at what earlier ones claim of its unit, and forget that if it is a destroy."""
        mine = [claim for claim in self._claims.values() if claim.step.unit == step.unit]
        if self._idle():
            for claim in mine:
                self._look(claim)
        if step.do == "destroy":
            for claim in mine:
                del self._claims[claim.step.id]
        elif step.do == "apply":
            for unit in (step.unit, *ancestors(step.parent), step.parent):  # slices above come back with what is below
                self._destroyed.pop(unit, None)

    def parting(self, workload: str) -> None:
        """The scenario kills it: look at what is claimed for it. From then on its scope may end by itself, and rightly so."""
        if self._idle():
            for claim in [claim for claim in self._claims.values() if claim.step.workload == workload]:
                self._look(claim)
                del self._claims[claim.step.id]

    def look_all(self) -> None:
        """The look at the end of the run."""
        if self._idle():
            for claim in self._claims.values():
                self._look(claim)

    def _idle(self) -> bool:
        return (
            not self._run.systemd.busy()
            and not self._run.plan.pending(self._run.systemd.queued())
            and not self._run.plan.closed()
        )

    def _look(self, claim: _Claim) -> None:
        # One that the scenario kills is in no cgroup any more, or about to be.
        name = claim.step.workload
        workload = self._run.crew.workloads.get(name) if name not in self._run.acts.killed else None
        cgroups = process_cgroups(workload.pid_outer) if workload is not None else {}
        roots = {h.name: h for h in self._run.sandbox.hierarchies}
        for name, path in claim.paths:
            root = roots[name].root
            inside: bool | None = None
            actual = ""
            if workload is not None:
                actual = self._inner_path(roots[name], cgroups)
                inside = actual == path
            exists = Path(f"{root}{path}").is_dir()
            self._run.record(
                ev.CgroupSeen(
                    step=claim.step.id,
                    hierarchy=name,
                    path=path,
                    exists=exists,
                    inside=inside,
                    actual="" if inside else actual,
                )
            )

    def _inner_path(self, hierarchy: Hierarchy, cgroups: dict[str, str]) -> str:
        """Where a process is in a hierarchy, below the run's root ("" when it is gone, "outside ..." when elsewhere)."""
        key = "" if hierarchy.is_v2 else ",".join(hierarchy.controllers) or f"name={hierarchy.name}"
        full = next((p for names, p in cgroups.items() if set(names.split(",")) == set(key.split(","))), "")
        if not full:
            return ""
        prefix = self._run.sandbox.cgroup_prefix
        at = (full + "/").find(prefix + "/")
        if at < 0:
            return f"outside {full}"
        return full[at + len(prefix) :] or "/"

    def leftovers(self) -> None:
        """Record what is still there of units whose destroy has returned, and processes that drivers left running."""
        loaded = set(self._run.systemd.loaded())
        for unit, step in self._destroyed.items():
            if unit in loaded:
                self._run.record(ev.Leftover(kind="unit", name=unit, step=step))
            own = self._run.systemd.cgroup_of(unit)
            places = {(h.name, own) for h in self._run.sandbox.hierarchies if own} | self._promised.get(unit, set())
            roots = {h.name: h.root for h in self._run.sandbox.hierarchies}
            for name, path in sorted(places):
                if path.endswith(f"/{unit}") and Path(f"{roots[name]}{path}").is_dir():
                    self._run.record(ev.Leftover(kind="cgroup", name=name + path, step=step))
        self._freezes()
        for process in self._strays():
            self._run.record(ev.Leftover(kind="process", name=process))

    def _freezers(self, unit: str) -> list[tuple[Path, str]]:
        """The freezer's directories of a unit that was applied and not destroyed, each with its path below the root."""
        paths = {place for claim in self._claims.values() if claim.step.unit == unit for place in claim.paths}
        return [
            (Path(f"{h.root}{path}"), path)
            for h in self._run.sandbox.hierarchies
            for name, path in sorted(paths)
            if name == h.name and (h.is_v2 or "freezer" in h.controllers)
        ]

    def _freezes(self) -> None:
        """Record each unit that is frozen though nobody asked for it, or not though somebody did."""
        for unit in sorted({claim.step.unit for claim in self._claims.values()}):
            last = [step.id for step in self._run.scenario.steps if step.unit == unit][-1]
            for folder, path in self._freezers(unit):
                frozen, wanted = _is_frozen(folder), self._wanted_frozen.get(path, False)
                if frozen is not None and frozen != wanted:
                    kind = "freeze" if frozen else "thaw"
                    self._run.record(ev.Leftover(kind=kind, name=path, step=last))

    def _strays(self) -> list[str]:
        """Processes of the sandbox that are neither its init nor what we started: children of drivers, or orphans."""
        sandbox = self._run.sandbox
        ours = {p.spawned.pid_outer: p.name for p in self._run.crew.processes.values()}
        ours |= {workload.pid_outer: name for name, workload in self._run.crew.workloads.items()}
        ours |= self._run.systemd.processes()
        found = []
        for pid in descendants(sandbox.init_pid_outer):
            if pid in ours or pid == sandbox.init_pid_outer:
                continue
            said = _stat(pid)
            if said is not None and said[1] not in "ZX":
                found.append(f"{said[0]}, {_origin(pid, ours)}")
        return sorted(found)


def _is_frozen(folder: Path) -> bool | None:
    """Whether a cgroup itself, and not one above it, is to be frozen; None where that cannot be read."""
    for file in ("freezer.self_freezing", "cgroup.freeze"):
        with contextlib.suppress(OSError):
            return (folder / file).read_text(encoding="ascii").strip() == "1"
    return None


def _stat(pid: int) -> tuple[str, str, int] | None:
    """(command, state, parent) of /proc/PID/stat; None when the process is gone."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    before, _, after = text.rpartition(")")
    return before.partition("(")[2], after.split()[0], int(after.split()[1])


def _origin(pid: int, ours: dict[int, str]) -> str:
    """Below which of our processes it hangs."""
    at: int | None = pid
    for _ in range(GENERATIONS_MAX):
        said = _stat(at) if at else None
        at = said[2] if said is not None else None
        if at in ours:
            return f"started by {ours[at]}"
    return "an orphan"


def process_cgroups(pid_outer: int) -> dict[str, str]:
    """/proc/PID/cgroup as {controllers: path}; {} when the process is gone."""
    try:
        text = Path(f"/proc/{pid_outer}/cgroup").read_text(encoding="utf-8")
    except OSError:
        return {}
    return {parts[1]: parts[2] for line in text.splitlines() if len(parts := line.split(":", 2)) == 3}
