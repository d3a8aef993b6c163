"""Job gates on a real systemd, by its own rules: the unit is ordered behind a job of ours that waits until we let it end.

A start job: `cgrace-gate-0.service` is a oneshot that never ends by itself; a gate is one more transient service that is ordered
After= it, and Before= the unit: its start job can only wait. Systemd orders the unit's own start job behind it, whoever asks for
that job and however (src/core/job.c, job_is_runnable). CancelJob ends the gate's job, and what waited behind it is run
(job_finish_and_invalidate). So no message of the driver's is touched, slices that only come along as parents can be gated, too,
and nothing of a gate runs but one `sleep` for all of them. Before= loads the unit as one that is not there yet, which does not
keep it from being made (src/core/unit.c, unit_is_pristine, from 228 on; 219 takes any reference for existence).

A stop job: what is ordered After= the unit stops first, whatever the unit's job is (job_compare). So the gate is a service that is
up, and is asked to stop once the unit has started; its ExecStop= is a `sleep`, and the gate opens when that is killed. While it is
closed a new start of the unit would wait, too. A unit is not forgotten while a gate names it, and until then it exists; so a gate
is made when it is needed, and that of a stop job is forgotten before what waited behind it runs (manager.c, manager_loop: the
queue of units to collect comes before that of jobs).

A job that ends otherwise: cancelled (CancelJob of the job itself); for a dependency (a drop-in has it require the gate, whose
own job is cancelled); timed out (JobTimeoutSec= in a drop-in, and the gate stays closed). Drop-ins do not make a scope exist.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import signal
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from cgrace.harness import faults as ft
from cgrace.harness.dbus import systemd1
from cgrace.harness.dbus.message import Message, Variant
from cgrace.harness.engine.control import Control
from cgrace.harness.errors import TargetError

PREFIX: Final = "cgrace-gate-"
BASE: Final = f"{PREFIX}0.service"
SYSTEMD_MIN: Final = 228
STOPS_MIN: Final = 240  # takes ExecStop= of a transient service
_SLEEP: Final = "/bin/sleep"
_ENDS: Final = frozenset({("start", "canceled"), ("start", "dependency"), ("start", "timeout"), ("stop", "canceled")})
_FOREVER: Final = 2**64 - 1

GateFault = ft.JobStays | ft.JobEnds


def is_gate(unit: str) -> bool:
    """Whether a unit is part of a gate."""
    return unit.startswith(PREFIX)


@dataclass(slots=True)
class _Gate:
    """job: what keeps the unit's, 0 where that is not known (yet). armed: it was closed, or is about to be; open: and then
    opened."""

    fault: GateFault
    name: str
    job: int = 0
    armed: bool = False
    open: bool = False


class Gates:
    """The gates of one run. dropins: the folder of the machine's runtime units. seconds_max: after so long they open by
    themselves, should we have been killed."""

    def __init__(self, control: Control, *, dropins: Path, seconds_max: float) -> None:
        self._control = control
        self._folder = dropins
        self._seconds = str(math.ceil(seconds_max))
        self._gates: dict[str, _Gate] = {}
        self._coming: set[str] = set()
        self._ending: set[str] = set()
        self._ended: Counter[tuple[str, str]] = Counter()
        self._dropins: list[Path] = []

    async def make(self, faults: Sequence[GateFault]) -> None:
        """One for each fault; those for the first start of a unit are closed. TargetError where systemd does not take them."""
        self._gates = {fault.id: _Gate(fault, f"{PREFIX}{count}.service") for count, fault in enumerate(faults, 1)}
        for gate in self._gates.values():
            if isinstance(gate.fault, ft.JobEnds) and (setting := _setting(gate)):
                await asyncio.to_thread(self._drop_in, gate.fault.unit, setting)
        wanted = [self._waits(BASE, [])] if any(fault.type == "start" for fault in faults) else []
        first = [gate for gate in self._gates.values() if gate.fault.type == "start" and gate.fault.nth == 1]
        wanted += [self._close_start(gate) for gate in first]
        await asyncio.gather(*wanted)

    def job_ended(self, unit: str, kind: str) -> None:
        """A job of the unit's has: once it has started, a gate for its next stop closes."""
        self._ended[unit, kind] += 1
        if kind == "start":
            for gate in self._due(unit, "stop"):
                self._coming.add(gate.name)
                self._stands(gate)

    def forgotten(self, unit: str) -> None:
        """The unit is there no more: a gate for its next start closes."""
        for gate in self._due(unit, "start"):
            self._close_start(gate)

    def _due(self, unit: str, kind: str) -> list[_Gate]:
        due = [
            gate
            for gate in self._gates.values()
            if not gate.armed
            and (gate.fault.unit, gate.fault.type, gate.fault.nth - 1) == (unit, kind, self._ended[unit, kind])
        ]
        for gate in due:
            gate.armed = True
        return due

    def open(self, fault: GateFault) -> None:
        """Let the jobs behind it run."""
        gate = self._gates.get(fault.id)
        if gate is None or not gate.armed or gate.open:
            return
        gate.open = True
        if fault.type == "stop":
            self._ending.add(gate.name)
            self._control.call("KillUnit", "ssi", gate.name, "all", int(signal.SIGKILL))
        elif gate.job:
            self._control.call("CancelJob", "u", gate.job)

    def closed(self, fault: GateFault) -> bool:
        """Whether it keeps back what comes now; not so before the unit has started for the first time, of a stop job."""
        gate = self._gates.get(fault.id)
        return gate is not None and gate.armed and not gate.open

    def end(self, fault: ft.JobEnds, job: str) -> None:
        """The unit's job is there, behind its gate: end it as the fault wants it. job: its path."""
        if fault.result == "canceled":
            self._control.call("CancelJob", "u", _number(job))
        if fault.result != "timeout":
            self.open(fault)

    @property
    def busy(self) -> bool:
        """Whether one is about to close, or still stands though it was opened."""
        return bool(self._coming or self._ending)

    def heard(self, message: Message) -> None:
        """A signal of systemd's."""
        match message.interface, message.member, message.body:
            case systemd1.MANAGER, "JobRemoved", (_, _, str(unit), _) if unit in self._coming:
                self._coming.discard(unit)
                self._control.call("StopUnit", "ss", unit, "replace")
            case systemd1.MANAGER, "JobRemoved", (_, _, str(unit), _):
                self._ending.discard(unit)

    async def remove(self) -> None:
        """Open what is closed and end them all."""
        for path in self._dropins:
            await asyncio.to_thread(_remove, path)
        for gate in self._gates.values():
            self.open(gate.fault)
        if any(gate.fault.type == "start" for gate in self._gates.values()):
            with contextlib.suppress(TargetError):
                await self._control.ask("StopUnit", "ss", BASE, "replace")

    # ---- closing them

    def _close_start(self, gate: _Gate) -> asyncio.Future[Message]:
        gate.armed = True
        order: list[Any] = [["After", _names(BASE)], ["Before", _names(gate.fault.unit)]]
        answer = self._waits(gate.name, order)
        answer.add_done_callback(lambda done: _note(gate, done))
        return answer

    def _waits(self, name: str, more: list[Any]) -> asyncio.Future[Message]:
        """A service that starts for ever."""
        return self._service(name, [["ExecStart", self._sleeps()], *more])

    def _stands(self, gate: _Gate) -> asyncio.Future[Message]:
        """A service that is up without a process, and then stops for ever."""
        return self._service(
            gate.name,
            [
                ["RemainAfterExit", Variant(signature="b", value=True)],
                ["ExecStop", self._sleeps()],
                ["TimeoutStopUSec", Variant(signature="t", value=_FOREVER)],
                ["CollectMode", Variant(signature="s", value="inactive-or-failed")],
                ["After", _names(gate.fault.unit)],
            ],
        )

    def _sleeps(self) -> Variant:
        return Variant(signature="a(sasb)", value=[[_SLEEP, [_SLEEP, self._seconds], False]])

    def _service(self, name: str, more: list[Any]) -> asyncio.Future[Message]:
        properties: list[Any] = [
            ["Description", Variant(signature="s", value="cgrace: what keeps a job queued")],
            ["Type", Variant(signature="s", value="oneshot")],
            ["DefaultDependencies", Variant(signature="b", value=False)],
            *more,
        ]
        return self._control.call("StartTransientUnit", "ssa(sv)a(sa(sv))", name, "replace", properties, [])

    def _drop_in(self, unit: str, setting: str) -> None:
        """Give the unit a setting, before systemd has loaded it."""
        folder = self._folder / f"{unit}.d"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._dropins.append(folder)
            (folder / "cgrace.conf").write_text(f"[Unit]\n{setting}\n", encoding="ascii")
        except OSError as error:
            raise TargetError(f"a drop-in for {unit} cannot be written: {error.strerror}") from None


def _setting(gate: _Gate) -> str:
    """What the unit itself has to say for its job to end so."""
    assert isinstance(gate.fault, ft.JobEnds)
    return {"timeout": "JobTimeoutSec=100ms", "dependency": f"Requires={gate.name}"}.get(gate.fault.result, "")


def _remove(folder: Path) -> None:
    with contextlib.suppress(OSError):
        (folder / "cgrace.conf").unlink(missing_ok=True)
        folder.rmdir()


def _note(gate: _Gate, answer: asyncio.Future[Message]) -> None:
    if not answer.cancelled() and answer.exception() is None:
        gate.job = _number(str(answer.result().body[0]))


def _names(*units: str) -> Variant:
    return Variant(signature="as", value=list(units))


def _number(job: str) -> int:
    return int(job.rpartition("/")[2])


def refused(scenario_faults: Sequence[ft.Fault], systemd: int) -> Mapping[str, str]:
    """What of a scenario's faults a real systemd of that version cannot do: fault id to the reason."""
    return {fault.id: why for fault in scenario_faults if (why := _refusal(fault, systemd))}


def _refusal(fault: ft.Fault, systemd: int) -> str:
    match fault:
        case ft.JobEnds(result="skipped"):
            return "a real systemd skips only jobs that verify or reload a unit, never one that starts it (job.c)"
        case ft.JobEnds(result="failed"):
            return "starting a slice or a scope cannot fail in a real systemd, but for a scope whose processes are gone"
        case ft.JobEnds() if (fault.type, fault.result) not in _ENDS:
            return f"a real systemd does not end a {fault.type} job as '{fault.result}' because it is told to"
        case ft.JobStays() | ft.JobEnds() if systemd < SYSTEMD_MIN:
            return f"systemd {systemd} takes a unit that another one names for one that exists (before 228)"
        case ft.JobStays(type="stop") | ft.JobEnds(type="stop") if systemd < STOPS_MIN:
            return f"systemd {systemd} takes no ExecStop= of a transient service (before 240)"
        case ft.JobEnds(result="timeout" | "dependency") if not fault.unit.endswith(".scope"):
            return "a unit with a drop-in is one that exists, but for scopes"
        case ft.Peer(peer="systemd", do="kill" | "restart"):
            return f"'{fault.do}' of a real systemd would end the machine, it is its PID 1 (reexec does not)"
    return ""
