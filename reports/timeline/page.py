"""The page of one run: everything that it shows as one JSON document, and the one file that shows it. Pure.

The data goes into a script element that is never run, with "<", ">" and "&" escaped; the page puts every text in by textContent,
and its policy runs no script and applies no style but its own two, by their hashes. So a trace with markup in a name is inert.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Mapping
from functools import cache
from importlib import resources
from typing import Any

from cgrace import __version__
from cgrace.harness import events as ev
from cgrace.harness.errors import CgraceError
from cgrace.harness.scenario.model import Scenario
from cgrace.harness.stacks.wait_graph import wait_graph
from cgrace.harness.trace import Trace
from cgrace.harness.verdict import Finding, Invariant, Judgement, Verdict
from cgrace.reports.console.timeline import ends
from cgrace.reports.console.words import again, asked, what_systemd_did
from cgrace.reports.inert import inert, inert_line
from cgrace.reports.timeline.bars import Bar, bars_of
from cgrace.reports.timeline.lanes import lanes_of
from cgrace.reports.timeline.pack import Texts, pack
from cgrace.reports.timeline.rows import Row, by_time, rows_of

SCRIPTS = (
    "data.js",
    "state.js",
    "svg.js",
    "shapes.js",
    "draw.js",
    "view.js",
    "details.js",
    "findings.js",
    "graph.js",
    "table.js",
    "toolbar.js",
    "print.js",
    "selftest.js",
    "main.js",
)
STYLES = ("page.css", "timeline.css", "print.css")
GRAPH_NODES_MAX = 12
TOLD_MAX = 12
"""Steps that are told of above the timeline, which has them all."""
_ISSUE = re.compile(r"^([A-Za-z0-9-]{1,39}/[A-Za-z0-9._-]{1,100})#([0-9]{1,9})$")


def build(trace: Trace, judgement: Judgement) -> str:
    """One self-contained HTML file. Never fails on odd traces: what cannot be understood is shown as it is."""
    script, style = _code(SCRIPTS), _style()
    data = json.dumps(page_data(trace, judgement), separators=(",", ":"))
    data = data.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")
    parts = {
        "POLICY": f"default-src 'none'; base-uri 'none'; form-action 'none'; script-src {_hash(script)}; style-src {_hash(style)}",
        "STYLE": style,
        "SCRIPT": script,
        "DATA": data,
    }
    return re.sub(r"\{\{(\w+)\}\}", lambda found: parts[found[1]], _asset("page.html"))


def page_data(trace: Trace, judgement: Judgement) -> dict[str, Any]:
    """What the page shows, as JSON data."""
    scenario = _scenario(trace)
    ordered = by_time(trace.entries)
    lanes = lanes_of(trace.entries)
    texts = Texts()
    start_ns = ordered[0].t_ns if ordered else 0
    packed = pack(trace.entries, start_ns, texts)
    rows, draws = _rows(rows_of(ordered, lanes, scenario), texts)
    bars = [_bar(bar, texts) for bar in bars_of(trace.entries, ordered, lanes, scenario)]
    return {
        "head": _head(trace, scenario, judgement),
        "findings": [_finding(f) for f in sorted(judgement.findings, key=_worst_first)],
        "graph": _graph(trace, judgement),
        "lanes": [[lane.kind, inert_line(lane.name)] for lane in lanes.all],
        "kinds": packed.kinds,
        "events": packed.events,
        "draws": draws,
        "rows": rows,
        "bars": bars,
        "texts": texts.all,
    }


def _scenario(trace: Trace) -> Scenario | None:
    try:
        return Scenario.from_data(trace.head.scenario)
    except CgraceError:
        return None


# ---- the top of the page


def _head(trace: Trace, scenario: Scenario | None, judgement: Judgement) -> dict[str, Any]:
    head = trace.head
    driver = {key: inert_line(str(value)) for key, value in head.driver.items()}
    issue = scenario.issue if scenario is not None else ""
    link = _ISSUE.match(issue)
    return {
        "title": inert_line(scenario.title) if scenario is not None else "A run whose scenario cannot be read",
        "name": inert_line(scenario.name) if scenario is not None else "",
        "rows": [inert_line(row) for row in scenario.rows] if scenario is not None else [],
        "issue": inert_line(issue),
        "issueUrl": f"https://github.com/{link[1]}/issues/{link[2]}" if link else "",
        "mechanism": inert_line(scenario.mechanism) if scenario is not None else "",
        "asked": _asked(scenario) if scenario is not None else [],
        "systemd": inert_line(what_systemd_did(scenario)) if scenario is not None else "",
        "driver": driver.get("name", "?"),
        "module": f"{driver.get('module', '')} {driver.get('version', '')}".strip(),
        "proof": driver.get("proof", ""),
        "place": inert_line(f"{head.target}, systemd {head.profile}, cgroup {head.layout}"),
        "did": _some(inert_line(ends(trace)).split("; "), "; "),
        "outcome": str(judgement.outcome),
        "passes": judgement.outcome.passes,
        "reasons": [inert_line(reason) for reason in judgement.reasons],
        "command": inert_line(again(str(head.command))),
        "versions": _pairs(head.versions),
        "clock": inert_line(str(head.clock)),
        "cgrace": __version__,
    }


def _asked(scenario: Scenario) -> list[str]:
    told = [inert_line(asked(step)) for step in scenario.steps]
    return told if len(told) <= TOLD_MAX else [*told[:TOLD_MAX], f"and {len(told) - TOLD_MAX} more steps"]


def _some(told: list[str], between: str) -> str:
    more = [f"and {len(told) - TOLD_MAX} more"] if len(told) > TOLD_MAX else []
    return between.join([*told[:TOLD_MAX], *more])


def _pairs(found: Mapping[str, Any]) -> list[list[str]]:
    return [[inert_line(str(key)), inert_line(str(value))] for key, value in found.items()]


def _worst_first(finding: Finding) -> int:
    return [Verdict.VIOLATED, Verdict.UNKNOWN, Verdict.HOLDS].index(finding.verdict)


def _finding(finding: Finding) -> dict[str, Any]:
    return {
        "verdict": str(finding.verdict),
        "invariant": str(finding.invariant),
        "subject": inert_line(finding.subject),
        "short": inert_line(finding.short),
        "summary": inert_line(finding.summary),
        "grade": str(finding.grade),
        "sentences": [inert_line(sentence) for sentence in sentences(finding.explanation)],
        "evidence": [inert(line) for line in finding.evidence],
        "assumptions": [inert_line(line) for line in finding.assumptions],
        "events": list(finding.events),
        "deadlock": finding.invariant is Invariant.NO_DEADLOCK and finding.verdict is not Verdict.HOLDS,
    }


def sentences(explanation: str) -> list[str]:
    """What happened, why it is wrong, what to look at. The last two are the checkers' own words; the first may quote anything."""
    parts = re.split(r"(?<=\.)\s+(?=[A-Z])", explanation.strip())
    if len(parts) > 3:
        parts = [" ".join(parts[:-2]), *parts[-2:]]
    return [part for part in parts if part]


def _graph(trace: Trace, judgement: Judgement) -> dict[str, Any] | None:
    """Who waits for whom, from the last stacks of the run, where a deadlock is proved or suspected."""
    stuck = [f for f in judgement.findings if f.invariant is Invariant.NO_DEADLOCK and f.verdict is not Verdict.HOLDS]
    stacks = trace.last(ev.Stacks)
    if not stuck or stacks is None:
        return None
    waits = wait_graph(stacks[1].text)
    nodes = [
        {
            "id": wait.goroutine,
            "function": inert_line(wait.function),
            "what": inert_line(wait.what),
            "place": inert_line(wait.place),
            "lock": inert_line(wait.lock),
            "holds": [inert_line(lock) for lock in wait.holds],
            "heldBy": list(wait.held_by),
        }
        for wait in waits[:GRAPH_NODES_MAX]
    ]
    if not nodes:
        return None
    return {"process": inert_line(stacks[1].process), "nodes": nodes, "more": max(0, len(waits) - GRAPH_NODES_MAX)}


# ---- the timeline itself

PROBE, QUIET = 1, 2


def _rows(rows: list[Row], texts: Texts) -> tuple[list[list[Any]], list[list[Any]]]:
    """[event or events, text, unit, flags, draw] a row, and the drawings, each once."""
    draws: list[list[Any]] = []
    known: dict[object, int] = {}
    packed = []
    for row in rows:
        key = row.arrow or row.marks
        if key not in known:
            known[key] = len(draws)
            if row.arrow is not None:
                arrow = row.arrow
                draws.append(["a", arrow.source, arrow.target, arrow.kind, arrow.deed])
            else:
                draws.append(["m", *(item for mark in row.marks for item in (mark.lane, mark.shape, mark.glyph))])
        flags = PROBE * row.probe + QUIET * row.quiet
        events = row.events[0] if len(row.events) == 1 else list(row.events)
        packed.append([events, texts.add(inert_line(row.text)), texts.add(row.unit), flags, known[key]])
    return packed, draws


def _bar(bar: Bar, texts: Texts) -> list[Any]:
    """[kind, lane, track, first, last, label, note, end, unit, cause, parts]."""
    label, note, end = (texts.add(inert_line(text)) for text in (bar.label, bar.note, bar.end))
    parts = [[word, index] for word, index in bar.parts]
    return [bar.kind, bar.lane, bar.track, bar.first, bar.last, label, note, end, texts.add(bar.unit), bar.cause, parts]


# ---- the file


def _code(names: tuple[str, ...]) -> str:
    """The scripts as one, each in the order in which they build on each other."""
    return '(() => {\n"use strict";\n' + "".join(_asset(name) for name in names) + "})();\n"


def _style() -> str:
    return "".join(_asset(name) for name in STYLES)


@cache
def _asset(name: str) -> str:
    return resources.files("cgrace.reports.timeline").joinpath(name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    digest = hashlib.sha256(text.encode()).digest()
    return f"'sha256-{base64.b64encode(digest).decode()}'"
