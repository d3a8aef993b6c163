"""Real systemds as machines: one booted in a container, or that of the machine that this runs on."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import AsyncIterator, Callable
from pathlib import Path

from cgrace.fakes.systemd.hierarchies import hierarchies_of
from cgrace.fakes.systemd.tree import KernelTree
from cgrace.harness.dbus import systemd1
from cgrace.harness.dbus.auth import ClientAuth
from cgrace.harness.dbus.codec import encode
from cgrace.harness.dbus.frames import Framer
from cgrace.harness.dbus.message import MessageType, Variant
from cgrace.harness.errors import ProtocolError, TargetError
from cgrace.harness.proc.hold import held
from cgrace.harness.targets.base import Hierarchy
from cgrace.harness.targets.container import ContainerTarget
from cgrace.harness.targets.namespaces import descendants, inner_pid
from cgrace.harness.validate.client import Client
from cgrace.harness.validate.fake import place_at_home
from cgrace.harness.validate.machine import IGNORE_TERM, Gate, Machine, MachineName, Worker

QUIET_S = 0.2
SYSTEM_BUS = "/run/dbus/system_bus_socket"
_READ_BYTES = 1 << 16
_CGROUPS = Path("/sys/fs/cgroup")


class RealMachine:
    """See `machine.Machine`. init_pid: its PID 1 as we see it, 1 for our own machine. group, stack: end with the machine."""

    quiet_s = QUIET_S

    def __init__(
        self,
        name: str,
        layout: str,
        *,
        bus_path: str,
        hierarchies: tuple[Hierarchy, ...],
        init_pid: int,
        group: asyncio.TaskGroup,
        stack: contextlib.AsyncExitStack,
    ) -> None:
        self.name = name
        self.layout = layout
        self.version = ""
        self.tree = KernelTree(hierarchies)
        self._bus_path = bus_path
        self._init_pid = init_pid
        self._group = group
        self._stack = stack

    @contextlib.asynccontextmanager
    async def connect(self) -> AsyncIterator[Client]:
        """See `Machine`."""
        try:
            reader, writer = await asyncio.open_unix_connection(self._bus_path)
        except OSError as error:
            raise TargetError(f"the bus at {self._bus_path} cannot be reached: {error.strerror}") from error
        client = Client(lambda message: writer.write(encode(message)))
        reading: asyncio.Task[None] | None = None
        try:
            framer = await self._authenticate(reader, writer)
            reading = self._group.create_task(_read(reader, framer, client))
            client.unique_name = (await client.call_bus("Hello")).body[0]
            yield client
        finally:
            if reading is not None:
                reading.cancel()
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    async def _authenticate(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> Framer:
        auth = ClientAuth(os.geteuid(), want_fds=False)
        writer.write(auth.start())
        while not auth.done:
            data = await reader.read(_READ_BYTES)
            if not data:
                raise TargetError(f"the bus at {self._bus_path} closed the connection")
            try:
                writer.write(auth.feed(data))
            except ProtocolError as error:
                raise TargetError(f"the bus at {self._bus_path} does not let us in: {error.message}") from error
        return Framer()

    async def spawn(self, *, stubborn: bool = False) -> Worker:
        """See `Machine`. `cat` ends with us, as its stdin does."""
        script = f"{IGNORE_TERM if stubborn else ''} echo $$; exec cat"
        enter = ["nsenter", "--target", str(self._init_pid), "--mount", "--pid", "--"] if self._init_pid != 1 else []
        child = await self._stack.enter_async_context(held([*enter, "/bin/sh", "-c", script]))
        pid = int(child.first_line)
        outer = _outer_of(child.pid, pid, self._init_pid) if enter else pid
        self._stack.callback(_kill, outer, signal.SIGKILL)
        worker = Worker(pid=pid, pid_outer=outer, kill=lambda number: _kill(outer, number))

        async def watch() -> None:
            await child.wait()
            worker.gone.set()

        watching = self._group.create_task(watch())
        self._stack.callback(watching.cancel)
        place_at_home(self.tree, outer)
        return worker

    async def gate(self, client: Client, stem: str) -> Gate:
        """See `Machine`. A oneshot service is starting for as long as its command runs (systemd.service(5), Type=)."""
        unit = f"{stem}.service"
        command = [["/bin/sleep", ["/bin/sleep", "infinity"], False]]
        array = [
            ["Type", Variant(signature="s", value="oneshot")],
            ["ExecStart", Variant(signature="a(sasb)", value=command)],
            ["DefaultDependencies", Variant(signature="b", value=False)],
        ]
        answer = await client.call("StartTransientUnit", "ssa(sv)a(sa(sv))", unit, "replace", array, [])
        if answer.type is MessageType.ERROR:
            raise TargetError(f"a gate cannot be made: {answer.error_name}: {answer.body}")
        return _RealGate(unit, client)

    async def settle(self) -> None:
        """See `Machine`."""
        await asyncio.sleep(self.quiet_s)


class _RealGate:
    def __init__(self, unit: str, client: Client) -> None:
        self.unit = unit
        self._client = client

    async def open(self) -> None:
        await self._client.call("StopUnit", "ss", self.unit, "replace")


async def _read(reader: asyncio.StreamReader, framer: Framer, client: Client) -> None:
    try:
        while data := await reader.read(_READ_BYTES):
            for frame in framer.feed(data):
                client.received(frame.message)
        client.lost("the bus closed the connection")
    except (OSError, ProtocolError) as error:
        client.lost(f"the bus went away: {error}")


def _kill(pid: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


def _outer_of(parent: int, pid: int, init: int) -> int:
    """Our pid of the child of `parent` that the namespace of `init` calls `pid`."""
    for candidate in descendants(parent):
        if candidate != parent and inner_pid(candidate, init) == pid:
            return candidate
    raise TargetError(f"process {pid} of the machine cannot be found")


@contextlib.asynccontextmanager
async def _running(
    name: str, layout: str, *, bus_path: str, hierarchies: tuple[Hierarchy, ...], init_pid: int
) -> AsyncIterator[Machine]:
    async with asyncio.TaskGroup() as group, contextlib.AsyncExitStack() as stack:
        machine = RealMachine(
            name, layout, bus_path=bus_path, hierarchies=hierarchies, init_pid=init_pid, group=group, stack=stack
        )
        stack.callback(machine.tree.close)
        async with machine.connect() as client:
            answer = await client.get(systemd1.PATH, systemd1.MANAGER, "Version")
            machine.version = answer.body[0].value
        yield machine


@contextlib.asynccontextmanager
async def container(name: MachineName, progress: Callable[[str], None]) -> AsyncIterator[Machine]:
    """A suite's own systemd, booted in a container."""
    async with (
        ContainerTarget.open(name.which, layout=name.layout, progress=progress) as target,
        _running(
            str(name),
            name.layout,
            bus_path=target.bus_path,
            hierarchies=target.hierarchies,
            init_pid=target.init_pid,
        ) as machine,
    ):
        yield machine


@contextlib.asynccontextmanager
async def local(name: MachineName) -> AsyncIterator[Machine]:
    """The machine that this runs on, which should be a guest of one's own: units are started and stopped on it."""
    if os.geteuid() != 0:
        raise TargetError("asking this machine's systemd takes root", hint="sudo cgrace validate local")
    hierarchies = _own_hierarchies()
    layout = "v2" if all(one.is_v2 for one in hierarchies) else "v1"
    async with _running(f"local:{layout}", layout, bus_path=SYSTEM_BUS, hierarchies=hierarchies, init_pid=1) as machine:
        yield machine


def _own_hierarchies() -> tuple[Hierarchy, ...]:
    mounts = (_CGROUPS,) if (_CGROUPS / "cgroup.controllers").exists() else tuple(sorted(_CGROUPS.iterdir()))
    return hierarchies_of(path for path in mounts if not path.is_symlink() and (path / "cgroup.procs").exists())
