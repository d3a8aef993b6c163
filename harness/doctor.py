"""What this machine can do for cgrace: the looks of targets/probe.py, those of our own, and which of them `reproduce` needs."""

from __future__ import annotations

import os
import platform
import shutil
import sys
from collections.abc import Iterable
from pathlib import Path

from cgrace.harness.store import runs_home
from cgrace.harness.targets.probe import Check, probe

# Without one of these `cgrace reproduce` cannot run; everything else only adds to it.
NEEDED = frozenset({"root", "namespaces", "cgroup v1", "go", "python", "run store"})
FREE_BYTES_MIN = 500 * 1024**2  # drivers with their build, and the traces of a run


def examine() -> tuple[Check, ...]:
    """Every check, what is needed first."""
    checks = (*probe(), _python(), _store())
    return tuple(sorted(checks, key=lambda check: check.name not in NEEDED))


def missing(checks: Iterable[Check]) -> tuple[Check, ...]:
    """Those that are needed and not there."""
    return tuple(check for check in checks if not check.ok and check.name in NEEDED)


def _python() -> Check:
    return Check(
        name="python",
        ok=sys.version_info >= (3, 11),
        found=f"{platform.python_version()} ({sys.executable})",
        needed_for="everything",
    )


def _store() -> Check:
    """Whether runs can be kept: the folder, or the nearest one above it that exists, is writable and has room."""
    home = runs_home()
    place = next((path for path in (home, *home.parents) if path.exists()), Path("/"))
    free = shutil.disk_usage(place).free
    writable = os.access(place, os.W_OK)
    return Check(
        name="run store",
        ok=writable and free >= FREE_BYTES_MIN,
        found=f"{home}, {free // 1024**2} MiB free" + ("" if writable else ", not writable"),
        needed_for="traces of runs",
        how="" if writable and free >= FREE_BYTES_MIN else "--store DIR with 500 MiB of room, or set XDG_STATE_HOME",
    )
