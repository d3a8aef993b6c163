"""Checkers: pure functions from a trace to findings. They ask nothing but the trace, so a stored one can be judged anywhere.

    check_all(trace)            every checker's findings; one that fails by itself is an unknown finding, never an exception
    CHECKERS[invariant](run)    one checker on a joined view (checkers.view.look), which check_all makes once

Each module's `check(trace)` is the same for that checker alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from cgrace.harness.checkers import alive, cgroups, deadlock, fired, latency, leaks
from cgrace.harness.checkers.view import Run, look
from cgrace.harness.errors import CgraceError
from cgrace.harness.trace import Trace
from cgrace.harness.verdict import Finding, Invariant, Verdict

Checker = Callable[[Run], tuple[Finding, ...]]

CHECKERS: Mapping[Invariant, Checker] = {
    Invariant.NO_DEADLOCK: deadlock.findings,
    Invariant.NO_LOST_CGROUPS: cgroups.findings,
    Invariant.BOUNDED_LATENCY: latency.findings,
    Invariant.NOTHING_LEAKED: leaks.findings,
    Invariant.EVERY_FAULT_FIRED: fired.findings,
    Invariant.DRIVER_ALIVE: alive.findings,
}


def check_all(trace: Trace) -> tuple[Finding, ...]:
    """Every finding about a trace, in the order of CHECKERS. Never raises: what a checker cannot do is unknown."""
    try:
        run = look(trace)
    except CgraceError as error:
        return tuple(_unknown(invariant, f"the trace cannot be judged: {error.message}") for invariant in CHECKERS)
    except Exception as error:
        return tuple(_unknown(invariant, f"the trace cannot be judged: {error!r:.200}") for invariant in CHECKERS)
    found: list[Finding] = []
    for invariant, checker in CHECKERS.items():
        try:
            found += checker(run)
        except Exception as error:  # a bug of ours must not pass for a verdict, nor hide the other checkers'
            found.append(_unknown(invariant, f"the checker itself failed: {error!r:.200}"))
    return tuple(found)


def _unknown(invariant: Invariant, why: str) -> Finding:
    return Finding(invariant=invariant, verdict=Verdict.UNKNOWN, summary=f"{invariant}: {why}", short="?")
