"""Settings, steps and expectations from their tables."""

from __future__ import annotations

from cgrace.harness.points import Point, PointKind
from cgrace.harness.scenario.format import NO_PID
from cgrace.harness.scenario.model import Expect, Setting, Step
from cgrace.harness.scenario.names import Names, units_of
from cgrace.harness.scenario.place import Section
from cgrace.harness.scenario.units import ROOT_SLICE, parent_of
from cgrace.harness.verdict import Invariant

DRIVER = "driver"


def build_settings(file: Section) -> tuple[Setting, ...]:
    """Where the scenario makes sense; the same place twice is a problem."""
    found: list[Setting] = []
    for section in file.get("on"):
        setting = Setting(
            profile=section.get("profile"), layout=section.get("layout", "v1"), rung=section.get("rung", "rc5")
        )
        if setting in found:
            section.place.problem(f"{setting.profile}, {setting.layout}, {setting.rung} is there twice", "remove one")
        found.append(setting)
    return tuple(found)


def collect_names(file: Section) -> Names:
    """All names of the file; each may be given once, and a word names one thing."""
    steps: list[Section] = list(file.get("steps"))
    faults = [section for section in file.get("faults", ()) if "id" in section]
    ids = _unique([(section, section.get("id")) for section in steps], "step")
    workloads = tuple(dict.fromkeys(pid for s in steps if (pid := s.get("pid", NO_PID)) != NO_PID))
    processes = tuple(dict.fromkeys([DRIVER, *(s.get("process", DRIVER) for s in steps)]))
    for section in steps:
        if (pid := section.get("pid", NO_PID)) in (*processes, "systemd", "bus"):
            section.at("pid").problem(f"'{pid}' is a process already, so it cannot be a workload", "call it otherwise")
        if section.get("process") in ("systemd", "bus", NO_PID):
            section.at("process").problem(f"a driver process cannot be called '{section.get('process')}'")
    return Names(
        steps=ids,
        workloads=workloads,
        processes=processes,
        faults=_unique([(section, section.get("id")) for section in faults], "fault"),
        units=units_of((s.get("unit"), _parent(s)) for s in steps),
    )


def _unique(found: list[tuple[Section, str]], what: str) -> tuple[str, ...]:
    seen: dict[str, int] = {}
    for section, name in found:
        if name in seen:
            section.at("id").problem(f"two {what}s are called '{name}'; the first is in line {seen[name]}")
        seen.setdefault(name, section.at("id").line)
    return tuple(seen)


def _parent(section: Section) -> str:
    given: str = section.get("parent", "")
    return given or parent_of(section.get("unit"))


def build_steps(file: Section, names: Names) -> tuple[Step, ...]:
    """The steps, each with its points and its bound."""
    bounds = _bounds(file, names)
    last: dict[str, str] = {}
    placed: dict[str, str] = {}
    applied: set[str] = set()
    found = []
    for section in file.get("steps"):
        _check_unit(section, placed)
        _check_exec(section, applied)
        process = section.get("process", DRIVER)
        own = section.get("id")
        after = names.points(section, "after") if "after" in section else _ended(last.get(process))
        _check_after(section, own, after)
        if "bound" in section and own in bounds:
            section.at("bound").problem(f"'{own}' has a bound here and in 'bounds'", "keep one of them")
        pid = section.get("pid", NO_PID)
        resources = section.get("resources")
        found.append(
            Step(
                id=own,
                do=section.get("do"),
                unit=section.get("unit"),
                parent=_parent(section),
                workload="" if pid == NO_PID else pid,
                process=process,
                after=after,
                fresh=section.get("fresh", True),
                may_fail=section.get("may_fail", False),
                resources=tuple(resources.values.items()) if resources else (),
                delegate=section.get("delegate"),
                bound_ns=section.get("bound", bounds.get(own)),
                line=section.place.line,
            )
        )
        last[process] = own
    return tuple(found)


def _bounds(file: Section, names: Names) -> dict[str, int]:
    section = file.get("bounds")
    if section is None:
        return {}
    return {step: time_ns for step, time_ns in section.values.items() if names.step(step, section.at(step))}


def _check_unit(section: Section, placed: dict[str, str]) -> None:
    unit, parent = section.get("unit"), _parent(section)
    if unit == ROOT_SLICE:
        section.at("unit").problem("'-.slice' is the root: no step may touch it", "name a slice below it")
    if not parent.endswith(".slice"):
        section.at("parent").problem(f"a parent is a slice, '{parent}' is not")
    if (first := placed.setdefault(unit, parent)) != parent:
        section.at("parent").problem(f"'{unit}' is below '{first}' in a step before and below '{parent}' here")
    if section.get("pid", NO_PID) == NO_PID and unit.endswith(".scope") and section.get("do") == "apply":
        section.place.problem("a scope needs a process: systemd refuses one without", "add pid = 'workload', any name")


def _check_exec(section: Section, applied: set[str]) -> None:
    """Another process of a unit: there must be a unit, and a process."""
    if section.get("do") == "apply":
        applied.add(section.get("unit"))
    if section.get("do") != "exec":
        return
    if section.get("pid", NO_PID) == NO_PID:
        section.place.problem("exec starts another process in the unit", "add pid = 'another', any name")
    if section.get("unit") not in applied:
        section.at("unit").problem(
            f"no step before it applies '{section.get('unit')}'", "exec is for a unit that exists"
        )


def _ended(step: str | None) -> tuple[Point, ...]:
    if step is None:
        return ()
    return (Point(text=f"{step} ended", kind=PointKind.STEP, subject=step, stage="ended"),)


def _check_after(section: Section, own: str, after: tuple[Point, ...]) -> None:
    ends: dict[str, str] = {}
    for point in after:
        if point.kind is not PointKind.STEP:
            continue
        if point.subject == own:
            section.at("after").problem(f"step '{own}' waits for itself ('{point}')", "name another step")
        if {ends.setdefault(point.subject, point.stage), point.stage} == {"returned", "failed"}:
            message = f"'{point.subject}' either returns or fails: '{own}' waits for both"
            section.at("after").problem(message, f"write '{point.subject} ended'")


def build_expect(file: Section, names: Names, faults: tuple[str, ...]) -> tuple[Expect, ...]:
    """The expectations; subjects are steps, faults, processes or units of the scenario."""
    subjects = (*names.steps, *faults, *names.processes, *names.units)
    settings = {s.get("profile") for s in file.get("on")}
    found = []
    for section in file.get("expect", ()):
        violated = []
        for invariant, steps in (section.get("violated").values if "violated" in section else {}).items():
            place = section.at("violated").at(invariant)
            for subject in steps:
                if subject and subject not in subjects:
                    names.step(subject, place)
                violated.append((Invariant(invariant), subject))
        failed = section.get("failed").values if "failed" in section else {}
        for step in failed:
            names.step(step, section.at("failed").at(step))
        if "generations" not in section and "releases" not in section:
            section.place.problem("the expectation is about no driver", "add generations = [...] or releases = [...]")
        if not violated and not failed:
            section.place.problem("the expectation expects nothing", "add violated = { ... } or failed = { ... }")
        for profile in section.get("profiles", ()):
            if profile not in settings:
                section.at("profiles").problem(f"'{profile}' is in no setting of 'on', so this never applies")
        found.append(
            Expect(
                generations=section.get("generations", ()),
                releases=section.get("releases", ()),
                violated=tuple(violated),
                failed=tuple(failed.items()),
                profiles=section.get("profiles", ()),
                rungs=section.get("rungs", ()),
                layouts=section.get("layouts", ()),
                note=section.get("note", ""),
                line=section.place.line,
            )
        )
    return tuple(found)
