"""The pytest plugin: scenario files are test files, an item for each setting and driver.

Collected are *.toml files that say `#:schema ...cgrace...` in their first line, that lie below a folder called scenarios and look
like ours, or that were named on the command line. In anybody else's test run it does nothing: for every other file it looks at
no more than the name, and imports nothing.

All selected items of a file run side by side at the first of them; each then reports its own result. A failure is told as the
finding that made it, never as a traceback.
Items can be picked by -k (driver, generation) and -m: `row(name="7b")`, and so `issue`, `driver`, `layout`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from cgrace.harness.drivers.base import DriverSpec
    from cgrace.harness.store import StoredRun
    from cgrace.harness.suite import Case, CaseResult

_HEAD_BYTES = 8192
_SCHEMA = re.compile(r"^#:schema\b.*(cgrace|scenario\.schema\.json)")
_OURS = (re.compile(r"^title\s*=", re.M), re.compile(r"^(steps\s*=|\[\[steps\]\])", re.M))
_MARKERS = (
    "issue(name): the issue that a scenario is about",
    "row(name): a row of the story that a scenario serves",
    "driver(name): the driver that an item runs on",
    "layout(name): the cgroup layout that an item runs on, v1 or v2",
)


def pytest_addoption(parser: pytest.Parser) -> None:
    """--driver, --expect and --bus of the command line. The short names may be another plugin's: a conftest can add them by
    `add_options`."""
    add_options(parser, "--cgrace-driver", "--cgrace-expect", "--cgrace-bus")


def add_options(parser: pytest.Parser, driver: str, expect: str, bus: str) -> None:
    """Add the three options under these names."""
    group = parser.getgroup("cgrace", "cgrace: scenarios of cgroup drivers and systemd")
    how = "clean: without history's excuse"
    group.addoption(
        driver,
        action="append",
        dest="cgrace_driver",
        default=[],
        metavar="NAME",
        help="only this driver; also source:PATH",
    )
    buses = ["embedded", "dbus-daemon", "dbus-broker"]
    what = "what stands behind the relay: our own bus, or a real one for each run"
    group.addoption(bus, choices=buses, dest="cgrace_bus", default="embedded", help=what)
    group.addoption(expect, choices=["history", "clean"], dest="cgrace_expect", default="history", help=how)


def pytest_configure(config: pytest.Config) -> None:
    """Make the markers known."""
    for marker in _MARKERS:
        config.addinivalue_line("markers", marker)


def pytest_collect_file(file_path: Path, parent: pytest.Collector) -> ScenarioFile | None:
    """A scenario file, or None for everything else."""
    if file_path.suffix != ".toml":
        return None
    if parent.session.isinitpath(file_path) or _is_scenario(file_path):
        return ScenarioFile.from_parent(parent, path=file_path)
    return None


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


class ScenarioFile(pytest.File):
    """One scenario file. `results` are those of its items once the first has run."""

    results: dict[str, CaseResult] | None = None

    def collect(self) -> Iterator[pytest.Item]:
        """An item for each setting and driver that fits."""
        from cgrace.harness.runner import plan
        from cgrace.harness.scenario.parse import load

        scenario = load(self.path)
        for case in plan([scenario], _drivers(self.config)):
            yield ScenarioItem.from_parent(
                self, name=f"{case.id.partition('[')[1]}{case.id.partition('[')[2]}", case=case
            )

    def repr_failure(self, excinfo: pytest.ExceptionInfo[BaseException], style: Any = None) -> Any:
        """A file that is not a scenario gets its one message."""
        from cgrace.harness.errors import CgraceError

        if isinstance(excinfo.value, CgraceError):
            return str(excinfo.value)
        return super().repr_failure(excinfo)

    def result(self, case: Case) -> CaseResult:
        """The result of one case; runs all of this file's selected cases when the first is asked for."""
        if self.results is None:
            cases = [case] if hasattr(self.config, "workerinput") else self._selected()
            self.results = {r.case.id: r for r in _run(self.config, cases)}
        elif case.id not in self.results:  # pytest-xdist gave this worker one more
            self.results.update({r.case.id: r for r in _run(self.config, [case])})
        return self.results[case.id]

    def _selected(self) -> list[Case]:
        return [i.case for i in self.session.items if isinstance(i, ScenarioItem) and i.parent is self]


class ScenarioItem(pytest.Item):
    """One scenario in one setting on one driver."""

    def __init__(self, *, case: Case, **more: Any) -> None:
        super().__init__(**more)
        self.case = case
        scenario = case.scenario
        if scenario.issue:
            self.add_marker(pytest.mark.issue(name=scenario.issue))
        for row in scenario.rows:
            self.add_marker(pytest.mark.row(name=row))
        self.add_marker(pytest.mark.driver(name=case.driver.name))
        self.add_marker(pytest.mark.layout(name=case.setting.layout))
        self.extra_keyword_matches.update({case.driver.name, case.driver.generation, *scenario.markers})

    def runtest(self) -> None:
        """Passes where the outcome is what history (or --expect clean) says."""
        parent = self.parent
        assert isinstance(parent, ScenarioFile)
        result = parent.result(self.case)
        self.user_properties.append(("outcome", str(result.judgement.outcome)))
        if not result.judgement.outcome.passes:
            from cgrace.reports.console.blocks import result_lines
            from cgrace.reports.console.words import asked, what_systemd_did

            scenario = self.case.scenario
            lines = [scenario.title, *(f"asked    {asked(step)}" for step in scenario.steps)]
            lines += [f"systemd  made to {what_systemd_did(scenario)}", *result_lines(result)]
            lines += [f"trace    {result.trace}"] if result.trace is not None else []
            raise ScenarioError("\n".join(lines))

    def repr_failure(self, excinfo: pytest.ExceptionInfo[BaseException], style: Any = None) -> Any:
        """The finding, as it stands."""
        from cgrace.harness.errors import CgraceError

        if isinstance(excinfo.value, ScenarioError | CgraceError):
            return str(excinfo.value)
        return super().repr_failure(excinfo)

    def reportinfo(self) -> tuple[Path, int | None, str]:
        """How pytest names it."""
        return self.path, 0, self.case.id


_store_key: pytest.StashKey[StoredRun] = pytest.StashKey()
_drivers_key: pytest.StashKey[Sequence[DriverSpec]] = pytest.StashKey()


def _drivers(config: pytest.Config) -> Sequence[DriverSpec]:
    if _drivers_key not in config.stash:
        from cgrace.harness.commands.select import pick_drivers

        config.stash[_drivers_key] = pick_drivers(config.getoption("cgrace_driver"))
    return config.stash[_drivers_key]


def _run(config: pytest.Config, cases: Sequence[Case]) -> list[CaseResult]:
    """Build what is needed, run the cases side by side. A machine that cannot run them skips, and says what would help."""
    from cgrace.harness.commands.common import run_async
    from cgrace.harness.errors import TargetError
    from cgrace.harness.store import new_run

    if _store_key not in config.stash:
        config.stash[_store_key] = new_run()
    try:
        return run_async(
            _run_cases(
                cases,
                config.stash[_store_key].folder,
                clean=config.getoption("cgrace_expect") == "clean",
                bus=config.getoption("cgrace_bus"),
            )
        )
    except TargetError as error:
        pytest.skip(str(error))


async def _run_cases(cases: Sequence[Case], store: Path, *, clean: bool, bus: str) -> list[CaseResult]:
    from cgrace.harness import runner

    return await runner.run_cases(
        list(cases),
        jobs=runner.JOBS_DEFAULT,
        store=store,
        on_result=lambda _result: None,
        on_event=lambda _text: None,
        expect_clean=clean,
        bus=bus,
    )
