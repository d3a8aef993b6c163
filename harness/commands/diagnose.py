"""`cgrace diagnose`: which known bug a node that hangs has, from what it says of itself. Offline, without root."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from cgrace.harness.commands import EXIT_DIFFERED, EXIT_OK
from cgrace.harness.commands.common import show, show_json
from cgrace.harness.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from rich.console import RenderableType

    from cgrace.harness.diagnose.observed import Observed

BYTES_MAX = 256 * 1024 * 1024
HOW = "cgrace collect --print > collect.sh, run that on the node, and diagnose what it prints"


def diagnose(args: argparse.Namespace) -> int:
    """Say which entry it is; exit 0 for one that is there, 1 for none that is known, 2 for what cannot be read."""
    from cgrace.harness.diagnose.judge import diagnose as judge
    from cgrace.reports.diagnosis import diagnosis_data, diagnosis_rows
    from cgrace.reports.machine import document

    found = judge(_observe(args))
    if args.json:
        show_json(document("diagnose", input=args.dump, **diagnosis_data(found)))
    else:
        show(_table(diagnosis_rows(found)))
    return EXIT_OK if found.best is not None else EXIT_DIFFERED


def _observe(args: argparse.Namespace) -> Observed:
    from cgrace.harness.diagnose.judge import says_something
    from cgrace.harness.diagnose.observed import observe
    from cgrace.harness.diagnose.traced import observe_trace
    from cgrace.harness.trace import read_trace

    text = _read(args.dump)
    if text.startswith('{"cgrace-trace"'):
        return observe_trace(Path(args.dump).name, read_trace(Path(args.dump)))
    jobs = _read(args.jobs) if args.jobs else None
    crun = _read(args.crun_stack) if args.crun_stack else None
    seen = observe(text, jobs=jobs, crun=crun, stuck=args.stuck)
    if seen.empty and not says_something(seen):
        raise UsageError(_no_dump(text), file=args.dump, hint=_hint(text))
    return seen


def _no_dump(text: str) -> str:
    if not text.strip():
        return "the file is empty"
    if text.startswith("goroutine profile:"):
        return "this is a profile that counts goroutines (debug=1), and has no states in it"
    return "no goroutine, no stack and nothing else that is known is in this file"


def _hint(text: str) -> str:
    if text.startswith(("goroutine profile:", "\x1f\ufffd\b")):
        return "curl .../debug/pprof/goroutine?debug=2, or gunzip it if it is a text"
    return HOW


def _read(name: str) -> str:
    """A file as text, whatever its encoding; "-" is stdin. UsageError when it cannot be read."""
    try:
        if name == "-":
            raw = sys.stdin.buffer.read(BYTES_MAX)
        else:
            with Path(name).open("rb") as file:
                raw = file.read(BYTES_MAX)
    except (OSError, ValueError) as error:
        raise UsageError(f"cannot be read: {getattr(error, 'strerror', None) or error}", file=name) from None
    if raw.startswith((b"\xff\xfe", b"\xfe\xff")):  # what PowerShell's > writes
        return raw.decode("utf-16", "replace")
    return raw.removeprefix(b"\xef\xbb\xbf").decode("utf-8", "replace")


def _table(rows: Iterable[tuple[str, str]]) -> RenderableType:
    """Headlines over labelled lines."""
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    from cgrace.harness.diagnose.signatures import signatures

    heads = {one.id for one in signatures()} | {"none"}
    parts: list[RenderableType] = []
    table: Table | None = None
    for label, text in rows:
        if label in heads:
            table = None
            parts.append(Text(f"{label}: {text}" if label != "none" else text, style="bold"))
            continue
        if table is None:
            table = Table.grid(padding=(0, 2))
            table.add_column(style="dim", no_wrap=True)
            table.add_column(overflow="fold")
            parts.append(table)
        table.add_row(f"  {label}" if label else "", Text(text))
    return Group(*parts)
