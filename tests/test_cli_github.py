"""What GitHub Actions is told: annotations, the step summary, and nothing anywhere else."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import handmade
import pytest
from handmade import HANG, UNKNOWN
from hypothesis import given
from hypothesis import strategies as st

from cgrace.harness.commands import ci
from cgrace.harness.errors import ScenarioError
from cgrace.harness.scenario.model import Scenario
from cgrace.harness.suite import NotRun, SuiteRun
from cgrace.harness.verdict import Finding, Invariant, Verdict
from cgrace.reports import github

HERE = Path("/home/me/project")


def lined() -> Scenario:
    """Row 7b with lines, as a parsed file has them."""
    plain = handmade.scenario()
    return dataclasses.replace(
        plain,
        file=HERE / "scenarios" / "lock.toml",
        steps=tuple(dataclasses.replace(step, line=10 + n) for n, step in enumerate(plain.steps)),
        faults=tuple(dataclasses.replace(fault, line=20) for fault in plain.faults),
        expect=tuple(dataclasses.replace(expect, line=30) for expect in plain.expect),
    )


UNFIRED = Finding(
    invariant=Invariant.EVERY_FAULT_FIRED, verdict=Verdict.VIOLATED, subject="late", summary="never acted"
)


@pytest.mark.parametrize(
    ("generation", "findings", "line"),
    [
        ("buffered", (HANG,), 11),
        ("buffered", (dataclasses.replace(HANG, subject="first"),), 10),
        ("buffered", (UNFIRED,), 20),
        ("err-nil", (), 30),
        ("buffered", (UNKNOWN,), 1),
    ],
)
def test_an_annotation_stands_where_one_should_look(generation: str, findings: tuple[Finding, ...], line: int) -> None:
    """At the step or the fault of the finding, at what was expected and did not show, or at the top."""
    result = handmade.result(generation, *findings, of=lined())
    [told] = github.annotate(SuiteRun(results=(result,)), HERE)
    assert told.startswith(f"::error file=scenarios/lock.toml,line={line},title=")


def test_passing_results_have_none() -> None:
    """Reproduced and clean say nothing; what was not run is one annotation for all."""
    clean = handmade.result("today")
    passed = (clean, handmade.result("err-nil", HANG), dataclasses.replace(clean, unavailable=True))
    assert github.annotate(SuiteRun(results=passed), HERE) == []
    [told] = github.annotate(SuiteRun(results=passed, not_run=(NotRun(case=clean.case, why="no time"),) * 3), HERE)
    assert told == "::error title=cgrace::3 not run: no time"


def test_what_is_elsewhere_keeps_its_path() -> None:
    """A scenario that is not in the repository is named by its whole path."""
    assert github.file_below(Path("/opt/s.toml"), HERE) == "/opt/s.toml"
    assert github.file_below(HERE / "a" / "s.toml", HERE) == "a/s.toml"


@given(st.text(alphabet=st.characters(), max_size=60))
def test_no_text_ends_its_command(text: str) -> None:
    """A command is one line whatever is in it, and properties end where they should."""
    told = github.command("error", text, file=text, line=1)
    assert len(told.split("\n")) == 1
    assert "\r" not in told
    properties, _, message = told.removeprefix("::error ").partition("::")
    assert properties.endswith(",line=1")
    assert properties.count(",") == 1
    unescaped = message.replace("%0D", "\r").replace("%0A", "\n").replace("%25", "%")
    assert unescaped == text


def test_many_are_bounded() -> None:
    """GitHub keeps fifty; the last line counts the rest. Repetitions that say the same are told once, whatever their pids."""
    hangs = [dataclasses.replace(HANG, summary=f"HANG {'x' * number} of {number}") for number in range(60)]
    wrong = tuple(handmade.result("buffered", hang, canonical=hang.summary) for hang in hangs)
    told = github.annotate(SuiteRun(results=wrong), HERE)
    assert len(told) == github.ANNOTATIONS_MAX + 1
    assert "10 more" in told[-1]
    assert len(github.annotate(SuiteRun(results=wrong[:1] * 9), HERE)) == 1


def test_the_summary_is_a_table_and_the_findings() -> None:
    """A row a scenario, a column a driver, and each finding that is not as expected, folded."""
    run = SuiteRun(results=(handmade.result("err-nil", HANG), handmade.result("buffered", HANG)), wall_ns=5_000_000)
    told = github.summary(run, "2 cases")
    assert "| | what happens | err\\-nil | buffered |" in told
    assert "| HANG | **HANG\\!** |" in told
    assert told.count("<details>") == told.count("</details>") == 1
    assert "goroutine 8 waits for jobListener" in told
    assert told.rstrip().endswith("ratio 2.0.")


def test_nothing_hostile_is_markup() -> None:
    """A title, a unit or a driver's words are neither tags nor cells, and end no block."""
    evil = "<script>alert(1)</script> | a\n\n| `x` ![](http://x) </pre></details>"
    scenario = dataclasses.replace(handmade.scenario(), title=evil, name=evil)
    run = SuiteRun(
        results=(handmade.result("buffered", dataclasses.replace(HANG, summary=evil, evidence=(evil,)), of=scenario),)
    )
    told = github.summary(run, evil)
    assert "<script" not in told
    assert "![](" not in told.partition("<details>")[0]
    assert told.count("</pre>") == 1
    rows = [line for line in told.partition("<details>")[0].splitlines() if line.startswith("| ")]
    assert {line.replace("\\|", "").count("|") for line in rows} == {4}
    block = told[told.index("<details>") : told.index("</details>")]
    assert "" not in block.splitlines()


def test_a_flood_fits() -> None:
    """GitHub takes no summary above its limit: ours stays below."""
    flood = dataclasses.replace(HANG, evidence=("x" * 100_000,))
    wrong = tuple(handmade.result("buffered", flood, canonical=str(number)) for number in range(40))
    assert len(github.summary(SuiteRun(results=wrong), "many").encode()) < 1024 * 1024


def test_only_on_github(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Elsewhere nothing is printed and no summary written, whatever else the environment says."""
    summary = tmp_path / "summary.md"
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(summary))
    run = SuiteRun(results=(handmade.result("buffered", HANG),))
    monkeypatch.delenv("GITHUB_ACTIONS", raising=False)
    ci.tell(run, as_json=False)
    with ci.quiet_commands(as_json=False):
        pass
    ci.tell_error(ScenarioError("wrong", file="a.toml", line=3))
    assert capsys.readouterr() == ("", "")
    assert not summary.exists()
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    ci.tell(run, as_json=True)
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith("::error file=")
    ci.tell(run, as_json=False)
    assert capsys.readouterr().out.startswith("::error file=")
    assert summary.read_text().count("## cgrace") == 2


def test_drivers_say_no_commands(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """While results are printed, commands are off, by a word that nobody can guess."""
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    with ci.quiet_commands(as_json=False):
        print("::set-env name=X::evil")
    first, evil, last = capsys.readouterr().out.splitlines()
    assert evil == "::set-env name=X::evil"
    assert last == f"::{first.removeprefix('::stop-commands::')}::"
    assert len(last) > 20


def test_a_wrong_scenario_is_annotated(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """A typo is shown at its line."""
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    monkeypatch.setenv("GITHUB_WORKSPACE", str(HERE))
    ci.tell_error(ScenarioError("wrong", file=HERE / "s" / "a.toml", line=3))
    assert capsys.readouterr().err == "::error file=s/a.toml,line=3,title=cgrace::wrong\n"
