"""A large trace made by a rule: what a busy node's kubelet would make, for the tests of size and speed."""

from __future__ import annotations

from checker_traces import scenario, trace

from cgrace.harness import events as ev
from cgrace.harness.events import Actor, Direction, Event
from cgrace.harness.trace import Trace

HIERARCHIES = ("systemd", "cpu,cpuacct", "memory", "devices", "pids", "blkio", "cpuset", "freezer")
EVENTS_A_SLICE = 27


def big_trace(events: int = 100_000, drivers: int = 4) -> Trace:
    """Slices one after another: each a call, a job, directories in every hierarchy, a signal; the last one is never answered."""
    told: list[tuple[float, Event]] = []
    for number in range(drivers):
        told.append(
            (0, ev.ProcessStarted(process=f"driver{number}", role="driver", pid=2 + number, pid_outer=100 + number))
        )
        told.append((0, ev.Connected(connection=number + 1, process=f"driver{number}")))
        told.append((1, ev.DriverReady(process=f"driver{number}", ok=True)))
    slices = (events - len(told)) // EVENTS_A_SLICE
    for number in range(slices):
        told += [(2 + number * 0.9 + place / 40, event) for place, event in enumerate(_slice(number, drivers))]
    told += [(3 + slices, ev.StepWaits(step=f"s{slices}", bound_ns=None)) for _ in range(events - len(told) - 1)]
    told.append((4 + slices * 1.1, ev.RunEnded(why="complete")))
    return trace(scenario(), *told)


def _slice(number: int, drivers: int) -> list[Event]:
    unit, job, step, connection = f"pod{number:06}.slice", f"/job/{number + 1}", f"s{number}", number % drivers + 1
    path = f"/kubepods.slice/{unit}"

    def message(which: int, kind: str, way: Direction, member: str) -> list[Event]:
        seen = ev.MessageSeen(
            message=4 * number + which, connection=connection, direction=way, kind=kind, member=member, unit=unit, job=job,
            serial=4 * number + which, size=300, result="done" if kind == "signal" else "",
        )  # fmt: skip
        return [seen, ev.MessageSent(message=seen.message)]

    made = [ev.CgroupMade(hierarchy=name, path=path, by=Actor.SYSTEMD) for name in HIERARCHIES]
    gone = [ev.CgroupRemoved(hierarchy=name, path=path, by=Actor.SYSTEMD) for name in HIERARCHIES[1:6]]
    return [
        ev.StepCalled(step=step, process=f"driver{connection - 1}", op="apply", unit=unit),
        *message(1, "call", Direction.TO_SYSTEMD, "StartTransientUnit"),
        ev.JobChanged(job=job, unit=unit, type="start", state="queued"),
        *message(2, "reply", Direction.TO_DRIVER, "StartTransientUnit"),
        ev.JobChanged(job=job, unit=unit, type="start", state="started"),
        *made,
        ev.UnitChanged(unit=unit, state="active"),
        ev.JobChanged(job=job, unit=unit, type="start", state="ended", result="done"),
        *message(3, "signal", Direction.TO_DRIVER, "JobRemoved"),
        ev.StepReturned(step=step),
        *gone,
        ev.UnitChanged(unit=unit, state="inactive"),
        ev.UnitChanged(unit=unit, state="gone"),
    ]
