"""Answers as they were recorded: reports/baselines/<version>-<layout>.json."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from cgrace.harness.errors import UsageError
from cgrace.harness.validate.machine import LAYOUTS
from cgrace.harness.validate.stage import Answer
from cgrace.harness.whole import write_whole

FORMAT: Final = 1
FOLDER: Final = Path(__file__).resolve().parents[2] / "reports" / "baselines"
DIFFERENCES: Final = "differences.toml"
_NUMBER: Final = re.compile(r"(?:systemd |v)?(\d+)")
VM: Final = "-vm"  # behind the key of one that was recorded in a virtual machine
_NAME: Final = re.compile(r"(\d+)(?:-(v1|v2))?(-vm)?")


@dataclass(frozen=True, slots=True, kw_only=True)
class Baseline:
    """What one systemd answered. name: the machine's, or the file's; systemd: its Version property; version: that number.

    runs_in: where, by its Virtualization property ("container-other", "qemu", "" for none). hierarchies: controllers by hierarchy
    that the machine had. answers: by probe. outcomes: of scenarios, by case ("" where none
    were run); they are compared like answers. is_users: whether it is a user's systemd, not a machine's own.
    """

    name: str
    systemd: str
    version: int
    layout: str
    runs_in: str = ""
    hierarchies: Mapping[str, list[str]]
    answers: Mapping[str, Answer]
    outcomes: Mapping[str, str] = field(default_factory=dict)
    is_users: bool = False

    @property
    def key(self) -> str:
        """Its name as a recorded one: "257-v1" of a container, "257-v1-vm" of a whole machine."""
        return f"{self.version}-{self.layout}{'' if self.runs_in.startswith('container') else VM}"


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
        is_users=bool(data.get("is_users", False)),
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
    if baseline.is_users:
        head["is_users"] = True
    lines = [f" {json.dumps(key)}: {json.dumps(value)}" for key, value in head.items()]
    for name, table in (("answers", baseline.answers), ("outcomes", baseline.outcomes)):
        rows = ",\n".join(f"  {json.dumps(key)}: {json.dumps(table[key])}" for key in sorted(table))
        lines.append(f' "{name}": {{\n{rows}\n }}' if rows else f' "{name}": {{}}')
    return "{\n" + ",\n".join(lines) + "\n}\n"


def save(baseline: Baseline, folder: Path = FOLDER) -> Path:
    """Write it under its key; what was there is replaced."""
    return write(baseline, folder / f"{baseline.key}.json")


def write(baseline: Baseline, path: Path) -> Path:
    """Write it into a file of its own; where it is."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, encode(baseline))
    except OSError as error:
        raise UsageError(f"the baseline cannot be written: {error.strerror}", file=path) from None
    return path


def find(text: str, like: Baseline | None = None) -> Baseline | None:
    """The recorded baseline that a name means ("257", "257-v1", "257-v2-vm", or a file); None where the text is no such name.

    like: what it is to be compared with. Where the name leaves it open, the layout is that one's, and of a container's and a
    virtual machine's the one that had the same hierarchies.
    """
    if text.endswith(".json"):
        return load(Path(text))
    found = _NAME.fullmatch(text)
    if found is None:
        return None
    keys = _keys(found, [like.layout if like is not None else LAYOUTS[0]])
    best = _best(keys, like)
    if best is None:
        raise _not_recorded(keys[0])
    return best


def is_recorded(text: str) -> bool:
    """Whether `find` takes a text for a baseline's name. UsageError where there is none that it can mean, whatever it is compared
    with."""
    if text.endswith(".json"):
        load(Path(text))
        return True
    wanted = _NAME.fullmatch(text)
    if wanted is None:
        return False
    if recorded().keys().isdisjoint(_keys(wanted, LAYOUTS)):
        raise _not_recorded(text)
    return True


def _keys(name: re.Match[str], layouts: Sequence[str]) -> list[str]:
    """What a name can mean, a container's first. layouts: those that are tried where it says none."""
    tried = [name[2]] if name[2] else layouts
    return [f"{name[1]}-{layout}{end}" for layout in tried for end in ([VM] if name[3] else ["", VM])]


def _not_recorded(key: str) -> UsageError:
    return UsageError(f"there is no baseline {key}", hint=f"recorded: {', '.join(recorded()) or 'none'}")


def _best(keys: Sequence[str], like: Baseline | None) -> Baseline | None:
    """The first of these that is recorded, one with the same hierarchies before all others."""
    have = recorded()
    candidates = [load(have[key]) for key in keys if key in have]
    alike = [one for one in candidates if like is not None and one.hierarchies == like.hierarchies]
    return next(iter([*alike, *candidates]), None)


def known_differences(key: str, folder: Path = FOLDER) -> dict[str, str]:
    """Probes that the fake answers otherwise than the recorded one of that key ("257-v1"), and why that stays so."""
    with (folder / DIFFERENCES).open("rb") as file:
        rows = tomllib.load(file).get("probe", [])
    return {str(row["probe"]): str(row["reason"]) for row in rows if key in row["baselines"]}


@dataclass(frozen=True, slots=True, kw_only=True)
class UsersAnswer:
    """What a user's systemd answers by its nature where a machine's own of the same version answers otherwise. place: in the
    probe's answer, as `compare.Difference` has it."""

    probe: str
    place: str
    answer: Any
    reason: str


def users_answers(folder: Path = FOLDER) -> tuple[UsersAnswer, ...]:
    """All that are known."""
    with (folder / DIFFERENCES).open("rb") as file:
        rows = tomllib.load(file).get("user", [])
    return tuple(UsersAnswer(**row) for row in rows)


def nearest_below(new: Baseline) -> Baseline | None:
    """The recorded one of the newest systemd that is older, in the same layout; None where there is none."""
    older = sorted({leading_number(key) for key in recorded() if f"-{new.layout}" in key}, reverse=True)
    for version in older:
        if version < new.version:
            key = f"{version}-{new.layout}"
            return _best([key, f"{key}{VM}"], new)
    return None
