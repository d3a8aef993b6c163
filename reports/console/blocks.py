"""The findings, row by row: what was asked, what systemd was made to do, what the driver did, what that violated and how it is
known, and whether history says so. Pure: results in, text out.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from cgrace.harness.scenario.model import Scenario
from cgrace.harness.suite import CaseResult
from cgrace.harness.verdict import Finding, Invariant, Judgement, Outcome, Verdict
from cgrace.reports.console.matrix import Row, columns_of, rows_of
from cgrace.reports.console.words import asked, place, rows_label, what_systemd_did

EVIDENCE_LINES = 6  # in the overview; `report` shows all
HISTORY = "history"
BASELINE = "baseline"
CLEAN = "clean"
RECORDED = "recorded"  # on a real target
# What results are held against, and what is said where they agree and where they do not.
_SAYS = {
    HISTORY: ("says the same", "says otherwise of"),
    BASELINE: ("does the same", "does not have what is new in, or left undecided by"),
    RECORDED: ("says the same", "says otherwise of"),
    CLEAN: ("expected, and so it is", "expected, but not so:"),
}
WRONG_MAX = 30  # named one by one at the end
Did = Callable[[CaseResult], str]


def finding_lines(finding: Finding, *, evidence_max: int | None = None) -> list[str]:
    """A violated or unknown finding: the invariant and its summary with the grade, then its evidence; without a limit on that also
    what the proof takes for granted."""
    verdict = "violated" if finding.verdict is Verdict.VIOLATED else "unknown"
    summary = finding.summary or finding.subject or "no more is known"
    lines = [f"{finding.invariant} {verdict}: {summary}; grade: {finding.grade}"]
    shown = finding.evidence if evidence_max is None else finding.evidence[:evidence_max]
    lines += [f"  {line}" for line in shown]
    if len(shown) < len(finding.evidence):
        lines.append(f"  ... {len(finding.evidence) - len(shown)} lines more")
    if finding.assumptions and evidence_max is None:
        lines.append("  assuming: " + "; ".join(finding.assumptions))
    return lines


def result_lines(result: CaseResult, *, evidence_max: int | None = None) -> list[str]:
    """Everything wrong with one result: findings, then why it is not what history says."""
    if result.error:
        return [f"could not run: {result.error}"]
    return judgement_lines(result.judgement, evidence_max=evidence_max)


def judgement_lines(judgement: Judgement, *, evidence_max: int | None = None) -> list[str]:
    """The findings that do not hold, then why this is not what history says."""
    lines: list[str] = []
    for finding in judgement.findings:
        if finding.verdict is not Verdict.HOLDS:
            lines += finding_lines(finding, evidence_max=evidence_max)
    if not judgement.outcome.passes:
        lines += [f"{judgement.outcome}: {reason}" for reason in judgement.reasons]
    return lines


def blocks(
    results: Sequence[CaseResult],
    did: Did | None = None,
    *,
    evidence_max: int | None = EVIDENCE_LINES,
    standard: str = HISTORY,
) -> RenderableType:
    """One block a scenario. `did` tells what a driver did in a result (from its trace); without it that line is left out.
    standard: what results are held against: HISTORY, BASELINE or CLEAN."""
    by_file: dict[str, list[Row]] = {}
    for row in rows_of(results):
        by_file.setdefault(str(row.scenario.file), []).append(row)
    return Group(*(_block(rows, did, evidence_max, standard) for rows in by_file.values()))


def _block(rows: Sequence[Row], did: Did | None, evidence_max: int | None, standard: str) -> RenderableType:
    scenario = rows[0].scenario
    table = Table.grid(padding=(0, 2))
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    table.add_row("  asked", Text("\n".join(asked(step) for step in scenario.steps)))
    table.add_row("  systemd", Text("made to " + what_systemd_did(scenario)))
    for row in rows:
        if len(rows) > 1:
            table.add_row("  on", Text(place(row.setting), style="bold"))
        _add_row(table, row, did, evidence_max)
        table.add_row(f"  {standard}", _verdict(row, standard))
    head = Text(f"\n{rows_label(scenario)}", style="bold")
    head.append(f"  {scenario.title}", style="bold")
    if len(rows) == 1:
        head.append(f"  ({place(rows[0].setting)})", style="dim")
    return Group(head, table)


def _add_row(table: Table, row: Row, did: Did | None, evidence_max: int | None) -> None:
    """What drivers did in one setting: those with the same findings together, one of them with its evidence."""
    groups: dict[tuple[object, ...], list[CaseResult]] = {}
    for result in row.results:
        if _noteworthy(result):
            groups.setdefault(_alike(result), []).append(result)
    for alike in groups.values():
        shown = alike[-1]
        names = ", ".join(dict.fromkeys(r.case.driver.name for r in alike))
        told = did(shown) if did is not None and not shown.error else ""
        if told and len(alike) > 1:
            told = f"\n{shown.case.driver.name}: {told}"
        elif told:
            told = f": {told}"
        table.add_row("  driver", Text(names + told))
        lines = result_lines(shown, evidence_max=evidence_max)
        table.add_row("", Text("\n".join(lines), style="" if shown.judgement.outcome.passes else "red"))
    quiet = [r for r in row.results if not _noteworthy(r)]
    if quiet:
        names = ", ".join(columns_of(quiet))
        table.add_row("  clean", Text(names, style="dim"))


def _noteworthy(result: CaseResult) -> bool:
    return bool(result.error) or result.judgement.outcome is not Outcome.CLEAN


def _alike(result: CaseResult) -> tuple[object, ...]:
    findings = tuple((f.invariant, f.subject, f.verdict, f.short) for f in result.judgement.findings if _bad(f))
    return (result.judgement.outcome, result.error, findings)


def _bad(finding: Finding) -> bool:
    return finding.verdict is not Verdict.HOLDS


def _verdict(row: Row, standard: str) -> Text:
    same, otherwise = _SAYS[standard]
    wrong = [r for r in row.results if not r.judgement.outcome.passes and not r.unavailable]
    if not wrong:
        applied = [e.note for r in row.results for e in r.case.expected]
        told = applied if standard == HISTORY else [r.case.note for r in row.results]
        notes = "; ".join(dict.fromkeys(note for note in told if note)) if standard in (HISTORY, RECORDED) else ""
        return Text(same + (f" ({notes})" if notes else ""), style="green")
    names = ", ".join(dict.fromkeys(r.case.driver.name for r in wrong))
    return Text(f"{otherwise} {names}", style="bold red")


def closing(results: Sequence[CaseResult], *, standard: str = HISTORY) -> RenderableType:
    """The last lines: whether all is as history says (or was recorded), and where to read on."""
    says = "recorded" if standard == RECORDED else "history says"
    cannot = _cannot(results) if standard == RECORDED else {}
    wrong = [r for r in results if not r.judgement.outcome.passes and not (cannot and r.unavailable)]
    telling = wrong or sorted((r for r in results if r.judgement.violated), key=_deadlock_last, reverse=True)
    row = next((f" --row {_label(r.case.scenario)}" for r in telling), "")
    more = f"  More: cgrace report last{row}"
    if not results:
        return Text("Nothing was run.", style="bold red")
    if not wrong:
        rows = f"All rows that can run here are as {says}" if cannot else f"All rows as {says}"
        text = Text(f"\n{rows}.", style="bold green").append(more, style="not bold default")
        for why, cases in cannot.items():
            text.append(f"\ncannot run here: {', '.join(cases)}: {why}", style="not bold default")
        return text
    text = Text(f"\n{len(wrong)} of {len(results)} not as {says}:\n", style="bold red")
    for result in wrong[:WRONG_MAX]:
        reasons = [result.error] if result.error else list(result.judgement.reasons)
        text.append(f"  {result.case.id}: {result.judgement.outcome}: {'; '.join(reasons)}\n", style="not bold default")
    if len(wrong) > WRONG_MAX:
        text.append(f"  ... {len(wrong) - WRONG_MAX} more\n", style="not bold default")
    return text.append(more.strip(), style="not bold default")


def _cannot(results: Sequence[CaseResult]) -> dict[str, list[str]]:
    """What this machine cannot run, whatever it is: reason to the rows."""
    found: dict[str, list[str]] = {}
    for result in results:
        if result.unavailable and (label := _label(result.case.scenario)) not in found.setdefault(result.error, []):
            found[result.error].append(label)
    return found


def _deadlock_last(result: CaseResult) -> bool:
    """Sorts what hangs behind the rest: there the evidence says most."""
    return any(f.invariant is Invariant.NO_DEADLOCK for f in result.judgement.violated)


def _label(scenario: Scenario) -> str:
    return scenario.rows[0] if scenario.rows else scenario.name
