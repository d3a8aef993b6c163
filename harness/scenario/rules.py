"""Why a row comes out on a systemd as it does, where history has it otherwise: rules as data, each with the probe that shows it."""

from __future__ import annotations

import tomllib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from cgrace.harness.errors import CgraceError

FILE: Final = "rules.toml"


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """since, until: versions of systemd, both included (until 0: all later ones). layout "", drivers (): any. probe: its id."""

    scenarios: tuple[str, ...]
    since: int
    until: int
    layout: str
    drivers: tuple[str, ...]
    says: str
    probe: str

    def covers(self, systemd: int) -> bool:
        """Whether that version has the rule."""
        return self.since <= systemd and (not self.until or systemd <= self.until)

    def applies(self, scenario: str, driver: str, systemd: int, layout: str) -> bool:
        """Whether it explains a row."""
        return (
            scenario in self.scenarios
            and self.covers(systemd)
            and self.layout in ("", layout)
            and (not self.drivers or driver in self.drivers)
        )

    @property
    def text(self) -> str:
        """For people."""
        return f"{self.says} (probe {self.probe})"


@dataclass(frozen=True, slots=True, kw_only=True)
class Unsteady:
    """Cases that come out by chance on a real systemd, which nothing in the scenario orders. drivers: generations; target:
    its kind, such as "vm"; (), layout "" and target "" are any."""

    scenarios: tuple[str, ...]
    drivers: tuple[str, ...]
    says: str
    layout: str = ""
    target: str = ""

    def applies(self, scenario: str, generation: str, layout: str, target: str) -> bool:
        """Whether a case is one of them. target: its kind."""
        return (
            scenario in self.scenarios
            and self.layout in ("", layout)
            and self.target in ("", target)
            and (not self.drivers or generation in self.drivers)
        )


def read_unsteady(folder: Path) -> tuple[Unsteady, ...]:
    """Those beside the baselines; none where there is no file. CgraceError where it says something else."""
    path = folder / FILE
    try:
        return tuple(
            Unsteady(
                scenarios=tuple(one["scenarios"]),
                drivers=tuple(one["drivers"]),
                says=str(one["says"]),
                layout=str(one.get("layout", "")),
                target=str(one.get("target", "")),
            )
            for one in _data(path).get("unsteady", ())
        )
    except (KeyError, TypeError, ValueError) as error:
        raise CgraceError(f"this is no list of unsteady cases: {error!r}", file=path) from None


def chance(cases: Iterable[Unsteady], scenario: str, generation: str, layout: str, target: str) -> str:
    """Why a case comes out by chance on a target of that kind, "" where it does not."""
    return next((one.says for one in cases if one.applies(scenario, generation, layout, target)), "")


def _data(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise CgraceError(f"the rules cannot be read: {error}", file=path) from None


def read_rules(folder: Path) -> tuple[Rule, ...]:
    """Those beside the baselines; none where there is no file. CgraceError where it says something else."""
    path = folder / FILE
    try:
        return tuple(
            Rule(
                scenarios=tuple(one["scenarios"]),
                since=int(one["from"]),
                until=int(one["until"]),
                layout=str(one["layout"]),
                drivers=tuple(one["drivers"]),
                says=str(one["says"]),
                probe=str(one["probe"]),
            )
            for one in _data(path).get("rules", ())
        )
    except (KeyError, TypeError, ValueError) as error:
        raise CgraceError(f"this is no list of rules: {error!r}", file=path) from None


def why(rules: Iterable[Rule], scenario: str, driver: str, *, systemd: int, layout: str) -> str:
    """What explains a row, "" where nothing has to."""
    return "; ".join(rule.text for rule in rules if rule.applies(scenario, driver, systemd, layout))
