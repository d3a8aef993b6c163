"""`cgrace explain` and the glossary: every word of the code is explained, in three sentences, and what nobody knows is refused."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import handmade
import pytest
from handmade import HANG

from cgrace.harness import cli
from cgrace.harness.checkers import explain as explanations
from cgrace.harness.commands.glossary import KINDS, glossary, look_up
from cgrace.harness.drivers.catalogue import CATALOGUE
from cgrace.harness.drivers.versions import all_released
from cgrace.harness.events import Grade
from cgrace.harness.scenario import words
from cgrace.harness.scenario.parse import load_tree
from cgrace.harness.scenario.schema import schema
from cgrace.harness.store import new_run
from cgrace.harness.verdict import Invariant, Outcome, Verdict
from cgrace.reports.links import issue_url
from cgrace.reports.machine import results_document

ROOT = Path(__file__).resolve().parent.parent
FAULTS = [rule["required"][0] for rule in schema()["properties"]["faults"]["items"]["oneOf"]]
CELLS = re.findall(
    r'short=f?"([A-Z?]+)', "\n".join(p.read_text(encoding="utf-8") for p in (ROOT / "harness/checkers").glob("*.py"))
)
POINTS = """called returned failed ended waits seen sent delivered queued blocked started fired
cgroup-made cgroup-removed process-moved driver-opens driver-ready""".split()  # noqa: SIM905
DESIGN = """scenario step driver shim generation target relay fault match grade point order late hold patience job-gate trace
witness checker finding expectation outcome profile UnitExists JobRemoved""".split()  # noqa: SIM905


@pytest.fixture(autouse=True)
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No run of anybody's is read."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))


def sentences(text: str) -> list[str]:
    """A text's sentences: each begins with a capital, a digit or a name in quotes and ends with a full stop."""
    return [part for part in re.split(r'(?<=[.?!])\s+(?=["`#A-Z0-9])', text.strip()) if part]


@pytest.mark.parametrize(
    "word",
    [
        *Invariant,
        *Outcome,
        *Verdict,
        *Grade,
        *CELLS,
        *FAULTS,
        *POINTS,
        *DESIGN,
        *words.GENERATIONS,
        "ERR",
        ".",
        "-",
        "n/a",
        "!",
    ],
)
def test_every_word_of_the_code_is_explained(word: str) -> None:
    """Whatever a scenario may say or a report shows has its entry."""
    assert look_up(str(word)) is not None


@pytest.mark.parametrize("word", list(glossary()))
def test_an_entry_is_three_sentences(word: str) -> None:
    """What it is, why it is so, what to look at; and what it refers to is there."""
    entry = glossary()[word]
    assert len(sentences(entry.text)) == 3, sentences(entry.text)
    assert entry.text.endswith(".")
    assert entry.kind in KINDS
    assert not entry.see or entry.see in glossary()
    assert not entry.issue or issue_url(entry.issue)


def test_generations_are_those_of_the_catalogue() -> None:
    """No generation is explained that no driver has."""
    explained = {entry.word for entry in glossary().values() if entry.kind == "generation"}
    assert explained == {spec.generation for spec in (*CATALOGUE, *all_released())} & set(words.GENERATIONS)


@pytest.mark.parametrize(
    "text",
    [
        explanations.hang('"second" (a.slice)', "apply", "startJob", "dbus/methods.go:42"),
        explanations.hang('"second" (a.slice)', "apply", "", ""),
        explanations.slow('"a" (a.slice)', 29_999_000_000, 500_000_000, waited_out=False),
        explanations.slow('"a" (a.slice)', 999_000_000, 500_000_000, waited_out=True),
        explanations.lost(
            '"a" (a.slice)', ("devices", "pids"), "systemd removed them 0.4 ms after the step had returned"
        ),
        explanations.lost('"a" (a.slice)', ("devices",), "the process was moved out of it"),
        explanations.leaked("unit", "a.slice", True),
        explanations.unfired("late", " (line 7)", "the timeline"),
        explanations.dead("driver", "ended with status 2", "its last words"),
    ],
)
def test_an_explanation_is_three_sentences(text: str) -> None:
    """What happened, why it is wrong, what to look at."""
    assert len(sentences(text)) == 3, sentences(text)
    assert sentences(text)[2].startswith("Look at")


@pytest.mark.parametrize(
    "path", sorted((ROOT / "scenarios").rglob("*.toml")), ids=lambda p: f"{p.parent.name}/{p.stem}"
)
def test_every_scenario_can_be_explained(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Title, mechanism, rows, steps, faults, and what is expected of each driver."""
    (scenario,) = load_tree(path)
    assert cli.main(["explain", scenario.name, "--json"]) == 0
    (told,) = json.loads(capsys.readouterr().out)["scenarios"]
    assert (told["title"], told["mechanism"], told["rows"]) == (scenario.title, scenario.mechanism, list(scenario.rows))
    assert len(told["steps"]) == len(scenario.steps)
    assert {one["driver"] for one in told["expected"]} >= {"today"} or scenario.drivers or scenario.rows
    assert cli.main(["explain", str(path)]) == 0
    assert scenario.title in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize(
    ("topic", "says"),
    [
        ("hang", "no deadlock: No operation waits"),
        ("SLOW 30s", "bounded latency"),
        ("HANG!", "HANG (cell)"),
        ("no-deadlock", "opencontainers/runc/issues/1780"),
        ("job gate", "ordered after one that is still starting"),
        ("7b", "runc_1780/late_signal_lock"),
        ("lost_signal", "today: violates bounded latency (first)"),
        ("core/failed_job", "an error of first is as good as success"),
    ],
)
def test_topics(topic: str, says: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Words however they are written, rows, scenarios."""
    assert cli.main(["explain", topic]) == 0
    assert says in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize(
    ("topic", "near"), [("hnag", "HANG"), ("lost_sginal", "lost_signal"), ("regresed", "regressed")]
)
def test_what_nobody_knows_is_refused(topic: str, near: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Exit 2, with what was probably meant."""
    assert cli.main(["explain", topic]) == 2
    assert near in capsys.readouterr().err
    assert cli.main(["explain", "xyzzy" * 100]) == 2
    assert "lists the words" in capsys.readouterr().err


def test_a_case_of_the_last_run(capsys: pytest.CaptureFixture[str]) -> None:
    """A finding is told with its explanation, its grade and its issue; a case without one by its outcome."""
    results = [handmade.result("buffered", HANG), handmade.result("today")]
    new_run().save(results_document("run", results, passed=False))
    assert cli.main(["explain", results[0].case.id]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert 'no deadlock violated: HANG of "second"' in said
    assert "Grade legal: A correct bus" in said
    assert "issues/1780" in said
    assert cli.main(["explain", results[1].case.id]) == 0
    assert "No violation was expected" in capsys.readouterr().out


def test_all_words(capsys: pytest.CaptureFixture[str]) -> None:
    """Without a topic every word, grouped, with its first sentence."""
    assert cli.main(["explain"]) == 0
    said = capsys.readouterr().out
    assert all(word in said for word in glossary())


@pytest.mark.parametrize(
    "words", [["reproduce", "1780", "--row", "1-4", "--row", "5b", "--row", "7"], ["run", "core"]], ids=" ".join
)
def test_findings_of_a_run_are_explained(words: list[str], tmp_path: Path) -> None:
    """Every violated finding of a real run says what happened, why it is wrong and what to look at, in three sentences."""
    if os.geteuid() != 0:
        pytest.skip("target fake takes root")
    drivers = ["--driver", "async", "--driver", "wait-forever", "--driver", "timeout", "--driver", "today"]
    argv = [sys.executable, "-m", "cgrace.harness.cli", *words, *drivers, "--store", str(tmp_path), "--json"]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    findings = [f for result in json.loads(done.stdout)["results"] for f in result["findings"]]
    violated = [f for f in findings if f["verdict"] == Verdict.VIOLATED]
    assert {f["invariant"] for f in violated} >= {"no deadlock", "no lost cgroups", "bounded latency"}
    for finding in violated:
        assert len(sentences(finding["explanation"])) == 3, finding
        assert look_up(finding["short"]) is not None, finding["short"]
