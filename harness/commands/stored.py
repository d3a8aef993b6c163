"""`cgrace report` and `cgrace rejudge`: runs that are over, read from their files. What is made of them: export.py."""

from __future__ import annotations

import argparse
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cgrace.harness.commands import EXIT_DIFFERED, EXIT_OK
from cgrace.harness.commands.common import show, show_json
from cgrace.harness.errors import CgraceError, TraceError, UsageError
from cgrace.harness.store import StoredRun, is_run_name, last_run, runs_home
from cgrace.harness.trace import Trace, read_trace
from cgrace.harness.verdict import Finding, Verdict

FORMS = ("html", "open", "perfetto", "pcapng", "markdown", "reproducer")
NAMED_MAX = 6


@dataclass(frozen=True, slots=True, kw_only=True)
class Stored:
    """One result of a stored run: its JSON data (reports/machine.py), its findings, its trace (and that as read, if it was)."""

    data: Mapping[str, Any]
    findings: tuple[Finding, ...]
    trace: Path | None
    known: Trace | None = None

    def read(self) -> Trace | None:
        """The trace, if there is one."""
        return self.known or (read_trace(self.trace) if self.trace is not None else None)


def report(args: argparse.Namespace) -> int:
    """The stored results of a run, those of --row, --case and --driver; without them, those that show something."""
    document, picked = find(args)
    if any(getattr(args, name) for name in FORMS):
        from cgrace.harness.commands.export import export

        return export(args, picked)
    if args.json:
        show_json({**document, "results": [one.data for one in picked]})
        return EXIT_OK
    for one in picked:
        _show(one, probes=args.probes)
    if not picked:
        show(
            f"nothing was violated in {len(document['results'])} cases; --driver NAME or --case CASE shows them all the same"
        )
    return EXIT_OK


def find(args: argparse.Namespace) -> tuple[dict[str, Any], list[Stored]]:
    """The document of a run and what of it is wanted; of a trace alone, what today's checkers say of it."""
    if Path(args.run).is_file():
        return _alone(Path(args.run))
    run = find_run(args.run, Path(args.store) if args.store else None)
    document = run.results()
    rows = [*args.row, *args.case]
    if picked := list(_pick(run, document, rows, args.driver)):
        return document, picked
    silent = list(_pick(run, document, rows, args.driver, telling_only=False))
    if not silent:
        have = dict.fromkeys(str(data["driver"]["name"]) for data in document["results"])
        cases = dict.fromkeys(str(data["scenario"]) for data in document["results"])
        raise UsageError(
            "the run has no such row, case or driver",
            file=run.folder,
            hint=f"its cases are {_some(cases)}, its drivers {_some(have)}",
        )
    return document, silent if rows or any(getattr(args, name) for name in FORMS) else []


def _some(words: Collection[str]) -> str:
    first, rest = list(words)[:NAMED_MAX], len(list(words)) - NAMED_MAX
    return ", ".join(first) + (f" and {rest} more" if rest > 0 else "")


def every(word: str, home: Path | None) -> list[Stored]:
    """All results of a run, or the one of a trace."""
    if Path(word).is_file():
        return _alone(Path(word))[1]
    run = find_run(word, home)
    return list(_pick(run, run.results(), [], [], telling_only=False))


def find_run(word: str, home: Path | None) -> StoredRun:
    """A run by its folder, its folder's name in the store, or `last`."""
    if word == "last":
        return last_run(home)
    folders = [Path(word), *([(home or runs_home()) / word] if is_run_name(word) else [])]
    folder = next((one for one in folders if one.is_dir()), None)
    if folder is None:
        raise UsageError("there is no such run", file=word, hint="cgrace report last")
    return StoredRun(folder)


def _alone(path: Path) -> tuple[dict[str, Any], list[Stored]]:
    from cgrace.harness.rejudge import case_of, rejudge_trace
    from cgrace.harness.suite import CaseResult
    from cgrace.reports.machine import results_document

    trace = read_trace(path)
    try:
        result = CaseResult(case=case_of(trace.head), judgement=rejudge_trace(trace), trace=path)
    except TraceError as error:
        raise TraceError(error.message, hint=error.hint, file=path) from None
    document = results_document("report", [result], passed=result.judgement.outcome.passes)
    return document, [Stored(data=document["results"][0], findings=result.judgement.findings, trace=path, known=trace)]


def _pick(
    run: StoredRun, document: Mapping[str, Any], rows: list[str], drivers: list[str], *, telling_only: bool = True
) -> Iterator[Stored]:
    from cgrace.reports.machine import finding_of

    try:
        for data in document["results"]:
            findings = tuple(finding_of(finding) for finding in data["findings"])
            if rows and not set(rows) & {*data["rows"], data["scenario"], data["case"]}:
                continue
            if drivers and not set(drivers) & {data["driver"]["name"], data["driver"]["generation"]}:
                continue
            telling = not data["passed"] or any(f.verdict is not Verdict.HOLDS for f in findings)
            if telling or drivers or not telling_only:
                yield Stored(data=data, findings=findings, trace=run.kept(data["trace"]) if data["trace"] else None)
    except (KeyError, TypeError, AttributeError) as error:
        raise CgraceError(f"these are not results that cgrace wrote: {error!r}", file=run.folder) from None


def _show(one: Stored, *, probes: bool) -> None:
    from cgrace.reports.console.story import story

    trace: Trace | None = None
    problem = str(one.data["error"])
    try:
        trace = one.read()
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
