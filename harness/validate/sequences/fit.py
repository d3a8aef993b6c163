"""What one real systemd cannot be asked, because it would not live through it. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Final

from cgrace.harness.validate.sequences.program import Act, Moment, Program

REFERS_ONCE: Final = frozenset((247,))
"""Versions whose PID 1 spins for ever when one connection holds a unit twice: a source of its loop that is off stays the first in
line, and nothing else is looked at (seen on 247.3; RefUnit twice, or AddRef= and RefUnit)."""

FREEZES_SLICES_ONCE: Final = frozenset((247,))
"""Versions whose PID 1 aborts when a slice is to be frozen or thawed while it owes an answer for that: it owes one for ever where
the slice was so already (dbus-unit.c, bus_unit_method_freezer_generic; slice.c, slice_freezer_action; seen on 247.3)."""


def fit(program: Program, version: int) -> Program:
    """The sequence without what that version does not live through; a second call of such a kind is left out."""
    moments = program.moments
    if version in REFERS_ONCE:
        held: set[tuple[int, str]] = set()
        moments = tuple(_without(moment, [_once(act, held) for act in moment]) for moment in moments)
    if version in FREEZES_SLICES_ONCE:
        frozen: set[str] = set()
        moments = tuple(_without(moment, [_first(act, frozen) for act in moment]) for moment in moments)
    return replace(program, moments=moments)


def _without(moment: Moment, left: Iterable[Act | None]) -> Moment:
    """A moment needs an act."""
    return tuple(one for one in left if one is not None) or (Act(do="get-unit", unit=moment[0].unit),)


def _first(act: Act, frozen: set[str]) -> Act | None:
    if act.do not in ("freeze", "thaw") or not act.unit.endswith(".slice"):
        return act
    if act.unit in frozen:
        return None
    frozen.add(act.unit)
    return act


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
