"""Unit names, their object paths and their places in the slice tree. Pure functions (unit-name.c, bus-label.c, slice.c)."""

from __future__ import annotations

import re
from functools import lru_cache

UNIT_NAME_CHARS_MAX = 255
TYPES = frozenset(
    (
        "service",
        "socket",
        "target",
        "device",
        "mount",
        "automount",
        "swap",
        "timer",
        "path",
        "slice",
        "scope",
        "busname",
    )
)
PATH = "/org/freedesktop/systemd1"
UNIT_PREFIX = PATH + "/unit/"
JOB_PREFIX = PATH + "/job/"
ROOT_SLICE = "-.slice"
_NAME = re.compile(r"^[A-Za-z0-9:_.\\-]+(@[A-Za-z0-9:_.\\@-]*)?\.[a-z]+$")


@lru_cache(maxsize=4096)
def unit_type(name: str) -> str:
    """The type of a valid unit name ("scope"), "" where the name is not valid."""
    if len(name) > UNIT_NAME_CHARS_MAX or not _NAME.match(name):
        return ""
    suffix = name.rpartition(".")[2]
    return suffix if suffix in TYPES else ""


def is_template(name: str) -> bool:
    """Whether the name lacks its instance: a@.scope."""
    return "@." in name and name.index("@.") == name.index("@")


@lru_cache(maxsize=4096)
def parent_slice(name: str) -> str:
    """The slice above a slice, "" for the root; ValueError where the name has no place in the tree (a--b.slice)."""
    if name == ROOT_SLICE:
        return ""
    stem = name.removesuffix(".slice")
    if stem.startswith("-") or stem.endswith("-") or "--" in stem:
        raise ValueError(f"{name} is not a slice name")
    above = stem.rpartition("-")[0]
    return f"{above}.slice" if above else ROOT_SLICE


@lru_cache(maxsize=4096)
def unit_path(name: str) -> str:
    """The object path of a unit."""
    if not name:
        return UNIT_PREFIX + "_"
    out = []
    for index, char in enumerate(name):
        plain = char.isascii() and (char.isalpha() or (char.isdigit() and index > 0))
        out.append(char if plain else "".join(f"_{byte:02x}" for byte in char.encode()))
    return UNIT_PREFIX + "".join(out)


@lru_cache(maxsize=4096)
def unit_of_path(path: str) -> str:
    """The unit name in an object path, "" where it holds none."""
    part = path.removeprefix(UNIT_PREFIX)
    if part in ("_", path) or "/" in part:
        return ""
    raw = re.sub(rb"_([0-9a-f]{2})", lambda found: bytes([int(found[1], 16)]), part.encode())
    return raw.decode(errors="replace")
