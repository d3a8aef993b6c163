"""A stored trace as input: the dump that its run took, the jobs that were queued, the errors on the bus, and its proof.

What a run of cgrace left is more than a node ever has: every message, and whether anything could still wake the driver.
"""

from __future__ import annotations

from cgrace.harness import events as ev
from cgrace.harness.diagnose.observed import Observed, observe
from cgrace.harness.errors import TraceError
from cgrace.harness.trace import Trace


def observe_trace(name: str, trace: Trace) -> Observed:
    """Read a trace; TraceError when nobody waited in its run when it ended."""
    stacks = trace.last(ev.Stacks)
    closed = trace.last(ev.WorldClosed, lambda world: stacks is None or world.process == stacks[1].process)
    ended = trace.last(ev.RunEnded)
    why = ended[1].why if ended is not None else "the trace stops"
    if stacks is None and closed is None:
        raise TraceError(f"nothing waited when this run ended ({why}): there is no dump in it", file=name)
    return observe(
        "\n".join(
            [
                stacks[1].text if stacks is not None else "",
                "=== cgrace: bus ===",
                *_errors(trace),
                *_children(closed[1] if closed is not None else None),
            ]
        ),
        jobs=_jobs(closed[1] if closed is not None else None),
        proved=why == "proved",
        own_wait=why == "own wait",
        traced=True,
    )


def _children(world: ev.WorldClosed | None) -> list[str]:
    """What a driver's commands wait for, a section each."""
    lines: list[str] = []
    for child in world.children if world is not None else ():
        lines += [f"=== cgrace: process {child.partition(':')[0]} ===", child]
    return lines


def _jobs(world: ev.WorldClosed | None) -> str | None:
    """The queue at the last look, as systemctl prints it; None when nobody looked."""
    if world is None:
        return None
    rows = [f"{number} {job.split()[-1]} start waiting" for number, job in enumerate(world.jobs, 1)]
    return "\n".join([*rows, f"{len(rows)} jobs listed." if rows else "No jobs running."])


def _errors(trace: Trace) -> list[str]:
    """Every error that the bus saw, one a line."""
    return [
        f"error {seen.name} to {seen.member} of {seen.unit}: {seen.text}"
        for _, seen in trace.of(ev.MessageSeen)
        if seen.kind == "error" and not seen.probe
    ]
