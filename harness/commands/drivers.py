"""`cgrace drivers`: every driver by name, what it can be asked for, where its source is, and whether it is built."""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from cgrace.harness.commands import EXIT_OK
from cgrace.harness.commands.common import show, show_json

if TYPE_CHECKING:
    from cgrace.harness.drivers.base import DriverSpec

HINT = """\
* taken when no --driver is given; + of `--driver fleet`, one a step in behaviour and this machine's commands. What is not built is
built when asked for.
Behind a release, +go-systemd@VERSION or +godbus@VERSION links that one, +rootless asks the user's systemd. A version that is
not listed is taken to be like the one before it. A checkout of your own: --driver source:PATH
runc and crun are this machine's commands, and runc-cli@VERSION builds that of a release. Your own: runc:PATH, crun:PATH, and
program:PATH for what speaks docs/driver-protocol.md"""


def drivers(args: argparse.Namespace) -> int:
    """Every driver, or those whose name begins with a word."""
    from cgrace.harness.drivers.build import is_built
    from cgrace.harness.drivers.catalogue import default_drivers, listed
    from cgrace.harness.drivers.commands import machine_commands
    from cgrace.harness.drivers.versions import fleet
    from cgrace.reports.machine import document

    default = {spec.name for spec in default_drivers()}
    commands = machine_commands()
    steps = {spec.name for spec in (*fleet(), *commands)}
    specs = [*listed(), *commands]
    built = is_built(specs)
    if args.json:
        told = [
            {
                **_described(spec),
                "default": spec.name in default,
                "fleet": spec.name in steps,
                "built": built[spec.name],
            }
            for spec in specs
        ]
        show_json(document("drivers", drivers=told))
        return EXIT_OK
    marks = {spec.name: ("*" if spec.name in default else "") + ("+" if spec.name in steps else "") for spec in specs}
    _show(specs, marks, built)
    return EXIT_OK


def _described(spec: DriverSpec) -> dict[str, Any]:
    words = ("name", "generation", "release", "module", "version", "family", "rung", "rootless", "ours", "note")
    return {
        **{key: getattr(spec, key) for key in words},
        "layouts": list(spec.layouts),
        "units": list(spec.units),
        "operations": list(spec.operations),
        "rootless_too": can_be_rootless(spec),
    }


def can_be_rootless(spec: DriverSpec) -> bool:
    """Whether the driver can ask the user's systemd: by itself, or with +rootless behind its name."""
    from cgrace.harness.drivers.versions import ROOTLESS_FAMILIES, is_release

    return spec.rootless or (is_release(spec.name) and spec.family in ROOTLESS_FAMILIES and "v2" in spec.layouts)


def _show(specs: Iterable[DriverSpec], marks: dict[str, str], built: dict[str, bool]) -> None:
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, padding=(0, 1), header_style="bold")
    for name in ("driver", "", "column", "layouts", "can", "from", "built", "what it is"):
        table.add_column(name)
    for spec in specs:
        origin = f"{spec.module.removeprefix('github.com/')} {spec.version}"
        words = (marks[spec.name], spec.generation, " ".join(spec.layouts), _abilities(spec), origin)
        yes = "yes" if built[spec.name] else ""
        table.add_row(spec.name, *words, yes, Text(spec.note))
    show(table, HINT)


def _abilities(spec: DriverSpec) -> str:
    """What it can be asked for, in short; "all" where nothing is missing."""
    from cgrace.harness.drivers.base import UNITS
    from cgrace.harness.scenario.words import OPERATIONS

    parts = [] if spec.units == UNITS else [f"{' '.join(spec.units)}s only"]
    if missing := [one for one in OPERATIONS if one not in spec.operations]:
        parts.append(f"no {', '.join(missing)}" if len(missing) < 4 else f"only {', '.join(spec.operations)}")
    parts += ["rootless too"] if can_be_rootless(spec) else []
    return "; ".join(parts) or "all"
