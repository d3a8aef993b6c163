"""Asks a machine every probe that it can be asked, one after the other."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Final

from cgrace.harness.validate.baseline import Baseline, leading_number
from cgrace.harness.validate.machine import USERS, Machine
from cgrace.harness.validate.probe import Probe
from cgrace.harness.validate.stage import Answer, Refused, Stage

PROBE_S_MAX: Final = 40.0


async def ask_all(
    machine: Machine, probes: Sequence[Probe], told: Callable[[Probe], None] = lambda _: None
) -> Baseline:
    """All answers. `told` hears of each probe before it is asked. TargetError when the machine is lost."""
    hierarchies = {one.name: sorted(one.controllers) for one in machine.tree.hierarchies}
    controllers = {each for one in hierarchies.values() for each in one}
    answers: dict[str, Answer] = {}
    for number, probe in enumerate(probes, 1):
        if machine.layout in probe.layouts and controllers.issuperset(probe.needs):
            told(probe)
            answers[probe.id] = await ask(machine, probe, number)
    return Baseline(
        name=machine.name,
        systemd=machine.version,
        version=leading_number(machine.version),
        layout=machine.layout,
        runs_in=machine.runs_in,
        hierarchies=hierarchies,
        answers=answers,
        is_users=machine.name == USERS,
    )


async def ask(machine: Machine, probe: Probe, number: int) -> Answer:
    """One probe's answer; that it never came is an answer, too."""
    async with Stage(machine, number) as stage:
        try:
            async with asyncio.timeout(PROBE_S_MAX * machine.slowness):
                if probe.tree:
                    await stage.quiet()  # what the probe before left to be realised is done
                return await probe.ask(stage)
        except TimeoutError:
            return {"no answer": "what was waited for did not come"}
        except Refused as refused:
            return {"refused": refused.said}
        except OSError as error:
            return {"failed": error.strerror}
