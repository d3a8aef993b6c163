"""What a message says to or of systemd: which call, which unit, which job. The one table of systemd's D-Bus names.

Facts from systemd's src/core/dbus-manager.c (methods and signals), dbus-unit.c and src/basic/unit-name.c, bus-label.c (paths).
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from cgrace.harness.dbus.message import Message, MessageType, Variant

BUS_NAME = "org.freedesktop.DBus"
BUS_PATH = "/org/freedesktop/DBus"
PROPERTIES = "org.freedesktop.DBus.Properties"
PEER = "org.freedesktop.DBus.Peer"
INTROSPECTABLE = "org.freedesktop.DBus.Introspectable"

NAME = "org.freedesktop.systemd1"
PATH = "/org/freedesktop/systemd1"
MANAGER = "org.freedesktop.systemd1.Manager"
UNIT = "org.freedesktop.systemd1.Unit"
SCOPE = "org.freedesktop.systemd1.Scope"
SLICE = "org.freedesktop.systemd1.Slice"
SERVICE = "org.freedesktop.systemd1.Service"
JOB = "org.freedesktop.systemd1.Job"
TO_BUS = (BUS_NAME, BUS_PATH, BUS_NAME)  # whom a call goes to: destination, object, interface
TO_MANAGER = (NAME, PATH, MANAGER)
UNIT_PREFIX = PATH + "/unit/"
JOB_PREFIX = PATH + "/job/"

UNIT_TYPES = ("scope", "slice", "service", "target", "socket", "mount", "timer", "path", "swap", "device", "automount")


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


# Methods of the manager whose first argument is a unit's name.
_UNIT_FIRST = _words(
    """StartTransientUnit StartUnit StopUnit RestartUnit ReloadUnit TryRestartUnit ReloadOrRestartUnit
    ReloadOrTryRestartUnit EnqueueUnitJob ResetFailedUnit KillUnit QueueSignalUnit SetUnitProperties GetUnit LoadUnit RefUnit
    UnrefUnit AttachProcessesToUnit FreezeUnit ThawUnit GetUnitProcesses CleanUnit StartAuxiliaryScope
    RemoveSubgroupFromUnit KillUnitSubgroup"""
)
# Signals of the manager: at which place of the body the unit, the job's path and the result are (None: nowhere).
_SIGNALS: dict[str, tuple[int | None, int | None, int | None]] = {
    "JobNew": (2, 1, None),
    "JobRemoved": (2, 1, 3),
    "UnitNew": (0, None, None),
    "UnitRemoved": (0, None, None),
}
# Methods whose reply is a job's path.
JOB_METHODS = _words(
    """StartTransientUnit StartUnit StopUnit RestartUnit ReloadUnit TryRestartUnit ReloadOrRestartUnit ReloadOrTryRestartUnit
    EnqueueUnitJob StartAuxiliaryScope Start Stop Restart Reload TryRestart ReloadOrRestart ReloadOrTryRestart"""
)
_KINDS = {
    MessageType.CALL: "call",
    MessageType.REPLY: "reply",
    MessageType.ERROR: "error",
    MessageType.SIGNAL: "signal",
}
TEXT_LENGTH_MAX = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """A message in the words of an event (events.MessageSeen).

    kind: "call", "reply", "error" or "signal". member, unit: for an answer those of its call. job: a job's path. result: a
    JobRemoved's. name: an error's name. text: an error's text, or a short rendering of the body.
    """

    kind: str
    member: str
    unit: str = ""
    job: str = ""
    result: str = ""
    name: str = ""
    text: str = ""


# ---- paths


@lru_cache(maxsize=4096)
def escape_label(text: str) -> str:
    """A name as one part of an object path: ASCII letters, and digits but not in front, stay; other bytes are _xx."""
    if not text:
        return "_"
    data = text.encode("utf-8", "surrogateescape")
    return _ESCAPED.sub(lambda found: b"_%02x" % found[0][0], data).decode("ascii")


_ESCAPED = re.compile(rb"[^A-Za-z0-9]|\A[0-9]")


@lru_cache(maxsize=4096)
def unescape_label(label: str) -> str:
    """The name that such a part stands for; an underscore without two hex digits behind it stays."""
    if label == "_":
        return ""
    out, position = bytearray(), 0
    while position < len(label):
        digits = label[position + 1 : position + 3]
        if label[position] == "_" and len(digits) == 2 and all(digit in "0123456789abcdefABCDEF" for digit in digits):
            out.append(int(digits, 16))
            position += 3
        else:
            out += label[position].encode()
            position += 1
    return out.decode("utf-8", "replace")


def unit_path(unit: str) -> str:
    """The object path of a unit."""
    return UNIT_PREFIX + escape_label(unit)


def unit_of_path(path: str) -> str:
    """The unit that an object path is of, "" when it is no unit's."""
    if not path.startswith(UNIT_PREFIX) or "/" in path[len(UNIT_PREFIX) :]:
        return ""
    return unescape_label(path[len(UNIT_PREFIX) :])


def job_path(number: int) -> str:
    """The object path of a job."""
    return f"{JOB_PREFIX}{number}"


def is_unit_name(text: str) -> bool:
    """Whether this looks like a unit's name: something, a dot, a known type."""
    stem, _, suffix = text.rpartition(".")
    return bool(stem) and suffix in UNIT_TYPES


# ---- views


def view(message: Message, call: Message | None = None) -> View:
    """What a message says; `call` is the call that an answer answers (unknown: None). Never raises, whatever the body is."""
    kind = _KINDS[message.type]
    if message.type is MessageType.CALL:
        return View(
            kind=kind, member=message.member, unit=_call_unit(message), job=_job(message.path), text=render(message)
        )
    if message.type is MessageType.SIGNAL:
        return _signal_view(kind, message)
    member, unit = (call.member, _call_unit(call)) if call is not None else ("", "")
    if message.type is MessageType.ERROR:
        text = _text(message, 0) or render(message)
        return View(kind=kind, member=member, unit=unit, name=message.error_name, text=text[:TEXT_LENGTH_MAX])
    job = _job(_text(message, 0)) if member in JOB_METHODS or not member else ""
    if member in ("GetUnitByPID", "GetUnitByControlGroup") and not unit:
        unit = unit_of_path(_text(message, 0))
    return View(kind=kind, member=member, unit=unit, job=job, text=render(message))


def _call_unit(message: Message) -> str:
    if message.path.startswith(UNIT_PREFIX):
        return unit_of_path(message.path)
    if message.member in _UNIT_FIRST and message.interface in ("", MANAGER):
        return _text(message, 0)
    return ""


def _signal_view(kind: str, message: Message) -> View:
    unit = unit_of_path(message.path)
    job, result = _job(message.path), ""
    places = _SIGNALS.get(message.member) if message.interface == MANAGER else None
    if places is not None:
        unit, job, result = (_text(message, place) if place is not None else "" for place in places)
    return View(kind=kind, member=message.member, unit=unit, job=job, result=result, text=render(message))


def _text(message: Message, index: int) -> str:
    """The body's argument at `index` where that is a text, else ""."""
    value = message.body[index] if index < len(message.body) else ""
    return value if isinstance(value, str) else ""


def _job(path: str) -> str:
    return path if path.startswith(JOB_PREFIX) else ""


# ---- for people


def render(message: Message) -> str:
    """A short rendering of the body, at most TEXT_LENGTH_MAX characters."""
    pieces: list[str] = []
    room = TEXT_LENGTH_MAX
    for value in message.body:
        piece = _render(value, room)
        pieces.append(piece)
        room -= len(piece) + 2
        if room <= 0:
            break
    return ", ".join(pieces)[:TEXT_LENGTH_MAX]


def _render(value: Any, room: int) -> str:
    """One value in at most about `room` characters: a long list is cut, not rendered whole and thrown away."""
    if isinstance(value, Variant):
        return _render(value.value, room)
    if isinstance(value, bytes):
        return f"{len(value)} bytes" if len(value) > 16 else value.hex(" ")
    if isinstance(value, dict):
        return "{" + _joined((f"{key}={_render(item, room)}" for key, item in value.items()), room) + "}"
    if isinstance(value, list):
        if len(value) == 2 and isinstance(value[0], str) and isinstance(value[1], Variant):  # a property
            return f"{value[0]}={_render(value[1], room)}"
        return "[" + _joined((_render(item, room) for item in value), room) + "]"
    return str(value)[: max(room, 1)]


def _joined(pieces: Iterable[str], room: int) -> str:
    taken: list[str] = []
    for piece in pieces:
        taken.append(piece)
        room -= len(piece) + 2
        if room <= 0:
            taken.append("...")
            break
    return ", ".join(taken)


def property_value(message: Message, index: int, name: str) -> Any:
    """The value of a property in an a(sv) argument of a call, None when it is not there."""
    properties = message.body[index] if index < len(message.body) else ()
    if isinstance(properties, list):
        for item in properties:
            if isinstance(item, list) and len(item) == 2 and item[0] == name and isinstance(item[1], Variant):
                return item[1].value
    return None


def call_to(
    to: tuple[str, str, str], member: str, signature: str = "", body: tuple[Any, ...] = (), *, serial: int = 0
) -> Message:
    """A call of a method; `to` as TO_MANAGER."""
    destination, path, interface = to
    return Message(
        type=MessageType.CALL,
        serial=serial,
        destination=destination,
        path=path,
        interface=interface,
        member=member,
        signature=signature,
        body=body,
    )


def error_to(call: Message, name: str, text: str, *, serial: int = 0, sender: str = "") -> Message:
    """The error that answers `call`; the serial is given by whoever sends it when it is 0 here."""
    return Message(
        type=MessageType.ERROR,
        serial=serial,
        error_name=name,
        reply_serial=call.serial,
        destination=call.sender,
        sender=sender,
        signature="s",
        body=(text,),
        little_endian=call.little_endian,
    )


def reply_to(
    call: Message, signature: str = "", body: tuple[Any, ...] = (), *, serial: int = 0, sender: str = ""
) -> Message:
    """The reply that answers `call`."""
    return Message(
        type=MessageType.REPLY,
        serial=serial,
        reply_serial=call.serial,
        destination=call.sender,
        sender=sender,
        signature=signature,
        body=body,
        little_endian=call.little_endian,
    )
