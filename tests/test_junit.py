"""The JUnit report and the results' schema: every outcome, hostile texts, and the shape that readers expect."""

from __future__ import annotations

import dataclasses
import json
import xml.etree.ElementTree as ET
from pathlib import Path

import handmade
import pytest
from handmade import HANG, UNKNOWN
from hypothesis import given
from hypothesis import strategies as st
from test_scenario_shipped import valid

from cgrace.harness.baseline import compare
from cgrace.harness.suite import CaseResult, NotRun, SuiteRun
from cgrace.harness.verdict import Outcome
from cgrace.reports import results_schema
from cgrace.reports.junit import TEXT_MAX, junit_xml
from cgrace.reports.machine import repeats_data, result_data, results_document, run_data

# The shape of Jenkins' junit-10.xsd, as far as readers of it agree: children in any order, and attributes (required first).
SHAPE: dict[str, tuple[set[str], set[str], set[str]]] = {
    "testsuites": ({"testsuite"}, set(), {"name", "time", "tests", "failures", "errors", "disabled"}),
    "testsuite": (
        {"testsuite", "properties", "testcase", "system-out", "system-err"},
        {"name", "tests"},
        {"failures", "errors", "skipped", "time", "timestamp", "hostname", "id", "package", "file", "log", "url"},
    ),
    "testcase": (
        {"skipped", "error", "failure", "properties", "system-out", "system-err"},
        {"name"},
        {"classname", "time", "group"},
    ),
    "properties": ({"property"}, set(), set()),
    "property": (set(), {"name", "value"}, set()),
    "failure": (set(), set(), {"type", "message"}),
    "error": (set(), set(), {"type", "message"}),
    "skipped": (set(), set(), {"type", "message"}),
    "system-out": (set(), set(), set()),
}


def misshapen(element: ET.Element) -> list[str]:
    """What of the element and below is not in the shape."""
    children, required, optional = SHAPE[element.tag]
    wrong = [f"{element.tag} has {child.tag}" for child in element if child.tag not in children]
    wrong += [f"{element.tag} has no {name}" for name in required - set(element.keys())]
    wrong += [f"{element.tag} has {name}" for name in set(element.keys()) - required - optional]
    wrong += [
        f"{name} is no number"
        for name in ("tests", "failures", "errors", "skipped")
        if not element.get(name, "0").isdigit()
    ]
    return wrong + [text for child in element for text in misshapen(child)]


def could_not(result: CaseResult, *, unavailable: bool) -> CaseResult:
    """The case of a result, that could not be run."""
    judgement = dataclasses.replace(result.judgement, outcome=Outcome.INCONCLUSIVE, reasons=("no cgroup v1",))
    return dataclasses.replace(result, judgement=judgement, error="no cgroup v1", unavailable=unavailable)


def whole() -> SuiteRun:
    """A run with everything in it."""
    clean = handmade.result("today")
    return SuiteRun(
        results=(
            clean,
            handmade.result("err-nil", HANG, trace=Path("/runs/1/a.jsonl")),
            handmade.result("buffered", HANG),
            handmade.result("err-nil", of=handmade.scenario(name="core/other")),
            dataclasses.replace(handmade.result("rc4", UNKNOWN), repeated=True),
            could_not(handmade.result("rc5"), unavailable=False),
            could_not(handmade.result("rc6"), unavailable=True),
        ),
        not_run=(NotRun(case=dataclasses.replace(clean.case, turn=1), why="no time"),),
        wall_ns=10_000_000,
    )


def cases(text: str) -> dict[str, ET.Element]:
    """Test cases by class and name."""
    root = ET.fromstring(text.encode())
    assert misshapen(root) == []
    return {f"{case.get('classname')} {case.get('name')}": case for case in root.iter("testcase")}


def test_every_outcome_has_its_element() -> None:
    """Regressed and vanished fail, what cannot be told or was not run is an error, what the machine cannot is skipped."""
    found = {name: [child.tag for child in case][1:] for name, case in cases(junit_xml(whole())).items()}
    assert found == {
        "runc_1780/lock [219-rhel7:v1]-today": [],
        "runc_1780/lock [219-rhel7:v1]-err-nil": ["system-out"],
        "runc_1780/lock [219-rhel7:v1]-buffered": ["failure", "system-out"],
        "core/other [219-rhel7:v1]-err-nil": ["failure"],
        "runc_1780/lock [219-rhel7:v1]-rc4": ["error", "system-out"],
        "runc_1780/lock [219-rhel7:v1]-rc5": ["error"],
        "runc_1780/lock [219-rhel7:v1]-rc6": ["skipped"],
        "runc_1780/lock [219-rhel7:v1]-today #2": ["error"],
    }
    root = ET.fromstring(junit_xml(whole()).encode())
    assert [root.get(key) for key in ("tests", "failures", "errors")] == ["8", "2", "3"]
    assert sum(int(suite.get("skipped", 0)) for suite in root) == 1


def test_a_case_carries_what_it_is() -> None:
    """Issue, rows, driver, profile, layout and grade are properties; the finding is the failure's text."""
    found = cases(junit_xml(whole()))
    case = found["runc_1780/lock [219-rhel7:v1]-buffered"]
    told = {one.get("name"): one.get("value") for one in case.iter("property")}
    assert (
        told.items()
        >= {
            "issue": "opencontainers/runc#1780",
            "rows": "7b, 12",
            "driver": "buffered",
            "profile": "219-rhel7",
            "layout": "v1",
            "grade": "legal",
            "outcome": "regressed",
        }.items()
    )
    failure = case.find("failure")
    assert failure is not None
    assert failure.get("type") == "regressed"
    assert 'HANG of "second"' in (failure.get("message") or "")
    assert "asked    first: apply late.slice, pid -1" in (failure.text or "")
    assert "goroutine 8 waits for jobListener" in (case.findtext("system-out") or "")
    skipped = found["runc_1780/lock [219-rhel7:v1]-rc6"].find("skipped")
    assert skipped is not None
    assert skipped.get("message") == "no cgroup v1"


def test_a_baseline_is_told() -> None:
    """What the baseline does too does not fail, and is named; the baseline has no cases of its own."""
    mine, base = handmade.result("source", HANG), handmade.result("base", HANG)
    found = compare([mine, base], "base")
    run = SuiteRun(
        results=(found.results[0],),
        baseline="base",
        baseline_results=(found.results[1],),
        comparisons=tuple(found.comparisons),
    )
    [case] = cases(junit_xml(run)).values()
    assert case.find("failure") is None
    assert {one.get("value") for one in case.iter("property") if one.get("name") == "also in the baseline"} == {
        "no deadlock violated (second)"
    }


@given(st.text(alphabet=st.characters(), max_size=40))
def test_any_text_is_valid_xml(text: str) -> None:
    """Whatever a driver says, the file parses, and nothing of it becomes an element."""
    finding = dataclasses.replace(HANG, summary=text, evidence=(text, "</system-out>", "]]>"))
    run = SuiteRun(results=(handmade.result("buffered", finding), could_not(handmade.result("rc5"), unavailable=False)))
    assert len(cases(junit_xml(run))) == 2


def test_a_flood_is_bounded() -> None:
    """One element stays of a size that readers take."""
    finding = dataclasses.replace(HANG, evidence=("x" * TEXT_MAX * 3,))
    assert len(junit_xml(SuiteRun(results=(handmade.result("buffered", finding),)))) < 3 * TEXT_MAX


def test_an_empty_run_is_a_report() -> None:
    """Nothing run is a valid report of nothing."""
    root = ET.fromstring(junit_xml(SuiteRun(results=())).encode())
    assert root.get("tests") == "0"


def test_the_stored_schema_is_current() -> None:
    """The file beside the module is the one that it makes."""
    stored = Path(results_schema.__file__).with_name(results_schema.SCHEMA_NAME).read_text(encoding="utf-8")
    assert stored == results_schema.schema_text(), "run python -m cgrace.reports.results_schema"


def documents() -> list[dict[str, object]]:
    """One of each kind."""
    run = whole()
    found = compare([handmade.result("source", HANG), handmade.result("base")], "base")
    against = SuiteRun(results=tuple(found.results[:1]), baseline="base", comparisons=tuple(found.comparisons))
    return [
        run_data(run, run.all_results),
        run_data(run, run.all_results, shard="1/2") | {"repeats": repeats_data(run.results)},
        run_data(against, against.results),
        run_data(SuiteRun(results=()), ()),
        results_document("reproduce", run.results, passed=False),
        results_document("reproduce", run.results, passed=False) | {"repeats": repeats_data(run.results)},
    ]


@pytest.mark.parametrize("document", documents(), ids=lambda d: d["command"])
def test_documents_meet_the_schema(document: dict[str, object]) -> None:
    """What is written is what the schema says, field by field."""
    assert list(valid(json.loads(json.dumps(document)), results_schema.schema())) == []


def test_the_schema_knows_every_field() -> None:
    """A field more or less in a document is an error: the schema cannot fall behind."""
    [result, *_] = [result_data(result) for result in whole().results]
    rule = results_schema.schema()["properties"]["results"]["items"]
    assert set(result) == set(rule["properties"])
    assert list(valid({**result, "more": 1}, rule))
    assert list(valid({key: value for key, value in result.items() if key != "outcome"}, rule))
