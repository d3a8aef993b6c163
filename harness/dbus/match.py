"""Match rules: what AddMatch takes and which messages a rule picks, after dbus-daemon's bus/signals.c, errors and all.

The texts of the errors were recorded from dbus-daemon 1.14, some with a line feed at their end; clients print them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any

from cgrace.harness.dbus.message import Message, MessageType
from cgrace.harness.dbus.signature import (
    is_bus_name,
    is_interface,
    is_member,
    is_namespace,
    is_object_path,
    parse_signature,
)

RULE_LENGTH_MAX = 1024
ARG_MAX = 63

INVALID = "org.freedesktop.DBus.Error.MatchRuleInvalid"
TOO_LONG = "org.freedesktop.DBus.Error.LimitsExceeded"

_TYPES = {
    "method_call": MessageType.CALL,
    "method_return": MessageType.REPLY,
    "error": MessageType.ERROR,
    "signal": MessageType.SIGNAL,
}
_CHECKED: dict[str, tuple[str, Callable[[str], bool]]] = {
    "sender": ("Sender name", is_bus_name),
    "interface": ("Interface name", is_interface),
    "member": ("Member name", is_member),
    "path": ("Path", is_object_path),
    "path_namespace": ("Path", is_object_path),
    "destination": ("Destination name", is_bus_name),
}
_ARG = re.compile(r"arg(?P<digits>[0-9]*)(?P<rest>.*)", re.DOTALL)


class MatchRuleError(ValueError):
    """The rule is refused: `name` is the D-Bus error's, the message its text."""

    def __init__(self, text: str, name: str = INVALID) -> None:
        super().__init__(text)
        self.name = name


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """A parsed rule; None or "" matches anything. args: (index, "" or "path" or "namespace", value), by index.

    Two texts that say the same are equal rules, which is what RemoveMatch compares.
    """

    type: MessageType | None = None
    sender: str = ""
    interface: str = ""
    member: str = ""
    path: str = ""
    path_namespace: str = ""
    destination: str = ""
    args: tuple[tuple[int, str, str], ...] = ()
    eavesdrop: bool = False

    def matches(self, message: Message, sender_names: Collection[str], destination_names: Collection[str] = ()) -> bool:
        """Whether the rule picks the message. The names are all that its sender and its receiver own, unique ones too."""
        return (
            (not self.member or self.member == message.member)
            and (not self.interface or self.interface == message.interface)
            and (self.type is None or self.type is message.type)
            and (not self.path or self.path == message.path)
            and (not self.sender or self.sender in sender_names)
            and (not self.path_namespace or _below(message.path, self.path_namespace))
            and (not self.destination or self.destination in destination_names)
            and (not self.args or all(_arg_matches(message, *wanted) for wanted in self.args))
        )

    def may_match_signal(self, interface: str, member: str, sender_names: Collection[str]) -> bool:
        """Whether the rule can pick such a broadcast of some path, whatever its body: what can be said before there is one."""
        return (
            (not self.member or self.member == member)
            and (not self.interface or self.interface == interface)
            and (self.type is None or self.type is MessageType.SIGNAL)
            and (not self.sender or self.sender in sender_names)
            and not self.destination
        )


def _below(path: str, namespace: str) -> bool:
    return namespace in ("/", path) or path.startswith(namespace + "/")


def _arg_matches(message: Message, index: int, how: str, wanted: str) -> bool:
    if index >= len(message.body):
        return False
    code = parse_signature(message.signature)[index].code
    value: Any = message.body[index]
    if how == "path":
        return code in "so" and (
            value == wanted
            or (wanted.endswith("/") and value.startswith(wanted))
            or (value.endswith("/") and wanted.startswith(value))
        )
    if code != "s":
        return False
    if how == "namespace":
        return bool(value == wanted or value.startswith(wanted + "."))
    return bool(value == wanted)


# ---- parse


def parse_rule(text: str) -> Rule:
    """Read a rule; MatchRuleError carries the error that dbus-daemon answers with."""
    length = len(text.encode())
    if length > RULE_LENGTH_MAX:
        raise MatchRuleError(f"Match rule text is {length} bytes, maximum is {RULE_LENGTH_MAX}", TOO_LONG)
    fields: dict[str, Any] = {}
    args: dict[int, tuple[int, str, str]] = {}
    for key, value in _tokens(text):
        if key.startswith("arg"):
            index, how = _arg_key(key)
            if index in args:
                raise MatchRuleError(f"Argument arg{index} matched more than once in match rule\n")
            if how == "namespace" and not is_namespace(value):
                raise MatchRuleError(f"arg0namespace='{value}' is not a valid prefix of a bus name")
            args[index] = (index, how, value)
            continue
        _no_repeat(key, fields)
        fields[key] = _field(key, value)
    return Rule(**fields, args=tuple(args[index] for index in sorted(args)))


def _no_repeat(key: str, fields: dict[str, Any]) -> None:
    if key in ("path", "path_namespace") and ("path" in fields or "path_namespace" in fields):
        raise MatchRuleError("path or path_namespace specified twice in match rule\n")
    if key in fields:
        raise MatchRuleError(f"Key {key} specified twice in match rule\n")


def _field(key: str, value: str) -> Any:
    if key == "type":
        if value not in _TYPES:
            raise MatchRuleError(f"Invalid message type ({value}) in match rule\n")
        return _TYPES[value]
    if key == "eavesdrop":
        if value not in ("true", "false"):
            raise MatchRuleError(f"eavesdrop='{value}' is invalid, it should be 'true' or 'false'\n")
        return value == "true"
    if key not in _CHECKED:
        raise MatchRuleError(f'Unknown key "{key}" in match rule')
    what, check = _CHECKED[key]
    if not check(value):
        raise MatchRuleError(f"{what} '{value}' is invalid\n")
    return value


def _arg_key(key: str) -> tuple[int, str]:
    found = _ARG.fullmatch(key)
    assert found is not None  # it starts with "arg"
    digits, rest = found["digits"], found["rest"]
    if not digits:
        lacks = "could not parse arg number" if rest else "lacks an arg number"
        raise MatchRuleError(
            f"Key '{key}' in match rule starts with 'arg' but {lacks}. Should be 'arg0' or 'arg7' for example.\n"
        )
    index = int(digits)
    if rest not in ("", "path") and (rest, index) != ("namespace", 0):
        raise MatchRuleError(
            f"Key '{key}' in match rule contains junk after argument number ({index}). "
            f"Only 'arg{index}path' (for example) or 'arg0namespace' are valid"
        )
    if index > ARG_MAX:
        raise MatchRuleError(f"Key '{key}' in match rule has arg number {index} but the maximum is {ARG_MAX}.\n")
    return index, rest


_KEY = re.compile(r"\s*(?P<key>[^=\s]*)\s*")


def _tokens(text: str) -> list[tuple[str, str]]:
    """Keys and values. An empty key ends the rule, as it does in dbus-daemon."""
    tokens: list[tuple[str, str]] = []
    position = 0
    while position < len(text):
        found = _KEY.match(text, position)
        assert found is not None  # it can match nothing
        if not found["key"]:
            break
        position = found.end()
        if text[position : position + 1] != "=":
            raise MatchRuleError("Match rule has a key with no subsequent '=' character")
        value, position = _value(text, position + 1)
        tokens.append((found["key"], value))
    return tokens


def _value(text: str, position: int) -> tuple[str, int]:
    """A value up to a comma outside quotes. Quotes may begin and end anywhere; outside them \\' stands for a quote."""
    out: list[str] = []
    quoted = False
    while position < len(text):
        character = text[position]
        if character == "'":
            quoted = not quoted
        elif quoted:
            out.append(character)
        elif character == ",":
            return "".join(out), position + 1
        elif character == "\\" and text[position + 1 : position + 2] == "'":
            out.append("'")
            position += 1
        else:
            out.append(character)
        position += 1
    if quoted:
        raise MatchRuleError("Unbalanced quotation marks in match rule")
    return "".join(out), position
