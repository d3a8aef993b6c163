"""The console and machine reports, on results made by hand."""

from __future__ import annotations

import dataclasses
import io
import json
from types import ModuleType

import handmade
import pytest
from handmade import HANG, UNKNOWN
from rich.console import Console, RenderableType

from cgrace.harness import events, faults
from cgrace.harness.errors import CgraceError
from cgrace.harness.points import parse_point
from cgrace.harness.trace import Entry
from cgrace.reports import machine
from cgrace.reports.console import words
from cgrace.reports.console.blocks import blocks, closing, finding_lines
from cgrace.reports.console.matrix import cell, columns_of, matrix, repeats
from cgrace.reports.console.story import story
from cgrace.reports.console.timeline import ends, tell, timeline


def text(*renderables: RenderableType, width: int = 140) -> str:
    """What a console of that width shows, without colour."""
    out = io.StringIO()
    console = Console(file=out, width=width, color_system=None, markup=False, highlight=False)
    for renderable in renderables:
        console.print(renderable)
    return out.getvalue()


def kinds(module: ModuleType, base: type) -> list[type]:
    """Every class of a module below `base` but those that are only there for others to be below."""
    found = [kind for kind in vars(module).values() if isinstance(kind, type) and issubclass(kind, base)]
    return [kind for kind in found if not any(kind is not other and issubclass(other, kind) for other in found)]


ALL = [
    handmade.result("cgroupfs"),
    handmade.result("err-nil", HANG),
    handmade.result("buffered"),
    handmade.result("async", of=handmade.scenario(("10",), "runc_1780/ten")),
]


def test_the_matrix_reads_without_colour() -> None:
    """Rows by generations in ladder order, a dot for clean, a word for what history expects, a dash for no fit."""
    lines = text(matrix(ALL)).splitlines()
    assert lines[0].startswith("runc #1780 | fake systemd 219-rhel7, cgroup v1 | real drivers")
    assert lines[1].split()[-4:] == ["cgroupfs", "async", "err-nil", "buffered"]
    assert lines[2].split()[0] == "7b,12"
    assert lines[2].split()[-4:] == [".", "-", "HANG", "."]
    assert lines[3].split()[-4:] == ["-", ".", "-", "-"]


def test_titles_are_not_markup() -> None:
    """Square brackets of a scenario's title stay as they are."""
    assert "lock [of go-systemd]" in " ".join(text(matrix(ALL)).split())


@pytest.mark.parametrize(
    ("generation", "findings", "word"),
    [
        ("err-nil", (HANG,), "HANG"),
        ("err-nil", (), ".!"),
        ("buffered", (HANG,), "HANG!"),
        ("buffered", (UNKNOWN,), "?"),
        ("buffered", (), "."),
    ],
)
def test_cells(generation: str, findings: tuple[handmade.Finding, ...], word: str) -> None:
    """Each outcome has its own look; an unknown never looks like a pass."""
    assert cell(handmade.result(generation, *findings)) == word


def test_unknown_generations_come_last() -> None:
    """A column for what the ladder does not name."""
    assert columns_of([handmade.result("mine"), handmade.result("async")]) == ("async", "mine")


def test_a_block_tells_the_whole_row() -> None:
    """What was asked, what systemd was made to do, what the driver did, what that violated, and what history says."""
    shown = text(blocks(ALL, lambda _: "first returned after 1.0 s; second never returned"))
    assert "asked    first: apply late.slice, pid -1" in shown
    assert "made to hold JobRemoved of late.slice until first ended (legal)" in shown
    assert "err-nil: first returned after 1.0 s; second never returned" in shown
    assert 'no deadlock violated: HANG of "second" (other.slice), proved in 0.13 s; grade: legal' in shown
    assert "... 3 lines more" in shown
    assert "clean    cgroupfs, buffered" in shown
    assert shown.count("says the same") == 2


def test_a_row_that_differs_is_named() -> None:
    """A regression shows its finding, its reason, and that history says otherwise."""
    wrong = [handmade.result("buffered", HANG), handmade.result("err-nil", HANG)]
    shown = text(blocks(wrong), closing(wrong))
    assert "says otherwise of buffered" in shown
    assert "1 of 2 not as history says" in shown
    assert "regressed: not expected" in shown
    assert "All rows as history says." not in shown


def test_the_last_line_says_where_to_read_on() -> None:
    """All as history says, and the command that shows the evidence."""
    assert "All rows as history says.  More: cgrace report last --row 7b" in text(closing(ALL))
    assert "Nothing was run." in text(closing([]))


def test_repeats_count_verdicts_and_traces() -> None:
    """k of n, what came out how often, and how many different runs that was."""
    runs = [
        handmade.result("err-nil", HANG),
        handmade.result("err-nil", HANG),
        handmade.result("err-nil", canonical="d"),
    ]
    line = text(repeats(runs)).splitlines()[1]
    assert "2 of 3" in line
    assert "HANG x 2, .! x 1" in line
    assert line.split()[-1] == "2"


def test_the_matrix_fits_a_narrow_terminal() -> None:
    """At 80 columns no line is longer, and no driver's word is cut."""
    shown = text(matrix(ALL), width=80)
    assert max(map(len, shown.splitlines())) <= 80
    assert "HANG" in shown


def test_ends_of_steps() -> None:
    """One clause a step, with the time it took."""
    assert ends(handmade.trace()) == "first returned after 0.50 s; second never returned"


def test_the_timeline_hides_probes_and_marks_evidence() -> None:
    """What a driver asks before its hello is noise until it is asked for."""
    shown = timeline(handmade.trace(), frozenset([3]))
    assert not any("ListUnits" in line for line in shown)
    assert [line for line in shown if line.startswith(">")] == [">    3     750.00 ms  step first returned"]
    assert any("ListUnits" in line for line in timeline(handmade.trace(), probes=True))


def test_hierarchies_of_one_path_are_one_line() -> None:
    """A cgroup made in every hierarchy is told once, with its hierarchies; another path or hand is another line."""
    made = [
        events.CgroupMade(hierarchy=name, path=path, by=events.Actor.SYSTEMD)
        for path in ("/a.slice", "/b.slice")
        for name in ("cpu", "pids")
    ]
    trace = dataclasses.replace(handmade.trace(), entries=tuple(Entry(i, 0, event) for i, event in enumerate(made)))
    told = [line.split("ms  ")[1] for line in timeline(trace)]
    assert told == ["systemd makes /a.slice in cpu pids", "systemd makes /b.slice in cpu pids"]


def test_every_event_can_be_told() -> None:
    """No kind of event makes the timeline fail, whatever is in it."""
    samples = {"str": "x", "int": 1, "bool": True, "Actor": events.Actor.DRIVER, "Grade": events.Grade.LEGAL}
    samples |= {"Direction": events.Direction.TO_DRIVER, "int | None": None, "bool | None": False}
    for kind in kinds(events, events.Event):
        fields = {f.name: samples.get(str(f.type), ()) for f in dataclasses.fields(kind)}
        assert isinstance(tell(kind(**fields)), str)


def test_every_fault_has_words() -> None:
    """A new kind of fault needs a clause in words.py."""
    match = faults.Match(text="JobRemoved of a.slice", kind="signal", member="JobRemoved")
    samples = {
        "match": match,
        "when": parse_point("driver ready"),
        "until": parse_point("driver ready"),
        "values": ((0, 1),),
    }
    for kind in kinds(faults, faults.Fault):
        fields = {f.name: samples.get(f.name, "x") for f in dataclasses.fields(kind)}
        assert words.made_to(kind(**fields)) != "x", kind


def test_results_for_programs() -> None:
    """The document is JSON, says whether all passed, and gives findings back as they were."""
    document = machine.results_document("reproduce", ALL, passed=True)
    read = json.loads(json.dumps(document))
    assert read["passed"] is True
    assert [one["outcome"] for one in read["results"]] == ["clean", "reproduced", "clean", "clean"]
    assert machine.finding_of(read["results"][1]["findings"][0]) == HANG
    assert machine.results_document("run", [], passed=True)["passed"] is False


@pytest.mark.parametrize("data", [{}, {"invariant": "no such"}, {"invariant": 3}])
def test_a_hostile_finding_is_refused(data: dict[str, object]) -> None:
    """Stored findings are not trusted."""
    with pytest.raises(CgraceError):
        machine.finding_of(data)


def test_a_story_shows_all_evidence() -> None:
    """A stored result is told with every line of evidence and the whole timeline."""
    data = machine.result_data(handmade.result("err-nil", HANG))
    shown = text(story(data, (HANG,), handmade.trace()))
    assert shown.count("waits for jobListener") == 9
    assert "step second never ended: proved" in shown
    assert finding_lines(HANG)[0] in shown
