"""Records of the scenario model as JSON data and back, without loss.

Generic over the dataclasses of the model. A record of a family (a fault) carries the name of its class as "kind". Fields
at their default are left out. Reading trusts nothing: what is not what the schema says is a TraceError.
"""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import Any, TypeVar

from cgrace.harness import faults
from cgrace.harness.errors import TraceError
from cgrace.harness.faults import Fault

T = TypeVar("T")

_KINDS: dict[str, type[Fault]] = {
    name: kind
    for name, kind in vars(faults).items()
    if isinstance(kind, type) and issubclass(kind, Fault) and kind is not Fault
}
_FIELDS: dict[type[Any], dict[str, tuple[Any, Any]]] = {}


def _fields(kind: type[Any]) -> dict[str, tuple[Any, Any]]:
    """(type, default) of each field; MISSING where there is no default."""
    if kind not in _FIELDS:
        hints = typing.get_type_hints(kind)
        _FIELDS[kind] = {
            f.name: (hints[f.name], f.default_factory() if f.default_factory is not dataclasses.MISSING else f.default)
            for f in dataclasses.fields(kind)
        }
    return _FIELDS[kind]


def encode(value: Any) -> Any:
    """A record as JSON data."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        data = {
            name: encode(item)
            for name, (_, default) in _fields(type(value)).items()
            if (item := getattr(value, name)) != default or default is dataclasses.MISSING
        }
        return {"kind": type(value).__name__, **data} if isinstance(value, Fault) else data
    if isinstance(value, tuple):
        return [encode(item) for item in value]
    if isinstance(value, Path | StrEnum):
        return str(value)
    return value


def decode(kind: type[T], data: Any) -> T:
    """A record from JSON data; TraceError when it is not one."""
    found: T = _typed(kind, data, kind.__name__)
    return found


def _typed(wanted: Any, value: Any, what: str) -> Any:
    origin = typing.get_origin(wanted)
    if origin in (types.UnionType, typing.Union):
        return _one_of(typing.get_args(wanted), value, what)
    if origin is tuple and isinstance(value, list):
        args = typing.get_args(wanted)
        if len(args) == 2 and args[1] is Ellipsis:
            return tuple(_typed(args[0], item, what) for item in value)
        if len(args) == len(value):
            return tuple(_typed(arg, item, what) for arg, item in zip(args, value, strict=True))
    elif isinstance(wanted, type):
        if dataclasses.is_dataclass(wanted) and isinstance(value, dict):
            return _record(wanted, value, what)
        if wanted is Path and isinstance(value, str):
            return Path(value)
        if issubclass(wanted, StrEnum) and isinstance(value, str) and value in list(wanted):
            return wanted(value)
        if type(value) is wanted and not issubclass(wanted, StrEnum):
            _check_size(value, what)
            return value
    raise TraceError(f"{what}: {value!r:.80} is not what the schema says ({wanted})")


def _check_size(value: Any, what: str) -> None:
    """No field of a scenario needs more than D-Bus has: 64 bits."""
    if isinstance(value, int) and not -(2**63) <= value < 2**64:
        raise TraceError(f"{what}: a number of more than 64 bits")


def _one_of(kinds: tuple[Any, ...], value: Any, what: str) -> Any:
    for kind in kinds:
        if kind is type(None):
            if value is None:
                return None
        elif type(value) is kind:
            _check_size(value, what)
            return value
    records = [kind for kind in kinds if dataclasses.is_dataclass(kind)]
    if len(records) == 1 and isinstance(value, dict):
        return _typed(records[0], value, what)
    raise TraceError(f"{what}: {value!r:.80} is not what the schema says")


def _record(kind: type[Any], data: Mapping[str, Any], what: str) -> Any:
    if kind is Fault:
        named = _KINDS.get(str(data.get("kind")))
        if named is None:
            raise TraceError(f"{what}: unknown kind of fault {data.get('kind')!r:.80}")
        kind, data = named, {key: value for key, value in data.items() if key != "kind"}
    known = _fields(kind)
    for name in data:
        if name not in known:
            raise TraceError(f"{what}: unknown field {name!r:.80}")
    for name, (_, default) in known.items():
        if default is dataclasses.MISSING and name not in data:
            raise TraceError(f"{what}: field {name!r} is missing")
    return kind(**{name: _typed(known[name][0], value, f"{what}, {name}") for name, value in data.items()})
