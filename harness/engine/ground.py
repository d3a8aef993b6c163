"""A real target as cases are planned for it: its settings, and what was recorded there before."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from cgrace.harness.drivers.base import DriverSpec
from cgrace.harness.scenario.model import Scenario, Setting
from cgrace.harness.scenario.real import placed_on, settings_on
from cgrace.harness.scenario.recorded import Recorded, Row, file_of, read, story_of
from cgrace.harness.scenario.rules import Rule, Unsteady, chance, read_rules, read_unsteady, why
from cgrace.harness.suite import Case
from cgrace.harness.targets.registry import Facts
from cgrace.harness.targets.roots_build import SUITES

_OWN_MACHINES: Final = ("ssh", "host")


@dataclass(slots=True)
class Ground:
    """facts: of the target. folder: where baselines are kept."""

    facts: Facts
    folder: Path
    _rules: tuple[Rule, ...] | None = None
    _unsteady: tuple[Unsteady, ...] | None = None
    _read: dict[tuple[str, str], Recorded | None] = field(default_factory=dict)

    def settings(self, scenario: Scenario) -> tuple[Setting, ...]:
        """See `settings_on`: what cannot run there is among them, to be listed."""
        return settings_on(scenario, self.facts.systemd, self.layouts)

    @property
    def layouts(self) -> tuple[str, ...]:
        """Those of the target, or the one that was asked for."""
        asked = self.facts.name.wanted
        return (asked,) if asked else self.facts.layouts

    @property
    def is_users_own(self) -> bool:
        """Whether it is a machine of the user's, which may have any systemd."""
        return self.facts.name.kind in _OWN_MACHINES

    def case(self, scenario: Scenario, setting: Setting, driver: DriverSpec) -> Case:
        """One driver there, held against what was recorded of it, or where nothing was against the scenario's own words."""
        row = self.row(scenario, setting.layout, driver.name)
        placed = placed_on(scenario, setting, row, generation=driver.generation, release=driver.release)
        return Case(
            scenario=placed,
            setting=setting,
            driver=driver,
            target=self.facts.name.base,
            recorded=row is not None,
            refused=chance(self.unsteady, scenario.name, driver.generation, setting.layout, self.facts.name.kind),
            note=why(self.rules, scenario.name, driver.name, systemd=self.facts.systemd, layout=setting.layout),
        )

    @property
    def rules(self) -> tuple[Rule, ...]:
        """Why rows come out there as they do."""
        if self._rules is None:
            self._rules = read_rules(self.folder)
        return self._rules

    @property
    def unsteady(self) -> tuple[Unsteady, ...]:
        """What comes out by chance there."""
        if self._unsteady is None:
            self._unsteady = read_unsteady(self.folder)
        return self._unsteady

    def row(self, scenario: Scenario, layout: str, driver: str) -> Row | None:
        """What was recorded of a driver."""
        recorded = self.recorded(story_of(scenario), layout)
        return recorded.rows.get((scenario.name, driver)) if recorded is not None else None

    def recorded(self, story: str, layout: str) -> Recorded | None:
        """The record of a story, None where there is none. CgraceError where it cannot be read."""
        if not story:
            return None
        key = (story, layout)
        if key not in self._read:
            self._read[key] = read(self.file(story, layout)) or self._of_the_same_systemd(story, layout)
        return self._read[key]

    def _of_the_same_systemd(self, story: str, layout: str) -> Recorded | None:
        """For a machine of the user's own, of which nothing is recorded: what was on a suite with that systemd."""
        suite = next((one for one, version in SUITES.items() if version == str(self.facts.systemd)), None)
        if suite is None or not self.is_users_own:
            return None
        return read(file_of(self.folder, story, f"container-{suite}", layout))

    def file(self, story: str, layout: str) -> Path:
        """Where that record is, or would be."""
        return file_of(self.folder, story, self.facts.name.slug, layout)
