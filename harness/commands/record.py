"""`--record`: what a run on a real target showed becomes the baseline that later runs there are held against."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from cgrace.harness.commands.common import note
from cgrace.harness.errors import UsageError
from cgrace.harness.scenario.recorded import Recorded, Row, story_of, write
from cgrace.harness.suite import Case, CaseResult
from cgrace.harness.verdict import judge

if TYPE_CHECKING:
    import argparse

    from cgrace.harness.engine.ground import Ground
    from cgrace.harness.targets.registry import TargetName


def check_record(args: argparse.Namespace, target: TargetName) -> None:
    """UsageError where there is nothing to record."""
    if args.record and not target.is_real:
        raise UsageError("--record is for a real target: of the fake, history says what to expect")
    if args.record and target.is_build:
        raise UsageError("--record is for the systemd of a suite: what a build does is held against that")
    if args.record and getattr(args, "baseline", None):
        raise UsageError("--record writes what to expect, --baseline compares two drivers: one at a time")


def need_baseline(cases: Sequence[Case], ground: Ground) -> None:
    """UsageError where nothing at all was recorded of what is about to be run."""
    for layout in sorted({case.setting.layout for case in cases if case.setting.layout in ground.layouts}):
        here = [case for case in cases if case.setting.layout == layout]
        if ground.is_users_own:
            continue  # of any systemd at all: there the scenarios' own words count, which know older ones than can be recorded
        if not any(case.recorded for case in here):
            raise UsageError(
                f"there is no baseline for {ground.facts.name.base} with cgroup {layout}: nothing says what to expect",
                hint="--record, which makes it of what comes out",
            )


def as_recorded(results: Iterable[CaseResult]) -> tuple[list[CaseResult], dict[str, str]]:
    """The results judged by themselves, and which cannot be recorded: case to the reason.

    What came to no conclusion cannot, nor what did not come out the same each time.
    """
    rows: dict[str, set[Row]] = {}
    judged, cannot = [], {}
    for result in results:
        row = Row.of(result.judgement)
        again = _again(result, row)
        judged.append(again)
        if again.unavailable:
            continue
        rows.setdefault(again.case.id, set()).add(row)
        if not again.judgement.outcome.passes:
            cannot[again.case.id] = again.error or "; ".join(again.judgement.reasons)
    cannot |= {case: "it does not come out the same each time" for case, found in rows.items() if len(found) > 1}
    return judged, cannot


def _again(result: CaseResult, row: Row) -> CaseResult:
    if result.error:
        return result
    case = result.case
    judgement = judge(
        result.judgement.findings,
        row.violated,
        result.judgement.failed,
        row.failed,
        {step.id for step in case.scenario.steps if step.may_fail},
    )
    scenario = dataclasses.replace(case.scenario, expect=row.expects())
    return dataclasses.replace(
        result, judgement=judgement, case=dataclasses.replace(case, scenario=scenario, recorded=True)
    )


def record(results: Iterable[CaseResult], cannot: Mapping[str, str], ground: Ground) -> None:
    """Write what can be recorded, and say where; rows of drivers and scenarios that were not run stay."""
    found: dict[tuple[str, str], dict[tuple[str, str], Row]] = {}
    for result in results:
        if result.unavailable or result.case.id in cannot:
            continue
        case = result.case
        rows = found.setdefault((story_of(case.scenario), case.setting.layout), {})
        rows[case.scenario.name, case.driver.name] = Row.of(result.judgement)
    for (story, layout), rows in found.items():
        if not story:
            raise UsageError("a scenario outside of a folder belongs to no story: it has no baseline to record")
        old = ground.recorded(story, layout)
        facts = ground.facts
        path = ground.file(story, layout)
        merged = {**(old.rows if old is not None else {}), **rows}
        write(path, Recorded(story=story, target=facts.name.base, layout=layout, systemd=facts.version, rows=merged))
        note(f"recorded: {path}")
    for name, why in cannot.items():
        note(f"not recorded: {name}: {why}")
