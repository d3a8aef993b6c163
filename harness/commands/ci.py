"""What `cgrace run` leaves for CI: a JUnit file where it is asked for; annotations and a step summary under GitHub Actions."""

from __future__ import annotations

import contextlib
import os
import secrets
import sys
from collections.abc import Iterator
from pathlib import Path

from cgrace.harness.commands.common import note
from cgrace.harness.errors import CgraceError, UsageError
from cgrace.harness.suite import SuiteRun
from cgrace.harness.whole import write_whole


def on_github() -> bool:
    """Whether this is a step of a GitHub Actions job."""
    return os.environ.get("GITHUB_ACTIONS") == "true"


def check_writable(path: Path, what: str = "the JUnit report") -> None:
    """UsageError now rather than after the run, where a report cannot be written."""
    folder = path.absolute().parent
    if path.is_dir() or not folder.is_dir() or not os.access(folder, os.W_OK):
        raise UsageError(f"{what} cannot be written there", file=path, hint=f"mkdir -p {folder}")


def write_junit(path: Path, run: SuiteRun) -> None:
    """Write the JUnit report, whole or not at all."""
    from cgrace.reports.junit import junit_xml

    try:
        write_whole(path, junit_xml(run))
    except OSError as error:
        raise CgraceError(f"the JUnit report cannot be written: {error.strerror}", file=path) from None


@contextlib.contextmanager
def quiet_commands(*, as_json: bool) -> Iterator[None]:
    """While drivers' words are printed, GitHub takes no line of stdout for a command: a driver may say anything."""
    if as_json or not on_github():
        yield
        return
    token = secrets.token_hex(16)
    print(f"::stop-commands::{token}", flush=True)
    try:
        yield
    finally:
        print(f"::{token}::", flush=True)


def tell(run: SuiteRun, *, as_json: bool) -> None:
    """Annotations on stdout (stderr where stdout is one JSON document), and the step summary."""
    if not on_github():
        return
    from cgrace.reports.console.summary import headline
    from cgrace.reports.github import annotate, summary

    for line in annotate(run, _workspace()):
        print(line, file=sys.stderr if as_json else sys.stdout, flush=True)
    if path := os.environ.get("GITHUB_STEP_SUMMARY"):
        try:
            with Path(path).open("a", encoding="utf-8") as file:
                file.write(summary(run, headline(run)))
        except OSError as error:
            note(f"cgrace: the step summary cannot be written: {error}")


def tell_error(error: CgraceError) -> None:
    """An annotation for a run that could not be, at the line that is to blame."""
    if not on_github():
        return
    from cgrace.reports.github import command, file_below

    where: dict[str, str | int] = {}
    if error.file:
        where = {"file": file_below(Path(error.file), _workspace()), "line": error.line or 1}
    print(command("error", error.message, **where, title="cgrace"), file=sys.stderr, flush=True)


def _workspace() -> Path:
    return Path(os.environ.get("GITHUB_WORKSPACE") or ".")
