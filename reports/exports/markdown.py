"""A run as Markdown for an issue: what was found, how that is known, the events around it, and how to see it oneself. Pure.

Whatever comes from the trace is either escaped or in a code block whose fence is longer than any in it, so that a name in a
trace neither renders, nor links, nor calls for anybody's attention.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from cgrace import __version__
from cgrace.harness.errors import CgraceError
from cgrace.harness.scenario.model import Scenario
from cgrace.harness.trace import Trace
from cgrace.harness.verdict import Finding, Judgement, Verdict
from cgrace.reports.console.timeline import ends, timeline
from cgrace.reports.console.words import again, asked, what_systemd_did
from cgrace.reports.inert import inert, inert_line

TEXT_MAX = 60_000
"""GitHub takes 65,536 characters in an issue's text."""
LINES_MAX = 160
LINE_LENGTH_MAX = 240
AROUND = 25
_SPECIAL = re.compile(r"([\\`*_\[\]<>|~$&])")
_CALLS = re.compile(r"([@#]|:(?=//)|(?<=www)\.)")  # mentions, references and links are found in the rendered text
_BREAK = "\u200b"


def markdown(trace: Trace, judgement: Judgement) -> str:
    """The whole text, at most TEXT_MAX characters."""
    wrong = [f for f in judgement.findings if f.verdict is not Verdict.HOLDS]
    parts = [_head(trace, judgement), *(_finding(finding) for finding in wrong)]
    if not wrong:
        parts.append("Nothing was violated.\n")
    foot = _foot(trace)
    room = TEXT_MAX - sum(len(part) + 1 for part in parts) - len(foot)
    parts.append(_events(trace, wrong, room))
    return "\n".join([*parts, foot])[:TEXT_MAX]


def plain(text: str) -> str:
    """A text that Markdown shows as it is."""
    return _SPECIAL.sub(r"\\\1", _CALLS.sub(rf"\1{_BREAK}", inert_line(text)))


def block(lines: Sequence[str]) -> str:
    """Lines in a code block that none of them can end."""
    text = "\n".join(inert(line)[:LINE_LENGTH_MAX].replace("\n", " ") for line in lines)
    longest = max((len(found) for found in re.findall(r"`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}text\n{text}\n{fence}\n"


def _head(trace: Trace, judgement: Judgement) -> str:
    head = trace.head
    try:
        scenario: Scenario | None = Scenario.from_data(head.scenario)
    except CgraceError:
        scenario = None
    title = plain(scenario.title) if scenario is not None else "A run"
    driver = head.driver
    lines = [f"### {title}", ""]
    if scenario is not None:
        lines += [f"- asked: {plain('; '.join(asked(step) for step in scenario.steps)[:2000])}"]
        lines += [f"- systemd was made to {plain(what_systemd_did(scenario)[:2000])}"]
    lines += [
        f"- driver: {plain(' '.join(str(driver.get(key, '')) for key in ('name', 'module', 'version')))}",
        f"- on {plain(f'{head.target}, systemd {head.profile}, cgroup {head.layout}')}",
        f"- what it did: {plain(ends(trace)[:2000])}",
        f"- outcome: **{judgement.outcome}**",
        *(f"  - {plain(reason[:500])}" for reason in judgement.reasons if not judgement.outcome.passes),
        "",
    ]
    return "\n".join(lines)


def _finding(finding: Finding) -> str:
    lines = [
        f"#### {finding.verdict}: {finding.invariant}",
        "",
        f"**{plain(finding.summary)}** (grade: {finding.grade})",
        "",
    ]
    lines += [plain(finding.explanation), ""] if finding.explanation else []
    if finding.evidence:
        lines.append(block(finding.evidence[:60]))
    if finding.assumptions:
        lines += [f"Taken for granted: {plain('; '.join(finding.assumptions))}", ""]
    return "\n".join(lines)


def _events(trace: Trace, wrong: Sequence[Finding], room: int) -> str:
    """The events, or those around the ones that show it, in a fold."""
    marked = frozenset(index for finding in wrong for index in finding.events)
    told = timeline(trace, marked)
    kept = _around(told)
    head, foot = "<details><summary>What happened (&gt; shows it)</summary>\n\n", "\n</details>\n"
    while kept and len(block(kept)) + len(head) + len(foot) > room:
        kept = kept[: len(kept) * 3 // 4]
    return head + block(kept) + foot


def _around(lines: list[str]) -> list[str]:
    if len(lines) <= LINES_MAX:
        return lines
    shows = [number for number, line in enumerate(lines) if line.startswith(">")] or [0, len(lines) - 1]
    wanted: set[int] = set()
    for number in shows:
        if len(wanted) < LINES_MAX:
            wanted.update(range(max(number - AROUND, 0), min(number + AROUND + 1, len(lines))))
    kept: list[str] = []
    last = -1
    for number in sorted(wanted):
        if number != last + 1:
            kept.append(f"      ... {number - last - 1} lines are left out ...")
        kept.append(lines[number])
        last = number
    return kept


def _foot(trace: Trace) -> str:
    versions = "; ".join(f"{key} {value}" for key, value in trace.head.versions.items())
    lines = ["See it with:", "", block([again(str(trace.head.command)) or "cgrace run SCENARIO"])]
    lines.append(f"{plain(versions[:2000] or f'cgrace {__version__}')}")
    return "\n".join(lines) + "\n"
