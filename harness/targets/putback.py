"""Puts a machine back to how it was before a run: its systemd's units and jobs, its cgroups, its runtime unit files.

The driver's and the workloads' processes are dead by then. What is put back is told by comparison with a look at the fresh
machine, not by names: a run may name its units as it likes. What cannot be put back within a bound is said, and the machine
must not serve another run.
"""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import signal
from collections.abc import AsyncIterator, Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from cgrace.harness.dbus import systemd1
from cgrace.harness.dbus.message import Message
from cgrace.harness.errors import CgraceError, TargetError
from cgrace.harness.targets import owner
from cgrace.harness.targets.base import Hierarchy
from cgrace.harness.targets.bus_client import BusClient
from cgrace.harness.targets.removal import remove_trees, walk_up

_GONE_PART: Final = 1 / 3  # of the time to put back, for systemd to forget what has ended: emulated, it takes seconds
# Where unit files and drop-ins can be that are gone with a reboot (systemd.unit(5)); SetUnitProperties and
# StartTransientUnit write below the first two, the job gate's drop-ins are in the third.
RUNTIME_FOLDERS: Final = ("run/systemd/system.control", "run/systemd/transient", "run/systemd/system")
_MATCH: Final = f"type='signal',sender='{systemd1.NAME}',interface='{systemd1.MANAGER}',member="
_ENDED: Final = ("inactive", "failed")


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """What a machine is like. units: the active state by name; files: paths below its root; cgroups: "hierarchy/path"; settings:
    those of the hierarchies' roots, which belong to no unit."""

    units: dict[str, str]
    files: frozenset[str]
    cgroups: frozenset[str]
    settings: dict[str, str]


class PutBack:
    """For one machine. bus_path: its system bus's socket; root: its root directory as cgrace can open it; settings: reads those of
    the hierarchies' roots; prefix: on a machine that others use, too, how the names of a run's units begin: nothing else is ever
    compared or touched. besides: how those of our own begin that stay; "" for none. folders: see RUNTIME_FOLDERS."""

    def __init__(
        self,
        bus_path: str,
        root: Path,
        hierarchies: tuple[Hierarchy, ...],
        settings: Callable[[], dict[str, str]] = dict,
        *,
        prefix: str = "",
        besides: str = "",
        folders: tuple[str, str, str] = RUNTIME_FOLDERS,
    ) -> None:
        self._bus_path = bus_path
        self._root = root
        self._besides = besides
        self._folders = folders
        self._hierarchies = hierarchies
        self._settings = settings
        self._prefix = prefix
        self._fresh: Look | None = None

    async def look(self) -> None:
        """Remember how it is: call it once, when nothing of a run is there yet."""
        async with BusClient(self._bus_path) as bus:
            units = await _units(bus)
        self._fresh = Look(units=units, files=self._files(), cgroups=self._cgroups(), settings=self._settings())

    async def look_past_leftovers(self) -> None:
        """As `look`, but what is called like a run's and has no unit file of the machine's counts as a run's doing: a killed cgrace
        left it. What a living one has there in a tree of its own is nobody's to touch (targets/owner.py)."""
        async with BusClient(self._bus_path) as bus:
            units = await _units(bus)
            left = [name for name in units if self._is_a_runs(name) and await _is_made_at_run_time(bus, name)]
        kept = {name: state for name, state in units.items() if name not in left}
        gates = f"{self._folders[2]}/"
        files = frozenset(path for path in self._files() if path.startswith(gates) and ".d" not in path)
        self._fresh = Look(units=kept, files=files, cgroups=frozenset(), settings=self._settings())

    def look_at_nothing(self) -> None:
        """Take for a run's doing whatever is called so: what a killed cgrace left."""
        self._fresh = Look(units={}, files=frozenset(), cgroups=frozenset(), settings=self._settings())

    async def left(self) -> list[str]:
        """The units that are there and were not."""
        async with BusClient(self._bus_path) as bus:
            return sorted(self._new(await _units(bus)))

    async def put_back(self, seconds_max: float = 3.0) -> str:
        """Undo what a run did; returns what is otherwise than before, "" when the machine is as it was."""
        assert self._fresh is not None
        try:
            async with asyncio.timeout(seconds_max), BusClient(self._bus_path) as bus:
                removed = self._remove_files()
                units = await self._end_units(bus, seconds_max * _GONE_PART, reload=removed)
        except TimeoutError:
            return f"its systemd did not end the run's units within {seconds_max:g} s"
        except CgraceError as error:
            return error.message
        return self._unit_difference(units) or self._remove_cgroups() or self._setting_difference()

    # ---- units

    async def _end_units(self, bus: BusClient, gone_s_max: float, *, reload: bool) -> dict[str, str]:
        """Stop what was not there, and wait until systemd has forgotten it; the units that there are then."""
        assert self._fresh is not None
        units = await _units(bus)
        jobs = [number for number, name in await _jobs(bus) if self._is_a_runs(name)]
        new = self._new(units)
        if not (jobs or reload or new):
            return units
        # JobRemoved goes to who asked for the job, UnitRemoved to subscribers alone. A driver that forgets to subscribe has
        # to miss its signals in the next run, too: so take it back, and wait for the answer.
        for member in ("JobRemoved", "UnitRemoved"):
            rule = f"{_MATCH}'{member}'"
            await bus.call(*systemd1.TO_BUS, "AddMatch", "s", rule)
        await _ask(bus, "Subscribe")
        try:
            for job in jobs:
                with contextlib.suppress(TargetError):  # it has ended meanwhile
                    await _ask(bus, "CancelJob", "u", job)
            await self._stop(bus, [name for name, state in new.items() if state not in _ENDED])
            if reload:
                await _ask(bus, "Reload")
            return await self._forgotten(bus, gone_s_max)
        finally:
            with contextlib.suppress(TargetError):
                await _ask(bus, "Unsubscribe")

    async def _stop(self, bus: BusClient, names: Iterable[str]) -> None:
        waiting: set[str] = set()
        for name in names:
            if name.endswith((".service", ".scope")):  # SIGTERM, then a minute and a half of patience, is for friends
                with contextlib.suppress(TargetError):
                    await _ask(bus, "KillUnit", "ssi", name, "all", signal.SIGKILL)
            with contextlib.suppress(TargetError):  # NoSuchUnit: it went with another
                waiting.add((await _ask(bus, "StopUnit", "ss", name, "replace"))[0])
        async for said in bus.signals() if waiting else _nothing():
            if said.member == "JobRemoved":
                waiting.discard(said.body[1])
                if not waiting:
                    break

    async def _forgotten(self, bus: BusClient, seconds_max: float) -> dict[str, str]:
        """systemd unloads what has ended as soon as it has nothing else to do, except what failed."""
        assert self._fresh is not None
        units = await _units(bus)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds_max):
                while self._new(units):
                    await self._set_aside(bus, units)
                    new = self._new(units)
                    for name, state in new.items():
                        if state == "failed":
                            with contextlib.suppress(TargetError):
                                await _ask(bus, "ResetFailedUnit", "s", name)
                    if new:
                        await self._until_removed(bus, set(new))
                    units = await _units(bus)
        return units

    async def _set_aside(self, bus: BusClient, units: dict[str, str]) -> None:
        """Take for the machine's own what has a unit file in its /usr or /etc and is only loaded: re-executed, a systemd may
        remember units that others merely name (247 does)."""
        assert self._fresh is not None
        for name, state in self._new(units).items():
            if state == "inactive" and not name.endswith((".slice", ".scope")):
                with contextlib.suppress(TargetError):
                    file = await bus.get(systemd1.unit_path(name), systemd1.UNIT, "FragmentPath")
                    if file.startswith(("/usr/", "/lib/", "/etc/")):
                        self._fresh.units[name] = state

    async def _until_removed(self, bus: BusClient, names: set[str]) -> None:
        async for said in bus.signals():
            if said.member == "UnitRemoved":
                names.discard(said.body[0])
            if not names:
                return

    # ---- files and cgroups

    def _files(self) -> frozenset[str]:
        found: list[Path] = []
        for folder in (self._root / name for name in self._folders):
            for top in folder.glob(f"{self._prefix}*"):
                if self._is_a_runs(top.name):
                    found += [top, *top.rglob("*")]
        return frozenset(str(path.relative_to(self._root)) for path in found)

    def _remove_files(self) -> bool:
        """Remove runtime unit files that were not there; True when there were any but transient ones, which go by themselves."""
        assert self._fresh is not None
        new = [path for path in self._files() - self._fresh.files if not path.startswith(self._folders[1] + "/")]
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
            paths = (path[len(root) :] for path in walk_up(root))
            found.update(f"{hierarchy.name}{path}" for path in paths if not self._prefix or self._is_a_runs_place(path))
        return frozenset(found)

    def _remove_cgroups(self) -> str:
        """Remove cgroups that were not there and belong to no unit of the machine's own."""
        assert self._fresh is not None
        own = {unit for unit, state in self._fresh.units.items() if state not in _ENDED}
        new = [path for path in self._cgroups() - self._fresh.cgroups if path.rsplit("/", 1)[1] not in own]
        roots = {hierarchy.name: hierarchy.root for hierarchy in self._hierarchies}
        try:
            killed = remove_trees([f"{roots[name]}/{path}" for name, _, path in (one.partition("/") for one in new)])
        except TargetError as error:
            return error.message
        return f"process {min(killed)}, which is not the run's, was in a cgroup of the run" if killed else ""

    def _is_a_runs_place(self, path: str) -> bool:
        names = path.split("/")
        return any(map(self._is_a_runs, names)) and not any(map(owner.OWNED_NAME.fullmatch, names))

    def _is_a_runs(self, name: str) -> bool:
        return name.startswith(self._prefix) and not (self._besides and name.startswith(self._besides))

    def _new(self, units: dict[str, str]) -> dict[str, str]:
        """The units that are a run's doing. Those that are there without being active come and go by themselves."""
        assert self._fresh is not None
        before = {name for name, state in self._fresh.units.items() if state not in _ENDED}
        return {
            name: state
            for name, state in units.items()
            if self._is_a_runs(name) and name not in before and (name not in self._fresh.units or state not in _ENDED)
        }

    def _unit_difference(self, units: dict[str, str]) -> str:
        assert self._fresh is not None
        for name, state in sorted(self._new(units).items()):
            return f"unit {name} is still there ({state})"
        for name, state in sorted(self._fresh.units.items()):
            if self._is_a_runs(name) and state not in _ENDED and units.get(name) != state:
                return f"unit {name} is {units.get(name, 'gone')}, and was {state}"
        return ""

    def _setting_difference(self) -> str:
        assert self._fresh is not None
        now = self._settings()
        changed = [name for name, value in sorted(self._fresh.settings.items()) if now.get(name) != value]
        return f"{changed[0]} of the root was changed" if changed else ""


async def _ask(bus: BusClient, member: str, signature: str = "", *body: Any) -> tuple[Any, ...]:
    answer = await bus.call(*systemd1.TO_MANAGER, member, signature, *body)
    return tuple(answer.body)


async def _is_made_at_run_time(bus: BusClient, name: str) -> bool:
    """Whether a unit has no file, or one that came with the call that made it (its folder was another before 228)."""
    try:
        file = str(await bus.get(systemd1.unit_path(name), systemd1.UNIT, "FragmentPath"))
        return not file or bool(await bus.get(systemd1.unit_path(name), systemd1.UNIT, "Transient"))
    except TargetError:  # it has gone meanwhile
        return False


async def _units(bus: BusClient) -> dict[str, str]:
    (rows,) = await _ask(bus, "ListUnits")
    return {row[0]: row[3] for row in rows}


async def _jobs(bus: BusClient) -> list[tuple[int, str]]:
    (rows,) = await _ask(bus, "ListJobs")
    return [(row[0], row[1]) for row in rows]


async def _nothing() -> AsyncIterator[Message]:
    return
    yield
