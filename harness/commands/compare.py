"""`cgrace compare`: what changed between two stored runs, or two traces."""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING

from cgrace.harness.commands import EXIT_DIFFERED, EXIT_OK
from cgrace.harness.commands.common import show, show_json
from cgrace.harness.commands.stored import every
from cgrace.harness.errors import CgraceError

if TYPE_CHECKING:
    from cgrace.reports.compare import Comparison, Told

NAMES_MAX = 8


def compare(args: argparse.Namespace) -> int:
    """Exit 0 where both come to the same, 1 where they do not."""
    from cgrace.reports.compare import compare as compared
    from cgrace.reports.machine import document

    home = Path(args.store) if args.store else None
    found = compared(_told(args.first, home), _told(args.second, home))
    if args.json:
        show_json(document("compare", passed=found.same, **dataclasses.asdict(found)))
    else:
        show("\n".join(_lines(found)))
    return EXIT_OK if found.same else EXIT_DIFFERED


def _told(word: str, home: Path | None) -> list[Told]:
    from cgrace.reports.compare import Told

    told = []
    for one in every(word, home):
        trace, problem = None, str(one.data["error"])
        try:
            trace = one.read()
        except CgraceError as error:
            problem = str(error)
        case, outcome = str(one.data["case"]), str(one.data["outcome"])
        told.append(Told(case=case, outcome=outcome, findings=one.findings, trace=trace, problem=problem))
    return told


def _lines(found: Comparison) -> list[str]:
    from cgrace.reports.inert import inert_line

    lines = [f"{name}: {before} -> {after}" for name, before, after in found.versions]
    for change in found.changed:
        before, after = change.outcome
        lines += ["", f"{inert_line(change.case)}: " + (before if before == after else f"{before} -> {after}")]
        lines += [f"  no more: {text}" for text in change.gone]
        lines += [f"  new: {text}" for text in change.new]
        lines += [f"  {text}" for text in change.schedule]
    for which, names in (("first", found.only_first), ("second", found.only_second)):
        if names:
            more = f" and {len(names) - NAMES_MAX} more" if len(names) > NAMES_MAX else ""
            lines += ["", f"only in the {which}: " + ", ".join(inert_line(name) for name in names[:NAMES_MAX]) + more]
    if found.same:
        return [*lines, f"{found.alike} of {found.alike} cases come to the same, by the same schedule"]
    total = found.alike + len(found.changed)
    return [*lines, "", f"{len(found.changed)} of {total} cases differ"]
