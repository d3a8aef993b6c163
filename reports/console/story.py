"""One stored result told whole: what it was, what it violated and how that is known, and everything that happened. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.text import Text

from cgrace.harness.trace import Trace
from cgrace.harness.verdict import Finding, Verdict
from cgrace.reports.console.blocks import finding_lines
from cgrace.reports.console.timeline import timeline
from cgrace.reports.inert import inert


def _text(text: str, style: str = "") -> Text:
    """A text that no terminal obeys."""
    return Text(inert(text), style=style)


def story(
    data: Mapping[str, Any],
    findings: Sequence[Finding],
    trace: Trace | None,
    *,
    problem: str = "",
    probes: bool = False,
) -> RenderableType:
    """`data` is a RESULT of reports/machine.py. `problem` says why there is no trace, where there is none."""
    rows = ",".join(data["rows"])
    parts: list[RenderableType] = [
        _text(f"{rows}  {data['title']}".strip(), style="bold"),
        _text(f"{data['case']}: {data['outcome']}", style="green" if data["passed"] else "bold red"),
    ]
    driver = data["driver"]
    parts.append(_text(f"driver {driver['name']}: {driver['module']} {driver['version']}", style="dim"))
    if problem:
        parts.append(_text(problem, style="red"))
    parts += [_text(f"not as history says: {reason}", style="red") for reason in data["reasons"] if not data["passed"]]
    for finding in findings:
        if finding.verdict is not Verdict.HOLDS:
            parts += [_text(""), *(_text(line) for line in finding_lines(finding))]
            parts += [_text(f"  {finding.explanation}", style="dim")] if finding.explanation else []
    if trace is not None:
        marked = frozenset(i for f in findings if f.verdict is not Verdict.HOLDS for i in f.events)
        parts += [_text("\nwhat happened (> shows it)", style="bold")]
        parts += [
            _text(line, style="bold" if line.startswith(">") else "") for line in timeline(trace, marked, probes=probes)
        ]
        parts += [_text(f"command: {trace.head.command}", style="dim")] if trace.head.command else []
    return Group(*parts, _text(""))
