"""What the scenario items of one pytest process share: the drivers, the run's folder, and the results so far.

The plugin imports this when the first scenario is collected, so that nobody else's test run pays for it.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import pytest

from cgrace.harness import runner
from cgrace.harness.clock import NS_PER_S
from cgrace.harness.commands.common import note, run_async
from cgrace.harness.commands.select import pick_drivers
from cgrace.harness.commands.suite import ground_of, target_of
from cgrace.harness.drivers.base import DriverSpec
from cgrace.harness.engine.ground import Ground
from cgrace.harness.errors import CgraceError, ScenarioError
from cgrace.harness.scenario.model import Scenario
from cgrace.harness.store import StoredRun, new_run
from cgrace.harness.suite import Case, CaseResult
from cgrace.harness.targets.registry import TargetName
from cgrace.harness.verdict import Verdict
from cgrace.reports.console.blocks import result_lines
from cgrace.reports.console.words import asked, what_systemd_did
from cgrace.reports.machine import document, result_data

WORKER_OUTPUT = "cgrace"  # what a worker of pytest-xdist hands to its controller at the end
BACKSTOP_S = 600.0  # for building drivers; then each turn of a batch may take its scenario's wall time
TURN_S = 5.0

suite_key: pytest.StashKey[Suite] = pytest.StashKey()


def suite_of(config: pytest.Config) -> Suite:
    """The one suite of this process."""
    if suite_key not in config.stash:
        config.stash[suite_key] = Suite(config)
    return config.stash[suite_key]


class Suite:
    """Plans and runs cases as the options say. unfit: scenarios that no chosen driver fits, with the reason; results: by case."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        self.drivers: Sequence[DriverSpec] = pick_drivers(config.getoption("cgrace_driver"))
        self.repeat: int = config.getoption("cgrace_repeat")
        self.target: str = config.getoption("cgrace_target")
        self._name, self._ground = _target(config)
        self.unfit: dict[str, str] = {}
        self.results: dict[str, list[CaseResult]] = {}
        self._files: dict[str, Path] = {}
        self._stored: StoredRun | None = None
        self._apart = False
        self._kept: list[dict[str, Any]] = []

    def plan(self, scenario: Scenario) -> list[Case]:
        """A case for each setting and driver that fits; none is noted with the reason. ScenarioError for a name that another file
        has, since results and traces go by it."""
        if self._files.setdefault(scenario.name, scenario.file) != scenario.file:
            message = f"two scenarios are called '{scenario.name}': {self._files[scenario.name]} is the other"
            raise ScenarioError(message, hint="rename one", file=scenario.file)
        cases = runner.plan([scenario], self.drivers, on=self._ground)
        if not cases:
            needs = ", ".join(f"{s.profile} {s.layout}" for s in scenario.settings)
            names = ", ".join(spec.name for spec in self.drivers)
            self.unfit[scenario.name] = f"no driver of {names} fits {needs}"
            self._hand_over()
        return cases

    def backstop_s(self, cases: Sequence[Case]) -> float:
        """What pytest-timeout may wait for all of these: far more than it ever takes."""
        turns = -(-len(cases) * self.repeat // runner.JOBS_DEFAULT)
        return BACKSTOP_S + turns * (max(case.scenario.wall_ns for case in cases) / NS_PER_S + TURN_S)

    def run(self, wanted: Case, beside: Sequence[Case]) -> list[CaseResult]:
        """Run cases side by side, `repeat` times each; the wanted one's results, and the others' in `results`.

        When they cannot be run together (a driver that does not build), each runs alone from then on and has its own error.
        """
        cases = [case for case in beside if case.id not in self.results]
        if not self._apart:
            try:
                self._run(cases)
            except CgraceError:
                self._apart = True
        if self._apart:
            self._run([wanted])
        return self.results[wanted.id]

    def _run(self, cases: Sequence[Case]) -> None:
        if self._stored is None:
            home = self._config.getoption("cgrace_store")
            self._stored = new_run(Path(home) if home else None)
        turns = [dataclasses.replace(case, turn=turn) for turn in range(self.repeat) for case in cases]
        results = run_async(
            runner.run_cases(
                turns,
                store=self._stored.folder,
                expect_clean=self._config.getoption("cgrace_expect") == "clean",
                bus=self._config.getoption("cgrace_bus"),
                target=self._name,
            )
        )
        for result in results:
            self.results.setdefault(result.case.id, []).append(result)
        self._kept += [result_data(result) for case in cases for result in _different(self.results[case.id])]
        self._hand_over()

    def _hand_over(self) -> None:
        """To the controller, in a worker of pytest-xdist: text alone goes over its wire."""
        output = getattr(self._config, "workeroutput", None)
        if output is not None:
            folder = str(self._stored.folder) if self._stored is not None else ""
            output[WORKER_OUTPUT] = json.dumps({"folder": folder, "results": self._kept, "unfit": self.unfit})

    def take(self, output: str) -> None:
        """What a worker handed over: its results and traces become part of this run."""
        data = json.loads(output)
        self.unfit.update(data["unfit"])
        self._kept += data["results"]
        if not data["folder"]:
            return
        theirs = StoredRun(Path(data["folder"]))
        if self._stored is None:
            self._stored = theirs
            return
        for trace in theirs.folder.glob("*.jsonl"):
            shutil.move(trace, self._stored.folder / trace.name)
        shutil.rmtree(theirs.folder, ignore_errors=True)

    def save(self) -> Path | None:
        """Write the run's results; its folder, or None where nothing was run."""
        if self._stored is None:
            return None
        for data in self._kept:
            if data["trace"]:
                data["trace"] = str(self._stored.folder / Path(data["trace"]).name)
        self._kept.sort(key=lambda data: str(data["case"]))
        passed = bool(self._kept) and all(data["passed"] for data in self._kept)
        self._stored.save(document("pytest", passed=passed, results=self._kept))
        return self._stored.folder


def _target(config: pytest.Config) -> tuple[TargetName, Ground | None]:
    """What --target says, and what cases are planned by there; pytest's own error for what cannot be."""
    asked = argparse.Namespace(target=config.getoption("cgrace_target"), bus=config.getoption("cgrace_bus"))
    try:
        name = target_of(asked)
        return name, ground_of(name, note)
    except CgraceError as error:
        raise pytest.UsageError(str(error)) from None


def _different(results: Sequence[CaseResult]) -> Iterable[CaseResult]:
    """Of repetitions those that tell something new; the traces of the others go."""
    seen: set[tuple[str, str]] = set()
    for result in results:
        key = (result.judgement.outcome, result.canonical)
        if key not in seen:
            seen.add(key)
            yield result
        elif result.trace is not None:
            with contextlib.suppress(OSError):
                result.trace.unlink()


def properties(results: Sequence[CaseResult], target: str) -> Iterable[tuple[str, str]]:
    """What JUnit and other reports are told of an item."""
    shown = next((r for r in results if not r.judgement.outcome.passes), results[0])
    case = shown.case
    yield "outcome", str(shown.judgement.outcome)
    yield "driver", case.driver.name
    yield "generation", case.driver.generation
    yield "target", target
    yield "profile", case.setting.profile
    yield "layout", case.setting.layout
    if case.scenario.issue:
        yield "issue", case.scenario.issue
    if case.scenario.rows:
        yield "rows", ", ".join(case.scenario.rows)
    for finding in shown.judgement.findings:
        if finding.verdict is not Verdict.HOLDS:
            yield f"{finding.verdict}", f"{finding.invariant}: {finding.summary} (grade: {finding.grade})"
    if shown.repeated:
        yield "repeated", "once, for the first run was inconclusive"
    if len(results) > 1:
        yield "repeat", f"{sum(r.judgement.outcome.passes for r in results)} of {len(results)} as expected"
    if shown.trace is not None:
        yield "trace", str(shown.trace)


def failure(result: CaseResult, results: Sequence[CaseResult]) -> str:
    """Why an item fails: what was asked, what was done to systemd, what came of it, and how to see more."""
    scenario = result.case.scenario
    lines = [scenario.title, *(f"asked    {asked(step)}" for step in scenario.steps)]
    lines += [f"systemd  made to {what_systemd_did(scenario)}", *result_lines(result)]
    lines += [finding.explanation for finding in result.judgement.violated if finding.explanation]
    if len(results) > 1:
        lines.append(f"{sum(r.judgement.outcome.passes for r in results)} of {len(results)} runs were as expected")
    if result.trace is not None:
        lines.append(
            f"more     cgrace report {result.trace.parent} --row {scenario.name} --driver {result.case.driver.name}"
        )
    return "\n".join(lines)
