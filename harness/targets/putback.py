"""Puts a machine back to how it was before a run: its systemd's units and jobs, its cgroups, its runtime unit files.

The driver's and the workloads' processes are dead by then. What is put back is told by comparison with a look at the fresh
machine, not by names: a run may name its units as it likes. What cannot be put back within a bound is said, and the machine
must not serve another run.
"""

from __future__ import annotations

import asyncio
import contextlib
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from cgrace.harness.dbus import systemd1
from cgrace.harness.errors import CgraceError, TargetError
from cgrace.harness.targets.base import Hierarchy
from cgrace.harness.targets.bus_client import BusClient
from cgrace.harness.targets.removal import remove_trees, walk_up

PUT_BACK_S_MAX: Final = 3.0
_GONE_S_MAX: Final = 1.0
# Where unit files and drop-ins can be that are gone with a reboot (systemd.unit(5)); SetUnitProperties and
# StartTransientUnit write below the first two, the job gate's drop-ins are in the third.
RUNTIME_FOLDERS: Final = ("run/systemd/system.control", "run/systemd/transient", "run/systemd/system")
_MATCH: Final = f"type='signal',sender='{systemd1.NAME}',interface='{systemd1.MANAGER}',member="
_ENDED: Final = ("inactive", "failed")


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """What a machine is like. units: active state by name; files: paths below its root; cgroups: "hierarchy/path"."""

    units: dict[str, str]
    files: frozenset[str]
    cgroups: frozenset[str]


class PutBack:
    """For one machine. bus_path: its system bus's socket; root: its root directory as cgrace can open it."""

    def __init__(self, bus_path: str, root: Path, hierarchies: tuple[Hierarchy, ...]) -> None:
        self._bus_path = bus_path
        self._root = root
        self._hierarchies = hierarchies
        self._fresh: Look | None = None

    async def look(self) -> None:
        """Remember how it is: call it once, when nothing of a run is there yet."""
        async with BusClient(self._bus_path) as bus:
            units = await _units(bus)
        self._fresh = Look(units=units, files=self._files(), cgroups=self._cgroups())

    async def put_back(self) -> str:
        """Undo what a run did; returns what is otherwise than before, "" when the machine is as it was."""
        assert self._fresh is not None
        try:
            async with asyncio.timeout(PUT_BACK_S_MAX), BusClient(self._bus_path) as bus:
                removed = self._remove_files()
                units = await self._end_units(bus, reload=removed)
        except TimeoutError:
            return f"its systemd did not end the run's units within {PUT_BACK_S_MAX:g} s"
        except CgraceError as error:
            return error.message
        return _difference("unit", self._fresh.units, units) or self._remove_cgroups()

    # ---- units

    async def _end_units(self, bus: BusClient, *, reload: bool) -> dict[str, str]:
        """Stop what was not there, and wait until systemd has forgotten it; the units that there are then."""
        assert self._fresh is not None
        units = await _units(bus)
        jobs = await _jobs(bus)
        if not jobs and not reload and units == self._fresh.units:
            return units
        # JobRemoved goes to who asked for the job, UnitRemoved to subscribers alone. A driver that forgets to subscribe has
        # to miss its signals in the next run, too: so take it back, and wait for the answer.
        for member in ("JobRemoved", "UnitRemoved"):
            rule = f"{_MATCH}'{member}'"
            await bus.call(systemd1.BUS_NAME, systemd1.BUS_PATH, systemd1.BUS_NAME, "AddMatch", "s", rule)
        await _ask(bus, "Subscribe")
        try:
            for job in jobs:
                with contextlib.suppress(TargetError):  # it has ended meanwhile
                    await _ask(bus, "CancelJob", "u", job)
            new = {name: state for name, state in units.items() if name not in self._fresh.units}
            await self._stop(bus, [name for name, state in new.items() if state not in _ENDED])
            if reload:
                await _ask(bus, "Reload")
            return await self._forgotten(bus)
        finally:
            with contextlib.suppress(TargetError):
                await _ask(bus, "Unsubscribe")

    async def _stop(self, bus: BusClient, names: Iterable[str]) -> None:
        waiting: set[str] = set()
        for name in names:
            with contextlib.suppress(TargetError):  # NoSuchUnit: it went with another
                waiting.add((await _ask(bus, "StopUnit", "ss", name, "replace"))[0])
        async for signal in bus.signals() if waiting else _nothing():
            if signal.member == "JobRemoved":
                waiting.discard(signal.body[1])
                if not waiting:
                    break

    async def _forgotten(self, bus: BusClient) -> dict[str, str]:
        """systemd unloads what has ended as soon as it has nothing else to do, except what failed."""
        assert self._fresh is not None
        units = await _units(bus)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_GONE_S_MAX):
                while new := {name: state for name, state in units.items() if name not in self._fresh.units}:
                    for name, state in new.items():
                        if state == "failed":
                            with contextlib.suppress(TargetError):
                                await _ask(bus, "ResetFailedUnit", "s", name)
                    await self._until_removed(bus, set(new))
                    units = await _units(bus)
        return units

    async def _until_removed(self, bus: BusClient, names: set[str]) -> None:
        async for signal in bus.signals():
            if signal.member == "UnitRemoved":
                names.discard(signal.body[0])
            if not names:
                return

    # ---- files and cgroups

    def _files(self) -> frozenset[str]:
        found = [path for folder in RUNTIME_FOLDERS for path in (self._root / folder).rglob("*")]
        return frozenset(str(path.relative_to(self._root)) for path in found)

    def _remove_files(self) -> bool:
        """Remove runtime unit files that were not there; True when there were any but transient ones, which go by themselves."""
        assert self._fresh is not None
        new = [path for path in self._files() - self._fresh.files if not path.startswith(RUNTIME_FOLDERS[1] + "/")]
        for path in sorted(new, reverse=True):
            whole = self._root / path
            if whole.is_dir() and not whole.is_symlink():
                shutil.rmtree(whole, ignore_errors=True)
            else:
                whole.unlink(missing_ok=True)
        return bool(new)

    def _cgroups(self) -> frozenset[str]:
        found: set[str] = set()
        for hierarchy in self._hierarchies:
            root = str(hierarchy.root)
            found.update(f"{hierarchy.name}{path[len(root) :]}" for path in walk_up(root))
        return frozenset(found)

    def _remove_cgroups(self) -> str:
        """Remove cgroups that were not there and belong to no unit of the machine's own."""
        assert self._fresh is not None
        own = {unit for unit in self._fresh.units if "." in unit}
        new = [path for path in self._cgroups() - self._fresh.cgroups if path.rsplit("/", 1)[1] not in own]
        roots = {hierarchy.name: hierarchy.root for hierarchy in self._hierarchies}
        try:
            remove_trees([f"{roots[name]}/{path}" for name, _, path in (one.partition("/") for one in new)])
        except TargetError as error:
            return error.message
        return ""


async def _ask(bus: BusClient, member: str, signature: str = "", *body: Any) -> tuple[Any, ...]:
    answer = await bus.call(systemd1.NAME, systemd1.PATH, systemd1.MANAGER, member, signature, *body)
    return tuple(answer.body)


async def _units(bus: BusClient) -> dict[str, str]:
    (rows,) = await _ask(bus, "ListUnits")
    return {row[0]: row[3] for row in rows}


async def _jobs(bus: BusClient) -> list[int]:
    (rows,) = await _ask(bus, "ListJobs")
    return [row[0] for row in rows]


async def _nothing() -> Any:
    return
    yield


def _difference(kind: str, before: dict[str, str], now: dict[str, str]) -> str:
    """The first difference, in words."""
    for name, state in sorted(now.items()):
        if name not in before:
            return f"{kind} {name} is still there ({state})"
        if state != before[name]:
            return f"{kind} {name} is {state}, and was {before[name]}"
    gone = sorted(set(before) - set(now))
    return f"{kind} {gone[0]} is gone" if gone else ""
