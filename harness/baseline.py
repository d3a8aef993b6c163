"""A driver against another one as its baseline: what is new is the driver's own, what both do is not its fault. Pure.

Both are judged without any excuse (`--expect clean`). What the baseline violates in a scenario and setting, in any repetition,
then is what is expected there: the driver's outcome is `reproduced` where it does the same, `clean`, or `regressed` by what is
new. What only the baseline does is fixed. Where the baseline came to no conclusion and the driver violates something, nobody
can say whose it is: inconclusive. So it is with what the driver violates in a step that the baseline, hung before, never got to.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from cgrace.harness.scenario.model import Setting
from cgrace.harness.suite import Case, CaseResult, Comparison, Wrong
from cgrace.harness.verdict import Finding, Invariant, Judgement, Outcome, Verdict

_NUMBERS = re.compile(r"[0-9]+")


@dataclass(frozen=True, slots=True, kw_only=True)
class Compared:
    """results: those of the drivers, then those of the baseline, judged anew; comparisons: one for each of the drivers'."""

    results: list[CaseResult]
    comparisons: list[Comparison]


def wrongs(judgement: Judgement) -> frozenset[Wrong]:
    """Everything that a run shows to be wrong; faults that did not fire are the run's shortcoming, not the driver's."""
    violated = (f for f in judgement.violated if f.invariant is not Invariant.EVERY_FAULT_FIRED)
    return frozenset([*map(_of_finding, violated), *map(_of_failure, judgement.failed)])


def _of_finding(finding: Finding) -> Wrong:
    return Wrong(str(finding.invariant), finding.subject)


def _of_failure(failure: tuple[str, str]) -> Wrong:
    return Wrong("", failure[0], _NUMBERS.sub("#", failure[1]))


def compare(results: Iterable[CaseResult], baseline: str) -> Compared:
    """Judge every result against those of the driver called `baseline`, itself among them."""
    found = list(results)
    by_place: dict[tuple[str, Setting], list[CaseResult]] = {}
    for result in found:
        if result.case.driver.name == baseline:
            by_place.setdefault(_place(result.case), []).append(result)
    judged: list[CaseResult] = []
    comparisons: list[Comparison] = []
    for result in found:
        if result.case.driver.name == baseline:
            continue
        comparison = _compare(result, by_place.get(_place(result.case), []))
        comparisons.append(comparison)
        judged.append(dataclasses.replace(result, judgement=_judge(result.judgement, comparison)))
    for own in by_place.values():
        judged += [dataclasses.replace(r, judgement=_excused(r.judgement, wrongs(r.judgement))) for r in own]
    return Compared(results=judged, comparisons=comparisons)


def _place(case: Case) -> tuple[str, Setting]:
    return case.scenario.name, case.setting


def _compare(result: CaseResult, base: Sequence[CaseResult]) -> Comparison:
    mine = wrongs(result.judgement)
    theirs = frozenset[Wrong]().union(*(wrongs(r.judgement) for r in base))
    untold = {wrong for wrong in mine - theirs if _untold(wrong, result, base)}
    told = [r for r in base if r.judgement.outcome is not Outcome.INCONCLUSIVE]
    conclusive = result.judgement.outcome is not Outcome.INCONCLUSIVE
    return Comparison(
        case=result.case,
        new=tuple(sorted(mine - theirs - untold)),
        same=tuple(sorted(mine & theirs)),
        fixed=tuple(sorted(theirs - mine)) if conclusive else (),
        compared=bool(told) and len(told) == len(base),
        untold=tuple(sorted(untold)),
    )


def _untold(wrong: Wrong, result: CaseResult, base: Sequence[CaseResult]) -> bool:
    """Whether the baseline never got to where this shows: a step that it never called, or the end, where leaks are looked for."""
    hung = [any(f.invariant is Invariant.NO_DEADLOCK for f in r.judgement.violated) for r in base]
    if not hung or not all(hung):
        return False
    if wrong.invariant == Invariant.NOTHING_LEAKED:
        return True
    called = {f.subject for r in base for f in r.judgement.findings if f.invariant is not Invariant.NO_LOST_CGROUPS}
    return wrong.subject in {step.id for step in result.case.scenario.steps} - called


def _judge(judgement: Judgement, comparison: Comparison) -> Judgement:
    """The judgement with the baseline's wrongs excused. One that had no conclusion keeps none."""
    if judgement.outcome is Outcome.INCONCLUSIVE:
        return judgement
    if comparison.new and not comparison.compared:
        new = "; ".join(str(wrong) for wrong in comparison.new)
        reason = f"the baseline came to no conclusion here, so nobody can say whether this is new: {new}"
        return dataclasses.replace(judgement, outcome=Outcome.INCONCLUSIVE, reasons=(reason,))
    if comparison.untold and not comparison.new:
        untold = "; ".join(str(wrong) for wrong in comparison.untold)
        reason = f"the baseline hung before it came to this, so nobody can say whether it is new: {untold}"
        return dataclasses.replace(judgement, outcome=Outcome.INCONCLUSIVE, reasons=(reason,))
    return _excused(judgement, frozenset(comparison.same))


def _excused(judgement: Judgement, expected: frozenset[Wrong]) -> Judgement:
    if judgement.outcome is Outcome.INCONCLUSIVE:
        return judgement
    new = [f"new: {f.summary}" for f in judgement.violated if _of_finding(f) not in expected]
    new += [f"new: {one[0]} failed: {one[1]}" for one in judgement.failed if _of_failure(one) not in expected]
    unknown = [f"unknown: {f.summary}" for f in judgement.findings if f.verdict is Verdict.UNKNOWN]
    if new:
        outcome = Outcome.REGRESSED
    elif unknown:
        outcome = Outcome.INCONCLUSIVE
    else:
        outcome = Outcome.REPRODUCED if expected else Outcome.CLEAN
    return dataclasses.replace(judgement, outcome=outcome, reasons=(*new, *unknown))
