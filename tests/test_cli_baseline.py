"""A driver against a baseline: what is new fails, what both do does not."""

from __future__ import annotations

import dataclasses

import handmade
import pytest
from handmade import HANG, UNKNOWN

from cgrace.harness.baseline import compare
from cgrace.harness.suite import Case, CaseResult, Comparison
from cgrace.harness.verdict import Finding, Invariant, Outcome, Verdict, judge

SLOW = Finding(
    invariant=Invariant.BOUNDED_LATENCY, verdict=Verdict.VIOLATED, subject="first", summary="SLOW", short="SLOW 1s"
)
UNFIRED = Finding(
    invariant=Invariant.EVERY_FAULT_FIRED, verdict=Verdict.VIOLATED, subject="late", summary="never acted"
)


def result(driver: str, *findings: Finding, failed: tuple[tuple[str, str], ...] = (), turn: int = 0) -> CaseResult:
    """A case of a build of the user's own, judged without excuse."""
    case = Case(
        scenario=handmade.scenario(), setting=handmade.SETTING, driver=handmade.driver("source", driver), turn=turn
    )
    return CaseResult(case=case, judgement=judge(findings, (), failed), wall_ns=1)


def compared(*results: CaseResult) -> tuple[CaseResult, Comparison]:
    """The first result of `mine` and its comparison."""
    found = compare(results, "base")
    assert len(found.results) == len(results)
    return found.results[0], found.comparisons[0]


LATER = Finding(
    invariant=Invariant.BOUNDED_LATENCY, verdict=Verdict.VIOLATED, subject="second", summary="SLOW", short="SLOW 1s"
)
LEAK = Finding(invariant=Invariant.NOTHING_LEAKED, verdict=Verdict.VIOLATED, subject="cgrace-a.slice", summary="left")


@pytest.mark.parametrize("wrong", [LATER, LEAK])
def test_what_the_baseline_never_got_to_is_not_new(wrong: Finding) -> None:
    """A baseline that hung in the first step says nothing of the second, nor of what is left at the end."""
    hang = dataclasses.replace(HANG, subject="first")
    judged, comparison = compared(result("mine", wrong), result("base", hang))
    assert judged.judgement.outcome is Outcome.INCONCLUSIVE
    assert (len(comparison.new), len(comparison.untold)) == (0, 1)
    judged, comparison = compared(result("mine", wrong, SLOW), result("base", hang, SLOW, LATER, LEAK))
    assert judged.judgement.outcome is Outcome.REPRODUCED


@pytest.mark.parametrize(
    ("mine", "base", "outcome", "counts"),
    [
        ((), (), Outcome.CLEAN, (0, 0, 0)),
        ((HANG,), (HANG,), Outcome.REPRODUCED, (0, 1, 0)),
        ((HANG,), (), Outcome.REGRESSED, (1, 0, 0)),
        ((HANG, SLOW), (SLOW,), Outcome.REGRESSED, (1, 1, 0)),
        ((), (HANG,), Outcome.CLEAN, (0, 0, 1)),
        ((HANG,), (UNKNOWN,), Outcome.INCONCLUSIVE, (1, 0, 0)),
        ((), (UNKNOWN,), Outcome.CLEAN, (0, 0, 0)),
        ((UNKNOWN,), (HANG,), Outcome.INCONCLUSIVE, (0, 0, 0)),
        ((UNFIRED,), (UNFIRED,), Outcome.INCONCLUSIVE, (0, 0, 0)),
        ((HANG, UNKNOWN), (HANG,), Outcome.INCONCLUSIVE, (0, 1, 0)),
    ],
)
def test_what_is_new_fails(
    mine: tuple[Finding, ...], base: tuple[Finding, ...], outcome: Outcome, counts: tuple[int, int, int]
) -> None:
    """New, the same, and fixed; a baseline without a conclusion leaves a violation undecided."""
    judged, comparison = compared(result("mine", *mine), result("base", *base))
    assert judged.judgement.outcome is outcome
    assert (len(comparison.new), len(comparison.same), len(comparison.fixed)) == counts
    assert bool(judged.judgement.reasons) != outcome.passes


def test_without_a_baseline_nothing_is_excused() -> None:
    """Where the baseline could not take part, a violation is undecided."""
    judged, comparison = compared(result("mine", HANG))
    assert not comparison.compared
    assert judged.judgement.outcome is Outcome.INCONCLUSIVE


def test_steps_that_fail_are_compared_by_text() -> None:
    """The same error is the same but for its numbers; another one is new."""
    old, same, new = (("first", text) for text in ("no unit r1", "no unit r27", "permission denied"))
    judged, _ = compared(result("mine", failed=(same,)), result("base", failed=(old,)))
    assert judged.judgement.outcome is Outcome.REPRODUCED
    judged, comparison = compared(result("mine", failed=(new,)), result("base", failed=(old,)))
    assert judged.judgement.outcome is Outcome.REGRESSED
    assert [str(wrong) for wrong in comparison.fixed] == ["first failed: no unit r#"]


def test_any_turn_of_the_baseline_excuses() -> None:
    """What the baseline does once in a while is not the driver's fault either."""
    base = [result("base", *found, turn=turn) for turn, found in enumerate([(), (HANG,)])]
    judged, comparison = compared(result("mine", HANG, turn=1), *base)
    assert judged.judgement.outcome is Outcome.REPRODUCED
    assert comparison.compared


def test_the_baseline_itself_never_fails() -> None:
    """Its own violations are what is expected of it."""
    found = compare([result("mine"), result("base", HANG, SLOW)], "base")
    assert [r.judgement.outcome for r in found.results] == [Outcome.CLEAN, Outcome.REPRODUCED]


def test_another_place_is_another_matter() -> None:
    """A violation in one setting excuses nothing in another."""
    mine, base = result("mine", HANG), result("base", HANG)
    elsewhere = dataclasses.replace(handmade.SETTING, layout="v2")
    moved = dataclasses.replace(base, case=dataclasses.replace(base.case, setting=elsewhere))
    judged, _ = compared(mine, moved)
    assert not judged.judgement.outcome.passes
