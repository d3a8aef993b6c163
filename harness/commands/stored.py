"""`cgrace report` and `cgrace rejudge`: runs that are over, read from their files."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cgrace.harness.commands import EXIT_DIFFERED, EXIT_OK
from cgrace.harness.commands.common import show, show_json
from cgrace.harness.errors import CgraceError, UsageError
from cgrace.harness.store import StoredRun, last_run
from cgrace.harness.trace import Trace, read_trace
from cgrace.harness.verdict import Finding, Verdict


@dataclass(frozen=True, slots=True, kw_only=True)
class Stored:
    """One result of a stored run: its JSON data (reports/machine.py), its findings, its trace."""

    data: Mapping[str, Any]
    findings: tuple[Finding, ...]
    trace: Path | None


def report(args: argparse.Namespace) -> int:
    """The stored results of a run, those of --row and --driver; without them, those that show something."""
    run = _find_run(args.run, Path(args.store) if args.store else None)
    document = run.results()
    picked = list(_pick(run, document, args.row, args.driver))
    if not picked:
        raise UsageError("the run has no such row or driver", file=run.folder, hint="cgrace report last")
    if args.json:
        show_json({**document, "results": [one.data for one in picked]})
        return EXIT_OK
    for one in picked:
        _show(one, probes=args.probes)
    return EXIT_OK


def _find_run(word: str, home: Path | None) -> StoredRun:
    if word == "last":
        return last_run(home)
    folder = Path(word)
    if not folder.is_dir():
        raise UsageError("there is no such run", file=folder, hint="cgrace report last")
    return StoredRun(folder)


def _pick(run: StoredRun, document: Mapping[str, Any], rows: list[str], drivers: list[str]) -> Iterator[Stored]:
    from cgrace.reports.machine import finding_of

    try:
        for data in document["results"]:
            findings = tuple(finding_of(finding) for finding in data["findings"])
            if rows and not set(rows) & {*data["rows"], data["scenario"], data["case"]}:
                continue
            if drivers and not set(drivers) & {data["driver"]["name"], data["driver"]["generation"]}:
                continue
            telling = not data["passed"] or any(f.verdict is not Verdict.HOLDS for f in findings)
            if telling or drivers:
                trace = run.folder / Path(data["trace"]).name if data["trace"] else None
                yield Stored(data=data, findings=findings, trace=trace)
    except (KeyError, TypeError, AttributeError) as error:
        raise CgraceError(f"these are not results that cgrace wrote: {error!r}", file=run.folder) from None


def _show(one: Stored, *, probes: bool) -> None:
    from cgrace.reports.console.story import story

    trace: Trace | None = None
    problem = str(one.data["error"])
    if one.trace is not None:
        try:
            trace = read_trace(one.trace)
        except CgraceError as error:
            problem = str(error)
    show(story(one.data, one.findings, trace, problem=problem, probes=probes))


def rejudge(args: argparse.Namespace) -> int:
    """Check a stored trace again: the same findings, without a driver, a systemd or root."""
    from cgrace.harness.rejudge import rejudge_trace
    from cgrace.reports.console.blocks import judgement_lines
    from cgrace.reports.machine import document, judgement_data

    trace = read_trace(Path(args.trace))
    judgement = rejudge_trace(trace, expect_clean=args.expect == "clean")
    if args.json:
        show_json(document("rejudge", passed=judgement.outcome.passes, trace=args.trace, **judgement_data(judgement)))
    else:
        show("\n".join([f"{judgement.outcome}", *judgement_lines(judgement)]))
    return EXIT_OK if judgement.outcome.passes else EXIT_DIFFERED
