"""Unit names as the manager judges them, and their place in the slice tree (unit-name.c, slice.c)."""

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
def slice_cgroup(name: str) -> str:
    """The cgroup path of a slice, "" for the root."""
    above = parent_slice(name)
    return f"{slice_cgroup(above)}/{name}" if above else ""
