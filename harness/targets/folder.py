"""The folder of one machine of ours on this host: named after us (owner.py), locked, with the record that a sweep goes by."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from cgrace.harness.errors import TargetError
from cgrace.harness.targets import owner
from cgrace.harness.targets.sweep import record_owner


class RuntimeFolder:
    """`make` it, and `remove` it in whatever state it is. Both block for a moment. path: where it is to be."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = -1

    def make(self) -> None:
        """A new one, closed to others. TargetError where none can be made."""
        try:
            self.path.mkdir(mode=0o700)
        except OSError as error:
            raise TargetError(
                f"cannot make the folder {self.path}: {error.strerror}",
                hint="set TMPDIR to a directory that you may write",
            ) from error
        self._lock = owner.lock(str(self.path))
        record_owner(self.path)

    def remove(self) -> None:
        """What is ours of it is gone then."""
        if self._lock >= 0:
            shutil.rmtree(self.path, ignore_errors=True)
            os.close(self._lock)
            self._lock = -1


@contextlib.contextmanager
def runtime_folder() -> Iterator[Path]:
    """One for one more machine; gone afterwards. TargetError where none can be made."""
    folder = RuntimeFolder(Path(tempfile.gettempdir(), owner.machine_name()))
    try:
        folder.make()
        yield folder.path
    finally:
        folder.remove()
