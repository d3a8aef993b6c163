"""Results for programs: one JSON document a command. Pure.

    {"cgrace": "<version>", "schema": 1, "command": "reproduce", "passed": true, "results": [RESULT, ...],
     "repeats": [{"case", "runs", "passed", "outcomes", "traces"}, ...]}      with --repeat; results then lists different ones

`run` adds (results.schema.json has all of it, for every reader)
    not_run    [{"case", "why"}, ...]: what was not begun, or not ended
    counts     how many came out how, were repeated, were not run, cannot run here
    timing     {"wall_ms", "cases_ms", "ratio", "longest": {"case", "ms"} | null}
    shard      "1/3", or ""
    baseline   {"driver", "comparisons": [{"case", "compared", "new", "same", "fixed"}, ...]}, or null
    interrupted

RESULT
    case       how people select it: "runc_1780/late_job[219-rhel7.4:v1]-async"
    scenario, file, title, issue, rows
    target, profile, layout
    driver     {"name", "generation", "module", "version"}
    outcome    "reproduced" | "clean" (these two pass) | "regressed" | "vanished" | "inconclusive"
    passed     whether that is what history says
    reasons    why not, one line each
    findings   [{"invariant", "verdict", "subject", "short", "summary", "explanation", "evidence", "events", "assumptions",
               "grade"}, ...]; events are indices into the trace
    trace      path of the stored trace, or null
    error      why it could not run, or ""
    unavailable  this machine cannot run it, however often it is tried; no failure
    repeated   it was run again because the first run was inconclusive
    failed     [[step, error], ...]: steps that ended with an error
    turn       which repetition it is, from 0
    wall_ms    how long it took
    canonical  hash of the canonical trace: equal for equal runs
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

from cgrace import __version__
from cgrace.harness.clock import NS_PER_MS
from cgrace.harness.errors import CgraceError
from cgrace.harness.events import Grade
from cgrace.harness.suite import CaseResult, SuiteRun
from cgrace.harness.verdict import Finding, Invariant, Judgement, Outcome, Verdict

SCHEMA_VERSION = 1


def document(command: str, **data: Any) -> dict[str, Any]:
    """What every command says with --json: its own data below the two lines that all share."""
    return {"cgrace": __version__, "schema": SCHEMA_VERSION, "command": command, **data}


def results_document(command: str, results: Iterable[CaseResult], *, passed: bool) -> dict[str, Any]:
    """All results of one command; `passed` also speaks for repetitions that are not listed."""
    listed = [result_data(result) for result in results]
    return document(command, passed=passed and bool(listed), results=listed)


def run_data(run: SuiteRun, listed: Iterable[CaseResult], *, command: str = "run", shard: str = "") -> dict[str, Any]:
    """The document of `run`. listed: the results to show of each, where repetitions came out the same."""
    counts = {str(outcome): 0 for outcome in Outcome}
    for result in run.results:
        counts[str(result.judgement.outcome)] += not result.unavailable
    counts["repeated"] = sum(r.repeated for r in run.all_results)
    counts |= {"not_run": len(run.not_run), "unavailable": len(run.unavailable), "results": len(run.results)}
    longest = run.longest
    timing = {
        "wall_ms": _ms(run.wall_ns),
        "cases_ms": _ms(run.cases_ns),
        "ratio": round(run.ratio, 2),
        "longest": {"case": longest.case.id, "ms": _ms(longest.wall_ns)} if longest is not None else None,
    }
    return document(
        command,
        passed=run.passed,
        results=[result_data(result) for result in listed],
        not_run=[{"case": one.case.id, "turn": one.case.turn, "why": one.why} for one in run.not_run],
        counts=counts,
        timing=timing,
        shard=shard,
        baseline=_baseline_data(run),
        interrupted=run.interrupted,
    )


def _baseline_data(run: SuiteRun) -> dict[str, Any] | None:
    if not run.baseline:
        return None
    comparisons = [
        {
            "case": c.case.id,
            "turn": c.case.turn,
            "compared": c.compared,
            **{
                key: [dataclasses.asdict(wrong) for wrong in getattr(c, key)]
                for key in ("new", "same", "fixed", "untold")
            },
        }
        for c in run.comparisons
    ]
    return {"driver": run.baseline, "comparisons": comparisons}


def _ms(ns: int) -> float:
    return round(ns / NS_PER_MS, 3)


def repeats_data(results: Iterable[CaseResult]) -> list[dict[str, Any]]:
    """Of repeated cases: how many of how many were what history says, and how many different traces that made."""
    grouped: dict[str, list[CaseResult]] = {}
    for result in results:
        grouped.setdefault(result.case.id, []).append(result)
    return [
        {
            "case": case,
            "runs": len(found),
            "passed": sum(r.judgement.outcome.passes for r in found),
            "outcomes": sorted({str(r.judgement.outcome) for r in found}),
            "traces": len({r.canonical for r in found if r.canonical}),
        }
        for case, found in grouped.items()
    ]


def result_data(result: CaseResult) -> dict[str, Any]:
    """One RESULT."""
    scenario, setting, driver = result.case.scenario, result.case.setting, result.case.driver
    return {
        "case": result.case.id,
        "scenario": scenario.name,
        "file": str(scenario.file),
        "title": scenario.title,
        "issue": scenario.issue,
        "rows": list(scenario.rows),
        "target": result.case.target,
        "profile": setting.profile,
        "layout": setting.layout,
        "driver": {
            "name": driver.name,
            "generation": driver.generation,
            "module": driver.module,
            "version": driver.version,
        },
        **judgement_data(result.judgement),
        "passed": result.judgement.outcome.passes,
        "trace": str(result.trace) if result.trace is not None else None,
        "error": result.error,
        "unavailable": result.unavailable,
        "repeated": result.repeated,
        "turn": result.case.turn,
        "wall_ms": _ms(result.wall_ns),
        "canonical": result.canonical,
    }


def judgement_data(judgement: Judgement) -> dict[str, Any]:
    """What a run came to: outcome, reasons, findings."""
    return {
        "outcome": str(judgement.outcome),
        "reasons": list(judgement.reasons),
        "findings": [finding_data(finding) for finding in judgement.findings],
        "failed": [list(one) for one in judgement.failed],
    }


def finding_data(finding: Finding) -> dict[str, Any]:
    """One finding, all of its fields."""
    return {
        key: list(value) if isinstance(value, tuple) else str(value)
        for key, value in dataclasses.asdict(finding).items()
    }


def finding_of(data: Mapping[str, Any]) -> Finding:
    """The finding that `finding_data` wrote; CgraceError for anything else."""
    try:
        return Finding(
            invariant=Invariant(data["invariant"]),
            verdict=Verdict(data["verdict"]),
            grade=Grade(data["grade"]),
            events=tuple(int(index) for index in data["events"]),
            **{key: str(data[key]) for key in ("subject", "summary", "short", "explanation")},
            evidence=tuple(str(line) for line in data["evidence"]),
            assumptions=tuple(str(line) for line in data["assumptions"]),
        )
    except (KeyError, ValueError, TypeError) as error:
        raise CgraceError(f"a stored finding is not what the schema says: {error!r}") from None
