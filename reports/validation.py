"""`cgrace validate` as JUnit, one testcase a probe and a failure where a driver relies on what changed, and as a page. Pure."""

from __future__ import annotations

import html
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


_STYLE = """body { font: 15px/1.5 system-ui, sans-serif; max-width: 72em; margin: 2em auto; padding: 0 1em }
body { color: #222; background: #fff }
table { border-collapse: collapse; width: 100% } td, th { text-align: left; vertical-align: top; padding: .3em .6em }
tr { border-top: 1px solid #ccc } code { overflow-wrap: anywhere } .bad { color: #a00; font-weight: bold } .dim { color: #555 }
@media (prefers-color-scheme: dark) { body { color: #ddd; background: #181818 } tr { border-color: #444 } .bad { color: #f77 }
.dim { color: #aaa } }"""


def html_of(document: Mapping[str, Any]) -> str:
    """A page that needs nothing else, from what `cgrace validate --json` says."""
    old, new = document["old"], document["new"]
    title = f"systemd {old['systemd']} to {new['systemd']}, cgroup {new['layout']}"
    rows = "".join(_row(one) for one in document["changes"])
    outcomes = "".join(
        f"<tr><td class=bad>outcome changed</td><td>{_text(one['case'])}</td><td>{_text(one['old'])}</td>"
        f"<td>{_text(one['new'])}</td><td></td></tr>"
        for one in document["outcomes"]
    )
    verdict = "Nothing changed that a driver relies on." if document["passed"] else "Drivers rely on what changed."
    apart = "".join(f"<li>{_text(probe)}: {_text(why)}</li>" for probe, why in document["not_compared"].items())
    return (
        f"<!doctype html><html lang=en><meta charset=utf-8><title>{_text(title)}</title><style>{_STYLE}</style>"
        f"<h1>{_text(title)}</h1><p>From {_text(old['name'])} to {_text(new['name'])}. {document['same']} answers are the same. "
        f"<b>{verdict}</b></p><table><tr><th>what</th><th>question</th><th>was</th><th>now</th><th>touches</th></tr>"
        f"{rows}{outcomes}</table>{f'<h2>Not compared</h2><ul>{apart}</ul>' if apart else ''}</html>\n"
    )


def _row(one: Mapping[str, Any]) -> str:
    was, now = (
        "<br>".join(
            f"{_text(each['place'])} <code>{_text(json.dumps(each[side]))}</code>" for each in one["differences"]
        )
        for side in ("old", "new")
    )
    mark = " class=bad" if one["drivers"] else " class=dim"
    touches = _text(", ".join(one["drivers"])) + (
        f"<br>{_text(', '.join(one['scenarios']))}" if one["scenarios"] else ""
    )
    asked = f"{_text(one['question'])}<br><span class=dim>{_text(one['probe'])}: {_text(one['cites'])}</span>"
    return f"<tr><td{mark}>{_text(one['how'])}</td><td>{asked}</td><td>{was}</td><td>{now}</td><td>{touches}</td></tr>"


def _text(value: str) -> str:
    return html.escape(inert(value))
