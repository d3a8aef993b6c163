"""The table: rows of the story by generations of drivers. Pure: results in, a rich renderable out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from cgrace.harness.drivers.base import DriverSpec
from cgrace.harness.scenario.model import Scenario, Setting
from cgrace.harness.suite import CaseResult
from cgrace.harness.verdict import Outcome
from cgrace.reports.console.words import rows_label

# The order in which history made them; what is not named here follows in order of appearance.
LADDER = (
    "cgroupfs",
    "rc4",
    "async",
    "wait-forever",
    "timeout",
    "err-nil",
    "err-nil-delegate",
    "buffered",
    "rc5",
    "rc6",
    "today",
)
OWN = "source"  # the generation of builds of the user's own
HEAD_MAX = 18
ISSUES_MAX = 3  # named above the table
_HEADS = {"wait-forever": "forever", "err-nil-delegate": "+delegate"}
_STYLES = {
    Outcome.CLEAN: "dim",
    Outcome.REPRODUCED: "bold yellow",
    Outcome.REGRESSED: "bold red",
    Outcome.VANISHED: "bold magenta",
    Outcome.INCONCLUSIVE: "bold cyan",
}
LEGEND = (
    ". nothing violated   LOST cgroups   HANG deadlock   SLOW over its bound   ERR a step failed   ? cannot tell\n"
    "- does not fit   n/a cannot run here   ! not what history says   (cgrace explain)"
)
FAILED = "ERR"  # a step ended with an error
UNAVAILABLE = "n/a"  # this machine cannot run it
UNNAMED = "BAD"  # a violation whose checker gave no short word


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One scenario in one of its settings, with every result of it, in order."""

    scenario: Scenario
    setting: Setting
    results: tuple[CaseResult, ...]

    def of(self, column: str) -> tuple[CaseResult, ...]:
        """The results of one column."""
        return tuple(r for r in self.results if column_of(r.case.driver) == column)

    @property
    def passes(self) -> bool:
        """Whether every result is what history says."""
        return all(r.judgement.outcome.passes or r.unavailable for r in self.results)


def rows_of(results: Iterable[CaseResult]) -> tuple[Row, ...]:
    """Results by scenario and setting, in order of first appearance."""
    grouped: dict[tuple[str, Setting], list[CaseResult]] = {}
    for result in results:
        grouped.setdefault((str(result.case.scenario.file), result.case.setting), []).append(result)
    return tuple(
        Row(scenario=found[0].case.scenario, setting=setting, results=tuple(found))
        for (_, setting), found in grouped.items()
    )


def column_of(driver: DriverSpec) -> str:
    """The column of a driver: its generation; builds of the user's own have one each."""
    return driver.name if driver.generation == OWN else driver.generation


def columns_of(results: Iterable[CaseResult]) -> tuple[str, ...]:
    """Every column that has a result, in ladder order."""
    seen = dict.fromkeys(column_of(r.case.driver) for r in results)
    return (*(g for g in LADDER if g in seen), *(g for g in seen if g not in LADDER))


def head_of(column: str) -> str:
    """What a column is called, short enough for a table: of a path its end."""
    head = _HEADS.get(column, column)
    return head if len(head) <= HEAD_MAX else f"...{head[3 - HEAD_MAX :]}"


def cell(result: CaseResult) -> str:
    """One result in a word; a trailing "!" where it is not what history says."""
    judgement = result.judgement
    if result.unavailable:
        return UNAVAILABLE
    violated = " ".join(dict.fromkeys(f.short or UNNAMED for f in judgement.violated))
    match judgement.outcome:
        case Outcome.INCONCLUSIVE:
            return "?"
        case Outcome.CLEAN:
            return "."
        case Outcome.VANISHED:
            return f"{violated or '.'}!"
        case Outcome.REGRESSED:
            return f"{violated or FAILED}!"
    return violated or FAILED


def _cell_text(results: Sequence[CaseResult]) -> Text:
    """A table cell: the word that all results share, or every different one, joined by "/"."""
    if not results:
        return Text("-", style="dim")
    text = Text(justify="center")
    for number, (word, outcome) in enumerate(dict.fromkeys((cell(r), r.judgement.outcome) for r in results)):
        text.append("/" if number else "")
        text.append(word, style="dim" if word == "." else _STYLES[outcome])
    return text


def row_labels(rows: Sequence[Row]) -> list[str]:
    """What each line is called: the story's row, and the setting where a scenario has more than one."""
    files = Counter(row.scenario.file for row in rows)
    profiles = Counter((row.scenario.file, row.setting.profile) for row in rows)
    labels = []
    for row in rows:
        label = rows_label(row.scenario)
        if files[row.scenario.file] > 1:
            label += f" @{row.setting.profile}"
        if profiles[row.scenario.file, row.setting.profile] > 1:
            label += f" {row.setting.layout}"
        labels.append(label)
    return labels


def heading(results: Sequence[CaseResult]) -> str:
    """The line above the table: the story, what stands for systemd, the layouts."""
    issues = dict.fromkeys(r.case.scenario.issue for r in results if r.case.scenario.issue)
    profiles = sorted({r.case.setting.profile for r in results})
    layouts = sorted({r.case.setting.layout for r in results})
    story = " ".join(issue.replace("opencontainers/", "").replace("#", " #") for issue in issues)
    if len(issues) > ISSUES_MAX:
        story = f"{len(issues)} issues"
    targets = " / ".join(dict.fromkeys(r.case.target for r in results))
    named = "fake systemd" if targets in ("", "fake") else f"{targets}: systemd"
    systemd = f"{named} {' / '.join(profiles)}, cgroup {' and '.join(layouts)}"
    return " | ".join(part for part in (story, systemd, "real drivers") if part)


def matrix(results: Sequence[CaseResult]) -> RenderableType:
    """The whole table with its heading and legend."""
    columns = columns_of(results)
    rows = rows_of(results)
    table = Table(box=None, pad_edge=False, padding=(0, 1), header_style="bold")
    table.add_column("row", no_wrap=True)
    table.add_column("what happens", min_width=24, ratio=1)
    for column in columns:
        table.add_column(head_of(column), justify="center", no_wrap=True)
    told: set[str] = set()  # a title is said once, at the first of a scenario's settings
    for label, row in zip(row_labels(rows), rows, strict=True):
        name = Text(label) if row.passes else Text(f"{label} !", style="bold red")
        cells = [_cell_text(row.of(column)) for column in columns]
        title = "" if str(row.scenario.file) in told else row.scenario.title
        told.add(str(row.scenario.file))
        table.add_row(name, Text(title), *cells)
    return Group(Text(heading(results), style="bold"), table, Text(LEGEND, style="dim"))


def repeats(results: Sequence[CaseResult]) -> RenderableType:
    """For repeated cases: how many of n were what history says, and how many different runs that was."""
    table = Table(box=None, pad_edge=False, padding=(0, 1), header_style="bold")
    for name in ("row", "setting", "driver", "as history says", "came out", "different traces"):
        table.add_column(name, no_wrap=True)
    grouped: dict[str, list[CaseResult]] = {}
    for result in results:
        grouped.setdefault(result.case.id, []).append(result)
    for found in grouped.values():
        case = found[0].case
        passed = sum(r.judgement.outcome.passes for r in found)
        traces = len({r.canonical for r in found if r.canonical})
        words = [cell(r) for r in found]
        table.add_row(
            rows_label(case.scenario),
            f"{case.setting.profile} {case.setting.layout}",
            case.driver.name,
            Text(f"{passed} of {len(found)}", style="bold green" if passed == len(found) else "bold red"),
            ", ".join(f"{word} x {words.count(word)}" for word in dict.fromkeys(words)),
            str(traces),
        )
    return table
