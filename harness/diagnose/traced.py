"""A stored trace as input: the dump that its run took, the jobs that were queued, the errors on the bus, and its proof.

What a run of cgrace left is more than a node ever has: every message, and whether anything could still wake the driver.
"""

from __future__ import annotations

from cgrace.harness import events as ev
from cgrace.harness.diagnose.observed import Observed, observe
from cgrace.harness.errors import TraceError
from cgrace.harness.trace import Trace


def observe_trace(name: str, trace: Trace) -> Observed:
    """Read a trace; TraceError when its run took no dump."""
    stacks = trace.last(ev.Stacks)
    if stacks is None:
        raise TraceError("no goroutine dump is in this trace: its driver came back from every step", file=name)
    closed = trace.last(ev.WorldClosed, lambda world: world.process == stacks[1].process)
    ended = trace.last(ev.RunEnded)
    return observe(
        name,
        f"{stacks[1].text}\n=== cgrace: bus ===\n{_errors(trace)}",
        jobs=_jobs(closed[1] if closed is not None else None),
        proved=ended is not None and ended[1].why == "proved",
        traced=True,
    )


def _jobs(world: ev.WorldClosed | None) -> str | None:
    """The queue at the last look, as systemctl prints it; None when nobody looked."""
    if world is None:
        return None
    rows = [f"{number} {job.split()[-1]} start waiting" for number, job in enumerate(world.jobs, 1)]
    return "\n".join([*rows, f"{len(rows)} jobs listed." if rows else "No jobs running."])


def _errors(trace: Trace) -> str:
    """Every error that the bus saw, one a line."""
    lines = [
        f"error {seen.name} to {seen.member} of {seen.unit}: {seen.text}"
        for _, seen in trace.of(ev.MessageSeen)
        if seen.kind == "error" and not seen.probe
    ]
    return "\n".join(lines)
