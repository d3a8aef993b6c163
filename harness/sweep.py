"""Where a driver's outcome changes: one scenario with one of its quantities varied. Pure.

Axes:
* late: JobRemoved is kept back from a driver that waits no longer than this (a hold's patience, so nothing is slept): 0 keeps it
  back from every driver that waits with a limit, 2 s from those that give it less than two seconds.
* early: JobRemoved before the reply that names its job (1), or as systemd sends it (0).
* lost: the nth JobRemoved of the run never comes (0: all come).
* units: the first step on so many units at once.
"""

from __future__ import annotations

import dataclasses
import itertools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from cgrace.harness import faults as ft
from cgrace.harness.clock import NS_PER_MS, NS_PER_S, brief
from cgrace.harness.errors import UsageError
from cgrace.harness.points import parse_point
from cgrace.harness.scenario.model import Scenario, Step

AXES = ("late", "early", "lost", "units")
FAULT = "swept"
FINE = 20  # a late flip is looked for until its place is known to one part in so many ...
FINE_NS = 20 * NS_PER_MS  # ... or to this
AROUND = 50  # a driver's own wait is tried from one part in so many below it to as much above
SPARE_NS = 20 * NS_PER_S  # of a run's wall clock, beyond the longest wait
LOST_MAX, UNITS_MAX, LATE_NS_MAX = 64, 256, 300 * NS_PER_S
_TIME = re.compile(r"([0-9]+(?:\.[0-9]+)?)(ms|s|m)?")
_UNIT_NS = {"ms": NS_PER_MS, "s": NS_PER_S, "m": 60 * NS_PER_S}


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """What is swept: an axis from `first` to `last`, both in it. late counts in nanoseconds."""

    axis: str
    first: int
    last: int

    @classmethod
    def parse(cls, axis: str, text: str) -> Span:
        """ "0..31s", "1..8"; UsageError for anything else."""
        first, dots, last = text.partition("..")
        read = _time if axis == "late" else _number
        low, high = read(first, last), read(last, "")
        most = {"late": LATE_NS_MAX, "early": 1, "lost": LOST_MAX, "units": UNITS_MAX}[axis]
        least = 1 if axis == "units" else 0
        if not dots or low is None or high is None or not least <= low < high <= most:
            example = {"late": "0..31s", "early": "0..1", "lost": f"0..{LOST_MAX}", "units": f"1..{UNITS_MAX}"}[axis]
            raise UsageError(f"--{axis} {text!r} is no range that can be swept", hint=f"such as --{axis} {example}")
        return cls(axis=axis, first=low, last=high)

    @property
    def ends(self) -> tuple[int, ...]:
        """What is tried first. Whole numbers are few, so all of them are, but units in doubling steps."""
        if self.axis == "late":
            return (self.first, self.last)
        if self.axis == "units":
            found = [self.first]
            while found[-1] * 2 < self.last:
                found.append(found[-1] * 2)
            return (*found, self.last)
        return tuple(range(self.first, self.last + 1))

    def between(self, low: int, high: int) -> int | None:
        """The value to try next between two whose outcomes differ; None where it is known well enough."""
        if self.axis == "late":
            if high - low <= max(FINE_NS, high // FINE):
                return None
        elif high - low <= 1:
            return None
        return (low + high) // 2

    def around(self, wait_ns: int) -> tuple[int, ...]:
        """Values on both sides of a wait that a driver was seen in: that is where it changes, most likely."""
        if self.axis != "late":
            return ()
        near = (wait_ns - wait_ns // AROUND, wait_ns + wait_ns // AROUND)
        return tuple(value for value in near if self.first < value < self.last)

    def told(self, value: int) -> str:
        """A value as people write it."""
        return brief(value) if self.axis == "late" else str(value)


def _time(text: str, other: str) -> int | None:
    found = _TIME.fullmatch(text.strip())
    if found is None:
        return None
    unit = found[2] or (match[2] if (match := _TIME.fullmatch(other.strip())) else None) or ("s" if not other else "")
    if not found[2] and float(found[1]) == 0:
        return 0
    return int(float(found[1]) * _UNIT_NS[unit]) if unit else None


def _number(text: str, _other: str) -> int | None:
    return int(text) if text.strip().isdecimal() and len(text) < 6 else None


def at(scenario: Scenario, axis: str, value: int) -> Scenario:
    """The scenario with the axis at a value. UsageError where it has no step that starts a unit."""
    return {"late": _late, "early": _early, "lost": _lost, "units": _units}[axis](scenario, value)


def _first(scenario: Scenario) -> Step:
    step = next((step for step in scenario.steps if step.do == "apply"), None)
    if step is None:
        raise UsageError(f"{scenario.name} applies nothing, so no JobRemoved can be swept", file=scenario.file)
    return step


def _late(scenario: Scenario, value: int) -> Scenario:
    """The scenario's own hold or gate of a job with this patience, else one on the first unit's JobRemoved."""
    longer = dataclasses.replace(
        scenario,
        patience_ns=max(scenario.patience_ns, 2 * LATE_NS_MAX),
        wall_ns=max(scenario.wall_ns, value + SPARE_NS),
    )
    for number, fault in enumerate(scenario.faults):
        if isinstance(fault, ft.JobStays) or (isinstance(fault, ft.Hold) and fault.match.member == "JobRemoved"):
            patient = dataclasses.replace(fault, patience_ns=value)
            return dataclasses.replace(
                longer, faults=(*scenario.faults[:number], patient, *scenario.faults[number + 1 :])
            )
    step = _first(scenario)
    hold = ft.Hold(id=FAULT, match=_removed(step.unit), until=parse_point(f"{step.id} ended"), patience_ns=value)
    return dataclasses.replace(longer, faults=(*scenario.faults, hold))


def _early(scenario: Scenario, value: int) -> Scenario:
    step = _first(scenario)
    if not value:
        return scenario
    match = ft.Match(
        text=f"reply to StartTransientUnit of {step.unit}", kind="answer", member="StartTransientUnit", unit=step.unit
    )
    until = parse_point(f"JobRemoved of {step.unit} sent")
    return dataclasses.replace(
        scenario, faults=(*scenario.faults, ft.Hold(id=FAULT, match=match, until=until, patience_ns=None))
    )


def _lost(scenario: Scenario, value: int) -> Scenario:
    if not value:
        return scenario
    match = dataclasses.replace(_removed(""), text="JobRemoved", nth=value)
    return dataclasses.replace(scenario, faults=(*scenario.faults, ft.Drop(id=FAULT, match=match)))


def _units(scenario: Scenario, value: int) -> Scenario:
    """The first step on its own unit and on others like it, all called at once; then the scenario's other steps."""
    step = _first(scenario)
    stem, dot, kind = step.unit.rpartition(".")
    others = [
        dataclasses.replace(step, id=f"{step.id}-{number}", unit=f"{stem}{number}{dot}{kind}", after=())
        for number in range(2, value + 1)
    ]
    if step.workload:
        others = [dataclasses.replace(other, workload=f"{step.workload}-{other.id}") for other in others]
    place = scenario.steps.index(step) + 1
    return dataclasses.replace(
        scenario,
        steps=(*scenario.steps[:place], *others, *scenario.steps[place:]),
        workloads=(*scenario.workloads, *(other.workload for other in others if other.workload)),
    )


def _removed(unit: str) -> ft.Match:
    return ft.Match(text=f"JobRemoved of {unit}", kind="signal", member="JobRemoved", unit=unit)


@dataclass(frozen=True, slots=True, kw_only=True)
class Stretch:
    """A part of the span in which the outcome was the same wherever it was tried. first, last: the outermost values tried."""

    first: int
    last: int
    outcome: str


def stretches(outcomes: Mapping[int, str]) -> tuple[Stretch, ...]:
    """Outcomes by value, joined where neighbours are the same."""
    found: list[Stretch] = []
    for value in sorted(outcomes):
        if found and found[-1].outcome == outcomes[value]:
            found[-1] = dataclasses.replace(found[-1], last=value)
        else:
            found.append(Stretch(first=value, last=value, outcome=outcomes[value]))
    return tuple(found)


def wanted(span: Span, outcomes: Mapping[int, str], waits_ns: Sequence[int]) -> tuple[int, ...]:
    """The values to try next: both ends, then around the driver's own waits, then between outcomes that differ."""
    if untried := [value for value in span.ends if value not in outcomes]:
        return tuple(untried)
    if len(set(outcomes.values())) == 1:
        return ()
    near = {value for wait in waits_ns for value in span.around(wait)}
    if untried := [value for value in sorted(near) if value not in outcomes]:
        return tuple(untried)
    known = stretches(outcomes)
    middles = (span.between(low.last, high.first) for low, high in itertools.pairwise(known))
    return tuple(value for value in middles if value is not None and value not in outcomes)


@dataclass(frozen=True, slots=True, kw_only=True)
class JobLatency:
    """How long a real systemd's jobs took, of `units` slices, in nanoseconds. load: "idle", or what kept the machine busy."""

    load: str
    units: int
    p50_ns: int
    p99_ns: int
    most_ns: int
