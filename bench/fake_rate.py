"""Jobs a second of the fake systemd beside a real PID 1: the same client, the same units, one after the other.

    python -m bench fake-rate [--suite trixie --suite bullseye] [--profile 257] [--cycles 200]

A start is StartTransientUnit of a slice to its JobRemoved, a cycle that and StopUnit to its JobRemoved. On the fake all v1
cgroups are really made and removed; the client reaches it as a driver does, by the relay's socket. Rounds on the fake and on
the real ones take turns. A rate is that of the median start: others that use the machine meanwhile disturb a mean. Beside it stands
the CPU time, user and system, that a cycle costs whoever serves it: this process, or PID 1 and its bus.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import psutil

from bench.client import jobs, keeper, measure
from bench.common import Load, PassOn, Row, median, options, show
from cgrace.fakes.systemd.manager import Manager
from cgrace.fakes.systemd.profile import load_profile
from cgrace.fakes.systemd.tree import KernelTree
from cgrace.harness.engine.seats import EmbeddedSeat
from cgrace.harness.relay import Relay
from cgrace.harness.targets.container import ContainerTarget
from cgrace.harness.targets.fake import FakeTarget

START_GOAL = 1500.0
ONE_GOAL = 3000.0
RATIO_GOAL = 3.0


@asynccontextmanager
async def fake(target: FakeTarget, profile: str, *, one: bool) -> AsyncIterator[Path]:
    """A fake with real cgroups in all v1 hierarchies, or in that of pids alone, behind a socket."""
    async with target.sandbox("v1") as sandbox:
        hierarchies = tuple(h for h in sandbox.hierarchies if not one or "pids" in h.controllers)
        with KernelTree(hierarchies, outer=sandbox.outer) as tree:
            manager = Manager(load_profile(profile), tree)

            def settle() -> None:
                while (said := manager.step()) is not None:
                    if said:
                        seat.emit(said)

            seat = EmbeddedSeat(manager, settle)
            manager.listen(seat.hears)
            socket = target.runtime_dir / f"bench-{'one' if one else 'all'}"
            async with Relay(socket, PassOn(), seat.backend):
                yield socket


async def main() -> None:
    """Measure and show."""
    parser = options(__doc__)
    parser.add_argument("--suite", action="append", help="a Debian suite to compare with (default: trixie, bullseye)")
    parser.add_argument("--profile", default="257", help="of the fake")
    parser.add_argument("--cycles", type=int, default=200, help="of each round")
    parser.add_argument("--rounds", type=int, default=5)
    chosen = parser.parse_args()
    suites = chosen.suite or ["trixie", "bullseye"]
    took: dict[str, list[float]] = {}
    loads: dict[str, list[float]] = {}
    names: dict[str, str] = {}
    clocks: dict[str, Callable[[], float]] = {}
    cpu_s: dict[str, float] = {}
    async with AsyncExitStack() as stack:
        target = await stack.enter_async_context(FakeTarget.open(("v1",)))
        places: dict[str, str | Path] = {
            "fake, all v1": await stack.enter_async_context(fake(target, chosen.profile, one=False)),
            "fake, one hierarchy": await stack.enter_async_context(fake(target, chosen.profile, one=True)),
        }
        for suite in suites:
            machine = await stack.enter_async_context(ContainerTarget.open(suite))
            places[suite] = machine.bus_path
            clocks[suite] = serving(machine.init_pid)
            names[suite] = machine.version
        for turn in range(chosen.rounds):
            for name, place in places.items():
                load = Load()
                prefix = f"benchround{turn}x"
                asked = jobs(chosen.cycles, prefix)
                clock = clocks.get(name, time.process_time)
                before_s = clock()
                took.setdefault(name, []).extend(await measure(place, asked, keeper(prefix)))
                cpu_s[name] = cpu_s.get(name, 0.0) + clock() - before_s
                loads.setdefault(name, []).append(load.so_far())
    show("fake-rate", rows(took, cpu_s, loads, names), as_json=chosen.json)


def serving(init_pid: int) -> Callable[[], float]:
    """CPU seconds until now of a machine's PID 1 and its bus."""
    init = psutil.Process(init_pid)
    served = [init, *(one for one in init.children() if one.name().startswith("dbus"))]

    def clock() -> float:
        return sum(times.user + times.system for times in (one.cpu_times() for one in served))

    return clock


def rows(
    took: dict[str, list[float]], cpu_s: dict[str, float], loads: dict[str, list[float]], names: dict[str, str]
) -> list[Row]:
    """Rates, and how many times the real one's."""
    found = []
    starts = {name: 1 / median(times[::2]) for name, times in took.items()}
    for name, times in took.items():
        load = sum(loads[name]) / len(loads[name])
        goal = {"fake, all v1": START_GOAL, "fake, one hierarchy": ONE_GOAL}.get(name)
        cycles = 1 / (median(times[::2]) + median(times[1::2]))
        mean = len(times) / 2 / sum(times[::2])
        found.append(
            Row(
                name=f"{name}: starts",
                value=starts[name],
                unit="1/s",
                goal=f">= {goal:,.0f}" if goal else "",
                met=starts[name] >= goal if goal else None,
                load=load,
                note=f"{cycles:,.0f} cycles/s, starts by the mean {mean:,.0f}/s, CPU time of a cycle "
                f"{cpu_s[name] / (len(times) / 2) * 1e6:,.0f} us {names.get(name, '')}".rstrip(),
            )
        )
    for name in names:
        ratio = starts["fake, all v1"] / starts[name]
        found.append(
            Row(
                name=f"fake, all v1 : {name}",
                value=ratio,
                unit="times",
                goal=f">= {RATIO_GOAL:.0f}",
                met=ratio >= RATIO_GOAL,
                load=sum(loads[name]) / len(loads[name]),
                note=f"by CPU time {cpu_s[name] / max(cpu_s['fake, all v1'], 1e-9):.2f}",
            )
        )
    return found
