"""`cgrace scenario check`, `cgrace schema` and `cgrace explain`: what can be said without running anything."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cgrace.harness.commands import EXIT_CANNOT, EXIT_OK
from cgrace.harness.commands.common import note, scenarios_folder, show, show_json
from cgrace.harness.commands.select import pick_rows, pick_scenarios
from cgrace.harness.errors import CgraceError, UsageError

if TYPE_CHECKING:
    from cgrace.harness.scenario.model import Scenario

WORDS = {
    ".": "nothing was violated",
    "LOST": "no lost cgroups is violated: a path that the driver reported does not exist, or its process is not in it",
    "HANG": "no deadlock is violated: a step waits for something that can no longer happen, by proof in a closed world",
    "SLOW": "bounded latency is violated: the driver spent more in its own waits than the step's bound",
    "ERR": "a step ended with an error; no invariant is violated by that",
    "?": "unknown: it cannot be told; never taken for good",
    "-": "this driver does not fit this setting",
    "n/a": "this machine cannot run it; listed with the reason and counted, and no failure",
    "!": "not what history says",
    "natural": "grade: real systemd did it by itself or under its own rules",
    "legal": "grade: a correct bus and systemd may do it (late, order across connections, disconnect, an error)",
    "impossible": "grade: forged, dropped, reordered within one connection; never speaks against a systemd",
    "reproduced": "outcome: expected, and seen",
    "clean": "outcome: not expected, and not seen",
    "regressed": "outcome: not expected, but seen",
    "vanished": "outcome: expected, but not seen",
    "inconclusive": "outcome: a finding is unknown, or a fault of the scenario did not act",
}


def scenario(args: argparse.Namespace) -> int:
    """`scenario check`: every file is parsed; each that is wrong gets its message."""
    from cgrace.harness.scenario.parse import load
    from cgrace.reports.machine import document

    wrong: list[dict[str, Any]] = []
    for name in args.files:
        try:
            if not Path(name).is_file():
                raise UsageError("there is no such file", file=name)
            load(Path(name))
        except CgraceError as error:
            wrong.append({"file": error.file or name, "line": error.line, "message": error.message, "hint": error.hint})
            if not args.json:
                note(f"cgrace: {error}")
    if args.json:
        show_json(document("scenario check", passed=not wrong, files=args.files, errors=wrong))
    elif not wrong:
        show(f"{len(args.files)} of {len(args.files)} files are scenarios")
    return EXIT_CANNOT if wrong else EXIT_OK


def schema(args: argparse.Namespace) -> int:
    """The JSON Schema of scenario files, for editors, or of results."""
    if args.of == "results":
        from cgrace.reports.results_schema import schema as made
    else:
        from cgrace.harness.scenario.schema import schema as made
    show_json(made())
    return EXIT_OK


def explain(args: argparse.Namespace) -> int:
    """A word of the table, a row of a story, or all words."""
    from cgrace.reports.machine import document

    topic = args.topic
    if topic and topic not in WORDS:
        return _explain_row(topic, as_json=args.json)
    words = {topic: WORDS[topic]} if topic else WORDS
    if args.json:
        show_json(document("explain", words=words))
    else:
        show(*(f"{word:<13}{meaning}" for word, meaning in words.items()))
    return EXIT_OK


def _explain_row(row: str, *, as_json: bool) -> int:
    from cgrace.reports.console.words import what_systemd_did
    from cgrace.reports.machine import document

    scenarios = pick_scenarios([scenarios_folder()])
    rows = set(pick_rows(scenarios, [row]))
    picked = [scenario for scenario in scenarios if rows & set(scenario.rows)]
    if as_json:
        told = [{"file": str(s.file), "rows": list(s.rows), "title": s.title, "mechanism": s.mechanism} for s in picked]
        show_json(document("explain", scenarios=told))
        return EXIT_OK
    for one in picked:
        show(*_told(one, what_systemd_did(one)))
    return EXIT_OK


def _told(scenario: Scenario, systemd: str) -> list[str]:
    from cgrace.reports.console.words import asked, place, rows_label

    lines = [f"{rows_label(scenario)}  {scenario.title}", f"  {scenario.file}"]
    lines += [f"  {scenario.mechanism}"] if scenario.mechanism else []
    lines += [f"  asked    {asked(step)}" for step in scenario.steps]
    lines += [
        f"  systemd  made to {systemd}",
        "  on       " + "; ".join(place(setting) for setting in scenario.settings),
    ]
    for expect in scenario.expect:
        what = ", ".join(f"{invariant} ({subject or 'any step'})" for invariant, subject in expect.violated)
        fails = ", ".join(f"{step} fails with {text!r}" for step, text in expect.failed)
        told = "; ".join(part for part in (what and f"violate {what}", fails, expect.note) if part)
        lines.append(f"  history  {', '.join(expect.generations)}: {told}")
    return [*lines, "  all others: clean"]
