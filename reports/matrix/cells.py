"""What one run comes to in the published table. Pure: a result and its trace in, a cell out."""

from __future__ import annotations

from dataclasses import dataclass

from cgrace.harness import events as ev
from cgrace.harness.clock import brief
from cgrace.harness.suite import CaseResult
from cgrace.harness.trace import Trace
from cgrace.harness.verdict import Invariant, Outcome
from cgrace.reports.console.matrix import cell

NO_LIMIT = "no limit"


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """word: as in the console's table. worst_ns: the longest that a step took until it returned, None where none did.
    bound: the longest wait for systemd that the driver was seen in ("30 s", "no limit"), "" where it came to no rest.
    failed: a step ended with an error. why: what was found, for people."""

    driver: str
    word: str
    outcome: Outcome
    worst_ns: int | None
    bound: str
    failed: bool
    why: tuple[str, ...]
    unavailable: bool = False

    @property
    def latency(self) -> str:
        """The worst latency as text."""
        return brief(self.worst_ns) if self.worst_ns is not None else "never"


def cell_of(result: CaseResult, trace: Trace | None) -> Cell:
    """A cell; of a run without a trace only its word."""
    judgement = result.judgement
    hung = any(f.invariant is Invariant.NO_DEADLOCK for f in judgement.violated)
    worst, bound = _measures(trace) if trace is not None else (None, "")
    return Cell(
        driver=result.case.driver.name,
        word=cell(result),
        outcome=judgement.outcome,
        worst_ns=worst,
        bound=NO_LIMIT if hung else bound,
        failed=bool(judgement.failed),
        why=tuple(f.summary for f in judgement.violated)
        + tuple(f"{step} failed: {error}" for step, error in judgement.failed)
        + (() if judgement.outcome.passes else judgement.reasons),
        unavailable=result.unavailable,
    )


def _measures(trace: Trace) -> tuple[int | None, str]:
    called = {event.step: entry.t_ns for entry, event in trace.of(ev.StepCalled)}
    took = [
        event.driver_ns or entry.t_ns - called[event.step]
        for entry, event in trace.of(ev.StepReturned)
        if event.step in called
    ]
    timed = [event.bound_ns for _, event in trace.of(ev.StepWaits) if event.bound_ns]
    return (max(took) if took else None), (brief(max(timed)) if timed else "")
