"""What the trace's file and the kernel's tracefs add to a passing run.

    python -m bench witness-cost [--rounds 150] [--driver today]

The same run (bench/one_apply.toml) four ways, in turns that begin with another way each time: with both, without the file,
without the kernel's witness, without either. Compared are the runs of one turn, which had the same machine: what counts is the
middle of their ratios. A run is counted from the driver's start to its end, as the recorder saw it; and by the CPU time
that this process spent on it, start and end of the sandbox included.
"""

from __future__ import annotations

import dataclasses
import gc
import resource
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from bench.common import Load, Row, median, options, show
from bench.throughput import one_apply
from cgrace.harness.engine.place import Place, open_place
from cgrace.harness.errors import TargetError
from cgrace.harness.runner import prepare, run_case
from cgrace.harness.suite import Case
from cgrace.harness.witnesses.tracefs import KernelWitness

COST_GOAL = 0.05
WARM = 3


@dataclass(frozen=True, slots=True)
class Way:
    """Which witnesses take part."""

    name: str
    file: bool
    kernel: bool


BOTH = Way("trace and tracefs", file=True, kernel=True)
WAYS = (
    BOTH,
    Way("without the trace's file", file=False, kernel=True),
    Way("without tracefs", file=True, kernel=False),
    Way("without either", file=False, kernel=False),
)


@dataclass(frozen=True, slots=True)
class Took:
    """Seconds of one run, by the clock and of CPU time."""

    wall_s: float
    cpu_s: float


async def main() -> None:
    """Measure and show."""
    parser = options(__doc__)
    parser.add_argument("--rounds", type=int, default=150)
    parser.add_argument("--driver", default="today")
    chosen = parser.parse_args()
    case = one_apply(chosen.driver)[0]
    built = await prepare([case.driver])
    took: dict[Way, list[Took]] = {way: [] for way in WAYS}
    gc.freeze()
    async with open_place(built, [case.setting.layout]) as place:
        if not isinstance(place.kernel, KernelWitness):
            raise TargetError("this machine gives us no tracefs", hint="run as root")
        with TemporaryDirectory(prefix="cgrace-bench.") as folder:
            load = Load()
            for turn in range(-WARM, chosen.rounds):
                for way in (*WAYS[turn % len(WAYS) :], *WAYS[: turn % len(WAYS)]):
                    one = await _run(case, place, way, Path(folder))
                    if turn >= 0:
                        took[way].append(one)
    show("witness-cost", rows(took, load.so_far()), as_json=chosen.json)


async def _run(case: Case, place: Place, way: Way, folder: Path) -> Took:
    seen = place if way.kernel else dataclasses.replace(place, kernel=None)
    before = resource.getrusage(resource.RUSAGE_SELF)
    result = await run_case(case, seen, folder if way.file else None)
    after = resource.getrusage(resource.RUSAGE_SELF)
    cpu_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return Took(result.wall_ns / 1e9, cpu_s)


def rows(took: dict[Way, list[Took]], load: float) -> list[Row]:
    """What each way takes, and what both, or one of the two, adds to a run without it."""
    found = []
    for way, all_took in took.items():
        wall, cpu = median([one.wall_s for one in all_took]), median([one.cpu_s for one in all_took])
        note = f"CPU time {cpu * 1000:.2f} ms, {len(all_took)} runs"
        found.append(Row(name=way.name, value=wall * 1000, unit="ms", load=load, note=note))
    for name, less, goal in (
        ("both cost", WAYS[3], COST_GOAL),
        ("the trace's file costs", WAYS[1], None),
        ("tracefs costs", WAYS[2], None),
    ):
        wall = cost([one.wall_s for one in took[BOTH]], [one.wall_s for one in took[less]])
        mean = cost_of_sums([one.cpu_s for one in took[BOTH]], [one.cpu_s for one in took[less]])
        found.append(
            Row(
                name=name,
                value=wall * 100,
                unit="% of a run",
                goal=f"<= {goal:.0%}" if goal else "",
                met=wall <= goal if goal else None,
                load=load,
                note=f"of its CPU time {mean:.1%}",
            )
        )
    return found


def cost(more: Sequence[float], less: Sequence[float]) -> float:
    """What `more` adds to `less`, as a share: the middle of the pairs'."""
    return median([one / other for one, other in zip(more, less, strict=True)]) - 1


def cost_of_sums(more: Sequence[float], less: Sequence[float]) -> float:
    """The same of the sums: CPU time is counted in ticks, too coarse for one run."""
    return sum(more) / max(sum(less), 1e-9) - 1
