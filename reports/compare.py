"""What changed between two runs: cases, outcomes, findings, versions, and the first place where their schedules part. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from cgrace.harness.canonical import canonical
from cgrace.harness.errors import CgraceError
from cgrace.harness.trace import Trace
from cgrace.harness.verdict import Finding, Verdict
from cgrace.reports.inert import inert_line

LINES_MAX = 12
"""Lines of two canonical traces that are shown beside each other."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """One result of a run, as far as it is compared. trace: None where it cannot be read; then `problem` says why."""

    case: str
    outcome: str
    findings: tuple[Finding, ...]
    trace: Trace | None = None
    problem: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Changed:
    """How one case differs. outcome: (before, after), alike where it did not change. lines: text for people."""

    case: str
    outcome: tuple[str, str]
    gone: tuple[str, ...] = ()
    new: tuple[str, ...] = ()
    schedule: tuple[str, ...] = ()

    @property
    def same(self) -> bool:
        """Whether nothing that counts changed."""
        return self.outcome[0] == self.outcome[1] and not (self.gone or self.new or self.schedule)


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """All of it. only_first, only_second: cases that the other run does not have. versions: (name, before, after)."""

    changed: tuple[Changed, ...]
    alike: int
    only_first: tuple[str, ...] = ()
    only_second: tuple[str, ...] = ()
    versions: tuple[tuple[str, str, str], ...] = field(default=())

    @property
    def same(self) -> bool:
        """Whether the runs come to the same; other versions alone are no difference."""
        return not (self.changed or self.only_first or self.only_second)


def compare(first: Sequence[Told], second: Sequence[Told]) -> Comparison:
    """Case by case, by name. Two single results of different cases are compared with each other: two drivers, two profiles."""
    before, after = {one.case: one for one in first}, {one.case: one for one in second}
    if len(first) == len(second) == 1 and first[0].case != second[0].case:
        both = [(f"{first[0].case} and {second[0].case}", first[0], second[0])]
        missing: tuple[tuple[str, ...], tuple[str, ...]] = ((), ())
    else:
        both = [(case, one, after[case]) for case, one in before.items() if case in after]
        missing = (tuple(c for c in before if c not in after), tuple(c for c in after if c not in before))
    changes = [_changed(case, one, other) for case, one, other in both]
    return Comparison(
        changed=tuple(change for change in changes if not change.same),
        alike=sum(change.same for change in changes),
        only_first=missing[0],
        only_second=missing[1],
        versions=_versions([one for _, one, _ in both], [other for _, _, other in both]),
    )


def _changed(case: str, one: Told, other: Told) -> Changed:
    before, after = _wrong(one.findings), _wrong(other.findings)
    return Changed(
        case=case,
        outcome=(one.outcome, other.outcome),
        gone=tuple(text for key, text in before.items() if key not in after),
        new=tuple(text for key, text in after.items() if key not in before),
        schedule=_schedule(one, other),
    )


def _wrong(findings: Sequence[Finding]) -> dict[tuple[str, ...], str]:
    """What is wrong, by what makes it the same thing in another run: times in its text do not count."""
    return {
        (f.invariant, f.verdict, f.subject, f.short): inert_line(f.summary or f.invariant)
        for f in findings
        if f.verdict is not Verdict.HOLDS
    }


def _schedule(one: Told, other: Told) -> tuple[str, ...]:
    """The first lane in which the canonical traces differ, and the first lines of it that do."""
    if one.trace is None or other.trace is None:
        return tuple(f"the trace cannot be read: {t.problem}" for t in (one, other) if t.trace is None and t.problem)
    try:
        before, after = _lanes(canonical(one.trace)), _lanes(canonical(other.trace))
    except CgraceError as error:
        return (f"the traces cannot be compared: {error.message}",)
    differ = [name for name in dict.fromkeys([*before, *after]) if before.get(name) != after.get(name)]
    if not differ:
        return ()
    name = min(differ, key=_told_first)
    more = f" (and {len(differ) - 1} more parts)" if len(differ) > 1 else ""
    return (f"first difference in: {inert_line(name)}{more}", *_beside(before.get(name, []), after.get(name, [])))


def _told_first(lane: str) -> tuple[int, str]:
    """Steps tell most, then messages, jobs and cgroups."""
    order = ("calls", "step ", "run", "process ", "driver ", "fault ", "jobs ", "unit ", "cgroup ", "look ")
    return next((number for number, start in enumerate(order) if lane.startswith(start)), len(order)), lane


def _lanes(text: str) -> dict[str, list[str]]:
    lanes: dict[str, list[str]] = {}
    lane: list[str] = []
    for line in text.splitlines():
        if line.startswith("[") and line.endswith("]"):
            lane = lanes.setdefault(line[1:-1], [])
        else:
            lane.append(line)
    return lanes


def _beside(before: list[str], after: list[str]) -> list[str]:
    """From the first line that differs: "-" for what was, "+" for what is."""
    same = 0
    while same < min(len(before), len(after)) and before[same] == after[same]:
        same += 1
    told = [f"  {inert_line(before[same - 1])}"] if same else []
    told += [f"- {inert_line(line)}" for line in before[same : same + LINES_MAX // 2]]
    return told + [f"+ {inert_line(line)}" for line in after[same : same + LINES_MAX // 2]]


def _versions(first: Sequence[Told], second: Sequence[Told]) -> tuple[tuple[str, str, str], ...]:
    """Versions that differ, each once. A driver's own is named after it."""
    found: dict[tuple[str, str, str], None] = {}
    for one, other in zip(first, second, strict=True):
        if one.trace is None or other.trace is None:
            continue
        before, after = _parts(one.trace), _parts(other.trace)
        for name in dict.fromkeys([*before, *after]):
            if before.get(name) != after.get(name):
                found[name, before.get(name, "none"), after.get(name, "none")] = None
    return tuple(found)


def _parts(trace: Trace) -> dict[str, str]:
    head = trace.head
    driver: Mapping[str, Any] = head.driver
    parts = {inert_line(str(key)): inert_line(str(value)) for key, value in head.versions.items()}
    parts |= {"target": inert_line(head.target), "profile": inert_line(head.profile), "layout": inert_line(head.layout)}
    name = inert_line(str(driver.get("name", "driver")))
    parts["driver"] = f"{name} {inert_line(str(driver.get('version', '')))}".strip()
    if "build" in driver:
        parts["driver's build"] = f"{name} {inert_line(str(driver['build']))}"
    return parts
