"""The scenarios that cgrace ships: all load, say what they are, and the schema and README beside them are current."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cgrace.harness.drivers.catalogue import CATALOGUE
from cgrace.harness.drivers.versions import all_released
from cgrace.harness.errors import ScenarioError
from cgrace.harness.points import parse_point
from cgrace.harness.scenario import words
from cgrace.harness.scenario.locate import locate
from cgrace.harness.scenario.model import Scenario
from cgrace.harness.scenario.parse import load, load_text, load_tree
from cgrace.harness.scenario.releases import among
from cgrace.harness.scenario.schema import SCHEMA_NAME, schema, schema_text

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "scenarios"
FILES = sorted(FOLDER.rglob("*.toml"))
ROWS = {
    "1-4",
    "1-4b",
    "1-4c",
    "5a",
    "5b",
    "6",
    "7",
    "7a",
    "7a'",
    "7b",
    "8",
    "9",
    "10",
    "11",
    "11a",
    "12",
    "fix",
    "reply",
}


def valid(value: Any, rule: dict[str, Any], where: str = "") -> Iterator[str]:
    """What is wrong with a value by a JSON Schema: the part of draft 2020-12 that our schema uses."""
    kinds: dict[str, Any] = {"string": str, "integer": int, "boolean": bool, "array": list, "object": dict}
    kinds |= {"number": (int, float), "null": type(None)}
    wanted = rule.get("type", [])
    names = [wanted] if isinstance(wanted, str) else wanted
    if names and not any(isinstance(value, kinds[n]) and (n != "integer" or value is not True) for n in names):
        yield f"{where}: {value!r} is no {wanted}"
        return
    if "enum" in rule and value not in rule["enum"]:
        yield f"{where}: {value!r} is not of {rule['enum']}"
    if "const" in rule and value != rule["const"]:
        yield f"{where}: {value!r} is not {rule['const']!r}"
    if "pattern" in rule and not re.search(rule["pattern"], value):
        yield f"{where}: {value!r} is not like {rule['pattern']}"
    if "minimum" in rule and value < rule["minimum"]:
        yield f"{where}: {value} is below {rule['minimum']}"
    for choice in {"anyOf", "oneOf"} & rule.keys():
        met = sum(not list(valid(value, r, where)) for r in rule[choice])
        if met == 0 or (met > 1 and choice == "oneOf"):
            yield f"{where}: {value!r} does not meet {choice}"
    if isinstance(value, dict):
        yield from _valid_table(value, rule, where)
    if isinstance(value, list):
        if len(value) < rule.get("minItems", 0):
            yield f"{where}: too few"
        for number, item in enumerate(value):
            yield from valid(item, rule.get("items", {}), f"{where}[{number}]")


def _valid_table(value: dict[str, Any], rule: dict[str, Any], where: str) -> Iterator[str]:
    yield from (f"{where}: {name} is missing" for name in rule.get("required", ()) if name not in value)
    for name, item in value.items():
        below = rule.get("properties", {}).get(name)
        if below is None:
            patterns = rule.get("patternProperties", {}).items()
            below = next((r for p, r in patterns if re.search(p, name)), rule.get("additionalProperties", {}))
        if below is False:
            yield f"{where}: unknown key {name}"
        else:
            yield from valid(item, below, f"{where}.{name}")


def document(path: Path) -> dict[str, Any]:
    """A file as TOML sees it."""
    return tomllib.loads(path.read_text(encoding="utf-8"))


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.stem)
def test_file_loads_and_validates(path: Path) -> None:
    """Each file is a scenario, meets the schema, names the schema for editors, and survives a trace's head."""
    scenario = load(path)
    assert list(valid(document(path), schema())) == []
    assert path.read_text(encoding="utf-8").startswith(f"#:schema ../{SCHEMA_NAME}\n")
    assert Scenario.from_data(json.loads(json.dumps(scenario.to_data()))) == scenario
    assert scenario.mechanism.count(".") in range(2, 6)
    assert max(len(line) for line in scenario.title.splitlines()) <= 110


def test_schema_is_current() -> None:
    """The stored schema is the one that the parser's tables make."""
    stored = (FOLDER / SCHEMA_NAME).read_text(encoding="utf-8")
    assert stored == schema_text(), "run python -m cgrace.harness.scenario.schema"


@pytest.mark.parametrize(
    "edit",
    [
        lambda d: d.update(titel="x"),
        lambda d: d.pop("title"),
        lambda d: d["steps"][0].update(do="aply"),
        lambda d: d["steps"][0].update(unit="x.service"),
        lambda d: d["faults"].append({"hold": "JobRemoved", "drop": "JobRemoved", "until": "first ended"}),
        lambda d: d["faults"].append({"hold": "JobRemoved"}),
        lambda d: d.update(bound="5 hours"),
        lambda d: d.update(on={"profile": "218"}),
    ],
)
def test_schema_refuses_what_the_parser_refuses(edit: Any) -> None:
    """An editor underlines the same mistakes of form."""
    data = document(FOLDER / "runc_1780" / "late_signal_lock.toml")
    edit(data)
    assert list(valid(data, schema()))


def test_every_row_has_a_scenario() -> None:
    """The story's rows are all served."""
    served = {row for scenario in load_tree(FOLDER / "runc_1780") for row in scenario.rows}
    assert served == ROWS


def test_guilty_generations_run_where_they_are_guilty() -> None:
    """Every expectation meets at least one driver of the catalogue in one of its settings."""
    for scenario in load_tree(FOLDER):
        for expectation in scenario.expect:
            for generation in set(expectation.generations) - {words.EVERY_DRIVER}:
                found = [
                    (driver.name, setting)
                    for driver in (*CATALOGUE, *all_released())
                    for setting in scenario.settings
                    if driver.generation == generation
                    and driver.rung in ("", setting.rung)
                    and setting.layout in driver.layouts
                    and expectation in scenario.expected(generation, setting)
                ]
                assert found, f"{scenario.file}:{expectation.line}: no driver is {generation} there"


def test_guilty_releases_run_where_they_are_guilty() -> None:
    """Every range of releases meets one that is listed and runs in a setting of the file; commands are the machine's own."""
    for scenario in load_tree(FOLDER):
        for expectation in scenario.expect:
            for text in expectation.releases:
                if (
                    text.split()[0] in ("crun", "runc-cli") or "+" in text
                ):  # what is linked anew or rootless has a name when asked for
                    continue
                met = [
                    driver.name
                    for driver in (*CATALOGUE, *all_released())
                    for setting in scenario.settings
                    if among(driver.release, (text,))
                    and setting.layout in driver.layouts
                    and expectation in scenario.expected("", setting, driver.release)
                ]
                assert met, f"{scenario.file}:{expectation.line}: no release is '{text}' there"


def test_words_are_those_of_the_catalogue_and_the_fake() -> None:
    """Generations are the catalogue's; every profile of the fake may be named."""
    assert {spec.generation for spec in (*CATALOGUE, *all_released())} == set(words.GENERATIONS)
    profiles = {path.stem for path in (ROOT / "fakes" / "systemd" / "profiles").glob("*.toml")}
    assert profiles <= set(words.PROFILES)


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.stem)
def test_locator_finds_every_key(path: Path) -> None:
    """Each key of a file has a line, and the line has the key."""
    text = path.read_text(encoding="utf-8")
    lines, found = text.splitlines(), locate(text)

    def walk(value: Any, place: tuple[str | int, ...]) -> None:
        if place:
            line = lines[found[place] - 1]
            assert str(place[-1]) in line or isinstance(place[-1], int)
        for key, item in (
            value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
        ):
            walk(item, (*place, key))

    walk(tomllib.loads(text), ())


def test_readme_example() -> None:
    """The worked example of the README is the shipped scenario, and its mistake reads as the README shows."""
    readme = (FOLDER / "README.md").read_text(encoding="utf-8")
    text = "".join(re.findall(r"```toml\n(.*?)```", readme, re.DOTALL))
    example, shipped = load_text(text, Path("my.toml")), load(FOLDER / "runc_1780" / "late_signal_lock.toml")
    assert [(s.unit, s.after) for s in example.steps] == [(s.unit, s.after) for s in shipped.steps]
    assert [e.violated for e in example.expect] == [e.violated for e in shipped.expect]
    wrong = text.replace('until = "first ended"', 'until = "first finished"')
    with pytest.raises(ScenarioError) as caught:
        load_text(wrong, Path("my.toml"))
    assert str(caught.value) in readme


def test_readme_names_every_word() -> None:
    """The README's tables name every verb, and each of its points can be parsed."""
    readme = (FOLDER / "README.md").read_text(encoding="utf-8")
    verbs = [rule["required"][0] for rule in schema()["properties"]["faults"]["items"]["oneOf"]]
    assert [verb for verb in verbs if f"{verb} =" not in readme and f"`{verb}`" not in readme] == []
    for text in ("first called", "reply to StartTransientUnit of a.slice", "fault late fired", "driver ready"):
        assert f"`{text}`" in readme or f"`{text}" in readme
        parse_point(text)
