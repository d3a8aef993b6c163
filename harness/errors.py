"""What can go wrong, by whose fault it is.

CgraceError                    one clear message for a person; exit code 2
├── ScenarioError              the scenario file: names file, line, and what was meant
├── UsageError                 the command line
├── DriverError                a driver cannot be built, found or started
├── TargetError                the machine or the target cannot do it: names what would
│   └── UnavailableError       however often it is tried: a case is then listed and counted, and does not fail
├── StoreError                 a run cannot be kept: nothing that follows could be, either
├── TraceError                 a stored trace is truncated, foreign or hostile
└── ProtocolError              a peer on the bus broke the D-Bus protocol

A driver's misdeed is never an exception: it is data in the trace. Anything else that escapes is a bug of ours.
"""

from __future__ import annotations

from pathlib import Path


class CgraceError(Exception):
    """A failure that the user can act on.

    message: one sentence, what happened and what was expected.
    hint: what to do about it (a command where there is one).
    file, line: where in the user's own input, when it comes from there (line is 1-based).
    detail: lines of another program to show as they are (a compiler's, a console's).
    """

    def __init__(
        self,
        message: str,
        *,
        hint: str = "",
        file: Path | str | None = None,
        line: int | None = None,
        detail: str = "",
    ) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.file = str(file) if file is not None else None
        self.line = line
        self.detail = detail

    def __str__(self) -> str:
        where = ""
        if self.file is not None:
            where = f"{self.file}:{self.line}: " if self.line is not None else f"{self.file}: "
        text = where + self.message
        if self.detail:
            text += "\n" + self.detail.rstrip("\n")
        if self.hint:
            text += f"\n  try: {self.hint}"
        return text


class ScenarioError(CgraceError):
    """The scenario file cannot be what its author meant."""


class UsageError(CgraceError):
    """The command line asks for something that does not exist."""


class DriverError(CgraceError):
    """A driver cannot be built, found or started."""


class TargetError(CgraceError):
    """The machine or target cannot do what the run needs."""


class UnavailableError(TargetError):
    """This machine lacks what a case needs, however often it is tried: the case is listed with the reason and counted."""


class TraceError(CgraceError):
    """A stored trace cannot be read, or should not be trusted."""


class StoreError(CgraceError):
    """A run cannot be kept where it should be: the disk is full, the folder is not ours to write."""


class ProtocolError(CgraceError):
    """A peer sent bytes that are not D-Bus."""
