"""The pytest plugin: scenario files are test files, an item for each setting and driver.

Collected are *.toml files that say `#:schema ...cgrace...` in their first line, that lie below a folder called scenarios and look
like ours, or that were named on the command line. In anybody else's test run it does nothing: for every other file it looks at
no more than the name, and imports nothing.

All selected items run side by side at the first of them (with --repeat: those of a file); each then reports its own result. A
verdict that differs from what is expected fails the item, told as the finding that made it and never as a traceback. What cannot be
told (unknown, an unfired fault, a driver that does not build) is an error. Only what this machine cannot run at all is skipped:
listed with the reason, counted, and if nothing could run the session fails.

Items can be picked by -k (driver, generation, markers) and -m: `core`, `row(name="7b")`, and so `issue`, `invariant`, `driver`,
`target`, `layout`. With pytest-xdist each worker has a target of its own; with `--dist loadfile` a file's items stay side by side.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from cgrace.harness.scenario.model import Scenario
    from cgrace.harness.suite import Case, CaseResult

_HEAD_BYTES = 8192
_SCHEMA = re.compile(r"^#:schema\b.*(cgrace|scenario\.schema\.json)")
_OURS = (re.compile(r"^title\s*=", re.M), re.compile(r"^(steps\s*=|\[\[steps\]\])", re.M))
_MARKERS = (
    "issue(name): the issue that a scenario is about",
    "row(name): a row of the story that a scenario serves",
    "invariant(name): what a scenario says that some driver violates",
    "driver(name): the driver that an item runs on",
    "target(name): where an item runs",
    "layout(name): the cgroup layout that an item runs on, v1 or v2",
    "core: the profile for pull requests",
    "primer: a scenario to learn from",
    "slow: takes half a minute or more",
)
_BUSES = ("embedded", "dbus-daemon", "dbus-broker")
_WHOLE_FILES = ("loadfile", "loadscope")  # the ways of pytest-xdist that give all items of a file to one worker
_CANNOT = "cannot run"


def pytest_addoption(parser: pytest.Parser) -> None:
    """The options of the command line. Their short names may be another plugin's: a conftest can add them by `add_options`."""
    add_options(parser, "--cgrace-")


def add_options(parser: pytest.Parser, prefix: str = "--") -> None:
    """Add the options with this prefix: driver, expect, target, bus, repeat, store."""
    group = parser.getgroup("cgrace", "cgrace: scenarios of cgroup drivers and systemd")

    def option(name: str, **more: Any) -> None:
        group.addoption(f"{prefix}{name}", dest=f"cgrace_{name}", **more)

    option("driver", action="append", default=[], metavar="NAME", help="only this driver; also source:PATH")
    option("expect", choices=["history", "clean"], default="history", help="clean: without history's excuse")
    option("target", default="fake", metavar="TARGET", help="where it runs: fake, or a real systemd: container:SUITE")
    option("bus", choices=_BUSES, default="embedded", help="what is behind the relay: our own bus, or a real one a run")
    option("repeat", type=_positive, default=1, metavar="N", help="run each N times; all must be as expected")
    option("store", default="", metavar="DIR", help="keep the run there, not in the state folder")


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise ValueError(text)
    return int(text)


def pytest_configure(config: pytest.Config) -> None:
    """Make the markers known, and count what comes of scenarios."""
    for marker in _MARKERS:
        config.addinivalue_line("markers", marker)
    config.pluginmanager.register(Tally(config), "cgrace-tally")


def pytest_collect_file(file_path: Path, parent: pytest.Collector) -> ScenarioFile | None:
    """A scenario file, or None for everything else."""
    if file_path.suffix != ".toml":
        return None
    if parent.session.isinitpath(file_path) or _is_scenario(file_path):
        return ScenarioFile.from_parent(parent, path=file_path)
    return None


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """The first item waits for all: pytest-timeout is the backstop of that, and no more."""
    mine = [item for item in items if isinstance(item, ScenarioItem)]
    if mine and config.pluginmanager.has_plugin("timeout"):
        from cgrace.harness.pytest_suite import suite_of

        backstop = pytest.mark.timeout(suite_of(config).backstop_s([item.case for item in mine]))
        for item in mine:
            item.add_marker(backstop)


def _is_scenario(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            head = file.read(_HEAD_BYTES).decode("utf-8", "replace")
    except OSError:
        return False
    below = "scenarios" in path.parent.parts and all(pattern.search(head) for pattern in _OURS)
    return below or _SCHEMA.match(head) is not None


class ScenarioError(Exception):
    """Carries the text of a failure to `repr_failure`."""


def _told(error: BaseException) -> str | None:
    """The one message of an error that is ours."""
    from cgrace.harness.errors import CgraceError

    return str(error) if isinstance(error, ScenarioError | CgraceError) else None


class ScenarioFile(pytest.File):
    """One scenario file."""

    def collect(self) -> Iterator[pytest.Item]:
        """An item for each setting and driver that fits."""
        from cgrace.harness.pytest_suite import suite_of
        from cgrace.harness.scenario.parse import load

        scenario = load(self.path)
        suite = suite_of(self.config)
        cases = suite.plan(scenario)
        for name in scenario.markers:
            if not any(line.startswith(name) for line in self.config.getini("markers")):
                self.config.addinivalue_line("markers", f"{name}: scenarios marked so")
        for case in cases:
            name = f"{case.driver.name}[{case.setting.profile}:{case.setting.layout}]"
            yield ScenarioItem.from_parent(self, name=name, case=case)

    def repr_failure(self, excinfo: pytest.ExceptionInfo[BaseException], style: Any = None) -> Any:
        """A file that is not a scenario gets its one message."""
        return _told(excinfo.value) or super().repr_failure(excinfo)


class ScenarioItem(pytest.Item):
    """One scenario in one setting on one driver."""

    def __init__(self, *, case: Case, **more: Any) -> None:
        super().__init__(**more)
        self.case = case
        scenario = case.scenario
        self._mark(scenario)
        self.extra_keyword_matches.update({case.driver.name, case.driver.generation, *scenario.markers})

    def _mark(self, scenario: Scenario) -> None:
        if scenario.issue:
            self.add_marker(pytest.mark.issue(name=scenario.issue))
        for row in scenario.rows:
            self.add_marker(pytest.mark.row(name=row))
        for invariant in dict.fromkeys(str(inv) for expect in scenario.expect for inv, _ in expect.violated):
            self.add_marker(pytest.mark.invariant(name=invariant))
        self.add_marker(pytest.mark.driver(name=self.case.driver.name))
        self.add_marker(pytest.mark.target(name=self.config.getoption("cgrace_target")))
        self.add_marker(pytest.mark.layout(name=self.case.setting.layout))
        for marker in scenario.markers:
            self.add_marker(marker)

    def setup(self) -> None:
        """Runs the case. What cannot be told is an error; what the machine cannot run at all is skipped, and counted."""
        from cgrace.harness.pytest_suite import failure, properties, suite_of
        from cgrace.harness.verdict import Outcome

        results = self._results()
        if all(result.unavailable for result in results):
            self.user_properties += [("outcome", _CANNOT), ("reason", results[0].error)]
            pytest.skip(f"{_CANNOT} here: {results[0].error}")
        self.user_properties += properties(results, suite_of(self.config).target)
        undecided = [r for r in results if r.judgement.outcome is Outcome.INCONCLUSIVE]
        if undecided and all(r in undecided or r.judgement.outcome.passes for r in results):
            raise ScenarioError(failure(undecided[0], results))

    def runtest(self) -> None:
        """Passes where every run came out as history (or --expect clean) says."""
        from cgrace.harness.pytest_suite import failure

        results = self._results()
        wrong = [r for r in results if not r.judgement.outcome.passes]
        if wrong:
            raise ScenarioError(failure(wrong[0], results))

    def _results(self) -> list[CaseResult]:
        """Of this item, its repetitions; whoever asks first has all selected items run that can run beside this one."""
        from cgrace.harness.pytest_suite import suite_of

        suite = suite_of(self.config)
        found = suite.results.get(self.case.id)
        return found if found is not None else suite.run(self.case, [item.case for item in self._beside()])

    def _beside(self) -> list[ScenarioItem]:
        """A worker of pytest-xdist that gets items one by one does not know which others it will get."""
        items = [item for item in self.session.items if isinstance(item, ScenarioItem)]
        of_file = [item for item in items if item.parent is self.parent]
        if hasattr(self.config, "workerinput"):
            return of_file if self.config.getoption("dist") in _WHOLE_FILES else [self]
        return of_file if self.config.getoption("cgrace_repeat") > 1 else items

    def repr_failure(self, excinfo: pytest.ExceptionInfo[BaseException], style: Any = None) -> Any:
        """The finding, as it stands."""
        return _told(excinfo.value) or super().repr_failure(excinfo)

    def reportinfo(self) -> tuple[Path, int | None, str]:
        """How pytest names it."""
        return self.path, 0, self.case.id


class Tally:
    """Counts what came of scenario items, in the process that reports; says so at the end, and keeps the run."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        self._outcomes: Counter[str] = Counter()
        self._reasons: Counter[str] = Counter()
        self._handed: list[str] = []
        self._folder: Path | None = None

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Once an item, at its setup: there it ran."""
        known = dict(report.user_properties)
        if report.when == "setup" and "outcome" in known and ("target" in known or known["outcome"] == _CANNOT):
            self._outcomes[str(known["outcome"])] += 1
            if known["outcome"] == _CANNOT:
                self._reasons[str(known["reason"])] += 1

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Any) -> None:
        """A worker of pytest-xdist has ended: what it handed over."""
        output = getattr(node, "workeroutput", {}).get("cgrace")
        self._handed += [output] if output else []

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """Keep the run; nothing run at all, though scenarios were chosen, is no success."""
        if hasattr(self._config, "workerinput") or not (self._outcomes or self._handed):
            return
        from cgrace.harness.pytest_suite import suite_of

        suite = suite_of(self._config)
        for output in self._handed:
            suite.take(output)
        self._folder = suite.save()
        if set(self._outcomes) == {_CANNOT} and session.exitstatus == pytest.ExitCode.OK:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        """One section: how many came out how, what could not run and why, and where the run is kept."""
        unfit = self._unfit()
        if not self._outcomes and not unfit:
            return
        terminalreporter.section("cgrace")
        if self._outcomes:
            told = ", ".join(f"{count} {outcome}" for outcome, count in sorted(self._outcomes.items()))
            terminalreporter.write_line(f"{self._outcomes.total()} cases: {told}")
        for reason, count in self._reasons.items():
            terminalreporter.write_line(f"not run: {count} cases: {' '.join(reason.split())}")
        for name, reason in unfit.items():
            terminalreporter.write_line(f"not run: {name}: {reason}")
        if self._folder is not None:
            terminalreporter.write_line(f"kept: cgrace report {self._folder}")

    def _unfit(self) -> dict[str, str]:
        import sys

        if "cgrace.harness.pytest_suite" not in sys.modules:  # no scenario was collected
            return {}
        from cgrace.harness.pytest_suite import suite_key

        suite = self._config.stash.get(suite_key, None)  # none where the options were wrong
        return suite.unfit if suite is not None else {}
