"""Just enough of GitHub Actions for a test to do what a workflow says: the YAML that ours are written in, and their steps.

The reader takes block mappings, block sequences, plain and double-quoted scalars and literal blocks, and refuses everything else,
so that what it reads is what GitHub's reader reads.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

_KEY = re.compile(r"^(?P<key>[A-Za-z][A-Za-z0-9_-]*):(?: (?P<value>.+))?$")
_NOT_PLAIN = tuple("\"'[]{}&*!|>%@`#")
_EXPRESSION = re.compile(r"\$\{\{ *([a-z_]+)\.([A-Za-z0-9_-]+) *\}\}")


class _Lines:
    """The lines that say something: (number, indent, text)."""

    def __init__(self, text: str) -> None:
        self.raw = text.splitlines()
        self.at = 0

    def peek(self) -> tuple[int, str] | None:
        """Indent and text of the next line, comments and blank lines skipped."""
        while self.at < len(self.raw):
            line = self.raw[self.at]
            if line.strip() and not line.lstrip().startswith("#"):
                assert "\t" not in line, f"line {self.at + 1}: a tab"
                return len(line) - len(line.lstrip()), line.strip()
            self.at += 1
        return None

    def block(self, indent: int) -> str:
        """The literal block below a key at this indent."""
        taken: list[str] = []
        while self.at < len(self.raw) and (
            not (line := self.raw[self.at]).strip() or line.startswith(" " * (indent + 1))
        ):
            taken.append(line)
            self.at += 1
        width = min(len(line) - len(line.lstrip()) for line in taken if line.strip())
        return "\n".join(line[width:] for line in taken).rstrip("\n") + "\n"


def read(text: str) -> dict[str, Any]:
    """A document; AssertionError with the line where it is more than this reader knows."""
    lines = _Lines(text)
    found = _node(lines, 0)
    assert lines.peek() is None, f"line {lines.at + 1}: not understood"
    assert isinstance(found, dict)
    return found


def _node(lines: _Lines, indent: int) -> Any:
    first = lines.peek()
    assert first is not None and first[0] == indent, f"line {lines.at + 1}: indent {indent} expected"
    return _sequence(lines, indent) if first[1].startswith("- ") else _mapping(lines, indent)


def _sequence(lines: _Lines, indent: int) -> list[Any]:
    found = []
    while (here := lines.peek()) is not None and here[0] == indent and here[1].startswith("- "):
        inner = here[1][2:]
        if _KEY.match(inner):
            lines.raw[lines.at] = " " * (indent + 2) + inner
            found.append(_mapping(lines, indent + 2))
        else:
            found.append(_scalar(inner, lines.at))
            lines.at += 1
    return found


def _mapping(lines: _Lines, indent: int) -> dict[str, Any]:
    found: dict[str, Any] = {}
    while (here := lines.peek()) is not None and here[0] == indent and not here[1].startswith("- "):
        match = _KEY.match(here[1])
        assert match is not None, f"line {lines.at + 1}: {here[1]!r} is no key"
        key, value = match["key"], match["value"]
        assert key not in found, f"line {lines.at + 1}: {key} twice"
        lines.at += 1
        if value == "|":
            found[key] = lines.block(indent)
        elif value is not None:
            found[key] = _scalar(value, lines.at - 1)
        else:
            below = lines.peek()
            deeper = below is not None and (below[0] > indent or (below[0] == indent and below[1].startswith("- ")))
            found[key] = _node(lines, below[0]) if below is not None and deeper else None
    return found


def _scalar(text: str, line: int) -> str:
    if text.startswith('"'):
        return str(json.loads(text))
    assert not text.startswith(_NOT_PLAIN) and ": " not in text and " #" not in text, f"line {line + 1}: quote {text!r}"
    return text


def filled(text: str, contexts: Mapping[str, Mapping[str, str]]) -> str:
    """A value with its `${{ context.name }}` put in; a name that nobody knows is a KeyError, as GitHub would leave it empty."""
    return _EXPRESSION.sub(lambda match: contexts[match[1]][match[2]], text)


def inputs_of(action: Mapping[str, Any], given: Mapping[str, str]) -> dict[str, str]:
    """What an action's steps see: its defaults, and what the caller said. An input that it does not have is an AssertionError."""
    unknown = set(given) - set(action["inputs"])
    assert not unknown, f"the action has no input {unknown}"
    return {name: given.get(name, about.get("default", "")) for name, about in action["inputs"].items()}


def load(path: Path) -> dict[str, Any]:
    """A file."""
    return read(path.read_text(encoding="utf-8"))
