"""JUnit XML, in the shape that Jenkins' xUnit plugin, GitLab and GitHub's test reporters read. Pure.

    testsuites > testsuite (a scenario) > testcase (a setting and driver, or one of its repetitions)

A testcase has `properties` (issue, rows, driver, generation, profile, layout, grade, outcome, trace, ...). A regressed or
vanished one has a `failure` with its findings; an inconclusive one, one that could not run and one that was not begun an
`error`; `skipped` is only what this machine cannot run, with the reason. `system-out` has the evidence of what is violated,
also where that was expected. Times are in seconds.
"""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from collections.abc import Iterable, Sequence

from cgrace.harness.clock import NS_PER_S
from cgrace.harness.suite import Case, CaseResult, Comparison, NotRun, SuiteRun
from cgrace.harness.verdict import Outcome, Verdict
from cgrace.reports.console.blocks import finding_lines, result_lines
from cgrace.reports.console.words import asked, what_systemd_did
from cgrace.reports.inert import inert

# What XML 1.0 cannot say, escaped or not (section 2.2): a file with one such character is refused as a whole.
_UNSAYABLE = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
TEXT_MAX = 65_536  # characters of one element: readers refuse long texts


def junit_xml(run: SuiteRun) -> str:
    """The whole document."""
    compared = {(c.case.id, c.case.turn): c for c in run.comparisons}
    suites: dict[str, list[ET.Element]] = {}
    for result in run.results:
        of = compared.get((result.case.id, result.case.turn))
        suites.setdefault(result.case.scenario.name, []).append(_case_element(result, of))
    for one in run.not_run:
        suites.setdefault(one.case.scenario.name, []).append(_not_run_element(one))
    root = ET.Element("testsuites", name="cgrace")
    for name, cases in suites.items():
        suite = ET.SubElement(root, "testsuite", name=_clean(name))
        suite.extend(cases)
        _count(suite, cases)
        suite.set("skipped", str(_having(cases, "skipped")))
    _count(root, [case for cases in suites.values() for case in cases])
    root.set("time", _seconds(run.wall_ns))
    ET.indent(root)
    return "<?xml version='1.0' encoding='UTF-8'?>\n" + ET.tostring(root, encoding="unicode") + "\n"


def properties_of(result: CaseResult) -> list[tuple[str, str]]:
    """What is told of a case beside its verdict; pytest's own report carries the same."""
    grades = sorted({str(f.grade) for f in result.judgement.findings if f.verdict is not Verdict.HOLDS})
    told = [
        *_case_properties(result.case),
        ("grade", ", ".join(grades)),
        ("outcome", str(result.judgement.outcome)),
        ("trace", str(result.trace or "")),
        ("canonical", result.canonical),
        ("repeated", "an inconclusive run was repeated" if result.repeated else ""),
    ]
    return [(name, value) for name, value in told if value]


def message_of(result: CaseResult) -> str:
    """Why a result is not as expected, in one line."""
    said = result.error or "; ".join(result.judgement.reasons) or str(result.judgement.outcome)
    return " ".join(said.split())


def _case_properties(case: Case) -> list[tuple[str, str]]:
    return [
        ("issue", case.scenario.issue),
        ("rows", ", ".join(case.scenario.rows)),
        ("title", case.scenario.title),
        ("driver", case.driver.name),
        ("generation", case.driver.generation),
        ("version", f"{case.driver.module} {case.driver.version}"),
        ("target", case.target),
        ("profile", case.setting.profile),
        ("layout", case.setting.layout),
    ]


def _case_element(result: CaseResult, comparison: Comparison | None) -> ET.Element:
    told = properties_of(result)
    if comparison is not None:
        told += [("also in the baseline", str(wrong)) for wrong in comparison.same]
        told += [("fixed since the baseline", str(wrong)) for wrong in comparison.fixed]
    element = _element(result.case, told, result.wall_ns)
    outcome = result.judgement.outcome
    if result.unavailable:
        ET.SubElement(element, "skipped", type="cannot run here", message=_clean(message_of(result)))
    elif not outcome.passes:
        tag = "error" if outcome is Outcome.INCONCLUSIVE else "failure"
        kind = "could not run" if result.error else str(outcome)
        below = ET.SubElement(element, tag, type=kind, message=_clean(message_of(result)))
        below.text = _clean("\n".join(_story(result)))
    evidence = [line for f in result.judgement.findings if f.verdict is not Verdict.HOLDS for line in finding_lines(f)]
    if evidence:
        ET.SubElement(element, "system-out").text = _clean("\n".join(evidence))
    return element


def _not_run_element(one: NotRun) -> ET.Element:
    element = _element(one.case, [(n, v) for n, v in _case_properties(one.case) if v], 0)
    ET.SubElement(element, "error", type="not run", message=_clean(f"not run: {one.why}"))
    return element


def _element(case: Case, told: Iterable[tuple[str, str]], wall_ns: int) -> ET.Element:
    name = case.id.removeprefix(case.scenario.name) + (f" #{case.turn + 1}" if case.turn else "")
    element = ET.Element("testcase", name=_clean(name), classname=_clean(case.scenario.name), time=_seconds(wall_ns))
    properties = ET.SubElement(element, "properties")
    for key, value in told:
        ET.SubElement(properties, "property", name=key, value=_clean(value))
    return element


def _story(result: CaseResult) -> list[str]:
    """The whole of a failure: what was asked, what systemd was made to do, what that violated."""
    scenario = result.case.scenario
    lines = [scenario.title, *(f"asked    {asked(step)}" for step in scenario.steps)]
    lines += [f"systemd  made to {what_systemd_did(scenario)}", *result_lines(result)]
    return lines


def _count(element: ET.Element, cases: Sequence[ET.Element]) -> None:
    element.set("tests", str(len(cases)))
    element.set("failures", str(_having(cases, "failure")))
    element.set("errors", str(_having(cases, "error")))
    element.set("time", f"{sum(float(case.get('time', 0)) for case in cases):.3f}")


def _having(cases: Sequence[ET.Element], tag: str) -> int:
    return sum(case.find(tag) is not None for case in cases)


def _seconds(ns: int) -> str:
    return f"{ns / NS_PER_S:.3f}"


def _clean(text: str) -> str:
    """The text as XML can say it, and not without end."""
    shown = _UNSAYABLE.sub("\ufffd", inert(text))
    return shown if len(shown) <= TEXT_MAX else f"{shown[:TEXT_MAX]}\n... {len(shown) - TEXT_MAX} characters more"
