"""Cases and their results: what a command or pytest runs, side by side. (Running them is engine.py's; this is the words.)"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from cgrace.harness.drivers.base import DriverSpec
from cgrace.harness.errors import CgraceError, UnavailableError
from cgrace.harness.scenario.model import Expect, Scenario, Setting
from cgrace.harness.verdict import Judgement, Outcome


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One scenario in one of its settings on one driver. `turn` tells repetitions of the same case apart, from 0.

    target: where it runs, without the layout. recorded: its scenario expects what was seen there before, and not what history
    says; note: why that is otherwise than history has it, where it is. refused: why it is not to be run there, "" where it is.
    """

    scenario: Scenario
    setting: Setting
    driver: DriverSpec
    turn: int = 0
    target: str = "fake"
    recorded: bool = False
    note: str = ""
    refused: str = ""

    @property
    def id(self) -> str:
        """How people select it: "runc_1780/late_job[219-rhel7.4:v1]-async"."""
        return f"{self.scenario.name}[{self.setting.profile}:{self.setting.layout}]-{self.driver.name}"

    @property
    def expected(self) -> tuple[Expect, ...]:
        """What history says of this driver here."""
        return self.scenario.expected(self.driver.generation, self.setting, self.driver.release)


@dataclass(frozen=True, slots=True, kw_only=True)
class CaseResult:
    """A case that was run. trace: its stored trace ("" where it could not run: then `error` says why, verdict inconclusive).

    canonical: hash of the canonical trace (ids renamed by first appearance, times dropped). repeated: it was run again
    because the first was inconclusive. unavailable: this machine cannot run it, however often it is tried.
    """

    case: Case
    judgement: Judgement
    trace: Path | None = None
    error: str = ""
    wall_ns: int = 0
    canonical: str = ""
    repeated: bool = False
    unavailable: bool = False

    @classmethod
    def without_run(cls, case: Case, error: CgraceError) -> CaseResult:
        """Of a case that could not be run: inconclusive, with the reason."""
        why = str(error)
        judgement = Judgement(outcome=Outcome.INCONCLUSIVE, findings=(), reasons=(why,))
        return cls(case=case, judgement=judgement, error=why, unavailable=isinstance(error, UnavailableError))


@dataclass(frozen=True, slots=True, kw_only=True)
class NotRun:
    """A case that was not begun, and why."""

    case: Case
    why: str


@dataclass(frozen=True, slots=True, order=True)
class Wrong:
    """One thing that a driver does wrong: an invariant violated of a subject, or (invariant "") a step that fails with a text in
    which numbers do not count."""

    invariant: str
    subject: str
    text: str = ""

    def __str__(self) -> str:
        return (
            f"{self.invariant} violated ({self.subject})" if self.invariant else f"{self.subject} failed: {self.text}"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """One case of a driver beside its baseline's. compared: whether there was a baseline that came to a conclusion.

    untold: what the driver does wrong in a part of the run that the baseline never got to.
    """

    case: Case
    new: tuple[Wrong, ...]
    same: tuple[Wrong, ...]
    fixed: tuple[Wrong, ...]
    compared: bool
    untold: tuple[Wrong, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class SuiteRun:
    """Everything that one command ran, in the order of its cases.

    results: of the drivers; baseline_results: of `baseline`, the driver that they are compared with ("" for none). not_run: what
    was not begun or not ended. wall_ns: from the first case's beginning to the last one's end. interrupted: by the user.
    """

    results: tuple[CaseResult, ...]
    not_run: tuple[NotRun, ...] = ()
    baseline: str = ""
    baseline_results: tuple[CaseResult, ...] = ()
    comparisons: tuple[Comparison, ...] = ()
    wall_ns: int = 0
    interrupted: bool = False

    @property
    def all_results(self) -> tuple[CaseResult, ...]:
        """Also the baseline's."""
        return self.results + self.baseline_results

    @property
    def unavailable(self) -> tuple[CaseResult, ...]:
        """What this machine cannot run."""
        return tuple(r for r in self.results if r.unavailable)

    @property
    def wrong(self) -> tuple[CaseResult, ...]:
        """What ran, or should have, and did not come out as expected."""
        return tuple(r for r in self.results if not r.judgement.outcome.passes and not r.unavailable)

    @property
    def passed(self) -> bool:
        """Whether something was run, all of it, and it came out as expected. What the machine cannot run does not count."""
        ran = len(self.results) > len(self.unavailable)
        return ran and not self.wrong and not self.not_run and not self.interrupted

    @property
    def cases_ns(self) -> int:
        """The sum of what the cases took."""
        return sum(r.wall_ns for r in self.all_results)

    @property
    def ratio(self) -> float:
        """How much of it happened side by side: the cases' sum by the wall clock."""
        return self.cases_ns / self.wall_ns if self.wall_ns else 0.0

    @property
    def longest(self) -> CaseResult | None:
        """The case that took longest: no run is shorter."""
        return max(self.all_results, key=lambda r: r.wall_ns, default=None)
