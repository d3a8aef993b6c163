"""The published table as values: a line a scenario and setting, a column a driver; and what is open in today's drivers."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from cgrace.harness.drivers.base import DriverSpec
from cgrace.harness.scenario.model import Scenario, Setting
from cgrace.harness.suite import CaseResult
from cgrace.harness.verdict import Outcome
from cgrace.reports.console.matrix import rows_of
from cgrace.reports.matrix.cells import Cell

_SECONDS = re.compile(r"([0-9.]+)s\b")
_GRAVEST = ("HANG", "DIED", "LOST")


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One scenario in one setting: its cells by driver, in the order of the columns (None: does not fit)."""

    scenario: Scenario
    setting: Setting
    cells: tuple[Cell | None, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Weakness:
    """What drivers that people run today do wrong. The scenario and one of the drivers make the command that shows it."""

    drivers: tuple[str, ...]
    scenario: Scenario
    cell: Cell

    @property
    def kind(self) -> str:
        """What went wrong, in words: "HANG", "SLOW 30s"."""
        return _kind(self.cell)

    @property
    def what(self) -> str:
        """In one line, of the first of the drivers."""
        return self.cell.why[0] if self.cell.why else self.cell.word

    @property
    def command(self) -> str:
        """What shows it."""
        return f"cgrace run {self.scenario.name} --driver {self.drivers[0]}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Matrix:
    """The whole table."""

    drivers: tuple[DriverSpec, ...]
    lines: tuple[Line, ...]
    open: tuple[Weakness, ...]

    @property
    def counts(self) -> dict[str, int]:
        """How many cells came out how."""
        found: dict[str, int] = dict.fromkeys(Outcome, 0)
        for line in self.lines:
            for cell in line.cells:
                if cell is not None:
                    found[cell.outcome] += 1
        return found


def matrix(pairs: Iterable[tuple[CaseResult, Cell]], today: Sequence[str]) -> Matrix:
    """The table of results with their cells. today: names of the drivers that people run now."""
    found = list(pairs)
    cells = {id(result): cell for result, cell in found}
    drivers = tuple({result.case.driver.name: result.case.driver for result, _ in found}.values())
    lines = []
    for row in rows_of(result for result, _ in found):
        by_driver = {result.case.driver.name: cells[id(result)] for result in row.results}
        lines.append(
            Line(
                scenario=row.scenario,
                setting=row.setting,
                cells=tuple(by_driver.get(driver.name) for driver in drivers),
            )
        )
    return Matrix(drivers=drivers, lines=tuple(lines), open=_open(lines, today))


def _open(lines: Iterable[Line], today: Sequence[str]) -> tuple[Weakness, ...]:
    """One for each scenario and kind of outcome, whatever the setting, with all drivers that have it. Scenarios with the gravest
    come first, and what is of one scenario stands together."""
    found: dict[str, dict[str, Weakness]] = {}
    for line in lines:
        for cell in line.cells:
            if cell is None or cell.driver not in today or not _wrong(cell):
                continue
            kinds, kind = found.setdefault(line.scenario.name, {}), _kind(cell)
            known = kinds.get(kind) or Weakness(drivers=(), scenario=line.scenario, cell=cell)
            names = tuple(dict.fromkeys((*known.drivers, cell.driver)))
            kinds[kind] = Weakness(drivers=names, scenario=known.scenario, cell=known.cell)
    scenarios = [sorted(kinds.values(), key=_gravity) for kinds in found.values()]
    return tuple(weak for kinds in sorted(scenarios, key=lambda kinds: _gravity(kinds[0])) for weak in kinds)


def _kind(cell: Cell) -> str:
    """Its word with the time that a driver would wait as a round one: of 30 s some is over when it is seen to wait."""
    return _SECONDS.sub(_rounded, cell.word.rstrip("!"))


def _rounded(found: re.Match[str]) -> str:
    seconds = float(found[1])
    step = 5 if seconds > 10 else 1
    return f"{max(round(seconds / step) * step, 1)}s"


def _gravity(weak: Weakness) -> int:
    return min((_GRAVEST.index(part) for part in weak.kind.split() if part in _GRAVEST), default=len(_GRAVEST))


def _wrong(cell: Cell) -> bool:
    """Whether a cell tells of a violation, as expected as it may be. A clean error is no weakness, nor is a fault in vain."""
    words = cell.word.rstrip("!").split()
    return not cell.unavailable and words[0] not in (".", "?", "ERR", "n/a", "UNFIRED", "UNMET")
