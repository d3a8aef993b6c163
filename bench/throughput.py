"""How long a passing run of a real driver takes, and how many there are in a second with all cores at work.

    python -m bench throughput [--runs 300] [--driver today] [--mix buffered]

What counts is the plain way: one apply that passes (bench/one_apply.toml), from the exec of the driver's shim to its answer.
Behind it stands the mix: the scenarios of the primers and the story in which nothing goes wrong and no time passes by itself, on
a driver of the old days, which makes some ten calls of its own before it says hello and applies twice. CPU time is that of this
process and of all that it waited for (drivers, the sandboxes' inits): it depends less on who else uses the machine.
"""

from __future__ import annotations

import os
import resource
from collections.abc import Sequence
from pathlib import Path

from bench.common import Load, Row, options, quantile, show
from bench.runs import Ran, all_cases, expects_anything, run_many
from cgrace.harness.commands.select import pick_scenarios
from cgrace.harness.drivers.catalogue import default_drivers
from cgrace.harness.faults import Hold, JobStays
from cgrace.harness.runner import JOBS_DEFAULT, plan
from cgrace.harness.suite import Case

P50_GOAL_S = 0.020
RATE_GOAL = 60.0  # on two cores
CORES_OF_GOAL = 2
ALONE_RUNS = 11  # few enough to be run in this process: one that has just started is slower
ONE_APPLY = Path(__file__).with_name("one_apply.toml")


async def main() -> None:
    """Measure and show."""
    parser = options(__doc__)
    parser.add_argument("--runs", type=int, default=300)
    parser.add_argument("--driver", default="today", help="of the plain way")
    parser.add_argument("--mix", default="buffered", metavar="DRIVER", help="of the mix")
    parser.add_argument("--jobs", type=int, default=JOBS_DEFAULT, help="so many runs at once")
    chosen = parser.parse_args()
    rows = await measured("one apply", one_apply(chosen.driver), chosen.runs, chosen.jobs, of_goal=True)
    rows += await measured("the mix", mix(chosen.mix), chosen.runs, chosen.jobs, of_goal=False)
    show("throughput", rows, as_json=chosen.json)


def one_apply(driver: str) -> list[Case]:
    """The plain way on one driver."""
    return [case for case in plan(pick_scenarios([ONE_APPLY]), default_drivers()) if is_of(case, driver)]


def mix(driver: str) -> list[Case]:
    """What passes of the story and the primers on one driver, without waiting."""
    return [case for case in all_cases() if is_of(case, driver) and is_plain(case)]


def is_of(case: Case, driver: str) -> bool:
    """Whether it runs on this driver, of whichever release."""
    return case.driver.name.partition("@")[0] == driver


def is_plain(case: Case) -> bool:
    """Whether nothing is expected and nothing waits for time: no hold or gate that may have to lose its patience."""
    timed = any(isinstance(fault, Hold | JobStays) for fault in case.scenario.faults)
    return not expects_anything(case) and not timed


async def measured(name: str, cases: Sequence[Case], runs: int, jobs: int, *, of_goal: bool) -> list[Row]:
    """Alone first: how long one takes is a question apart from how many there are at once."""
    load = Load()
    alone = await run_many(cases[:1], ALONE_RUNS, jobs=1)
    load_alone = load.so_far()
    seen = [cpu_s()]
    ran = await run_many(cases, runs, jobs=jobs, all_ran=lambda: seen.append(cpu_s()))
    cpu_ms = (seen[1] - seen[0]) / runs * 1000
    busy = load.so_far()
    ends = sorted(one.ended for one in ran)
    rate = (len(ends) - 1) / (ends[-1] - ends[0])
    cores = len(os.sched_getaffinity(0))
    goal = RATE_GOAL * cores / CORES_OF_GOAL
    answered = quantile([one.answered_s for one in alone if one.answered_s is not None], 0.5)
    wrong = sum(not one.result.judgement.outcome.passes for one in ran)
    return [
        Row(
            name=f"{name}: to its answer, p50",
            value=answered * 1000,
            unit="ms",
            goal=f"< {P50_GOAL_S * 1000:.0f}" if of_goal else "",
            met=answered < P50_GOAL_S if of_goal else None,
            load=load_alone,
            note=f"{cases[0].id}, one at a time",
        ),
        Row(name=f"{name}: to the run's end, p50", value=whole_ms(alone), unit="ms", load=load_alone),
        Row(name=f"{name}: among many, p50", value=whole_ms(ran), unit="ms", load=busy),
        Row(
            name=f"{name}: runs on {cores} cores",
            value=rate,
            unit="1/s",
            goal=f">= {goal:.0f}" if of_goal else "",
            met=rate >= goal if of_goal else None,
            load=busy,
            note=f"{len(ran)} runs of {len(cases)} scenarios, {wrong} not as expected",
        ),
        Row(name=f"{name}: CPU time of a run", value=cpu_ms, unit="ms", load=busy, note="set-up of workers included"),
    ]


def whole_ms(ran: Sequence[Ran]) -> float:
    """From the driver's start to the run's end, in the middle of all."""
    return quantile([one.run_s for one in ran if one.run_s is not None], 0.5) * 1000


def cpu_s() -> float:
    """CPU time until now, of us and of every process that we or a worker of ours waited for."""
    return sum(
        use.ru_utime + use.ru_stime
        for use in (resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN))
    )
