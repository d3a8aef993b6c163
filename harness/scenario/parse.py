"""Scenario files into scenarios. Strict: whatever cannot be what its author meant is one ScenarioError with file and line.

A problem names the line, what was found, what was expected, and where it can what to write instead. The first by line is
reported. Nothing but ScenarioError is raised, whatever the text.
"""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

from cgrace.harness.errors import ScenarioError
from cgrace.harness.faults import Order
from cgrace.harness.points import Point, PointKind
from cgrace.harness.scenario.causes import check_order
from cgrace.harness.scenario.faults_toml import build_fault
from cgrace.harness.scenario.format import FILE
from cgrace.harness.scenario.locate import locate
from cgrace.harness.scenario.model import Scenario
from cgrace.harness.scenario.names import Names
from cgrace.harness.scenario.place import Section, Source
from cgrace.harness.scenario.steps_toml import build_expect, build_settings, build_steps, collect_names

FILE_BYTES_MAX = 1024 * 1024

_AT_LINE = re.compile(r"\s*\(at (?:line (\d+), column \d+|end of document)\)$")


def load(path: Path) -> Scenario:
    """The scenario in one file."""
    try:
        if path.stat().st_size > FILE_BYTES_MAX:
            raise ScenarioError(f"larger than {FILE_BYTES_MAX} bytes: no scenario is", file=path)
        text = path.read_bytes().decode("utf-8")
    except OSError as error:
        reason = error.strerror or str(error)
        raise ScenarioError(
            f"cannot be read: {reason}", hint="give a .toml file or a folder of them", file=path
        ) from None
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise ScenarioError("is not UTF-8 text, as TOML must be", file=path, line=line) from None
    return load_text(text, path)


def load_tree(folder: Path) -> tuple[Scenario, ...]:
    """Every scenario in a folder and below, by file name; of a single file, that one."""
    if not folder.is_dir():
        return (load(folder),)
    found = tuple(load(path) for path in sorted(folder.rglob("*.toml")))
    if not found:
        raise ScenarioError(
            "has no scenario in it", hint="a scenario is a .toml file: see scenarios/README.md", file=folder
        )
    named: dict[str, Path] = {}
    for scenario in found:
        if scenario.name in named:
            message = f"two scenarios are called '{scenario.name}': {named[scenario.name]} is the other"
            raise ScenarioError(message, hint="rename one", file=scenario.file)
        named[scenario.name] = scenario.file
    return found


def load_text(text: str, path: Path) -> Scenario:
    """The scenario that a text says; `path` names it and is the file in messages."""
    try:
        data = tomllib.loads(text)
    except RecursionError:
        raise ScenarioError("is nested deeper than any scenario", file=path) from None
    except ValueError as error:
        where = _AT_LINE.search(str(error))
        line = text.count("\n") + 1 if where is None or where[1] is None else int(where[1])
        message = "is not TOML: " + _AT_LINE.sub("", str(error))
        raise ScenarioError(message, hint="see https://toml.io for its rules", file=path, line=line) from None
    source = Source(path, locate(text))
    section = FILE.read(data, source.root)
    source.check()
    assert section is not None, "a document that is not a table is not TOML"
    scenario = _build(section, path)
    source.check()
    return scenario


def _build(file: Section, path: Path) -> Scenario:
    names = collect_names(file)
    steps = build_steps(file, names)
    sections = file.get("faults", ())
    faults = tuple(
        fault
        for number, section in enumerate(sections, 1)
        if (fault := build_fault(section, names, number)) is not None
    )
    orders = _orders(file, names)
    source = file.place.source
    if not source.problems:
        check_order(source, steps, faults, orders)
    defaults = {
        key: value
        for key, value in (
            ("bound_ns", file.get("bound")),
            ("patience_ns", file.get("patience")),
            ("wall_ns", file.get("wall")),
        )
        if value is not None
    }
    identities = tuple(section.get("id", f"fault {number}") for number, section in enumerate(sections, 1))
    return Scenario(
        file=path,
        name=f"{path.absolute().parent.name}/{path.stem}",
        title=file.get("title").strip(),
        issue=file.get("issue", ""),
        mechanism=" ".join(file.get("mechanism", "").split()),
        rows=file.get("rows", ()),
        settings=build_settings(file),
        workloads=names.workloads,
        processes=names.processes,
        steps=steps,
        faults=faults,
        orders=orders,
        expect=build_expect(file, names, identities),
        drivers=file.get("drivers", ()),
        markers=file.get("markers", ()),
        **defaults,
    )


def _orders(file: Section, names: Names) -> tuple[Order, ...]:
    found = []
    for number, text in enumerate(file.get("orders", ())):
        place = file.at("orders").at(number)
        parts = re.split(r"\s+before\s+", text.strip())
        if len(parts) != 2:
            place.problem(f"'{text}' is not an order; expected '<point> before <point>', once", "write two orders")
            continue
        first, second = (names.point(part, place) for part in parts)
        if second is not None and not _can_be_held(second):
            place.problem(
                f"nothing can hold back '{second}', so it cannot be made to come after '{parts[0]}'",
                "order what causes it: '<step> called', 'job of <unit> started' or '<Member> of <unit> delivered'",
            )
        if first is not None and second is not None:
            found.append(Order(first=first, second=second, line=place.line, text=text.strip()))
    return tuple(found)


def _can_be_held(point: Point) -> bool:
    """Whether cgrace can keep a point from being reached: by not calling a step, keeping a job, or holding a message."""
    match point.kind:
        case PointKind.STEP:
            return point.stage == "called"
        case PointKind.JOB:
            return point.stage in ("started", "ended")
        case PointKind.MESSAGE | PointKind.REPLY:
            return point.stage != "seen"
        case _:
            return False
