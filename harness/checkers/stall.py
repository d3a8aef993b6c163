"""Whether we ourselves were kept from running, so that what we should have passed on at once was late by our own fault.

A stalled relay is a late systemd: a driver that gives JobRemoved one second meets the real bug in a step where nobody asked for
it. Such a run tells the truth about the driver and nothing about the scenario. The watcher looks at a driver at least every 0.2 s
while a step is out, or sees that systemd is busy, so the longest time without either (StepWatched) is what we were late by.
"""

from __future__ import annotations

import dataclasses

from cgrace.harness import events as ev
from cgrace.harness.checkers.text import duration
from cgrace.harness.clock import NS_PER_MS
from cgrace.harness.trace import Trace
from cgrace.harness.verdict import Judgement, Outcome

STALL_NS = 500 * NS_PER_MS  # half of the shortest wait that any driver gives systemd


def stall_ns(trace: Trace) -> int:
    """The longest time in which our watcher did not run, or (told by older traces) looked at no driver, while a step was out."""
    told = (watched for _, watched in trace.of(ev.StepWatched))
    return max((one.gap_ns if one.stall_ns < 0 else one.stall_ns for one in told), default=0)


def discounted(judgement: Judgement, trace: Trace) -> Judgement:
    """A judgement against the driver is none where we stalled: inconclusive, with the reason in front."""
    stalled = stall_ns(trace)
    if judgement.outcome not in (Outcome.REGRESSED, Outcome.VANISHED) or stalled < STALL_NS:
        return judgement
    why = f"this machine kept cgrace itself from running for {duration(stalled)}, so its relay was late where nobody asked for it"
    return dataclasses.replace(judgement, outcome=Outcome.INCONCLUSIVE, reasons=(why, *judgement.reasons))
