"""The page of a run in real browsers: it draws itself, in time, obeys keys and mouse, and asks for nothing."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from big_trace import big_trace
from browser import Fox, Page, chromium, find_chromium, find_firefox, firefox
from test_timeline import CLEAN, held, hostile

from cgrace.harness.verdict import Finding, Invariant, Judgement, Outcome, Verdict
from cgrace.reports.timeline import build

# Of a finding the page shows these events; the last two are the message held and its hold's end.
FINDING = Finding(
    invariant=Invariant.NO_DEADLOCK,
    verdict=Verdict.VIOLATED,
    subject="first",
    summary="HANG of first",
    short="HANG",
    explanation="It hung. That is wrong. Look there.",
    events=(4, 18),
)
WRONG = Judgement(outcome=Outcome.REGRESSED, findings=(FINDING,), reasons=("not expected",))
SELF_TEST = {
    "markup": 0,
    "scripts": 2,
    "evidence": True,
    "zoom": True,
    "time": True,
    "unit": True,
    "probes": True,
    "keys": True,
}
pytestmark = pytest.mark.timeout(180)


@pytest.fixture(scope="module")
def page() -> Iterator[Page]:
    """One Chromium for all tests of this file."""
    if find_chromium() is None:
        pytest.skip("there is no Chromium on this machine")
    with chromium() as one:
        yield one


@pytest.fixture(scope="module")
def fox() -> Iterator[Fox]:
    """One Firefox for all tests of this file."""
    if find_firefox() is None:
        pytest.skip("there is no Firefox on this machine")
    with firefox() as one:
        yield one


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A small run, a hostile one and a big one, as pages."""
    folder = tmp_path_factory.mktemp("pages")
    big = Finding(invariant=Invariant.NO_LOST_CGROUPS, verdict=Verdict.VIOLATED, summary="LOST", events=(50_000,))
    made = {
        "held": build(held(), WRONG),
        "clean": build(held(), CLEAN),
        "hostile": build(hostile(), WRONG),
        "big": build(big_trace(), Judgement(outcome=Outcome.REGRESSED, findings=(big,))),
    }
    for name, text in made.items():
        (folder / f"{name}.html").write_text(text, encoding="utf-8")
    return {name: folder / f"{name}.html" for name in made}


def check(told: str) -> dict[str, Any]:
    """What the page found of itself is as it must be."""
    found: dict[str, Any] = json.loads(told)
    assert {name: found[name] for name in SELF_TEST} == SELF_TEST, found
    assert found["overflow"] <= 0, "the page is wider than its window"
    assert not [value for value in found.values() if str(value).startswith("failed")], found
    return found


@pytest.mark.parametrize("name", ["held", "clean", "hostile"])
@pytest.mark.parametrize("width", [360, 800, 1600])
def test_chromium_draws_every_run(page: Page, files: dict[str, Path], name: str, width: int) -> None:
    """Wide and narrow, without a complaint, without an address asked for, and the page's own test passes."""
    page.open(files[name], "#selftest", width=width)
    check(page.run("document.documentElement.dataset.selftest"))
    assert page.problems() == []
    assert page.requests() == []


def test_chromium_opens_a_big_run_in_time(page: Page, files: dict[str, Path]) -> None:
    """100,000 events: drawn in under 2 s, and few elements whatever is looked at."""
    page.open(files["big"], "#selftest")
    found = check(page.run("document.documentElement.dataset.selftest"))
    assert int(page.run("document.documentElement.dataset.ready")) < 2000
    assert found["events"] == 100_000
    assert found["all"] < 8000


@pytest.mark.parametrize("name", ["held", "hostile", "big"])
def test_firefox_draws_every_run(fox: Fox, files: dict[str, Path], name: str) -> None:
    """The same in the other browser."""
    fox.open(files[name], "#selftest")
    check(fox.run("document.documentElement.dataset.selftest"))
    assert int(fox.run("document.documentElement.dataset.ready")) < 2000


def test_evidence_is_a_click_away(page: Page, files: dict[str, Path]) -> None:
    """A finding's event shows itself, chosen and told of, when it is pressed."""
    page.open(files["held"], height=700)
    page.click(".chip")
    assert page.run("document.querySelector('.row.chosen .what').textContent").startswith("step first called")
    assert "step-called" in page.run("document.getElementById('details').textContent")
    assert "evidence" in page.run("document.getElementById('said').textContent")


def test_keys_do_what_the_legend_says(page: Page, files: dict[str, Path]) -> None:
    """Events, evidence, search, scale and table, without a mouse."""
    page.open(files["held"])
    page.run("document.getElementById('timeline').focus()")
    page.press("ArrowDown", "ArrowDown")
    first = page.run("document.querySelector('.row.chosen').dataset.row")
    page.press("j")
    assert int(page.run("document.querySelector('.row.chosen').dataset.row")) > int(first)
    page.press("/")
    assert page.run("document.activeElement.id") == "words"
    page.press(*"held", "Enter")
    assert "held by late" in page.run("document.querySelector('.row.chosen .what').textContent")
    page.press("Escape", "t")
    assert page.run("document.querySelectorAll('#table tbody tr').length") > 5
    page.press("t", "s")
    assert page.run("document.getElementById('scale').value") == "time"


def test_details_say_what_let_a_message_go(page: Page, files: dict[str, Path]) -> None:
    """The held message tells its order, its end, and the event that ended it."""
    page.open(files["held"], "#e17")
    text = page.run("document.getElementById('details').textContent")
    assert "hold JobRemoved of late.slice until first ended" in text
    assert "let go by" in text
    page.click("#details .jump")
    assert page.run("document.querySelector('.row.chosen') !== null")


def test_a_filter_leaves_one_unit(page: Page, files: dict[str, Path]) -> None:
    """Rows of other units go; evidence of that unit stays."""
    page.open(files["big"])
    page.run(
        "((unit) => { unit.value = 'pod000007.slice'; unit.dispatchEvent(new Event('change')) })"
        "(document.getElementById('unit'))"
    )
    assert int(page.run("document.getElementById('count').textContent.split(' ')[0]")) < 60


def test_every_control_has_a_name(page: Page, files: dict[str, Path]) -> None:
    """Buttons, fields and pictures say what they are to those who do not see them."""
    page.open(files["held"])
    tree = page.ask("Accessibility.getFullAXTree")["nodes"]
    roles = ("button", "textbox", "searchbox", "combobox", "checkbox", "link", "img")
    shown = [node for node in tree if not node["ignored"] and node["role"]["value"] in roles]
    assert len(shown) > 8
    assert [node for node in shown if not node.get("name", {}).get("value")] == []


def test_paper_has_the_whole_timeline(page: Page, files: dict[str, Path], tmp_path: Path) -> None:
    """Printing lays the rows out in blocks, and takes them away afterwards."""
    page.open(files["held"])
    page.printed(tmp_path / "page.pdf")
    assert (tmp_path / "page.pdf").read_bytes().startswith(b"%PDF")
    page.run("dispatchEvent(new Event('beforeprint'))")
    assert page.run("document.querySelectorAll('#printed .block .row').length") >= 15
    page.run("dispatchEvent(new Event('afterprint'))")
    assert page.run("document.getElementById('printed').childElementCount") == 0


def test_dark_and_light_differ_and_can_be_read(page: Page, files: dict[str, Path]) -> None:
    """Text and ground contrast by 4.5 at least (WCAG 1.4.3) in both, for every colour that text has."""
    script = """(() => {
      const style = getComputedStyle(document.documentElement);
      const light = (name) => {
        const hex = style.getPropertyValue(name).trim().slice(1);
        const part = (at) => parseInt(hex.slice(at, at + 2), 16) / 255;
        const line = (v) => v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4;
        return 0.2126 * line(part(0)) + 0.7152 * line(part(2)) + 0.0722 * line(part(4));
      };
      const ratio = (a, b) => (Math.max(light(a), light(b)) + 0.05) / (Math.min(light(a), light(b)) + 0.05);
      const texts = ['--ink', '--soft', '--driver', '--systemd', '--kernel', '--relay', '--bad', '--good'];
      return texts.map((name) => [name, ratio(name, '--ground')]);
    })()"""
    for dark in (False, True):
        page.open(files["held"], dark=dark)
        assert [(name, ratio) for name, ratio in page.run(script) if ratio < 4.5] == []
