"""What one real systemd cannot be asked, because it would not live through it. Pure."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from cgrace.harness.validate.sequences.program import Act, Program

REFERS_ONCE: Final = frozenset((247,))
"""Versions whose PID 1 spins for ever when one connection holds a unit twice: a source of its loop that is off stays the first in
line, and nothing else is looked at (seen on 247.3; RefUnit twice, or AddRef= and RefUnit)."""


def fit(program: Program, version: int) -> Program:
    """The sequence without what that version does not live through; calls that only count a second time are left out."""
    if version not in REFERS_ONCE:
        return program
    held: set[tuple[int, str]] = set()
    moments = []
    for moment in program.moments:
        acts = tuple(one for one in (_once(act, held) for act in moment) if one is not None)
        moments.append(acts or (Act(do="get-unit", unit=moment[0].unit),))
    return replace(program, moments=tuple(moments))


def _once(act: Act, held: set[tuple[int, str]]) -> Act | None:
    key = (act.by, act.unit)
    adds = any(name == "AddRef" for name, _, _ in act.properties)
    if act.do != "ref" and not adds:
        return act
    if key not in held:
        held.add(key)
        if sum(name == "AddRef" for name, _, _ in act.properties) < 2:
            return act
    if act.do == "ref":
        return None
    return replace(act, properties=tuple(one for one in act.properties if one[0] != "AddRef"))
