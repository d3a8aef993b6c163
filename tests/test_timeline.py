"""The page of a run, without a browser: what is in it, and what a hostile trace cannot do to it."""

from __future__ import annotations

import html.parser
import json
import re
import time
from pathlib import Path
from typing import Any

import pytest
from big_trace import big_trace
from checker_traces import call, called, closed, ended, gone, made, point, removed, reply, scenario, sent, start, trace

from cgrace.harness import events as ev
from cgrace.harness.checkers import check_all
from cgrace.harness.events import Actor, Direction, Grade
from cgrace.harness.faults import AnswerError, Drop, Hold, JobStays, Match
from cgrace.harness.trace import Head, Trace
from cgrace.harness.verdict import Finding, Invariant, Judgement, Outcome, Verdict, judge
from cgrace.reports.timeline import build
from cgrace.reports.timeline.bars import TRACKS_MAX, bars_of
from cgrace.reports.timeline.lanes import LANES_MAX, lanes_of
from cgrace.reports.timeline.page import page_data, sentences
from cgrace.reports.timeline.rows import by_time, rows_of, unit_of_path

LATE = Hold(
    id="late",
    match=Match(text="JobRemoved of late.slice", kind="signal", member="JobRemoved", unit="late.slice"),
    until=point("first ended"),
    patience_ns=None,
)
GATE = JobStays(id="gate", unit="late.slice", until=point("first ended"), patience_ns=None)
HELD = scenario(LATE, GATE)
CLEAN = Judgement(outcome=Outcome.CLEAN, findings=())
EVIL = "</script><script>x()</script><img src=x onerror=x()><!--&amp;\x1b[31m\u202e{{DATA}}\ud800"


def job(state: str, result: str = "") -> ev.Event:
    """A change of the one job."""
    return ev.JobChanged(job="/job/1", unit="late.slice", type="start", state=state, result=result)


def held() -> Trace:
    """A step whose signal is held until it has ended, while its job was blocked."""
    return trace(
        HELD, *start(), (3, called("first")), (4, call(1, "late.slice")), (4, sent(1)), (5, job("queued")), (5, job("blocked")),
        (6, reply(2, 1, "late.slice")), (6, sent(2)), (7, ev.StepWaits(step="first", bound_ns=10**9)),
        (8, made("/late.slice", hierarchy="pids")), (8, made("/late.slice", hierarchy="cpu")), (9, job("started")),
        (10, job("ended", "done")), (11, removed(3, "late.slice")),
        (11, ev.FaultFired(fault="late", grade=Grade.LEGAL, what="JobRemoved held", message=3)),
        (11, ev.MessageHeld(message=3, hold="late")), (20, ev.StepReturned(step="first")),
        (21, ev.HoldLetGo(hold="late", why="point", cause="first ended")), (22, sent(3)), (30, ended()),
    )  # fmt: skip


def rows(of: Trace, what: Any = HELD) -> list[Any]:
    """The rows of a trace."""
    return rows_of(by_time(of.entries), lanes_of(of.entries), what)


def bars(of: Trace, what: Any = HELD) -> dict[str, Any]:
    """The bars of a trace by their kind; the last one of each."""
    return {bar.kind: bar for bar in bars_of(of.entries, by_time(of.entries), lanes_of(of.entries), what)}


def data_of(page: str) -> dict[str, Any]:
    """What the page carries."""
    found = re.search(r'<script type="application/json" id="run">(.*?)</script>', page, re.DOTALL)
    assert found is not None
    data: dict[str, Any] = json.loads(found[1])
    return data


def test_every_event_is_in_one_row() -> None:
    """Rows are a partition of the events, and in order of time."""
    run = held()
    told = [index for row in rows(run) for index in row.events]
    assert sorted(told) == [entry.index for entry in run.entries]
    times = [run.entries[row.events[0]].t_ns for row in rows(run)]
    assert times == sorted(times)


def test_a_message_that_passes_is_one_row() -> None:
    """Arrival and departure of a message that nobody touched make one arrow from end to end."""
    row = next(row for row in rows(held()) if row.text.startswith("→ call StartTransientUnit"))
    assert len(row.events) == 2
    assert row.arrow is not None
    assert (row.arrow.source, row.arrow.target, row.arrow.kind, row.arrow.deed) == (0, 2, "call", "")


def test_a_held_message_says_by_what_and_until_when() -> None:
    """The arrow stops at the relay; its departure is a row of its own."""
    arrival = next(row for row in rows(held()) if "[held" in row.text)
    assert arrival.text.endswith("[held by late until first ended]")
    assert arrival.arrow is not None
    assert (arrival.arrow.source, arrival.arrow.target, arrival.arrow.deed) == (2, 1, "held")
    leaving = next(row for row in rows(held()) if "[sent on]" in row.text)
    assert leaving.arrow is not None
    assert (leaving.arrow.source, leaving.arrow.target, leaving.arrow.deed) == (1, 0, "let go")


@pytest.mark.parametrize(
    ("fault", "deed"),
    [
        (Drop(id="f", match=LATE.match), "dropped"),
        (AnswerError(id="f", match=LATE.match, name="a.b", text=""), "answered"),
    ],
)
def test_a_message_that_never_arrives_says_why(fault: Any, deed: str) -> None:
    """Dropped and answered are told apart by the scenario's fault."""
    fired = ev.FaultFired(fault="f", grade=Grade.IMPOSSIBLE, what="x", message=1)
    dropped = ev.MessageDropped(message=1, fault="f")
    run = trace(scenario(fault), *start(), (3, call(1, "late.slice")), (3, fired), (3, dropped))
    arrow = rows(run, scenario(fault))[-1].arrow
    assert (arrow.target, arrow.deed) == (1, deed)


def test_a_forged_message_comes_from_the_relay() -> None:
    """Nobody sent it, and the drawing says so."""
    forged = ev.MessageSeen(
        message=1, connection=1, direction=Direction.TO_DRIVER, kind="signal", member="JobRemoved", origin="fault"
    )
    arrow = rows(trace(HELD, *start(), (3, forged), (3, sent(1))))[-1].arrow
    assert (arrow.source, arrow.target, arrow.deed) == (1, 0, "forged")


def test_one_directory_in_many_hierarchies_is_one_row() -> None:
    """A row has a mark in each lane, and stops at another hand."""
    run = trace(
        HELD, (1, made("/a.slice", hierarchy="pids")), (1, made("/a.slice", hierarchy="cpu")),
        (2, made("/a.slice", by=Actor.SYSTEMD, hierarchy="devices")), (3, gone("/a.slice", hierarchy="pids")),
    )  # fmt: skip
    assert [(len(row.marks), row.marks[0].shape, row.marks[0].glyph) for row in rows(run)] == [
        (2, "driver", "made"),
        (1, "systemd", "made"),
        (1, "systemd", "removed"),
    ]


def test_bars_say_what_held_and_what_let_go() -> None:
    """A hold's bar has the order that held it, its end, and the event that the order waited for."""
    run = held()
    hold = bars(run)["hold"]
    assert "hold JobRemoved of late.slice until first ended" in hold.note
    assert hold.end == "late let go: point (first ended)"
    assert isinstance(run.entries[hold.cause].event, ev.StepReturned)
    assert isinstance(run.entries[hold.first].event, ev.MessageHeld)
    assert isinstance(run.entries[hold.last].event, ev.MessageSent)


def test_a_job_has_its_states_and_its_gate() -> None:
    """One bar a job, in the systemd lane."""
    bar = bars(held())["job"]
    assert [word for word, _ in bar.parts] == ["queued", "blocked", "started", "ended"]
    assert "kept by gate" in bar.note
    assert bar.end == "ended: done"


def test_a_wait_lies_within_its_step() -> None:
    """It ends with the driver's next sign of life."""
    found = bars(held())
    assert found["wait"].label == "waits, ≤ 1.0 s"
    assert found["step"].first < found["wait"].first < found["wait"].last <= found["step"].last


def test_a_driver_stopped_at_an_open_is_a_bar() -> None:
    """A call to the kernel that a fault keeps back lasts until the hold lets go."""
    opens = ev.DriverOpens(process="driver", hierarchy="pids", path="/a.slice", file="cgroup.procs", hold="stop")
    run = trace(HELD, *start(), (3, opens), (9, ev.HoldLetGo(hold="stop", why="point")))
    bar = bars(run)["hold"]
    assert (bar.label, bar.unit, bar.first, bar.last) == ("stopped: stop", "a.slice", 4, 5)


def test_what_never_ends_is_open() -> None:
    """A step without an end and a message without a departure reach to the end of the trace."""
    run = trace(
        HELD, *start(), (3, called("first")), (4, removed(1, "late.slice")), (4, ev.MessageHeld(message=1, hold="late"))
    )
    found = bars(run)
    assert found["step"].last == found["hold"].last == -1
    assert "not over" in found["step"].end


def test_bars_side_by_side_have_tracks() -> None:
    """Many at once share the last track rather than grow without bound."""
    events = [(n, called(f"s{n}", unit=f"u{n}.slice")) for n in range(TRACKS_MAX + 5)]
    found = bars_of(*[trace(HELD, *events).entries] * 2, lanes_of(trace(HELD, *events).entries), HELD)
    assert [bar.track for bar in found] == [0, 1, 2] + [TRACKS_MAX - 1] * 6


def test_lanes_are_bounded() -> None:
    """A trace that names a thousand hierarchies and drivers makes no page of lanes."""
    run = trace(
        HELD,
        *((n, made("/a", hierarchy=f"h{n}")) for n in range(1000)),
        *((n, ev.DriverReady(process=f"p{n}", ok=True)) for n in range(1000)),
    )
    lanes = lanes_of(run.entries)
    assert len(lanes.all) <= LANES_MAX + 2
    assert all(0 <= mark.lane < len(lanes.all) for row in rows(run) for mark in row.marks)


def test_the_hang_is_drawn_with_its_wait_graph() -> None:
    """A proved deadlock has a graph of who waits for whom, and its findings stand first."""
    dump = (
        "goroutine 7 [chan send]:\ngithub.com/coreos/go-systemd/dbus.(*Conn).jobComplete(0xc000126000, 0x1)\n"
        "\t/m/github.com/coreos/go-systemd@v1/dbus/methods.go:34 +0x1\n\n"
        "goroutine 9 [semacquire]:\nsync.runtime_SemacquireMutex(0xc000126010)\n\t/usr/lib/go/src/runtime/sema.go:71 +0x1\n"
        "sync.(*Mutex).Lock(0xc000126010)\n\t/usr/lib/go/src/sync/mutex.go:81 +0x1\n"
        "github.com/coreos/go-systemd/dbus.(*Conn).startJob(0xc000126000, 0xc0)\n"
        "\t/m/github.com/coreos/go-systemd@v1/dbus/methods.go:42 +0x1\n"
        "github.com/opencontainers/runc/libcontainer/cgroups/systemd.(*Manager).Apply(0xc1)\n"
        "\t/m/github.com/opencontainers/runc@v1/libcontainer/cgroups/systemd/apply.go:3 +0x1\n"
    )
    run = trace(
        HELD, *start(), (3, called("second")), (100, closed()), (101, ev.Stacks(process="driver", text=dump)),
        (102, ev.StepNever(step="second", why="proved")), (103, ended("proved")),
    )  # fmt: skip
    data = page_data(run, judge(check_all(run), []))
    assert data["findings"][0]["verdict"] == "violated"
    assert len(data["findings"][0]["sentences"]) == 3
    nodes = {node["id"]: node for node in data["graph"]["nodes"]}
    assert nodes[9]["heldBy"] == [7]
    assert nodes[7]["holds"] == ["jobListener"]


def test_an_explanation_is_three_sentences() -> None:
    """Also where what happened quotes something with a full stop."""
    assert sentences('"a.slice" failed: No. 3. It is wrong. Look there.') == [
        '"a.slice" failed: No. 3.',
        "It is wrong.",
        "Look there.",
    ]
    assert sentences("") == []


class Seen(html.parser.HTMLParser):
    """What an HTML parser makes of the page."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.addresses: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note an element."""
        self.tags.append(tag)
        self.addresses += [
            value or "" for name, value in attrs if name in ("src", "href", "action", "style") or name[:2] == "on"
        ]


def hostile() -> Trace:
    """Markup, escapes and lone surrogates wherever a trace has text."""
    run = trace(
        HELD, *start(), (3, called("first", unit=EVIL)), (4, call(1, EVIL)), (4, sent(1)), (5, made(f"/{EVIL}", hierarchy=EVIL)),
        (6, ev.DriverSaid(process="driver", text=EVIL)), (7, ev.Stacks(process=EVIL, text=EVIL)), (8, ended(EVIL)),
    )  # fmt: skip
    head = Head(
        scenario=scenario(issue="javascript:x()#1").to_data() | {"title": EVIL},
        driver={"name": EVIL, EVIL: EVIL},
        target=EVIL,
        profile=EVIL,
        layout=EVIL,
        versions={EVIL: EVIL},
        command=EVIL,
    )
    return Trace(head, run.entries)


def test_a_hostile_trace_is_inert() -> None:
    """It adds no element and no address to the page, and no character that a terminal or a text layout obeys."""
    finding = Finding(
        invariant=Invariant.NO_DEADLOCK,
        verdict=Verdict.VIOLATED,
        summary=EVIL,
        explanation=EVIL,
        evidence=(EVIL,),
        events=(10**9, -5),
    )
    seen, plain = Seen(), Seen()
    page = build(hostile(), Judgement(outcome=Outcome.REGRESSED, findings=(finding,), reasons=(EVIL,)))
    seen.feed(page)
    plain.feed(build(held(), CLEAN))
    assert seen.tags == plain.tags
    assert seen.addresses == plain.addresses == ["#view"]
    text = json.dumps(data_of(page), ensure_ascii=False)
    assert not re.search("[\x00-\x08\x0e-\x1f\x7f-\x9f\u202a-\u202e\ud800-\udfff]", text)
    assert "&" not in page[page.index('id="run">') : page.index("</script>", page.index('id="run">'))]
    assert data_of(page)["head"]["issueUrl"] == ""


def test_the_page_runs_only_its_own_script() -> None:
    """Its policy names one script and one style by their hashes and nothing else; no address of another host is in it."""
    page = build(held(), CLEAN)
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', page)
    assert policy is not None
    assert "default-src 'none'" in policy[1]
    assert policy[1].count("sha256-") == 2
    assert "unsafe" not in policy[1]
    assert not re.search(r"""(?:src|href)=["']?https?:""", page)
    assert set(re.findall(r"https?://[^\s\"'<>]+", page)) == {"http://www.w3.org/2000/svg"}


def test_a_trace_without_a_scenario_still_has_a_page() -> None:
    """What cannot be read is said, and the events are shown."""
    run = held()
    page = build(Trace(Head(scenario={}, driver={}, target="", profile="", layout=""), run.entries), CLEAN)
    assert data_of(page)["head"]["title"] == "A run whose scenario cannot be read"
    assert len(data_of(page)["events"]) == len(run.entries)
    assert build(Trace(run.head, ()), CLEAN)


def test_a_hundred_thousand_events_are_made_in_time() -> None:
    """Made in under 5 s of this process's time, and under 20 MB."""
    run = big_trace()
    began = time.process_time()
    page = build(run, CLEAN)
    assert time.process_time() - began < 5
    assert len(run.entries) == 100_000
    assert len(page.encode()) < 20_000_000


def test_units_of_paths() -> None:
    """The innermost unit of a cgroup's path."""
    assert unit_of_path("/a.slice/a-b.slice/x") == "a-b.slice"
    assert unit_of_path("/") == ""


def test_all_assets_are_listed() -> None:
    """Every script and style beside the page is in it."""
    from cgrace.reports.timeline import page

    folder = Path(page.__file__).parent
    assert {file.name for file in folder.glob("*.js")} == set(page.SCRIPTS)
    assert {file.name for file in folder.glob("*.css")} == set(page.STYLES)


def test_fifty_thousand_events_are_judged_in_time() -> None:
    """A long trace by itself, which a report judges first, costs seconds and not its length squared."""
    run = big_trace(50_000)
    began = time.process_time()
    check_all(run)
    assert time.process_time() - began < 10
