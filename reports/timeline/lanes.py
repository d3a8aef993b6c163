"""The lanes of a timeline: one for each driver process, the relay, systemd, and one for each kernel hierarchy. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from cgrace.harness import events as ev
from cgrace.harness.trace import Entry

LANES_MAX = 64
"""More than any run has; what would come after shares the last lane, so that a hostile trace cannot make a page of lanes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Lane:
    """kind: "driver", "relay", "systemd" or "kernel". name: for people."""

    kind: str
    name: str


@dataclass(slots=True)
class Lanes:
    """Lanes by number, in order of display, and who is in which."""

    all: list[Lane] = field(default_factory=list)
    processes: dict[str, int] = field(default_factory=dict)
    connections: dict[int, int] = field(default_factory=dict)
    steps: dict[str, int] = field(default_factory=dict)
    hierarchies: dict[str, int] = field(default_factory=dict)
    units: dict[str, str] = field(default_factory=dict)  # of a step
    relay: int = 0
    systemd: int = 0

    def of_process(self, name: str) -> int:
        """A driver's lane; the first one for whoever has none (a workload)."""
        return self.processes.get(name, 0)

    def of_connection(self, number: int) -> int:
        """The lane of the driver that opened it."""
        return self.connections.get(number, 0)

    def of_step(self, name: str) -> int:
        """The lane of the driver that was asked."""
        return self.steps.get(name, 0)

    def of_hierarchy(self, name: str) -> int:
        """The lane of a kernel hierarchy."""
        return self.hierarchies.get(name, len(self.all) - 1)


def lanes_of(entries: Iterable[Entry]) -> Lanes:
    """The lanes that a trace needs. Drivers and hierarchies by first appearance."""
    processes: dict[str, None] = {}
    hierarchies: dict[str, None] = {}
    connections: dict[int, str] = {}
    steps: dict[str, str] = {}
    lanes = Lanes()
    for entry in entries:
        match entry.event:
            case ev.ProcessStarted(role="driver", process=process) | ev.DriverReady(process=process):
                processes.setdefault(process)
            case ev.Connected(connection=number, process=process):
                processes.setdefault(process)
                connections[number] = process
            case ev.StepCalled(step=step, process=process, unit=unit):
                processes.setdefault(process)
                steps[step] = process
                lanes.units[step] = unit
            case (
                ev.CgroupMade(hierarchy=hierarchy)
                | ev.CgroupRemoved(hierarchy=hierarchy)
                | ev.ProcessMoved(hierarchy=hierarchy)
                | ev.CgroupSeen(hierarchy=hierarchy)
                | ev.DriverOpens(hierarchy=hierarchy)
            ):
                hierarchies.setdefault(hierarchy)
    drivers = [name for name in processes if name][: LANES_MAX // 2] or ["driver"]
    lanes.all = [Lane(kind="driver", name=name) for name in drivers]
    lanes.processes = {name: drivers.index(name) if name in drivers else len(drivers) - 1 for name in processes}
    lanes.relay, lanes.systemd = len(drivers), len(drivers) + 1
    lanes.all += [Lane(kind="relay", name="relay"), Lane(kind="systemd", name="systemd")]
    shown = list(hierarchies)[: LANES_MAX // 2]
    lanes.hierarchies = {name: lanes.systemd + 1 + number for number, name in enumerate(shown)}
    lanes.all += [Lane(kind="kernel", name=name) for name in shown]
    lanes.connections = {number: lanes.of_process(process) for number, process in connections.items()}
    lanes.steps = {step: lanes.of_process(process) for step, process in steps.items()}
    return lanes
