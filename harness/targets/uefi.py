"""Firmware for disks that UEFI alone can start: which there is on this machine, as QEMU's packages themselves say it.

A distribution describes each firmware in a file of /usr/share/qemu/firmware, and an administrator may put others into
/etc/qemu/firmware (QEMU, docs/interop/firmware.json). The names' order is that of preference; a file of the same name in a folder
that comes first replaces another, and takes it away where it is empty.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from cgrace.harness.errors import TargetError
from cgrace.harness.proc.run import run

PACKAGE: Final = "ovmf"  # Debian's and Ubuntu's
VARIABLES: Final = "variables.qcow2"  # in a folder: what a machine has kept in its firmware
_FOLDERS: Final = ("/etc/qemu/firmware", "/usr/share/qemu/firmware")
_UNFIT: Final = frozenset(
    {"requires-smm", "enrolled-keys"}
)  # would start signed loaders alone, or take a machine of another kind
_MACHINE: Final = "pc-q35-"


@dataclass(frozen=True, slots=True, kw_only=True)
class Uefi:
    """A firmware. code: only read; variables: the contents that its variables begin with, never written to; each with its format as
    QEMU calls it."""

    code: Path
    code_format: str
    variables: Path
    variables_format: str

    async def put_variables(self, folder: Path) -> None:
        """Give a machine that keeps its things in `folder` variables of its own, which a snapshot takes along."""
        to = folder / VARIABLES
        words = ["qemu-img", "convert", "-f", self.variables_format, "-O", "qcow2", str(self.variables), str(to)]
        made = await run(words)
        if not made.ok:
            raise TargetError("the firmware's variables cannot be copied", hint=made.command_line, detail=made.tail)


def find_uefi() -> Uefi | None:
    """The first firmware for a machine as ours is that starts what it finds; None for none."""
    return next(filter(None, map(_read, _descriptions())), None)


def _folders() -> Iterator[Path]:
    base = os.environ.get("XDG_CONFIG_HOME") or str(Path("~/.config").expanduser())
    yield Path(base, "qemu/firmware")
    yield from map(Path, _FOLDERS)


def _descriptions() -> list[Path]:
    found: dict[str, Path] = {}
    for folder in _folders():
        for path in folder.glob("*.json") if folder.is_dir() else ():
            found.setdefault(path.name, path)
    return [found[name] for name in sorted(found)]


def _read(path: Path) -> Uefi | None:
    """What it describes; None where that is not for us, or not there."""
    try:
        said = json.loads(path.read_bytes())
        if "uefi" not in said["interface-types"] or _UNFIT.intersection(said["features"]) or not _fits(said["targets"]):
            return None
        mapping = said["mapping"]
        if mapping["device"] != "flash" or mapping.get("mode", "split") != "split":
            return None
        code, variables = mapping["executable"], mapping["nvram-template"]
        found = Uefi(
            code=Path(code["filename"]),
            code_format=code["format"],
            variables=Path(variables["filename"]),
            variables_format=variables["format"],
        )
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return found if found.code.is_file() and found.variables.is_file() else None


def _fits(targets: list[dict[str, Any]]) -> bool:
    return any(
        target["architecture"] == "x86_64" and any(str(name).startswith(_MACHINE) for name in target["machines"])
        for target in targets
    )
