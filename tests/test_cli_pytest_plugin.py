"""The pytest plugin, by running pytest on small folders; the engine is replaced, so that no driver runs."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import handmade
import pytest
from handmade import HANG

from cgrace.harness import runner
from cgrace.harness.commands.common import scenarios_folder
from cgrace.harness.errors import TargetError
from cgrace.harness.suite import Case, CaseResult
from cgrace.harness.verdict import Finding, judge

pytest_plugins = ["pytester"]


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
    """Items are named by setting and driver; a file's items run side by side, once."""
    batches = engine(monkeypatch)
    done = pytester.runpytest_inprocess("-v")
    done.assert_outcomes(passed=8)
    done.stdout.fnmatch_lines(["*lock.toml::?219-rhel7:v1?-err-nil PASSED*"])
    assert len(batches) == 1


@pytest.mark.parametrize(
    ("arguments", "drivers"),
    [
        (["-k", "buffered"], ["buffered"]),
        (["-m", "driver(name='today')"], ["today"]),
        (["-m", "row(name='7b') and driver(name='async')"], ["async"]),
        (["-m", "row(name='5a')"], []),
        (["--cgrace-driver", "rc6"], ["rc6"]),
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


def test_a_machine_that_cannot_skips(story: Path, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without root or cgroup v1 the items are skipped, with the reason and what would help."""

    async def refuse(*_: object, **__: object) -> list[CaseResult]:
        raise TargetError("no cgroup v1 here", hint="boot one")

    monkeypatch.setattr(runner, "run_cases", refuse)
    done = pytester.runpytest_inprocess("-rs")
    done.assert_outcomes(skipped=8)
    done.stdout.fnmatch_lines(["*no cgroup v1 here*"])


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
    pytester.runpytest_inprocess().assert_outcomes(passed=8)
    (pytester.path / "here.toml").write_text(text.split("\n", 1)[1])
    pytester.runpytest_inprocess().assert_outcomes()
    pytester.runpytest_inprocess("here.toml").assert_outcomes(passed=8)
