"""Many runs of real drivers for a bench: what to run, and what their traces say of time."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from cgrace.harness import events as ev
from cgrace.harness.commands.common import scenarios_folder
from cgrace.harness.commands.select import pick_scenarios
from cgrace.harness.drivers.catalogue import default_drivers
from cgrace.harness.runner import JOBS_DEFAULT, plan, run_cases
from cgrace.harness.suite import Case, CaseResult
from cgrace.harness.trace import Trace, read_trace
from cgrace.harness.verdict import Invariant, Verdict

# What cgrace does to find out whether something still happens is no progress of the run.
LOOKS = (ev.DriverWaits, ev.StepWaits, ev.StepWatched, ev.WorldClosed, ev.Stacks, ev.RunEnded, ev.DriverSaid)


@dataclass(frozen=True, slots=True, kw_only=True)
class Ran:
    """One run: its result, how long from last progress to the proof (None: nothing was proved), and from the driver's start to
    the last step's answer and to the run's end. In seconds. ended: when its result came, on this process's clock."""

    result: CaseResult
    proof_s: float | None
    answered_s: float | None
    run_s: float | None
    ended: float


def all_cases(rows: Sequence[str] = ()) -> list[Case]:
    """The story's and the primers' cases with the default drivers, those of some rows only where given."""
    folders = [scenarios_folder() / "runc_1780"] + ([] if rows else [scenarios_folder() / "primers"])
    return plan(pick_scenarios(folders), default_drivers(), rows)


def expects_hang(case: Case) -> bool:
    """Whether history expects a deadlock."""
    return any(invariant is Invariant.NO_DEADLOCK for one in case.expected for invariant, _ in one.violated)


def expects_anything(case: Case) -> bool:
    """Whether history expects anything to go wrong."""
    return bool(case.expected)


def found_hang(result: CaseResult) -> bool:
    """Whether a deadlock was found."""
    return any(
        finding.invariant is Invariant.NO_DEADLOCK and finding.verdict is Verdict.VIOLATED
        for finding in result.judgement.findings
    )


async def run_many(
    cases: Sequence[Case], count: int, jobs: int = JOBS_DEFAULT, *, all_ran: Callable[[], None] | None = None
) -> list[Ran]:
    """So many runs, in turns of all cases, `jobs` at once. Traces are read and thrown away: each at once, or where time counts,
    when all have run and `all_ran` has been told."""
    turns = [dataclasses.replace(case, turn=turn) for turn in range(-(-count // len(cases))) for case in cases][:count]
    ran: list[Ran] = []
    unread: list[tuple[CaseResult, float]] = []
    with TemporaryDirectory(prefix="cgrace-bench.") as folder:

        def take(result: CaseResult) -> None:
            ended = time.perf_counter()
            if all_ran is None:
                ran.append(_read(result, ended))
            else:
                unread.append((result, ended))

        await run_cases(turns, jobs=jobs, store=Path(folder), on_result=take)
        if all_ran is not None:
            all_ran()
        ran += [_read(*one) for one in unread]
    return ran


def _read(result: CaseResult, ended: float) -> Ran:
    trace = read_trace(result.trace) if result.trace is not None else None
    if result.trace is not None:
        result.trace.unlink()
    return Ran(
        result=result,
        proof_s=proof_seconds(trace) if trace is not None and found_hang(result) else None,
        answered_s=seconds_to(trace, ev.StepReturned) if trace is not None else None,
        run_s=seconds_to(trace, ev.RunEnded) if trace is not None else None,
        ended=ended,
    )


def proof_seconds(trace: Trace) -> float | None:
    """From the last thing that happened to the look that proves that nothing more can."""
    closed = trace.last(ev.WorldClosed)
    if closed is None:
        return None
    before = [entry for entry in trace.entries if entry.index < closed[0].index and not isinstance(entry.event, LOOKS)]
    return (closed[0].t_ns - before[-1].t_ns) / 1e9 if before else None


def seconds_to(trace: Trace, kind: type[ev.Event]) -> float | None:
    """From the first driver's start to the last event of this kind."""
    started = trace.first(ev.ProcessStarted, lambda event: event.role == "driver")
    ended = trace.last(kind)
    return (ended[0].t_ns - started[0].t_ns) / 1e9 if started is not None and ended is not None else None
