"""Shapes of TOML values. Each reads a value, noting problems at its place, and describes itself as JSON Schema.

`read` returns None where the value is not what it must be (a problem is noted then). One table of shapes (format.py)
serves the parser and the editors' schema, so the two cannot drift apart.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from cgrace.harness.clock import NS_PER_MS, NS_PER_S
from cgrace.harness.scenario.place import Place, Section
from cgrace.harness.scenario.words import closest, listed

Schema = dict[str, Any]

INTEGER_MAX = 2**63 - 1
DURATION_NS_MAX = 3600 * NS_PER_S
DURATION_PATTERN = r"^([0-9]{1,9}(?:\.[0-9]{1,9})?) ?(us|ms|s|m)$"
_UNIT_NS = {"us": 1000, "ms": NS_PER_MS, "s": NS_PER_S, "m": 60 * NS_PER_S}


def kind_of(value: Any) -> str:
    """A TOML value's type in words."""
    if isinstance(value, bool):
        return "true or false"
    names = ((str, "a text"), (int, "a number"), (float, "a number"), (list, "a list"), (dict, "a table"))
    return next((name for kind, name in names if isinstance(value, kind)), "a date or time")


def shown(value: Any) -> str:
    """A value in a message: short, and as TOML writes it where that is easy."""
    text = {True: "true", False: "false"}[value] if isinstance(value, bool) else f"{value!r}"
    return text if len(text) <= 60 else text[:57] + "..."


class Shape(ABC):
    """What a value must look like."""

    @abstractmethod
    def read(self, value: Any, place: Place) -> Any:
        """The value as the program wants it, or None and a problem."""

    @abstractmethod
    def schema(self) -> Schema:
        """The same as JSON Schema, draft 2020-12."""


def _wrong(value: Any, place: Place, expected: str, hint: str = "") -> None:
    place.problem(f"{place.name} is {kind_of(value)} ({shown(value)}); expected {expected}", hint)


@dataclass(frozen=True, slots=True)
class Text(Shape):
    """A text; with a pattern, one of that form (`what` says which). `check` says what is wrong with it, "" for nothing."""

    what: str = "a text"
    pattern: str = ""
    check: Callable[[str], str] | None = None
    empty: bool = False

    def read(self, value: Any, place: Place) -> str | None:
        if not isinstance(value, str):
            _wrong(value, place, self.what)
            return None
        if not value.strip() and not self.empty:
            place.problem(f"{place.name} is empty; expected {self.what}")
            return None
        trouble = self.check(value) if self.check else ""
        if not trouble and self.pattern and not re.search(self.pattern, value):
            trouble = f"expected {self.what}"
        if trouble:
            place.problem(f"{place.name} {shown(value)}: {trouble}")
            return None
        return value

    def schema(self) -> Schema:
        return {"type": "string"} | ({"pattern": self.pattern} if self.pattern else {})


@dataclass(frozen=True, slots=True)
class Word(Shape):
    """One of a list of words."""

    words: tuple[str, ...]
    what: str

    def read(self, value: Any, place: Place) -> str | None:
        if isinstance(value, str) and value in self.words:
            return value
        if not isinstance(value, str):
            _wrong(value, place, listed(self.words))
            return None
        near = closest(value, self.words)
        place.problem(
            f"{shown(value)} is not {self.what}; expected {listed(self.words)}",
            f"write '{near}'" if near else "",
        )
        return None

    def schema(self) -> Schema:
        return {"enum": list(self.words)}


@dataclass(frozen=True, slots=True)
class Number(Shape):
    """A whole number from `least` on; `word` is a text that may stand in its place and is read as itself."""

    least: int = 0
    word: str = ""

    def read(self, value: Any, place: Place) -> int | str | None:
        if self.word and value == self.word:
            return self.word
        if not isinstance(value, int) or isinstance(value, bool) or not self.least <= value <= INTEGER_MAX:
            other = f" or '{self.word}'" if self.word else ""
            _wrong(value, place, f"a whole number, at least {self.least}{other}")
            return None
        return value

    def schema(self) -> Schema:
        number: Schema = {"type": "integer", "minimum": self.least}
        return {"anyOf": [number, {"const": self.word}]} if self.word else number


@dataclass(frozen=True, slots=True)
class Flag(Shape):
    """true or false; `only` is the one that makes sense here."""

    only: bool | None = None

    def read(self, value: Any, place: Place) -> bool | None:
        if not isinstance(value, bool) or (self.only is not None and value is not self.only):
            _wrong(value, place, "true or false" if self.only is None else shown(self.only))
            return None
        return value

    def schema(self) -> Schema:
        return {"type": "boolean"} if self.only is None else {"const": self.only}


@dataclass(frozen=True, slots=True)
class Scalar(Shape):
    """A text, a whole number, or true or false."""

    flag: bool = True

    def read(self, value: Any, place: Place) -> str | int | bool | None:
        if isinstance(value, bool) and not self.flag:
            _wrong(value, place, "a text or a whole number")
            return None
        if isinstance(value, int) and not -INTEGER_MAX <= value <= 2 * INTEGER_MAX + 1:
            _wrong(value, place, "a number of at most 64 bits")
            return None
        if isinstance(value, str | int):
            return value
        _wrong(value, place, "a text, a whole number, or true or false" if self.flag else "a text or a whole number")
        return None

    def schema(self) -> Schema:
        return {"type": ["string", "integer", "boolean"] if self.flag else ["string", "integer"]}


@dataclass(frozen=True, slots=True)
class Duration(Shape):
    """A time as "500ms", "1.5s" or "2m", read as nanoseconds; `word` may stand in its place and is read as itself."""

    word: str = ""

    def read(self, value: Any, place: Place) -> int | str | None:
        if self.word and value == self.word:
            return self.word
        expected = "a time such as '500ms', '1.5s' or '2m'" + (f", or '{self.word}'" if self.word else "")
        found = re.fullmatch(DURATION_PATTERN, value) if isinstance(value, str) else None
        if found is None:
            number = isinstance(value, int | float) and not isinstance(value, bool)
            hint = f"write '{value}s' for seconds or '{value}ms' for milliseconds" if number else ""
            _wrong(value, place, expected, hint)
            return None
        time_ns = int(Decimal(found[1]) * _UNIT_NS[found[2]])
        if not 0 < time_ns <= DURATION_NS_MAX:
            _wrong(value, place, f"a time above zero and up to {DURATION_NS_MAX // NS_PER_S // 60}m")
            return None
        return time_ns

    def schema(self) -> Schema:
        time: Schema = {"type": "string", "pattern": DURATION_PATTERN}
        return {"anyOf": [time, {"const": self.word}]} if self.word else time


@dataclass(frozen=True, slots=True)
class Many(Shape):
    """A list of one shape, read as a tuple; with `single`, one value stands for a list of one."""

    item: Shape
    single: bool = False
    least: int = 0

    def read(self, value: Any, place: Place) -> tuple[Any, ...] | None:
        if not isinstance(value, list):
            if self.single:
                alone = self.item.read(value, place)
                return None if alone is None else (alone,)
            _wrong(value, place, "a list")
            return None
        if len(value) < self.least:
            place.problem(f"{place.name} is empty; expected at least {self.least}")
            return None
        return tuple(self.item.read(item, place.at(number)) for number, item in enumerate(value))

    def schema(self) -> Schema:
        many: Schema = {"type": "array", "items": self.item.schema()}
        if self.least:
            many["minItems"] = self.least
        return {"anyOf": [self.item.schema(), many]} if self.single else many


@dataclass(frozen=True, slots=True)
class ByName(Shape):
    """A table whose keys are names of the author's own, or of one list; read as a Section."""

    item: Shape
    words: tuple[str, ...] = ()
    pattern: str = ""
    what: str = "a name"

    def read(self, value: Any, place: Place) -> Section | None:
        if not isinstance(value, dict):
            _wrong(value, place, "a table { name = value }")
            return None
        values = {}
        for key, item in value.items():
            below = place.at(key)
            if self.words:
                known = Word(self.words, self.what).read(key, below) is not None
            else:
                known = not self.pattern or Text(self.what, self.pattern).read(key, below) is not None
            if known and (found := self.item.read(item, below)) is not None:
                values[key] = found
        return Section(place, values)

    def schema(self) -> Schema:
        below = self.item.schema()
        if self.words:
            named = dict.fromkeys(self.words, below)
            return {"type": "object", "properties": named, "additionalProperties": False}
        if self.pattern:
            return {"type": "object", "patternProperties": {self.pattern: below}, "additionalProperties": False}
        return {"type": "object", "additionalProperties": below}


@dataclass(frozen=True, slots=True)
class Key:
    """One key of a table."""

    name: str
    shape: Shape
    doc: str
    required: bool = False


@dataclass(frozen=True, slots=True)
class Table(Shape):
    """A table with known keys, read as a Section. `one_of`: exactly one of these keys must be there."""

    what: str
    keys: tuple[Key, ...]
    one_of: tuple[str, ...] = ()

    def read(self, value: Any, place: Place) -> Section | None:
        if not isinstance(value, dict):
            _wrong(value, place, f"{self.what}, a table")
            return None
        names = tuple(key.name for key in self.keys)
        for key in value:
            if key not in names:
                near = closest(key, names)
                place.at(key).problem(
                    f"{self.what} has no key {shown(key)}; it knows {listed(names)}",
                    f"did you mean '{near}'?" if near else "remove it",
                )
        for needed in self.keys:
            if needed.required and needed.name not in value:
                place.problem(f"{self.what} has no '{needed.name}': {needed.doc}", f"add {needed.name} = ...")
        chosen = [name for name in self.one_of if name in value]
        if self.one_of and len(chosen) != 1:
            place.problem(
                f"{self.what} has {listed(tuple(chosen)) or 'none'} of {listed(self.one_of)}; expected exactly one"
            )
        values = {
            key.name: found
            for key in self.keys
            if key.name in value and (found := key.shape.read(value[key.name], place.at(key.name))) is not None
        }
        return Section(place, values)

    def schema(self) -> Schema:
        schema: Schema = {
            "type": "object",
            "properties": {key.name: {"description": key.doc, **key.shape.schema()} for key in self.keys},
            "additionalProperties": False,
        }
        if required := [key.name for key in self.keys if key.required]:
            schema["required"] = required
        if self.one_of:
            schema["oneOf"] = [{"required": [name]} for name in self.one_of]
        return schema


@dataclass(frozen=True, slots=True)
class Verbs(Shape):
    """A table that is one of several, told by the one key that is its verb. Read as a Section with "verb" set."""

    what: str
    tables: tuple[tuple[str, Table], ...]

    def read(self, value: Any, place: Place) -> Section | None:
        if not isinstance(value, dict):
            _wrong(value, place, f"{self.what}, a table")
            return None
        verbs = tuple(verb for verb, _ in self.tables)
        also = {key.name for verb, table in self.tables if verb in value for key in table.keys if key.name != verb}
        chosen = [verb for verb in verbs if verb in value and verb not in also]  # "job" is a key of "forge"
        if len(chosen) == 1:
            read = dict(self.tables)[chosen[0]].read(value, place)
            return None if read is None else Section(place, {**read.values, "verb": chosen[0]})
        if chosen:
            place.problem(
                f"{self.what} does one thing, this one says {listed(tuple(chosen), 'and')}",
                "write one for each",
            )
            return None
        near = next((near for key in value if (near := closest(key, verbs))), "")
        place.problem(f"{self.what} has no verb; expected {listed(verbs)}", f"did you mean '{near}'?" if near else "")
        return None

    def schema(self) -> Schema:
        return {"type": "object", "oneOf": [table.schema() for _, table in self.tables]}
