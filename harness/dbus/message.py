"""One D-Bus message as a value, and what it says to systemd. No I/O, no codec: that is codec.py."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum, IntFlag
from typing import Any

MESSAGE_BYTES_MAX = 128 * 1024 * 1024
ARRAY_BYTES_MAX = 64 * 1024 * 1024


class MessageType(IntEnum):
    """The protocol's message types."""

    CALL = 1
    REPLY = 2
    ERROR = 3
    SIGNAL = 4


class MessageFlag(IntFlag):
    """The protocol's header flags."""

    NONE = 0
    NO_REPLY_EXPECTED = 1
    NO_AUTO_START = 2
    ALLOW_INTERACTIVE_AUTHORIZATION = 4


_NO_REPLY_EXPECTED = int(MessageFlag.NO_REPLY_EXPECTED)


@dataclass(frozen=True, slots=True, kw_only=True)
class Variant:
    """A D-Bus variant: its signature (one complete type) and value."""

    signature: str
    value: Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """A message. Body values are Python's: int, float, bool, str, bytes (ay), list (arrays, structs), dict, Variant.

    An `h` in the body is an index into the descriptors that came with it; `fds` is only their number: the descriptors
    themselves travel beside the message, never in it.
    """

    type: MessageType
    serial: int = 0
    flags: MessageFlag = MessageFlag.NONE
    path: str = ""
    interface: str = ""
    member: str = ""
    error_name: str = ""
    reply_serial: int = 0
    destination: str = ""
    sender: str = ""
    signature: str = ""
    body: tuple[Any, ...] = field(default=())
    fds: int = 0
    little_endian: bool = True

    @property
    def wants_answer(self) -> bool:
        """Whether this is a call that does not say that it wants no answer. (An enum's own `in` costs ten times as much.)"""
        return self.type is MessageType.CALL and not int(self.flags) & _NO_REPLY_EXPECTED

    def stamped(self, sender: str, serial: int) -> Message:
        """The same message as a bus passes it on. (What dataclasses.replace does, at half the price, for each message there is.)"""
        return Message(
            type=self.type,
            serial=serial,
            flags=self.flags,
            path=self.path,
            interface=self.interface,
            member=self.member,
            error_name=self.error_name,
            reply_serial=self.reply_serial,
            destination=self.destination,
            sender=sender,
            signature=self.signature,
            body=self.body,
            fds=self.fds,
            little_endian=self.little_endian,
        )
