"""A run's trace on its way to the disk."""

from __future__ import annotations

import contextlib
from pathlib import Path
from types import TracebackType
from typing import Self

from cgrace.harness.errors import StoreError


class TraceFile:
    """A file for a recorder's lines. What the disk refuses is remembered, so that the run still ends in order; `check`, and the
    end of the `with` block, then raise StoreError, and what was written is removed: half a trace would pass for a whole one.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._refused: OSError | None = None
        try:
            self._file = path.open("w", encoding="utf-8")
        except OSError as error:
            self._refused = error
            self.check()

    def write(self, text: str) -> object:
        """As of a text file."""
        if self._refused is None:
            try:
                self._file.write(text)
            except OSError as error:
                self._refused = error
        return None

    def flush(self) -> None:
        """As of a text file."""
        if self._refused is None:
            try:
                self._file.flush()
            except OSError as error:
                self._refused = error

    def check(self) -> None:
        """StoreError where anything could not be written."""
        if self._refused is not None:
            why = self._refused.strerror or str(self._refused)
            raise StoreError(f"the trace cannot be written: {why}", hint="--store DIR", file=self._path) from None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.flush()
        with contextlib.suppress(OSError):
            self._file.close()
        if self._refused is not None:
            with contextlib.suppress(OSError):
                self._path.unlink()
        if error is None:
            self.check()
