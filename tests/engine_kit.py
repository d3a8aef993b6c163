"""Runs of scenario texts on the fake: what the engine's tests share. Several runs go side by side in one target."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import pytest
from test_targets_fake import traces_of

from cgrace.harness import events as ev
from cgrace.harness.drivers.build import build
from cgrace.harness.drivers.catalogue import find
from cgrace.harness.engine.place import open_place
from cgrace.harness.runner import run_case
from cgrace.harness.scenario.parse import load
from cgrace.harness.suite import Case
from cgrace.harness.targets import owner
from cgrace.harness.targets.buses import EMBEDDED
from cgrace.harness.targets.registry import FAKE, TargetName
from cgrace.harness.trace import Trace, read_trace
from cgrace.harness.verdict import Finding, Invariant, Judgement, Verdict

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="target fake takes root (cgroups, namespaces)")
E = TypeVar("E", bound=ev.Event)
AT_ONCE = 6  # more drivers than that start slowly on a small machine

HEAD = """
title = "test"
on = {{ profile = "{profile}", layout = "{layout}" }}
"""
ONE = 'steps = [{ id = "first", do = "apply", unit = "cgrace-a.slice" }]\n'
TWO = """
steps = [
  { id = "first", do = "apply", unit = "cgrace-a.slice" },
  { id = "second", do = "apply", unit = "cgrace-b.slice" },
]
"""


@dataclass(frozen=True, slots=True)
class Ran:
    """One run: its trace, how it was judged, and how long it took (s)."""

    trace: Trace
    judgement: Judgement
    wall_s: float

    def of(self, kind: type[E]) -> list[E]:
        """Its events of a kind, in order."""
        return [event for _, event in self.trace.of(kind)]

    @property
    def end(self) -> ev.RunEnded:
        """How it ended."""
        return self.of(ev.RunEnded)[-1]

    def returned(self, step: str) -> ev.StepReturned | None:
        """What the step came to, None where it never did."""
        return next((event for event in self.of(ev.StepReturned) if event.step == step), None)

    def error(self, step: str) -> str:
        """A returned step's error, "" for success."""
        found = self.returned(step)
        assert found is not None, f"{step} never returned: {self.end}"
        return found.error

    def finding(self, invariant: Invariant, subject: str = "") -> Finding:
        """The worst finding of an invariant, about the subject if one is given."""
        rank = [Verdict.VIOLATED, Verdict.UNKNOWN, Verdict.HOLDS]
        found = [f for f in self.judgement.findings if f.invariant is invariant and subject in ("", f.subject)]
        assert found, f"nothing is said of {invariant} for {subject or 'anybody'}"
        return min(found, key=lambda f: rank.index(f.verdict))

    def fired(self) -> list[str]:
        """The faults that acted, in order, each once."""
        return list(dict.fromkeys(event.fault for event in self.of(ev.FaultFired)))

    def index(self, kind: type[ev.Event], **fields: Any) -> int:
        """Where the first event of a kind with these fields stands."""
        for entry, event in self.trace.of(kind):
            if all(getattr(event, name) == value for name, value in fields.items()):
                return entry.index
        raise AssertionError(f"no {kind.__name__} with {fields}")


def case(folder: Path, text: str, driver: str, *, profile: str = "219-rhel7", layout: str = "v1") -> Case:
    """A case of a scenario text; title and setting are put before it."""
    number = len(list(folder.glob("*.toml")))
    file = folder / f"s{number}.toml"
    file.write_text(HEAD.format(profile=profile, layout=layout) + text, encoding="utf-8")
    scenario = load(file)
    return Case(scenario=scenario, setting=scenario.settings[0], driver=find(driver))


def run_all(folder: Path, cases: Sequence[Case], *, bus: str = EMBEDDED, target: TargetName = FAKE) -> list[Ran]:
    """Run cases side by side and judge them; afterwards nothing of ours is left on the machine."""

    async def go() -> list[Ran]:
        built = await build({one.driver.name: one.driver for one in cases}.values())
        layouts = sorted({one.setting.layout for one in cases})
        found: dict[int, Ran] = {}
        gate = asyncio.Semaphore(AT_ONCE)
        async with open_place(built, layouts, bus=bus, name=target) as place:

            async def one(number: int) -> None:
                async with gate:
                    result = await run_case(cases[number], place, folder)
                assert result.trace is not None
                found[number] = Ran(read_trace(result.trace), result.judgement, result.wall_ns / 1e9)

            async with asyncio.TaskGroup() as tasks:
                for number in range(len(cases)):
                    tasks.create_task(one(number))
        return [found[number] for number in range(len(cases))]

    done = asyncio.run(go())
    assert not traces_of(owner.own_name())
    return done


def run_text(folder: Path, text: str, driver: str = "today", *, profile: str = "219-rhel7", layout: str = "v1") -> Ran:
    """Run one scenario text on one driver."""
    return run_all(folder, [case(folder, text, driver, profile=profile, layout=layout)])[0]
