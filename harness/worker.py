"""A worker process: runs the cases that it is handed, many at once, in a target and with a witness of its own.

`python -m cgrace.harness.worker STORE LAYOUTS DRIVERS BUS TARGET MACHINES` (STORE "" for none; LAYOUTS and DRIVERS
comma-separated; MACHINES at once, of a real target). See proc/workers.py.
"""

from __future__ import annotations

import dataclasses
import gc
import signal
import sys
from pathlib import Path

from cgrace.harness.drivers.build import build
from cgrace.harness.drivers.catalogue import find
from cgrace.harness.engine.place import open_place
from cgrace.harness.proc.workers import serve, work_as
from cgrace.harness.runner import run_once
from cgrace.harness.suite import Case, CaseResult
from cgrace.harness.targets.registry import TargetName, parse_target


async def _main(
    out: int, store: Path | None, layouts: list[str], drivers: list[str], *, bus: str, target: str, machines: int
) -> None:
    built = await build([find(name) for name in drivers])

    async with open_place(built, layouts, bus=bus, name=_named(target), machines=machines) as place:

        async def work(request: tuple[Case, bool]) -> CaseResult:
            case, expect_clean = request
            return await run_once(case, place, store, expect_clean)

        await serve(work, out)


def _named(text: str) -> TargetName:
    """The target; "host=vm:sid" is the machine that this runs on, which whoever sent us there calls so and allows."""
    kind, _, shown = text.partition("=")
    return dataclasses.replace(parse_target(kind, allow_host=bool(shown)), shown=shown)


if __name__ == "__main__":
    # A run's records live until it is judged, and hold no cycles: the collector would look at them again and again.
    gc.freeze()
    gc.set_threshold(100_000, 50, 50)
    # Ctrl-C is for the parent to understand: it ends our stdin.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    store, layouts, drivers, bus, target, machines = sys.argv[1:7]
    work_as(
        lambda out: _main(
            out,
            Path(store) if store else None,
            layouts.split(","),
            drivers.split(","),
            bus=bus,
            target=target,
            machines=int(machines),
        )
    )
