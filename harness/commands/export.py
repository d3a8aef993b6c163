"""`cgrace report --html` and its sisters: one case of a stored run as a file for people or for other programs."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from cgrace.harness.commands import EXIT_OK
from cgrace.harness.commands.common import note
from cgrace.harness.commands.stored import Stored
from cgrace.harness.errors import CgraceError, UsageError
from cgrace.harness.trace import Trace
from cgrace.harness.verdict import Invariant, Judgement, Outcome, Verdict
from cgrace.harness.whole import write_whole

OTHERS_MAX = 6


def export(args: argparse.Namespace, picked: Sequence[Stored]) -> int:
    """Write what is asked for, of the one case that says most."""
    one = _most_telling(picked)
    trace = one.read()
    if trace is None:
        raise CgraceError(f"there is no trace of {one.data['case']}: {one.data['error'] or 'it did not run'}")
    judgement = _judgement(one)
    others = [str(other.data["case"]) for other in picked if other is not one]
    if others:
        more = "" if len(others) <= OTHERS_MAX else f" and {len(others) - OTHERS_MAX} more"
        note(f"of {one.data['case']}; --case NAME for another: {', '.join(others[:OTHERS_MAX])}{more}")
    assert one.trace is not None
    page = args.html or (str(one.trace.with_suffix(".html")) if args.open else None)
    for file, make in (
        (page, _html),
        (args.markdown, _markdown),
        (args.perfetto, _perfetto),
        (args.pcapng, _pcapng),
    ):
        if file is not None:
            _write(file, make(trace, judgement))
    if args.reproducer is not None:
        _reproducer(Path(args.reproducer), trace)
    if args.open:
        _open(Path(page or ""))
    return EXIT_OK


def _most_telling(picked: Sequence[Stored]) -> Stored:
    """What is not as history says, then a deadlock, then any other violation; the first of those."""

    def rank(one: Stored) -> tuple[bool, bool, bool]:
        violated = [finding.invariant for finding in one.findings if finding.verdict is Verdict.VIOLATED]
        return (bool(one.data["passed"]), Invariant.NO_DEADLOCK not in violated, not violated)

    return min((one for one in picked if one.trace is not None), key=rank, default=picked[0])


def _judgement(one: Stored) -> Judgement:
    try:
        outcome = Outcome(one.data["outcome"])
        return Judgement(outcome=outcome, findings=one.findings, reasons=tuple(map(str, one.data["reasons"])))
    except (KeyError, ValueError, TypeError) as error:
        raise CgraceError(f"a stored outcome is not what the schema says: {error!r:.200}") from None


# ---- forms: a trace and its judgement into bytes

Make = Callable[[Trace, Judgement], bytes]


def _html(trace: Trace, judgement: Judgement) -> bytes:
    from cgrace.reports.timeline import build

    return build(trace, judgement).encode()


def _markdown(trace: Trace, judgement: Judgement) -> bytes:
    from cgrace.reports.exports.markdown import markdown

    return markdown(trace, judgement).encode()


def _perfetto(trace: Trace, judgement: Judgement) -> bytes:
    from cgrace.reports.exports.perfetto import perfetto

    return perfetto(trace, judgement).encode()


def _pcapng(trace: Trace, _judgement: Judgement) -> bytes:
    from cgrace.reports.exports.pcapng import pcapng

    return pcapng(trace)


def _reproducer(folder: Path, trace: Trace) -> None:
    from cgrace.reports.exports.reproducer import reproducer

    files = reproducer(trace)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CgraceError(f"cannot be made: {error.strerror or error}", file=folder) from None
    taken = [name for name in files if (folder / name).exists()]
    if taken:
        raise UsageError(f"there is a {taken[0]} already", file=folder, hint="name a new folder")
    for name, text in files.items():
        _write(str(folder / name), text.encode())
    note(f"{folder}: {', '.join(files)}")


# ---- files


def _write(file: str, data: bytes) -> None:
    """The whole file or nothing of it; what was there before is replaced."""
    if file == "-":
        sys.stdout.flush()
        sys.stdout.buffer.write(data)
        return
    path = Path(file)
    try:
        if path.exists() and not path.is_file():
            path.write_bytes(data)  # a pipe or a terminal, or a folder, which says so itself
            return
        write_whole(path, data)
    except OSError as error:
        raise CgraceError(f"cannot be written: {error.strerror or error}", file=path) from None


def _open(page: Path) -> None:
    """Show the page where there is something to show it on; else say where it is."""
    import webbrowser

    display = sys.platform == "darwin" or any(
        os.environ.get(name) for name in ("DISPLAY", "WAYLAND_DISPLAY", "BROWSER")
    )
    if not display or not webbrowser.open(page.absolute().as_uri()):
        note(f"there is no display here; the page is {page.absolute()}")
