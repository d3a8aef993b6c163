"""The last lines of `cgrace run`: what was counted, what is not as expected, what was not run, and what the time went to. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

from rich.text import Text

from cgrace.harness.suite import Case, CaseResult, SuiteRun
from cgrace.harness.verdict import Outcome
from cgrace.reports.console.blocks import WRONG_MAX
from cgrace.reports.console.words import span, without_numbers
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
    return f"{_counted(run)}: {', '.join(parts) or 'nothing'}"


def _counted(run: SuiteRun) -> str:
    """How many cases that was, and how many runs where they were repeated."""
    cases = _turns(run)
    different = len({case.id for case in cases})
    text = f"{different} case{'s' * (different != 1)}"
    return text if not any(case.turn for case in cases) else f"{text}, {len(cases)} runs"


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
        text.append(f"{_wrong_of_all(run)} {what}", style="bold red")
    else:
        text.append("Not all was run.", style="bold red")
    return text.append(f"\n{timing(run)}\n", style="not bold default").append(_more(run), style="not bold default")


def _wrong_of_all(run: SuiteRun) -> str:
    wrong, cases = len({r.case.id for r in run.wrong}), len({r.case.id for r in run.results})
    if len(run.results) == cases:
        return f"{wrong} of {cases}"
    return f"{wrong} of {cases} cases, {len(run.wrong)} of {len(run.results)} runs"


def _lists(run: SuiteRun) -> Iterator[tuple[str, list[str]]]:
    wrong = _of_turns(run, [(r.case, f"{r.judgement.outcome}: {_why(r)}") for r in run.wrong])
    same = list(dict.fromkeys(f"{c.case.id}: {wrong}" for c in run.comparisons for wrong in c.same))
    fixed = list(dict.fromkeys(f"{c.case.id}: {wrong}" for c in run.comparisons for wrong in c.fixed))
    for title, lines in (
        (f"also in the baseline {run.baseline}", same),
        (f"fixed since the baseline {run.baseline}", fixed),
        ("cannot run here", _of_turns(run, [(r.case, r.error) for r in run.unavailable])),
        ("not run", _of_turns(run, [(one.case, one.why) for one in run.not_run])),
        ("new" if run.baseline else "not as expected", wrong),
    ):
        if lines:
            yield title, lines


def _turns(run: SuiteRun) -> list[Case]:
    """Everything that was to run, repetitions one by one."""
    return [result.case for result in run.results] + [one.case for one in run.not_run]


def _why(result: CaseResult) -> str:
    """Why a result is not as expected."""
    return result.error or "; ".join(result.judgement.reasons)


def _of_turns(run: SuiteRun, told: Sequence[tuple[Case, str]]) -> list[str]:
    """Each case once with what is told of it, and of repeated ones of how many of their runs: "ID: 3 of 10: regressed: ...".
    What differs in numbers alone is told once."""
    turns = Counter(case.id for case in _turns(run))
    found: dict[tuple[str, str], list[str]] = {}
    for case, text in told:
        found.setdefault((case.id, without_numbers(text)), []).append(text)
    return [
        f"{case}: {texts[0]}" if turns[case] == 1 else f"{case}: {len(texts)} of {turns[case]}: {texts[0]}"
        for (case, _), texts in found.items()
    ]


def _bounded(lines: Sequence[str]) -> list[str]:
    shown = [inert_line(line) for line in lines[:WRONG_MAX]]
    return shown + ([f"... {len(lines) - WRONG_MAX} more"] if len(lines) > WRONG_MAX else [])


def _more(run: SuiteRun) -> str:
    telling = run.wrong or tuple(r for r in run.results if r.judgement.violated)
    if not telling:
        return "More: cgrace report last"
    scenario = telling[0].case.scenario
    return f"More: cgrace report last --row {scenario.rows[0] if scenario.rows else scenario.name}"
