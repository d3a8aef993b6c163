"""A scenario on a real systemd: one setting for each layout, and what is expected there.

What the file's own settings name (profiles of the fake, the fitting cut of the ladder) is for the fake. A real target has one
systemd, and what drivers do on it was recorded (recorded.py). Where it was not, the expectations of the nearest setting stand.
"""

from __future__ import annotations

import dataclasses
from typing import Final

from cgrace.harness.scenario.model import Expect, Scenario, Setting
from cgrace.harness.scenario.recorded import Row

NO_DELEGATE_ON_SLICES: Final = 238  # src/core/dbus-cgroup.c refuses it from here on: cuts of rc5 ask for it
_OLD_CUT: Final = "rc5"
_NEW_CUT: Final = "rc6"


def settings_on(scenario: Scenario, systemd: int) -> tuple[Setting, ...]:
    """One for each layout that the scenario is about; the ladder's cut is one that this systemd takes."""
    slices = any(step.unit.endswith(".slice") for step in scenario.steps)
    rung = _NEW_CUT if slices and systemd >= NO_DELEGATE_ON_SLICES else _OLD_CUT
    layouts = dict.fromkeys(setting.layout for setting in scenario.settings)
    return tuple(Setting(profile=str(systemd), layout=layout, rung=rung) for layout in layouts)


def placed_on(scenario: Scenario, setting: Setting, row: Row | None, *, generation: str, release: str = "") -> Scenario:
    """The scenario for one driver there: with this one setting, and with what was recorded, else with what is nearest."""
    expect = row.expects() if row is not None else _nearest(scenario, setting, generation, release)
    return dataclasses.replace(scenario, settings=(setting,), expect=expect)


def _nearest(scenario: Scenario, setting: Setting, generation: str, release: str) -> tuple[Expect, ...]:
    near = min(
        (one for one in scenario.settings if one.layout == setting.layout),
        key=lambda one: (abs(_number(one.profile) - int(setting.profile)), one.rung != setting.rung),
    )
    found = scenario.expected(generation, near, release)
    return tuple(dataclasses.replace(e, profiles=(), rungs=(), layouts=()) for e in found)


def _number(profile: str) -> int:
    digits = profile.partition("-")[0]
    return int(digits) if digits.isdecimal() else 0
