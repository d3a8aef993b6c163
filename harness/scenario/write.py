"""Scenarios as TOML: the inverse of parse.py. What it writes is read again before it is given out, so that nobody gets less."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from cgrace.harness import faults as f
from cgrace.harness.clock import NS_PER_MS, NS_PER_S
from cgrace.harness.errors import ScenarioError, TraceError
from cgrace.harness.faults import Fault
from cgrace.harness.scenario.faults_toml import PATIENCE_NS
from cgrace.harness.scenario.model import Expect, Scenario, Setting, Step
from cgrace.harness.scenario.parse import load_text
from cgrace.harness.scenario.steps_toml import DRIVER
from cgrace.harness.scenario.units import parent_of
from cgrace.harness.scenario.words import NEVER

_BARE_KEY = re.compile(r"^[A-Za-z0-9_-]+$")
_ESCAPED = {'"': '\\"', "\\": "\\\\", "\n": "\\n", "\t": "\\t", "\r": "\\r"}


def write(scenario: Scenario) -> str:
    """The scenario as a file's text: `load_text(write(s), s.file)` is `s` apart from line numbers.

    TraceError where that cannot be: the scenario came from a trace, and no file can say what it says.
    """
    text = _text(scenario)
    try:
        again = load_text(text, scenario.file)
    except ScenarioError as error:
        raise TraceError(f"its scenario cannot be written as a file: {error.message}") from None
    if without_lines(again) != without_lines(dataclasses.replace(scenario, name=again.name)):
        raise TraceError("its scenario says what no scenario file can say")
    return text


def without_lines(scenario: Scenario) -> Scenario:
    """The scenario as it is wherever it stands in its file; an order's text is as its points say it."""

    def bare(items: Iterable[Any]) -> tuple[Any, ...]:
        return tuple(dataclasses.replace(item, line=0) for item in items)

    return dataclasses.replace(
        scenario,
        steps=bare(scenario.steps),
        faults=bare(scenario.faults),
        orders=tuple(dataclasses.replace(order, line=0, text="") for order in scenario.orders),
        expect=bare(scenario.expect),
    )


def _text(scenario: Scenario) -> str:
    default = {field.name: field.default for field in dataclasses.fields(Scenario)}
    keys: dict[str, Any] = {
        "title": scenario.title,
        "issue": scenario.issue,
        "mechanism": scenario.mechanism,
        "rows": scenario.rows,
        "drivers": scenario.drivers,
        "markers": scenario.markers,
    }
    for key in ("bound", "patience", "wall"):
        value = getattr(scenario, f"{key}_ns")
        keys[key] = _duration(value) if value != default[f"{key}_ns"] else ""
    keys["orders"] = tuple(order.text or f"{order.first} before {order.second}" for order in scenario.orders)
    blocks = [_table("", keys)]
    blocks += [_table("[[on]]", _setting(setting)) for setting in scenario.settings]
    ended: dict[str, str] = {}
    for step in scenario.steps:
        blocks.append(_table("[[steps]]", _step(step, ended.get(step.process))))
        ended[step.process] = step.id
    blocks += [_table("[[faults]]", _fault(fault, number)) for number, fault in enumerate(scenario.faults, 1)]
    blocks += [_table("[[expect]]", _expect(expect)) for expect in scenario.expect]
    return "\n".join(blocks)


# ---- TOML


def _table(head: str, keys: Mapping[str, Any]) -> str:
    """A table; what is empty is left out, but for what is marked as meant."""
    lines = [head] if head else []
    for key, value in keys.items():
        if isinstance(value, _Meant):
            lines.append(f"{_key(key)} = {_value(value.value)}")
        elif value not in ("", (), None, {}):
            lines.append(f"{_key(key)} = {_value(value)}")
    return "\n".join(lines) + "\n"


@dataclasses.dataclass(frozen=True, slots=True)
class _Meant:
    """A value that says something although it is empty."""

    value: Any


def _key(key: str) -> str:
    return key if _BARE_KEY.match(key) else _string(key)


def _value(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(value)
    if isinstance(value, str):
        return _string(value)
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{_key(key)} = {_value(item)}" for key, item in value.items()) + " }"
    return "[" + ", ".join(_value(item) for item in value) + "]"


def _string(text: str) -> str:
    """A basic string: control characters as escapes (TOML 1.0, "String")."""
    plain = "".join(
        _ESCAPED.get(char) or (f"\\u{ord(char):04X}" if ord(char) < 0x20 or ord(char) == 0x7F else char)
        for char in text
    )
    return f'"{plain}"'


def _duration(ns: int) -> str:
    if ns % NS_PER_S == 0:
        return f"{ns // NS_PER_S}s"
    return f"{ns // NS_PER_MS}.{ns % NS_PER_MS:06}".rstrip("0").rstrip(".") + "ms"


# ---- the tables of the format


def _setting(setting: Setting) -> dict[str, Any]:
    keys = {"profile": setting.profile, "layout": setting.layout if setting.layout != "v1" else ""}
    return keys | {"rung": setting.rung if setting.rung != "rc5" else ""}


def _step(step: Step, before: str | None) -> dict[str, Any]:
    usual = () if before is None else (f"{before} ended",)
    after = tuple(str(point) for point in step.after)
    return {
        "id": step.id,
        "do": step.do,
        "unit": step.unit,
        "parent": step.parent if step.parent != parent_of(step.unit) else "",
        "pid": step.workload,
        "process": step.process if step.process != DRIVER else "",
        "after": _Meant(after) if after != usual else "",
        "fresh": "" if step.fresh else _Meant(False),
        "may_fail": _Meant(True) if step.may_fail else "",
        "bound": _duration(step.bound_ns) if step.bound_ns is not None else "",
        "resources": dict(step.resources),
        "delegate": "" if step.delegate is None else _Meant(step.delegate),
    }


def _expect(expect: Expect) -> dict[str, Any]:
    violated: dict[str, list[str]] = {}
    for invariant, subject in expect.violated:
        violated.setdefault(str(invariant), []).append(subject)
    return {
        "generations": expect.generations,
        "releases": expect.releases,
        "violated": violated,
        "failed": dict(expect.failed),
        "profiles": expect.profiles,
        "rungs": expect.rungs,
        "layouts": expect.layouts,
        "note": expect.note,
    }


def _fault(fault: Fault, number: int) -> dict[str, Any]:
    keys = _FAULTS[type(fault)](fault)
    return keys if fault.id == f"fault {number}" else {**keys, "id": fault.id}


def _match(verb: str, match: f.Match) -> dict[str, Any]:
    nth: int | str = "every" if match.nth is None else match.nth
    return {verb: match.text, "nth": nth if nth != 1 else "", "phase": "probe" if match.probe else ""}


def _patience(patience_ns: int | None) -> str:
    if patience_ns == PATIENCE_NS:
        return ""
    return "none" if patience_ns is None else _duration(patience_ns)


def _nth(nth: int) -> int | str:
    return nth if nth != 1 else ""


def _type(job: str) -> str:
    return job if job != "start" else ""


_FAULTS: dict[type[Fault], Callable[[Any], dict[str, Any]]] = {
    f.Hold: lambda x: {
        **_match("hold", x.match),
        "until": str(x.until),
        "patience": _patience(x.patience_ns),
        "overtake": _Meant(True) if x.overtake else "",
    },
    f.Drop: lambda x: _match("drop", x.match),
    f.Duplicate: lambda x: _match("duplicate", x.match),
    f.Reorder: lambda x: _match("reorder", x.match),
    f.AnswerError: lambda x: {**_match("answer", x.match), "error": x.name, "text": x.text},
    f.Amend: lambda x: {**_match("amend", x.match), "set": {str(index): value for index, value in x.values}},
    f.Forge: lambda x: {
        "forge": f"{x.member} of {x.unit}",
        "when": str(x.when),
        "job": x.job if x.job != f"job of {x.unit}" else "",
        "result": x.result if x.result != "done" else "",
        "times": _nth(x.times),
        "sender": x.sender,
    },
    f.Disconnect: lambda x: {"disconnect": x.which, "when": str(x.when)},
    f.StopReading: lambda x: {
        "stop_reading": _Meant(True),
        "when": str(x.when),
        "until": "" if x.until is None else str(x.until),
    },
    f.Garbage: lambda x: {"garbage": x.what, "when": str(x.when), "which": x.which if x.which != "all" else ""},
    f.JobStays: lambda x: (
        {"job": x.unit, "ends": NEVER, "type": _type(x.type), "nth": _nth(x.nth)}
        if x.until is None
        else {
            "job": x.unit,
            "stays_queued_until": str(x.until),
            "patience": _patience(x.patience_ns),
            "type": _type(x.type),
            "nth": _nth(x.nth),
        }
    ),
    f.JobEnds: lambda x: {"job": x.unit, "ends": x.result, "type": _type(x.type), "nth": _nth(x.nth)},
    f.HoldOpen: lambda x: {"hold_open": x.hierarchy + x.path, "until": str(x.until), "nth": _nth(x.nth)},
    f.HoldClose: lambda x: {"hold_close": x.connection, "until": str(x.until), "nth": _nth(x.nth)},
    f.DeleteCgroup: lambda x: {"delete": x.hierarchy + x.path, "when": str(x.when)},
    f.MoveProcess: lambda x: {"move": x.process, "to": x.hierarchy + x.path, "when": str(x.when)},
    f.DisableController: lambda x: {"disable": x.controller, "at": x.path, "when": str(x.when)},
    f.FreezeCgroup: lambda x: {"thaw" if x.thaw else "freeze": x.path, "when": str(x.when)},
    f.Peer: lambda x: {"peer": x.peer, "do": x.do, "when": str(x.when)},
}
