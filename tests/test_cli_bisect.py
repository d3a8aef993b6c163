"""`cgrace bisect-step`: its answers and codes, and a real `git bisect run` over a driver with a bug put in."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import handmade
import pytest
from handmade import HANG, UNKNOWN

from cgrace.harness import cli, runner
from cgrace.harness.commands import bisect
from cgrace.harness.commands.bisect import Answer, answer_of
from cgrace.harness.drivers.catalogue import CGROUPS, CGROUPS_VERSION
from cgrace.harness.drivers.gobuild import ENVIRONMENT, try_find_go
from cgrace.harness.errors import CgraceError, DriverError, TargetError, UsageError
from cgrace.harness.suite import CaseResult
from cgrace.harness.trace import encode_entry, encode_head
from cgrace.harness.verdict import Outcome

CLEAN, VIOLATED, SKIP = 0, 1, 125


@pytest.fixture(autouse=True)
def _own_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test stores anything in the user's own folder."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setattr(signal, "signal", lambda *_: None)


CLEAN_RUN = handmade.result("source")
HANGS = handmade.result("source", HANG)
UNDECIDED = handmade.result("source", UNKNOWN)
VANISHED = dataclasses.replace(
    CLEAN_RUN, judgement=dataclasses.replace(CLEAN_RUN.judgement, outcome=Outcome.VANISHED, reasons=("not seen",))
)
EXPECTED = handmade.result("err-nil", HANG)  # stands for what every driver does


@pytest.mark.parametrize(
    ("results", "answer"),
    [
        ([CLEAN_RUN, CLEAN_RUN], Answer.CLEAN),
        ([EXPECTED], Answer.CLEAN),
        ([CLEAN_RUN, HANGS], Answer.VIOLATED),
        ([UNDECIDED, HANGS], Answer.VIOLATED),
        ([CLEAN_RUN, UNDECIDED], Answer.CANNOT_TELL),
        ([VANISHED], Answer.CANNOT_TELL),
    ],
)
def test_answers(results: list[CaseResult], answer: Answer) -> None:
    """One violation is enough; clean is only what is so in every run."""
    found, why = answer_of(results)
    assert found is answer
    assert why


def test_a_driver_that_never_came_up_tells_nothing(tmp_path: Path) -> None:
    """It violates that it stays alive, but no step was called: that is not the bug that is looked for."""
    trace = handmade.trace()
    for name, entries in (("up", trace.entries), ("down", trace.entries[:1])):
        path = tmp_path / name
        path.write_text("\n".join([encode_head(trace.head), *map(encode_entry, entries)]) + "\n")
    assert answer_of([dataclasses.replace(HANGS, trace=tmp_path / "up")])[0] is Answer.VIOLATED
    assert answer_of([dataclasses.replace(HANGS, trace=tmp_path / "down")])[0] is Answer.CANNOT_TELL


@pytest.mark.parametrize(
    ("result", "plain", "fix"),
    [(CLEAN_RUN, CLEAN, VIOLATED), (HANGS, VIOLATED, CLEAN), (UNDECIDED, SKIP, SKIP)],
)
def test_codes_and_one_line(
    result: CaseResult,
    plain: int,
    fix: int,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """--find-fix swaps 0 and 1 and nothing else; the line says what and why."""
    monkeypatch.setattr(bisect, "_run", lambda _: [result])
    for more, status in (([], plain), (["--find-fix"], fix)):
        assert cli.main(["bisect-step", "x", "--driver", "source:.", *more]) == status
        said = capsys.readouterr()
        assert said.out.count("\n") == 1
        assert said.err == ""
    assert cli.main(["bisect-step", "x", "--driver", "source:.", "--json"]) == plain
    assert json.loads(capsys.readouterr().out)["exit"] == plain


@pytest.mark.parametrize(
    "error",
    [
        DriverError("the driver cannot be built", detail="# pkg\na.go:3:1: syntax error\nb.go:1: more"),
        TargetError("no cgroup v1 here"),
        UsageError("no such scenario"),
        CgraceError("two\nlines"),
    ],
)
def test_whatever_keeps_it_from_a_verdict_is_skipped(
    error: CgraceError, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """125 and one line, of a compiler's words the place."""

    def fail(_: object) -> list[CaseResult]:
        raise error

    monkeypatch.setattr(bisect, "_run", fail)
    assert cli.main(["bisect-step", "x", "--driver", "source:."]) == SKIP
    said = capsys.readouterr().out
    assert said.startswith("cgrace bisect-step: cannot tell: ")
    assert said.count("\n") == 1
    assert ("a.go:3:1: syntax error" in said) == isinstance(error, DriverError)


@pytest.mark.parametrize(
    "argv", [[], ["x"], ["x", "--driver"], ["x", "--driver", "today", "--bogus"], ["/no/such", "--driver", "today"]]
)
def test_git_never_takes_our_mistakes_for_a_verdict(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """A wrong command line is 125: 2 would be "bad" to git."""
    assert cli.main(["bisect-step", *argv]) == SKIP
    capsys.readouterr()


def test_a_bug_of_ours_is_skipped(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """So is what escapes."""
    monkeypatch.setattr(bisect, "_run", lambda _: 1 // 0)
    assert cli.main(["bisect-step", "x", "--driver", "source:."]) == SKIP
    Path(capsys.readouterr().err.split("the whole of it: ")[1].strip()).unlink()


def test_history_is_no_excuse(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """In a bisection even a driver of the ladder is judged as the user's own."""
    asked: list[str] = []

    async def run_cases(cases: list[object], **_: object) -> list[CaseResult]:
        asked.extend(case.driver.generation for case in cases)  # type: ignore[attr-defined]
        return [dataclasses.replace(CLEAN_RUN, case=case) for case in cases]  # type: ignore[arg-type]

    monkeypatch.setattr(runner, "run_cases", run_cases)
    assert cli.main(["bisect-step", "late_signal_lock", "--driver", "rc5"]) == CLEAN
    assert asked == ["source"]
    capsys.readouterr()


def git(folder: Path, *argv: str) -> str:
    """A git command in a repository of our own; its output."""
    env = {**os.environ, "GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_SYSTEM": os.devnull}
    named = ["-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "commit.gpgsign=false"]
    return subprocess.run(
        ["git", *named, *argv], cwd=folder, env=env, check=True, capture_output=True, text=True
    ).stdout


def put_bug_in(file: Path) -> None:
    """The wait of runc before #1781: one second, whatever comes then, on a channel without room."""
    text = file.read_text()
    begin = text.index("func startUnit(")
    end = text.index("\nfunc ", begin)
    body = text[begin:end]
    bad = body.replace("make(chan string, 1)", "make(chan string)").replace("30 * time.Second", "time.Second")
    bad = bad.replace('return errors.New("Timeout waiting for systemd to create " + unitName)', "return nil")
    assert bad.count("\n") == body.count("\n")
    assert bad != body
    file.write_text(text[:begin] + bad + text[end:])


@pytest.fixture
def history(tmp_path: Path) -> Path:
    """Today's driver in a repository: two good commits, one that does not build, a good one, the bug, and two after it."""
    tool = try_find_go()
    if tool is None or shutil.which("git") is None:
        pytest.skip("needs git and the Go tool")
    download = [str(tool.path), "mod", "download", "-json", f"{CGROUPS}@{CGROUPS_VERSION}"]
    env = {**os.environ, **ENVIRONMENT}
    done = subprocess.run(download, cwd=tmp_path, env=env, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        pytest.skip(f"{CGROUPS} cannot be downloaded")
    folder = tmp_path / "driver"
    shutil.copytree(json.loads(done.stdout)["Dir"], folder)
    for path in [folder, *folder.rglob("*")]:
        path.chmod(path.stat().st_mode | 0o200)
    file = folder / "systemd" / "common.go"
    good = file.read_text()
    git(folder, "init", "-q", "-b", "main")
    for number, message in enumerate(
        ["base", "words", "does not build", "builds again", "the bug", "more words", "tip"]
    ):
        if message == "does not build":
            file.write_text(good + "\nfunc {\n")
        elif message == "builds again":
            file.write_text(good)
        elif message == "the bug":
            put_bug_in(file)
        else:
            file.write_text(f"{file.read_text()}\n// {number}\n")
        git(folder, "add", "-A")
        git(folder, "commit", "-q", "-m", message)
    return folder


@pytest.mark.skipif(os.geteuid() != 0, reason="target fake takes root (cgroups, namespaces)")
@pytest.mark.timeout(300)
def test_git_bisect_finds_the_commit(history: Path, tmp_path: Path) -> None:
    """`git bisect run` names the commit that put the bug in, passes over what does not build, and leaves the tree clean."""
    code = "import sys; from cgrace.harness.cli import main; sys.exit(main(sys.argv[1:]))"
    step = tmp_path / "step"
    step.write_text(
        f"#!/bin/sh\nexec {sys.executable} -c '{code}' bisect-step late_signal_lock --driver source:. \"$@\"\n"
    )
    step.chmod(0o755)
    git(history, "bisect", "start", "main", "main~6")
    said = git(history, "bisect", "run", str(step))
    assert "is the first bad commit" in said
    assert git(history, "show", "-s", "--format=%s", "refs/bisect/bad").strip() == "the bug"
    assert 'violated: not expected: HANG of "second"' in said
    assert git(history, "status", "--porcelain") == ""
