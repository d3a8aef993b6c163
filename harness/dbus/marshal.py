"""Values to bytes: one writer a type, built once for each signature and byte order. The mirror of unmarshal.py.

A writer takes (out, value) and appends to `out`, which begins on a multiple of eight. A value that does not fit its type
shows as TypeError, ValueError, struct.error or the like: `encode_body` turns them into ProtocolError.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any

from cgrace.harness.dbus.message import ARRAY_BYTES_MAX, Variant
from cgrace.harness.dbus.signature import Node, is_object_path, parse_signature, single_type
from cgrace.harness.dbus.unmarshal import FORMAT, ZEROS
from cgrace.harness.errors import ProtocolError

Writer = Callable[[bytearray, Any], None]


def _fixed_writer(code: str, order: str) -> Writer:
    layout = struct.Struct(order + FORMAT[code])
    pack, mask = layout.pack, layout.size - 1

    def write(out: bytearray, value: Any) -> None:
        if (rest := -len(out) & mask) > 0:
            out += ZEROS[:rest]
        out += pack(value)

    return write


def _bool_writer(order: str) -> Writer:
    write_u32 = _fixed_writer("u", order)

    def write(out: bytearray, value: Any) -> None:
        if value not in (0, 1):
            raise ValueError(f"{value!r:.80} is not a boolean")
        write_u32(out, int(value))

    return write


def _string_writer(order: str, check: Callable[[str], bool] | None) -> Writer:
    pack = struct.Struct(order + "I").pack

    def write(out: bytearray, value: Any) -> None:
        data = value.encode()
        if b"\0" in data:
            raise ValueError("a string has a NUL inside")
        if check is not None and not check(value):
            raise ValueError(f"'{value:.80}' is not an object path")
        if (rest := -len(out) & 3) > 0:
            out += ZEROS[:rest]
        out += pack(len(data))
        out += data
        out.append(0)

    return write


def _write_signature(out: bytearray, value: Any) -> None:
    parse_signature(value)
    data = value.encode("ascii")
    out.append(len(data))
    out += data
    out.append(0)


def _variant_writer(order: str) -> Writer:
    def write(out: bytearray, value: Any) -> None:
        if not isinstance(value, Variant):
            raise TypeError(f"{value!r:.80} is not a Variant")
        start, content = _variant_content(value.signature, order)
        out += start
        content(out, value.value)

    return write


@lru_cache(maxsize=4096)
def _variant_content(signature: str, order: str) -> tuple[bytes, Writer]:
    """A variant's signature as bytes, and the writer of its content."""
    start = bytearray()
    _write_signature(start, signature)
    return bytes(start), writer(single_type(signature), order)


def _array_writer(node: Node, order: str) -> Writer:
    item = node.children[0]
    pack_into = struct.Struct(order + "I").pack_into
    mask = item.alignment - 1
    content = _array_content(item, order)

    def write(out: bytearray, value: Any) -> None:
        out += ZEROS[: (-len(out) & 3) + 4]
        length_at = len(out) - 4
        out += ZEROS[: -len(out) & mask]
        start = len(out)
        content(out, value)
        length = len(out) - start
        if length > ARRAY_BYTES_MAX:
            raise ValueError(f"an array of {length} bytes: at most {ARRAY_BYTES_MAX} are allowed")
        pack_into(out, length_at, length)

    return write


def _array_content(item: Node, order: str) -> Writer:
    if item.code == "y":
        return _write_bytes
    if item.code == "e":
        write_key, write_value = (writer(child, order) for child in item.children)

        def entries(out: bytearray, value: Any) -> None:
            if not isinstance(value, Mapping):
                raise TypeError(f"{value!r:.80} is not a dict")
            for key, content in value.items():
                out += ZEROS[: -len(out) & 7]
                write_key(out, key)
                write_value(out, content)

        return entries
    write_item = writer(item, order)

    def items(out: bytearray, value: Any) -> None:
        if not isinstance(value, (list, tuple)):
            raise TypeError(f"{value!r:.80} is not a list")
        for content in value:
            write_item(out, content)

    return items


def _write_bytes(out: bytearray, value: Any) -> None:
    if not isinstance(value, (bytes, bytearray, list, tuple)):
        raise TypeError(f"{value!r:.80} is not bytes")
    out += bytes(value)


def _struct_writer(node: Node, order: str) -> Writer:
    members = tuple(writer(child, order) for child in node.children)

    def write(out: bytearray, value: Any) -> None:
        if not isinstance(value, (list, tuple)) or len(value) != len(members):
            raise TypeError(f"{value!r:.80} is not a struct of {len(members)}")
        out += ZEROS[: -len(out) & 7]
        for member, content in zip(members, value, strict=True):
            member(out, content)

    return write


@lru_cache(maxsize=4096)
def writer(node: Node, order: str) -> Writer:
    """The writer of one complete type; `order` is "<" or ">"."""
    match node.code:
        case "s":
            return _string_writer(order, None)
        case "o":
            return _string_writer(order, is_object_path)
        case "b":
            return _bool_writer(order)
        case "g":
            return _write_signature
        case "v":
            return _variant_writer(order)
        case "a":
            return _array_writer(node, order)
        case "(":
            return _struct_writer(node, order)
        case code:
            return _fixed_writer(code, order)


@lru_cache(maxsize=4096)
def _writers(signature: str, order: str) -> tuple[Writer, ...]:
    return tuple(writer(node, order) for node in parse_signature(signature))


def encode_body(signature: str, body: tuple[Any, ...], order: str) -> bytes:
    """The bytes of a body; ProtocolError when a value does not fit the signature."""
    writers = _writers(signature, order)
    if len(writers) != len(body):
        raise ProtocolError(f"{len(body)} arguments for signature '{signature}', which has {len(writers)}")
    out = bytearray()
    for index, (write, value) in enumerate(zip(writers, body, strict=True)):
        try:
            write(out, value)
        except (TypeError, ValueError, AttributeError, OverflowError, RecursionError, struct.error) as error:
            raise ProtocolError(f"argument {index} does not fit signature '{signature}': {error}") from None
    return bytes(out)
