"""The command line: its grammar, exit codes, messages and stored runs; nothing here runs a driver."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import handmade
import pytest
from handmade import HANG

from cgrace import __version__
from cgrace.harness import cli
from cgrace.harness.commands import common, select, suite
from cgrace.harness.errors import DriverError, UsageError
from cgrace.harness.store import new_run
from cgrace.harness.suite import Case, CaseResult
from cgrace.harness.trace import encode_entry, encode_head
from cgrace.reports.machine import results_document

STATE = "XDG_STATE_HOME"


@pytest.fixture(autouse=True)
def _own_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test stores anything in the user's own folder."""
    monkeypatch.setenv(STATE, str(tmp_path / "state"))
    monkeypatch.setattr(signal, "signal", lambda *_: None)  # main() runs inside pytest here


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    """--version says the version and no more."""
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out == f"cgrace {__version__}\n"


@pytest.mark.parametrize(
    "argv",
    [
        [],
        ["nonsense"],
        ["reproduce"],
        ["reproduce", "1"],
        ["reproduce", "1780", "--row", "99z"],
        ["reproduce", "1780", "--driver", "err-nli"],
        ["reproduce", "1780", "--repeat", "0"],
        ["reproduce", "1780", "--repeat", "99999999999"],
        ["reproduce", "1780", "--jobs", "-1"],
        ["reproduce", "1780", "--target", "moon"],
        ["reproduce", "1780", "--expect", "luck"],
        ["reproduce", "../../etc"],
        ["run", "/no/such/file.toml"],
        ["scenario", "check", "/no/such/file.toml"],
        ["rejudge", "/no/such/trace.jsonl"],
        ["rejudge", "/dev/null"],
        ["report", "last"],
        ["report", "/no/such/run"],
        ["explain", "99z"],
    ],
)
def test_bad_input_is_one_message(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """What does not exist is exit 2 and one message on stderr, never a traceback and nothing on stdout."""
    assert cli.main(argv) == 2
    said = capsys.readouterr()
    assert said.err.startswith("cgrace: ")
    assert "Traceback" not in said.err
    assert len(said.err.splitlines()) <= 3
    assert said.out == ""


def test_near_misses_are_named(capsys: pytest.CaptureFixture[str]) -> None:
    """A mistyped row or driver is answered with what was probably meant."""
    cli.main(["reproduce", "1780", "--driver", "err-nli"])
    assert "err-nil" in capsys.readouterr().err
    cli.main(["reproduce", "1780", "--row", "7bb"])
    assert "7b" in capsys.readouterr().err


def test_a_bug_is_one_line_and_a_file(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """The last resort names the bug and where its traceback was written."""
    monkeypatch.setattr(cli, "_run", lambda _: 1 // 0)
    assert cli.main([]) == 2
    said = capsys.readouterr().err
    assert "a bug of cgrace: ZeroDivisionError" in said
    path = Path(said.split("the whole of it: ")[1].strip())
    assert "1 // 0" in path.read_text()
    path.unlink()


@pytest.mark.parametrize(
    ("error", "status", "text"),
    [
        (KeyboardInterrupt(), 130, "interrupted"),
        (DriverError("no compiler", hint="get one"), 2, "no compiler\n  try: get one"),
        (ExceptionGroup("tasks", [ExceptionGroup("inner", [DriverError("no compiler")])]), 2, "no compiler"),
        (BrokenPipeError(), 141, ""),
    ],
)
def test_what_escapes_has_its_exit_code(
    error: BaseException,
    status: int,
    text: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Interrupts, errors of ours in task groups, and a reader that went away."""

    def fail(_: object) -> int:
        raise error

    monkeypatch.setattr(cli, "_run", fail)
    monkeypatch.setattr(cli, "_silence", lambda: None)
    assert cli.main([]) == status
    said = capsys.readouterr().err
    assert text in said
    assert bool(said) == bool(text)


def test_rows_are_picked_by_name_and_by_range() -> None:
    """ "1" means the row "1-4" and "1-4" the rows 1 to 4; a name that is there means itself only."""
    ranged, single = handmade.scenario(("1-4", "7")), handmade.scenario(("1", "3", "7a"))
    assert select.pick_rows([ranged], ["1"]) == ("1-4",)
    assert select.pick_rows([single], ["1-4"]) == ("1", "3")
    assert select.pick_rows([ranged, single], ["7"]) == ("7",)
    with pytest.raises(UsageError):
        select.pick_rows([ranged], ["5"])


def test_the_story_keeps_its_order() -> None:
    """Scenarios come in the order of the story's rows, whatever their files are called."""
    rows = [scenario.rows[0] for scenario in select.pick_scenarios([select.story_folder("1780")])]
    assert rows[0].startswith("1")
    numbers = [int("".join(c for c in row[:2] if c.isdigit())) for row in rows if row[0].isdigit()]
    assert numbers == sorted(numbers)


def _as(result: CaseResult, cases: list[Case]) -> CaseResult:
    """The result of row 7b's case with the same driver, where it was asked for."""
    of = [c for c in cases if "7b" in c.scenario.rows and c.driver.name == result.case.driver.name]
    return dataclasses.replace(result, case=of[0])


def fake_runner(monkeypatch: pytest.MonkeyPatch, results: list[CaseResult]) -> list[Case]:
    """Let `reproduce` get these results; gives the cases that it asked for."""
    from cgrace.harness import runner

    asked: list[Case] = []

    async def run_cases(cases: list[Case], **more: object) -> list[CaseResult]:
        asked.extend(cases)
        found = [_as(r, cases) for _ in range(max(c.turn for c in cases) + 1) for r in results]
        for one in reversed(found):
            more["on_result"](one)  # type: ignore[operator]
        return found

    monkeypatch.setattr(runner, "run_cases", run_cases)
    return asked


def test_reproduce_shows_the_table_and_stores_the_run(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Table, findings and last line on stdout, progress on stderr; `report last` then has the evidence."""
    fake_runner(monkeypatch, [handmade.result("err-nil", HANG), handmade.result("buffered")])
    assert cli.main(["reproduce", "1780"]) == 0
    said = capsys.readouterr()
    assert "All rows as history says.  More: cgrace report last --row 7b" in said.out
    assert said.out.splitlines()[1].split()[-2:] == ["err-nil", "buffered"]
    assert cli.main(["report", "last", "--row", "7b"]) == 0
    assert capsys.readouterr().out.count("waits for jobListener") == 9


@pytest.mark.parametrize(
    ("results", "status"),
    [
        ([handmade.result("buffered", HANG)], 1),
        ([handmade.result("err-nil")], 1),
        ([handmade.result("buffered", handmade.UNKNOWN)], 2),
        ([dataclasses.replace(handmade.result("buffered", handmade.UNKNOWN), error="no cgroup")], 2),
        ([handmade.result("buffered")], 0),
    ],
)
def test_exit_codes_of_verdicts(
    results: list[CaseResult], status: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """1 where a verdict differed, 2 where it could not run or tell; and --json is one document on stdout, nothing else."""
    fake_runner(monkeypatch, results)
    assert cli.main(["reproduce", "1780", "--json"]) == status
    said = capsys.readouterr()
    assert json.loads(said.out)["passed"] is (status == 0)
    assert said.err == ""


def test_repeat_takes_the_guilty_and_counts(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """--repeat runs whom history blames, with a turn each, and says k of n."""
    asked = fake_runner(monkeypatch, [handmade.result("err-nil", HANG)])
    assert cli.main(["reproduce", "1780", "--row", "7b", "--repeat", "3"]) == 0
    assert "3 of 3" in capsys.readouterr().out
    assert {case.turn for case in asked} == {0, 1, 2}
    assert {case.driver.generation for case in asked} == {"timeout", "err-nil", "err-nil-delegate"}


def test_repeat_keeps_only_traces_that_tell_something(tmp_path: Path) -> None:
    """Of equal runs the first trace stays; a different one stays too."""
    collected = suite.Collected(progress=common.Progress(3, quiet=True), repeated=True)
    paths = [tmp_path / name for name in ("a", "b", "c")]
    for path, canonical in zip(paths, ("x", "x", "y"), strict=True):
        path.touch()
        collected.take(handmade.result("err-nil", HANG, trace=path, canonical=canonical))
    assert [path.exists() for path in paths] == [True, False, True]
    assert len(collected.kept) == 2


def test_report_tells_of_a_trace_that_is_cut_off(capsys: pytest.CaptureFixture[str]) -> None:
    """A truncated trace is named with file and line; the findings still show."""
    run = new_run()
    path = run.trace("x")
    trace = handmade.trace()
    whole = "\n".join([encode_head(trace.head), *(encode_entry(entry) for entry in trace.entries)])
    path.write_text(whole[:-20])
    run.save(results_document("reproduce", [handmade.result("err-nil", HANG, trace=path)], passed=True))
    assert cli.main(["report", "last"]) == 0
    said = capsys.readouterr().out
    assert f"{path}:8: " in said
    assert "HANG of" in said


@pytest.mark.parametrize("text", ["[]", "{}", '{"results": [{}]}', '{"results": 3}', "x"])
def test_report_refuses_what_it_did_not_write(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    """A results.json that was edited or cut is one message."""
    run = new_run()
    (run.folder / "results.json").write_text(text)
    assert cli.main(["report", "last"]) == 2
    assert "Traceback" not in capsys.readouterr().err


def test_explain_needs_no_run(capsys: pytest.CaptureFixture[str]) -> None:
    """Words of the table, and a row of the story."""
    assert cli.main(["explain", "HANG"]) == 0
    assert "deadlock" in capsys.readouterr().out
    assert cli.main(["explain", "7b"]) == 0
    assert "hold JobRemoved of" in capsys.readouterr().out


@pytest.mark.parametrize("argv", [["doctor"], ["drivers"], ["explain"], ["schema"], ["explain", "7b"]])
def test_json_is_one_document(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """Every command with --json prints one JSON document."""
    assert cli.main([*argv, "--json"]) in (0, 2)
    assert isinstance(json.loads(capsys.readouterr().out), dict)


def test_scenario_check_names_file_and_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A typo is a message with its place; good files are counted."""
    lines = (common.scenarios_folder() / "primers" / "delay.toml").read_text().splitlines()
    number = next(index for index, line in enumerate(lines, 1) if line.startswith("faults"))
    lines[number - 1] = lines[number - 1].replace("faults", "fautls")
    path = tmp_path / "typo.toml"
    path.write_text("\n".join(lines))
    assert cli.main(["scenario", "check", str(path)]) == 2
    assert f"{path}:{number}" in capsys.readouterr().err
    assert cli.main(["scenario", "check", "--json", str(path)]) == 2
    assert json.loads(capsys.readouterr().out)["errors"][0]["line"] == number


def start(*argv: str) -> subprocess.Popen[str]:
    """The command as a process of its own."""
    code = "import sys; from cgrace.harness.cli import main; sys.exit(main(sys.argv[1:]))"
    return subprocess.Popen(
        [sys.executable, "-c", code, *argv], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ
    )


def test_a_reader_that_goes_away_is_quiet() -> None:
    """`cgrace explain | head -0` says nothing on stderr."""
    process = start("explain")
    assert process.stdout is not None
    process.stdout.close()
    assert process.wait(20) in (0, 141)
    assert process.stderr is not None
    assert process.stderr.read() == ""
    process.stderr.close()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_signals_cancel_in_order(number: signal.Signals) -> None:
    """A run is cancelled, its cleanup runs, and the exit code is 130."""
    code = """
import asyncio, sys
from cgrace.harness import cli
from cgrace.harness.commands.common import run_async
async def work():
    print("up", flush=True)
    try:
        await asyncio.Event().wait()
    finally:
        print("cleaned", flush=True)
cli._run = lambda _: run_async(work())
sys.exit(cli.main([]))
"""
    with subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline() == "up\n"
        process.send_signal(number)
        assert process.stdout.read() == "cleaned\n"
        assert process.stderr.read() == "cgrace: interrupted\n"
        assert process.wait(20) == 130


def test_a_start_imports_nothing_heavy() -> None:
    """The first step must come soon: neither rich nor asyncio nor the bus codec is needed to print the version."""
    code = "import sys; from cgrace.harness import cli; cli.main(['--version']); print(sorted(sys.modules))"
    began = time.perf_counter()
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    took = time.perf_counter() - began
    assert not {"rich", "asyncio", "dbus_fast", "psutil", "pytest"} & set(said.split("'"))
    assert took < 5
