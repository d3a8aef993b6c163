"""Properties of the scenario format: data survives the trip through a trace, and no text raises anything else."""

from __future__ import annotations

import dataclasses
import json
import re
import tomllib
import types
import typing
from enum import StrEnum
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cgrace.harness import faults
from cgrace.harness.errors import ScenarioError, TraceError
from cgrace.harness.faults import Fault
from cgrace.harness.scenario.data import from_data, to_data
from cgrace.harness.scenario.format import FILE
from cgrace.harness.scenario.locate import locate
from cgrace.harness.scenario.model import Scenario
from cgrace.harness.scenario.parse import load_text

FOLDER = Path(__file__).resolve().parents[1] / "scenarios"
SHIPPED = [path.read_text(encoding="utf-8") for path in sorted(FOLDER.rglob("*.toml"))]
KINDS = [k for k in vars(faults).values() if isinstance(k, type) and issubclass(k, Fault) and k is not Fault]
INTEGERS = st.integers(-(2**63), 2**63)


def any_of(hint: Any) -> st.SearchStrategy[Any]:
    """Any value of a type of the model."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin in (types.UnionType, typing.Union):
        return st.one_of([any_of(arg) for arg in args])
    if origin is tuple:
        if len(args) == 2 and args[1] is Ellipsis:
            return st.lists(any_of(args[0]), max_size=2).map(tuple)
        return st.tuples(*(any_of(arg) for arg in args))
    if hint is type(None):
        return st.none()
    if hint is Fault:
        return st.one_of([any_of(kind) for kind in KINDS])
    if isinstance(hint, type) and dataclasses.is_dataclass(hint):
        hints = typing.get_type_hints(hint)
        return st.builds(hint, **{field.name: any_of(hints[field.name]) for field in dataclasses.fields(hint)})
    if issubclass(hint, StrEnum):
        return st.sampled_from(list(hint))
    plain: dict[Any, st.SearchStrategy[Any]] = {
        str: st.text(max_size=8),
        int: INTEGERS,
        bool: st.booleans(),
        Path: st.sampled_from([Path("a.toml"), Path("/b/c.toml")]),
    }
    return plain[hint]


@settings(deadline=None, max_examples=60)
@given(any_of(Scenario))
def test_data_is_lossless(scenario: Scenario) -> None:
    """from_data(to_data(s)) == s, through JSON."""
    assert from_data(json.loads(json.dumps(to_data(scenario)))) == scenario


JSON = st.recursive(
    st.none() | st.booleans() | INTEGERS | st.floats(allow_nan=False) | st.text(max_size=6),
    lambda below: st.lists(below, max_size=3) | st.dictionaries(st.text(max_size=6), below, max_size=3),
    max_leaves=6,
)


@settings(deadline=None, max_examples=150)
@given(st.sampled_from(SHIPPED), st.data())
def test_hostile_data(text: str, data: st.DataObject) -> None:
    """Data with any one thing replaced is the same kind of scenario or a TraceError."""
    stored = json.loads(json.dumps(to_data(load_text(text, Path("s/x.toml")))))
    place: Any = stored
    while True:
        keys = list(place) if isinstance(place, dict) else list(range(len(place)))
        key = data.draw(st.sampled_from(keys))
        if not isinstance(place[key], dict | list) or not place[key] or data.draw(st.booleans()):
            break
        place = place[key]
    place[key] = data.draw(JSON)
    try:
        assert isinstance(from_data(stored), Scenario)
    except TraceError as error:
        assert error.message


@pytest.mark.parametrize("stored", [None, [], {}, {"title": 1}, "x"])
def test_data_of_something_else(stored: object) -> None:
    """What is no scenario at all is a TraceError."""
    with pytest.raises(TraceError):
        from_data(stored)


def parse(text: str) -> None:
    """A text is a scenario or a ScenarioError that names the file."""
    try:
        scenario = load_text(text, Path("s/x.toml"))
    except ScenarioError as error:
        assert error.file == "s/x.toml"
        assert error.message
        assert error.line is None or 1 <= error.line <= text.count("\n") + 1
    else:
        assert from_data(to_data(scenario)) == scenario


@settings(deadline=None, max_examples=200)
@given(st.text(max_size=200))
def test_any_text(text: str) -> None:
    """Nothing but ScenarioError is raised for a text."""
    parse(text)


TOKENS = st.sampled_from(
    [
        *"[]{}=,.\"'#\n\\ -0aé\x00",
        '"""',
        "'''",
        "[[steps]]",
        "nth 2",
        "first ended",
        "a.slice",
        "true",
        "1.5s",
        "before",
    ]
)


@settings(deadline=None, max_examples=400)
@given(
    st.sampled_from(SHIPPED),
    st.lists(st.tuples(st.floats(0, 1), st.integers(0, 30), TOKENS | st.text(max_size=3)), max_size=4),
)
def test_damaged_scenarios(text: str, cuts: list[tuple[float, int, str]]) -> None:
    """A shipped scenario with pieces cut out and put in is a scenario or a ScenarioError."""
    for share, length, token in cuts:
        at = int(share * len(text))
        text = text[:at] + token + text[at + length :]
    parse(text)


def toml_of(value: Any) -> str:
    """A value as TOML, tables inline."""
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{json.dumps(key)} = {toml_of(item)}" for key, item in value.items()) + " }"
    if isinstance(value, list):
        return "[" + ", ".join(toml_of(item) for item in value) + "]"
    return json.dumps(value)


TEXTS = [
    "first",
    "second",
    "x",
    "driver",
    "first ended",
    "first called",
    "second returned",
    "JobRemoved of a-b.slice",
    "reply to StopUnit of a-b.slice",
    "job of a-b.slice started",
    "cgroup made: devices of a-b.slice",
    "fault x fired",
    "driver ready",
    "first ended before second called",
    "devices of a-b.slice",
    "devices/x",
    "/x",
    "a-b.slice",
    "a-c.scope",
    "1s",
    "500ms",
    "0",
    "1",
    "org.a.B",
    ":1.5",
]
WORDS = st.sampled_from(TEXTS)
RARELY = st.integers(0, 30).map(lambda n: n == 0)


def near(rule: dict[str, Any]) -> st.SearchStrategy[Any]:
    """A value by the schema, whose texts mostly fit together."""
    if choices := rule.get("anyOf") or (rule.get("oneOf") if "properties" not in rule else None):
        return st.one_of([near(choice) for choice in choices])
    if "enum" in rule:
        return st.sampled_from(rule["enum"])
    if "const" in rule:
        return st.just(rule["const"])
    if "pattern" in rule:
        fitting = st.sampled_from([text for text in TEXTS if re.search(rule["pattern"], text)])
        return RARELY.flatmap(lambda misfit: WORDS if misfit else fitting)
    if "properties" in rule:
        known = {name: near(below) for name, below in rule["properties"].items()}
        required = {name: known.pop(name) for name in (*rule.get("required", ()), *_one_of(rule))}
        return st.fixed_dictionaries(required, optional=known)
    if rule.get("type") == "array":
        return st.lists(near(rule["items"]), min_size=rule.get("minItems", 0), max_size=2)
    if "patternProperties" in rule:
        ((pattern, below),) = rule["patternProperties"].items()
        names = st.sampled_from([text for text in TEXTS if re.search(pattern, text)])
        return st.dictionaries(names, near(below), min_size=1, max_size=2)
    return {"integer": st.integers(0, 3), "boolean": st.booleans()}.get(str(rule.get("type")), WORDS)


def _one_of(rule: dict[str, Any]) -> tuple[str, ...]:
    """The first of the keys of which there must be exactly one."""
    return tuple(rule["oneOf"][0]["required"]) if "oneOf" in rule else ()


def document() -> st.SearchStrategy[dict[str, Any]]:
    """A whole file: two steps of the names that the texts above know, and anything else by the schema."""
    schema = FILE.schema()
    steps = [
        {"id": "first", "do": "apply", "unit": "a-b.slice"},
        {"id": "second", "do": "apply", "unit": "a-c.scope", "pid": "x"},
    ]
    step = near(schema["properties"]["steps"]["items"])
    mixed = st.lists(step, max_size=2).map(lambda more: steps + more)
    return st.tuples(near(schema), RARELY, mixed).map(lambda t: t[0] if t[1] else {**t[0], "steps": t[2]})


@settings(deadline=None, max_examples=300)
@given(document())
def test_files_of_the_right_shape(data: dict[str, Any]) -> None:
    """Files of the right form, whatever they mean together, are scenarios or ScenarioErrors."""
    parse("\n".join(f"{key} = {toml_of(value)}" for key, value in data.items()))


KEYS = st.text('ab-_ .é"\\', min_size=1, max_size=4)
TREES = st.dictionaries(
    KEYS,
    st.recursive(
        st.integers() | st.booleans() | st.text("ab#]}\"'\\\n", max_size=6),
        lambda below: st.lists(below, max_size=3) | st.dictionaries(KEYS, below, max_size=3),
        max_leaves=8,
    ),
    min_size=1,
    max_size=4,
)


@settings(deadline=None, max_examples=200)
@given(TREES, st.booleans())
def test_locator_knows_every_key(tree: dict[str, Any], headers: bool) -> None:
    """Whatever the text, each top-level key is found in its own line, and every key below has a line."""
    lines: list[str] = []
    starts = {}
    plain = {key: value for key, value in tree.items() if not headers or not isinstance(value, dict)}
    for key, value in plain.items():
        lines.append(f"{json.dumps(key)} = {toml_of(value)} # = {{")
        starts[key] = len(lines)
    for key in tree.keys() - plain.keys():
        lines.append(f"[ {json.dumps(key)} ]")
        starts[key] = len(lines)
        lines += [f"{json.dumps(below)} = {toml_of(item)}" for below, item in tree[key].items()]
    text = "\n".join(lines)
    assert tomllib.loads(text) == tree
    found = locate(text)
    assert {key: found[key,] for key in tree} == starts

    def walk(value: Any, place: tuple[str | int, ...]) -> None:
        for key, item in (
            value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
        ):
            assert (*place, key) in found
            walk(item, (*place, key))

    walk(tree, ())
