"""What GitHub Actions shows of a run: annotations at scenario files, and a step summary. Pure: a run in, text out.

An annotation is a workflow command on a line of its own (`::error file=...,line=...::message`); a step summary is Markdown
appended to the file that $GITHUB_STEP_SUMMARY names, at most 1 MiB. Everything that a driver, a unit or a scenario calls itself is
escaped: nothing of it becomes a command, a tag or a table cell of its own.
"""

from __future__ import annotations

import html
import os.path
import re
from collections.abc import Sequence
from pathlib import Path

from cgrace.harness.clock import NS_PER_S
from cgrace.harness.suite import CaseResult, SuiteRun
from cgrace.harness.verdict import Invariant, Verdict
from cgrace.reports.console.blocks import finding_lines
from cgrace.reports.console.matrix import cell, columns_of, head_of, row_labels, rows_of
from cgrace.reports.console.words import without_numbers
from cgrace.reports.inert import inert, inert_line
from cgrace.reports.junit import message_of

ANNOTATIONS_MAX = 50  # GitHub keeps no more of one job
SUMMARY_BYTES_MAX = 900_000  # GitHub takes 1 MiB of one step, and nothing at all of a larger file
FINDINGS_MAX = 50
_MARKDOWN = re.compile(r"([\\`*_{}\[\]()#+!|~@>-])")


def annotate(run: SuiteRun, workspace: Path) -> list[str]:
    """One command for each result that is not as expected, and one that counts what was not run. Files below `workspace` are
    named as GitHub knows them."""
    wrong = _different(run.wrong)
    lines = [_annotation(result, workspace) for result in wrong[:ANNOTATIONS_MAX]]
    if len(wrong) > ANNOTATIONS_MAX:
        lines.append(command("error", f"{len(wrong) - ANNOTATIONS_MAX} more are in the summary", title="cgrace"))
    if run.not_run:
        why = ", ".join(dict.fromkeys(one.why for one in run.not_run))
        lines.append(command("error", f"{len(run.not_run)} not run: {why}", title="cgrace"))
    return lines


def command(word: str, message: str, **properties: str | int) -> str:
    """A workflow command: "::error file=a.toml,line=3::message". GitHub undoes the percent signs."""
    told = ",".join(f"{key}={_escape(str(value), ':,')}" for key, value in properties.items())
    return f"::{word}{' ' if told else ''}{told}::{_escape(message)}"


def _escape(text: str, also: str = "") -> str:
    for character in "%\r\n" + also:
        text = text.replace(character, f"%{ord(character):02X}")
    return text


def _annotation(result: CaseResult, workspace: Path) -> str:
    lines = [message_of(result)]
    for finding in result.judgement.violated:
        lines += finding_lines(finding, evidence_max=6)
    where = file_below(result.case.scenario.file, workspace)
    title = f"{result.case.id}: {result.judgement.outcome}"
    return command("error", inert("\n".join(lines)), file=where, line=line_of(result), title=inert_line(title))


def file_below(file: Path, workspace: Path) -> str:
    """A path as the repository in `workspace` knows it; an absolute one for what lies elsewhere."""
    inside = os.path.relpath(os.path.abspath(file), os.path.abspath(workspace))  # noqa: PTH100 (links stay as they are called)
    return os.path.abspath(file) if inside.startswith("..") else inside  # noqa: PTH100


def line_of(result: CaseResult) -> int:
    """The line of the scenario file that a reader should look at: the step or fault of the first finding, what was expected and
    did not show, or the first line."""
    scenario = result.case.scenario
    lines = {step.id: step.line for step in scenario.steps}
    faults = {fault.id: fault.line for fault in scenario.faults}
    for finding in result.judgement.findings:
        if finding.verdict is not Verdict.HOLDS:
            known = faults if finding.invariant is Invariant.EVERY_FAULT_FIRED else lines
            if known.get(finding.subject, 0) > 0:
                return known[finding.subject]
    for step, _ in result.judgement.failed:
        if lines.get(step, 0) > 0:
            return lines[step]
    return next((expect.line for expect in result.case.expected if expect.line > 0), 1)


def summary(run: SuiteRun, headline: str) -> str:
    """The step summary: the headline, the table, then what is not as expected with its findings."""
    parts = [f"## cgrace: {_plain(headline)}\n", _table(run)]
    wrong = _different(run.wrong)
    parts += [_finding(result) for result in wrong[:FINDINGS_MAX]]
    if len(wrong) > FINDINGS_MAX:
        parts.append(f"... {len(wrong) - FINDINGS_MAX} more\n")
    parts += _list("Cannot run here", [f"{r.case.id}: {message_of(r)}" for r in run.unavailable])
    parts += _list("Not run", [f"{one.case.id}: {one.why}" for one in run.not_run])
    parts += _list(f"Also in the baseline {run.baseline}", _compared(run, "same"))
    parts += _list(f"Fixed since the baseline {run.baseline}", _compared(run, "fixed"))
    parts.append(f"Wall clock {run.wall_ns / NS_PER_S:.1f} s, ratio {run.ratio:.1f}.\n")
    return _cut("\n".join(parts))


def _different(results: Sequence[CaseResult]) -> list[CaseResult]:
    """Of repetitions that say the same, the first."""
    found: dict[tuple[str, str, str], CaseResult] = {}
    for result in results:
        found.setdefault((result.case.id, result.judgement.outcome, without_numbers(message_of(result))), result)
    return list(found.values())


def _compared(run: SuiteRun, which: str) -> list[str]:
    found = {f"{c.case.id}: {wrong}": None for c in run.comparisons for wrong in getattr(c, which)}
    return list(found)


def _table(run: SuiteRun) -> str:
    results = run.all_results
    columns = columns_of(results)
    lines = [
        "| | what happens | " + " | ".join(_plain(head_of(column)) for column in columns) + " |",
        "|---|---|" + ":-:|" * len(columns),
    ]
    rows = rows_of(results)
    for label, row in zip(row_labels(rows), rows, strict=True):
        cells = [" / ".join(dict.fromkeys(_cell(r) for r in row.of(column))) or "-" for column in columns]
        lines.append(f"| {_plain(label)} | {_plain(row.scenario.title)} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _cell(result: CaseResult) -> str:
    word = _plain(cell(result))
    return word if result.judgement.outcome.passes or result.unavailable else f"**{word}**"


def _finding(result: CaseResult) -> str:
    lines = [message_of(result)]
    for finding in result.judgement.findings:
        if finding.verdict is not Verdict.HOLDS:
            lines += [*finding_lines(finding), finding.explanation]
    shown = [inert(line) for text in lines for line in text.splitlines() if line.strip()]
    text = html.escape("\n".join(shown), quote=False)
    head = html.escape(inert_line(f"{result.case.id}: {result.judgement.outcome}"), quote=False)
    # In raw HTML Markdown means nothing, as long as no line is empty.
    return f"<details><summary>{head}</summary>\n<pre>\n{text}\n</pre>\n</details>\n"


def _list(title: str, lines: Sequence[str]) -> list[str]:
    if not lines:
        return []
    shown = [f"- {_plain(line)}" for line in lines[:FINDINGS_MAX]]
    shown += [f"- ... {len(lines) - FINDINGS_MAX} more"] if len(lines) > FINDINGS_MAX else []
    return [f"### {_plain(title)}: {len(lines)}\n", *shown, ""]


def _plain(text: str) -> str:
    """Text that Markdown shows as it is, on one line."""
    return _MARKDOWN.sub(r"\\\1", html.escape(inert_line(text), quote=False))


def _cut(text: str) -> str:
    data = text.encode()
    if len(data) <= SUMMARY_BYTES_MAX:
        return text
    kept = data[:SUMMARY_BYTES_MAX].decode(errors="ignore")
    return kept[: kept.rfind("\n") + 1] + "</pre></details>\n\n... the rest is in the run's results\n"
