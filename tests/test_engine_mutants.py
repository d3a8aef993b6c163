"""The reference driver's bugs: each comes to the finding that it must, by itself and soon, and leaves nothing behind."""

from __future__ import annotations

from pathlib import Path

import pytest
from engine_kit import Ran, case, needs_root, run_all

from cgrace.fakes.driver.bugs import BUGS
from cgrace.harness import events as ev
from cgrace.harness.verdict import Finding, Invariant, Outcome, Verdict

pytestmark = [needs_root, pytest.mark.timeout(120)]

WORK = """
steps = [
  { id = "first", do = "apply", unit = "cgrace-a.slice" },
  { id = "place", do = "apply", unit = "cgrace-s.scope", pid = "box" },
  { id = "gone", do = "destroy", unit = "cgrace-a.slice" },
]
"""
NO_SIGNAL = """
patience = "400ms"
steps = [{ id = "first", do = "apply", unit = "cgrace-a.slice" }]
faults = [{ id = "lost", drop = "JobRemoved of cgrace-a.slice" }]
"""
# A run that only the backstop can end; it has to be longer than a driver needs to start on a busy machine.
ENDLESS = WORK + '\nwall = "5s"\n'

DEADLOCK, LOST, LEAKED = Invariant.NO_DEADLOCK, Invariant.NO_LOST_CGROUPS, Invariant.NOTHING_LEAKED
ALIVE = Invariant.DRIVER_ALIVE
BAD, UNKNOWN = Verdict.VIOLATED, Verdict.UNKNOWN

# By bug: the scenario; the invariant, subject and verdict of what must be found, a part of its summary; how the run ends.
Row = tuple[str, Invariant, str, Verdict, str, str]
FOUND: dict[str, Row] = {
    "waits-for-ever": (NO_SIGNAL, DEADLOCK, "first", BAD, "HANG", "proved"),
    "stale-timer": (NO_SIGNAL, DEADLOCK, "first", BAD, "HANG", "proved"),
    "ticks": (NO_SIGNAL, DEADLOCK, "first", UNKNOWN, "wakes by itself within", "bound"),
    "talks-to-others": (NO_SIGNAL, DEADLOCK, "first", UNKNOWN, "a socket whose other end is not ours", "open world"),
    "locks-over-wait": (WORK, DEADLOCK, "first", BAD, "HANG", "proved"),
    "never-reads": (WORK, DEADLOCK, "first", BAD, "HANG", "proved"),
    "half-a-message": (WORK, DEADLOCK, "first", BAD, "HANG", "proved"),
    "floods-bus": (ENDLESS, DEADLOCK, "first", UNKNOWN, "backstop", "bound"),
    "spins": (ENDLESS, DEADLOCK, "first", UNKNOWN, "backstop", "bound"),
    "leaks-child": (WORK, LEAKED, "", BAD, "started by driver", "complete"),
    "leaks-orphans": (WORK, LEAKED, "", BAD, "an orphan", "complete"),
    "leaks-unit": (WORK, LEAKED, "gone", BAD, "LEAK of unit after gone had returned: cgrace-a.slice", "complete"),
    "leaks-cgroup": (WORK, LEAKED, "gone", BAD, "freezer/cgrace.slice/cgrace-a.slice", "complete"),
    "false-path": (WORK, LOST, "first", BAD, "nobody ever made what it reported", "complete"),
    "lies-about-process": (WORK, LOST, "place", BAD, "nobody ever put its process there", "complete"),
    "babbles": (WORK, ALIVE, "driver", BAD, "this is not the protocol", "complete"),
    "endless-line": (WORK, ALIVE, "driver", BAD, "xxxx", "driver died"),
    "answers-twice": (WORK, ALIVE, "driver", BAD, '"id": "first"', "complete"),
    "answers-unknown": (WORK, ALIVE, "driver", BAD, '"id": "nobody"', "complete"),
    "closes-stdout": (WORK, ALIVE, "driver", BAD, "its stdout ended", "driver died"),
    "dies-by-signal": (WORK, ALIVE, "driver", BAD, "was killed by SIGSEGV", "driver died"),
    "dies-by-exit": (WORK, ALIVE, "driver", BAD, "ended with status 3", "driver died"),
    "dies-at-once": (WORK, ALIVE, "driver", BAD, "ended with status 7", "driver died"),
    "no-hello": (WORK, ALIVE, "driver", BAD, "no hello", "driver died"),
}
# These may be as they are: nothing that they do harms a run.
HARMLESS = ("floods-stderr", "ignores-sigterm")
# No invariant speaks of a step that fails; that a step failed unexpectedly is a reason of its own.
FAILS = {"garbage": "the bus"}  # is gone, or hung up: as it is found by who writes or by who waits


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Ran]:
    """Every bug run once, side by side; "" is the correct driver."""
    folder = tmp_path_factory.mktemp("mutants")
    texts = {"": WORK} | {bug: row[0] for bug, row in FOUND.items()}
    texts |= dict.fromkeys((*HARMLESS, *FAILS), WORK)
    cases = [case(folder, text, f"reference:{bug}" if bug else "reference") for bug, text in texts.items()]
    return dict(zip(texts, run_all(folder, cases), strict=True))


def test_every_bug_has_its_row() -> None:
    """A bug that nobody expects anything of tests nothing."""
    assert {*FOUND, *HARMLESS, *FAILS} == set(BUGS)


def violated(run: Ran) -> list[Finding]:
    """What was found wrong or could not be told, latency aside where the run was cut short."""
    return [f for f in run.judgement.findings if f.verdict is not Verdict.HOLDS]


def test_the_correct_driver_is_clean(ran: dict[str, Ran]) -> None:
    """Else no bug's finding would mean anything."""
    assert ran[""].judgement.outcome is Outcome.CLEAN, ran[""].judgement.reasons
    assert ran[""].end.why == "complete"


@pytest.mark.parametrize("bug", FOUND)
def test_each_bug_is_found(ran: dict[str, Ran], bug: str) -> None:
    """By its invariant, its verdict and its words; nothing else is held against it."""
    _, invariant, subject, verdict, words, end = FOUND[bug]
    run = ran[bug]
    finding = run.finding(invariant, subject)
    assert (finding.verdict, run.end.why) == (verdict, end), (finding.summary, run.end)
    assert words in finding.summary
    others = {f.invariant for f in violated(run)} - {invariant}
    assert others <= ({Invariant.BOUNDED_LATENCY} if verdict is UNKNOWN else set())
    assert run.judgement.outcome is (Outcome.INCONCLUSIVE if verdict is UNKNOWN else Outcome.REGRESSED)


@pytest.mark.parametrize("bug", HARMLESS)
def test_what_does_no_harm_is_clean(ran: dict[str, Ran], bug: str) -> None:
    """It is ended with SIGKILL whatever it does with SIGTERM; of a flood of words the start is kept."""
    assert ran[bug].judgement.outcome is Outcome.CLEAN, ran[bug].judgement.reasons
    assert len(ran[bug].of(ev.DriverSaid)) <= 10_001


@pytest.mark.parametrize("bug", FAILS)
def test_what_fails_is_told(ran: dict[str, Ran], bug: str) -> None:
    """The bus hangs up on garbage, as a bus does; the step's error says so, and the trace why."""
    run = ran[bug]
    assert run.judgement.outcome is Outcome.REGRESSED
    assert FAILS[bug] in run.error("first")
    assert any(event.by is ev.Actor.DRIVER and event.why for event in run.of(ev.Disconnected))


def test_no_run_waits_for_the_backstop_but_those_without_any_rest(ran: dict[str, Ran]) -> None:
    """A default of 30 s stands behind every run; only a driver that never rests may need it."""
    slow = {bug for bug, run in ran.items() if "backstop" in run.end.text}
    assert slow == {"floods-bus", "spins"}


def test_an_unknown_bug_is_refused_by_the_driver(tmp_path: Path) -> None:
    """The catalogue takes any name; the driver knows its bugs, and says which there are."""
    (run,) = run_all(tmp_path, [case(tmp_path, WORK, "reference:typo")])
    finding = run.finding(ALIVE)
    assert finding.verdict is BAD
    assert "is no bug" in finding.summary
