"""The last lines of `cgrace run`: what was counted, what is not as expected, what was not run, and what the time went to. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

from rich.text import Text

from cgrace.harness.suite import SuiteRun
from cgrace.harness.verdict import Outcome
from cgrace.reports.console.blocks import WRONG_MAX
from cgrace.reports.console.words import span
from cgrace.reports.inert import inert_line

_COMPARED = {Outcome.REPRODUCED: "also in the baseline", Outcome.REGRESSED: "new"}


def headline(run: SuiteRun) -> str:
    """Everything counted in one line."""
    counts = Counter(r.judgement.outcome for r in run.results if not r.unavailable)
    names = _COMPARED if run.baseline else {}
    parts = [f"{counts[outcome]} {names.get(outcome, outcome)}" for outcome in Outcome if counts[outcome]]
    fixed = sum(bool(c.fixed) for c in run.comparisons)
    told = [
        (fixed, "fixed since the baseline"),
        (len(run.unavailable), "cannot run here"),
        (len(run.not_run), "not run"),
        (sum(r.repeated for r in run.all_results), "repeated because the first run was inconclusive"),
    ]
    parts += [f"{count} {what}" for count, what in told if count]
    total = len(run.results) + len(run.not_run)
    return f"{total} case{'s' * (total != 1)}: {', '.join(parts) or 'nothing'}"


def timing(run: SuiteRun) -> str:
    """The wall clock against the sum of the cases: how much of it happened side by side."""
    text = f"wall clock {span(run.wall_ns)}, {span(run.cases_ns)} of cases in it, ratio {run.ratio:.1f}"
    if run.longest is not None:
        text += f"; the longest took {span(run.longest.wall_ns)}: {inert_line(run.longest.case.id)}"
    return text


def ending(run: SuiteRun) -> Text:
    """The whole ending."""
    against = f" against {inert_line(run.baseline)}" if run.baseline else ""
    text = Text(f"\n{inert_line(headline(run))}\n")
    for title, lines in _lists(run):
        text.append(f"{inert_line(title)}:\n", style="bold")
        for line in _bounded(lines):
            text.append(f"  {line}\n")
    if run.interrupted:
        text.append("Interrupted.", style="bold red")
    elif run.passed:
        text.append(f"Nothing new{against}" if run.baseline else "All as expected.", style="bold green")
    elif not run.wrong and not run.not_run:
        text.append("This machine can run none of them.", style="bold red")
    elif run.wrong:
        what = "new or undecided" + against if run.baseline else "not as expected"
        text.append(f"{len(run.wrong)} of {len(run.results)} {what}", style="bold red")
    else:
        text.append("Not all was run.", style="bold red")
    return text.append(f"\n{timing(run)}\n", style="not bold default").append(_more(run), style="not bold default")


def _lists(run: SuiteRun) -> Iterator[tuple[str, list[str]]]:
    wrong = [f"{r.case.id}: {r.judgement.outcome}: {r.error or '; '.join(r.judgement.reasons)}" for r in run.wrong]
    same = list(dict.fromkeys(f"{c.case.id}: {wrong}" for c in run.comparisons for wrong in c.same))
    fixed = list(dict.fromkeys(f"{c.case.id}: {wrong}" for c in run.comparisons for wrong in c.fixed))
    for title, lines in (
        (f"also in the baseline {run.baseline}", same),
        (f"fixed since the baseline {run.baseline}", fixed),
        ("cannot run here", [f"{r.case.id}: {r.error}" for r in run.unavailable]),
        ("not run", [f"{one.case.id}: {one.why}" for one in run.not_run]),
        ("new" if run.baseline else "not as expected", wrong),
    ):
        if lines:
            yield title, lines


def _bounded(lines: Sequence[str]) -> list[str]:
    shown = [inert_line(line) for line in lines[:WRONG_MAX]]
    return shown + ([f"... {len(lines) - WRONG_MAX} more"] if len(lines) > WRONG_MAX else [])


def _more(run: SuiteRun) -> str:
    telling = run.wrong or tuple(r for r in run.results if r.judgement.violated)
    if not telling:
        return "More: cgrace report last"
    scenario = telling[0].case.scenario
    return f"More: cgrace report last --row {scenario.rows[0] if scenario.rows else scenario.name}"
