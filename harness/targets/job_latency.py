"""How long a real systemd's job takes, from the call to JobRemoved: what "is a second long enough?" has to be held against."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from collections.abc import AsyncIterator, Callable

from cgrace.harness.clock import now_ns
from cgrace.harness.dbus import systemd1
from cgrace.harness.dbus.message import Variant
from cgrace.harness.proc.run import run
from cgrace.harness.sweep import JobLatency
from cgrace.harness.targets.bus_client import BusClient
from cgrace.harness.targets.container import ContainerTarget

RULE = f"type='signal',interface='{systemd1.MANAGER}',member='JobRemoved'"
UNITS = 200
CLIENTS_LOADED = 16  # as many pods start at once
BURNERS_A_CORE = 4
_BURN = "import os\nparent = os.getppid()\nwhile os.getppid() == parent: pass"  # and not a moment longer


async def measure(
    suite: str, *, layout: str = "v1", progress: Callable[[str], None] = lambda _: None
) -> tuple[str, tuple[JobLatency, ...]]:
    """systemd's version, and its jobs' latency on an idle and on a busy machine. TargetError where it cannot be booted."""
    cores = len(os.sched_getaffinity(0))
    busy = f"{CLIENTS_LOADED} clients at once, {BURNERS_A_CORE * cores} busy processes on {cores} cores"
    async with ContainerTarget.open(suite, layout=layout, progress=progress) as machine:
        idle = _told("idle", await _client(machine.bus_path, "idle", UNITS))
        async with _burners(BURNERS_A_CORE * cores):
            each = UNITS // CLIENTS_LOADED
            async with asyncio.TaskGroup() as tasks:
                clients = [
                    tasks.create_task(_client(machine.bus_path, f"busy{number}", each))
                    for number in range(CLIENTS_LOADED)
                ]
            loaded = _told(busy, [took for client in clients for took in client.result()])
        return machine.version, (idle, loaded)


async def _client(bus_path: str, name: str, units: int) -> list[int]:
    """Start that many slices one after the other; how long each job took."""
    took = []
    async with BusClient(bus_path) as bus:
        await bus.subscribe(RULE)
        signals = bus.signals()
        for number in range(units):
            started = now_ns()
            unit = f"cgrace-{name}n{number}.slice"
            properties = [("DefaultDependencies", Variant(signature="b", value=False))]
            answer = await bus.call(
                systemd1.NAME, systemd1.PATH, systemd1.MANAGER, "StartTransientUnit", "ssa(sv)a(sa(sv))",
                unit, "replace", properties, [],
            )  # fmt: skip
            async for signal in signals:
                if signal.member == "JobRemoved" and signal.body[1] == answer.body[0]:
                    break
            took.append(now_ns() - started)
    return took


@contextlib.asynccontextmanager
async def _burners(count: int) -> AsyncIterator[None]:
    """Processes that keep the cores busy while the block runs."""
    async with asyncio.TaskGroup() as tasks:
        burners = [tasks.create_task(run([sys.executable, "-S", "-c", _BURN])) for _ in range(count)]
        try:
            yield
        finally:
            for burner in burners:
                burner.cancel()


def _told(load: str, took: list[int]) -> JobLatency:
    ordered = sorted(took)
    return JobLatency(
        load=load,
        units=len(ordered),
        p50_ns=ordered[len(ordered) // 2],
        p99_ns=ordered[min(len(ordered) - 1, len(ordered) * 99 // 100)],
        most_ns=ordered[-1],
    )
