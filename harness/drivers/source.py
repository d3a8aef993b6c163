"""`--driver source:PATH`: finds out what a checkout is from what is in it."""

from __future__ import annotations

from pathlib import Path

from cgrace.harness.drivers.base import DriverSpec
from cgrace.harness.errors import DriverError


def inspect(path: Path) -> DriverSpec:
    """The spec of a checkout."""
    raise DriverError(f"{path}: not yet")
