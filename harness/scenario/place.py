"""A place in a scenario file, and the problems noted there. Every problem is noted; the first by line is reported."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cgrace.harness.errors import ScenarioError


@dataclass(slots=True)
class Source:
    """One file: its name for messages, the line of each key (locate.py), and what was found wrong."""

    file: Path
    lines: Mapping[tuple[str | int, ...], int]
    problems: list[ScenarioError] = field(default_factory=list)

    def check(self) -> None:
        """Raise the first problem by line, if there is one."""
        if self.problems:
            raise min(self.problems, key=lambda problem: problem.line or 0)

    @property
    def root(self) -> Place:
        """The place of the whole file."""
        return Place(self, ())


@dataclass(frozen=True, slots=True)
class Place:
    """A key, table or list item of the file."""

    source: Source
    path: tuple[str | int, ...]

    def at(self, key: str | int) -> Place:
        """The place of what is below."""
        return Place(self.source, (*self.path, key))

    @property
    def line(self) -> int:
        """1-based; of the nearest thing around it where it has none of its own."""
        for length in range(len(self.path), 0, -1):
            if line := self.source.lines.get(self.path[:length]):
                return line
        return 1

    @property
    def name(self) -> str:
        """How people call it: "unit of steps[0]"."""
        text = ""
        for part in self.path:
            text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
        return text or "the file"

    def problem(self, message: str, hint: str = "") -> None:
        """Note a problem: `message` says what was found and what was expected, `hint` what to write."""
        self.source.problems.append(ScenarioError(message, hint=hint, file=self.source.file, line=self.line))


@dataclass(frozen=True, slots=True)
class Section:
    """A table that was read: its place, and its values by key (absent where not given)."""

    place: Place
    values: Mapping[str, Any]

    def get(self, key: str, default: Any = None) -> Any:
        """The value, or the default."""
        return self.values.get(key, default)

    def at(self, key: str) -> Place:
        """The place of a key."""
        return self.place.at(key)

    def __contains__(self, key: str) -> bool:
        return key in self.values
