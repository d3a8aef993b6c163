"""A correct driver: asks systemd for the unit, waits for its job with a limit, and only then makes and joins cgroups.

It follows no real driver's code. It stands in for none either: it exists so that each of its known bugs (bugs.py) can be shown to
be found.
"""

from __future__ import annotations

import queue
import threading
from pathlib import Path
from typing import Any

from cgrace.fakes.driver import tree
from cgrace.fakes.driver.bus import MANAGER, Bus, BusError
from cgrace.harness.dbus.message import Message, Variant
from cgrace.harness.dbus.systemd1 import BUS_NAME

JOB_S_MAX = 30.0
RULE = f"type='signal',interface='{MANAGER}',member='JobRemoved'"
UNIT_EXISTS = "org.freedesktop.systemd1.UnitExists"
NO_SUCH_UNIT = "org.freedesktop.systemd1.NoSuchUnit"


class Driver:
    """All operations may be called from several threads at once. A failure is raised: OSError, BusError or ValueError."""

    def __init__(self) -> None:
        self.calls = Bus()
        self.signals = Bus(self.on_signal)
        self.lock = threading.Lock()
        self.waiting: dict[str, list[queue.SimpleQueue[tuple[str, str]]]] = {}

    def start(self) -> list[str]:
        """Connect and subscribe; what it concluded about systemd."""
        self.calls.connect()
        self.signals.connect()
        self.signals.call(
            "AddMatch", "s", (RULE,), destination=BUS_NAME, path="/org/freedesktop/DBus", interface=BUS_NAME
        )
        self.signals.call("Subscribe")
        return [f"hierarchies: {', '.join(name or 'unified' for name in tree.hierarchies())}"]

    # ---- operations

    def apply(self, unit: str, parent: str, pid: int, delegate: bool | None = None) -> dict[str, str]:
        """Make the unit and its cgroups, and put the process (-1: none) there. Gives the paths."""
        self.start_unit(unit, parent, pid, delegate)
        paths = tree.paths_of(parent, unit)
        for path in paths.values():
            if "" not in paths:  # on v2 that is systemd's alone
                tree.make(Path(path))
            if pid != -1:
                tree.join(Path(path), pid)
        return paths

    def destroy(self, unit: str, parent: str) -> None:
        """Stop the unit and remove what is left of its cgroups."""
        self.stop_unit(unit)
        for path in tree.paths_of(parent, unit).values():
            tree.remove(Path(path))

    def set(self, unit: str, parent: str, resources: dict[str, Any]) -> None:
        """Limit processes: the one resource that it knows."""
        if "pids" in resources:
            path = self._path(unit, parent, "pids")
            (path / "pids.max").write_text(str(resources["pids"]), encoding="ascii")

    def freeze(self, unit: str, parent: str, frozen: bool) -> None:
        """Freeze or thaw the unit's processes."""
        path = self._path(unit, parent, "freezer")
        v2 = path / "cgroup.freeze"
        if v2.exists():
            v2.write_text("1" if frozen else "0", encoding="ascii")
        else:
            (path / "freezer.state").write_text("FROZEN" if frozen else "THAWED", encoding="ascii")

    def pids(self, unit: str, parent: str) -> list[int]:
        """The unit's processes."""
        path = self._path(unit, parent, "devices")
        return [int(line) for line in (path / "cgroup.procs").read_text(encoding="ascii").split()]

    @staticmethod
    def _path(unit: str, parent: str, hierarchy: str) -> Path:
        paths = tree.paths_of(parent, unit)
        return Path(paths.get(hierarchy) or paths[""])

    # ---- systemd

    def start_unit(self, unit: str, parent: str, pid: int, delegate: bool | None) -> None:
        """StartTransientUnit, and its job waited for."""
        is_slice = unit.endswith(".slice")
        properties: list[tuple[str, Variant]] = [
            ("Description", Variant(signature="s", value=f"cgrace reference {unit}")),
            (
                "Wants" if is_slice else "Slice",
                Variant(signature="as" if is_slice else "s", value=[parent] if is_slice else parent),
            ),
            ("DefaultDependencies", Variant(signature="b", value=False)),
        ]
        if delegate is not None or not is_slice:
            properties.append(("Delegate", Variant(signature="b", value=delegate is not False)))
        if pid != -1:
            properties.append(("PIDs", Variant(signature="au", value=[pid])))
        body: tuple[Any, ...] = (unit, "replace", [list(pair) for pair in properties], [])
        try:
            self.job(unit, "StartTransientUnit", "ssa(sv)a(sa(sv))", body)
        except BusError as error:
            if not is_slice or error.name != UNIT_EXISTS:
                raise

    def stop_unit(self, unit: str) -> None:
        """StopUnit, and its job waited for; a unit that is gone is stopped."""
        try:
            self.job(unit, "StopUnit", "ss", (unit, "replace"))
        except BusError as error:
            if error.name != NO_SUCH_UNIT:
                raise

    def job(self, unit: str, member: str, signature: str, body: tuple[Any, ...]) -> None:
        """Call what starts a job, and wait for that job. Who listens first misses nothing, also of a job that ends at once."""
        removed: queue.SimpleQueue[tuple[str, str]] = queue.SimpleQueue()
        with self.lock:
            self.waiting.setdefault(unit, []).append(removed)
        try:
            job = str(self.calls.call(member, signature, body)[0])
            result = self.wait(removed, job)
        finally:
            with self.lock:
                self.waiting[unit].remove(removed)
        if result != "done":
            raise BusError("", f"the job of {unit} ended as {result}")

    def wait(self, removed: queue.SimpleQueue[tuple[str, str]], job: str) -> str:
        """The result of the job."""
        while True:
            try:
                path, result = removed.get(timeout=JOB_S_MAX)
            except queue.Empty:
                raise BusError("", f"{job} has not ended within {JOB_S_MAX:g} s") from None
            if path == job:
                return result

    def on_signal(self, message: Message) -> None:
        """JobRemoved(id, job, unit, result) goes to whoever waits for the unit."""
        if message.member == "JobRemoved" and message.signature == "uoss":
            _, job, unit, result = message.body
            with self.lock:
                for removed in self.waiting.get(unit, ()):
                    removed.put((job, result))
