"""Cases and their results: what a command or pytest runs, side by side. (Running them is engine.py's; this is the words.)"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from cgrace.harness.drivers.base import DriverSpec
from cgrace.harness.scenario.model import Scenario, Setting
from cgrace.harness.verdict import Judgement


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One scenario in one of its settings on one driver. `turn` tells repetitions of the same case apart, from 0."""

    scenario: Scenario
    setting: Setting
    driver: DriverSpec
    turn: int = 0

    @property
    def id(self) -> str:
        """How people select it: "runc_1780/late_job[219-rhel7.4:v1]-async"."""
        return f"{self.scenario.name}[{self.setting.profile}:{self.setting.layout}]-{self.driver.name}"


@dataclass(frozen=True, slots=True, kw_only=True)
class CaseResult:
    """A case that was run. trace: its stored trace ("" where it could not run: then `error` says why, verdict inconclusive).

    canonical: hash of the canonical trace (ids renamed by first appearance, times dropped). repeated: it was run again
    because the first was inconclusive.
    """

    case: Case
    judgement: Judgement
    trace: Path | None = None
    error: str = ""
    wall_ns: int = 0
    canonical: str = ""
    repeated: bool = False
