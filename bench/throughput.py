"""How long a passing run of a real driver takes, and how many there are in a second with all cores at work.

    python -m bench throughput [--runs 300] [--driver buffered]

The scenarios are those of the primers and the story in which nothing goes wrong and no time passes by itself, so that what
is measured is cgrace and the driver. A run is counted from the shim's start to the run's end.
"""

from __future__ import annotations

import os

from bench.common import Load, Row, options, quantile, show
from bench.runs import all_cases, expects_anything, run_many
from cgrace.harness.faults import Hold, JobStays
from cgrace.harness.suite import Case

P50_GOAL_S = 0.020
RATE_GOAL = 60.0  # on two cores
CORES_OF_GOAL = 2
ALONE_RUNS = 11  # few enough to be run in this process: one that has just started is slower


async def main() -> None:
    """Measure and show."""
    parser = options(__doc__)
    parser.add_argument("--runs", type=int, default=300)
    parser.add_argument("--driver", default="buffered")
    chosen = parser.parse_args()
    cases = [case for case in all_cases() if case.driver.name.partition("@")[0] == chosen.driver and is_plain(case)]
    # Alone first: how long one takes is a question apart from how many there are at once.
    load = Load()
    alone = [one.run_s for one in await run_many(cases[:1], ALONE_RUNS, jobs=1) if one.run_s is not None]
    load_alone = load.so_far()
    ran = await run_many(cases, chosen.runs)
    busy = load.so_far()
    ends = sorted(one.ended for one in ran)
    rate = (len(ends) - 1) / (ends[-1] - ends[0])
    crowd = [one.run_s for one in ran if one.run_s is not None]
    cores = len(os.sched_getaffinity(0))
    goal = RATE_GOAL * cores / CORES_OF_GOAL
    p50 = quantile(alone, 0.5)
    wrong = sum(not one.result.judgement.outcome.passes for one in ran)
    rows = [
        Row(
            name="a run, p50",
            value=p50 * 1000,
            unit="ms",
            goal=f"< {P50_GOAL_S * 1000:.0f}",
            met=p50 < P50_GOAL_S,
            load=load_alone,
            note=f"{cases[0].id}, one at a time",
        ),
        Row(name="a run among many, p50", value=quantile(crowd, 0.5) * 1000, unit="ms", load=busy),
        Row(
            name=f"runs on {cores} cores",
            value=rate,
            unit="1/s",
            goal=f">= {goal:.0f}",
            met=rate >= goal,
            load=busy,
            note=f"{len(ran)} runs of {len(cases)} scenarios, {wrong} not as expected",
        ),
    ]
    show("throughput", rows, as_json=chosen.json)


def is_plain(case: Case) -> bool:
    """Whether nothing is expected and nothing waits for time: no hold or gate that may have to lose its patience."""
    timed = any(isinstance(fault, Hold | JobStays) for fault in case.scenario.faults)
    return not expects_anything(case) and not timed
