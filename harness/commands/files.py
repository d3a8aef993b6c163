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
    files = [str(file) for name in args.files for file in _files(Path(name))]
    for name in files:
        try:
            if not Path(name).is_file():
                raise UsageError("there is no such file, or no scenario in that folder", file=name)
            load(Path(name))
        except CgraceError as error:
            wrong.append({"file": error.file or name, "line": error.line, "message": error.message, "hint": error.hint})
            if not args.json:
                note(f"cgrace: {error}")
    if args.json:
        show_json(document("scenario check", passed=not wrong, files=files, errors=wrong))
    elif not wrong:
        show(f"{len(files)} of {len(files)} files are scenarios")
    return EXIT_CANNOT if wrong else EXIT_OK


def _files(path: Path) -> list[Path]:
    """A file, or those of a folder."""
    return sorted(path.rglob("*.toml")) or [path] if path.is_dir() else [path]


def schema(args: argparse.Namespace) -> int:
    """The JSON Schema of scenario files, for editors, or of results."""
    if args.of == "results":
        from cgrace.reports.results_schema import schema as made
    else:
        from cgrace.harness.scenario.schema import schema as made
    show_json(made())
    return EXIT_OK
