"""How soon a hang is proved, and whether a run that does not hang is ever proved to.

    python -m bench proofs [--hangs 100] [--passing 1000] [--load]

The time is from the last thing that happened in a run to the look at a closed world that proves the hang. Hangs are those that
history expects in rows 7b, 5b and 9; passing runs are all others of the story and the primers, whatever else they violate.
"""

from __future__ import annotations

import collections

from bench.common import Load, Row, busy_cores, options, quantile, show
from bench.runs import Ran, all_cases, expects_hang, found_hang, run_many

P99_GOAL_S = 0.25
ROWS = ("7b", "5b", "9")


async def main() -> None:
    """Measure and show."""
    parser = options(__doc__)
    parser.add_argument("--hangs", type=int, default=100, help="runs that hang")
    parser.add_argument("--passing", type=int, default=1000, help="runs that do not")
    parser.add_argument("--load", action="store_true", help="keep every core busy meanwhile")
    chosen = parser.parse_args()
    hanging = [case for case in all_cases(ROWS) if expects_hang(case)]
    passing = [case for case in all_cases() if not expects_hang(case)]
    with busy_cores(chosen.load):
        load = Load()
        hung = await run_many(hanging, chosen.hangs) if chosen.hangs else []
        busy = load.so_far()
        rows = proof_rows(hung, busy) if hung else []
        passed = await run_many(passing, chosen.passing) if chosen.passing else []
        if passed:
            rows.append(false_row(passed, load.so_far()))
    show("proofs", rows, as_json=chosen.json)


def proof_rows(ran: list[Ran], load: float) -> list[Row]:
    """Times to the proof, and how many hangs were proved."""
    took = [one.proof_s for one in ran if one.proof_s is not None]
    kinds = collections.Counter(f"{one.result.case.driver.name}" for one in ran)
    rows = [
        Row(
            name="hangs proved",
            value=len(took),
            unit=f"of {len(ran)}",
            goal="all",
            met=len(took) == len(ran),
            load=load,
            note=", ".join(f"{count} {name}" for name, count in sorted(kinds.items())),
        )
    ]
    if took:
        late = quantile(took, 0.99)
        rows += [
            Row(name="last progress to proof, p50", value=quantile(took, 0.5) * 1000, unit="ms", load=load),
            Row(
                name="last progress to proof, p99",
                value=late * 1000,
                unit="ms",
                goal=f"<= {P99_GOAL_S * 1000:.0f}",
                met=late <= P99_GOAL_S,
                load=load,
            ),
        ]
    return rows


def false_row(ran: list[Ran], load: float) -> Row:
    """Proofs of hangs in runs that do not hang."""
    false = [one for one in ran if found_hang(one.result)]
    others = collections.Counter(
        one.result.judgement.outcome.value for one in ran if not one.result.judgement.outcome.passes
    )
    said = ", ".join(f"{count} {outcome}" for outcome, count in sorted(others.items())) or "all as history says"
    return Row(
        name="false proofs",
        value=len(false),
        unit=f"of {len(ran)}",
        goal="0",
        met=not false,
        load=load,
        note=", ".join(sorted({one.result.case.id for one in false})[:5]) or said,
    )
