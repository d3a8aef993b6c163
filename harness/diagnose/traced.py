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
    last_words = _last_words(trace) if stacks is None else ""
    closed = trace.last(ev.WorldClosed, lambda world: stacks is None or world.process == stacks[1].process)
    ended = trace.last(ev.RunEnded)
    why = ended[1].why if ended is not None else "the trace stops"
    if stacks is None and closed is None and not last_words:
        raise TraceError(f"nothing waited when this run ended ({why}): there is no dump in it", file=name)
    return observe(
        "\n".join(
            [
                stacks[1].text if stacks is not None else last_words,
                "=== cgrace: bus ===",
                *_errors(trace),
                *_merged(trace),
                *_children(closed[1] if closed is not None else None),
            ]
        ),
        jobs=_jobs(trace, closed[1] if closed is not None else None),
        proved=why == "proved",
        own_wait=why == "own wait",
        traced=True,
    )


def _children(world: ev.WorldClosed | None) -> list[str]:
    """What a driver's commands wait for, a section each."""
    lines: list[str] = []
    for child in world.children if world is not None else ():
        name = child.partition(":")[0].replace("runc-cli ", "runc ")
        lines += [f"=== cgrace: process {name} ===", child]
    return lines


def _jobs(trace: Trace, world: ev.WorldClosed | None) -> str | None:
    """The queue at the last look, as systemctl prints it, with what the scenario kept there for ever; None when nobody looked."""
    if world is None:
        return None
    queued = {job.job: job for _, job in trace.of(ev.JobChanged)}
    units = {job.unit: job.type for job in queued.values() if job.state == "blocked"}
    units |= {one.split()[-1]: one.split()[0] for one in world.jobs}
    rows = [f"{number} {unit} {kind} waiting" for number, (unit, kind) in enumerate(units.items(), 1)]
    return "\n".join([*rows, f"{len(rows)} jobs listed." if rows else "No jobs running."])


def _last_words(trace: Trace) -> str:
    """What a driver that died wrote to its stderr: a Go program that panics writes its goroutines there. "" where none died so."""
    died = {exited.process for _, exited in trace.of(ev.ProcessExited) if not exited.expected}
    said = [line.text for _, line in trace.of(ev.DriverSaid) if line.process in died and not line.babble]
    return "\n".join(said) if any(line.startswith(("panic:", "fatal error:")) for line in said) else ""


def _merged(trace: Trace) -> list[str]:
    """Every call that was answered with the job of an earlier one that had not ended, one a line."""
    open_jobs: set[str] = set()
    lines: list[str] = []
    for _, event in trace.of(ev.Event):
        match event:
            case ev.JobChanged(job=job, state="ended"):
                open_jobs.discard(job)
            case ev.MessageSeen(kind="reply", job=job, probe=False) if job:
                lines += [f"two calls had one job: {event.member} of {event.unit}"] if job in open_jobs else []
                open_jobs.add(job)
    return lines


def _errors(trace: Trace) -> list[str]:
    """Every error that the bus saw, one a line."""
    return [
        f"error {seen.name} to {seen.member} of {seen.unit}: {seen.text}"
        for _, seen in trace.of(ev.MessageSeen)
        if seen.kind == "error" and not seen.probe
    ]
