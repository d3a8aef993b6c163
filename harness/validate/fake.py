"""The fake systemd as a machine: its manager on the embedded bus, in this process, its cgroups and processes real."""

from __future__ import annotations

import asyncio
import contextlib
import os
import select
import signal
from collections.abc import AsyncIterator, Iterable, Sequence

from cgrace.fakes.systemd.manager import Manager
from cgrace.fakes.systemd.profile import load_profile
from cgrace.fakes.systemd.tree import KernelTree
from cgrace.harness.dbus.bus import EmbeddedBus
from cgrace.harness.dbus.message import Message, Variant
from cgrace.harness.dbus.roster import Outgoing
from cgrace.harness.dbus.systemd1 import NAME
from cgrace.harness.targets.fake import FakeTarget
from cgrace.harness.targets.sandbox import FakeSandbox
from cgrace.harness.validate.client import Client
from cgrace.harness.validate.inside import spawn_worker
from cgrace.harness.validate.machine import START, SYSTEM_SLICE, WHOLE, Gate, Machine, MachineName, Worker

_NS_PER_S = 1_000_000_000
_TURNS_MAX = 100_000
_DYING_MS_MAX = 30
_BURIAL_S = 0.005  # who is let go at once ends at once


class FakeMachine:
    """See `machine.Machine`. late_deaths: v1 processes die when all else is at rest, not while it is done.

    One decision at a time: what was posted is told to the bus at once, turns are taken later."""

    above = ""
    scopes_in = SYSTEM_SLICE
    quiet_s = 0.0
    slowness = 1.0

    def __init__(self, name: MachineName, sandbox: FakeSandbox) -> None:
        self.name = str(name)
        self.layout = name.layout
        self._sandbox = sandbox
        self._dead: set[int] = set()
        self._ended: list[tuple[bool, int, Worker]] = []
        self._burial: asyncio.TimerHandle | None = None
        self.late_deaths = False
        self._signals: list[tuple[int, int, int]] = []
        self._someone_died = False
        self._dying: dict[int, tuple[int, bool]] = {}
        self._stubborn: set[int] = set()
        self.tree = KernelTree(sandbox.hierarchies, outer=self._outer)
        which, _, place = name.which.partition(WHOLE)
        profile = load_profile(which)
        self.version = profile.version_string
        self.runs_in = place or "container-other"
        self.manager = Manager(profile, self.tree, kill=self._kill, agent=True, container=not place)
        self._bus = EmbeddedBus({NAME: self.manager})
        self.manager.listen(lambda interface, member: self._bus.hears(NAME, interface, member))
        self._clients: dict[int, Client] = {}
        self._loop = asyncio.get_running_loop()
        self._soon: asyncio.Handle | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._told_ns = int(self._loop.time() * _NS_PER_S)
        self._closed = False

    # ---- the bus

    @contextlib.asynccontextmanager
    async def connect(self) -> AsyncIterator[Client]:
        """See `Machine`."""
        number = self._bus.connect(pid=os.getpid(), uid=os.geteuid())
        client = Client(lambda message: self._take(number, message))
        self._clients[number] = client
        try:
            client.unique_name = (await client.call_bus("Hello")).body[0]
            yield client
        finally:
            del self._clients[number]
            self._hand_out(self._bus.disconnect(number))
            self._later()

    def _take(self, number: int, message: Message) -> None:
        if self._signals:
            self._send_signals(wait=True)
            self._someone_died = True
        self._pass_time()
        self._hand_out(self._bus.receive(number, message))
        if message.member == "Reexecute" and message.destination == NAME:
            self._hand_out(self._bus.service_gone(NAME))
            self._hand_out(self._bus.service_back(NAME, self.manager))
        self._later()

    def _hand_out(self, outgoing: Iterable[Outgoing]) -> None:
        for item in outgoing:
            client = self._clients.get(item.conn)
            if client is not None:
                client.received(item.message)

    def _emit(self, messages: list[Message]) -> None:
        self._hand_out(self._bus.emit_all(NAME, messages))

    # ---- turns and time

    def _later(self) -> None:
        if self._soon is None and not self._closed:
            self._soon = self._loop.call_soon(self._turn)

    def _turn(self) -> None:
        self._soon = None
        if self._someone_died:
            self._someone_died = False
            self._look()
        self._pass_time()
        for _ in range(_TURNS_MAX):
            if not self.manager.pending():
                break
            self._emit(self.manager.turn())
        else:
            raise AssertionError("the fake systemd never comes to rest")
        self._send_signals()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        due = self.manager.next_deadline_ns()
        if due is not None:
            self._timer = self._loop.call_later(due / _NS_PER_S, self._later)

    def _pass_time(self) -> None:
        now_ns = int(self._loop.time() * _NS_PER_S)
        self._emit(self.manager.elapsed(now_ns - self._told_ns))
        self._told_ns = now_ns

    def standing(self) -> contextlib.AbstractContextManager[None]:
        """See `Machine`. It takes no turn before the next await of ours that waits."""
        return contextlib.nullcontext()

    async def settle(self) -> None:
        """See `Machine`. On v2 the kernel tells of each cgroup that runs empty, also when its processes only went elsewhere."""
        looked = self.layout == "v1"
        while True:
            await asyncio.sleep(0)
            if self._soon is None and not self.manager.pending():
                if looked:
                    return
                looked = True
                self._look()
            self._later()

    def close(self) -> None:
        """Take no more turns, and let go of the tree."""
        self._closed = True
        for handle in (self._soon, self._timer, self._burial):
            if handle is not None:
                handle.cancel()
        self.tree.close()

    # ---- processes

    def _kill(self, pid_outer: int, number: int) -> None:
        inner = self._sandbox.inner(pid_outer)
        if inner is None:
            return
        if self.layout == "v1":
            self._sandbox.signal(inner, number)
        else:
            self._signals.append((pid_outer, inner, number))

    def _send_signals(self, *, wait: bool = False) -> None:
        """On v2, where nobody keeps processes from dying, one that is hit dies within a call of systemd and not within its jobs,
        which take less time than that. wait: until those that must die have done so, where that does not take long."""
        signals, self._signals = self._signals, []
        for pid_outer, inner, number in signals:
            self._sandbox.signal(inner, number)
            is_certain = self._dying.get(pid_outer, (inner, False))[1]
            self._dying[pid_outer] = inner, is_certain or self._must_die(pid_outer, number)
        for pid_outer, _, number in signals if wait else ():
            if self._must_die(pid_outer, number):
                _has_ended(pid_outer, _DYING_MS_MAX)

    def _must_die(self, pid_outer: int, number: int) -> bool:
        return number == signal.SIGKILL or (number == signal.SIGTERM and pid_outer not in self._stubborn)

    async def spawn(self, *, stubborn: bool = False, adopted: bool = True) -> Worker:
        """See `Machine`."""

        def ended() -> None:
            if self._closed:
                return
            self._dead.add(worker.pid)
            if adopted:
                self._ended.append((stubborn, worker.pid, worker))
            if not self.late_deaths:
                self._bury()
            elif self._burial is None:
                self._burial = self._loop.call_later(_BURIAL_S, self._bury)

        worker = await spawn_worker(self._sandbox, self.tree, stubborn=stubborn, ended=ended)
        if stubborn:
            self._stubborn.add(worker.pid_outer)
        return worker

    def _bury(self) -> None:
        """The manager hears of those that ended, of one after the other as waitid(2) finds them: the first that was born first
        (spawn_orphans makes the stubborn ones last)."""
        self._burial = None
        ended, self._ended = [worker for _, _, worker in sorted(self._ended, key=lambda one: one[:2])], []
        self._pass_time()
        for worker in ended:  # on v1 nobody tells PID 1 of a cgroup that ran empty, it hears of its children alone
            self._emit(self.manager.process_ended(worker.pid_outer, late=self.late_deaths))
        if self.layout == "v2":
            self._look()
        self._later()

    def _look(self) -> None:
        """v2: whose cgroup is empty? PID 1 hears of a child's end before it hears of that."""
        for pid_outer, (inner, is_certain) in tuple(self._dying.items()):
            self._dying[pid_outer] = inner, False
            if _has_ended(pid_outer, _DYING_MS_MAX if is_certain else 0):
                del self._dying[pid_outer]
                self._dead.add(inner)
                self._emit(self.manager.process_ended(pid_outer))
        self._emit(self.manager.poll_empty())

    def _outer(self, pid: int) -> int | None:
        return None if pid in self._dead else self._sandbox.outer(pid)

    async def spawn_many(self, stubborn: Sequence[bool]) -> list[Worker]:
        """See `Machine`."""
        return list(await asyncio.gather(*(self.spawn(stubborn=one) for one in stubborn)))

    async def gate(self, client: Client, stem: str) -> Gate:
        """See `Machine`. The fake keeps a scope's job queued by itself."""
        unit = f"{stem}.scope"
        worker = await self.spawn()
        self.manager.stay_queued(unit)
        array = [["PIDs", Variant(signature="au", value=[worker.pid])]]
        await client.call("StartTransientUnit", START, unit, "replace", array, [])
        return _FakeGate(unit, self, client)


def _has_ended(pid: int, wait_ms: int) -> bool:
    """Whether it has, or does within that time."""
    try:
        fd = os.pidfd_open(pid)
    except OSError:
        return True
    try:
        poll = select.poll()
        poll.register(fd, select.POLLIN)
        return bool(poll.poll(wait_ms))
    finally:
        os.close(fd)


class _FakeGate:
    def __init__(self, unit: str, machine: FakeMachine, client: Client) -> None:
        self.unit = unit
        self._machine = machine
        self._client = client

    async def open(self) -> None:
        if self._machine.manager.let_go(self.unit):
            self._machine._later()
            await self._machine.settle()
            await self._client.call("StopUnit", "ss", self.unit, "replace")


@contextlib.asynccontextmanager
async def fake(name: MachineName) -> AsyncIterator[Machine]:
    """The fake with a profile, on cgroups of this machine; TargetError where those cannot be had."""
    async with FakeTarget.open((name.layout,), warm=1) as target, target.sandbox(name.layout) as sandbox:
        machine = FakeMachine(name, sandbox)
        try:
            yield machine
        finally:
            machine.close()
