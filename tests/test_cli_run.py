"""`cgrace run` as people and CI use it; the engine is replaced, so that no driver runs."""

from __future__ import annotations

import dataclasses
import json
import signal
import xml.etree.ElementTree as ET
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from handmade import HANG, UNKNOWN

from cgrace.harness import cli, runner
from cgrace.harness.commands import select
from cgrace.harness.commands.common import scenarios_folder
from cgrace.harness.errors import DriverError, UsageError
from cgrace.harness.scenario.parse import load
from cgrace.harness.suite import Case, CaseResult
from cgrace.harness.verdict import Finding, Judgement, Outcome, judge

LOCK = "late_signal_lock"
COUNT = 3  # of runs with these drivers
DRIVERS = ["--driver", "err-nil", "--driver", "buffered", "--driver", "today"]


@pytest.fixture(autouse=True)
def _own_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test stores anything in the user's own folder, or tells GitHub."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.delenv("GITHUB_ACTIONS", raising=False)
    monkeypatch.setattr(signal, "signal", lambda *_: None)  # main() runs inside pytest here
    monkeypatch.chdir(tmp_path)


def engine(monkeypatch: pytest.MonkeyPatch, comes_out: Callable[[Case], CaseResult]) -> list[Case]:
    """Let each case come out so; gives what was run."""
    ran: list[Case] = []

    async def run_cases(cases: list[Case], *, admits: Any, on_result: Any, **_: object) -> list[CaseResult]:
        results = []
        for case in cases:
            if admits(case):
                ran.append(case)
                results.append(comes_out(case))
                on_result(results[-1])
        return results

    monkeypatch.setattr(runner, "run_cases", run_cases)
    return ran


def comes(case: Case, *findings: Finding, clean: bool = False, **more: Any) -> CaseResult:
    """A result of a case with these findings."""
    expected = [] if clean else case.scenario.expected(case.driver.generation, case.setting)
    judgement = judge(findings, [pair for e in expected for pair in e.violated])
    return CaseResult(case=case, judgement=judgement, wall_ns=30_000_000, canonical="c", **more)


def as_history_says(case: Case) -> CaseResult:
    """Hangs where history does."""
    return comes(case, HANG) if case.driver.generation == "err-nil" else comes(case)


def cannot(case: Case, *, unavailable: bool) -> CaseResult:
    """A case that could not run."""
    judgement = Judgement(outcome=Outcome.INCONCLUSIVE, findings=(), reasons=("no cgroup v1 here",))
    return CaseResult(case=case, judgement=judgement, error="no cgroup v1 here", unavailable=unavailable)


def run_json(capsys: pytest.CaptureFixture[str], *argv: str) -> tuple[int, dict[str, Any]]:
    """Exit code and document of `run`."""
    capsys.readouterr()
    status = cli.main(["run", *argv, "--json"])
    return status, json.loads(capsys.readouterr().out)


def test_the_ending_counts_and_tells_the_time(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A matrix of scenario by driver, what came out, and how much of the time was side by side."""
    engine(monkeypatch, as_history_says)
    assert cli.main(["run", LOCK, *DRIVERS]) == 0
    said = capsys.readouterr()
    assert "3 cases: 1 reproduced, 2 clean" in said.out
    assert "All as expected." in said.out
    assert "of cases in it, ratio " in said.out
    heads = next(line for line in said.out.splitlines() if line.startswith("row "))
    assert heads.split()[-3:] == ["err-nil", "buffered", "today"]
    assert "3 of 3" in said.err


@pytest.mark.parametrize(
    ("comes_out", "status"),
    [
        (lambda case: comes(case, HANG), 1),
        (comes, 1),
        (lambda case: comes(case, UNKNOWN) if case.driver.name == "today" else as_history_says(case), 2),
        (lambda case: comes(case, *([HANG] if case.driver.name != "today" else [UNKNOWN])), 1),
        (lambda case: cannot(case, unavailable=False) if case.driver.name == "today" else as_history_says(case), 2),
        (lambda case: cannot(case, unavailable=True) if case.driver.name == "today" else as_history_says(case), 0),
        (lambda case: cannot(case, unavailable=True), 2),
        (as_history_says, 0),
    ],
    ids=[
        "regressed",
        "vanished",
        "inconclusive",
        "regressed beside it",
        "could not",
        "one cannot",
        "none can",
        "passes",
    ],
)
def test_exit_codes(
    comes_out: Callable[[Case], CaseResult],
    status: int,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """1 for a verdict that differs; 2 for what cannot be told; what the machine cannot run fails only where nothing ran."""
    engine(monkeypatch, comes_out)
    got, document = run_json(capsys, LOCK, *DRIVERS)
    assert got == status
    assert document["passed"] is (status == 0)
    assert len(document["results"]) == COUNT


def test_what_cannot_run_is_listed_with_its_reason(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """On the console, in JSON, and in JUnit as the only kind of skip."""
    engine(
        monkeypatch,
        lambda case: cannot(case, unavailable=True) if case.driver.name == "today" else as_history_says(case),
    )
    assert cli.main(["run", LOCK, *DRIVERS, "--junit", str(tmp_path / "j.xml")]) == 0
    said = capsys.readouterr().out
    assert "1 cannot run here" in said
    assert f"runc_1780/{LOCK}[219-rhel7:v1]-today: no cgroup v1 here" in said
    assert "n/a" in said
    skipped = list(ET.parse(tmp_path / "j.xml").iter("skipped"))
    assert [one.get("message") for one in skipped] == ["no cgroup v1 here"]
    _, document = run_json(capsys, LOCK, *DRIVERS)
    assert document["counts"]["unavailable"] == 1


def test_a_repeated_inconclusive_run_is_counted(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Once more, then 2; and the count is shown also where the second run told."""
    engine(monkeypatch, lambda case: comes(case, UNKNOWN, repeated=True))
    got, document = run_json(capsys, LOCK, *DRIVERS)
    assert got == 2
    assert document["counts"]["repeated"] == COUNT
    engine(monkeypatch, lambda case: dataclasses.replace(as_history_says(case), repeated=True))
    assert cli.main(["run", LOCK, *DRIVERS]) == 0
    assert "3 repeated because the first run was inconclusive" in capsys.readouterr().out


def test_names_files_and_folders(tmp_path: Path) -> None:
    """What is there is a path; else it is a folder or a scenario that comes with cgrace."""
    mine = tmp_path / "mine.toml"
    mine.write_text((scenarios_folder() / "runc_1780" / f"{LOCK}.toml").read_text())
    named = [s.name for s in select.find_scenarios([str(mine), LOCK])]
    assert sorted(named) == sorted([f"{tmp_path.name}/mine", f"runc_1780/{LOCK}"])
    assert [s.name for s in select.find_scenarios(["1780"])] == [s.name for s in select.find_scenarios(["runc_1780"])]
    assert len(select.find_scenarios(["runc_1780", LOCK, f"runc_1780/{LOCK}"])) == len(select.find_scenarios(["1780"]))
    assert {s.name.partition("/")[0] for s in select.find_scenarios(["core"])} == {"core"}
    with pytest.raises(UsageError, match="no such scenario") as refused:
        select.find_scenarios(["late_signal_lok"])
    assert refused.value.hint == LOCK


def test_two_of_one_name_are_refused(tmp_path: Path) -> None:
    """Their traces could not be told apart."""
    for folder in ("a", "b"):
        (tmp_path / folder / "core").mkdir(parents=True)
        file = tmp_path / folder / "core" / "x.toml"
        file.write_text((scenarios_folder() / "runc_1780" / f"{LOCK}.toml").read_text())
    with pytest.raises(UsageError, match="two scenarios are called 'core/x'"):
        select.find_scenarios([str(tmp_path / "a"), str(tmp_path / "b")])


def test_shards_together_are_the_whole(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Each case is run by exactly one of three machines."""
    ran = engine(monkeypatch, as_history_says)
    for number in (1, 2, 3):
        _, document = run_json(capsys, "runc_1780", *DRIVERS, "--shard", f"{number}/3")
        assert document["shard"] == f"{number}/3"
    parts = [case.id for case in ran]
    ran.clear()
    run_json(capsys, "runc_1780", *DRIVERS)
    assert sorted(parts) == sorted(case.id for case in ran)


def test_a_time_budget_lists_what_was_not_run(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """In file order, counted, and 2; unless a violation makes it 1. What took too long last time does not begin."""

    def slow(case: Case) -> CaseResult:
        took = 3_000_000_000 if case.driver.name == "today" else 1
        return dataclasses.replace(as_history_says(case), wall_ns=took)

    engine(monkeypatch, slow)
    assert run_json(capsys, LOCK, *DRIVERS)[0] == 0
    got, document = run_json(capsys, LOCK, *DRIVERS, "--time-budget", "2s")
    assert got == 2
    assert [(one["case"].rpartition("-")[2], one["why"]) for one in document["not_run"]] == [
        ("today", "it did not fit into the time budget of 2s")
    ]
    assert document["counts"]["not_run"] == 1
    engine(monkeypatch, comes)
    assert run_json(capsys, LOCK, *DRIVERS)[0] == 1
    assert run_json(capsys, LOCK, *DRIVERS, "--time-budget", "1h")[0] == 1


def test_an_interrupted_run_keeps_what_it_has(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """Ctrl-C after the first case: its result and a report, the rest listed, and 130."""

    async def run_cases(cases: list[Case], *, admits: Any, on_result: Any, **_: object) -> list[CaseResult]:
        admits(cases[0])
        on_result(as_history_says(cases[0]))
        raise KeyboardInterrupt

    monkeypatch.setattr(runner, "run_cases", run_cases)
    got, document = run_json(capsys, LOCK, *DRIVERS, "--junit", str(tmp_path / "j.xml"))
    assert got == 130
    assert document["interrupted"] is True
    assert document["counts"]["results"] == 1
    assert {one["why"] for one in document["not_run"]} == {"interrupted"}
    assert len(list(ET.parse(tmp_path / "j.xml").iter("error"))) == COUNT - 1


def test_a_baseline_fails_only_on_what_is_new(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What both do is told and passes; what is new fails; what only the baseline does is fixed."""
    guilty = {"err-nil": (HANG,), "timeout": (HANG,)}

    def clean(case: Case) -> CaseResult:
        return comes(case, *guilty.get(case.driver.generation, ()), clean=True)

    engine(monkeypatch, clean)
    assert cli.main(["run", LOCK, "--driver", "err-nil", "--baseline", "timeout"]) == 0
    said = capsys.readouterr().out
    assert "1 case: 1 also in the baseline" in said
    assert "Nothing new against timeout" in said
    got, document = run_json(capsys, LOCK, "--driver", "err-nil", "--baseline", "today")
    assert got == 1
    assert [len(document["baseline"]["comparisons"][0][key]) for key in ("new", "same", "fixed")] == [1, 0, 0]
    assert cli.main(["run", LOCK, "--driver", "today", "--baseline", "err-nil"]) == 0
    assert "fixed since the baseline err-nil" in capsys.readouterr().out


@pytest.mark.parametrize(
    "argv",
    [
        ["--shard", "4/3"],
        ["--shard", "1/99"],
        ["--time-budget", "soon"],
        ["--baseline", "today"],
        ["--driver", "today", "--baseline", "today"],
        ["--driver", "today", "--baseline", "nobody"],
        ["--junit", "/no/such/folder/j.xml"],
        ["--junit", "/"],
        ["--all-drivers"],
    ],
)
def test_bad_wishes_run_nothing(
    argv: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """One message and 2, before anything is run or stored."""
    ran = engine(monkeypatch, as_history_says)
    assert cli.main(["run", LOCK, *argv]) == 2
    said = capsys.readouterr()
    assert said.err.startswith("cgrace: ")
    assert said.out == ""
    assert ran == []


def test_repetitions_are_compared_and_told_once(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """With --repeat every driver is repeated, and what came out the same is listed once."""
    ran = engine(monkeypatch, as_history_says)
    got, document = run_json(capsys, LOCK, *DRIVERS, "--repeat", "4")
    assert got == 0
    assert len(ran) == 4 * COUNT
    assert len(document["results"]) == COUNT
    assert {one["runs"] for one in document["repeats"]} == {4}


def test_repetitions_that_fail_are_told_once(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """A failing case is one line with k of N, though each run has numbers of its own; JUnit has every run."""

    def sometimes(case: Case) -> CaseResult:
        if case.driver.generation != "buffered" or case.turn % 2:
            return as_history_says(case)
        other = dataclasses.replace(HANG, summary=f"HANG of pid {case.turn}")
        return comes(case, other if case.turn < 4 else dataclasses.replace(HANG, subject="first"))

    engine(monkeypatch, sometimes)
    assert cli.main(["run", LOCK, *DRIVERS, "--repeat", "6", "--junit", str(tmp_path / "j.xml")]) == 1
    said = capsys.readouterr().out
    [head, *told] = said.partition("\nnot as expected:\n")[2].replace("\n", " ").split("  runc_1780/")
    assert head == "" and [line.split(": ")[1:3] for line in told] == [["2 of 6", "regressed"], ["1 of 6", "regressed"]]
    assert "3 cases, 18 runs: 6 reproduced, 9 clean, 3 regressed\n" in said
    assert "1 of 3 cases, 3 of 18 runs not as expected" in said
    root = ET.parse(tmp_path / "j.xml").getroot()
    assert (root.get("tests"), root.get("failures")) == ("18", "3")


def test_results_are_stored_for_report(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """`cgrace report last` has what `run` showed."""
    engine(monkeypatch, as_history_says)
    assert cli.main(["run", LOCK, *DRIVERS]) == 0
    capsys.readouterr()
    assert cli.main(["report", "last", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["command"] == "run"


def test_a_driver_that_does_not_build_is_one_message(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nothing ran: 2, and under GitHub an annotation beside it."""

    async def run_cases(*_: object, **__: object) -> list[CaseResult]:
        raise DriverError("it does not build", detail="x.go:1: no")

    monkeypatch.setattr(runner, "run_cases", run_cases)
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    assert cli.main(["run", LOCK]) == 2
    said = capsys.readouterr().err.splitlines()
    assert said[0] == "::error title=cgrace::it does not build"
    assert said[1] == "cgrace: it does not build"


def test_shipped_scenarios_have_names_of_their_own() -> None:
    """No two scenarios that come with cgrace share a name."""
    files = sorted(scenarios_folder().rglob("*.toml"))
    assert len({load(file).name for file in files}) == len(files)


def test_a_run_in_which_nothing_happened_is_told(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """`report last` of a clean run is no error, and what it does not have is named with what it has."""
    engine(monkeypatch, comes)
    assert cli.main(["run", LOCK, "--driver", "today"]) == 0
    capsys.readouterr()
    assert cli.main(["report", "last"]) == 0
    assert "nothing was violated in 1 cases" in capsys.readouterr().out
    assert cli.main(["report", "last", "--driver", "tody"]) == 2
    assert "its drivers today" in capsys.readouterr().err


def test_a_sweep_is_a_run_like_others(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """What it kept can be reported; where this machine can run none of it, it says so and does not pass."""
    results: list[CaseResult] = []

    async def run_cases(cases: list[Case], **_: object) -> list[CaseResult]:
        return results or [comes(case, clean=True) for case in cases]

    monkeypatch.setattr(runner, "run_cases", run_cases)
    swept = ["sweep", LOCK, "--late", "0..2s", "--driver", "today"]
    assert cli.main([*swept, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["command"] == "sweep"
    assert cli.main(["report", "last"]) == 0
    assert "nothing was violated" in capsys.readouterr().out
    assert cli.main([*swept, "--measure", "fake"]) == 2
    results[:] = [
        cannot(case, unavailable=True)
        for case in runner.plan(
            [load(scenarios_folder() / "runc_1780" / f"{LOCK}.toml")], select.pick_drivers(["today"])
        )
    ]
    assert cli.main(swept) == 2
    assert "no cgroup v1 here" in capsys.readouterr().err


def test_where_a_page_cannot_go_is_said_before_the_run(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A matrix takes minutes: a folder that is not there is told at once."""
    ran = engine(monkeypatch, comes)
    assert cli.main(["matrix", LOCK, "--driver", "today", "--html", "nowhere/page.html"]) == 2
    assert "the page cannot be written there" in capsys.readouterr().err
    assert not ran
