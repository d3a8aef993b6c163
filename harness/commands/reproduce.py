"""`cgrace reproduce`: the rows of a story on real drivers, and the table of what they came to."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from cgrace.harness.commands import EXIT_CANNOT, EXIT_OK
from cgrace.harness.commands.common import Progress, note, show, show_json
from cgrace.harness.commands.record import as_recorded, check_record, need_baseline, record
from cgrace.harness.commands.select import pick_drivers, pick_rows, pick_scenarios, story_folder
from cgrace.harness.commands.suite import Collected, check_fit, did, execute, exit_code, ground_of, target_of, turns_of
from cgrace.harness.store import StoredRun, new_run
from cgrace.harness.suite import Case, CaseResult

if TYPE_CHECKING:
    from cgrace.harness.engine.ground import Ground


def reproduce(args: argparse.Namespace) -> int:
    """Every row of a story, or those of --row, on every driver that fits."""
    from cgrace.harness import runner

    target = target_of(args)
    check_record(args, target)
    ground = ground_of(target, note)
    scenarios = pick_scenarios([story_folder(args.story)])
    cases = runner.plan(scenarios, pick_drivers(args.driver, on=ground), pick_rows(scenarios, args.row), on=ground)
    if args.repeat > 1 and not args.all_drivers and not args.driver:
        cases = _guilty(cases)
    check_fit(cases)
    if ground is not None and not args.record and args.expect != "clean":
        need_baseline(cases, ground)
    stored = new_run(Path(args.store) if args.store else None)
    turns = turns_of(cases, args.repeat)
    with Progress(len(turns), quiet=args.json) as progress:
        collected = Collected(progress=progress, repeated=args.repeat > 1)
        clean = args.expect == "clean" or args.record
        results = execute(turns, collected, stored, args, expect_clean=clean)
    runner.some_ran(results)
    collected.order(cases)
    if ground is not None and args.record:
        return _record(results, collected, stored, args, ground)
    _emit(results, collected, stored, args)
    # What a real target cannot run says nothing about it; on the fake every row is to be run.
    return exit_code(r.judgement.outcome for r in results if not (r.unavailable and r.case.target != "fake"))


def _record(
    results: Sequence[CaseResult], collected: Collected, stored: StoredRun, args: argparse.Namespace, ground: Ground
) -> int:
    """Show what came out, judged by itself, and write it down."""
    judged, cannot = as_recorded(results)
    collected.kept = as_recorded(collected.kept)[0]
    _emit(judged, collected, stored, args)
    record(judged, cannot, ground)
    return EXIT_CANNOT if cannot else EXIT_OK


def _guilty(cases: Sequence[Case]) -> list[Case]:
    """The cases that history expects something of; of a row in which nobody is guilty, all."""
    guilty = [case for case in cases if case.expected]
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
    from cgrace.reports.console.blocks import HISTORY, RECORDED, blocks, closing
    from cgrace.reports.console.matrix import matrix, repeats

    show(matrix(collected.kept))
    if args.repeat > 1:
        show("", repeats(results))
    standard = RECORDED if results and results[0].case.target != "fake" and args.expect != "clean" else HISTORY
    show(blocks(collected.kept, did, standard=standard), closing(results, standard=standard))
