"""The trace: the frozen, ordered record of one run, and the one recorder that may append to it.

Stored as JSON lines: a head, then an entry a line `{"i": 0, "t": <ns>, "e": <kind>, ...}`. The reader trusts nothing: a
line that is not what the schema says is a TraceError with its line number.
"""

from __future__ import annotations

import dataclasses
import json
import json.encoder
import operator
import stat
import types
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any, Protocol, TypeVar

from cgrace.harness import events
from cgrace.harness.clock import CLOCK_NAME, now_ns
from cgrace.harness.errors import TraceError
from cgrace.harness.events import Event

SCHEMA_VERSION = 1
ENTRIES_MAX = 2_000_000
LINE_BYTES_MAX = 16 * 1024 * 1024
TRACE_BYTES_MAX = 512 * 1024 * 1024
INTEGER_MAX = 2**63 - 1

E = TypeVar("E", bound=Event)


@dataclass(frozen=True, slots=True, kw_only=True)
class Head:
    """What a run was, for whoever reads its trace later.

    scenario: the parsed scenario as JSON data (scenario.model.Scenario.to_data), bounds and faults included.
    driver: name, generation, module, version, build id and what proved it.
    versions: everything that took part (cgrace, kernel, python, go, systemd or profile).
    """

    scenario: Mapping[str, Any]
    driver: Mapping[str, str]
    target: str
    profile: str
    layout: str
    versions: Mapping[str, str] = field(default_factory=dict)
    command: str = ""
    schema: int = SCHEMA_VERSION
    clock: str = CLOCK_NAME


@dataclass(frozen=True, slots=True)
class Entry:
    """One event with its place: `index` is the order in which it was recorded, `t_ns` when it happened."""

    index: int
    t_ns: int
    event: Event


@dataclass(frozen=True, slots=True)
class Trace:
    """A whole run. Views are derived, never stored."""

    head: Head
    entries: tuple[Entry, ...]

    def of(self, kind: type[E]) -> Iterator[tuple[Entry, E]]:
        """Every event of one type, in order, with its entry."""
        for entry in self.entries:
            if isinstance(entry.event, kind):
                yield entry, entry.event

    def first(self, kind: type[E], where: Callable[[E], bool] = lambda _: True) -> tuple[Entry, E] | None:
        """The first event of a type for which `where` holds."""
        return next(((entry, event) for entry, event in self.of(kind) if where(event)), None)

    def last(self, kind: type[E], where: Callable[[E], bool] = lambda _: True) -> tuple[Entry, E] | None:
        """The last event of a type for which `where` holds."""
        found = None
        for entry, event in self.of(kind):
            if where(event):
                found = (entry, event)
        return found


class Sink(Protocol):
    """Where a recorder writes its lines."""

    def write(self, text: str, /) -> object:
        """Take some text."""
        ...

    def flush(self) -> None:
        """Pass on what was taken."""
        ...


class Recorder:
    """Alone gives index and time. Writes each entry to `sink` at once, then tells the listeners, in order.

    A listener may record further events: they are appended after the present one and told after it, so that every
    listener sees one and the same order.
    """

    def __init__(self, head: Head, sink: Sink | None = None) -> None:
        self.head = head
        self._entries: list[Entry] = []
        self._sink = sink
        self._listeners: list[Callable[[Entry], None]] = []
        self._told = 0
        self._telling = False
        if sink is not None:
            sink.write(encode_head(head) + "\n")

    def listen(self, listener: Callable[[Entry], None]) -> None:
        """Call `listener` with every entry recorded from now on."""
        self._listeners.append(listener)

    def record(self, event: Event, t_ns: int | None = None) -> Entry:
        """Append an event; `t_ns` is given where it happened earlier than it was read (kernel events)."""
        entry = Entry(len(self._entries), now_ns() if t_ns is None else t_ns, event)
        self._entries.append(entry)
        if self._sink is not None:
            self._sink.write(encode_entry(entry) + "\n")
        if not self._telling:
            self._tell()
        return entry

    def _tell(self) -> None:
        self._telling = True
        try:
            while self._told < len(self._entries):
                entry = self._entries[self._told]
                self._told += 1
                for listener in self._listeners:
                    listener(entry)
        finally:
            self._telling = False

    def freeze(self) -> Trace:
        """The trace so far, immutable; flushed to disk."""
        if self._sink is not None:
            self._sink.flush()
        return Trace(self.head, tuple(self._entries))


# ---- the stored form

_KINDS: dict[str, type[Event]] = {
    kind.KIND: kind
    for kind in vars(events).values()
    if isinstance(kind, type) and issubclass(kind, Event) and kind.KIND
}


_FIELDS: dict[type[Any], tuple[tuple[str, Any, Any], ...]] = {}


def _fields(kind: type[Any]) -> tuple[tuple[str, Any, Any], ...]:
    """(name, type, default) of each field of a record; MISSING where there is no default."""
    if kind not in _FIELDS:
        hints = typing.get_type_hints(kind)
        _FIELDS[kind] = tuple(
            (f.name, hints[f.name], f.default_factory() if f.default_factory is not dataclasses.MISSING else f.default)
            for f in dataclasses.fields(kind)
        )
    return _FIELDS[kind]


_to_text = json.JSONEncoder(separators=(",", ":"), check_circular=False).encode
_quote = json.encoder.encode_basestring_ascii


def _text(value: Any) -> str:
    """A record's field as JSON. Written out, for the kinds that there are: it is done for every event of every run."""
    if isinstance(value, str):
        return _quote(value)
    if type(value) is int:
        return repr(value)
    if isinstance(value, (tuple, list)):
        return f"[{','.join([_text(item) for item in value])}]"
    if dataclasses.is_dataclass(value):
        return f"{{{_fields_text(value)[1:]}}}"
    return _to_text(value)


_WRITTEN: dict[type[Any], tuple[Callable[[Any], Sequence[Any]], tuple[tuple[str, Any], ...]]] = {}


def _written(kind: type[Any]) -> tuple[Callable[[Any], Sequence[Any]], tuple[tuple[str, Any], ...]]:
    """What gets a record's values, and for each the text in front of it and its default."""
    if kind not in _WRITTEN:
        fields = _fields(kind)
        names = [name for name, _, _ in fields]
        # attrgetter gives the value itself where it is one, and takes no empty list.
        values = operator.attrgetter(*names) if len(names) > 1 else lambda record: [getattr(record, n) for n in names]
        _WRITTEN[kind] = values, tuple((f',"{name}":', default) for name, _, default in fields)
    return _WRITTEN[kind]


def _fields_text(record: Any) -> str:
    """A record's fields, each with a comma in front; those at their default are left out, to keep traces small."""
    values, fields = _written(type(record))
    return "".join(
        [
            key + _text(value)
            for (key, default), value in zip(fields, values(record), strict=True)
            if value != default  # nothing equals MISSING
        ]
    )


def encode_head(head: Head) -> str:
    """The first line of a stored trace."""
    return _to_text({"cgrace-trace": head.schema, **dataclasses.asdict(head)})


def encode_entry(entry: Entry) -> str:
    """One line of a stored trace."""
    event = entry.event
    return f'{{"i":{entry.index},"t":{entry.t_ns},"e":{_quote(event.KIND)}{_fields_text(event)}}}'


def _typed(value: Any, wanted: Any, what: str) -> Any:
    """JSON data as the type that the schema says, or a TraceError."""
    if type(value) is wanted and wanted in (str, bool):
        return value
    origin = typing.get_origin(wanted)
    if origin in (types.UnionType, typing.Union):
        if value is None:
            return None
        (wanted,) = [arg for arg in typing.get_args(wanted) if arg is not type(None)]
        return _typed(value, wanted, what)
    if origin is tuple and isinstance(value, list):
        args = typing.get_args(wanted)
        if len(args) == 2 and args[1] is Ellipsis:
            return tuple(_typed(item, args[0], what) for item in value)
        if len(args) == len(value):
            return tuple(_typed(item, arg, what) for item, arg in zip(value, args, strict=True))
    elif isinstance(wanted, type):
        if dataclasses.is_dataclass(wanted) and isinstance(value, dict):
            return _record(wanted, value, what)
        if issubclass(wanted, StrEnum) and isinstance(value, str) and value in list(wanted):
            return wanted(value)
        if wanted is int and type(value) is int and abs(value) > INTEGER_MAX:
            raise TraceError(f"{what}: a number of more than 64 bits")
        if type(value) is wanted and not issubclass(wanted, StrEnum):
            return value
    raise TraceError(f"{what}: {value!r:.80} is not what the schema says ({wanted})")


_WANTED: dict[type[Any], tuple[dict[str, Any], tuple[str, ...]]] = {}


def _wanted(kind: type[Any]) -> tuple[dict[str, Any], tuple[str, ...]]:
    """The types of a record's fields by name, and the names of those without a default."""
    if kind not in _WANTED:
        fields = _fields(kind)
        needed = tuple(name for name, _, default in fields if default is dataclasses.MISSING)
        _WANTED[kind] = {name: hint for name, hint, _ in fields}, needed
    return _WANTED[kind]


def _record(kind: type[Any], data: Mapping[str, Any], what: str) -> Any:
    known, needed = _wanted(kind)
    unknown = data.keys() - known.keys()
    if unknown:
        raise TraceError(f"{what}: unknown field {min(unknown)!r:.80}")
    for name in needed:
        if name not in data:
            raise TraceError(f"{what}: field {name!r} is missing")
    return kind(**{name: _typed(value, known[name], f"{what}, {name}") for name, value in data.items()})


def decode_entry(line: str, index: int) -> Entry:
    """Read one line; `index` is the place that it must have."""
    try:
        data = json.loads(line)
    except ValueError as error:
        raise TraceError(f"not JSON ({error}): the trace is truncated or was edited") from None
    except RecursionError:
        raise TraceError("nested deeper than anything that cgrace writes") from None
    if not isinstance(data, dict) or data.get("i") != index or type(data.get("t")) is not int:
        raise TraceError(f"entry {index} was expected")
    if not 0 <= data["t"] <= INTEGER_MAX:
        raise TraceError(f"entry {index} has a time that no clock gives")
    kind = _KINDS.get(str(data.get("e")))
    if kind is None:
        raise TraceError(f"unknown kind of event {data.get('e')!r:.80}: from a newer cgrace?")
    fields = {key: value for key, value in data.items() if key not in ("i", "t", "e")}
    return Entry(index, data["t"], _record(kind, fields, kind.KIND))


def decode_head(line: str) -> Head:
    """Read the first line of a stored trace."""
    try:
        data = json.loads(line)
    except (ValueError, RecursionError):
        data = None
    if not isinstance(data, dict) or type(data.get("cgrace-trace")) is not int:
        raise TraceError("this is not a cgrace trace", hint="give a trace.jsonl from a run's folder")
    if data["cgrace-trace"] > SCHEMA_VERSION:
        raise TraceError(
            f"the trace has schema {data['cgrace-trace']}, this cgrace reads up to {SCHEMA_VERSION}",
            hint="use the cgrace that made it, or a newer one",
        )
    names = {f.name for f in dataclasses.fields(Head)}
    if set(data) - {"cgrace-trace"} != names:
        raise TraceError("the head of the trace is not what the schema says")
    if not isinstance(data["scenario"], dict) or not all(_is_texts(data[name]) for name in ("driver", "versions")):
        raise TraceError("the head of the trace is not what the schema says")
    if not all(isinstance(data[name], str) for name in ("target", "profile", "layout", "command", "clock")):
        raise TraceError("the head of the trace is not what the schema says")
    return Head(**{name: data[name] for name in names})


def _is_texts(data: Any) -> bool:
    """Whether this is a table of texts, as a driver and the versions are."""
    return isinstance(data, dict) and all(isinstance(value, str) for value in data.values())


def read_lines(lines: Iterable[str], name: str = "trace") -> Trace:
    """A trace from its stored lines."""
    head: Head | None = None
    entries: list[Entry] = []
    for number, line in enumerate(lines, 1):
        try:
            if number > ENTRIES_MAX or len(line) > LINE_BYTES_MAX:
                raise TraceError("larger than any trace that cgrace writes")
            if head is None:
                head = decode_head(line)
            else:
                entries.append(decode_entry(line, len(entries)))
        except TraceError as error:
            raise TraceError(error.message, hint=error.hint, file=name, line=number) from None
    if head is None:
        raise TraceError("the file is empty", file=name)
    return Trace(head, tuple(entries))


def read_trace(path: Path) -> Trace:
    """A trace from a file; every problem is a TraceError with file and line."""
    try:
        found = path.stat()
        if not stat.S_ISREG(found.st_mode):
            raise TraceError("this is no file", hint="give a .jsonl file from a run's folder", file=path)
        if found.st_size > TRACE_BYTES_MAX:
            raise TraceError(f"larger than any trace that cgrace writes ({TRACE_BYTES_MAX >> 20} MiB)", file=path)
        with path.open(encoding="utf-8") as stream:
            return read_lines(iter(lambda: stream.readline(LINE_BYTES_MAX + 1), ""), str(path))
    except (OSError, UnicodeDecodeError) as error:
        raise TraceError(f"cannot be read: {error}", file=path) from None
