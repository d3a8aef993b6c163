"""The JSON Schema of results: what `cgrace run --json` prints and what a stored run's results.json holds.

`python -m cgrace.reports.results_schema` writes reports/results.schema.json anew; a test holds that file, this table and what
machine.py says to one another. Within one number of `schema`, fields are added and never taken away.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from cgrace.harness.events import Grade
from cgrace.harness.verdict import Invariant, Outcome, Verdict
from cgrace.reports.machine import SCHEMA_VERSION

SCHEMA_NAME = "results.schema.json"
Rule = dict[str, Any]


def _text(description: str) -> Rule:
    return {"type": "string", "description": description}


def _flag(description: str) -> Rule:
    return {"type": "boolean", "description": description}


def _whole(description: str) -> Rule:
    return {"type": "integer", "minimum": 0, "description": description}


def _number(description: str) -> Rule:
    return {"type": "number", "minimum": 0, "description": description}


def _one_of(words: type[Invariant | Outcome | Verdict | Grade], description: str) -> Rule:
    return {"enum": [str(word) for word in words], "description": description}


def _list(items: Rule, description: str) -> Rule:
    return {"type": "array", "items": items, "description": description}


def _table(description: str, properties: Rule, *, optional: tuple[str, ...] = ()) -> Rule:
    return {
        "type": "object",
        "description": description,
        "properties": properties,
        "required": [name for name in properties if name not in optional],
        "additionalProperties": False,
    }


def _or_null(rule: Rule) -> Rule:
    return {"anyOf": [rule, {"type": "null"}], "description": rule["description"]}


_CASE = _text('how people select it: "runc_1780/late_job[219-rhel7.4:v1]-async"')
_TURN = _whole("which repetition, from 0")
_LINES: Rule = {"type": "string"}
_FINDING = _table(
    "what one checker says of one subject",
    {
        "invariant": _one_of(Invariant, "what was checked"),
        "verdict": _one_of(Verdict, "unknown never passes"),
        "subject": _text("a step, unit, process or fault"),
        "summary": _text("one line"),
        "short": _text("a word for tables"),
        "explanation": _text("what happened, why it is wrong, what to look at"),
        "evidence": _list(_LINES, "lines for people"),
        "events": _list(_whole("an index into the trace"), "the entries that show it"),
        "assumptions": _list(_LINES, "what the proof takes for granted"),
        "grade": _one_of(Grade, "how far from what nature does"),
    },
)
_RESULT = _table(
    "one case that was run, or could not be",
    {
        "case": _CASE,
        "scenario": _text('its name: "runc_1780/late_job"'),
        "file": _text("its file"),
        "title": _text("what happens in it"),
        "issue": _text('"owner/repository#number", or ""'),
        "rows": _list(_LINES, "rows of the story that it serves"),
        "target": _text('where it ran: "fake", "container:bookworm"'),
        "profile": _text("which systemd: a profile of the fake, or the number of the target's own"),
        "layout": _text('the cgroup layout, "v1" or "v2"'),
        "driver": _table(
            "what drove the cgroups",
            {
                "name": _text("as on the command line"),
                "generation": _text('its behaviour; "source" for a build of the user\'s own'),
                "module": _text("where its code is from"),
                "version": _text("which version of that"),
            },
        ),
        "outcome": _one_of(Outcome, "reproduced and clean pass"),
        "reasons": _list(_LINES, "why it is not as expected"),
        "findings": _list(_FINDING, "of every checker"),
        "failed": _list(
            {"type": "array", "items": {"type": "string"}, "minItems": 2}, "[step, error] of steps that ended with one"
        ),
        "passed": _flag("whether it is as expected"),
        "trace": _or_null(_text("the stored trace")),
        "error": _text('why it could not run, or ""'),
        "unavailable": _flag("this machine cannot run it, however often it is tried: no failure"),
        "repeated": _flag("run again because the first run was inconclusive"),
        "turn": _TURN,
        "wall_ms": _number("how long it took"),
        "canonical": _text("hash of the canonical trace: equal for equal runs"),
    },
)
_WRONG = _table(
    "one thing that a driver does wrong",
    {
        "invariant": _text('what is violated; "" for a step that fails'),
        "subject": _text("of what, or which step"),
        "text": _text("how the step fails"),
    },
)
_WRONGS = {
    name: _list(_WRONG, what)
    for name, what in (
        ("new", "what the baseline does not do"),
        ("same", "what both do"),
        ("fixed", "what only the baseline does"),
        ("untold", "what the baseline, which hung before, never got to"),
    )
}
_COMPARISON = _table(
    "a case beside its baseline's",
    {
        "case": _CASE,
        "turn": _TURN,
        "compared": _flag("the baseline came to a conclusion"),
        **_WRONGS,
    },
)
_COUNTS = {
    **{str(outcome): _whole(f"how many came out {outcome}") for outcome in Outcome},
    "repeated": _whole("run again because the first run was inconclusive"),
    "not_run": _whole("not begun, or not ended"),
    "unavailable": _whole("that this machine cannot run"),
    "results": _whole("all that were run"),
}
_REPEAT = _table(
    "a case that was run several times",
    {
        "case": _CASE,
        "runs": _whole("how often"),
        "passed": _whole("how often as expected"),
        "outcomes": _list(_LINES, "how it came out"),
        "traces": _whole("how many different runs that was"),
    },
)


def schema() -> Rule:
    """The schema, JSON Schema draft 2020-12."""
    of_all = {
        "cgrace": _text("the version that wrote this"),
        "schema": {"const": SCHEMA_VERSION, "description": "of this document"},
        "command": _text("which command"),
        "passed": _flag("whether all is as expected, and something was run"),
        "results": _list(_RESULT, "one for each case; with repetitions those that differ"),
    }
    of_run = {
        "repeats": _list(_REPEAT, "with --repeat"),
        "not_run": _list(
            _table("a case that was not begun or not ended", {"case": _CASE, "turn": _TURN, "why": _text("why")}),
            "what was asked for and not run",
        ),
        "counts": _table("of the drivers' results", _COUNTS),
        "timing": _table(
            "what the time went to",
            {
                "wall_ms": _number("from the first case's beginning to the last one's end"),
                "cases_ms": _number("the sum of the cases"),
                "ratio": _number("the cases' sum by the wall clock"),
                "longest": _or_null(_table("no run is shorter", {"case": _CASE, "ms": _number("how long it took")})),
            },
        ),
        "shard": _text('"1/3", or ""'),
        "baseline": _or_null(
            _table(
                "what the drivers were compared with",
                {"driver": _text("its name"), "comparisons": _list(_COMPARISON, "one for each of the drivers' cases")},
            )
        ),
        "interrupted": _flag("ended by the user"),
    }
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "cgrace results",
        **_table("what a run came to", of_all | of_run, optional=tuple(of_run)),
    }


def schema_text() -> str:
    """The schema as it is stored."""
    return json.dumps(schema(), indent=1, ensure_ascii=False) + "\n"


def write(folder: Path) -> Path:
    """Write the schema beside this file's module."""
    path = folder / SCHEMA_NAME
    path.write_text(schema_text(), encoding="utf-8")
    return path


if __name__ == "__main__":
    write(Path(__file__).resolve().parent)
