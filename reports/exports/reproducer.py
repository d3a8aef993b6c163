"""A scenario file that stands alone, from a trace: the one setting, the one driver, and what is expected of it there. Pure."""

from __future__ import annotations

import dataclasses
import re
import shlex

from cgrace.harness.errors import TraceError
from cgrace.harness.scenario.model import Expect, Scenario, Setting
from cgrace.harness.scenario.write import write
from cgrace.harness.trace import Trace
from cgrace.reports.inert import inert_line


def reproducer(trace: Trace) -> dict[str, str]:
    """Texts by file name: the scenario, and a README with the command. TraceError where the trace's head is no scenario."""
    head = trace.head
    whole = Scenario.from_data(head.scenario)
    setting = _setting(whole, trace)
    generation, release = (str(head.driver.get(key, "")) for key in ("generation", "release"))
    scenario = dataclasses.replace(
        whole,
        settings=(setting,),
        drivers=(),
        expect=tuple(_here(expect) for expect in whole.expected(generation, setting, release)),
    )
    stem = re.sub(r"[^A-Za-z0-9_-]+", "_", whole.name.rpartition("/")[2]).strip("_-") or "scenario"
    command = f"cgrace run {stem}.toml --driver {shlex.quote(str(head.driver.get('name', '')))}"
    return {f"{stem}.toml": write(scenario), "README.md": _readme(scenario, trace, command)}


def _setting(scenario: Scenario, trace: Trace) -> Setting:
    rung = str(trace.head.driver.get("rung", ""))
    fits = [s for s in scenario.settings if (s.profile, s.layout) == (trace.head.profile, trace.head.layout)]
    if not fits:
        raise TraceError(
            f"the trace is of {trace.head.profile} on {trace.head.layout}, which its scenario does not name"
        )
    return next((s for s in fits if s.rung == rung), fits[0])


def _here(expect: Expect) -> Expect:
    """The expectation without the words that choose a setting: there is only one."""
    return dataclasses.replace(expect, profiles=(), rungs=(), layouts=())


def _readme(scenario: Scenario, trace: Trace, command: str) -> str:
    versions = "".join(f"    {inert_line(f'{key} {value}')}\n" for key, value in trace.head.versions.items())
    return (
        f"# {inert_line(scenario.title)}\n\n"
        f"In this folder, with cgrace installed:\n\n    {inert_line(command)}\n\n"
        f"It was first seen on\n\n    {inert_line(f'{trace.head.target}, systemd {trace.head.profile}')}\n{versions}"
    )
