"""`cgrace bisect-step`: one step of `git bisect run`, answered by exit code and one line.

git takes 0 for good, 1 to 127 for bad, 125 for "skip this one", and anything above for the end of the bisection. So whatever
keeps us from a verdict is 125: a checkout that does not build, a machine that cannot run it, an unknown. Only a violation is 1.
"""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path

from cgrace.harness.commands import EXIT_DIFFERED, EXIT_OK, EXIT_SKIP
from cgrace.harness.commands.common import Progress, show_json
from cgrace.harness.commands.select import find_scenarios
from cgrace.harness.commands.suite import Collected, execute, turns_of
from cgrace.harness.errors import CgraceError, UsageError
from cgrace.harness.store import new_run
from cgrace.harness.suite import Case, CaseResult, SuiteRun
from cgrace.harness.verdict import Outcome

OWN = "source"  # in a bisection every driver is the user's own: what history says of generations is no excuse


class Answer(StrEnum):
    """What a step comes to."""

    CLEAN = "clean"
    VIOLATED = "violated"
    CANNOT_TELL = "cannot tell"


def bisect(args: argparse.Namespace) -> int:
    """Run the scenario in all of its settings; print one line."""
    from cgrace.reports.inert import inert_line
    from cgrace.reports.machine import document

    results: Sequence[CaseResult] = ()
    try:
        results = _run(args)
        answer, why = answer_of(results)
    except CgraceError as error:
        answer, why = Answer.CANNOT_TELL, _why(error)
    status = _status(answer, find_fix=args.find_fix)
    why = inert_line(why)
    if args.json:
        traces = [str(result.trace) for result in results if result.trace is not None]
        told = {"answer": str(answer), "why": why, "exit": status, "traces": traces}
        show_json(document("bisect-step", passed=status == EXIT_OK, **told))
    else:
        print(f"cgrace bisect-step: {answer}: {why}")
    return status


def _run(args: argparse.Namespace) -> list[CaseResult]:
    from cgrace.harness import runner
    from cgrace.harness.drivers.catalogue import find
    from cgrace.reports.machine import run_data

    driver = dataclasses.replace(find(args.driver), generation=OWN)
    scenarios = find_scenarios([args.scenario])
    cases: list[Case] = runner.plan(scenarios, [driver])
    if not cases:
        raise UsageError(
            f"{args.driver} does not fit {args.scenario}: another layout, or the scenario names other drivers"
        )
    stored = new_run(Path(args.store) if args.store else None)
    turns = turns_of(cases, args.repeat)
    with Progress(len(turns), quiet=True) as progress:
        collected = Collected(progress=progress, repeated=args.repeat > 1)
        results = execute(turns, collected, stored, args, expect_clean=False)
    collected.order(cases)
    stored.save(run_data(SuiteRun(results=tuple(results)), collected.kept, command="bisect-step"))
    return results


def answer_of(results: Sequence[CaseResult]) -> tuple[Answer, str]:
    """One violation is enough; clean is only what is so everywhere."""
    regressed = [r for r in results if r.judgement.outcome is Outcome.REGRESSED]
    if bad := [r for r in regressed if _began(r)]:
        return Answer.VIOLATED, _told(bad[0])
    if undecided := [r for r in results if not r.judgement.outcome.passes]:
        return Answer.CANNOT_TELL, _told(undecided[0])
    count = len(results)
    return (
        Answer.CLEAN,
        f"{results[0].case.scenario.name}, {count} run{'s' * (count != 1)} of {results[0].case.driver.name}",
    )


def _told(result: CaseResult) -> str:
    what = result.error or "; ".join(result.judgement.reasons) or str(result.judgement.outcome)
    return f"{what} [{result.case.id}]"


def _began(result: CaseResult) -> bool:
    """Whether any step was called: a driver that did not even come up could not be run, which tells nothing of the bug."""
    from cgrace.harness.events import StepCalled
    from cgrace.harness.trace import read_trace

    if result.trace is None:
        return True
    return read_trace(result.trace).first(StepCalled) is not None


def _why(error: CgraceError) -> str:
    """The message, and of a compiler's lines the first that names a place."""
    place = next((line for line in error.detail.splitlines() if ".go:" in line), "")
    return f"{error.message}: {place}" if place else error.message


def _status(answer: Answer, *, find_fix: bool) -> int:
    if answer is Answer.CANNOT_TELL:
        return EXIT_SKIP
    return EXIT_OK if (answer is Answer.CLEAN) != find_fix else EXIT_DIFFERED
