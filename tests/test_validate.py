"""What is said of two systemds' answers: changes by kind, whom they touch, and how baselines are kept and found."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import re
import sys
import xml.etree.ElementTree as ET
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from cgrace.harness import runner
from cgrace.harness.cli import main
from cgrace.harness.commands import common, suite, validate
from cgrace.harness.commands.validate_text import counts, verdict
from cgrace.harness.drivers.base import DriverSpec
from cgrace.harness.engine.ground import Ground
from cgrace.harness.errors import UsageError
from cgrace.harness.proc.run import Completed, run
from cgrace.harness.suite import Case
from cgrace.harness.targets import remote
from cgrace.harness.targets.registry import Facts, parse_target
from cgrace.harness.validate import baseline
from cgrace.harness.validate.baseline import (
    Baseline,
    UsersAnswer,
    decode,
    encode,
    find,
    leading_number,
    load,
    nearest_below,
    recorded,
    save,
    users_answers,
)
from cgrace.harness.validate.compare import How, compare, differences, touched
from cgrace.harness.validate.machine import MachineName, parse_machine
from cgrace.harness.validate.probe import Kind, Probe
from cgrace.harness.validate.probes import all_probes
from cgrace.harness.validate.stage import Stage, in_order, short

SCENARIOS = Path(__file__).resolve().parent.parent / "scenarios"
REFUSED = {"error": "S:UnitExists", "text": "Unit t-a.scope already exists."}


async def nothing(_stage: Stage) -> None:
    """A question that nobody asks."""


def probe(kind: Kind, **more: Any) -> Probe:
    """A probe called x.y that `today` relies on."""
    fields = {"relied_on": ("today",), **more}
    return Probe(id="x.y", question="?", kind=kind, source="unit.c", ask=nothing, **fields)


def answered(answer: Any, hierarchies: dict[str, list[str]] | None = None, **outcomes: str) -> Baseline:
    """A baseline with one answer."""
    return Baseline(
        name="x",
        systemd="257.1",
        version=257,
        layout="v1",
        runs_in="container-other",
        hierarchies=hierarchies or {"pids": ["pids"]},
        answers={"x.y": answer},
        outcomes=outcomes,
    )


@pytest.mark.parametrize(
    ("kind", "old", "new", "how", "safe"),
    [
        (Kind.CONTRACT, "done", "failed", How.BROKEN, False),
        (Kind.HABIT, "done", "failed", How.HABIT, False),
        (Kind.HABIT, REFUSED, "job", How.HABIT, False),
        (Kind.CONTRACT, REFUSED, {**REFUSED, "text": "another"}, How.WORDING, True),
        (Kind.CONTRACT, {"later": "D:PropertyReadOnly"}, {"later": "replied"}, How.EXTENDED, True),
        (Kind.CONTRACT, {"later": "replied"}, {"later": "D:PropertyReadOnly"}, How.BROKEN, False),
        (Kind.CONTRACT, ["done", REFUSED], ["done", {**REFUSED, "error": "D:InvalidArgs"}], How.HABIT, False),
        (Kind.CONTRACT, ["done", "replied"], ["done", REFUSED], How.BROKEN, False),
    ],
)
def test_kinds_of_change(kind: Kind, old: Any, new: Any, how: How, safe: bool) -> None:
    """A broken contract, a changed habit, what is known now, and mere wording are told apart; drivers count for the first two. By
    which name a call is refused is promised nowhere."""
    found = compare(answered(old), answered(new), [probe(kind)])
    assert [one.how for one in found.changes] == [how]
    assert found.safe is safe


def test_nobody_relies_on_it() -> None:
    """A change that no driver relies on is told, and is safe."""
    found = compare(answered(1), answered(2), [probe(Kind.HABIT, relied_on=())])
    assert len(found.changes) == 1 and found.safe


def test_other_hierarchies_are_not_compared() -> None:
    """An answer about cgroups says nothing beside one from a machine with other hierarchies; others do."""
    here, there = answered(1), answered(2, {"cpu,cpuacct": ["cpu", "cpuacct"]})
    assert set(compare(here, there, [probe(Kind.HABIT, tree=True)]).apart) == {"x.y"}
    assert compare(here, there, [probe(Kind.HABIT)]).apart == {}


def test_nothing_that_can_be_compared_is_no_verdict(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """Where all probes are about other hierarchies nobody is told to be safe: exit 2, and why."""
    paths = [tmp_path / "here.json", tmp_path / "there.json"]
    for path, one in zip(paths, (answered(1), answered(1, {"cpu,cpuacct": ["cpu", "cpuacct"]})), strict=True):
        baseline.write(
            dataclasses.replace(one, version=900, systemd="900"), path
        )  # of which no scenarios were recorded
    assert compare(answered(1), answered(1), []).empty
    assert main(["validate", str(paths[0]), "--against", str(paths[1])]) == 2
    assert "can be compared" in capsys.readouterr().err


def test_known_differences_are_set_aside() -> None:
    """A difference of the fake that stays is told with its reason, and is no change."""
    found = compare(answered(1), answered(2), [probe(Kind.HABIT)], known={"x.y": "why"})
    assert (found.changes, found.excused) == ((), {"x.y": "why"})


def test_outcomes_of_scenarios_count() -> None:
    """A scenario that comes out otherwise is not safe; one that only the other side ran is not compared."""
    old, new = answered(1, **{"a today": "nothing wrong", "b": "x"}), answered(1, **{"a today": "HANG"})
    found = compare(old, new, [probe(Kind.HABIT)])
    assert [one.case for one in found.outcomes] == ["a today"] and not found.safe


def test_what_a_users_systemd_answers_by_its_nature() -> None:
    """Beside a machine's own it is told as known, and only that answer at that place; between two users' it is a change."""
    users = [UsersAnswer(probe="x.y", place="1", answer="own", reason="by nature")]
    machine, own = answered(["a", ["b"]]), dataclasses.replace(answered(["a", "own"]), is_users=True)
    other = dataclasses.replace(answered(["c", "own"]), is_users=True)
    nested = dataclasses.replace(answered(["a", ["own"]]), is_users=True)
    x = [probe(Kind.HABIT)]
    for pair in ((machine, own), (own, machine)):
        found = compare(*pair, x, users=users)
        assert (found.changes, found.excused, found.safe) == ((), {"x.y": "by nature"}, True)
    found = compare(machine, other, x, users=users)
    assert [one.place for one in found.changes[0].differences] == ["0"] and found.excused and not found.safe
    assert not compare(machine, nested, x, users=users).excused
    assert not compare(machine, dataclasses.replace(own, is_users=False), x, users=users).excused
    assert not compare(own, dataclasses.replace(own, answers=machine.answers), x, users=users).excused


def test_every_answer_of_a_users_systemd_is_of_a_probe() -> None:
    """And a file of a user's answers says whose they are."""
    assert {one.probe for one in users_answers()} <= {one.id for one in all_probes()} and users_answers()
    own = dataclasses.replace(answered(1), is_users=True)
    assert decode(encode(own), "x").is_users and '"is_users"' not in encode(answered(1))


def test_places_of_differences() -> None:
    """As far down as both have the same shape; a list of words is told whole, as its order matters."""
    assert [one.place for one in differences([1, {"a": 1, "b": 2}], [1, {"a": 3, "b": 2}])] == ["1.a"]
    assert [one.place for one in differences(["a", "b"], ["b", "a"])] == [""]
    assert [one.old for one in differences(True, 1)] == [True]


def test_a_baseline_is_kept_and_read_as_it_was(tmp_path: Path) -> None:
    """What is written is read again, byte for byte the same the second time."""
    one = answered({"b": [1, "x"], "a": None}, **{"s today": "nothing wrong"})
    path = save(one, tmp_path)
    assert path.name == "257-v1.json"
    again = load(path)
    assert (again.answers, again.outcomes, again.hierarchies) == (one.answers, one.outcomes, one.hierarchies)
    text = path.read_bytes()
    assert save(again, tmp_path).read_bytes() == text


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"format": 2}', '{"format": 1, "systemd": "x"}', "\x00"])
def test_a_file_that_is_no_baseline(tmp_path: Path, text: str) -> None:
    """One clear message, whatever is in it."""
    path = tmp_path / "257-v1.json"
    path.write_text(text)
    with pytest.raises(UsageError):
        load(path)


def test_baselines_are_found() -> None:
    """By number, by number and layout; an unknown one is refused beside those that there are; what is no such name is None."""
    assert find("257") == load(recorded()["257-v1"])
    v2 = load(recorded()["257-v2"])
    assert find("257", v2) == find("257-v2") == v2
    assert find("container:trixie") is None
    with pytest.raises(UsageError, match="no baseline 1-v1"):
        find("1")


def test_the_nearest_older_one(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The newest that is older, in the same layout."""
    for version in (247, 252):
        one = answered(1)
        save(dataclasses.replace(one, version=version), tmp_path)
    monkeypatch.setattr(baseline, "FOLDER", tmp_path)
    news = [dataclasses.replace(answered(1), version=number) for number in (247, 252, 300)]
    assert [getattr(nearest_below(new), "version", None) for new in news] == [None, 247, 252]
    assert nearest_below(dataclasses.replace(news[2], layout="v2")) is None


def test_of_two_recordings_the_one_that_can_be_compared(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A container's and a virtual machine's are kept apart; a name without "-vm" means the one with the same hierarchies."""
    inside, whole = answered(1), dataclasses.replace(answered(2, {"unified": ["cpu"]}), runs_in="qemu")
    for one in (inside, whole):
        save(one, tmp_path)
    monkeypatch.setattr(baseline, "FOLDER", tmp_path)
    assert sorted(recorded()) == ["257-v1", "257-v1-vm"]
    found = [find("257"), find("257", whole), find("257-v1-vm"), nearest_below(dataclasses.replace(whole, version=300))]
    assert [one.answers["x.y"] for one in found if one is not None] == [1, 2, 2, 2]


def test_leading_numbers() -> None:
    """Every way in which versions have been written."""
    words = {"257.13-1~deb13u1": 257, "v256": 256, "systemd 208": 208, "239": 239, "nonsense": 0}
    assert {word: leading_number(word) for word in words} == words


def test_names_of_machines() -> None:
    """Kind, which, layout; what is none is refused."""
    assert parse_machine("container:trixie") == MachineName("container", "trixie", "")
    assert parse_machine("fake:219-rhel7.4:v2") == MachineName("fake", "219-rhel7.4", "v2")
    assert parse_machine("local").kind == "local"
    for text in ("", "fake", "fake:", "container", "nonsense:x", ":v1", "v1", "fake:nope", "fake:257x@qemu"):
        with pytest.raises(UsageError):
            parse_machine(text)


def test_probes_say_what_they_must() -> None:
    """Ids are one of a kind, contracts name their source, and patterns of scenarios mean scenarios that there are."""
    probes = all_probes()
    names = [str(path.relative_to(SCENARIOS).with_suffix("")) for path in SCENARIOS.rglob("*.toml")]
    assert len({one.id for one in probes}) == len(probes) >= 100
    for one in probes:
        assert one.source and one.question and (one.cites == one.source or "undocumented" in one.cites)
        for pattern in one.scenarios:
            assert touched(Probe(**{**{k: getattr(one, k) for k in one.__slots__}, "scenarios": (pattern,)}), names)


PAGE = re.compile(r"(org\.freedesktop\.systemd1|systemd\.[a-z-]+)\(5\)(, .+)?")
CODE = re.compile(r"[a-z0-9-]+\.c [a-z0-9_]+(, [a-z0-9_]+)*( \(until \d+\))?")


@pytest.mark.parametrize("one", all_probes(), ids=lambda one: str(one.id))
def test_a_probe_cites_what_it_must(one: Probe) -> None:
    """A contract names a man page of systemd; a habit the functions that make it so, and who relies on what no page says."""
    parts = one.source.split("; ")
    if one.kind is Kind.CONTRACT:
        assert all(PAGE.fullmatch(part) for part in parts) and one.cites == one.source
        return
    assert all(CODE.fullmatch(part) for part in parts)
    who = ", ".join(one.relied_on) or "no driver here"
    assert one.cites == f"{one.source}; undocumented, relied on by {who}"


def test_words_in_order() -> None:
    """Neighbours of one kind are sorted by unit, as their order is by chance; what a unit says keeps its order."""
    words = ["JobNew b", "JobNew a", "reply", "PC b 1", "PC a", "PC b 0"]
    assert in_order(words) == ["JobNew a", "JobNew b", "reply", "PC a", "PC b 1", "PC b 0"]
    assert short("org.freedesktop.systemd1.UnitExists") == "S:UnitExists"


def test_the_command_on_recorded_ones(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """Two recorded baselines, without root or a systemd: exit 1 as drivers rely on what changed; JSON and JUnit say the same."""
    junit, page = tmp_path / "junit.xml", tmp_path / "page.html"
    assert main(["validate", "257", "--against", "252", "--json", "--junit", str(junit), "--html", str(page)]) == 1
    told = json.loads(capsys.readouterr().out)
    changed = {one["probe"] for one in told["changes"] if one["drivers"]}
    failures = {case.get("name") for case in ET.parse(junit).iter("testcase") if case.find("failure") is not None}
    assert changed and changed <= failures and not told["passed"]
    assert all(name in page.read_text() for name in changed)
    assert main(["validate", "257", "--against", "257"]) == 0
    assert "safe for the drivers: nothing changed" in capsys.readouterr().out


def test_junit_as_ci_systems_read_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The counts of suites are those of their cases; each case has a name of its own, and one outcome; what was not compared is
    skipped, and each scenario's case is there, whether it changed or not."""
    path = tmp_path / "junit.xml"
    assert main(["validate", "257-v2-vm", "--against", str(recorded()["252-v2"]), "--junit", str(path), "--json"]) == 1
    told = json.loads(capsys.readouterr().out)
    root = ET.parse(path).getroot()
    suite = root[0]
    assert (root.tag, suite.tag, len(root)) == ("testsuites", "testsuite", 1)
    cases = list(suite)
    assert {case.tag for case in cases} == {"testcase"}
    assert len({(case.get("classname"), case.get("name")) for case in cases}) == len(cases)
    assert all(len({"failure", "error", "skipped"} & {part.tag for part in case}) <= 1 for case in cases)
    for one in (root, suite):
        assert one.get("tests") == str(len(cases)) and one.get("errors") == "0"
        for attribute, tag in (("failures", "failure"), ("skipped", "skipped")):
            assert one.get(attribute) == str(len(suite.findall(f"testcase/{tag}")))
    skipped = {case.get("name") for case in cases if case.find("skipped") is not None}
    assert skipped and skipped == set(told["not_compared"]) & set(told["answers"])
    assert set(told["compared_outcomes"]) <= {case.get("name") for case in cases}


def test_the_page(tmp_path: Path) -> None:
    """It says the verdict, the counts and what changed, marks what only one list has, and takes nothing from elsewhere."""
    page = tmp_path / "page.html"
    assert main(["validate", "257", "--against", "252", "--html", str(page)]) == 1
    text = page.read_text()
    assert "<p class='verdict bad'>Not safe for the drivers: " in text and "13 habits changed" in text
    assert "<del><code>" in text and "<ins><code>" in text and "<h2>What drivers rely on</h2>" in text
    assert not re.search(r"(src|href)=|url\(|@import|<script", text)
    opened = re.findall(r"<(table|tr|td|th|div|span|code|del|ins|details|ul|li)[ >]", text)
    closed = re.findall(r"</(table|tr|td|th|div|span|code|del|ins|details|ul|li)>", text)
    assert sorted(opened) == sorted(closed)
    assert main(["validate", "257", "--against", "257", "--html", str(page)]) == 0
    assert "<p class='verdict good'>Safe for the drivers: nothing changed.</p>" in page.read_text()


def test_no_driver_relies_on_a_broken_contract() -> None:
    """The last line and the exit code agree: it is safe for the drivers, and the count says that a contract is broken."""
    found = compare(answered("done"), answered("failed"), [probe(Kind.CONTRACT, relied_on=())])
    assert counts(found) == "0 answers are the same, 1 contract is broken (none that drivers rely on)"
    assert verdict(found).plain == "safe for the drivers: none of them relies on what changed" and found.safe
    found = compare(answered("done"), answered("failed"), [probe(Kind.CONTRACT)])
    assert verdict(found).plain == "not safe for the drivers: today relies on what changed" and not found.safe


def test_drivers_of_another_layout_are_not_touched() -> None:
    """The ladder does not drive cgroup v2: what changed there does not concern it."""
    one = probe(Kind.HABIT, relied_on=("rc4", "today"))
    sides = [dataclasses.replace(answered(value), layout="v2") for value in (1, 2)]
    assert [change.drivers for change in compare(*sides, [one]).changes] == [("today",)]
    assert [change.drivers for change in compare(answered(1), answered(2), [one]).changes] == [("rc4", "today")]


def test_a_step_of_a_bisection(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """0, 1, and 125 for what cannot be asked, which git skips; without anything to compare with it is no step."""
    saved = tmp_path / "good.json"
    assert main(["validate", "252", "--save", str(saved)]) == 0
    assert main(["validate", "252", "--against", str(saved), "--bisect"]) == 0
    assert main(["validate", "257", "--against", str(saved), "--bisect"]) == 1
    nothing = tmp_path / "tree"
    assert main(["validate", f"container:{nothing}", "--against", str(saved), "--bisect"]) == 125
    assert "git may skip this one" in capsys.readouterr().out
    assert main(["validate", "257", "--bisect"]) == 2


def test_what_is_asked_from_inside_is_told(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """Each probe as it is asked; of a machine that could not be asked to the end, which was the last."""
    code = "import sys; print('asks x.one\\nasks x.two\\nerror: lost', file=sys.stderr); sys.exit(sys.argv[1:] != ['well'])"

    class Inside:
        name = "vm:sid:v2"

        def __init__(self, *words: str) -> None:
            self.words = words

        async def python(self, _: Sequence[str], *, timeout_s: float, on_line: Callable[[str], None]) -> Completed:
            return await run([sys.executable, "-c", code, *self.words], timeout_s=timeout_s, on_line=on_line)

    def opened(*words: str) -> None:
        monkeypatch.setattr(remote, "open_machine", lambda *_, **__: contextlib.nullcontext(Inside(*words)))

    saved = tmp_path / "good.json"
    assert main(["validate", "252", "--save", str(saved)]) == 0
    opened()
    assert main(["validate", "vm:sid:v2", "--against", str(saved), "--probe", "exists.*"]) == 2
    said = capsys.readouterr().err
    assert "could not be asked: it ended with status 1" in said
    assert "asks x.two" in said and "error: lost" in said and "x.one" not in said
    opened("well")  # and then says nothing that could be read
    assert main(["validate", "vm:sid:v2", "--against", str(saved), "--probe", "exists.*"]) == 2
    monkeypatch.setattr(common, "PLAIN_EVERY", 1)
    assert main(["validate", "vm:sid:v2", "--against", str(saved), "--probe", "exists.*"]) == 2
    assert "2 of " in capsys.readouterr().err


@pytest.mark.parametrize(
    ("against", "said"),
    [
        ("999", "there is no baseline 999"),
        ("999-v1-vm", "there is no baseline 999-v1-vm"),
        ("257x", "'257x' is no machine to validate"),
        ("fake:nope", "there is no profile 'nope'"),
        ("missing.json", "missing.json: the baseline cannot be read"),
    ],
)
def test_what_there_is_not_is_said_first(against: str, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    """A systemd takes minutes to ask, so what it is to be compared with is looked for before."""
    assert main(["validate", "container:/nothing/here", "--against", against]) == 2
    assert said in capsys.readouterr().err


@pytest.mark.parametrize("name", ["container:trixie+/srv/tree", "container:/srv/root"])
def test_builds_are_not_recorded(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    """A version's baseline is what that version's release says."""
    assert main(["validate", name, "--record"]) == 2
    assert "--save" in capsys.readouterr().err


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["nonsense"],
        ["fake:nonsense"],
        ["257", "--probe", "nonsense"],
        ["container:trixie", "--record", "--probe", "x*"],
    ],
)
def test_bad_input(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """Exit 2 and one message, before anything is started."""
    assert main(["validate", *words]) == 2
    assert capsys.readouterr().err.startswith("cgrace: ")


def test_the_list_of_probes(capsys: pytest.CaptureFixture[str]) -> None:
    """Each with what it cites."""
    assert main(["validate", "--list", "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)["probes"]
    assert {one["id"] for one in listed} == {one.id for one in all_probes()}
    assert all(one["cites"] for one in listed)


@pytest.mark.parametrize(
    ("named", "some"),
    [([], {"today", "runc@1.0.0-rc94"}), (["fleet", "today"], {"today", "kubelet@1.37.2"}), (["today"], {"today"})],
)
def test_the_scenarios_drivers_can_be_chosen(monkeypatch: pytest.MonkeyPatch, named: list[str], some: set[str]) -> None:
    """One of each generation that knows the layout by default, else those that are named; what there is not is said at once."""
    taken: list[str] = []

    def plan(_: object, drivers: Sequence[DriverSpec], *, on: Ground) -> list[Case]:
        assert on.layouts == ("v2",)
        taken.extend(driver.name for driver in drivers)
        return []

    name = parse_target("container:trixie:v2")
    ground = Ground(Facts(name=name, version="257", systemd=257, layouts=("v1", "v2")), Path())
    monkeypatch.setattr(suite, "ground_of", lambda *_: ground)
    monkeypatch.setattr(runner, "plan", plan)
    asked = argparse.Namespace(driver=named, json=True)
    assert validate._run_scenarios(name.text, "v2", None, asked) == {}
    assert some <= set(taken) and "err-nil" not in taken and ("kubelet@1.37.2" in taken) == ("fleet" in named)
    assert main(["validate", "container:trixie", "--driver", "nosuch"]) == 2
