"""A worker process: runs the cases that it is handed, many at once, in a target and with a witness of its own.

`python -m cgrace.harness.worker STORE LAYOUTS DRIVERS` (STORE "" for none; the others comma-separated). See proc/workers.py.
"""

from __future__ import annotations

import asyncio
import gc
import signal
import sys
from pathlib import Path

from cgrace.harness.drivers.build import build
from cgrace.harness.drivers.catalogue import find
from cgrace.harness.proc.workers import serve
from cgrace.harness.runner import open_place, run_twice
from cgrace.harness.suite import Case, CaseResult


async def _main(store: Path | None, layouts: list[str], drivers: list[str]) -> None:
    built = await build([find(name) for name in drivers])

    async with open_place(built, layouts) as place:

        async def work(request: tuple[Case, bool]) -> CaseResult:
            case, expect_clean = request
            return await run_twice(case, place, store, expect_clean)

        await serve(work)


if __name__ == "__main__":
    # A run's records live until it is judged, and hold no cycles: the collector would look at them again and again.
    gc.freeze()
    gc.set_threshold(100_000, 50, 50)
    # Ctrl-C is for the parent to understand: it ends our stdin.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    asyncio.run(_main(Path(sys.argv[1]) if sys.argv[1] else None, sys.argv[2].split(","), sys.argv[3].split(",")))
