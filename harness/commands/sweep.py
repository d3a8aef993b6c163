"""`cgrace sweep`: the value at which each driver's outcome changes.

Exit codes: 0 where every run came to a conclusion, 2 otherwise. What comes out is not judged: it is a measurement.
"""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cgrace.harness.commands import EXIT_CANNOT, EXIT_OK
from cgrace.harness.commands.common import Progress, run_async, show, show_json
from cgrace.harness.commands.select import find_scenarios, pick_drivers
from cgrace.harness.commands.suite import check_target
from cgrace.harness.errors import UsageError
from cgrace.harness.store import StoredRun, new_run
from cgrace.harness.suite import Case, CaseResult
from cgrace.harness.sweep import AXES, JobLatency, Span, Stretch, at, stretches, wanted

ROUNDS_MAX = 24


@dataclasses.dataclass(slots=True)
class Swept:
    """One case and what came out of it at each value tried; waits_ns: its driver's own timed waits that were seen;
    unclear: why the first of them is a "?"."""

    case: Case
    outcomes: dict[int, str] = dataclasses.field(default_factory=dict)
    waits_ns: set[int] = dataclasses.field(default_factory=set)
    unclear: str = ""

    @property
    def stretches(self) -> tuple[Stretch, ...]:
        """Where the outcome was the same."""
        return stretches(self.outcomes)


def sweep(args: argparse.Namespace) -> int:
    """Vary one quantity of a scenario on every driver, and say where each changes."""
    check_target(args)
    span = _span(args)
    suite = _measured_suite(args)
    scenarios = find_scenarios([args.scenario])
    if len(scenarios) != 1:
        names = ", ".join(scenario.name for scenario in scenarios)
        raise UsageError(
            f"{args.scenario} are {len(scenarios)} scenarios; one is swept at a time", hint=f"one of {names}"
        )
    from cgrace.harness import runner

    cases = runner.plan(scenarios, pick_drivers(args.driver))
    if not cases:
        raise UsageError("none of these drivers fits this scenario", hint="cgrace drivers")
    at(scenarios[0], span.axis, span.last)  # what cannot be swept is said before anything runs
    stored = new_run(Path(args.store) if args.store else None)
    with Progress(len(cases), quiet=args.json) as progress:
        found = [Swept(case) for case in cases]
        version, latencies = _measured(
            suite, progress
        )  # first: it needs the most, and so fails before minutes are spent
        ran = _sweep(span, found, stored, args, progress)
    from cgrace.reports.machine import results_document

    passed = all(result.judgement.outcome.passes for result in ran)
    stored.save(results_document(args.command, ran, passed=passed))
    if args.json:
        show_json(_document(span, found, version, latencies))
    else:
        from cgrace.reports.console.sweep import latency, table

        show(table(span, [(one.case, one.stretches, sorted(one.waits_ns)) for one in found]))
        if latencies:
            show("", latency(version, latencies))
        if unclear := _undecided(found):
            show("", *unclear)
    return EXIT_CANNOT if any("?" in one.outcomes.values() for one in found) else EXIT_OK


def _why(result: CaseResult) -> str:
    """What kept a run from a conclusion: what is unknown, or was in vain, before all else."""
    reasons = result.judgement.reasons
    return next(
        (one for one in reasons if one.startswith("unknown") or "UNFIRED" in one or "UNMET" in one), "; ".join(reasons)
    )


def _undecided(found: Sequence[Swept]) -> list[str]:
    """Why there is a "?", once for each reason, with the first driver that has it."""
    reasons: dict[str, str] = {}
    for one in found:
        if one.unclear:
            reasons.setdefault(one.unclear, one.case.driver.name)
    return [f"? {name}: {reason}" for reason, name in reasons.items()]


def _span(args: argparse.Namespace) -> Span:
    given = [(axis, text) for axis in AXES if (text := getattr(args, axis)) is not None]
    if len(given) != 1:
        raise UsageError(
            "one quantity is swept at a time", hint="--late 0..31s, --early 0..1, --lost 0..4 or --units 1..64"
        )
    return Span.parse(*given[0])


def _sweep(
    span: Span, found: Sequence[Swept], stored: StoredRun, args: argparse.Namespace, progress: Progress
) -> list[CaseResult]:
    """Rounds of runs, all drivers side by side, until every change has been found; all that ran."""
    from cgrace.harness import runner

    ran: list[CaseResult] = []
    for number in range(ROUNDS_MAX):
        asked = [(one, value) for one in found for value in wanted(span, one.outcomes, sorted(one.waits_ns))]
        if not asked:
            break
        progress.event(f"round {number + 1}: {len(asked)} runs")
        cases = [_case(one.case, span, value) for one, value in asked]
        results = run_async(
            runner.run_cases(
                cases,
                jobs=args.jobs,
                store=stored.folder,
                expect_clean=True,
                bus=args.bus,
                on_event=progress.event,
            )
        )
        runner.some_ran(results)
        ran += results
        for (one, value), result in zip(asked, results, strict=True):
            one.outcomes[value] = outcome(result)
            if one.outcomes[value] == "?":
                one.unclear = one.unclear or _why(result)
            if span.axis == "late":
                one.waits_ns |= _waits(result)
    return ran


def _case(case: Case, span: Span, value: int) -> Case:
    scenario = at(case.scenario, span.axis, value)
    return dataclasses.replace(
        case, scenario=dataclasses.replace(scenario, name=f"{scenario.name} {span.axis} {span.told(value)}")
    )


def outcome(result: CaseResult) -> str:
    """What a driver did, in the table's words; numbers, which may differ from value to value, do not count."""
    from cgrace.reports.console.matrix import cell

    told = cell(result).rstrip("!")
    return " ".join(dict.fromkeys(word for word in told.split() if word[0] not in "0123456789"))


def _waits(result: CaseResult) -> set[int]:
    """The timed waits of the driver's own in a run's trace."""
    from cgrace.harness import events as ev
    from cgrace.harness.trace import read_trace

    if result.trace is None:
        return set()
    return {waits.bound_ns for _, waits in read_trace(result.trace).of(ev.StepWaits) if waits.bound_ns}


def _measured_suite(args: argparse.Namespace) -> str:
    """The suite whose jobs are to be timed, "" for none; UsageError for another target."""
    if args.measure is None:
        return ""
    kind, _, suite = args.measure.partition(":")
    if kind != "container" or not suite:
        raise UsageError(f"jobs cannot be measured on {args.measure!r:.80}", hint="--measure container:bookworm")
    return str(suite)


def _measured(suite: str, progress: Progress) -> tuple[str, Sequence[JobLatency]]:
    if not suite:
        return "", ()
    from cgrace.harness.targets.job_latency import measure

    return run_async(measure(suite, progress=progress.event))


def _document(span: Span, found: Sequence[Swept], version: str, latencies: Sequence[JobLatency]) -> dict[str, Any]:
    from cgrace.reports.machine import document

    return document(
        "sweep",
        sweep={
            "axis": span.axis,
            "first": span.first,
            "last": span.last,
            "unit": "ns" if span.axis == "late" else "",
        },
        drivers=[
            {
                "driver": one.case.driver.name,
                "profile": one.case.setting.profile,
                "layout": one.case.setting.layout,
                "own_waits_ns": sorted(one.waits_ns),
                "stretches": [dataclasses.asdict(stretch) for stretch in one.stretches],
            }
            for one in found
        ],
        systemd=version,
        job_latency=[dataclasses.asdict(one) for one in latencies],
    )
