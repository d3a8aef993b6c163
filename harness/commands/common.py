"""What commands share: where output goes, progress, and running a coroutine under Ctrl-C."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import Collection, Coroutine, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, TypeVar

from cgrace.harness.errors import UsageError

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.progress import Progress as RichProgress
    from rich.progress import TaskID
    from rich.table import Table

    from cgrace.harness.targets.probe import Check

T = TypeVar("T")

PLAIN_WIDTH = 140  # where stdout is not a terminal and COLUMNS says nothing
PLAIN_EVERY = 20  # results between two plain progress lines


def package_folder() -> Path:
    """The folder that holds harness/, fakes/, reports/ and scenarios/."""
    return Path(__file__).resolve().parent.parent.parent


def scenarios_folder() -> Path:
    """The scenarios that come with cgrace."""
    return package_folder() / "scenarios"


def baselines_folder() -> Path:
    """What was recorded on real systemds."""
    return package_folder() / "reports" / "baselines"


def checkout_folder() -> Path:
    """The checkout that this runs from; UsageError where cgrace was installed without one."""
    folder = package_folder()
    if not (folder / "pyproject.toml").is_file() or not (folder / "tests").is_dir():
        raise UsageError(
            "the tests are not part of an installed cgrace", hint="run ./cgrace test in a checkout of the project"
        )
    return folder


def console() -> Console:
    """stdout, wide enough for the table where it is a file or a pipe."""
    from rich.console import Console

    plain = not sys.stdout.isatty() and "COLUMNS" not in os.environ
    return Console(width=PLAIN_WIDTH if plain else None, highlight=False, emoji=False, markup=False)


def show(*renderables: RenderableType) -> None:
    """Print to stdout; without the blanks at line ends that tables have, where it is not a terminal. Plain texts are made inert."""
    from cgrace.reports.inert import inert

    out = console()
    renderables = tuple(inert(one) if isinstance(one, str) else one for one in renderables)
    if out.is_terminal:
        for renderable in renderables:
            out.print(renderable)
        return
    with out.capture() as captured:
        for renderable in renderables:
            out.print(renderable)
    sys.stdout.write("".join(f"{line.rstrip()}\n" for line in captured.get().splitlines()))


def table_of_checks(checks: Iterable[Check], missing: Collection[Check]) -> Table:
    """A row for each look at a machine. missing: those of them without which nothing can be done."""
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, padding=(0, 1), show_header=False)
    for check in checks:
        word, style = ("ok", "green") if check.ok else ("MISSING", "bold red") if check in missing else ("no", "yellow")
        told = Text(check.found)
        told.append(f"  (for {check.needed_for})", style="dim")
        if check.how:
            told.append(f"\ntry: {check.how}")
        table.add_row(Text(word, style=style), check.name, told)
    return table


def show_json(data: dict[str, Any]) -> None:
    """The one JSON document of a command."""
    json.dump(data, sys.stdout, indent=1, ensure_ascii=False)
    sys.stdout.write("\n")


def note(text: str) -> None:
    """One line on stderr."""
    print(text, file=sys.stderr, flush=True)


def run_async(work: Coroutine[Any, Any, T]) -> T:
    """Run to the end; SIGINT, SIGTERM and SIGHUP cancel it in order, once, and are told as KeyboardInterrupt."""

    async def guarded() -> T:
        task = asyncio.current_task()
        assert task is not None
        stopped = False

        def stop() -> None:
            nonlocal stopped
            if not stopped:
                stopped = True
                task.cancel()

        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            loop.add_signal_handler(number, stop)
        try:
            return await work
        except asyncio.CancelledError:
            if stopped:
                raise KeyboardInterrupt from None
            raise

    return asyncio.run(guarded())


class Progress:
    """How far a run has come, on stderr: a bar on a terminal, a line now and then elsewhere. A context manager."""

    def __init__(self, total: int, *, quiet: bool = False) -> None:
        self.total = total
        self.done = 0
        self.wrong = 0
        self._quiet = quiet
        self._bar: RichProgress | None = None
        self._task: TaskID | None = None

    def __enter__(self) -> Self:
        if not self._quiet and sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

            columns = (BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TextColumn("{task.description}"))
            self._bar = Progress(*columns, console=Console(stderr=True), transient=True)
            self._task = self._bar.add_task("", total=self.total)
            self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    def event(self, text: str) -> None:
        """Something is going on that takes a while."""
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, description=text)
        elif not self._quiet:
            note(text)

    def result(self, text: str, *, passes: bool) -> None:
        """A case has ended."""
        self.done += 1
        self.wrong += not passes
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, advance=1, description=text)
        elif not self._quiet and (not passes or self.done == self.total or self.done % PLAIN_EVERY == 0):
            note(f"{self.done} of {self.total}: {text}" if not passes else f"{self.done} of {self.total}")
