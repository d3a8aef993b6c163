"""Events as small as JSON allows: texts once, fields by place. Pure. The page's data.js is the other half."""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from cgrace.harness.events import Event
from cgrace.harness.trace import Entry
from cgrace.reports.inert import inert

TEXT_MAX = 100_000
"""Characters of one text on the page; a goroutine dump may be longer, and says so where it is cut."""

LEFT_OUT = {"raw"}  # a message's bytes are for programs: exports/pcapng.py

_SHAPES: dict[type[Event], tuple[tuple[str, bool, Any], ...]] = {}


@dataclass(slots=True)
class Texts:
    """Every text once, made inert."""

    all: list[str] = field(default_factory=list)
    known: dict[str, int] = field(default_factory=dict)

    def add(self, text: str) -> int:
        """The text's number."""
        if text not in self.known:
            self.known[text] = len(self.all)
            shown = inert(text)
            cut = len(shown) - TEXT_MAX
            self.all.append(shown if cut <= 0 else f"{shown[:TEXT_MAX]}\n[{cut} more characters are in the trace]")
        return self.known[text]


def _shape(kind: type[Event]) -> tuple[tuple[str, bool, Any], ...]:
    """(name, whether it is a text, default) of each field."""
    if kind not in _SHAPES:
        hints = typing.get_type_hints(kind)
        _SHAPES[kind] = tuple(
            (f.name, isinstance(hints[f.name], type) and issubclass(hints[f.name], str), f.default)
            for f in dataclasses.fields(kind)
            if f.name not in LEFT_OUT
        )
    return _SHAPES[kind]


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: _plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    return inert(value) if isinstance(value, str) else value


@dataclass(slots=True)
class Packed:
    """kinds: name and fields of each kind that occurs ("$" before a text's). events: [kind, ns since start, values...]."""

    texts: Texts
    kinds: list[list[str]] = field(default_factory=list)
    events: list[list[Any]] = field(default_factory=list)


def pack(entries: Iterable[Entry], start_ns: int, texts: Texts) -> Packed:
    """Every entry, by index. Values at their default at a line's end are left out."""
    packed, numbers = Packed(texts), {}
    for entry in entries:
        kind = type(entry.event)
        shape = _shape(kind)
        if kind not in numbers:
            numbers[kind] = len(packed.kinds)
            packed.kinds.append([kind.KIND, *(f"${name}" if text else name for name, text, _ in shape)])
        values: list[Any] = []
        length = 0
        for place, (name, is_text, default) in enumerate(shape, 1):
            value = getattr(entry.event, name)
            values.append(texts.add(str(value)) if is_text else _plain(value))
            if value != default or default is dataclasses.MISSING:
                length = place
        packed.events.append([numbers[kind], entry.t_ns - start_ns, *values[:length]])
    return packed
