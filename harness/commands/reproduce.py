"""`cgrace reproduce` and `cgrace run`: cases on real drivers, and the table of what they came to."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from cgrace.harness.commands import EXIT_CANNOT, EXIT_DIFFERED, EXIT_OK
from cgrace.harness.commands.common import Progress, run_async, scenarios_folder, show, show_json
from cgrace.harness.commands.select import pick_drivers, pick_rows, pick_scenarios, story_folder
from cgrace.harness.errors import CgraceError, UsageError
from cgrace.harness.scenario.model import Scenario
from cgrace.harness.store import StoredRun, new_run
from cgrace.harness.suite import Case, CaseResult
from cgrace.harness.verdict import Outcome


def reproduce(args: argparse.Namespace) -> int:
    """Every row of a story, or those of --row, on every driver that fits."""
    scenarios = pick_scenarios([story_folder(args.story)])
    return _suite(scenarios, pick_rows(scenarios, args.row), args)


def run(args: argparse.Namespace) -> int:
    """The given scenario files and folders."""
    paths = [Path(name) for name in args.scenarios] or [scenarios_folder()]
    return _suite(pick_scenarios(paths), (), args)


@dataclass(slots=True)
class Collected:
    """Results as they come. With --repeat only the first trace of each different run is kept: the rest tell nothing new."""

    progress: Progress
    repeated: bool
    kept: list[CaseResult] = field(default_factory=list)
    seen: set[tuple[str, str, str]] = field(default_factory=set)

    def take(self, result: CaseResult) -> None:
        """Note a result and show it as progress."""
        key = (result.case.id, result.judgement.outcome, result.canonical)
        if key not in self.seen:
            self.seen.add(key)
            self.kept.append(result)
        elif self.repeated and result.trace is not None:
            with contextlib.suppress(OSError):
                result.trace.unlink()
        outcome = result.judgement.outcome
        self.progress.result(f"{result.case.id}: {result.error or outcome}", passes=outcome.passes)


def _suite(scenarios: Sequence[Scenario], rows: Sequence[str], args: argparse.Namespace) -> int:
    if args.target != "fake":
        raise UsageError(f"there is no target {args.target!r} yet", hint="--target fake")
    from cgrace.harness import runner

    cases = runner.plan(scenarios, pick_drivers(args.driver), rows)
    if args.repeat > 1 and not args.all_drivers and not args.driver:
        cases = _guilty(cases)
    if not cases:
        raise UsageError("none of these drivers fits any of these scenarios", hint="cgrace drivers")
    stored = new_run(Path(args.store) if args.store else None)
    with Progress(len(cases) * args.repeat, quiet=args.json) as progress:
        collected = Collected(progress=progress, repeated=args.repeat > 1)
        results = run_async(_run(cases, collected, stored, args))
    place = {case.id: number for number, case in enumerate(cases)}
    collected.kept.sort(key=lambda result: place[result.case.id])  # they came in the order in which they ended
    _emit(results, collected, stored, args)
    return _status(results)


async def _run(
    cases: list[Case], collected: Collected, stored: StoredRun, args: argparse.Namespace
) -> list[CaseResult]:
    from cgrace.harness import runner

    turns = [dataclasses.replace(case, turn=turn) for turn in range(args.repeat) for case in cases]
    return await runner.run_cases(
        turns,
        jobs=args.jobs or runner.JOBS_DEFAULT,
        store=stored.folder,
        on_result=collected.take,
        on_event=collected.progress.event,
        expect_clean=args.expect == "clean",
        bus=args.bus,
    )


def _guilty(cases: Sequence[Case]) -> list[Case]:
    """The cases that history expects something of; of a row in which nobody is guilty, all."""
    guilty = [case for case in cases if case.scenario.expected(case.driver.generation, case.setting)]
    rows = {(case.scenario.name, case.setting) for case in guilty}
    return guilty + [case for case in cases if (case.scenario.name, case.setting) not in rows]


def _emit(results: Sequence[CaseResult], collected: Collected, stored: StoredRun, args: argparse.Namespace) -> None:
    """Save the run, then show it."""
    from cgrace.reports.machine import repeats_data, results_document

    document = results_document(args.command, collected.kept, passed=all(r.judgement.outcome.passes for r in results))
    if args.repeat > 1:
        document["repeats"] = repeats_data(results)
    stored.save(document)
    if args.json:
        show_json(document)
        return
    from cgrace.reports.console.blocks import blocks, closing
    from cgrace.reports.console.matrix import matrix, repeats

    show(matrix(collected.kept))
    if args.repeat > 1:
        show("", repeats(results))
    show(blocks(collected.kept, _did), closing(results))


def _did(result: CaseResult) -> str:
    """What the driver did, from the stored trace."""
    from cgrace.harness.trace import read_trace
    from cgrace.reports.console.timeline import ends

    if result.trace is None:
        return ""
    try:
        return ends(read_trace(result.trace))
    except CgraceError as error:
        return error.message


def _status(results: Sequence[CaseResult]) -> int:
    outcomes = {r.judgement.outcome for r in results}
    if outcomes & {Outcome.REGRESSED, Outcome.VANISHED}:
        return EXIT_DIFFERED
    if any(r.error for r in results):
        return EXIT_CANNOT
    return EXIT_OK if all(outcome.passes for outcome in outcomes) else EXIT_DIFFERED
