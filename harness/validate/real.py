"""Real systemds as machines: one booted in a container, that of the user who asks, or of the machine that this runs on."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import statistics
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from cgrace.fakes.systemd.hierarchies import hierarchies_of
from cgrace.fakes.systemd.tree import KernelTree
from cgrace.harness.clock import now_ns
from cgrace.harness.dbus import systemd1
from cgrace.harness.dbus.auth import ClientAuth
from cgrace.harness.dbus.codec import encode
from cgrace.harness.dbus.frames import Framer
from cgrace.harness.dbus.message import MessageType, Variant
from cgrace.harness.errors import ProtocolError, TargetError
from cgrace.harness.proc.hold import held
from cgrace.harness.targets.base import Hierarchy
from cgrace.harness.targets.container import ContainerTarget
from cgrace.harness.targets.oci import split_runtime
from cgrace.harness.targets.registry import TargetName, describe
from cgrace.harness.targets.user import UserTarget
from cgrace.harness.validate.client import Client
from cgrace.harness.validate.inside import Connector, place_at_home, spawn_orphan, spawn_orphans, spawn_worker
from cgrace.harness.validate.machine import (
    HOME,
    IGNORE_TERM,
    START,
    SYSTEM_SLICE,
    USERS,
    Gate,
    Machine,
    MachineName,
    Worker,
)

Dial = Callable[[], Awaitable[socket.socket]]
Start = Callable[[bool, bool], Awaitable[Worker]]
StartMany = Callable[[Sequence[bool]], Awaitable[list[Worker]]]

QUIET_S = 0.2
CALL_S = 0.004  # a call on a machine that is fast enough, with its answer
CALLS_TIMED = 15
SLOWNESS_MAX = 6.0
SYSTEM_BUS = "/run/dbus/system_bus_socket"
USERS_SLICE = "app.slice"  # since systemd 246; this project's oldest is 247
_READ_BYTES = 1 << 16
_CGROUPS = Path("/sys/fs/cgroup")
_OWN_INIT = 1  # of the machine that this runs on


class RealMachine:
    """See `machine.Machine`. dial: makes a connection to its bus; start: a process on it, for a `Worker`; start_many: many at once,
    where that is quicker; init_pid: its PID 1 as we see it, 0 where that must not be stopped. It is used inside of `running`."""

    def __init__(
        self,
        name: str,
        layout: str,
        tree: KernelTree,
        *,
        dial: Dial,
        start: Start,
        start_many: StartMany | None = None,
        init_pid: int = 0,
        above: str = "",
        scopes_in: str = SYSTEM_SLICE,
    ) -> None:
        self.name = name
        self.layout = layout
        self.version = ""
        self.runs_in = ""
        self.quiet_s = QUIET_S
        self.slowness = 1.0
        self.tree = tree
        self.above = above
        self.scopes_in = scopes_in
        self._dial = dial
        self._start = start
        self._start_many = start_many
        self._init_pid = init_pid
        self._group: asyncio.TaskGroup

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[Machine]:
        """It answers, and has said what it is; what reads for its connections ends with the block."""
        async with asyncio.TaskGroup() as self._group:
            async with self.connect() as client:
                self.version = (await client.get(systemd1.PATH, systemd1.MANAGER, "Version")).body[0].value
                self.runs_in = (await client.get(systemd1.PATH, systemd1.MANAGER, "Virtualization")).body[0].value
                self.slowness = await _slowness(client)
                self.quiet_s = QUIET_S * max(1.0, self.slowness / 3)
            yield self

    @contextlib.asynccontextmanager
    async def connect(self) -> AsyncIterator[Client]:
        """See `Machine`."""
        reader, writer = await asyncio.open_unix_connection(sock=await self._dial())
        client = Client(lambda message: writer.write(encode(message)), slowness=self.slowness)
        reading: asyncio.Task[None] | None = None
        try:
            await _authenticate(reader, writer)
            reading = self._group.create_task(_read(reader, client))
            client.unique_name = (await client.call_bus("Hello")).body[0]
            yield client
        finally:
            if reading is not None:
                reading.cancel()
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    async def spawn(self, *, stubborn: bool = False, adopted: bool = True) -> Worker:
        """See `Machine`."""
        return await self._start(stubborn, adopted)

    async def spawn_many(self, stubborn: Sequence[bool]) -> list[Worker]:
        """See `Machine`."""
        if self._start_many is not None:
            return await self._start_many(stubborn)
        return [await self._start(one, True) for one in stubborn]

    async def gate(self, client: Client, stem: str) -> Gate:
        """See `Machine`. A oneshot service is starting for as long as its command runs (systemd.service(5), Type=)."""
        unit = f"{stem}.service"
        command = [["/bin/sleep", ["/bin/sleep", "infinity"], False]]
        array = [
            ["Type", Variant(signature="s", value="oneshot")],
            ["ExecStart", Variant(signature="a(sasb)", value=command)],
            ["DefaultDependencies", Variant(signature="b", value=False)],
        ]
        answer = await client.call("StartTransientUnit", START, unit, "replace", array, [])
        if answer.type is MessageType.ERROR:
            raise TargetError(f"a gate cannot be made: {answer.error_name}: {answer.body}")
        return _RealGate(unit, client)

    @contextlib.contextmanager
    def standing(self) -> Iterator[None]:
        """See `Machine`."""
        if not self._init_pid:
            yield
            return
        os.kill(self._init_pid, signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(self._init_pid, signal.SIGCONT)

    async def settle(self) -> None:
        """See `Machine`."""
        await asyncio.sleep(self.quiet_s)


async def _slowness(client: Client) -> float:
    """By how much its answers take longer than what the time-outs here were made for."""
    took = []
    for _ in range(CALLS_TIMED):
        began = now_ns()
        await client.get(systemd1.PATH, systemd1.MANAGER, "Version")
        took.append((now_ns() - began) / 1e9)
    return min(SLOWNESS_MAX, max(1.0, statistics.median(took) / CALL_S))


class _RealGate:
    def __init__(self, unit: str, client: Client) -> None:
        self.unit = unit
        self._client = client

    async def open(self) -> None:
        await self._client.call("StopUnit", "ss", self.unit, "replace")


async def _authenticate(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    auth = ClientAuth(os.geteuid(), want_fds=False)
    writer.write(auth.start())
    while not auth.done:
        data = await reader.read(_READ_BYTES)
        if not data:
            raise TargetError("the machine's bus closed the connection")
        try:
            writer.write(auth.feed(data))
        except ProtocolError as error:
            raise TargetError(f"the machine's bus does not let us in: {error.message}") from error


async def _read(reader: asyncio.StreamReader, client: Client) -> None:
    framer = Framer()
    try:
        while data := await reader.read(_READ_BYTES):
            for frame in framer.feed(data):
                client.received(frame.message)
        client.lost("the machine's bus closed the connection")
    except (OSError, ProtocolError) as error:
        client.lost(f"the machine's bus went away: {error}")


@contextlib.asynccontextmanager
async def container(name: MachineName, progress: Callable[[str], None]) -> AsyncIterator[Machine]:
    """A suite's own systemd, booted in a container."""
    place, booted_by = split_runtime(name.which)
    facts = await describe(TargetName(text=str(name), kind="container", place=place), progress)
    layout = name.layout or facts.layouts[0]
    if layout not in facts.layouts:
        raise TargetError(
            f"systemd {facts.systemd} knows cgroup v2 alone", hint=f"container:{name.which}:v2, or without a layout"
        )
    async with contextlib.AsyncExitStack() as stack:
        opened = ContainerTarget.open(place, layout=layout, booted_by=booted_by, progress=progress)
        target = await stack.enter_async_context(opened)
        sandbox = await stack.enter_async_context(target.sandbox())
        tree = stack.enter_context(KernelTree(sandbox.hierarchies, outer=sandbox.outer))
        connector = await Connector.start(sandbox, tree, f"/proc/1/root{SYSTEM_BUS}")
        stack.callback(connector.close)

        async def start(stubborn: bool, adopted: bool) -> Worker:
            if not adopted:
                return await spawn_worker(sandbox, tree, stubborn=stubborn, ended=lambda: None)
            return await spawn_orphan(target.init_pid, tree, stack, stubborn=stubborn)

        async def start_many(stubborn: Sequence[bool]) -> list[Worker]:
            return await spawn_orphans(target.init_pid, stack, stubborn)

        machine = RealMachine(
            str(replace(name, layout=layout)),
            layout,
            tree,
            dial=connector.connect,
            start=start,
            start_many=start_many,
            init_pid=target.init_pid,
        )
        yield await stack.enter_async_context(machine.running())


@contextlib.asynccontextmanager
async def local() -> AsyncIterator[Machine]:
    """The machine that this runs on, which should be a guest of one's own: units are started and stopped on it."""
    if os.geteuid() != 0:
        raise TargetError("asking this machine's systemd takes root", hint="sudo cgrace validate local")
    hierarchies = _own_hierarchies()
    layout = "v2" if all(one.is_v2 for one in hierarchies) else "v1"
    async with contextlib.AsyncExitStack() as stack:
        group = await stack.enter_async_context(asyncio.TaskGroup())
        tree = stack.enter_context(KernelTree(hierarchies))
        if layout == "v2":
            stack.callback(tree.rmdir, hierarchies[0].name, HOME)

        async def start(stubborn: bool, adopted: bool) -> Worker:
            if adopted:
                return await spawn_orphan(_OWN_INIT, tree, stack, stubborn=stubborn)
            command = f"{IGNORE_TERM if stubborn else ''} echo; exec cat"  # cat ends with us, as its stdin does
            child = await stack.enter_async_context(held(["/bin/sh", "-c", command]))
            worker = Worker(pid=child.pid, pid_outer=child.pid, kill=child.kill)

            async def watch() -> None:
                await child.wait()
                worker.gone.set()

            stack.callback(group.create_task(watch()).cancel)
            place_at_home(tree, child.pid)
            return worker

        async def start_many(stubborn: Sequence[bool]) -> list[Worker]:
            return await spawn_orphans(_OWN_INIT, stack, stubborn)

        machine = RealMachine(f"local:{layout}", layout, tree, dial=_dial_here, start=start, start_many=start_many)
        yield await stack.enter_async_context(machine.running())


@contextlib.asynccontextmanager
async def user() -> AsyncIterator[Machine]:
    """The systemd of the user who asks. Its processes are in a scope of ours there, and no child of it: on v2 it hears of the end
    of a unit's last process from the kernel (cgroup.events)."""
    async with contextlib.AsyncExitStack() as stack:
        target = await stack.enter_async_context(UserTarget.open())
        sandbox = await stack.enter_async_context(target.sandbox())
        tree = stack.enter_context(KernelTree(sandbox.hierarchies, outer=sandbox.outer))
        stack.callback(tree.rmdir, sandbox.hierarchies[0].name, HOME)

        async def start(stubborn: bool, adopted: bool) -> Worker:
            return await spawn_worker(sandbox, tree, stubborn=stubborn, ended=lambda: None)

        dial = partial(_dial_here, target.bus_path)
        machine = RealMachine(
            USERS, "v2", tree, dial=dial, start=start, above=target.cgroup_prefix, scopes_in=USERS_SLICE
        )
        yield await stack.enter_async_context(machine.running())


async def _dial_here(path: str = SYSTEM_BUS) -> socket.socket:
    bus = socket.socket(socket.AF_UNIX)
    try:
        bus.connect(path)
    except OSError as error:
        bus.close()
        raise TargetError(f"the bus at {path} cannot be reached: {error.strerror}") from error
    return bus


def _own_hierarchies() -> tuple[Hierarchy, ...]:
    mounts = (_CGROUPS,) if (_CGROUPS / "cgroup.controllers").exists() else tuple(sorted(_CGROUPS.iterdir()))
    return hierarchies_of(path for path in mounts if not path.is_symlink() and (path / "cgroup.procs").exists())
