"""Unit names by systemd's own rules, and where a unit's cgroup is.

Source: systemd src/basic/unit-name.c (unit_name_is_valid, unit_name_to_prefix), src/core/slice.c (slice_verify),
src/basic/cgroup-util.c (cg_slice_to_path): "a-b.slice" is below "a.slice", and no part of a slice's name is empty.
"""

from __future__ import annotations

import re

UNIT_NAME_MAX = 255
ROOT_SLICE = "-.slice"
SYSTEM_SLICE = "system.slice"
UNIT_PATTERN = r"^[A-Za-z0-9:_.\\@-]+\.(slice|scope)$"

_CHARACTERS = re.compile(r"[A-Za-z0-9:_.\\@-]*")


def unit_problem(name: str) -> str:
    """What is wrong with the name of a transient unit; "" when nothing is."""
    stem, dot, suffix = name.rpartition(".")
    if not dot or suffix not in ("slice", "scope"):
        return "a unit here ends in .slice or .scope"
    if len(name) > UNIT_NAME_MAX:
        return f"a unit's name has at most {UNIT_NAME_MAX} characters, this one {len(name)}"
    if not _CHARACTERS.fullmatch(stem):
        bad = next(c for c in stem if not _CHARACTERS.fullmatch(c))
        return f"{bad!r} cannot be in a unit's name: letters, digits and : - _ . \\ @ can"
    if not stem:
        return "the name is empty"
    return _slice_problem(name, stem) if suffix == "slice" else _scope_problem(stem)


def _slice_problem(name: str, stem: str) -> str:
    if name == ROOT_SLICE:
        return ""
    if "@" in stem:
        return "a slice cannot be an instance of a template"
    if "" in stem.split("-"):
        return "a '-' in a slice's name divides it from its parent, and no part may be empty"
    return ""


def _scope_problem(stem: str) -> str:
    prefix, dash, rest = stem.partition("-")
    if not (prefix and dash and rest):
        return "a scope is named '<prefix>-<name>.scope', as drivers make it from the two"
    if "@" in stem and not (stem.partition("@")[0] and stem.partition("@")[2]):
        return "the name is that of a template, not of a unit"
    return ""


def parent_of(unit: str) -> str:
    """The slice that a unit is below when nothing else is said: by a slice's own name; a scope is in system.slice."""
    if unit.endswith(".scope"):
        return SYSTEM_SLICE
    above, _, _ = unit.removesuffix(".slice").rpartition("-")
    return f"{above}.slice" if above else ROOT_SLICE


def ancestors(unit: str) -> tuple[str, ...]:
    """The slices above a slice, nearest first, without the root."""
    found = []
    while unit != ROOT_SLICE and (unit := parent_of(unit)) != ROOT_SLICE:
        found.append(unit)
    return tuple(found)


def cgroup_of(unit: str, parent: str = "") -> str:
    """The unit's cgroup below the root: cgrace-a.slice -> "/cgrace.slice/cgrace-a.slice"; a scope is below its parent."""
    if unit == ROOT_SLICE:
        return "/"
    if unit.endswith(".scope"):
        above = cgroup_of(parent or SYSTEM_SLICE)
        return ("" if above == "/" else above) + "/" + unit
    return "".join(f"/{slice_}" for slice_ in (*reversed(ancestors(unit)), unit))
