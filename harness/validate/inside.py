"""Processes inside a machine: workers for probes, and one that connects to the bus, as who connects from outside has no pid there.

On a booted machine workers are orphans, so children of its PID 1, also in a guest that is asked from inside. On v1 in a
container no release agent tells systemd that a cgroup ran empty; of its own children's end it hears by SIGCHLD, and looks
(scope.c, scope_sigchld_event). Else a scope would end or stay by how fast its process dies.

systemd reads of a caller what the kernel tells of the pid at the other end of its socket (sd-bus, bus-creds.c); a process of
another pid namespace has none, and half of the calls are then refused with EREMOTE.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import sys
from collections.abc import Callable, Sequence
from typing import Final

from cgrace.fakes.systemd.tree import KernelTree
from cgrace.harness.errors import TargetError
from cgrace.harness.proc.handle import ProcessHandle
from cgrace.harness.proc.run import run_ok
from cgrace.harness.targets.base import Sandbox
from cgrace.harness.targets.namespaces import outer_pid, outer_pids
from cgrace.harness.validate.machine import HOME, IGNORE_TERM, Worker

START_S_MAX: Final = 20.0
_SHELL: Final = "/bin/sh"
_ENVIRONMENT: Final = {"PATH": os.defpath}
# Connects once for each packet that it gets, and hands the socket out; stays, as whoever asks about its pid must find it.
_CONNECTOR: Final = """
import socket, sys
us = socket.socket(fileno=0)
while us.recv(1):
    bus = socket.socket(socket.AF_UNIX)
    try:
        bus.connect(sys.argv[1])
        socket.send_fds(us, [b"+"], [bus.fileno()])
    except OSError as error:
        us.send(b"-" + str(error.strerror).encode())
    bus.close()
"""


async def spawn_worker(sandbox: Sandbox, tree: KernelTree, *, stubborn: bool, ended: Callable[[], None]) -> Worker:
    """A process of the sandbox that waits, at home; `ended` is called when it is gone. stubborn: it ignores SIGTERM."""
    gone = asyncio.Event()

    def on_exit(_status: int) -> None:
        gone.set()
        ended()

    reads, writes = os.pipe()
    nothing = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    try:
        spawned = await sandbox.spawn(
            "worker",
            [_SHELL, "-c", f"{IGNORE_TERM if stubborn else ''} echo; exec sleep infinity"],
            env=_ENVIRONMENT,
            stdin=nothing,
            stdout=writes,
            stderr=nothing,
            role="workload",
            on_exit=on_exit,
        )
    finally:
        os.close(writes)
        os.close(nothing)
    try:
        async with asyncio.timeout(START_S_MAX):
            await _readable(reads)
            if not os.read(reads, 1):
                raise TargetError("a process ended before it was ready")
    finally:
        os.close(reads)
    place_at_home(tree, spawned.pid_outer)
    return Worker(
        pid=spawned.pid,
        pid_outer=spawned.pid_outer,
        kill=lambda number: sandbox.signal(spawned.pid, number),
        gone=gone,
    )


async def spawn_orphan(init_pid: int, tree: KernelTree, stack: contextlib.AsyncExitStack, *, stubborn: bool) -> Worker:
    """A child of the machine's PID 1 that waits, at home. init_pid: that PID 1 as we see it. stack: ends it with the machine."""
    waits = f"{IGNORE_TERM if stubborn else ''} echo $$; exec sleep infinity >/dev/null 2>&1"
    [pid] = await _start(init_pid, "start a process", 'setsid sh -c "$1" </dev/null &', waits)
    outer = outer_pid(pid, init_pid)
    if outer is None:
        raise TargetError(f"process {pid} of the machine ended before it was ready")
    place_at_home(tree, outer)
    return _orphan(pid, outer, stack)


# Goes home first, so that its children are born there.
_MANY: Final = """
for file in /sys/fs/cgroup/*/cgroup.procs; do [ -d /sys/fs/cgroup/init.scope ] || echo 0 >"$file"; done
[ -d /sys/fs/cgroup/init.scope ] && mkdir -p /sys/fs/cgroup$1 && echo 0 >/sys/fs/cgroup$1/cgroup.procs
shift
for trap in "$@"; do setsid sh -c "$trap"'echo $$; exec sleep infinity >/dev/null 2>&1' </dev/null & done
"""


async def spawn_orphans(init_pid: int, stack: contextlib.AsyncExitStack, stubborn: Sequence[bool]) -> list[Worker]:
    """The same for many at once; `stubborn` says of each whether it ignores SIGTERM."""
    if not stubborn:
        return []
    found: dict[bool, list[int]] = {}
    for kind in sorted(set(stubborn)):
        traps = [IGNORE_TERM if kind else ""] * stubborn.count(kind)
        found[kind] = sorted(await _start(init_pid, "start processes", _MANY, HOME, *traps), reverse=True)
    outer = outer_pids(init_pid)
    workers = []
    for kind in stubborn:
        pid = found[kind].pop()
        if pid not in outer:
            raise TargetError(f"process {pid} of the machine ended before it was ready")
        workers.append(_orphan(pid, outer[pid], stack))
    return workers


async def _start(init_pid: int, what: str, script: str, *words: str) -> list[int]:
    """Run a shell's script in the machine of that PID 1; the pids that it prints."""
    enter = [] if init_pid == 1 else ["nsenter", "--target", str(init_pid), "--mount", "--pid", "--"]
    done = await run_ok([*enter, _SHELL, "-c", script, "sh", *words], what=what, error=TargetError)
    return [int(word) for word in done.text.split()]


def _orphan(pid: int, outer: int, stack: contextlib.AsyncExitStack) -> Worker:
    """A worker that is signalled by its handle: its pid may long be another's when the machine ends."""
    gone = asyncio.Event()
    handle = _watch(outer, gone, stack)

    def kill(number: int) -> None:
        if not gone.is_set():
            with contextlib.suppress(ProcessLookupError):
                handle.kill(number)

    stack.callback(kill, signal.SIGKILL)
    return Worker(pid=pid, pid_outer=outer, kill=kill, gone=gone)


def _watch(pid: int, gone: asyncio.Event, stack: contextlib.AsyncExitStack) -> ProcessHandle:
    """Set the event when the process has ended. Its handle, open until then."""
    handle = ProcessHandle(pid)

    def ended() -> None:
        handle.close()
        gone.set()

    handle.on_end(ended)
    stack.callback(handle.close)
    return handle


def place_at_home(tree: KernelTree, pid_outer: int) -> None:
    """Put a new process where systemd has no hand in: the root of each v1 hierarchy, HOME on v2."""
    for hierarchy in tree.hierarchies:
        home = HOME if hierarchy.is_v2 else ""
        tree.mkdir(hierarchy.name, home)
        tree.attach(hierarchy.name, home, pid_outer)


class Connector:
    """A process of the sandbox that makes connections. `start` it; it ends with the sandbox, or by `close`."""

    def __init__(self, ours: socket.socket) -> None:
        self._socket = ours
        self._turn = asyncio.Lock()

    @classmethod
    async def start(cls, sandbox: Sandbox, tree: KernelTree, bus_path: str) -> Connector:
        """bus_path: as it is seen inside."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.setblocking(False)
        nothing = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
        try:
            with theirs:
                spawned = await sandbox.spawn(
                    "connector",
                    [sys.executable, "-S", "-E", "-c", _CONNECTOR, bus_path],
                    env=_ENVIRONMENT,
                    stdin=theirs.fileno(),
                    stdout=nothing,
                    stderr=nothing,
                    role="workload",
                    on_exit=lambda _status: None,
                )
        finally:
            os.close(nothing)
        place_at_home(tree, spawned.pid_outer)
        return cls(ours)

    async def connect(self) -> socket.socket:
        """A connection to the bus; TargetError when there is none to be had."""
        async with self._turn, asyncio.timeout(START_S_MAX):
            await asyncio.get_running_loop().sock_sendall(self._socket, b"?")
            await _readable(self._socket.fileno())
            said, descriptors, _, _ = socket.recv_fds(self._socket, 200, 1)
        if not descriptors:
            raise TargetError(f"the machine's bus cannot be reached: {said[1:].decode() or 'its connector ended'}")
        return socket.socket(fileno=descriptors[0])

    def close(self) -> None:
        """Let go of it."""
        self._socket.close()


async def _readable(descriptor: int) -> None:
    loop = asyncio.get_running_loop()
    came: asyncio.Future[None] = loop.create_future()

    def ready() -> None:
        loop.remove_reader(descriptor)
        came.set_result(None)

    loop.add_reader(descriptor, ready)
    try:
        await came
    finally:
        with contextlib.suppress(ValueError):
            loop.remove_reader(descriptor)
