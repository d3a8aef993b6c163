"""The sweep's table: where each driver's outcome changes. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from cgrace.harness.clock import brief
from cgrace.harness.suite import Case
from cgrace.harness.sweep import JobLatency, Span, Stretch
from cgrace.reports.console.matrix import LEGEND

Swept = tuple[Case, Sequence[Stretch], Sequence[int]]
_WHAT = {
    "late": "JobRemoved kept back from drivers that wait no longer than this",
    "early": "JobRemoved before the reply that names its job (1) or as systemd sends it (0)",
    "lost": "the nth JobRemoved never comes (0: all come)",
    "units": "so many units at once",
}


def table(span: Span, swept: Sequence[Swept]) -> RenderableType:
    """A line a driver and setting: the outcomes in order, each with where it begins."""
    scenario = swept[0][0].scenario
    found = Table(box=None, pad_edge=False, padding=(0, 1), header_style="bold")
    for name in ("driver", "setting", "own wait", f"outcome by {span.axis}"):
        found.add_column(name)
    for case, stretches, waits in swept:
        setting = f"{case.setting.profile} {case.setting.layout}"
        told = Text("")
        for number, stretch in enumerate(stretches):
            if number:
                told.append(f"   from {_between(span, stretches[number - 1].last, stretch.first)}:  ", style="dim")
            told.append(stretch.outcome, style="dim" if stretch.outcome == "." else "bold")
        if len(stretches) == 1:
            told.append(f"   from {span.told(span.first)} to {span.told(span.last)}", style="dim")
        found.add_row(case.driver.name, setting, brief(max(waits)) if waits else "-", told)
    heading = f"{scenario.name}: {scenario.title}\n{span.axis}: {_WHAT[span.axis]}"
    return Group(Text(heading, style="bold"), found, Text(LEGEND, style="dim"))


def _between(span: Span, low: int, high: int) -> str:
    """Where it changes: the first value of the new outcome, and how far below the old one was still seen."""
    return span.told(high) if span.axis != "late" else f"{span.told(low)} to {span.told(high)}"


def latency(version: str, measured: Sequence[JobLatency]) -> RenderableType:
    """How long the jobs of a real systemd take."""
    found = Table(box=None, pad_edge=False, padding=(0, 1), header_style="bold")
    for name in (f"systemd {version}: a slice's job", "p50", "p99", "longest", "units"):
        found.add_column(name)
    for one in measured:
        found.add_row(one.load, brief(one.p50_ns), brief(one.p99_ns), brief(one.most_ns), str(one.units))
    return found
