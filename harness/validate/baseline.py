"""Answers as they were recorded: reports/baselines/<version>-<layout>.json."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from cgrace.harness.errors import UsageError
from cgrace.harness.validate.stage import Answer

FORMAT: Final = 1
FOLDER: Final = Path(__file__).resolve().parents[2] / "reports" / "baselines"
DIFFERENCES: Final = "differences.toml"
_NUMBER: Final = re.compile(r"(?:systemd |v)?(\d+)")
_NAME: Final = re.compile(r"(\d+)(?:-(v1|v2))?")


@dataclass(frozen=True, slots=True, kw_only=True)
class Baseline:
    """What one systemd answered. name: the machine's, or the file's; systemd: its Version property; version: that number.

    runs_in: where, by its Virtualization property ("container-other", "qemu", "" for none). hierarchies: controllers by hierarchy
    that the machine had. answers: by probe. outcomes: of scenarios, by case ("" where none
    were run); they are compared like answers.
    """

    name: str
    systemd: str
    version: int
    layout: str
    runs_in: str = ""
    hierarchies: Mapping[str, list[str]]
    answers: Mapping[str, Answer]
    outcomes: Mapping[str, str] = field(default_factory=dict)

    @property
    def key(self) -> str:
        """Its name as a recorded one: "257-v1"."""
        return f"{self.version}-{self.layout}"


def leading_number(version: str) -> int:
    """257 of "257.13-1~deb13u1", of "v257" and of "systemd 257"; 0 where there is none."""
    found = _NUMBER.match(version)
    return int(found[1]) if found else 0


def recorded() -> dict[str, Path]:
    """The recorded baselines by their key."""
    return {path.stem: path for path in sorted(FOLDER.glob("*.json")) if _NAME.fullmatch(path.stem)}


def load(path: Path) -> Baseline:
    """Read one; UsageError where the file is not one."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"the baseline cannot be read: {error}", file=path) from None
    try:
        return decode(text, path.stem)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UsageError(
            f"not a baseline: {error}", hint="cgrace validate NEW --record writes one", file=path
        ) from None


def decode(text: str, name: str) -> Baseline:
    """What `encode` wrote; ValueError, KeyError, TypeError or AttributeError for anything else."""
    data: dict[str, Any] = json.loads(text)
    if data["format"] != FORMAT:
        raise ValueError(f"format {data['format']}, not {FORMAT}")
    return Baseline(
        name=name,
        systemd=str(data["systemd"]),
        version=int(data["version"]),
        layout=str(data["layout"]),
        runs_in=str(data.get("runs_in", "")),
        hierarchies=dict(data["hierarchies"]),
        answers=dict(data["answers"]),
        outcomes=dict(data.get("outcomes", {})),
    )


def encode(baseline: Baseline) -> str:
    """One line for each probe, for a diff to read well."""
    head = {
        "format": FORMAT,
        "systemd": baseline.systemd,
        "version": baseline.version,
        "layout": baseline.layout,
        "runs_in": baseline.runs_in,
        "hierarchies": dict(sorted(baseline.hierarchies.items())),
    }
    lines = [f" {json.dumps(key)}: {json.dumps(value)}" for key, value in head.items()]
    for name, table in (("answers", baseline.answers), ("outcomes", baseline.outcomes)):
        rows = ",\n".join(f"  {json.dumps(key)}: {json.dumps(table[key])}" for key in sorted(table))
        lines.append(f' "{name}": {{\n{rows}\n }}' if rows else f' "{name}": {{}}')
    return "{\n" + ",\n".join(lines) + "\n}\n"


def save(baseline: Baseline, folder: Path = FOLDER) -> Path:
    """Write it under its key; what was there is replaced."""
    path = folder / f"{baseline.key}.json"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        path.write_text(encode(baseline), encoding="utf-8")
    except OSError as error:
        raise UsageError(f"the baseline cannot be written: {error.strerror}", file=path) from None
    return path


def find(text: str, layout: str = "") -> Baseline | None:
    """The recorded baseline that a name means ("257", "257-v1", or a file); None where the text is no such name."""
    if text.endswith(".json"):
        return load(Path(text))
    found = _NAME.fullmatch(text)
    if found is None:
        return None
    have = recorded()
    wanted = f"{found[1]}-{found[2] or layout or 'v1'}"
    if wanted not in have:
        raise UsageError(f"there is no baseline {wanted}", hint=f"recorded: {', '.join(have) or 'none'}")
    return load(have[wanted])


def known_differences(key: str, folder: Path = FOLDER) -> dict[str, str]:
    """Probes that the fake answers otherwise than the recorded one of that key ("257-v1"), and why that stays so."""
    with (folder / DIFFERENCES).open("rb") as file:
        rows = tomllib.load(file).get("probe", [])
    return {str(row["probe"]): str(row["reason"]) for row in rows if key in row["baselines"]}


def nearest_below(version: int, layout: str) -> Baseline | None:
    """The recorded one of the newest systemd that is older, in the same layout; None where there is none."""
    older = [
        load(path) for key, path in recorded().items() if key.endswith(f"-{layout}") and _version_of(key) < version
    ]
    return max(older, key=lambda one: one.version, default=None)


def _version_of(key: str) -> int:
    return leading_number(key)
