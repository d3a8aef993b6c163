"""`cgrace explain`: a word, a cell, a row, a scenario, an entry of `cgrace diagnose`, or what was found in the last run."""

from __future__ import annotations

import argparse
import dataclasses
import difflib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cgrace.harness.commands import EXIT_OK
from cgrace.harness.commands.common import scenarios_folder, show, show_json
from cgrace.harness.commands.glossary import Entry, glossary, look_up
from cgrace.harness.errors import CgraceError, UsageError
from cgrace.harness.scenario.words import EVERY_DRIVER
from cgrace.reports.links import issue_url

if TYPE_CHECKING:
    from rich.console import RenderableType

    from cgrace.harness.diagnose.signatures import Signature
    from cgrace.harness.scenario.model import Expect, Scenario
    from cgrace.harness.verdict import Finding

NEAR_MAX = 5


def explain(args: argparse.Namespace) -> int:
    """What the topic means; all words without one. UsageError with what is near for a topic that nobody knows."""
    from cgrace.reports.machine import document

    data, told = _answer(args.topic)
    if args.json:
        show_json(document("explain", **data))
    else:
        show(*told)
    return EXIT_OK


Answer = tuple[dict[str, Any], list["RenderableType"]]


def _answer(topic: str) -> Answer:
    from cgrace.harness.diagnose.signatures import signatures
    from cgrace.reports.diagnosis import signature_data

    if not topic:
        return _all_words()
    if (entry := look_up(topic)) is not None:
        return {"words": {entry.word: _entry_data(entry)}}, [_entry_text(entry)]
    if (known := next((one for one in signatures() if one.id == topic.lower()), None)) is not None:
        return {"signatures": [signature_data(known)]}, [_signature_text(known)]
    scenarios = _scenarios()
    if picked := _pick(topic, scenarios):
        return {"scenarios": [_scenario_data(one) for one in picked]}, [_scenario_text(one) for one in picked]
    results = _last_results()
    if picked_results := [result for result in results if topic in (result["case"], f"last/{result['case']}")]:
        return _found(picked_results[0])
    raise UsageError(f"nothing is called {topic!r}", hint=_near(topic, scenarios, results))


def _all_words() -> Answer:
    from rich.table import Table

    from cgrace.harness.diagnose.signatures import signatures

    table = Table(box=None, pad_edge=False, padding=(0, 1), show_header=False)
    table.add_column(style="dim", no_wrap=True)
    table.add_column(style="bold", no_wrap=True)
    table.add_column()
    kind = ""
    for entry in glossary().values():
        table.add_row("" if entry.kind == kind else entry.kind, entry.word, entry.text.split(". ")[0].rstrip(".") + ".")
        kind = entry.kind
    more = (
        "\nMore: cgrace explain WORD; also a row (7b), a scenario (core/late_job), a case of the last run, "
        f"what cgrace diagnose knows ({', '.join(sorted(one.id for one in signatures()))})"
    )
    return {"words": {word: _entry_data(entry) for word, entry in glossary().items()}}, [table, more]


def _entry_data(entry: Entry) -> dict[str, str]:
    return {**dataclasses.asdict(entry), "url": issue_url(entry.issue)}


def _entry_text(entry: Entry) -> str:
    lines = [f"{entry.word} ({entry.kind})", entry.text]
    if entry.see:
        lines += ["", f"{entry.see}: {glossary()[entry.see].text}"]
    issue = entry.issue or (glossary()[entry.see].issue if entry.see else "")
    return "\n".join(lines + ([f"\nRead {issue}: {issue_url(issue)}"] if issue else []))


def _signature_text(known: Signature) -> str:
    rows = f", rows {', '.join(known.rows)} of runc#1780" if known.rows else ""
    lines = [f"{known.id} (what cgrace diagnose knows{rows})", f"{known.title}.", known.mechanism]
    lines += ["", f"Now: {known.workaround}", f"Fixed in: {known.fixed}"]
    lines += [f"Read {issue}: {issue_url(issue)}" for issue in known.issues]
    return "\n".join(lines + ([f"Reproduce it: cgrace run {known.scenarios[0]}"] if known.scenarios else []))


def _scenarios() -> tuple[Scenario, ...]:
    from cgrace.harness.scenario.parse import load_tree

    return load_tree(scenarios_folder())


def _pick(topic: str, scenarios: Iterable[Scenario]) -> list[Scenario]:
    """Scenarios by file, folder, whole name, last part of it, or row."""
    from cgrace.harness.commands.select import pick_rows
    from cgrace.harness.scenario.parse import load_tree

    path = Path(topic)
    if path.suffix == ".toml" or "/" in topic:
        if path.is_file():
            return list(load_tree(path))
        topic = topic.removesuffix(".toml").removeprefix("scenarios/")
    known = list(scenarios)
    named = [one for one in known if topic in (one.name, *one.name.split("/"))]
    if named:
        return named
    try:
        rows = set(pick_rows(known, [topic]))
    except UsageError:
        return []
    return [one for one in known if rows & set(one.rows)]


def _scenario_data(scenario: Scenario) -> dict[str, Any]:
    from cgrace.reports.console.words import asked, what_systemd_did

    return {
        "name": scenario.name,
        "file": str(scenario.file),
        "title": scenario.title,
        "issue": scenario.issue,
        "url": issue_url(scenario.issue),
        "rows": list(scenario.rows),
        "mechanism": scenario.mechanism,
        "steps": [asked(step) for step in scenario.steps],
        "systemd": what_systemd_did(scenario),
        "settings": [dataclasses.asdict(setting) for setting in scenario.settings],
        "expected": [
            {"setting": place, "driver": driver, "expected": told} for place, driver, told in _expected(scenario)
        ],
    }


def _scenario_text(scenario: Scenario) -> RenderableType:
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    from cgrace.reports.console.words import asked, what_systemd_did

    table = Table.grid(padding=(0, 2))
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    table.add_row("  file", str(scenario.file))
    if scenario.rows:
        table.add_row("  rows", ", ".join(scenario.rows))
    if scenario.issue:
        table.add_row("  issue", f"{scenario.issue}  {issue_url(scenario.issue)}".rstrip())
    table.add_row("  why", Text(scenario.mechanism))
    table.add_row("  asked", Text("\n".join(asked(step) for step in scenario.steps)))
    table.add_row("  systemd", Text(f"made to {what_systemd_did(scenario)}"))
    told: dict[tuple[str, str], list[str]] = {}
    for place, driver, expected in _expected(scenario):
        told.setdefault((place, expected), []).append(driver)
    for (place, expected), drivers in told.items():
        table.add_row("  expected", Text(f"{place}: {', '.join(drivers)}: {expected}"))
    table.add_row("", f"every other driver, and your own: {_own(scenario)}")
    return Group(Text(f"{scenario.name}  {scenario.title}", style="bold"), table)


def _expected(scenario: Scenario) -> Iterable[tuple[str, str, str]]:
    """(setting, driver, what it is expected to do) of every driver that a run takes."""
    from cgrace.harness import runner
    from cgrace.harness.drivers.catalogue import default_drivers

    for case in runner.plan([scenario], default_drivers()):
        setting = case.setting
        parts: list[str] = []
        for expect in case.expected:
            parts += _violations(expect) + ([expect.note] if expect.note else [])
        yield f"{setting.profile} {setting.layout}", case.driver.name, "; ".join(parts) or "clean"


def _own(scenario: Scenario) -> str:
    """What a driver that nobody knows is held to."""
    known = " and ".join(
        sorted({told for e in scenario.expect if EVERY_DRIVER in e.generations for told in _violations(e)})
    )
    may = ", ".join(step.id for step in scenario.steps if step.may_fail)
    return (known or "clean") + (f"; an error of {may} is as good as success" if may else "")


def _violations(expect: Expect) -> list[str]:
    told = [f"violates {invariant} ({subject or 'any step'})" for invariant, subject in expect.violated]
    return told + [f"{step} fails with {text!r}" for step, text in expect.failed]


def _last_results() -> list[Mapping[str, Any]]:
    """The results of the last run; none where there is no run that can be read."""
    from cgrace.harness.store import last_run

    try:
        results = last_run().results().get("results", [])
    except CgraceError:
        return []
    return [one for one in results if isinstance(one, dict) and isinstance(one.get("case"), str)]


def _found(result: Mapping[str, Any]) -> Answer:
    """What was found in a case of the last run, and what that means."""
    from cgrace.harness.verdict import Verdict
    from cgrace.reports.machine import finding_data, finding_of

    try:
        findings = [finding_of(data) for data in result["findings"]]
        outcome, reasons = str(result["outcome"]), [str(reason) for reason in result["reasons"]]
    except (KeyError, TypeError) as error:
        raise CgraceError(f"these are not results that cgrace wrote: {error!r}") from None
    telling = [finding for finding in findings if finding.verdict is not Verdict.HOLDS]
    lines = [f"{result['case']}: {outcome}", *reasons]
    for finding in telling:
        lines += ["", *_finding_lines(finding)]
    if not telling:
        lines.append(glossary()[outcome].text if outcome in glossary() else "")
    lines += [f"\nAll of it: cgrace report last --case {result['case']!r}"]
    return {"case": result["case"], "outcome": outcome, "findings": [finding_data(f) for f in telling]}, [
        "\n".join(lines)
    ]


def _finding_lines(finding: Finding) -> list[str]:
    entry = glossary()[str(finding.invariant)]
    lines = [f"{finding.invariant} {finding.verdict}: {finding.summary}"]
    lines += [finding.explanation or glossary()[str(finding.verdict)].text]
    lines += [f"Grade {finding.grade}: {glossary()[str(finding.grade)].text}"]
    return lines + ([f"Read {entry.issue}: {issue_url(entry.issue)}"] if entry.issue else [])


def _near(topic: str, scenarios: Iterable[Scenario], results: Iterable[Mapping[str, Any]]) -> str:
    from cgrace.harness.diagnose.signatures import signatures

    names = [*glossary(), *(row for one in scenarios for row in one.rows), *(one.id for one in signatures())]
    names += [part for one in scenarios for part in (one.name, one.name.partition("/")[2])]
    names += [str(result["case"]) for result in results]
    plain = {name.lower(): name for name in reversed(names)}
    near = difflib.get_close_matches(topic.lower()[:200], plain, n=NEAR_MAX, cutoff=0.6)
    near += [name for name in plain if topic.lower() in name and name not in near][: NEAR_MAX - len(near)]
    return " or ".join(plain[name] for name in near) or "cgrace explain lists the words"
