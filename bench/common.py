"""What benches share: options, the machine's load beside each number, quantiles, and how results are shown."""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass

import psutil

from cgrace.harness.dbus.frames import Frame
from cgrace.harness.events import Actor
from cgrace.harness.relay import Connection

PRIME = "import sys\nwhile sys.stdin is not None:\n    sum(i * i for i in range(10000))"


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One measured thing. value: in `unit`; goal: what it must reach, "" for none; met: None where there is none; load: of all
    cores while it was measured, 0 to 1; note: how it was got."""

    name: str
    value: float
    unit: str
    goal: str = ""
    met: bool | None = None
    load: float = 0.0
    note: str = ""


class Load:
    """How busy all cores were since it was made, from 0 to 1 (whoever kept them so)."""

    def __init__(self) -> None:
        psutil.cpu_percent()

    def so_far(self) -> float:
        """Until now; starts anew."""
        return float(psutil.cpu_percent()) / 100


def options(doc: str | None) -> argparse.ArgumentParser:
    """A parser with what every bench takes."""
    parser = argparse.ArgumentParser(prog=sys.argv[0], description=(doc or "").splitlines()[0])
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    return parser


def show(bench: str, rows: Sequence[Row], *, as_json: bool) -> None:
    """Print the rows: a table, or one document."""
    if as_json:
        machine = {"kernel": platform.release(), "python": platform.python_version(), "cores": os.cpu_count()}
        print(json.dumps({"bench": bench, "machine": machine, "rows": [asdict(row) for row in rows]}, indent=1))
        return
    width = max(len(row.name) for row in rows)
    for row in rows:
        met = {None: "", True: "met", False: "NOT MET"}[row.met]
        goal = f"goal {row.goal} {met}" if row.goal else ""
        print(
            f"{row.name:{width}} {_number(row.value):>9} {row.unit:10} load {row.load:4.0%}  {goal:28} {row.note}".rstrip()
        )


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 or value == int(value) else f"{value:.3g}"


def quantile(values: Sequence[float], share: float) -> float:
    """The smallest value that at least `share` of them do not exceed."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(len(ordered) * share) - 1)]


def median(values: Sequence[float]) -> float:
    """The middle one."""
    return statistics.median(values)


@contextmanager
def busy_cores(wanted: bool) -> Iterator[None]:
    """Keep every core busy meanwhile with processes of our own, if that is wanted."""
    count = len(os.sched_getaffinity(0)) if wanted else 0
    processes = [subprocess.Popen([sys.executable, "-c", PRIME], stdin=subprocess.PIPE) for _ in range(count)]
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


class Clock:
    """Seconds since it was made."""

    def __init__(self) -> None:
        self._started = time.perf_counter()

    def seconds(self) -> float:
        """Until now."""
        return time.perf_counter() - self._started


class PassOn:
    """A relay's handler that passes everything on."""

    def connected(self, conn: Connection) -> None:
        """Nothing to do."""

    def disconnected(self, conn: Connection, by: Actor, why: str) -> None:
        """Nothing to do."""

    def from_driver(self, conn: Connection, frame: Frame) -> None:
        """On to the bus."""
        conn.to_systemd(frame)

    def from_systemd(self, conn: Connection, frame: Frame) -> None:
        """On to the driver."""
        conn.to_driver(frame)
