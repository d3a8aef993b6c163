"""What a scenario has to see of the kernel, or to stop there, and what of that a machine may lack."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from cgrace.harness import faults as ft
from cgrace.harness.engine.plan import all_faults
from cgrace.harness.errors import UnavailableError
from cgrace.harness.points import Point, PointKind
from cgrace.harness.scenario.model import Scenario

INOTIFY: Final = "inotify: made and removed, not by whom; no moves of processes"


def points_of(scenario: Scenario) -> Iterator[Point]:
    """Every point that the scenario names."""
    for step in scenario.steps:
        yield from step.after
    for fault in all_faults(scenario):
        yield from (point for name in ("when", "until") if (point := getattr(fault, name, None)) is not None)
    for order in scenario.orders:
        yield from (order.first, order.second)


def stops_calls(scenario: Scenario) -> bool:
    """Whether drivers are stopped in system calls, which takes seccomp's user notifications."""
    holds = any(isinstance(fault, ft.HoldCall) for fault in scenario.faults)
    return holds or any(point.kind in (PointKind.OPENS, PointKind.CLOSES) for point in points_of(scenario))


def stops_systemd(scenario: Scenario) -> bool:
    """Whether systemd is stopped, which is not everywhere possible where it is PID 1 of our own namespace."""
    return any(
        isinstance(fault, ft.Peer) and (fault.peer, fault.do) == ("systemd", "pause") for fault in all_faults(scenario)
    )


def check_inotify(scenario: Scenario) -> None:
    """UnavailableError for a scenario that waits for what inotify does not see."""
    for point in points_of(scenario):
        if point.kind is PointKind.MOVED:
            raise UnavailableError(
                f"'{point}' cannot be seen here: without the kernel's cgroup events (tracefs) inotify watches, and that sees "
                "cgroups come and go, not processes move",
                hint="a kernel with CONFIG_TRACING and cgroup tracepoints (4.11 or newer), and root",
            )
