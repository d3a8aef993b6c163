"""A run in which we ourselves stood still speaks against nobody."""

from __future__ import annotations

import handmade
import pytest

from cgrace.harness import events as ev
from cgrace.harness.checkers.stall import STALL_NS, discounted
from cgrace.harness.trace import Recorder, Trace
from cgrace.harness.verdict import Judgement, Outcome


def _trace(gap_ns: int) -> Trace:
    recorder = Recorder(handmade.trace().head)
    recorder.record(ev.StepWatched(step="first", looks=3, gap_ns=gap_ns))
    return recorder.freeze()


@pytest.mark.parametrize("outcome", list(Outcome))
@pytest.mark.parametrize("gap_ns", [0, STALL_NS - 1, STALL_NS])
def test_only_what_speaks_against_the_driver_is_discounted(outcome: Outcome, gap_ns: int) -> None:
    """After a stall a failure becomes undecided, with the reason; everything else stays as it is."""
    judged = discounted(Judgement(outcome=outcome, findings=(), reasons=("r",)), _trace(gap_ns))
    if gap_ns >= STALL_NS and outcome in (Outcome.REGRESSED, Outcome.VANISHED):
        assert judged.outcome is Outcome.INCONCLUSIVE
        assert "kept cgrace itself from running" in judged.reasons[0] and judged.reasons[1:] == ("r",)
    else:
        assert judged == Judgement(outcome=outcome, findings=(), reasons=("r",))
