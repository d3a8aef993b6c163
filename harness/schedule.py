"""Which cases of a run begin: a part of them (shards), or what fits in a time. Values and arithmetic; no I/O but the clock.

Cases begin in the order in which they are given, also under a time budget: a budget then cuts off the same end each time, and
whoever writes the command line says what matters most by naming it first.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from cgrace.harness.clock import NS_PER_S, now_ns
from cgrace.harness.errors import UsageError
from cgrace.harness.suite import Case

UNKNOWN_NS: Final = NS_PER_S  # what a case may take of which nothing is known: most take less
_SPAN = re.compile(r"(?:(\d{1,4})h)?(?:(\d{1,5})m)?(?:(\d{1,6})s)?")


def parse_span(text: str) -> int:
    """Nanoseconds of "3m", "90s", "1h30m"; UsageError for anything else, and for no time at all."""
    found = _SPAN.fullmatch(text)
    hours, minutes, seconds = (int(part or 0) for part in found.groups()) if found else (0, 0, 0)
    total = (hours * 60 + minutes) * 60 + seconds
    if not total:
        raise UsageError(f"{text!r} is not a time", hint="such as 3m, 90s or 1h30m")
    return total * NS_PER_S


@dataclass(frozen=True, slots=True)
class Shard:
    """The `number`th of `count` parts, from 1."""

    number: int
    count: int

    @classmethod
    def parse(cls, text: str) -> Shard:
        """ "2/5"; UsageError for anything else."""
        found = re.fullmatch(r"([0-9]{1,4})/([0-9]{1,4})", text)
        if not found or not 1 <= int(found[1]) <= int(found[2]):
            raise UsageError(f"{text!r} is not a shard", hint="such as 1/3, 2/3 and 3/3 on three machines")
        return cls(int(found[1]), int(found[2]))

    def __str__(self) -> str:
        return f"{self.number}/{self.count}"

    def of(self, cases: Sequence[Case], *, keep_rows: bool = False) -> list[Case]:
        """This part of the cases, in their order. The same cases give the same parts everywhere: they are dealt out like cards,
        so that no two parts differ by more than one and the cases of a slow scenario are spread.

        keep_rows: a scenario in one of its settings stays whole, because its drivers are compared. UsageError where a part
        would be empty.
        """
        keys = [(case.scenario.name, case.setting if keep_rows else case.id) for case in cases]
        place = {key: index for index, key in enumerate(dict.fromkeys(keys))}
        if len(place) < self.count:
            what = "scenarios and settings" if keep_rows else "cases"
            raise UsageError(
                f"{len(place)} {what} do not make {self.count} shards", hint=f"at most --shard 1/{len(place)}"
            )
        return [case for case, key in zip(cases, keys, strict=True) if place[key] % self.count == self.number - 1]


@dataclass(slots=True)
class Budget:
    """A time that a run is to keep to. A case begins only while what it is known to take still fits; what has begun is let end.

    known_ns: by case id, from an earlier run. Without that, a case counts as the longest of its scenario so far.
    """

    total_ns: int
    known_ns: Mapping[str, int]
    clock: Callable[[], int] = now_ns
    began_ns: int = field(init=False)
    _longest_ns: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.began_ns = self.clock()

    def admits(self, case: Case) -> bool:
        """Whether the case still fits."""
        took = self.known_ns.get(case.id) or self._longest_ns.get(case.scenario.name, UNKNOWN_NS)
        return self.clock() - self.began_ns + took <= self.total_ns

    def took(self, case: Case, wall_ns: int) -> None:
        """A case has ended after that time."""
        name = case.scenario.name
        self._longest_ns[name] = max(self._longest_ns.get(name, 0), wall_ns)
