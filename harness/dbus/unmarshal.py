"""Bytes to values: one reader a type, built once for each signature and byte order, as strict as libdbus.

A reader takes (raw, position, depth) and returns (value, position behind it). `raw` is a whole message, or one part of it
that begins on a multiple of eight, so that alignment needs no origin. Readers may run past an array's end, but never past
the end of `raw`: whoever knows an end compares. Running out of bytes shows as IndexError or struct.error: `decode_body` and
`codec.decode` turn those into ProtocolError, and nothing else may escape them.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from functools import lru_cache
from typing import Any

from cgrace.harness.dbus.message import ARRAY_BYTES_MAX, Variant
from cgrace.harness.dbus.signature import DEPTH_MAX, Node, is_object_path, parse_signature, single_type
from cgrace.harness.errors import ProtocolError

Reader = Callable[[bytes, int, int], tuple[Any, int]]

FORMAT = {"y": "B", "n": "h", "q": "H", "i": "i", "u": "I", "x": "q", "t": "Q", "d": "d", "h": "I"}
ZEROS = bytes(8)


def pad(raw: bytes, position: int, alignment: int) -> int:
    """The next position that is a multiple of `alignment`; the bytes skipped must be there and zero."""
    aligned = (position + alignment - 1) & -alignment
    if raw[position:aligned] != ZEROS[: aligned - position]:
        raise ProtocolError("padding is not zero")
    return aligned


def _fixed_reader(code: str, order: str) -> Reader:
    layout = struct.Struct(order + FORMAT[code])
    unpack_from, size = layout.unpack_from, layout.size
    mask = size - 1

    def read(raw: bytes, position: int, depth: int) -> tuple[Any, int]:
        if position & mask:
            position = pad(raw, position, size)
        return unpack_from(raw, position)[0], position + size

    return read


def _bool_reader(order: str) -> Reader:
    read_u32 = _fixed_reader("u", order)

    def read(raw: bytes, position: int, depth: int) -> tuple[Any, int]:
        value, position = read_u32(raw, position, depth)
        if value > 1:
            raise ProtocolError(f"a boolean is 0 or 1, not {value}")
        return value == 1, position

    return read


def _string_reader(order: str, check: Callable[[str], bool] | None) -> Reader:
    unpack_from = struct.Struct(order + "I").unpack_from

    def read(raw: bytes, position: int, depth: int) -> tuple[Any, int]:
        if position & 3:
            position = pad(raw, position, 4)
        start = position + 4
        end = start + unpack_from(raw, position)[0]
        if raw[end]:
            raise ProtocolError("a string does not end in NUL")
        value = raw[start:end].decode()
        if "\0" in value:
            raise ProtocolError("a string has a NUL inside")
        if check is not None and not check(value):
            raise ProtocolError(f"'{value:.80}' is not an object path")
        return value, end + 1

    return read


def read_signature(raw: bytes, position: int, depth: int) -> tuple[str, int]:
    """A value of type g: valid, but of any number of complete types."""
    end = position + 1 + raw[position]
    if raw[end]:
        raise ProtocolError("a signature does not end in NUL")
    value = raw[position + 1 : end].decode("ascii")
    parse_signature(value)
    return value, end + 1


def _variant_reader(order: str) -> Reader:
    def read(raw: bytes, position: int, depth: int) -> tuple[Any, int]:
        if depth >= DEPTH_MAX:
            raise ProtocolError(f"values nest deeper than {DEPTH_MAX}")
        end = position + 1 + raw[position]
        if raw[end]:
            raise ProtocolError("a signature does not end in NUL")
        signature = raw[position + 1 : end].decode("ascii")
        value, position = variant_content(signature, order)(raw, end + 1, depth + 1)
        return Variant(signature=signature, value=value), position

    return read


@lru_cache(maxsize=4096)
def variant_content(signature: str, order: str) -> Reader:
    """The reader of a variant's content."""
    return reader(single_type(signature), order)


def _array_reader(node: Node, order: str) -> Reader:
    item = node.children[0]
    unpack_from = struct.Struct(order + "I").unpack_from
    alignment = item.alignment
    content = _array_content(item, order)

    def read(raw: bytes, position: int, depth: int) -> tuple[Any, int]:
        if position & 3:
            position = pad(raw, position, 4)
        length = unpack_from(raw, position)[0]
        if length > ARRAY_BYTES_MAX:
            raise ProtocolError(f"an array of {length} bytes: at most {ARRAY_BYTES_MAX} are allowed")
        if depth >= DEPTH_MAX:
            raise ProtocolError(f"values nest deeper than {DEPTH_MAX}")
        position += 4
        if position & (alignment - 1):
            position = pad(raw, position, alignment)
        end = position + length
        if end > len(raw):
            raise ProtocolError("an array ends behind its message")
        return content(raw, position, end, depth + 1), end

    return read


def _array_content(item: Node, order: str) -> Callable[[bytes, int, int, int], Any]:
    """What reads the items of an array between two positions."""
    if item.code == "y":
        return lambda raw, position, end, depth: raw[position:end]
    if item.code in FORMAT:
        letter, size = FORMAT[item.code], struct.calcsize(order + FORMAT[item.code])

        def fixed(raw: bytes, position: int, end: int, depth: int) -> list[Any]:
            count, rest = divmod(end - position, size)
            if rest:
                raise ProtocolError("an array's length is no multiple of its items'")
            return list(struct.unpack_from(f"{order}{count}{letter}", raw, position))

        return fixed
    if item.code == "e":
        return _dict_content(item, order)
    read_item = reader(item, order)

    def items(raw: bytes, position: int, end: int, depth: int) -> list[Any]:
        values = []
        while position < end:
            value, position = read_item(raw, position, depth)
            values.append(value)
        if position != end:
            raise ProtocolError("an array's last item ends behind the array")
        return values

    return items


def _dict_content(item: Node, order: str) -> Callable[[bytes, int, int, int], Any]:
    read_key, read_value = (reader(child, order) for child in item.children)

    def entries(raw: bytes, position: int, end: int, depth: int) -> dict[Any, Any]:
        if depth >= DEPTH_MAX:
            raise ProtocolError(f"values nest deeper than {DEPTH_MAX}")
        values = {}
        while position < end:
            if position & 7:
                position = pad(raw, position, 8)
            key, position = read_key(raw, position, depth + 1)
            values[key], position = read_value(raw, position, depth + 1)
        if position != end:
            raise ProtocolError("a dict's last entry ends behind the dict")
        return values

    return entries


def _struct_reader(node: Node, order: str) -> Reader:
    members = tuple(reader(child, order) for child in node.children)

    def read(raw: bytes, position: int, depth: int) -> tuple[Any, int]:
        if position & 7:
            position = pad(raw, position, 8)
        if depth >= DEPTH_MAX:
            raise ProtocolError(f"values nest deeper than {DEPTH_MAX}")
        depth += 1
        values = []
        for member in members:
            value, position = member(raw, position, depth)
            values.append(value)
        return values, position

    return read


@lru_cache(maxsize=4096)
def reader(node: Node, order: str) -> Reader:
    """The reader of one complete type; `order` is "<" or ">"."""
    match node.code:
        case "s":
            return _string_reader(order, None)
        case "o":
            return _string_reader(order, is_object_path)
        case "b":
            return _bool_reader(order)
        case "g":
            return read_signature
        case "v":
            return _variant_reader(order)
        case "a":
            return _array_reader(node, order)
        case "(":
            return _struct_reader(node, order)
        case code:
            return _fixed_reader(code, order)


@lru_cache(maxsize=4096)
def _readers(signature: str, order: str) -> tuple[Reader, ...]:
    return tuple(reader(node, order) for node in parse_signature(signature))


def decode_body(raw: bytes, position: int, signature: str, order: str) -> tuple[Any, ...]:
    """The body's arguments, from `position` (a multiple of eight) to the end of `raw`, which they must fill."""
    values = []
    try:
        for read in _readers(signature, order):
            value, position = read(raw, position, 0)
            values.append(value)
    except (IndexError, struct.error):
        raise ProtocolError(f"the body ends before its signature '{signature:.80}' does") from None
    except UnicodeDecodeError as error:
        raise ProtocolError(f"a string is not UTF-8: {error.reason}") from None
    if position != len(raw):
        raise ProtocolError(f"{len(raw) - position} bytes of body behind the last argument")
    return tuple(values)
