"""The reference driver (fakes/driver): it tests cgrace and is no real driver, so no list of drivers has it.

`reference` is correct as far as we know; `reference:BUG` has one of the bugs of fakes/driver/bugs.py. A name that is none shows
when the driver is started: it refuses. Nothing is built; it needs the interpreter that runs cgrace, at the same path.
"""

from __future__ import annotations

import platform
import sys
from pathlib import Path

import cgrace
from cgrace.harness.drivers.base import BuiltDriver, DriverSpec
from cgrace.harness.drivers.cache import content_key

NAME = "reference"
FAMILY = "reference"


def find_reference(name: str) -> DriverSpec | None:
    """The driver of that name, None where the name is of another kind."""
    kind, _, bug = name.partition(":")
    if kind != NAME or (name != NAME and not bug):
        return None
    return DriverSpec(
        name=name,
        generation="reference",
        module="cgrace.fakes.driver",
        version=bug or "correct",
        family=FAMILY,
        layouts=("v1", "v2"),
        note=f"tests cgrace itself; its bug: {bug}" if bug else "tests cgrace itself",
    )


def reference(spec: DriverSpec) -> BuiltDriver:
    """How it is run."""
    # By way of the package's own folder and not of what that links to: the driver finds the package from there.
    folder = Path(cgrace.__file__).absolute().parent / "fakes" / "driver"
    main = folder / "__main__.py"
    bug = ("--bug", spec.version) if spec.name != NAME else ()
    sources = [(path.name, path.read_bytes()) for path in sorted(folder.glob("*.py"))]
    return BuiltDriver(
        spec=spec,
        binary=main,
        build_id=f"{content_key(sources)}-python{platform.python_version()}",
        proof="cgrace's own reference driver",
        cached=True,
        argv=(sys.executable, "-I", "-S", str(main), *bug),
    )
