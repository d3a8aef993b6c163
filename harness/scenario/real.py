"""A scenario on a real systemd: one setting for each layout, and what is expected there.

What the file's own settings name (profiles of the fake, the fitting cut of the ladder) is for the fake. A real target has one
systemd, and what drivers do on it was recorded (recorded.py). Where it was not, the expectations of the nearest setting stand.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterator
from typing import Final

from cgrace.harness import faults as ft
from cgrace.harness.points import Point, PointKind
from cgrace.harness.scenario.model import Expect, Scenario, Setting
from cgrace.harness.scenario.recorded import Row

NO_DELEGATE_ON_SLICES: Final = 238  # src/core/dbus-cgroup.c refuses it from here on: cuts of rc5 ask for it
_OLD_CUT: Final = "rc5"
_NEW_CUT: Final = "rc6"
_UNIFIED: Final = "unified"
_OF_TREE: Final = (PointKind.CGROUP, PointKind.MOVED, PointKind.OPENS)


def settings_on(scenario: Scenario, systemd: int, layouts: Collection[str] = ()) -> tuple[Setting, ...]:
    """One for each layout that the scenario is about, of the target's; where it names none of them, for those of the target's on
    which nothing that it says is out of place; where there are none of these, all that it is about. The ladder's cut is one that
    this systemd takes."""
    slices = any(step.unit.endswith(".slice") for step in scenario.steps)
    rung = _NEW_CUT if slices and systemd >= NO_DELEGATE_ON_SLICES else _OLD_CUT
    about = dict.fromkeys(setting.layout for setting in scenario.settings)
    bound = {"v2" if name == _UNIFIED else "v1" for name in _hierarchies(scenario)}
    had = [one for one in about if one in layouts] or [one for one in layouts if bound <= {one}] or list(about)
    return tuple(Setting(profile=str(systemd), layout=layout, rung=rung) for layout in had)


def _hierarchies(scenario: Scenario) -> Iterator[str]:
    """Those that a scenario names: they are there in one layout only."""
    points = [point for step in scenario.steps for point in step.after]
    points += [point for order in scenario.orders for point in (order.first, order.second)]
    for fault in scenario.faults:
        points += [point for name in ("when", "until") if isinstance(point := getattr(fault, name, None), Point)]
        if isinstance(fault, ft.DisableController):
            yield _UNIFIED
        elif name := getattr(fault, "hierarchy", ""):
            yield name
    for point in points:
        if point.kind in _OF_TREE:
            yield point.subject.partition("/")[0]


def placed_on(scenario: Scenario, setting: Setting, row: Row | None, *, generation: str, release: str = "") -> Scenario:
    """The scenario for one driver there: with this one setting, and with what was recorded, else with what is nearest."""
    expect = row.expects() if row is not None else _nearest(scenario, setting, generation, release)
    return dataclasses.replace(scenario, settings=(setting,), expect=expect)


def _nearest(scenario: Scenario, setting: Setting, generation: str, release: str) -> tuple[Expect, ...]:
    near = min(
        scenario.settings,
        key=lambda one: (
            one.layout != setting.layout,
            abs(_number(one.profile) - int(setting.profile)),
            one.rung != setting.rung,
        ),
    )
    found = scenario.expected(generation, near, release)
    return tuple(dataclasses.replace(e, profiles=(), rungs=(), layouts=()) for e in found)


def _number(profile: str) -> int:
    digits = profile.partition("-")[0]
    return int(digits) if digits.isdecimal() else 0
