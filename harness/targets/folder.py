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


@contextlib.contextmanager
def runtime_folder() -> Iterator[Path]:
    """A new one, closed to others; gone afterwards. TargetError where none can be made."""
    folder = Path(tempfile.gettempdir(), owner.machine_name())
    try:
        folder.mkdir(mode=0o700)
    except OSError as error:
        raise TargetError(
            f"cannot make the folder {folder}: {error.strerror}", hint="set TMPDIR to a directory that you may write"
        ) from error
    lock = owner.lock(str(folder))
    try:
        record_owner(folder)
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(lock)
