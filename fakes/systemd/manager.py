"""The fake systemd: a D-Bus service as a value machine. Messages in, messages out; no socket, no clock, no task.

`call` answers one message. Jobs run only in `turn`, the whole queue at once, as systemd's own run from the lowest-priority
source of its main loop (manager_dispatch_run_queue): so a JobRemoved never comes before the reply, and whoever drives the
manager decides when turns are taken. Time is what `elapsed` tells it. The cgroup tree is touched only through the CgroupTree.
"""

from __future__ import annotations

import os
from typing import Any

from cgrace.fakes.systemd import freezer, lifecycle
from cgrace.fakes.systemd.core import Core, Kill, Observe
from cgrace.fakes.systemd.introspect import introspect
from cgrace.fakes.systemd.jobs import Job
from cgrace.fakes.systemd.methods import METHODS
from cgrace.fakes.systemd.objects import read_property, set_property
from cgrace.fakes.systemd.outbox import Hears
from cgrace.fakes.systemd.profile import Profile
from cgrace.fakes.systemd.refusal import Refusal
from cgrace.fakes.systemd.reload import reexec, reload
from cgrace.fakes.systemd.tree import CgroupTree
from cgrace.fakes.systemd.units import Load, Sub, Unit
from cgrace.harness import events as ev
from cgrace.harness.dbus import systemd1
from cgrace.harness.dbus.message import Message, MessageType

BUS_NAME = systemd1.NAME
MANAGER = systemd1.MANAGER
MACHINE_ID = "00000000000000000000000000000001"


def _send_signal(pid: int, number: int) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return


def _unheard(event: ev.Event) -> None:
    return


class Manager:
    """One systemd. It has booted when it is made: system.slice and its like are there.

    on_event: hears JobChanged, UnitChanged and SystemdSaid as they happen. kill: sends a signal to an outer pid.
    agent: whether a v1 release agent works (in a container it does not, and a v1 scope outlives its processes).
    container: whether it knows that it runs in one: on v1 newer versions then do not wait for what they stop (cgroup.c).
    """

    def __init__(
        self,
        profile: Profile,
        tree: CgroupTree,
        *,
        on_event: Observe = _unheard,
        kill: Kill = _send_signal,
        agent: bool = False,
        container: bool = False,
    ) -> None:
        self.profile = profile
        self._agent = agent
        self._core = Core(profile=profile, tree=tree, observe=_unheard, kill=kill, container=container)
        self._boot()
        self._core.observe = on_event

    def _boot(self) -> None:
        """The units of a running system. Slices get their cgroups, services only count for what they need."""
        core = self._core
        for each in self.profile.boot:
            unit = core.units.load(each.name)
            unit.load, unit.needs, unit.fragment, unit.announced = Load.LOADED, each.needs, each.fragment, True
            unit.phantom = unit.type != "slice"
            unit.perpetual = not each.fragment
            unit.at_boot = True
            unit.sub = Sub.ACTIVE if unit.type == "slice" else Sub.RUNNING
            if each.slice and unit.slice is None:
                core.units.put_in_slice(unit, core.units.load(each.slice))
        for unit in core.units:
            unit.own_mask = unit.members_mask = None
        for unit in core.units:
            if unit.type == "slice":
                core.realiser.realise(unit)
        core.between_events()
        core.take()

    # ---- the bus

    def listen(self, hears: Hears) -> None:
        """The bus can tell whether anybody hears a signal: make no other."""
        self._core.out.hears = hears

    def call(self, sender: str, message: Message) -> list[Message]:
        """Answer a method call: what the loop did before it, then signals and the reply in their order."""
        core = self._core
        if core.is_busy:
            core.between_events()
        if core.kernel_tells:
            freezer.kernel_tells(core, at_once=True)
            core.between_events()
        if message.type is not MessageType.CALL:
            return core.take()
        try:
            answer = self._dispatch(sender, message)
        except Refusal as refusal:
            core.out.refuse(message, sender, refusal)
        else:
            if core.waits_for_kernel:
                core.waits_for_kernel = False
                core.freezing[core.units.load(message.body[0])] = message, sender
            elif answer is not None:
                core.out.reply(message, sender, *answer)
        return core.take()

    def _dispatch(self, sender: str, message: Message) -> tuple[str, tuple[Any, ...]] | None:
        core = self._core
        if message.interface == MANAGER or (not message.interface and message.path == systemd1.PATH):
            if message.path != systemd1.PATH:
                raise core.refuse("unknown_object", path=message.path)
            return self._manager_method(sender, message)
        if message.interface == systemd1.PROPERTIES:
            if message.member == "Set":
                return set_property(core, message)
            return read_property(core, message)
        if message.interface == systemd1.INTROSPECTABLE and message.member == "Introspect":
            return "s", (introspect(core, message.path),)
        if message.interface == systemd1.PEER:
            if message.member == "Ping":
                return "", ()
            if message.member == "GetMachineId":
                return "s", (MACHINE_ID,)
        raise core.refuse("unknown_method", member=message.member, interface=message.interface)

    def _manager_method(self, sender: str, message: Message) -> tuple[str, tuple[Any, ...]] | None:
        core = self._core
        if message.member == "Reload":
            reload(core)
            return "", ()
        if message.member == "Reexecute":
            reexec(core)
            return None
        signature, since, method = METHODS.get(message.member, ("", 10**6, None))
        if method is None or (since > self.profile.version and message.member not in self.profile.extra_methods):
            raise core.refuse("unknown_method", member=message.member, interface=message.interface or MANAGER)
        if message.signature != signature:
            raise core.refuse(
                "bad_arguments", have=message.signature, wanted=signature, interface=MANAGER, member=message.member
            )
        return method(core, sender, message.body)

    def peer_gone(self, sender: str) -> list[Message]:
        """A client left the bus: its subscription, its references and its interest in jobs are forgotten; jobs go on."""
        core = self._core
        core.out.subscribers.discard(sender)
        for job in core.jobs.by_id.values():
            job.clients.discard(sender)
        for unit in core.units:
            if unit.refs.pop(sender, None) and not unit.refs:
                core.unreferenced(unit)
        return core.take()

    # ---- turns of the main loop

    def pending(self) -> bool:
        """Whether a turn would do something."""
        core = self._core
        return core.is_busy or core.jobs.any_to_run or bool(core.rewatch or core.kernel_tells)

    def turn(self) -> list[Message]:
        """One thing: what the loop does between events, else the run queue."""
        return self.step() or []

    def step(self) -> list[Message] | None:
        """One turn; None when there was nothing to do, and so nothing is pending."""
        core = self._core
        if core.is_busy:
            core.between_events()
            return core.take()
        if core.kernel_tells:
            freezer.kernel_tells(core)
            return core.take()
        job = core.jobs.next_runnable()
        if job is None:
            return core.take() if lifecycle.watch_again(core) else core.take() or None
        while job is not None:
            lifecycle.run_job(core, job)
            job = core.jobs.next_runnable()
        return core.take()

    def poll_empty(self) -> list[Message]:
        """Look whether a watched cgroup ran empty."""
        lifecycle.poll_empty(self._core, self._agent)
        return self._core.take()

    def process_ended(self, pid: int, *, late: bool = False) -> list[Message]:
        """A child of PID 1 ended, which is how v1 without a release agent hears of it. pid: an outer one. late: after all else
        had come to rest."""
        lifecycle.process_ended(self._core, pid, late=late)
        return self._core.take()

    def watching(self) -> bool:
        """Whether the end of a process could matter: `poll_empty` is worth a call when one ended."""
        core = self._core
        return any(self._agent or core.realiser.is_v2 or unit.deadline_ns is not None for unit in core.watched)

    def elapsed(self, ns: int) -> list[Message]:
        """So much time passed: stop timeouts act."""
        self._core.now_ns += ns
        lifecycle.check_deadlines(self._core)
        return self._core.take()

    def next_deadline_ns(self) -> int | None:
        """In how much time `elapsed` will do something, None for never."""
        due = [unit.deadline_ns for unit in self._core.watched if unit.deadline_ns is not None]
        return max(0, min(due) - self._core.now_ns) if due else None

    # ---- what a scenario does to it

    def stay_queued(self, unit: str, nth: int = 1, kind: str = "start") -> None:
        """The nth start (or stop) job of the unit from now on stays queued, and all that is ordered after it, until `let_go`."""
        self._core.jobs.stay_queued(unit, nth, kind)

    def let_go(self, unit: str, kind: str = "start") -> bool:
        """The unit's held jobs of that kind run at the next turn. False when none was held."""
        return self._core.jobs.let_go(unit, kind)

    def end_job(self, unit: str, result: str, nth: int = 1, kind: str = "start") -> None:
        """The nth start (or stop) job of the unit from now on ends with this result and does nothing else."""
        self._core.jobs.end_with(unit, result, nth, kind)

    def queued_jobs(self) -> tuple[str, ...]:
        """Every job that has not ended, as "start of a.slice"."""
        return tuple(f"{job.kind} of {job.unit.name}" for job in self._core.jobs.by_id.values())

    def job_ids(self) -> tuple[int, ...]:
        """The ids of these jobs."""
        return tuple(self._core.jobs.by_id)

    def held_jobs(self) -> tuple[str, ...]:
        """The units whose jobs a gate holds."""
        return tuple(job.unit.name for job in self._core.jobs.by_id.values() if job.held)

    def reload(self) -> list[Message]:
        """daemon-reload, asked for by nobody on this bus."""
        reload(self._core)
        return self._core.take()

    def reexec(self) -> list[Message]:
        """daemon-reexec: subscriptions and jobs survive; a call that asked for it is never answered."""
        reexec(self._core)
        return self._core.take()

    # ---- a look from outside, for checkers of leftovers

    def unit(self, name: str) -> Unit | None:
        """A loaded unit."""
        return self._core.units.get(name)

    def loaded_units(self) -> tuple[str, ...]:
        """Every loaded unit."""
        return tuple(unit.name for unit in self._core.units)

    def transient_units(self) -> tuple[str, ...]:
        """Units that somebody made and that are still loaded."""
        return tuple(unit.name for unit in self._core.units if unit.transient)

    def job_of(self, unit: str) -> Job | None:
        """The unit's job."""
        found = self._core.units.get(unit)
        return found.job if found is not None else None
