"""A diagnosis for people and for programs: which bug it is, the lines that show it, what speaks against others, what to do. Pure.

DIAGNOSIS (`cgrace diagnose --json`)
    matched    whether a known signature is there
    matches    [MATCH, ...], the best first
    alike      [MATCH, ...]: entries whose stacks look the same as the best's
    possible   [MATCH, ...]: what it would be if the wait lasts
    against    [{"id", "title", "why": [...]}, ...]: the next best, and what speaks against each
    waits      [{"goroutine", "function", "what", "place", "lock", "holds", "held_by"}, ...]
    seen, versions, notes

MATCH   {"id", "title", "confidence", "rows", "scenarios", "issues", "urls", "evidence": [{"line", "text", "source"}, ...],
         "mechanism", "workaround", "fixed", "tell", "notes"}
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from cgrace.harness.diagnose.judge import Diagnosis
from cgrace.harness.diagnose.match import Confidence, Match
from cgrace.harness.diagnose.signatures import Signature
from cgrace.harness.stacks.wait_graph import render
from cgrace.reports.inert import inert_line
from cgrace.reports.links import issue_url

SURE = {
    Confidence.CERTAIN: "certain: nothing can free what these lines show",
    Confidence.LIKELY: "likely",
    Confidence.POSSIBLE: "possible: every healthy operation looks so for a moment",
}


def named(signature: Signature) -> str:
    """How an entry is called: its rows of #1780 where it has some, and its id."""
    rows = f"row {', '.join(signature.rows)} of runc#1780, " if signature.rows else ""
    return f"{rows}{signature.id}"


def diagnosis_data(diagnosis: Diagnosis) -> dict[str, Any]:
    """The diagnosis for programs."""
    return {
        "matched": diagnosis.best is not None,
        "matches": [match_data(one) for one in diagnosis.matches],
        "alike": [match_data(one) for one in diagnosis.alike],
        "possible": [match_data(one) for one in diagnosis.possible],
        "against": [
            {"id": one.signature.id, "title": one.signature.title, "why": list(one.failed)} for one in diagnosis.against
        ],
        "waits": [
            {
                "goroutine": wait.goroutine,
                "function": wait.function,
                "what": wait.what,
                "place": wait.place,
                "lock": wait.lock,
                "holds": list(wait.holds),
                "held_by": list(wait.held_by),
            }
            for wait in diagnosis.waits
        ],
        "seen": diagnosis.seen,
        "versions": list(diagnosis.versions),
        "notes": list(diagnosis.notes),
    }


def match_data(match: Match) -> dict[str, Any]:
    """One match for programs."""
    signature = match.signature
    return {
        **signature_data(signature),
        "confidence": str(match.confidence),
        "evidence": [{"line": one.line, "text": one.text, "source": one.source} for one in match.evidence],
        "notes": list(match.notes),
    }


def signature_data(signature: Signature) -> dict[str, Any]:
    """One entry for programs."""
    return {
        "id": signature.id,
        "title": signature.title,
        "rows": list(signature.rows),
        "scenarios": list(signature.scenarios),
        "issues": list(signature.issues),
        "urls": [issue_url(issue) for issue in signature.issues],
        "mechanism": signature.mechanism,
        "workaround": signature.workaround,
        "fixed": signature.fixed,
        "tell": signature.tell,
    }


Row = tuple[str, str]


def diagnosis_rows(diagnosis: Diagnosis) -> Iterator[Row]:
    """The diagnosis for people: (label, text) pairs; a label of "" continues the one before; ("", "") is an empty line."""
    best = diagnosis.best
    if best is None:
        yield "none", "no known signature is in it" + (", unless what waits here lasts" if diagnosis.possible else "")
        yield from _possible(diagnosis.possible)
    else:
        yield from _match(best)
        for other in diagnosis.alike:
            yield "or", f"{named(other.signature)}: {other.signature.title}; its stacks are the same"
        tells = {one.signature.tell: None for one in (best, *diagnosis.alike) if one.signature.tell}
        if diagnosis.alike:
            yield from _listed("tell apart", tells)
    yield from _listed("waits", render(diagnosis.waits))
    yield from _listed("not", (f"{one.signature.id}: {'; '.join(one.failed[:2])}" for one in diagnosis.against))
    for other in diagnosis.matches[1:]:
        yield "", ""
        yield from _match(other)
    yield "", ""
    yield from _listed("seen", [diagnosis.seen or "nothing that is known"])
    yield from _listed("versions", [", ".join(diagnosis.versions)] if diagnosis.versions else [])
    yield from _listed("note", diagnosis.notes)


def _match(match: Match) -> Iterator[Row]:
    signature = match.signature
    yield signature.id, signature.title
    rows = f"rows {', '.join(signature.rows)} of runc#1780; " if signature.rows else ""
    lines = len({one.line for one in match.evidence if one.line})
    yield "it is", f"{rows}{SURE[match.confidence]} ({lines} lines of evidence)"
    yield from _listed("shown by", (_evidence(one.line, one.text, one.source) for one in match.evidence))
    yield from _listed("version", match.notes)
    yield "why", signature.mechanism
    yield "now", signature.workaround
    yield "fixed in", signature.fixed
    yield from _listed("read", (issue_url(issue) for issue in signature.issues[:3]))
    if signature.scenarios:
        yield "reproduce", f"cgrace run {signature.scenarios[0]}"


def _evidence(line: int, text: str, source: str) -> str:
    where = source if source in ("jobs", "units", "trace", "--stuck") else ""
    if line:
        return f"{f'{where}, ' if where else ''}line {line}: {text}"
    return f"{where}: {text}" if where else text


def _possible(possible: Iterable[Match]) -> Iterator[Row]:
    for match in possible:
        signature = match.signature
        yield "if it lasts", f"{named(signature)}: {signature.title}"
        yield from _listed("", (_evidence(one.line, one.text, one.source) for one in match.evidence[:3]))
        yield "", _would_show(signature)


def _would_show(signature: Signature) -> str:
    """What would make a possible match a match."""
    if signature.certain == "timed":
        jobs = "; give --jobs to see whether its job is gone" if signature.jobs else ""
        return f"that wait ends by itself after {signature.bound_s} s{jobs}"
    jobs = ", give --jobs" if signature.jobs else ""
    return f"a healthy operation looks so for a moment: take a second dump in a minute{jobs}, or say --stuck"


def _listed(label: str, lines: Iterable[str]) -> Iterator[Row]:
    for number, line in enumerate(lines):
        yield ("" if number else label), inert_line(line)
