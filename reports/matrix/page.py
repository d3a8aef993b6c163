"""The published table as one HTML file that needs nothing else. Every text is escaped: names come from scenario files."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from itertools import groupby

from cgrace.reports.inert import inert, inert_line
from cgrace.reports.links import issue_url
from cgrace.reports.matrix.cells import Cell
from cgrace.reports.matrix.table import Line, Matrix, Weakness

_CSS = """
:root { color-scheme: light dark; font: 14px/1.4 system-ui, sans-serif; }
body { margin: 1.5rem; overflow-wrap: anywhere; }
h3 { margin: 1rem 0 0; font-size: 1rem; } ul { margin: .25rem 0; padding-left: 1.25rem; }
pre { overflow: auto; border: 1px solid #8886; padding: .5rem; overflow-wrap: normal; }
.scroll { overflow: auto; max-height: 85vh; border: 1px solid #8886; overflow-wrap: normal; }
table { border-collapse: separate; border-spacing: 0; }
th, td { padding: .25rem .5rem; border: solid #8886; border-width: 0 1px 1px 0; text-align: left; vertical-align: top;
  white-space: nowrap; }
thead th { position: sticky; top: 0; background: Canvas; z-index: 2; }
th[scope=row] { position: sticky; left: 0; background: Canvas; z-index: 1; white-space: normal; min-width: 22rem; }
thead th:first-child { left: 0; z-index: 3; }
td small, th small { display: block; font-weight: normal; opacity: .75; }
.reproduced { font-weight: 600; background: #fc06; }
.regressed, .vanished { font-weight: 700; background: #f446; outline: 2px solid #d00; outline-offset: -2px; }
.inconclusive { background: #0cf4; } .clean { opacity: .8; } .none { opacity: .4; }
@media (max-width: 45rem) {
  body { margin: .75rem; }
  th[scope=row] { min-width: 9rem; max-width: 9rem; font-size: .8rem; overflow-wrap: anywhere; }
}
@media print { .scroll { overflow: visible; max-height: none; } details { display: none; } }
"""


def page(found: Matrix, versions: Mapping[str, str], files: Mapping[str, str]) -> str:
    """The whole page. files: the text of each scenario's file, by the scenario's name."""
    heads = "".join(
        f'<th scope="col" title="{_text(d.note)}">{_text(d.name)}<small>{_text(d.generation)}</small></th>'
        for d in found.drivers
    )
    lines = "".join(_line(line) for line in found.lines)
    counts = ", ".join(f"{count} {outcome}" for outcome, count in found.counts.items() if count)
    made = ", ".join(f"{_text(name)} {_text(version)}" for name, version in versions.items())
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>cgrace: scenarios by drivers</title><style>{_CSS}</style></head><body>
<h1>Scenarios by drivers</h1>
<p>Each cell: what came out, the worst latency of a step, and the longest wait for systemd that the driver was seen in.
<b>.</b> nothing violated, <b>LOST</b> cgroups, <b>HANG</b> a proved deadlock, <b>SLOW</b> over its bound, <b>ERR</b> a step failed,
<b>?</b> cannot tell, <b>!</b> not what is expected. {_text(counts)}. Made with {made}.</p>
{_open(found, files)}
<h2 id="table">All of it</h2>
<div class="scroll"><table><thead><tr><th>scenario</th>{heads}</tr></thead><tbody>{lines}</tbody></table></div>
</body></html>
"""


def _line(line: Line) -> str:
    scenario, setting = line.scenario, line.setting
    head = (
        f'<th scope="row" title="{_text(scenario.mechanism)}">{_text(scenario.title)}'
        f"<small>{_text(scenario.name)} @ {_text(setting.profile)} {_text(setting.layout)} {_issue(scenario.issue)}</small></th>"
    )
    return f"<tr>{head}{''.join(map(_cell, line.cells))}</tr>"


def _issue(issue: str) -> str:
    url = issue_url(issue)
    return f'<a href="{_text(url)}">{_text(issue)}</a>' if url else _text(issue)


def _cell(cell: Cell | None) -> str:
    if cell is None:
        return '<td class="none">-</td>'
    if cell.unavailable:
        return f'<td class="none" title="{_text("; ".join(cell.why))}">n/a</td>'
    bound = f", waits {cell.bound}" if cell.bound else ""
    return (
        f'<td class="{_text(cell.outcome)}" title="{_text("; ".join(cell.why))}">{_text(cell.word)}'
        f"<small>{_text(cell.latency + bound)}</small></td>"
    )


def _open(found: Matrix, files: Mapping[str, str]) -> str:
    if not found.open:
        return ""
    each = "".join(_weak(list(weak), files) for _, weak in groupby(found.open, lambda weak: weak.scenario.name))
    return (
        "<h2>Open in what people run today</h2><p>Of each product the newest release that took part, the gravest first. "
        'A scenario is one file: kept under any name, <code>cgrace run FILE</code> runs it. <a href="#table">All of it</a></p>'
        + each
    )


def _weak(weak: list[Weakness], files: Mapping[str, str]) -> str:
    """What is open in one scenario, and its file."""
    scenario = weak[0].scenario
    told = "".join(
        f"<li><b>{_text(', '.join(w.drivers))}</b>: {_text(w.what)}<br><code>{_text(w.command)}</code></li>"
        for w in weak
    )
    text = files.get(scenario.name, "")
    file = f"<details><summary>{_text(scenario.name)}.toml</summary><pre>{_lines(text)}</pre></details>" if text else ""
    return f"<h3>{_text(scenario.title)} <small>{_issue(scenario.issue)}</small></h3><ul>{told}</ul>{file}"


def _lines(text: str) -> str:
    return escape(inert(text), quote=True)


def _text(text: str) -> str:
    return escape(inert_line(str(text)), quote=True)
