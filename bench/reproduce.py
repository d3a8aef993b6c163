"""Wall time of `./cgrace reproduce 1780`, once everything is set up and built.

python -m bench reproduce [--rounds 1]
"""

from __future__ import annotations

import sys
from pathlib import Path

from bench.common import Clock, Load, Row, median, options, show
from cgrace.harness.errors import TargetError
from cgrace.harness.proc.run import run

GOAL_S = 15.0
LAUNCHER = Path(__file__).resolve().parent.parent / "cgrace"


async def main() -> None:
    """Measure and show."""
    parser = options(__doc__)
    parser.add_argument("--rounds", type=int, default=1)
    chosen = parser.parse_args()
    command = [str(LAUNCHER), "reproduce", "1780"]
    first = await run([str(LAUNCHER), "drivers"], timeout_s=1800)  # sets up
    took, statuses = [], []
    load = Load()
    for turn in range(chosen.rounds + 1):
        clock = Clock()
        done = await run(command, timeout_s=1800)
        if done.status not in (0, 1):
            raise TargetError(f"{done.command_line} {done.how}", detail=done.tail or first.tail)
        if turn:  # the first builds drivers, where that is still to do
            took.append(clock.seconds())
            statuses.append(done.status)
        else:
            load = Load()
    row = Row(
        name="reproduce 1780, warm",
        value=median(took),
        unit="s",
        goal=f"< {GOAL_S:.0f}",
        met=median(took) < GOAL_S,
        load=load.so_far(),
        note="all rows as history says" if not any(statuses) else "rows differ from history",
    )
    show("reproduce", [row], as_json=chosen.json)
    if any(statuses):
        print("bench reproduce: exit status 1 of reproduce", file=sys.stderr)
