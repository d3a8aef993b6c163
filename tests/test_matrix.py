"""The table that can be published: its cells, what is open, its page."""

from __future__ import annotations

import dataclasses
import re
from html.parser import HTMLParser
from pathlib import Path

import handmade
import pytest
from handmade import HANG, UNKNOWN
from rich.console import Console

from cgrace.harness.commands.matrix import _today
from cgrace.harness.suite import CaseResult
from cgrace.harness.verdict import Invariant, Outcome
from cgrace.reports.matrix.cells import NO_LIMIT, cell_of
from cgrace.reports.matrix.console import shown
from cgrace.reports.matrix.page import page
from cgrace.reports.matrix.table import Matrix, matrix


def _named(result: CaseResult, name: str, release: str = "") -> CaseResult:
    driver = dataclasses.replace(result.case.driver, name=name, release=release)
    return dataclasses.replace(result, case=dataclasses.replace(result.case, driver=driver))


def _matrix(*results: CaseResult, today: tuple[str, ...] = ()) -> Matrix:
    return matrix([(result, cell_of(result, handmade.trace())) for result in results], today)


def test_a_cell_has_the_latency_and_the_bound() -> None:
    """What returned counts for the latency; a proved hang has no limit."""
    cell = cell_of(handmade.result("err-nil", HANG), handmade.trace())
    assert (cell.word, cell.bound, cell.worst_ns) == ("HANG", NO_LIMIT, 500_000_000)
    assert cell_of(handmade.result("buffered"), None).latency == "never"


def test_what_is_open_is_told_once_with_all_its_drivers() -> None:
    """One line a scenario and outcome; drivers of the past and those that are clean or undecided are not in it."""
    results = [
        _named(handmade.result("err-nil", HANG), "a"),
        _named(handmade.result("buffered", HANG), "b"),
        _named(handmade.result("buffered"), "c"),
        _named(handmade.result("buffered", UNKNOWN), "d"),
        _named(handmade.result("err-nil", HANG), "old"),
    ]
    found = _matrix(*results, today=("a", "b", "c", "d"))
    assert [(weak.drivers, weak.command) for weak in found.open] == [
        (("a", "b"), "cgrace run runc_1780/lock --driver a")
    ]
    assert found.counts == {
        Outcome.REPRODUCED: 2, Outcome.CLEAN: 1, Outcome.REGRESSED: 1, Outcome.VANISHED: 0, Outcome.INCONCLUSIVE: 1,
    }  # fmt: skip


def test_what_is_open_is_told_by_kind_and_the_gravest_first() -> None:
    """How long a wait was makes no weakness of its own; a hang comes before what is slow, and a scenario's stand together."""
    slow = [
        dataclasses.replace(HANG, invariant=Invariant.BOUNDED_LATENCY, short=f"SLOW {span}")
        for span in ("30s", "29.7s", "359.9s")
    ]
    other = dataclasses.replace(handmade.scenario(), name="corpus/other", file=Path("other.toml"))
    results = [
        _named(handmade.result("err-nil", slow[0], of=other), "a"),
        _named(handmade.result("err-nil", slow[1], of=other), "b"),
        _named(handmade.result("err-nil", slow[2], of=other), "c"),
        _named(handmade.result("err-nil", slow[0]), "a"),
        _named(handmade.result("err-nil", HANG), "b"),
    ]
    found = _matrix(*results, today=("a", "b", "c"))
    assert [(weak.scenario.name, weak.kind, weak.drivers) for weak in found.open] == [
        ("runc_1780/lock", "HANG", ("b",)),
        ("runc_1780/lock", "SLOW 30s", ("a",)),
        ("corpus/other", "SLOW 30s", ("a", "b")),
        ("corpus/other", "SLOW 360s", ("c",)),
    ]
    html = page(found, {}, {"corpus/other": "steps = []  # <one>\n"})
    assert html.count("<h3>") == 2
    assert "other.toml</summary><pre>steps = []  # &lt;one&gt;" in html


def test_today_is_the_newest_of_each_product() -> None:
    """Of releases the newest counts, builds with other parts do not; of runc what it links since 1.3 does."""
    results = [
        _named(handmade.result("buffered"), name, release)
        for name, release in (
            ("cgroups@0.0.9", "cgroups@0.0.9"),
            ("cgroups@0.0.10", "cgroups@0.0.10"),
            ("cgroups@0.1.0+go-systemd@22.7.0", "cgroups@0.1.0+go-systemd@22.7.0"),
            ("runc@1.2.6", "runc@1.2.6"),
            ("crun", "crun@1.8.1"),
            ("err-nil", ""),
        )
    ]
    assert set(_today(results)) == {"cgroups@0.0.10", "crun"}


class _Texts(HTMLParser):
    """Collects tags, to see that no text became one."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: set[str] = set()

    def handle_starttag(self, tag: str, _attributes: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)


@pytest.mark.parametrize(
    "evil", ["<script>alert(1)</script>", '"><img src=x onerror=alert(1)>', "&lt;b&gt;", "a\x1b[31m\nb"]
)
def test_the_page_needs_nothing_and_runs_nothing(evil: str) -> None:
    """Whatever a scenario calls itself stays a text; nothing is fetched."""
    scenario = dataclasses.replace(handmade.scenario(), title=evil, mechanism=evil, issue=evil)
    finding = dataclasses.replace(HANG, summary=evil)
    found = _matrix(_named(handmade.result("err-nil", finding, of=scenario), evil), today=(evil,))
    html = page(found, {"cgrace": evil}, {scenario.name: evil})
    parser = _Texts()
    parser.feed(html)
    assert not parser.tags & {"script", "img", "link", "iframe"}
    assert not re.search(r"https?://|\x1b", html)


def test_the_console_groups_drivers_by_outcome() -> None:
    """A scenario's outcomes stand below each other, each with its drivers."""
    console = Console(width=140)
    with console.capture() as captured:
        console.print(shown(_matrix(handmade.result("err-nil", HANG), handmade.result("buffered")), "page.html"))
    lines = captured.get().splitlines()
    assert next(line for line in lines if "HANG " in line and "err-nil" in line)
    assert "page.html" in captured.get()
