"""What goes out on the bus, in order: answers and signals, and who is told what (dbus-job.c, dbus-unit.c, dbus-manager.c).

A signal is broadcast if anybody is subscribed or the object has a client of its own (a job: who asked for it; a unit: who
holds a reference). Changes wait in a queue until the next pass of the loop, or until something forces them out.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from cgrace.fakes.systemd.jobs import Job
from cgrace.fakes.systemd.refusal import Refusal
from cgrace.fakes.systemd.units import Load, Unit
from cgrace.harness.dbus import systemd1
from cgrace.harness.dbus.message import Message, MessageFlag, MessageType

_PC_SIGNATURE = "sa{sv}as"

Describe = Callable[[Unit, Job | None], list[tuple[str, dict[str, Any], list[str]]]]
"""The PropertiesChanged of a unit: (interface, changed, invalidated), with the job to show."""
Hears = Callable[[str, str], bool]
"""Whether anybody on the bus may hear a signal of this interface and member."""


def _anybody(interface: str, member: str) -> bool:
    return True


class Outbox:
    """Messages to send. `describe` renders a unit's changes; it is asked only when somebody will hear them.

    hears: of the bus, where it can tell; a signal that nobody hears is not made. units, jobs: what waits to be announced.
    """

    def __init__(self, early: bool, describe: Describe) -> None:
        self._early = early
        self._describe = describe
        self._messages: list[Message] = []
        self.units: dict[Unit, None] = {}
        self.jobs: dict[Job, None] = {}
        self.subscribers: set[str] = set()
        self.hears: Hears = _anybody

    def take(self) -> list[Message]:
        """All messages so far."""
        messages, self._messages = self._messages, []
        return messages

    # ---- answers

    def reply(self, call: Message, sender: str, signature: str, body: tuple[Any, ...]) -> None:
        """Answer a call, unless it asked for none."""
        if call.wants_answer:
            self._messages.append(
                Message(
                    type=MessageType.REPLY,
                    reply_serial=call.serial,
                    destination=sender,
                    signature=signature,
                    body=body,
                )
            )

    def refuse(self, call: Message, sender: str, refusal: Refusal) -> None:
        """Answer a call with an error."""
        if call.wants_answer:
            self._messages.append(
                Message(
                    type=MessageType.ERROR,
                    error_name=refusal.name,
                    reply_serial=call.serial,
                    destination=sender,
                    signature="s",
                    body=(refusal.text,),
                )
            )

    # ---- signals

    def signal(self, member: str, signature: str, body: tuple[Any, ...]) -> None:
        """Broadcast a signal of the manager."""
        if self.hears(systemd1.MANAGER, member):
            self._broadcast(systemd1.PATH, systemd1.MANAGER, member, signature, body)

    def _broadcast(self, path: str, interface: str, member: str, signature: str, body: tuple[Any, ...]) -> None:
        self._messages.append(
            Message(
                type=MessageType.SIGNAL,
                flags=MessageFlag.NO_REPLY_EXPECTED,
                path=path,
                interface=interface,
                member=member,
                signature=signature,
                body=body,
            )
        )

    def changed(self, unit: Unit) -> None:
        """Something that a unit announces has changed. Of one that is being loaded nothing is said (unit_add_to_dbus_queue)."""
        if unit.load is Load.STUB:
            return
        if self.subscribers or unit.refs:
            self.units[unit] = None
        else:
            unit.announced = True

    def queued(self, job: Job) -> None:
        """A job was made, or took another one in. From 240 on the unit of a new one is announced with it (job.c, job_install)."""
        self.jobs[job] = None
        if self._early and not job.announced:
            self.changed(job.unit)

    def is_waiting(self, unit: Unit) -> bool:
        """Whether the unit has a change to announce: it is not collected before."""
        return unit in self.units

    def flush(self) -> tuple[Unit, ...]:
        """Announce what waits, units first, the last one of each kind first (both queues are stacks); the units come back."""
        units = tuple(reversed(self.units))
        for unit in units:
            self._flush_unit(unit, unit.job)
        for job in tuple(reversed(self.jobs)):
            self.force_job(job)
        return units

    def flush_now(self, unit: Unit, job: Job | None) -> None:
        """Announce the unit's change at once, if there is one that somebody hears."""
        if unit in self.units:
            self._flush_unit(unit, job)

    def force_job(self, job: Job) -> None:
        """Announce the job now, if it was not: before a reply (240+) or its end."""
        if job not in self.jobs:
            return
        del self.jobs[job]
        if self._early and job.unit in self.units:
            self._flush_unit(job.unit, job)
        if job.announced:
            return
        job.announced = True
        if self.subscribers or job.clients:
            self.signal("JobNew", "uos", (job.id, job.path, job.unit.name))

    def job_removed(self, job: Job, result: str) -> None:
        """The job's last signal; its JobNew and (240+) its unit's changes go before it."""
        self.force_job(job)
        if self._early and job.unit in self.units:
            self._flush_unit(job.unit, job)
        if self.subscribers or job.clients:
            self.signal("JobRemoved", "uoss", (job.id, job.path, job.unit.name, result))

    def unit_removed(self, unit: Unit) -> None:
        """The unit is gone."""
        if unit in self.units and (self._early or not unit.announced):
            self._flush_unit(unit, None)
        self.units.pop(unit, None)
        if (self.subscribers or unit.refs) and self.hears(systemd1.MANAGER, "UnitRemoved"):
            self.signal("UnitRemoved", "so", (unit.name, unit.path))

    def _flush_unit(self, unit: Unit, job: Job | None) -> None:
        self.units.pop(unit, None)
        if not unit.announced:
            unit.announced = True
            if self.hears(systemd1.MANAGER, "UnitNew"):
                self.signal("UnitNew", "so", (unit.name, unit.path))
            return
        if not self.hears(systemd1.PROPERTIES, "PropertiesChanged"):
            return
        for interface, changed, invalidated in self._describe(unit, job):
            body = (interface, changed, invalidated)
            self._broadcast(unit.path, systemd1.PROPERTIES, "PropertiesChanged", _PC_SIGNATURE, body)
