"""D-Bus signatures and names: what is well-formed, after the specification's chapters on the type system and on names.

Parsed signatures are cached; every function here is pure, and what is not well-formed is a ProtocolError.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache

from cgrace.harness.errors import ProtocolError

SIGNATURE_LENGTH_MAX = 255
NAME_LENGTH_MAX = 255
NESTING_MAX = 32  # of arrays, and of structs, in one signature
DEPTH_MAX = 64  # of containers in a value, variants included

BASIC = frozenset("ybnqiuxtdsogh")
ALIGNMENT = {
    **dict.fromkeys("yvg", 1),
    **dict.fromkeys("nq", 2),
    **dict.fromkeys("biusoah", 4),
    **dict.fromkeys("xtd(e", 8),
}


@dataclass(frozen=True, slots=True)
class Node:
    """One complete type. code: its letter; "(" is a struct and "e" a dict entry (always the child of an "a")."""

    code: str
    children: tuple[Node, ...] = ()

    @property
    def alignment(self) -> int:
        """In bytes, a power of two."""
        return ALIGNMENT[self.code]

    @property
    def is_dict(self) -> bool:
        """Whether this is an array of dict entries."""
        return self.code == "a" and self.children[0].code == "e"


@lru_cache(maxsize=4096)
def parse_signature(text: str) -> tuple[Node, ...]:
    """The complete types of a signature, () for the empty one; ProtocolError when it is not one."""
    if len(text) > SIGNATURE_LENGTH_MAX:
        raise ProtocolError(f"signature of {len(text)} characters: at most {SIGNATURE_LENGTH_MAX} are allowed")
    nodes: list[Node] = []
    position = 0
    while position < len(text):
        node, position = _complete(text, position, 0, 0)
        nodes.append(node)
    return tuple(nodes)


def split_signature(text: str) -> list[str]:
    """The texts of the complete types of a signature."""
    pieces: list[str] = []
    position = 0
    while position < len(text):
        _, end = _complete(text, position, 0, 0)
        pieces.append(text[position:end])
        position = end
    return pieces


def single_type(text: str) -> Node:
    """The one complete type of a variant's signature."""
    nodes = parse_signature(text)
    if len(nodes) != 1:
        raise ProtocolError(f"'{text:.80}' is not one complete type")
    return nodes[0]


def _complete(text: str, position: int, arrays: int, structs: int) -> tuple[Node, int]:
    code = text[position] if position < len(text) else ""
    if code and (code in BASIC or code == "v"):
        return Node(code), position + 1
    if code == "a":
        if arrays == NESTING_MAX:
            raise ProtocolError(f"signature '{text:.80}': arrays nest deeper than {NESTING_MAX}")
        if text[position + 1 : position + 2] == "{":
            child, position = _entry(text, position + 1, arrays + 1, structs)
        else:
            child, position = _complete(text, position + 1, arrays + 1, structs)
        return Node("a", (child,)), position
    if code == "(":
        if structs == NESTING_MAX:
            raise ProtocolError(f"signature '{text:.80}': structs nest deeper than {NESTING_MAX}")
        children, position = [], position + 1
        while text[position : position + 1] != ")":
            child, position = _complete(text, position, arrays, structs + 1)
            children.append(child)
        if not children:
            raise ProtocolError(f"signature '{text:.80}': a struct without members")
        return Node("(", tuple(children)), position + 1
    raise ProtocolError(f"signature '{text:.80}': no complete type at character {position}")


def _entry(text: str, position: int, arrays: int, structs: int) -> tuple[Node, int]:
    """A dict entry counts as a struct where nesting is concerned, as in libdbus."""
    if structs == NESTING_MAX:
        raise ProtocolError(f"signature '{text:.80}': structs nest deeper than {NESTING_MAX}")
    key = text[position + 1 : position + 2]
    if not key or key not in BASIC:
        raise ProtocolError(f"signature '{text:.80}': a dict's key must be a basic type")
    value, position = _complete(text, position + 2, arrays, structs + 1)
    if text[position : position + 1] != "}":
        raise ProtocolError(f"signature '{text:.80}': a dict entry has exactly one key and one value")
    return Node("e", (Node(key), value)), position + 1


# ---- names

_PATH = re.compile(r"/|(?:/[A-Za-z0-9_]+)+")
_INTERFACE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*(?:\.[A-Za-z_][A-Za-z0-9_]*)+")
_MEMBER = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_WELL_KNOWN = re.compile(r"[A-Za-z_-][A-Za-z0-9_-]*(?:\.[A-Za-z_-][A-Za-z0-9_-]*)+")
_UNIQUE = re.compile(r":[A-Za-z0-9_-]+(?:\.[A-Za-z0-9_-]+)*")  # libdbus asks for no dot (dbus-marshal-validate.c)
_NAMESPACE = re.compile(r"[A-Za-z_-][A-Za-z0-9_-]*(?:\.[A-Za-z_-][A-Za-z0-9_-]*)*")


@lru_cache(maxsize=8192)
def is_object_path(text: str) -> bool:
    """Whether this is an object path (of any length)."""
    return _PATH.fullmatch(text) is not None


@lru_cache(maxsize=4096)
def is_interface(text: str) -> bool:
    """Whether this is an interface's name; an error's name has the same form."""
    return len(text) <= NAME_LENGTH_MAX and _INTERFACE.fullmatch(text) is not None


@lru_cache(maxsize=4096)
def is_member(text: str) -> bool:
    """Whether this is the name of a method or signal."""
    return len(text) <= NAME_LENGTH_MAX and _MEMBER.fullmatch(text) is not None


@lru_cache(maxsize=4096)
def is_bus_name(text: str) -> bool:
    """Whether this is a unique (":1.7") or a well-known name."""
    pattern = _UNIQUE if text[:1] == ":" else _WELL_KNOWN
    return len(text) <= NAME_LENGTH_MAX and pattern.fullmatch(text) is not None


def is_namespace(text: str) -> bool:
    """Whether this can be the value of a match rule's arg0namespace: a bus name that may have a single part."""
    return len(text) <= NAME_LENGTH_MAX and (_NAMESPACE.fullmatch(text) is not None or is_bus_name(text))
