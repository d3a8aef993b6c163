"""python -m cgrace.harness.validate [PATTERN ...]: ask this machine's own systemd, and print its answers as a baseline.

`cgrace validate vm:SUITE` and `ssh:HOST` run this inside the machine. Units are started and stopped on it. Each probe is named on
stderr before it is asked, behind ASKS.
"""

from __future__ import annotations

import asyncio
import sys
from typing import Final

from cgrace.harness.errors import CgraceError
from cgrace.harness.validate.ask import ask_all
from cgrace.harness.validate.baseline import Baseline, encode
from cgrace.harness.validate.machine import open_machine, parse_machine
from cgrace.harness.validate.probe import Probe
from cgrace.harness.validate.probes import matching

ASKS: Final = "asks "


async def answers(patterns: list[str]) -> Baseline:
    """What it says to the probes whose ids match, all of them for no pattern."""
    async with open_machine(parse_machine("local")) as machine:
        return await ask_all(machine, matching(patterns), _tell)


def _tell(probe: Probe) -> None:
    print(f"{ASKS}{probe.id}", file=sys.stderr, flush=True)


def main() -> int:
    """The command; returns its exit code."""
    failures: list[str] = []
    try:
        sys.stdout.write(encode(asyncio.run(answers(sys.argv[1:]))))
    except* CgraceError as group:
        failures += [str(error) for error in group.exceptions]
    for failure in failures:
        print(f"error: {failure}", file=sys.stderr)
    return 2 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
