"""`cgrace scenario check` and `cgrace schema`: what can be said of files without running anything."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cgrace.harness.commands import EXIT_CANNOT, EXIT_OK
from cgrace.harness.commands.common import note, show, show_json
from cgrace.harness.errors import CgraceError, UsageError

if TYPE_CHECKING:
    pass


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
