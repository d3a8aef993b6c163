"""Driver alive: the shim came up, neither died nor babbled. A driver's death is a finding about the run, never an error of ours."""

from __future__ import annotations

import signal

from cgrace.harness import events as ev
from cgrace.harness import faults as ft
from cgrace.harness.checkers import explain
from cgrace.harness.checkers.view import Run, look
from cgrace.harness.trace import Entry, Trace
from cgrace.harness.verdict import Finding, Invariant, Verdict

INVARIANT = Invariant.DRIVER_ALIVE
STDERR_LINES_MAX = 12
_LAST_WORDS = ("panic:", "fatal error:", "runtime error:", "unexpected fault address", "signal SIG")


def check(trace: Trace) -> tuple[Finding, ...]:
    """One finding for each driver process that was started."""
    return findings(look(trace))


def findings(run: Run) -> tuple[Finding, ...]:
    """`check` of a joined trace."""
    processes = [name for name, role in run.roles.items() if role == "driver"] or list(run.driver_processes)
    return tuple(_judge(run, process) for process in processes)


def _judge(run: Run, process: str) -> Finding:
    ready = run.trace.last(ev.DriverReady, lambda hello: hello.process == process)
    if ready is not None and not ready[1].ok:
        return _dead(run, process, ready[0], f"refused to start: {ready[1].error or 'no reason given'}")
    babble = run.trace.first(ev.DriverSaid, lambda said: said.process == process and said.babble)
    if babble is not None:
        return _dead(run, process, babble[0], f"wrote what is not an answer: {babble[1].text.strip()[:120]!r}")
    gone = run.dead_before_end(process)
    if gone is not None and isinstance(gone.event, ev.ProcessExited) and not _wanted(run, process, gone, gone.event):
        return _dead(run, process, gone, _died(gone.event.status))
    if run.ended_why == "driver died" and run.end is not None and gone is None and _named(run, process):
        return _dead(run, process, run.end, f"was given up: {run.ended_text or 'no answer'}")
    if ready is None and gone is None and run.end is not None and run.ended_why not in ("error", "interrupted"):
        return _dead(run, process, run.end, "never said that it was ready")
    return Finding(
        invariant=INVARIANT, verdict=Verdict.HOLDS, subject=process, summary=f"{process} came up and stayed up"
    )


def _named(run: Run, process: str) -> bool:
    return process in run.ended_text or len(run.driver_processes) <= 1


def _wanted(run: Run, process: str, gone: Entry, exited: ev.ProcessExited) -> bool:
    """Whether a fault of the scenario killed it."""
    kills = {f.id for f in run.scenario.faults if isinstance(f, ft.Peer) and (f.peer, f.do) == (process, "kill")}
    return exited.expected or any(
        fired.fault in kills and entry.index < gone.index for entry, fired in run.trace.of(ev.FaultFired)
    )


def _died(status: int) -> str:
    if status >= 0:
        return f"ended with status {status}"
    try:
        return f"was killed by {signal.Signals(-status).name}"
    except ValueError:
        return f"was killed by signal {-status}"


def _dead(run: Run, process: str, at: Entry, how: str) -> Finding:
    said = [(entry, line) for entry, line in run.trace.of(ev.DriverSaid) if line.process == process and not line.babble]
    words = next((line.text.strip() for _, line in said if line.text.lstrip().startswith(_LAST_WORDS)), "")
    # A panic's own words are far above the end of a long dump: show from there.
    start = next((i for i, (_, line) in enumerate(said) if words and line.text.strip() == words), None)
    shown = said[start : start + STDERR_LINES_MAX] if start is not None else said[-STDERR_LINES_MAX:]
    reason = f": {words[:200]}" if words else ""
    return Finding(
        invariant=INVARIANT,
        verdict=Verdict.VIOLATED,
        subject=process,
        summary=f"DIED: {process} {how}{reason}",
        short="DIED",
        explanation=explain.dead(
            process, how, f"its last words ({words[:120]})" if words else "its last lines of stderr"
        ),
        evidence=tuple(line.text.rstrip() for _, line in shown),
        events=(*(entry.index for entry, _ in shown), at.index),
        grade=run.worst_grade(at.t_ns),
    )
