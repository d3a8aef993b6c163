"""Nothing leaked: what a driver made is gone after its destroy has returned.

Judged only where the driver said that it was done: units and cgroups whose destroy returned without an error (slices never
end by themselves; several generations do not wait in destroy, so the look is made when the bus is idle), match rules whose
connection was closed (no Go driver takes its rule back, the bus does when the connection ends), and processes always.
"""

from __future__ import annotations

from cgrace.harness import events as ev
from cgrace.harness.checkers import explain
from cgrace.harness.checkers.text import listed
from cgrace.harness.checkers.view import Run, look
from cgrace.harness.trace import Entry, Trace
from cgrace.harness.verdict import Finding, Invariant, Verdict

INVARIANT = Invariant.NOTHING_LEAKED
STATES = {"freeze": "FROZEN", "thaw": "THAWED"}
"""What a cgroup was left in, though the scenario asked for the contrary."""


def check(trace: Trace) -> tuple[Finding, ...]:
    """One finding for each kind of thing and step that leaked it; one that holds when nothing did."""
    return findings(look(trace))


def findings(run: Run) -> tuple[Finding, ...]:
    """`check` of a joined trace."""
    leaked: dict[tuple[str, str], list[tuple[Entry, ev.Leftover]]] = {}
    excused = 0
    for entry, left in run.trace.of(ev.Leftover):
        if _judged(run, entry, left):
            leaked.setdefault((left.kind, left.step), []).append((entry, left))
        else:
            excused += 1
    if not leaked:
        note = f" ({excused} things remain that no destroy had promised to remove)" if excused else ""
        return (Finding(invariant=INVARIANT, verdict=Verdict.HOLDS, summary=f"nothing was left behind{note}"),)
    return tuple(_finding(run, kind, step, lefts) for (kind, step), lefts in leaked.items())


def _finding(run: Run, kind: str, step: str, lefts: list[tuple[Entry, ev.Leftover]]) -> Finding:
    names = [left.name for _, left in lefts]
    if state := STATES.get(kind):
        summary = f"{state}: {listed(names)}, which nobody had asked for"
        explanation = explain.left_frozen(names[0], kind == "freeze")
        evidence = tuple(f"{name} is {state.lower()} at the end" for name in names)
    else:
        plural = kind if len(names) == 1 else f"{len(names)} {kind}{'es' if kind.endswith('s') else 's'}"
        after = f" after {step} had returned" if step else ""
        summary = f"LEAK of {plural}{after}: {listed(names)}"
        explanation = explain.leaked(kind, names[0], bool(step))
        evidence = tuple(f"{kind} {name} is still there" for name in names)
    return Finding(
        invariant=INVARIANT,
        verdict=Verdict.VIOLATED,
        subject=step or names[0],
        summary=summary,
        short="LEAK",
        explanation=explanation,
        evidence=evidence,
        events=tuple(entry.index for entry, _ in lefts),
        grade=run.worst_grade(lefts[-1][0].t_ns),
    )


def _judged(run: Run, entry: Entry, left: ev.Leftover) -> bool:
    if left.kind == "match rule":
        owners = [rule.connection for _, rule in run.trace.of(ev.MatchRule) if rule.added and rule.rule == left.name]
        closed = {gone.connection for at, gone in run.trace.of(ev.Disconnected) if at.index < entry.index}
        return not owners or any(owner in closed for owner in owners)
    if left.kind not in ("unit", "cgroup"):
        return True
    destroys = [step for step in run.steps.values() if step.op == "destroy" and step.succeeded]
    if left.step:
        return any(step.id == left.step for step in destroys)
    return any(step.unit in left.name.split("/") for step in destroys)
