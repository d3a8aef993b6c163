"""What changed between two baselines: which contract is broken, which habit changed, and whom that touches. Pure."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from cgrace.harness.validate.baseline import Baseline
from cgrace.harness.validate.probe import Kind, Probe

WORDING: Final = "text"  # a key of an answer: how an error is worded, which no driver reads
_ABSENT: Final = "(nothing)"


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """One place of an answer. place: "" for the whole answer, else keys and indices; old, new: JSON data."""

    place: str
    old: Any
    new: Any

    @property
    def is_wording(self) -> bool:
        """Whether only an error's text changed."""
        return self.place.rpartition(".")[2] == WORDING


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """A probe whose answer changed. drivers: those that rely on it, by generation; scenarios: those that it touches."""

    probe: Probe
    kind: Kind
    differences: tuple[Difference, ...]
    drivers: tuple[str, ...]
    scenarios: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """A scenario's case that came out otherwise."""

    case: str
    old: str
    new: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """changes: contracts first. same: how many answers are the same. apart: probes that cannot be compared, and why."""

    old: Baseline
    new: Baseline
    changes: tuple[Change, ...]
    outcomes: tuple[Outcome, ...]
    same: int
    apart: Mapping[str, str]

    @property
    def safe(self) -> bool:
        """Whether nothing changed that a driver relies on."""
        return not self.outcomes and not any(change.drivers for change in self.changes)


def compare(old: Baseline, new: Baseline, probes: Iterable[Probe], scenarios: Iterable[str] = ()) -> Comparison:
    """Compare answer by answer. scenarios: the names that patterns are matched with."""
    names = sorted(scenarios)
    changes: list[Change] = []
    apart: dict[str, str] = {}
    same = 0
    for probe in probes:
        asked = [probe.id in one.answers for one in (old, new)]
        if not any(asked):
            continue
        if not all(asked):
            apart[probe.id] = f"only {'the old one' if asked[0] else 'the new one'} was asked"
        elif probe.tree and old.hierarchies != new.hierarchies:
            apart[probe.id] = "it is about cgroups, and the two had other hierarchies"
        elif found := tuple(differences(old.answers[probe.id], new.answers[probe.id])):
            changes.append(_change(probe, found, names))
        else:
            same += 1
    changes.sort(key=lambda one: (one.kind is not Kind.CONTRACT, not one.drivers))
    shared = sorted(old.outcomes.keys() & new.outcomes.keys())
    outcomes = tuple(
        Outcome(case=case, old=old.outcomes[case], new=new.outcomes[case])
        for case in shared
        if old.outcomes[case] != new.outcomes[case]
    )
    return Comparison(old=old, new=new, changes=tuple(changes), outcomes=outcomes, same=same, apart=apart)


def _change(probe: Probe, found: tuple[Difference, ...], names: list[str]) -> Change:
    wording = all(one.is_wording for one in found)
    return Change(
        probe=probe,
        kind=Kind.HABIT if wording else probe.kind,
        differences=found,
        drivers=() if wording else probe.relied_on,
        scenarios=() if wording else touched(probe, names),
    )


def touched(probe: Probe, names: Iterable[str]) -> tuple[str, ...]:
    """The scenarios that the probe's patterns name."""
    return tuple(name for name in names if any(fnmatch.fnmatch(name, each) for each in probe.scenarios))


def differences(old: Any, new: Any, place: str = "") -> Iterable[Difference]:
    """Where two answers differ, as far down as both have the same shape."""
    if old == new and type(old) is type(new):
        return
    pairs: list[tuple[str, Any, Any]] | None = None
    if isinstance(old, dict) and isinstance(new, dict):
        pairs = [(key, old.get(key, _ABSENT), new.get(key, _ABSENT)) for key in sorted(old.keys() | new.keys())]
    elif isinstance(old, list) and isinstance(new, list) and len(old) == len(new) and _nested(old + new):
        pairs = [(str(index), one, other) for index, (one, other) in enumerate(zip(old, new, strict=True))]
    if pairs is None:
        yield Difference(place=place, old=old, new=new)
        return
    for key, one, other in pairs:
        yield from differences(one, other, f"{place}.{key}" if place else key)


def _nested(values: list[Any]) -> bool:
    """A list of plain words is told whole: its order is what matters."""
    return any(isinstance(value, (dict, list)) for value in values)
