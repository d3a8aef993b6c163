"""Where each key of a TOML text stands. tomllib gives values without positions; a message without a line helps nobody.

This is a scanner, not a parser: it is run over text that tomllib has accepted, so it checks nothing. What it does not
understand it leaves out, and a place then takes the line of the nearest thing around it.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from contextlib import suppress

Path = tuple[str | int, ...]

_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")
_SCALAR = re.compile(r"[^,\]}\n#]+")
_BLANK = re.compile(r"[ \t]*")
_BLANK_LINES = re.compile(r"(?:[ \t\r\n]|#[^\n]*)*")
_ESCAPES = {"b": "\b", "t": "\t", "n": "\n", "f": "\f", "r": "\r", '"': '"', "\\": "\\"}
_ESCAPE = re.compile(r"\\(?:u([0-9a-fA-F]{4})|U([0-9a-fA-F]{8})|(.))", re.DOTALL)


class _Lost(Exception):
    """The scanner met something that it does not understand."""


def locate(text: str) -> dict[Path, int]:
    """Line (1-based) of every key, table and list item, by its path: ("steps", 0, "unit")."""
    scanner = _Scanner(text)
    with suppress(_Lost, RecursionError, ValueError):
        scanner.document()
    return scanner.lines


class _Scanner:
    def __init__(self, text: str) -> None:
        self.text = text
        self.at = 0
        self.lines: dict[Path, int] = {}
        self._starts = [0] + [found.end() for found in re.finditer("\n", text)]
        self._counts: dict[Path, int] = {}

    def _note(self, path: Path) -> None:
        self.lines.setdefault(path, bisect_right(self._starts, self.at))

    def _skip(self, blank: re.Pattern[str]) -> None:
        if found := blank.match(self.text, self.at):
            self.at = found.end()

    def _take(self, token: str) -> bool:
        if self.text.startswith(token, self.at):
            self.at += len(token)
            return True
        return False

    def _need(self, token: str) -> None:
        if not self._take(token):
            raise _Lost(token)

    def document(self) -> None:
        base: Path = ()
        while True:
            self._skip(_BLANK_LINES)
            if self.at >= len(self.text):
                return
            if self._take("[["):
                base = self._header(many=True)
                self._need("]]")
            elif self._take("["):
                base = self._header(many=False)
                self._need("]")
            else:
                self._pair(base)

    def _header(self, many: bool) -> Path:
        """The path that a table header opens; names of arrays of tables on the way mean their newest item."""
        path: Path = ()
        keys = self._keys()
        for number, key in enumerate(keys):
            path += (key,)
            self._note(path)
            if many and number == len(keys) - 1:
                self._counts[path] = self._counts.get(path, 0) + 1
            if path in self._counts:
                path += (self._counts[path] - 1,)
                self._note(path)
        return path

    def _pair(self, base: Path) -> None:
        path = base
        start = self.at
        keys = self._keys()
        end, self.at = self.at, start
        for key in keys:
            path += (key,)
            self._note(path)
        self.at = end
        self._need("=")
        self._value(path)

    def _keys(self) -> list[str]:
        keys = []
        while True:
            self._skip(_BLANK)
            if self.text[self.at : self.at + 1] in ('"', "'"):
                keys.append(self._string())
            elif found := _BARE_KEY.match(self.text, self.at):
                keys.append(found[0])
                self.at = found.end()
            else:
                raise _Lost("a key")
            self._skip(_BLANK)
            if not self._take("."):
                return keys

    def _string(self) -> str:
        """A string of any of TOML's four kinds; its text is needed only where it is a key."""
        for quotes in ('"""', "'''", '"', "'"):
            if self._take(quotes):
                break
        raw = quotes[0] == "'"
        start = self.at
        while not self.text.startswith(quotes, self.at):
            if self.at >= len(self.text):
                raise _Lost("the end of a string")
            self.at += 2 if self.text[self.at] == "\\" and not raw else 1
        if len(quotes) == 3:  # up to two more quotes may belong to the text
            while self.text.startswith(quotes, self.at + 1):
                self.at += 1
        found = self.text[start : self.at]
        self.at += len(quotes)
        return found if raw else _ESCAPE.sub(_unescape, found)

    def _value(self, path: Path) -> None:
        self._skip(_BLANK)
        if self.text[self.at : self.at + 1] in ('"', "'"):
            self._string()
        elif self._take("["):
            self._items(path)
        elif self._take("{"):
            self._members(path)
        elif found := _SCALAR.match(self.text, self.at):
            self.at = found.end()
        else:
            raise _Lost("a value")

    def _items(self, path: Path) -> None:
        number = 0
        while True:
            self._skip(_BLANK_LINES)
            if self._take("]"):
                return
            self._note((*path, number))
            self._value((*path, number))
            number += 1
            self._skip(_BLANK_LINES)
            self._take(",")

    def _members(self, path: Path) -> None:
        while True:
            self._skip(_BLANK_LINES)
            if self._take("}"):
                return
            self._pair(path)
            self._skip(_BLANK_LINES)
            self._take(",")


def _unescape(found: re.Match[str]) -> str:
    code = found[1] or found[2]
    return chr(int(code, 16)) if code else _ESCAPES.get(found[3], found[3])
