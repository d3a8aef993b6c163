"""What is known of hangs, as data: one TOML file an entry in entries/, each with the conditions that show it and what to do.

A signature is a list of conditions on goroutines, native stacks, log lines, jobs and units. `certain` says how much they prove:

    structure  the stacks alone do: nothing can free what they show
    lasting    the same stacks are also a moment of every healthy operation; that the wait of the first goroutine lasts must be
               seen besides
    timed      the wait ends by itself after bound_s: no hang, and worth a diagnosis only if what it waits for is gone
    said       a line of a log says so
"""

from __future__ import annotations

import functools
import re
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cgrace.harness.errors import CgraceError

FOLDER = Path(__file__).parent / "entries"
CERTAIN = ("structure", "lasting", "timed", "said")
NEEDS = ("one", "some", "may", "none")
"""Of a condition: must hold; at least one of these must; may, for evidence; must not hold."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GoroutineCondition:
    """A goroutine that is looked for. Names are compared without major versions: "go-systemd/dbus.(*Conn).startJob".

    function: its blocking call ends with one of these. state: begins with one of these. inside: some call of its stack
    contains one of these; without: none does. lock: it waits for the lock of this name ("any": for any). held_by: which the
    goroutine of that role holds. least: how many there must be. says: the sentence that such a
    goroutine is evidence for; missing: the sentence for when there is none.
    """

    role: str = ""
    needs: str = "one"
    function: tuple[str, ...] = ()
    state: tuple[str, ...] = ()
    inside: tuple[str, ...] = ()
    without: tuple[str, ...] = ()
    lock: str = ""
    held_by: str = ""
    least: int = 1
    says: str = ""
    missing: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class LineCondition:
    """A line of whatever was handed in. pattern: a regular expression. traced: it must hold where a trace tells all messages."""

    pattern: re.Pattern[str]
    needs: str = "one"
    says: str = ""
    missing: str = ""
    traced: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class NativeCondition:
    """A program's native stack: one of these functions is in it; where it names none of them, its poll is (un)timed as told."""

    program: str
    function: tuple[str, ...]
    without: tuple[str, ...] = ()
    untimed: bool = True
    says: str = ""
    missing: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Affected:
    """A module, the first version with the fix ("" when there is none), and the first that has the bug ("" when all before have).

    excludes: a fixed version in the dump speaks against the entry, since the stacks look alike in both.
    """

    module: str
    fixed: str = ""
    since: str = ""
    excludes: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Signature:
    """One entry. rows: of #1780; scenarios: that reproduce it; over: entries that it makes superfluous where both match; jobs:
    "gone" when no job may be queued, "queued" when one must be, "stays" when one must be and is known to stay; units: whether a
    unit "ran" when the wait began, or "none ran"; silent: systemd itself does not answer; tell: what would tell it from entries
    that look alike."""

    id: str
    title: str
    certain: str
    mechanism: str
    workaround: str
    fixed: str
    issues: tuple[str, ...] = ()
    rows: tuple[str, ...] = ()
    scenarios: tuple[str, ...] = ()
    over: tuple[str, ...] = ()
    bound_s: int = 0
    rank: int = 0
    jobs: str = ""
    units: str = ""
    silent: bool = False
    tell: str = ""
    goroutines: tuple[GoroutineCondition, ...] = ()
    lines: tuple[LineCondition, ...] = ()
    natives: tuple[NativeCondition, ...] = ()
    affected: tuple[Affected, ...] = ()


_LISTS = {"goroutine": "goroutines", "line": "lines", "native": "natives", "affected": "affected"}


@functools.cache
def signatures() -> tuple[Signature, ...]:
    """Every entry that comes with cgrace, by its rank and then by its id."""
    found = [load(path) for path in sorted(FOLDER.glob("*.toml"))]
    known = {one.id for one in found}
    for one in found:
        unknown = set(one.over) - known
        if unknown:
            raise CgraceError(f"nothing is called {sorted(unknown)[0]!r}", file=FOLDER / f"{one.id}.toml")
    return tuple(sorted(found, key=lambda one: (one.rank, one.id)))


def load(path: Path) -> Signature:
    """One entry; a CgraceError that names the file for whatever is wrong with it."""
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
        return _signature(path.stem, data)
    except (OSError, ValueError, TypeError, KeyError, re.error) as error:
        raise CgraceError(f"not an entry of cgrace diagnose: {error}", file=path) from None


def _signature(name: str, data: dict[str, Any]) -> Signature:
    kinds = {
        "goroutine": GoroutineCondition,
        "line": LineCondition,
        "native": NativeCondition,
        "affected": Affected,
    }
    values: dict[str, Any] = {"id": name}
    for key, value in data.items():
        if key in kinds:
            values[_LISTS[key]] = tuple(_record(kinds[key], one) for one in value)
        else:
            values[key] = _plain(value)
    signature = Signature(**values)
    _check(signature)
    return signature


def _record(kind: Any, data: dict[str, Any]) -> Any:
    values = {key: _plain(value) for key, value in data.items()}
    if kind is LineCondition:
        values["pattern"] = re.compile(values["pattern"])
    return kind(**values)


def _plain(value: Any) -> Any:
    """Lists as tuples, and long texts as one line."""
    if isinstance(value, list):
        return tuple(str(one) for one in value)
    return " ".join(value.split()) if isinstance(value, str) else value


def _check(one: Signature) -> None:
    if one.certain not in CERTAIN:
        raise ValueError(f"certain = {one.certain!r}; it is one of {', '.join(CERTAIN)}")
    if one.certain == "timed" and one.bound_s <= 0:
        raise ValueError("timed without bound_s")
    if one.jobs not in ("", "gone", "queued", "stays") or one.units not in ("", "ran", "none ran"):
        raise ValueError("jobs is gone, queued or stays, units is ran or none ran")
    conditions: tuple[GoroutineCondition | LineCondition, ...] = (*one.goroutines, *one.lines)
    if any(condition.needs not in NEEDS for condition in conditions):
        raise ValueError(f"needs is one of {', '.join(NEEDS)}")
    if not (any(c.needs in ("one", "some") for c in conditions) or one.natives or one.silent):
        raise ValueError("nothing in it must hold")
    roles = {condition.role for condition in one.goroutines}
    if unknown := [c.held_by for c in one.goroutines if c.held_by and c.held_by not in roles]:
        raise ValueError(f"no goroutine has the role {unknown[0]!r}")
