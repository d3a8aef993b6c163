"""`cgrace matrix`: the corpus on every driver, as a table that can be published.

Exit codes as of `cgrace run`: 1 where something is not as expected, 2 where something was inconclusive or nothing could run.
"""

from __future__ import annotations

import argparse
import contextlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from cgrace.harness.commands.ci import check_writable
from cgrace.harness.commands.common import Progress, show, show_json
from cgrace.harness.commands.select import find_scenarios, pick_drivers, stories
from cgrace.harness.commands.suite import Collected, check_fit, check_target, execute, exit_code
from cgrace.harness.errors import CgraceError, UsageError
from cgrace.harness.scenario.model import Scenario
from cgrace.harness.store import StoredRun, new_run
from cgrace.harness.suite import CaseResult
from cgrace.harness.trace import Trace, read_trace

FOLDERS = ("corpus", "core", "primers")
DRIVERS = ("fleet",)
COMMANDS = ("crun", "runc")
PAGE = "matrix.html"


def matrix(args: argparse.Namespace) -> int:
    """Run it, print it, and write its page."""
    check_target(args)
    if args.html:
        check_writable(Path(args.html), "the page")  # before minutes are spent
    from cgrace.harness import runner

    have = stories()
    scenarios = find_scenarios(args.scenarios or [name for name in FOLDERS if name in have])
    drivers = pick_drivers(args.driver or DRIVERS)
    cases = runner.plan(scenarios, drivers)
    check_fit(cases)
    stored = new_run(Path(args.store) if args.store else None)
    with Progress(len(cases), quiet=args.json) as progress:
        collected = Collected(progress=progress, repeated=False)
        results = execute(cases, collected, stored, args, expect_clean=False)
    runner.some_ran(results)
    collected.order(cases)
    _emit(results, collected, stored, args)
    return exit_code(r.judgement.outcome for r in results if not r.unavailable)


def _emit(results: Sequence[CaseResult], collected: Collected, stored: StoredRun, args: argparse.Namespace) -> None:
    from cgrace.harness.runner import versions
    from cgrace.reports.machine import results_document
    from cgrace.reports.matrix.cells import cell_of
    from cgrace.reports.matrix.console import shown
    from cgrace.reports.matrix.page import page
    from cgrace.reports.matrix.table import matrix as table

    found = table([(result, cell_of(result, _trace(result))) for result in results], _today(results))
    document: dict[str, Any] = results_document(
        args.command, collected.kept, passed=all(r.judgement.outcome.passes or r.unavailable for r in results)
    )
    stored.save(document)
    where = Path(args.html) if args.html else stored.folder / PAGE
    try:
        where.write_text(page(found, versions(), _files(weak.scenario for weak in found.open)), encoding="utf-8")
    except OSError as error:
        raise UsageError(f"the page cannot be written: {error.strerror}", file=where) from error
    if args.json:
        show_json(document)
    else:
        show(shown(found, str(where)))


def _files(scenarios: Iterable[Scenario]) -> dict[str, str]:
    """The text of each scenario's file, where it can still be read."""
    found: dict[str, str] = {}
    for scenario in scenarios:
        with contextlib.suppress(OSError, UnicodeDecodeError):
            found[scenario.name] = scenario.file.read_text(encoding="utf-8")
    return found


def _today(results: Sequence[CaseResult]) -> tuple[str, ...]:
    """Of each product the newest release that took part, and the commands of this machine."""
    from cgrace.harness.scenario.releases import order

    newest: dict[str, tuple[Any, str]] = {}
    for driver in {r.case.driver.name: r.case.driver for r in results}.values():
        product, _, version = driver.release.partition("@")
        if not version or "+" in version:
            continue
        key = order(version)
        if product not in newest or newest[product][0] < key:
            newest[product] = (key, driver.name)
    names = {r.case.driver.name for r in results}
    # runc's own driver ended with 1.2; what it links since is cgroups.
    return (
        *(name for product, (_, name) in newest.items() if product != "runc"),
        *(name for name in COMMANDS if name in names),
    )


def _trace(result: CaseResult) -> Trace | None:
    if result.trace is None:
        return None
    try:
        return read_trace(result.trace)
    except CgraceError:
        return None
