"""Job gates on a real systemd, by its own rules: the unit is ordered after a start job that waits until we cancel it.

`cgrace-gate-0.service` is a oneshot that never ends by itself; a gate is one more transient service that is ordered After= it,
and Before= the unit: its start job can only wait. Systemd orders the unit's own start job behind it, whoever asks for that job and
however (src/core/job.c, job_is_runnable). CancelJob ends the gate's job, and what waited behind it is run
(job_finish_and_invalidate). So no message of the driver's is touched, slices that only come along as parents can be gated, too,
and nothing of a gate runs but one `sleep` for all of them. Before= loads the unit as one that is not there yet, which does not
keep it from being made (src/core/unit.c, unit_is_pristine, from 228 on; 219 takes any reference for existence).
"""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections.abc import Mapping, Sequence
from typing import Any, Final

from cgrace.harness import faults as ft
from cgrace.harness.dbus.message import Message, Variant
from cgrace.harness.engine.control import Control
from cgrace.harness.errors import TargetError

PREFIX: Final = "cgrace-gate-"
BASE: Final = f"{PREFIX}0.service"
SYSTEMD_MIN: Final = 228
_SLEEP: Final = "/bin/sleep"


def is_gate(unit: str) -> bool:
    """Whether a unit is part of a gate."""
    return unit.startswith(PREFIX)


class Gates:
    """The gates of one run. seconds_max: after so long they open by themselves, should we have been killed."""

    def __init__(self, control: Control, *, seconds_max: float) -> None:
        self._control = control
        self._seconds = str(math.ceil(seconds_max))
        self._base = ""
        self._jobs: dict[str, int] = {}

    async def make(self, faults: Sequence[ft.JobStays]) -> None:
        """One for each fault, all closed. TargetError where systemd does not take them."""
        if not faults:
            return
        self._base = BASE
        wanted = [self._service(self._base, [])]
        for count, fault in enumerate(faults, 1):
            order = [["After", _names(self._base)], ["Before", _names(fault.unit)]]
            wanted.append(self._service(f"{PREFIX}{count}.service", order))
        answers = await asyncio.gather(*wanted)
        for fault, answer in zip(faults, answers[1:], strict=True):
            self._jobs[fault.id] = _job_number(answer)

    def open(self, fault: ft.JobStays) -> None:
        """Let the jobs behind it run."""
        number = self._jobs.pop(fault.id, None)
        if number is not None:
            self._control.call("CancelJob", "u", number)

    async def remove(self) -> None:
        """Open what is closed and end them all."""
        for number in self._jobs.values():
            self._control.call("CancelJob", "u", number)
        self._jobs.clear()
        if self._base:
            with contextlib.suppress(TargetError):
                await self._control.ask("StopUnit", "ss", self._base, "replace")

    def _service(self, name: str, more: list[Any]) -> asyncio.Future[Message]:
        properties: list[Any] = [
            ["Description", Variant(signature="s", value="cgrace: what keeps a job queued")],
            ["Type", Variant(signature="s", value="oneshot")],
            ["DefaultDependencies", Variant(signature="b", value=False)],
            ["ExecStart", Variant(signature="a(sasb)", value=[[_SLEEP, [_SLEEP, self._seconds], False]])],
            *more,
        ]
        return self._control.call("StartTransientUnit", "ssa(sv)a(sa(sv))", name, "replace", properties, [])


def _names(*units: str) -> Variant:
    return Variant(signature="as", value=list(units))


def _job_number(answer: Message) -> int:
    return int(str(answer.body[0]).rpartition("/")[2])


def refused(scenario_faults: Sequence[ft.Fault], systemd: int) -> Mapping[str, str]:
    """What of a scenario's faults a real systemd of that version cannot do: fault id to the reason."""
    why: dict[str, str] = {}
    for fault in scenario_faults:
        match fault:
            case ft.JobEnds():
                why[fault.id] = f"a real systemd does not end a job as '{fault.result}' because it is told to"
            case ft.JobStays() if systemd < SYSTEMD_MIN:
                why[fault.id] = (
                    f"systemd {systemd} takes a unit that another one names for one that exists (before 228)"
                )
            case ft.JobStays(type="stop"):
                why[fault.id] = "only start jobs can be kept queued on a real systemd"
            case ft.JobStays() if fault.nth != 1:
                why[fault.id] = "only the first job of a unit can be kept queued on a real systemd"
            case ft.Peer(peer="systemd", do="kill" | "restart"):
                why[fault.id] = (
                    f"'{fault.do}' of a real systemd would end the machine, it is its PID 1 (reexec does not)"
                )
    return why
