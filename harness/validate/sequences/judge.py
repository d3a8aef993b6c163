"""Where two tellings of a sequence differ, and which differences are written down with a reason.

An entry of reports/baselines/differences.toml excuses a difference when all that it gives is so:

    name, reason                what it is called, and why it stays
    versions, layouts           of the real one (all where not given)
    place                       a pattern for the whole place: "said.0", "heard.0", "cgroups./top.slice/t.slice", "places.w1"
    acts                        a pattern found in the text of the sequence up to that moment
    ours, real                  patterns found in what each of the two told there, as JSON
    reordered                   true: both told the same words, in another order
"""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from cgrace.harness.errors import UsageError
from cgrace.harness.validate.baseline import DIFFERENCES, FOLDER
from cgrace.harness.validate.compare import Difference, differences
from cgrace.harness.validate.sequences.program import Program

FILE = FOLDER / DIFFERENCES


@dataclass(frozen=True, slots=True, kw_only=True)
class Excuse:
    """One entry of the file."""

    name: str
    reason: str
    versions: tuple[int, ...] = ()
    layouts: tuple[str, ...] = ()
    place: str = ""
    acts: str = ""
    ours: str = ""
    real: str = ""
    reordered: bool = False

    def covers(self, one: Difference, text: str) -> bool:
        """Whether the difference is this one. text: of the sequence up to there."""
        return (
            (not self.reordered or _same_words(one.old, one.new))
            and re.fullmatch(self.place or ".*", one.place) is not None
            and re.search(self.acts, text) is not None
            and re.search(self.ours, json.dumps(one.old, ensure_ascii=False)) is not None
            and re.search(self.real, json.dumps(one.new, ensure_ascii=False)) is not None
        )


def _same_words(ours: Any, real: Any) -> bool:
    return isinstance(ours, list) and isinstance(real, list) and sorted(ours) == sorted(real)


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """The first moment (from 0) of a sequence that two told differently. Of a difference, `old` is ours and `new` the real one.

    ours: all that was told on our side.
    """

    program: Program
    moment: int
    differences: tuple[Difference, ...]
    ours: Sequence[Any] = ()

    @property
    def kind(self) -> tuple[str, ...]:
        """What is alike in differences of one cause, as far as can be told by rule."""
        acts = self.program.moments[self.moment]
        return (_head(self.differences[0].place), *(act.do for act in acts[:1]))


def _head(place: str) -> str:
    return place.partition(".")[0]


class Judge:
    """Compares tellings for one real version. version: its number; excused: how often each entry was needed."""

    def __init__(self, excuses: Iterable[Excuse], version: int, layout: str) -> None:
        self.version = version
        self._excuses = tuple(
            one
            for one in excuses
            if (not one.versions or version in one.versions) and (not one.layouts or layout in one.layouts)
        )
        self.excused: dict[str, int] = {}

    def differs(self, program: Program, ours: Sequence[Any], real: Sequence[Any]) -> Found | None:
        """The first moment with a difference that nothing excuses."""
        for number, (one, other) in enumerate(zip(ours, real, strict=True)):
            if one == other:
                continue
            text = str(Program(moments=program.moments[: number + 1], subscribed=program.subscribed))
            left = tuple(each for each in differences(one, other) if not self._is_excused(each, text))
            if left:
                return Found(program=program, moment=number, differences=left, ours=ours)
        return None

    def _is_excused(self, one: Difference, text: str) -> bool:
        for excuse in self._excuses:
            if excuse.covers(one, text):
                self.excused[excuse.name] = self.excused.get(excuse.name, 0) + 1
                return True
        return False


def excuses(path: Path = FILE) -> tuple[Excuse, ...]:
    """The entries of the file; UsageError where it is not right."""
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
        return tuple(_excuse(one) for one in table.get("difference", ()))
    except OSError as error:
        raise UsageError(f"the differences cannot be read: {error.strerror}", file=path) from None
    except (tomllib.TOMLDecodeError, TypeError, KeyError, re.error) as error:
        raise UsageError(f"not a list of differences: {error}", file=path) from None


def _excuse(entry: dict[str, Any]) -> Excuse:
    known = {one.name for one in fields(Excuse)}
    if extra := set(entry) - known:
        raise KeyError(f"{entry.get('name')}: unknown {', '.join(sorted(extra))}")
    values: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in entry.items()}
    for pattern in ("place", "acts", "ours", "real"):
        re.compile(values.get(pattern, ""))
    return Excuse(**values)
