"""`cgrace run`: scenarios on drivers, as a person or CI runs them.

Exit codes: 1 where a verdict differs (with --baseline: where it is new); else 2 where something was inconclusive, could not run
or was not run; else 0. What this machine cannot run is listed and counted, and fails only where nothing else ran.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cgrace.harness.clock import NS_PER_MS, now_ns
from cgrace.harness.commands import EXIT_CANNOT, EXIT_DIFFERED, EXIT_INTERRUPTED, EXIT_OK, ci
from cgrace.harness.commands.common import Progress, note, scenarios_folder, show, show_json
from cgrace.harness.commands.record import as_recorded, check_record, record
from cgrace.harness.commands.select import find_scenarios, pick_drivers
from cgrace.harness.commands.suite import Collected, check_fit, did, execute, ground_of, target_of, turns_of
from cgrace.harness.errors import CgraceError, UsageError
from cgrace.harness.store import StoredRun, last_run, new_run
from cgrace.harness.suite import Case, CaseResult, NotRun, SuiteRun
from cgrace.harness.verdict import Outcome

if TYPE_CHECKING:
    from cgrace.harness.drivers.base import DriverSpec
    from cgrace.harness.engine.ground import Ground
    from cgrace.harness.schedule import Budget, Shard

BLOCKS_MAX = 3  # scenarios that are told in full; of more, only what is not as expected


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """What the command line asks for."""

    cases: Sequence[Case]
    baseline: str
    shard: Shard | None
    budget: Budget | None
    budget_text: str


def run(args: argparse.Namespace) -> int:
    """Run what was asked for, and tell people, programs and CI."""
    try:
        return _run(args)
    except CgraceError as error:
        ci.tell_error(error)
        raise


def _run(args: argparse.Namespace) -> int:
    target = target_of(args)
    if args.junit:
        ci.check_writable(Path(args.junit))
    home = Path(args.store) if args.store else None
    check_record(args, target)
    ground = ground_of(target, note)
    wish = _wish(args, home, ground)
    stored = new_run(home)
    turns = turns_of(wish.cases, args.repeat)
    with Progress(len(turns), quiet=args.json) as progress:
        collected = Collected(progress=progress, repeated=args.repeat > 1, judged=not (wish.baseline or args.record))
        ran, interrupted = _execute(wish, turns, collected, stored, args)
    cannot: dict[str, str] = {}
    if args.record:
        ran, cannot = as_recorded(ran)
    done = _suite_run(wish, turns, ran, interrupted=interrupted, began_ns=collected.began_ns)
    kept = {(r.case.id, r.case.turn) for r in collected.kept}
    listed = [r for r in done.all_results if (r.case.id, r.case.turn) in kept]
    document = _document(done, listed, wish, args)
    stored.save(document)
    if args.junit:
        ci.write_junit(Path(args.junit), done)
    with ci.quiet_commands(as_json=args.json):
        if args.json:
            show_json(document)
        else:
            _show(done, listed, args)
    ci.tell(done, as_json=args.json)
    if ground is not None and args.record and not interrupted:
        record(ran, cannot, ground)
    return _status(done)


def _wish(args: argparse.Namespace, home: Path | None, ground: Ground | None) -> Wish:
    from cgrace.harness import runner
    from cgrace.harness.schedule import Budget, Shard, parse_span

    shard = Shard.parse(args.shard) if args.shard else None
    budget = Budget(parse_span(args.time_budget), _known_ns(home)) if args.time_budget else None
    scenarios = find_scenarios(args.scenarios) if args.scenarios else find_scenarios([str(scenarios_folder())])
    drivers = list(pick_drivers(args.driver, on=ground))
    baseline = _baseline(args, drivers)
    cases = runner.plan(scenarios, drivers + baseline, on=ground)
    names = {spec.name for spec in drivers}
    places = {(c.scenario.name, c.setting) for c in cases if c.driver.name in names}
    cases = [c for c in cases if (c.scenario.name, c.setting) in places]
    check_fit(cases)
    if shard is not None:
        cases = shard.of(cases, keep_rows=bool(baseline))
    name = baseline[0].name if baseline else ""
    return Wish(cases=cases, baseline=name, shard=shard, budget=budget, budget_text=args.time_budget or "")


def _baseline(args: argparse.Namespace, drivers: Sequence[DriverSpec]) -> list[DriverSpec]:
    if not args.baseline:
        return []
    if not args.driver:
        raise UsageError(
            "--baseline is what a --driver is compared with", hint="--driver source:. --baseline source:../base"
        )
    found = pick_drivers([args.baseline])[0]
    for one in drivers:
        if one.name == found.name or (one.source is not None and one.source == found.source):
            raise UsageError(f"{one.name} is both the driver and the baseline", hint="a baseline is another driver")
    return [found]


def _known_ns(home: Path | None) -> dict[str, int]:
    """What cases took in the last stored run, by id."""
    try:
        results = last_run(home).results()["results"]
        return {str(one["case"]): int(float(one["wall_ms"]) * NS_PER_MS) for one in results}
    except (CgraceError, KeyError, TypeError, ValueError):
        return {}


def _execute(
    wish: Wish, turns: Sequence[Case], collected: Collected, stored: StoredRun, args: argparse.Namespace
) -> tuple[list[CaseResult], bool]:
    """What ran, and whether the user ended it before its end."""
    budget = wish.budget

    def admits(case: Case) -> bool:
        return budget is None or budget.admits(case)

    def ends(result: CaseResult) -> None:
        if budget is not None:
            budget.took(result.case, result.wall_ns)

    clean = args.expect == "clean" or bool(wish.baseline) or args.record
    try:
        execute(turns, collected, stored, args, expect_clean=clean, admits=admits, ends=ends)
    except KeyboardInterrupt:
        if not collected.ended:
            raise
        return collected.ended, True
    finally:
        collected.order(wish.cases)
    return collected.ended, False


def _suite_run(
    wish: Wish, turns: Sequence[Case], ran: Sequence[CaseResult], *, interrupted: bool, began_ns: int
) -> SuiteRun:
    from cgrace.harness.baseline import compare

    wall_ns = now_ns() - began_ns if began_ns else 0
    ended = {(r.case.id, r.case.turn) for r in ran}
    why = "interrupted" if interrupted else f"it did not fit into the time budget of {wish.budget_text}"
    not_run = tuple(NotRun(case=case, why=why) for case in turns if (case.id, case.turn) not in ended)
    if not wish.baseline:
        return SuiteRun(results=tuple(ran), not_run=not_run, wall_ns=wall_ns, interrupted=interrupted)
    compared = compare(ran, wish.baseline)
    return SuiteRun(
        results=tuple(r for r in compared.results if r.case.driver.name != wish.baseline),
        baseline_results=tuple(r for r in compared.results if r.case.driver.name == wish.baseline),
        comparisons=tuple(compared.comparisons),
        baseline=wish.baseline,
        not_run=not_run,
        wall_ns=wall_ns,
        interrupted=interrupted,
    )


def _document(done: SuiteRun, listed: Sequence[CaseResult], wish: Wish, args: argparse.Namespace) -> dict[str, Any]:
    from cgrace.reports.machine import repeats_data, run_data

    document = run_data(done, listed, shard=str(wish.shard or ""))
    if args.repeat > 1:
        document["repeats"] = repeats_data(done.all_results)
    return document


def _show(done: SuiteRun, listed: Sequence[CaseResult], args: argparse.Namespace) -> None:
    from cgrace.reports.console.blocks import BASELINE, CLEAN, HISTORY, blocks
    from cgrace.reports.console.matrix import matrix, repeats
    from cgrace.reports.console.summary import ending

    wrong = {(r.case.scenario.name, r.case.setting) for r in done.wrong}
    few = len({r.case.scenario.name for r in listed}) <= BLOCKS_MAX
    told = [r for r in listed if few or (r.case.scenario.name, r.case.setting) in wrong]
    standard = BASELINE if done.baseline else HISTORY if args.expect == "history" else CLEAN
    if told:
        show(blocks(told, did, standard=standard), "")
    if listed:
        show(matrix(listed))
    if args.repeat > 1:
        show("", repeats(done.all_results))
    show(ending(done))


def _status(done: SuiteRun) -> int:
    if done.interrupted:
        return EXIT_INTERRUPTED
    if any(r.judgement.outcome is not Outcome.INCONCLUSIVE for r in done.wrong):
        return EXIT_DIFFERED
    return EXIT_OK if done.passed else EXIT_CANNOT
