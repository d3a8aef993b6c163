"""Messages to bytes and back: the header, and what each type of message must have. Strict: decode raises ProtocolError only.

Our own and not dbus-fast's, because its marshaller drops the SENDER and knows little-endian only, and its unmarshaller
accepts what a bus must refuse (padding, names, NULs inside strings); the tests compare the two.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from functools import lru_cache
from typing import NamedTuple

from cgrace.harness.dbus.marshal import encode_body
from cgrace.harness.dbus.message import ARRAY_BYTES_MAX, MESSAGE_BYTES_MAX, Message, MessageFlag, MessageType
from cgrace.harness.dbus.signature import is_bus_name, is_interface, is_member, is_object_path
from cgrace.harness.dbus.unmarshal import ZEROS, decode_body, pad, read_signature, variant_content
from cgrace.harness.errors import ProtocolError

HEADER_BYTES = 16
PROTOCOL_VERSION = 1
FIELDS_KNOWN_BYTES = 512  # longer header fields are not remembered

_ORDERS = {0x6C: "<", 0x42: ">"}  # "l" and "B"
_FIXED = {order: struct.Struct(order + "BBBBIII") for order in "<>"}
_U32 = {order: struct.Struct(order + "I") for order in "<>"}
_TYPES = (None, MessageType.CALL, MessageType.REPLY, MessageType.ERROR, MessageType.SIGNAL)
_FLAGS = tuple(MessageFlag(bits) for bits in range(8))
_FLAGS_KNOWN = 7

# Header fields by code, after the specification's table: type, and what a value of it must be.
PATH, INTERFACE, MEMBER, ERROR_NAME, REPLY_SERIAL, DESTINATION, SENDER, SIGNATURE, UNIX_FDS = range(1, 10)
_FIELD_TYPES = (
    b"",
    b"\x01o\0",
    b"\x01s\0",
    b"\x01s\0",
    b"\x01s\0",
    b"\x01u\0",
    b"\x01s\0",
    b"\x01s\0",
    b"\x01g\0",
    b"\x01u\0",
)
_CHECKS: dict[int, Callable[[str], bool]] = {
    PATH: is_object_path,
    INTERFACE: is_interface,
    MEMBER: is_member,
    ERROR_NAME: is_interface,
    DESTINATION: is_bus_name,
    SENDER: is_bus_name,
}
_NAMES = ("", "path", "interface", "member", "error name", "reply serial", "destination", "sender", "signature", "fds")
_ATTRIBUTES = (
    "",
    "path",
    "interface",
    "member",
    "error_name",
    "reply_serial",
    "destination",
    "sender",
    "signature",
    "fds",
)
_REPLY_TO = bytes((REPLY_SERIAL,)) + _FIELD_TYPES[REPLY_SERIAL]
_WITH_FDS = bytes((UNIX_FDS,)) + _FIELD_TYPES[UNIX_FDS]
_REQUIRED: dict[MessageType, tuple[int, ...]] = {
    MessageType.CALL: (PATH, MEMBER),
    MessageType.REPLY: (REPLY_SERIAL,),
    MessageType.ERROR: (ERROR_NAME, REPLY_SERIAL),
    MessageType.SIGNAL: (PATH, INTERFACE, MEMBER),
}


class Extent(NamedTuple):
    """How long a message is, by its first 16 bytes. order: "<" or ">"; header_end: before padding; total: all of it."""

    order: str
    header_end: int
    body_at: int
    total: int


def extent(start: bytes | bytearray) -> Extent:
    """Read the lengths from the first 16 bytes of a message; ProtocolError for what no message can begin with."""
    order = _ORDERS.get(start[0])
    if order is None:
        raise ProtocolError(f"byte order mark 0x{start[0]:02x} is neither 'l' nor 'B'")
    _, kind, _, version, body_length, serial, fields_length = _FIXED[order].unpack_from(start)
    if version != PROTOCOL_VERSION:
        raise ProtocolError(f"protocol version {version} is not {PROTOCOL_VERSION}")
    if not 1 <= kind <= 4:
        raise ProtocolError(f"message type {kind} is unknown")
    if serial == 0:
        raise ProtocolError("serial 0 is not allowed")
    if fields_length > ARRAY_BYTES_MAX:
        raise ProtocolError(f"a header of {fields_length} bytes: at most {ARRAY_BYTES_MAX} are allowed")
    header_end = HEADER_BYTES + fields_length
    body_at = (header_end + 7) & -8
    total = body_at + body_length
    if total > MESSAGE_BYTES_MAX:
        raise ProtocolError(f"a message of {total} bytes: at most {MESSAGE_BYTES_MAX} are allowed")
    return Extent(order, header_end, body_at, total)


def decode(raw: bytes) -> Message:
    """A whole message from exactly its bytes; ProtocolError for anything else."""
    return _decode(raw, with_body=True)


def decode_header(raw: bytes) -> Message:
    """The same with body = (): the body is not read, so not judged either."""
    return _decode(raw, with_body=False)


def _decode(raw: bytes, *, with_body: bool) -> Message:
    if len(raw) < HEADER_BYTES:
        raise ProtocolError(f"{len(raw)} bytes are no message: a header alone has {HEADER_BYTES}")
    order, header_end, body_at, total = extent(raw)
    if total != len(raw):
        raise ProtocolError(f"the message says it has {total} bytes, it has {len(raw)}")
    if raw[header_end:body_at] != ZEROS[: body_at - header_end]:
        raise ProtocolError("padding is not zero")
    kind = _TYPES[raw[1]]
    assert kind is not None  # extent() checked
    fields = raw[HEADER_BYTES:header_end]
    texts, numbers = (_known_fields if len(fields) <= FIELDS_KNOWN_BYTES else _decode_fields)(fields, order)
    for code in _REQUIRED[kind]:
        if not texts[code] and not numbers[code]:
            raise ProtocolError(f"a {kind.name.lower()} without {_NAMES[code]}")
    signature = texts[SIGNATURE]
    if not with_body:
        body = ()
    elif signature or total != body_at:
        body = decode_body(raw, body_at, signature, order)
    else:
        body = ()
    return Message(
        type=kind,
        serial=_U32[order].unpack_from(raw, 8)[0],
        flags=_FLAGS[raw[2] & _FLAGS_KNOWN],
        path=texts[PATH],
        interface=texts[INTERFACE],
        member=texts[MEMBER],
        error_name=texts[ERROR_NAME],
        reply_serial=numbers[REPLY_SERIAL],
        destination=texts[DESTINATION],
        sender=texts[SENDER],
        signature=signature,
        body=body,
        fds=numbers[UNIX_FDS],
        little_endian=order == "<",
    )


def _decode_fields(raw: bytes, order: str) -> tuple[tuple[str, ...], tuple[int, ...]]:
    """The header fields by code: those that are texts, and those that are numbers ("" and 0 where absent)."""
    texts, numbers = [""] * 10, [0] * 10
    seen = 0
    unpack_u32 = _U32[order].unpack_from
    position, end = 0, len(raw)
    try:
        while position < end:
            if position & 7:
                position = pad(raw, position, 8)
            code = raw[position]
            if code > UNIX_FDS:
                position = _skip_field(raw, position, order)
                continue
            if code == 0 or seen & (1 << code):
                raise ProtocolError(f"header field {code} is not allowed" + (" twice" if code else ""))
            if raw[position + 1 : position + 4] != _FIELD_TYPES[code]:
                raise ProtocolError(f"the {_NAMES[code]} in the header has the wrong type")
            seen |= 1 << code
            position += 4
            if code == SIGNATURE:
                texts[code], position = read_signature(raw, position, 0)
                continue
            number = unpack_u32(raw, position)[0]
            position += 4
            if code in (REPLY_SERIAL, UNIX_FDS):
                numbers[code] = number
            else:
                texts[code], position = _name(raw, position, number, code), position + number + 1
    except (IndexError, struct.error):
        raise ProtocolError("the header ends inside a field") from None
    except UnicodeDecodeError as error:
        raise ProtocolError(f"a header field is not UTF-8: {error.reason}") from None
    if position != end:
        raise ProtocolError("the header ends inside a field")
    return tuple(texts), tuple(numbers)


# Calls of one method differ in their first 16 bytes and their body alone.
_known_fields = lru_cache(maxsize=1024)(_decode_fields)


def _name(raw: bytes, position: int, length: int, code: int) -> str:
    text = raw[position : position + length].decode()
    if raw[position + length] or not _CHECKS[code](text):
        raise ProtocolError(f"'{text:.80}' is not allowed as {_NAMES[code]}")
    return text


def _skip_field(raw: bytes, position: int, order: str) -> int:
    """Step over a field that we do not know, as the specification asks: it is a variant of any type."""
    signature, position = read_signature(raw, position + 1, 0)
    return variant_content(signature, order)(raw, position, 1)[1]


# ---- encode


def encode(message: Message) -> bytes:
    """The bytes of a message; ProtocolError when its parts do not fit each other (a body and its signature, a bad name)."""
    order = "<" if message.little_endian else ">"
    body = encode_body(message.signature, message.body, order) if message.signature or message.body else b""
    fields = _encode_fields(message, order)
    if not 0 < message.serial < 1 << 32:
        raise ProtocolError(f"serial {message.serial} is not allowed")
    mark = 0x6C if order == "<" else 0x42
    start = _FIXED[order].pack(
        mark, message.type, int(message.flags) & 0xFF, PROTOCOL_VERSION, len(body), message.serial, len(fields)
    )
    raw = b"".join((start, fields, ZEROS[: -len(fields) & 7], body))
    if len(raw) > MESSAGE_BYTES_MAX:
        raise ProtocolError(f"a message of {len(raw)} bytes: at most {MESSAGE_BYTES_MAX} are allowed")
    return raw


def _encode_fields(message: Message, order: str) -> bytes:
    """The header fields that are present, in the order of their codes. Answers differ in one number, signals in little more:
    what comes before and behind that number is remembered."""
    for code in _REQUIRED[message.type]:
        if not getattr(message, _ATTRIBUTES[code]):
            raise ProtocolError(f"a {message.type.name.lower()} without {_NAMES[code]}")
    before = _encode_some((message.path, message.interface, message.member, message.error_name), PATH, order)
    behind = _encode_some((message.destination, message.sender, message.signature), DESTINATION, order)
    if message.reply_serial:
        before += ZEROS[: -len(before) & 7] + _REPLY_TO + _U32[order].pack(message.reply_serial)
    fields = before + ZEROS[: -len(before) & 7] + behind if behind else before
    if message.fds:
        fields += ZEROS[: -len(fields) & 7] + _WITH_FDS + _U32[order].pack(message.fds)
    return fields


@lru_cache(maxsize=4096)
def _encode_some(values: tuple[str, ...], first: int, order: str) -> bytes:
    """The fields of these texts, of the code `first` and those behind it; they begin on a multiple of eight."""
    pack_u32 = _U32[order].pack
    fields = bytearray()
    for code, value in enumerate(values, first):
        if not value:
            continue
        fields += ZEROS[: -len(fields) & 7]
        fields.append(code)
        fields += _FIELD_TYPES[code]
        if code == SIGNATURE:
            fields.append(len(value))
        elif _CHECKS[code](value):
            fields += pack_u32(len(value))
        else:
            raise ProtocolError(f"'{value:.80}' is not allowed as {_NAMES[code]}")
        fields += value.encode() + b"\0"
    return bytes(fields)


# ---- patches of bytes that stay as they are otherwise


def serial_of(raw: bytes) -> int:
    """The serial, without decoding."""
    serial: int = _U32[_ORDERS[raw[0]]].unpack_from(raw, 8)[0]
    return serial


def rewrite_serial(raw: bytes, serial: int) -> bytes:
    """The same message with another serial."""
    return raw[:8] + _U32[_ORDERS[raw[0]]].pack(serial) + raw[12:]


def rewrite_reply_serial(raw: bytes, serial: int) -> bytes:
    """The same reply or error as the answer to another call; ProtocolError when it is not one."""
    order, header_end, _, _ = extent(raw)
    position = HEADER_BYTES
    while position < header_end:
        position = (position + 7) & -8
        if raw[position] == REPLY_SERIAL:
            return raw[: position + 4] + _U32[order].pack(serial) + raw[position + 8 :]
        position = _skip_field(raw, position, order)
    raise ProtocolError("the message answers nothing")
