"""What changed between two baselines: which contract is broken, which habit changed, and whom that touches. Pure."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

from cgrace.harness.validate.baseline import Baseline, UsersAnswer
from cgrace.harness.validate.probe import Kind, Probe, driving

_UNKNOWN: Final = ("D:PropertyReadOnly", "D:UnknownMethod", "D:UnknownProperty")  # how what is not there is refused
WORDING: Final = "text"  # a key of an answer: how an error is worded, which no driver reads
_ABSENT: Final = "(nothing)"


class How(StrEnum):
    """What kind of change it is, the worst first."""

    BROKEN = "contract broken"
    HABIT = "habit changed"
    EXTENDED = "contract extended"  # what was refused as unknown is known now
    WORDING = "wording changed"  # of errors, which no driver reads


HARMLESS: Final = (How.EXTENDED, How.WORDING)


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

    @property
    def is_extension(self) -> bool:
        """Whether what is new was unknown, or refused and is not any more."""
        old, new = _error_of(self.old), _error_of(self.new)
        return old in _UNKNOWN or (bool(old) and not new)

    @property
    def is_other_error(self) -> bool:
        """Whether both refuse, under other names: that a call fails may be promised, by which name never is."""
        if self.place.rpartition(".")[2] == "error":
            return _ABSENT not in (self.old, self.new)
        return bool(_error_of(self.old) and _error_of(self.new))


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """A probe whose answer changed. drivers: those that rely on it and drive the new one's cgroups, by generation; scenarios: those
    that it touches."""

    probe: Probe
    how: How
    differences: tuple[Difference, ...]
    drivers: tuple[str, ...]
    scenarios: tuple[str, ...]

    @property
    def is_harmless(self) -> bool:
        """Whether it is of a kind that no driver can be hit by."""
        return self.how in HARMLESS


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """A scenario's case that came out otherwise."""

    case: str
    old: str
    new: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """changes: contracts first. same: how many answers are the same. apart: probes that cannot be compared, and why; excused:
    probes whose answers are known to differ, and why."""

    old: Baseline
    new: Baseline
    changes: tuple[Change, ...]
    outcomes: tuple[Outcome, ...]
    same: int
    apart: Mapping[str, str]
    excused: Mapping[str, str]

    @property
    def empty(self) -> bool:
        """Whether nothing of the two could be compared, which says nothing of either."""
        return not (self.same or self.changes or self.excused or self.old.outcomes.keys() & self.new.outcomes.keys())

    @property
    def safe(self) -> bool:
        """Whether nothing changed that a driver relies on."""
        return not self.outcomes and not any(change.drivers for change in self.changes)


def compare(
    old: Baseline,
    new: Baseline,
    probes: Iterable[Probe],
    scenarios: Iterable[str] = (),
    *,
    known: Mapping[str, str] | None = None,
    users: Iterable[UsersAnswer] = (),
) -> Comparison:
    """Compare answer by answer. scenarios: the names that patterns are matched with. known: differences that stay, with why. users:
    what a user's systemd answers otherwise than a machine's, which counts where one of the two is a user's."""
    names = sorted(scenarios)
    changes: list[Change] = []
    apart: dict[str, str] = {}
    excused: dict[str, str] = {}
    same = 0
    natural = tuple(users)
    for probe in probes:
        asked = [probe.id in one.answers for one in (old, new)]
        if not any(asked):
            continue
        if not all(asked):
            apart[probe.id] = f"only {'the old one' if asked[0] else 'the new one'} was asked"
        elif probe.tree and old.hierarchies != new.hierarchies:
            apart[probe.id] = "it is about cgroups, and the two had other hierarchies"
        elif known and probe.id in known and old.answers[probe.id] != new.answers[probe.id]:
            excused[probe.id] = known[probe.id]
        elif found := tuple(differences(old.answers[probe.id], new.answers[probe.id])):
            left, why = _unexplained(probe, found, old, new, natural)
            if why:
                excused[probe.id] = why
            if left:
                changes.append(_change(probe, left, names, new.layout))
        else:
            same += 1
    order = list(How)
    changes.sort(key=lambda one: (order.index(one.how), not one.drivers))
    shared = sorted(old.outcomes.keys() & new.outcomes.keys())
    outcomes = tuple(
        Outcome(case=case, old=old.outcomes[case], new=new.outcomes[case])
        for case in shared
        if old.outcomes[case] != new.outcomes[case]
    )
    return Comparison(
        old=old, new=new, changes=tuple(changes), outcomes=outcomes, same=same, apart=apart, excused=excused
    )


def _unexplained(
    probe: Probe, found: tuple[Difference, ...], old: Baseline, new: Baseline, users: Sequence[UsersAnswer]
) -> tuple[tuple[Difference, ...], str]:
    """The differences that are not a user's systemd's nature, and why the others are."""
    if old.is_users == new.is_users:
        return found, ""
    left, reasons = [], []
    for one in found:
        said = one.new if new.is_users else one.old
        why = [a.reason for a in users if (a.probe, a.place, a.answer) == (probe.id, one.place, said)]
        reasons += why
        if not why:
            left.append(one)
    return tuple(left), "; ".join(reasons)


def _change(probe: Probe, found: tuple[Difference, ...], names: list[str], layout: str) -> Change:
    how = _how(probe, found)
    harmless = how in HARMLESS
    return Change(
        probe=probe,
        how=how,
        differences=found,
        drivers=() if harmless else driving(probe.relied_on, layout),
        scenarios=() if harmless else touched(probe, names),
    )


def _how(probe: Probe, found: tuple[Difference, ...]) -> How:
    if all(one.is_wording for one in found):
        return How.WORDING
    if probe.kind is Kind.HABIT:
        return How.HABIT
    told = [one for one in found if not one.is_wording]
    if all(one.is_extension for one in told):
        return How.EXTENDED
    return How.HABIT if all(one.is_other_error for one in told) else How.BROKEN


def _error_of(answer: Any) -> str:
    """The name of the error that an answer is, "" where it is none."""
    if isinstance(answer, dict):
        return str(answer.get("error", ""))
    return answer if isinstance(answer, str) and answer.startswith(("D:", "S:", "System.Error.")) else ""


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
