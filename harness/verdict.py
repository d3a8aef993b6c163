"""Findings, and what they come to against what was expected. Values and the two tables that rank them; no I/O."""

from __future__ import annotations

from collections.abc import Container, Iterable
from dataclasses import dataclass
from enum import StrEnum

from cgrace.harness.events import Grade


class Invariant(StrEnum):
    """What a checker asserts; the first three are the promise of the project."""

    NO_DEADLOCK = "no deadlock"
    NO_LOST_CGROUPS = "no lost cgroups"
    BOUNDED_LATENCY = "bounded latency"
    NOTHING_LEAKED = "nothing leaked"
    EVERY_FAULT_FIRED = "every fault fired"
    DRIVER_ALIVE = "driver alive"  # the shim neither died nor babbled


class Verdict(StrEnum):
    """Violated beats unknown beats holds."""

    HOLDS = "holds"
    UNKNOWN = "unknown"
    VIOLATED = "violated"


def worst(verdicts: Iterable[Verdict]) -> Verdict:
    """The verdict that wins; HOLDS for none."""
    rank = [Verdict.HOLDS, Verdict.UNKNOWN, Verdict.VIOLATED]
    return max(verdicts, key=rank.index, default=Verdict.HOLDS)


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """What one checker says of one subject (a step, a unit, a process, a fault).

    summary: one line ("HANG of second (other.slice), proved in 0.13 s"); short: a matrix cell ("HANG", "SLOW 1s", "LOST").
    explanation: three sentences: what happened, why it is wrong, what to look at.
    evidence: lines for people (wait graph, who removed which directory when).
    events: indices of the entries that show it. assumptions: what the proof takes for granted, if anything.
    """

    invariant: Invariant
    verdict: Verdict
    subject: str = ""
    summary: str = ""
    short: str = ""
    explanation: str = ""
    evidence: tuple[str, ...] = ()
    events: tuple[int, ...] = ()
    assumptions: tuple[str, ...] = ()
    grade: Grade = Grade.NATURAL


class Outcome(StrEnum):
    """Findings against expectation (design.md). The first two pass."""

    REPRODUCED = "reproduced"
    CLEAN = "clean"
    REGRESSED = "regressed"
    VANISHED = "vanished"
    INCONCLUSIVE = "inconclusive"

    @property
    def passes(self) -> bool:
        """Whether this is what history says."""
        return self in (Outcome.REPRODUCED, Outcome.CLEAN)


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgement:
    """One run judged: the findings of every checker, the outcome, and in `reasons` why it is not as expected.

    failed: the steps that ended with an error, (step, error), expected or not; without those that may.
    """

    outcome: Outcome
    findings: tuple[Finding, ...]
    reasons: tuple[str, ...] = ()
    failed: tuple[tuple[str, str], ...] = ()

    @property
    def violated(self) -> tuple[Finding, ...]:
        """The findings that show something wrong."""
        return tuple(f for f in self.findings if f.verdict is Verdict.VIOLATED)


Step = str
Failures = Iterable[tuple[Step, str]]


def judge(
    findings: Iterable[Finding],
    expected: Iterable[tuple[Invariant, str]],
    failed: Failures = (),
    expected_failed: Failures = (),
    may_fail: Container[Step] = (),
) -> Judgement:
    """Compare findings with the expected violations, (invariant, subject) pairs; an empty subject means any.

    failed: (step, error) of each step that ended with an error; expected_failed: (step, part of its text). A step that fails
    unexpectedly is regressed, although no invariant speaks of it: a run that could not do its work shows nothing. may_fail:
    steps of which an error surprises nobody.
    An unknown or an unfired fault never passes. An expected violation that shows beside an unexpected one is regressed.
    """
    found, wanted = tuple(findings), tuple(expected)
    seen = [f for f in found if f.verdict is Verdict.VIOLATED]
    extra = [f for f in seen if not any(_meets(f, want) for want in wanted)]
    absent = [want for want in wanted if not any(_meets(f, want) for f in seen)]
    unknown = [f for f in found if f.verdict is Verdict.UNKNOWN]
    failures, wanted_failures = list(failed), list(expected_failed)
    surprises = [f for f in failures if not any(f[0] == w[0] and w[1] in f[1] for w in wanted_failures)]
    surprises = [f for f in surprises if f[0] not in may_fail]
    told = tuple(f for f in failures if f[0] not in may_fail)
    missed = [w for w in wanted_failures if not any(f[0] == w[0] and w[1] in f[1] for f in failures)]

    reasons = [f"not expected: {f.summary}" for f in extra]
    reasons += [f"not expected: {step} failed: {error}" for step, error in surprises]
    reasons += [f"expected and not seen: {inv} violated for {subject or 'any step'}" for inv, subject in absent]
    reasons += [f"expected and not seen: {step} fails with '{text}'" for step, text in missed]
    reasons += [f"unknown: {f.summary}" for f in unknown]
    if any(f.invariant is Invariant.EVERY_FAULT_FIRED for f in extra):
        outcome = Outcome.INCONCLUSIVE
    elif extra or surprises:
        outcome = Outcome.REGRESSED
    elif unknown:
        outcome = Outcome.INCONCLUSIVE
    elif absent or missed:
        outcome = Outcome.VANISHED
    else:
        outcome = Outcome.REPRODUCED if wanted or wanted_failures else Outcome.CLEAN
    return Judgement(outcome=outcome, findings=found, reasons=tuple(reasons), failed=told)


def _meets(finding: Finding, want: tuple[Invariant, str]) -> bool:
    return finding.invariant is want[0] and want[1] in ("", finding.subject)
