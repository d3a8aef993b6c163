"""The pytest plugin, by running pytest on small folders; the engine is replaced, so that no driver runs."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from xml.etree import ElementTree

import handmade
import pytest
from handmade import HANG, UNKNOWN

from cgrace.harness import runner
from cgrace.harness.commands.common import scenarios_folder
from cgrace.harness.errors import DriverError
from cgrace.harness.suite import Case, CaseResult
from cgrace.harness.verdict import Finding, Invariant, Judgement, Outcome, Verdict, judge

pytest_plugins = ["pytester"]

UNDECIDED = Judgement(outcome=Outcome.INCONCLUSIVE, findings=())
UNFIRED = Finding(
    invariant=Invariant.EVERY_FAULT_FIRED,
    verdict=Verdict.VIOLATED,
    subject="late",
    summary="the fault 'late' never acted",
)


@pytest.fixture
def story(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of somebody's with row 7b in it."""
    monkeypatch.setenv("XDG_STATE_HOME", str(pytester.path / "state"))
    folder = pytester.path / "scenarios"
    folder.mkdir()
    shutil.copy(scenarios_folder() / "runc_1780" / "late_signal_lock.toml", folder / "lock.toml")
    return folder


def engine(monkeypatch: pytest.MonkeyPatch, *findings: Finding, blamed: str = "") -> list[list[str]]:
    """Let every case come out clean, and one generation with these findings; gives what was run together."""
    batches: list[list[str]] = []

    async def run_cases(cases: list[Case], **_: object) -> list[CaseResult]:
        batches.append([case.driver.name for case in cases])
        return [
            CaseResult(case=case, judgement=judge(findings if case.driver.generation == blamed else (), ()))
            for case in cases
        ]

    monkeypatch.setattr(runner, "run_cases", run_cases)
    return batches


def test_an_item_for_each_driver_run_together(
    story: Path, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Items are named by driver and setting; all run side by side, once."""
    batches = engine(monkeypatch)
    done = pytester.runpytest_inprocess("-v")
    done.assert_outcomes(passed=9)
    done.stdout.fnmatch_lines(["*lock.toml::err-nil?219-rhel7:v1? PASSED*"])
    assert len(batches) == 1


@pytest.mark.parametrize(
    ("arguments", "drivers"),
    [
        (["-k", "buffered"], ["buffered"]),
        (["-m", "driver(name='today')"], ["today"]),
        (["-m", "row(name='7b') and driver(name='async')"], ["async"]),
        (["-m", "row(name='5a')"], []),
        (["--cgrace-driver", "rc6"], ["rc6"]),
        (["-m", "invariant(name='no deadlock') and driver(name='rc4')"], ["rc4"]),
        (["-m", "invariant(name='bounded latency')"], []),
        (["-m", "target(name='fake') and driver(name='rc4')"], ["rc4"]),
        (["-m", "issue(name='opencontainers/runc#1780') and driver(name='rc4')"], ["rc4"]),
        (["-m", "core"], []),
    ],
)
def test_items_can_be_picked(
    arguments: list[str],
    drivers: list[str],
    story: Path,
    pytester: pytest.Pytester,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """By keyword, by marker and by driver; only what was picked runs."""
    batches = engine(monkeypatch)
    pytester.runpytest_inprocess(*arguments)
    assert batches == ([drivers] if drivers else [])


def test_a_failure_is_the_finding(story: Path, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was asked, what systemd was made to do, the evidence: and no line of Python."""
    engine(monkeypatch, HANG, blamed="buffered")
    done = pytester.runpytest_inprocess("--cgrace-driver", "buffered")
    done.assert_outcomes(failed=1)
    shown = done.stdout.str()
    assert 'no deadlock violated: HANG of "second"' in shown
    assert "asked    first: apply cgrace-late.slice, pid -1" in shown
    assert "goroutine 8 waits for jobListener" in shown
    assert "Traceback" not in shown
    assert ".py:" not in shown


def test_a_wrong_file_is_one_message(story: Path, pytester: pytest.Pytester) -> None:
    """A scenario with a typo is a collection error that names file and line."""
    text = (story / "lock.toml").read_text().replace("faults = ", "fautls = ")
    (story / "lock.toml").write_text(text)
    done = pytester.runpytest_inprocess()
    done.assert_outcomes(errors=1)
    assert "lock.toml:" in done.stdout.str()
    assert "Traceback" not in done.stdout.str()
    assert "tomllib" not in done.stdout.str()


def unavailable(monkeypatch: pytest.MonkeyPatch, *layouts: str) -> None:
    """Let a machine have none of these layouts; what runs is clean."""

    async def run_cases(cases: list[Case], **_: object) -> list[CaseResult]:
        return [
            CaseResult(case=case, judgement=UNDECIDED, error="no such layout here\n  try: boot one", unavailable=True)
            if case.setting.layout in layouts
            else CaseResult(case=case, judgement=judge((), ()))
            for case in cases
        ]

    monkeypatch.setattr(runner, "run_cases", run_cases)


def test_what_a_machine_cannot_run_is_listed_and_counted(
    story: Path, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without cgroup v1 its items are skipped with the reason, counted in a section of their own, and the others pass."""
    unavailable(monkeypatch, "v1")
    shutil.copy(scenarios_folder() / "primers" / "delay.toml", story)
    done = pytester.runpytest_inprocess("--cgrace-driver", "today")
    done.assert_outcomes(skipped=2, passed=1)
    assert done.ret == pytest.ExitCode.OK
    done.stdout.fnmatch_lines(
        ["*= cgrace =*", "3 cases: 2 cannot run, 1 clean", "not run: 2 cases: no such layout*boot one"]
    )


def test_nothing_run_at_all_is_no_success(
    story: Path, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A machine that cannot run a single one of the chosen scenarios ends the session red."""
    unavailable(monkeypatch, "v1", "v2")
    done = pytester.runpytest_inprocess()
    done.assert_outcomes(skipped=9)
    assert done.ret == pytest.ExitCode.TESTS_FAILED


def test_what_no_driver_fits_is_listed(story: Path, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    """A scenario without an item says why it has none."""
    engine(monkeypatch)
    done = pytester.runpytest_inprocess("--cgrace-driver", "rc6@none", "--cgrace-driver", "today")
    assert "there is no driver 'rc6@none'" in done.stdout.str() + done.stderr.str()
    text = (
        (story / "lock.toml")
        .read_text()
        .replace('on = { profile = "219-rhel7" }', 'on = { profile = "257", layout = "v2" }')
    )
    (story / "lock.toml").write_text(text)
    done = pytester.runpytest_inprocess("--cgrace-driver", "buffered")
    done.stdout.fnmatch_lines(["not run: scenarios/lock: no driver of buffered fits 257 v2"])


def test_unknown_is_an_error(story: Path, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    """What cannot be told fails as an error, never as a skip; so does a fault that did not act."""
    engine(monkeypatch, UNKNOWN, blamed="buffered")
    done = pytester.runpytest_inprocess()
    done.assert_outcomes(passed=8, errors=1)
    done.stdout.fnmatch_lines(["*inconclusive: unknown: a descriptor is not accounted for*"])
    engine(monkeypatch, UNFIRED, blamed="buffered")
    done = pytester.runpytest_inprocess()
    done.assert_outcomes(passed=8, errors=1)


def test_a_driver_that_does_not_build_is_an_error_of_its_own(
    story: Path, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The items of the other drivers run all the same."""

    async def run_cases(cases: list[Case], **_: object) -> list[CaseResult]:
        if any(case.driver.name == "today" for case in cases):
            raise DriverError("today does not build", detail="main.go:7: undefined: x")
        return [CaseResult(case=case, judgement=judge((), ())) for case in cases]

    monkeypatch.setattr(runner, "run_cases", run_cases)
    done = pytester.runpytest_inprocess()
    done.assert_outcomes(passed=8, errors=1)
    done.stdout.fnmatch_lines(["*today does not build*"])
    assert "Traceback" not in done.stdout.str()


def test_two_scenarios_of_one_name(story: Path, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    """Results go by name, so the second file is refused and names the first; the first runs."""
    engine(monkeypatch)
    (second := pytester.path / "more" / "scenarios").mkdir(parents=True)
    shutil.copy(story / "lock.toml", second)
    done = pytester.runpytest_inprocess("--cgrace-driver", "today", "--continue-on-collection-errors")
    done.assert_outcomes(passed=1, errors=1)
    done.stdout.fnmatch_lines(["*two scenarios are called 'scenarios/lock': *"])


def test_vanished_fails(story: Path, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    """An expected violation that no longer shows fails: expectations are strict."""

    async def run_cases(cases: list[Case], **_: object) -> list[CaseResult]:
        return [CaseResult(case=case, judgement=judge((), [(Invariant.NO_DEADLOCK, "second")])) for case in cases]

    monkeypatch.setattr(runner, "run_cases", run_cases)
    done = pytester.runpytest_inprocess("--cgrace-driver", "err-nil")
    done.assert_outcomes(failed=1)
    done.stdout.fnmatch_lines(["*vanished: expected and not seen: no deadlock violated for second*"])


def test_repetitions_are_one_item(story: Path, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    """--repeat runs each case so often; one that differs fails the item, which says how many did not."""
    turns: list[int] = []

    async def run_cases(cases: list[Case], **_: object) -> list[CaseResult]:
        turns.extend(case.turn for case in cases)
        return [CaseResult(case=c, judgement=judge([HANG] if c.turn == 2 else [], ())) for c in cases]

    monkeypatch.setattr(runner, "run_cases", run_cases)
    done = pytester.runpytest_inprocess("--cgrace-driver", "today", "--cgrace-repeat", "3")
    done.assert_outcomes(failed=1)
    assert turns == [0, 1, 2]
    done.stdout.fnmatch_lines(["*2 of 3 runs were as expected*"])


def test_the_run_is_kept_where_it_was_asked(
    story: Path, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    """--store names the folder; the results there are what `cgrace report` reads."""
    engine(monkeypatch, HANG, blamed="today")
    pytester.runpytest_inprocess("--cgrace-store", "kept")
    (results,) = (pytester.path / "kept").glob("[0-9]*/results.json")
    document = json.loads(results.read_text())
    assert (document["command"], document["passed"], len(document["results"])) == ("pytest", False, 9)


def test_junit_carries_it(story: Path, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    """A JUnit report has the outcome, the driver, where it ran, and the finding with its grade."""
    engine(monkeypatch, HANG, blamed="today")
    pytester.runpytest_inprocess("--cgrace-driver", "today", "--junitxml", "junit.xml")
    (case,) = ElementTree.parse(pytester.path / "junit.xml").getroot().iter("testcase")
    assert case.get("name") == "today[219-rhel7:v1]"
    told = {p.get("name"): p.get("value") for p in case.iter("property")}
    assert (told["outcome"], told["driver"], told["target"]) == ("regressed", "today", "fake")
    assert (told["profile"], told["layout"], told["rows"]) == ("219-rhel7", "v1", "7b, 12, fix")
    assert told["violated"] == 'no deadlock: HANG of "second" (other.slice), proved in 0.13 s (grade: legal)'
    assert case.find("failure") is not None


def test_expect_clean_reaches_the_runner(
    story: Path, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    """--cgrace-expect clean is the runner's to apply."""
    seen: list[object] = []

    async def run_cases(cases: list[Case], *, expect_clean: bool, **_: object) -> list[CaseResult]:
        seen.append(expect_clean)
        return [dataclasses.replace(handmade.result("buffered"), case=case) for case in cases]

    monkeypatch.setattr(runner, "run_cases", run_cases)
    pytester.runpytest_inprocess("--cgrace-expect", "clean")
    assert seen == [True]


def test_other_toml_is_nobodys_business(pytester: pytest.Pytester) -> None:
    """TOML that is not ours is not collected, also below a folder called scenarios."""
    folder = pytester.path / "scenarios"
    folder.mkdir()
    (folder / "a.toml").write_text('title = "a play"\n')
    (folder / "b.toml").write_bytes(b"\xff\xfe\x00")
    (pytester.path / "pyproject.toml").write_text('[tool.x]\ntitle = "y"\nsteps = 3\n')
    assert pytester.runpytest_inprocess().ret == pytest.ExitCode.NO_TESTS_COLLECTED


def test_the_schema_line_makes_a_scenario(
    story: Path, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file that names our schema in its first line is one, wherever it lies; so is a file that was asked for."""
    engine(monkeypatch)
    text = (story / "lock.toml").read_text()
    assert text.startswith("#:schema ")
    (story / "lock.toml").unlink()
    (pytester.path / "here.toml").write_text(text)
    pytester.runpytest_inprocess().assert_outcomes(passed=9)
    (pytester.path / "here.toml").write_text(text.split("\n", 1)[1])
    pytester.runpytest_inprocess().assert_outcomes()
    pytester.runpytest_inprocess("here.toml").assert_outcomes(passed=9)
