"""The published table on a terminal: a scenario's outcomes, each with the drivers that have it. Pure."""

from __future__ import annotations

from collections.abc import Iterable

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from cgrace.reports.console.matrix import LEGEND
from cgrace.reports.matrix.cells import NO_LIMIT, Cell
from cgrace.reports.matrix.table import Line, Matrix

_STYLES = {".": "dim", "?": "bold cyan", "n/a": "dim"}


def shown(found: Matrix, page: str) -> RenderableType:
    """The table, what is open today, and where the page is."""
    table = Table(box=None, pad_edge=False, padding=(0, 1), header_style="bold")
    for name, wide in (("scenario", True), ("setting", True), ("came out", True), ("worst", True), ("waits", True)):
        table.add_column(name, no_wrap=wide)
    table.add_column("drivers", ratio=1)
    for line in found.lines:
        for number, (word, cells) in enumerate(_groups(line).items()):
            first = number == 0
            table.add_row(
                line.scenario.name if first else "",
                f"{line.setting.profile} {line.setting.layout}" if first else "",
                Text(word, style="bold red" if word.endswith("!") else _STYLES.get(word, "bold yellow")),
                _worst(cells),
                _bound(cells),
                ", ".join(cell.driver for cell in cells),
            )
    return Group(table, Text(LEGEND, style="dim"), *_open(found), *((Text(f"The page: {page}"),) if page else ()))


def _groups(line: Line) -> dict[str, list[Cell]]:
    found: dict[str, list[Cell]] = {}
    for cell in line.cells:
        if cell is not None:
            found.setdefault(cell.word, []).append(cell)
    return dict(sorted(found.items(), key=lambda group: group[0] in _STYLES))


def _worst(cells: Iterable[Cell]) -> str:
    measured = [cell for cell in cells if cell.worst_ns is not None]
    return max(measured, key=lambda cell: cell.worst_ns or 0).latency if measured else "-"


def _bound(cells: Iterable[Cell]) -> str:
    bounds = dict.fromkeys(cell.bound for cell in cells if cell.bound)
    return NO_LIMIT if NO_LIMIT in bounds else ", ".join(bounds) or "-"


def _open(found: Matrix) -> list[RenderableType]:
    if not found.open:
        return []
    table = Table(box=None, pad_edge=False, padding=(0, 1), header_style="bold")
    table.add_column("Open in what people run today", ratio=1)
    table.add_column("it is shown by")
    for weak in found.open:
        table.add_row(f"{', '.join(weak.drivers)}: {weak.what}", weak.command)
    return [Text(""), table]
