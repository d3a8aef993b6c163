"""The published table as one HTML file that needs nothing else. Every text is escaped: names come from scenario files."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape

from cgrace.reports.inert import inert_line
from cgrace.reports.matrix.cells import Cell
from cgrace.reports.matrix.table import Line, Matrix

_CSS = """
:root { color-scheme: light dark; font: 14px/1.4 system-ui, sans-serif; }
body { margin: 1.5rem; }
.scroll { overflow: auto; max-height: 85vh; border: 1px solid #8886; }
table { border-collapse: collapse; }
th, td { padding: .25rem .5rem; border: 1px solid #8884; text-align: left; vertical-align: top; white-space: nowrap; }
thead th { position: sticky; top: 0; background: Canvas; z-index: 2; }
th[scope=row] { position: sticky; left: 0; background: Canvas; z-index: 1; white-space: normal; min-width: 22rem; }
thead th:first-child { left: 0; z-index: 3; }
td small, th small { display: block; font-weight: normal; opacity: .75; }
.reproduced { font-weight: 600; background: #fc06; }
.regressed, .vanished { font-weight: 700; background: #f446; outline: 2px solid #d00; }
.inconclusive { background: #0cf4; } .clean { opacity: .8; } .none { opacity: .4; }
@media print { .scroll { overflow: visible; max-height: none; } }
"""


def page(found: Matrix, versions: Mapping[str, str]) -> str:
    """The whole page."""
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
{_open(found)}
<div class="scroll"><table><thead><tr><th>scenario</th>{heads}</tr></thead><tbody>{lines}</tbody></table></div>
</body></html>
"""


def _line(line: Line) -> str:
    scenario, setting = line.scenario, line.setting
    head = (
        f'<th scope="row" title="{_text(scenario.mechanism)}">{_text(scenario.title)}'
        f"<small>{_text(scenario.name)} @ {_text(setting.profile)} {_text(setting.layout)} {_text(scenario.issue)}</small></th>"
    )
    return f"<tr>{head}{''.join(map(_cell, line.cells))}</tr>"


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


def _open(found: Matrix) -> str:
    if not found.open:
        return ""
    rows = "".join(
        f"<li><b>{_text(', '.join(w.drivers))}</b>: {_text(w.what)}<br>"
        f"<code>{_text(w.command)}</code> {_text(w.scenario.issue)}</li>"
        for w in found.open
    )
    return f"<h2>Open in what people run today</h2><ul>{rows}</ul>"


def _text(text: str) -> str:
    return escape(inert_line(str(text)), quote=True)
