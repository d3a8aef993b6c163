"""How scenarios came out on real systemds, as part of what is compared: by scenario and driver, in a few words."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from cgrace.harness.scenario.recorded import Row, read
from cgrace.harness.suite import Case, CaseResult
from cgrace.harness.validate.baseline import FOLDER, leading_number

CLEAN = "nothing wrong"


def recorded_outcomes(version: int, layout: str, folder: Path = FOLDER) -> dict[str, str]:
    """What every recorded story says of that systemd in that layout; {} where none was run there."""
    found: dict[str, str] = {}
    for path in sorted(folder.glob(f"story-*-{layout}.json")):
        story = read(path)
        if story is not None and story.layout == layout and leading_number(story.systemd) == version:
            found |= {f"{scenario} {driver}": in_words(row) for (scenario, driver), row in story.rows.items()}
    return found


def key_of(case: Case) -> str:
    """By what a case is found again on another systemd."""
    return f"{case.scenario.name} {case.driver.name}"


def run_outcomes(results: Iterable[CaseResult]) -> dict[str, str]:
    """The same of what was run now; cases that could not run say nothing."""
    return {
        key_of(result.case): in_words(Row.of(result.judgement))
        for result in results
        if not result.error and not result.unavailable
    }


def in_words(row: Row) -> str:
    """What was wrong, in one line."""
    wrong = [f"{invariant} ({subject})" for invariant, subject in row.violated]
    wrong += [f"{step} failed: {text}" for step, text in row.failed]
    return "; ".join(wrong) or CLEAN
