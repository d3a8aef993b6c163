"""`cgrace validate` as JUnit, one testcase a probe and a failure where a driver relies on what changed, and as a page. Pure."""

from __future__ import annotations

import difflib
import html
import json
import xml.etree.ElementTree as ET
from collections.abc import Mapping
from typing import Any

from cgrace.reports.inert import inert


def junit_of(document: Mapping[str, Any], questions: Mapping[str, str]) -> str:
    """The whole document, from what `cgrace validate --json` says. questions: by probe."""
    changes = {one["probe"]: one for one in document["changes"]}
    otherwise = {one["case"]: one for one in document["outcomes"]}
    apart = document["not_compared"]
    name = f"systemd {document['old']['systemd']} -> {document['new']['systemd']} ({document['new']['layout']})"
    cases = [
        _case(probe, questions.get(probe, ""), changes.get(probe), apart.get(probe)) for probe in document["answers"]
    ]
    cases += [_outcome(case, otherwise.get(case)) for case in document["compared_outcomes"]]
    root = ET.Element("testsuites", name="cgrace")
    suite = ET.SubElement(root, "testsuite", name=inert(name))
    suite.extend(cases)
    for element in (suite, root):
        element.set("tests", str(len(cases)))
        for attribute, tag in (("failures", "failure"), ("errors", "error"), ("skipped", "skipped")):
            element.set(attribute, str(sum(case.find(tag) is not None for case in cases)))
    ET.indent(root)
    return "<?xml version='1.0' encoding='UTF-8'?>\n" + ET.tostring(root, encoding="unicode") + "\n"


def _case(probe: str, question: str, change: Mapping[str, Any] | None, apart: str | None) -> ET.Element:
    case = ET.Element("testcase", classname=f"validate.{probe.partition('.')[0]}", name=probe)
    if apart is not None:
        ET.SubElement(case, "skipped", message=inert(apart))
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


def _outcome(case: str, changed: Mapping[str, str] | None) -> ET.Element:
    scenario, _, driver = case.rpartition(" ")
    element = ET.Element("testcase", classname=f"scenarios.{scenario.replace('/', '.')}", name=case)
    if changed is not None:
        message = inert(f"with {driver}: {changed['old']} -> {changed['new']}")
        ET.SubElement(element, "failure", type="outcome changed", message=message)
    return element


_STYLE = """body { font: 15px/1.5 system-ui, sans-serif; max-width: 80em; margin: 2em auto; padding: 0 1em }
body { color: #222; background: #fff } h2 { margin: 1.6em 0 .4em } summary { cursor: pointer; font-size: 1.2em; margin: 1em 0 }
table { border-collapse: collapse; width: 100%; table-layout: fixed }
td, th { text-align: left; vertical-align: top; padding: .3em .6em; overflow-wrap: anywhere }
.what { width: 8em } .asked { width: 30% } .touches { width: 18% }
tr { border-top: 1px solid #ccc } code { overflow-wrap: anywhere; white-space: pre-wrap } .place { color: #555; font-size: 85% }
.bad { color: #a00; font-weight: bold } .good { color: #070; font-weight: bold } .dim { color: #555 } .verdict { font-size: 1.2em }
del { background: #fdd; text-decoration: none } ins { background: #dfd; text-decoration: none } .same { color: #888 }
@media (prefers-color-scheme: dark) { body { color: #ddd; background: #181818 } tr { border-color: #444 } .bad { color: #f77 }
.good { color: #7d7 } .dim, .place { color: #aaa } del { background: #522 } ins { background: #252 } .same { color: #777 } }
@media print { details { display: block } details > * { display: block } }"""
_HEAD = "<tr><th class=what>what</th><th class=asked>question</th><th>was</th><th>now</th><th class=touches>touches</th></tr>"


def html_of(document: Mapping[str, Any]) -> str:
    """A page that needs nothing else, from what `cgrace validate --json` says: the verdict first, then what drivers rely on."""
    old, new = document["old"], document["new"]
    title = f"systemd {old['systemd']} to {new['systemd']}, cgroup {new['layout']}"
    sections = [
        f"<h1>{_text(title)}</h1>",
        f"<p class='verdict {'good' if document['passed'] else 'bad'}'>{_text(_sentence(document['verdict']))}</p>",
        f"<p>From {_text(_where(old))} to {_text(_where(new))}: {_text(document['counts'])}.</p>",
        _outcomes(document),
    ]
    changes = document["changes"]
    relied = [one for one in changes if one["drivers"]]
    if relied:
        sections.append(f"<h2>What drivers rely on</h2>{_table(relied)}")
    if rest := [one for one in changes if not one["drivers"]]:
        opened = "" if relied else " open"
        sections.append(f"<details{opened}><summary>What else changed ({len(rest)})</summary>{_table(rest)}</details>")
    for head, rows in (("Not compared", "not_compared"), ("Known differences", "known_differences")):
        if items := "".join(f"<li>{_text(probe)}: {_text(why)}</li>" for probe, why in document[rows].items()):
            sections.append(f"<details><summary>{head} ({len(document[rows])})</summary><ul>{items}</ul></details>")
    return (
        "<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport content='width=device-width'>"
        f"<title>{_text(title)}</title><style>{_STYLE}</style>{''.join(sections)}</html>\n"
    )


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}."


def _where(one: Mapping[str, Any]) -> str:
    return f"{one['name']} (in {one['runs_in']})" if one["runs_in"] else str(one["name"])


def _outcomes(document: Mapping[str, Any]) -> str:
    compared, changed = document["compared_outcomes"], document["outcomes"]
    if not compared:
        return "<p class=dim>Scenarios were not compared.</p>"
    said = f"<p>{len(compared)} cases of scenarios on drivers were compared, {len(changed)} came out otherwise.</p>"
    rows = "".join(
        f"<tr><td>{_text(one['case'])}</td><td>{_text(one['old'])}</td><td>{_text(one['new'])}</td></tr>"
        for one in changed
    )
    head = (
        "<h2>Scenarios that came out otherwise</h2><table><tr><th>scenario and driver</th><th>was</th><th>now</th></tr>"
    )
    return f"{said}{head}{rows}</table>" if changed else said


def _table(changes: list[Mapping[str, Any]]) -> str:
    return f"<table>{_HEAD}{''.join(_row(one) for one in changes)}</table>"


def _row(one: Mapping[str, Any]) -> str:
    sides = [_difference(each["place"], each["old"], each["new"]) for each in one["differences"]]
    was, now = ("".join(side[index] for side in sides) for index in (0, 1))
    mark = " class=bad" if one["drivers"] else " class=dim"
    touches = "<br>".join(_text(", ".join(each)) for each in (one["drivers"], one["scenarios"]) if each)
    source, _, undocumented = one["cites"].partition("; undocumented")
    cites = f"{source}{'; undocumented' if undocumented else ''}"
    asked = f"{_text(one['question'])}<br><span class=dim>{_text(one['probe'])}: {_text(cites)}</span>"
    return f"<tr><td{mark}>{_text(one['how'])}</td><td>{asked}</td><td>{was}</td><td>{now}</td><td>{touches}</td></tr>"


def _difference(place: str, old: Any, new: Any) -> tuple[str, str]:
    """Both sides of one place; of two lists what only one has is marked."""
    head = f"<span class=place>{_text(place)}</span> " if place else ""
    if not (isinstance(old, list) and isinstance(new, list)):
        was, now = (
            f"<div>{head}<code>{_text(json.dumps(side, ensure_ascii=False))}</code></div>" for side in (old, new)
        )
        return was, now
    words = [[json.dumps(item, ensure_ascii=False) for item in side] for side in (old, new)]
    left: list[str] = []
    right: list[str] = []
    for tag, a, b, c, d in difflib.SequenceMatcher(None, words[0], words[1], autojunk=False).get_opcodes():
        element = "span class=same" if tag == "equal" else ""
        left += [_marked(word, element or "del") for word in words[0][a:b]]
        right += [_marked(word, element or "ins") for word in words[1][c:d]]
    return f"<div>{head}{'<br>'.join(left)}</div>", f"<div>{head}{'<br>'.join(right)}</div>"


def _marked(word: str, element: str) -> str:
    return f"<{element}><code>{_text(word)}</code></{element.partition(' ')[0]}>"


def _text(value: str) -> str:
    return html.escape(inert(value))
