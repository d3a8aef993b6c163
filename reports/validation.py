"""JUnit of `cgrace validate`: one testcase a probe, a failure where a driver relies on what changed. Pure."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET
from collections.abc import Mapping
from typing import Any

from cgrace.reports.inert import inert


def junit_of(document: Mapping[str, Any], questions: Mapping[str, str]) -> str:
    """The whole document, from what `cgrace validate --json` says. questions: by probe."""
    changes = {one["probe"]: one for one in document["changes"]}
    name = f"systemd {document['old']['systemd']} -> {document['new']['systemd']} ({document['new']['layout']})"
    cases = [_case(probe, questions.get(probe, ""), changes.get(probe)) for probe in document["answers"]]
    cases += [_outcome(one) for one in document["outcomes"]]
    failures = sum(case.find("failure") is not None for case in cases)
    root = ET.Element("testsuites", name="cgrace")
    suite = ET.SubElement(root, "testsuite", name=inert(name))
    suite.extend(cases)
    for element in (suite, root):
        element.set("tests", str(len(cases)))
        element.set("failures", str(failures))
        element.set("errors", "0")
    ET.indent(root)
    return "<?xml version='1.0' encoding='UTF-8'?>\n" + ET.tostring(root, encoding="unicode") + "\n"


def _case(probe: str, question: str, change: Mapping[str, Any] | None) -> ET.Element:
    case = ET.Element("testcase", classname="validate", name=probe)
    if change is None:
        return case
    told = [question, f"source: {change['cites']}"]
    for one in change["differences"]:
        told += [f"was {one['place']} {json.dumps(one['old'])}", f"now {one['place']} {json.dumps(one['new'])}"]
    text = inert("\n".join(told))
    if change["drivers"]:
        head = change["how"]
        failure = ET.SubElement(case, "failure", type=head, message=f"{head}; touches {', '.join(change['drivers'])}")
        failure.text = text
    else:
        ET.SubElement(case, "system-out").text = text
    return case


def _outcome(one: Mapping[str, str]) -> ET.Element:
    case = ET.Element("testcase", classname="scenario", name=one["case"])
    ET.SubElement(case, "failure", type="outcome changed", message=f"{one['old']} -> {one['new']}")
    return case
