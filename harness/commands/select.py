"""From words on the command line to scenarios, rows and drivers; what does not exist is named beside what does."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from cgrace.harness.commands.common import scenarios_folder
from cgrace.harness.errors import UsageError

if TYPE_CHECKING:
    from cgrace.harness.drivers.base import DriverSpec
    from cgrace.harness.engine.ground import Ground
    from cgrace.harness.scenario.model import Scenario


def stories() -> dict[str, Path]:
    """The stories that come with cgrace, by folder name."""
    return {path.name: path for path in sorted(scenarios_folder().iterdir()) if any(path.glob("*.toml"))}


def story_folder(word: str) -> Path:
    """A story by its issue number ("1780", "#1780") or its folder's name ("runc_1780")."""
    known = stories()
    plain = word.lstrip("#")
    found = [path for name, path in known.items() if name == plain or name.rpartition("_")[2] == plain]
    if len(found) != 1:
        raise UsageError(f"there is no story {word!r}", hint=_choices(plain, known))
    return found[0]


def find_scenarios(words: Sequence[str]) -> list[Scenario]:
    """Scenarios by file, folder or name: what is there as a path is that; else a folder of those that come with cgrace ("core",
    "runc_1780", "1780"), or a scenario there by its whole name or the last part of it."""
    paths: list[Path] = []
    for word in words:
        path = Path(word)
        paths += [path] if path.exists() else _shipped(word)
    return pick_scenarios(list(dict.fromkeys(paths)))


def _shipped(word: str) -> list[Path]:
    folders = stories()
    if found := [path for name, path in folders.items() if word in (name, name.rpartition("_")[2])]:
        return found
    files = {
        f"{folder.name}/{file.stem}": file for folder in folders.values() for file in sorted(folder.glob("*.toml"))
    }
    plain = word.removesuffix(".toml")
    found = [file for name, file in files.items() if plain in (name, name.partition("/")[2])]
    if not found:
        known = [*folders, *files, *(name.partition("/")[2] for name in files)]
        near = difflib.get_close_matches(plain, known, n=1)
        raise UsageError(
            "there is no such scenario file, folder or name",
            file=word,
            hint=near[0] if near else f"ls {scenarios_folder()}",
        )
    return found


def pick_scenarios(paths: Sequence[Path]) -> list[Scenario]:
    """Parsed files, and all files of folders."""
    from cgrace.harness.scenario.parse import load, load_tree

    found: list[Scenario] = []
    for path in paths:
        if path.is_dir():
            found += load_tree(path)
        elif path.exists():
            found.append(load(path))
        else:
            raise UsageError("there is no such scenario file or folder", file=path, hint=f"ls {scenarios_folder()}")
    if not found:
        raise UsageError("there is no scenario", file=paths[0])
    found = list({scenario.file.resolve(): scenario for scenario in found}.values())
    _distinct(found)
    return sorted(found, key=lambda scenario: _story_order(scenario.rows))


def _distinct(scenarios: Sequence[Scenario]) -> None:
    """UsageError for two that have one name: their traces and results could not be told apart."""
    named: dict[str, Path] = {}
    for one in scenarios:
        if one.name in named:
            message = f"two scenarios are called '{one.name}': {named[one.name]} is the other"
            raise UsageError(message, file=one.file, hint="run them one after the other")
        named[one.name] = one.file


def _story_order(rows: Sequence[str]) -> tuple[bool, list[tuple[int, str]]]:
    """Rows as the story counts them: 1-4, 5a, 5b, 7, 7a, 10; then those without a number (fix); then scenarios without rows."""
    keys = []
    for row in rows[:1]:
        number = re.match(r"[0-9]+", row)
        keys.append((int(number[0]) if number else 1000, row))
    return not keys, keys


def pick_rows(scenarios: Iterable[Scenario], wanted: Sequence[str]) -> tuple[str, ...]:
    """Rows as the scenarios name them. "1" also means a row "1-4"; "1-4" also the rows 1, 2, 3 and 4."""
    known = tuple(dict.fromkeys(row for scenario in scenarios for row in scenario.rows))
    picked: dict[str, None] = {}
    for row in wanted:
        hits = [name for name in known if name == row] or [name for name in known if _range(name) & _range(row)]
        if not hits:
            raise UsageError(f"no scenario serves a row {row!r}", hint=_choices(row, known))
        picked.update(dict.fromkeys(hits))
    return tuple(picked)


def _range(row: str) -> frozenset[str]:
    found = re.fullmatch(r"([0-9]{1,3})-([0-9]{1,3})", row)
    if not found:
        return frozenset([row])
    return frozenset(str(number) for number in range(int(found[1]), int(found[2]) + 1))


def pick_drivers(names: Sequence[str], *, on: Ground | None = None) -> Sequence[DriverSpec]:
    """The named drivers, in that order and once each; where none is named, one of each generation that can be driven there."""
    from cgrace.harness.drivers.catalogue import default_drivers, find_all

    named = {spec.name: spec for name in names for spec in find_all(name)}
    if names:
        return list(named.values())
    return default_drivers(on.layouts) if on is not None else default_drivers()


def _choices(word: str, known: Iterable[str]) -> str:
    names = list(known)
    near = difflib.get_close_matches(word, names, n=1)
    return near[0] if near else "one of: " + ", ".join(names)
