"""The wire to a sandbox's init: one seqpacket socket, JSON packets, descriptors and credentials beside them.

The packets are described in go/init/serve.go. Init answers in the order of the requests, and "spawned" carries the child's
pid as credentials, which the kernel translates into our pid namespace. When init ends, for whatever reason, everything
that was waited for fails with a TargetError, and every child is reported as killed.
"""

from __future__ import annotations

import array
import asyncio
import contextlib
import errno
import itertools
import json
import os
import signal
import socket
import struct
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, TypeVar

from cgrace.harness.drivers.gobuild import build_go_program
from cgrace.harness.errors import TargetError
from cgrace.harness.targets import filters

_INIT: Final = Path(__file__).resolve().parent / "go" / "init"
REQUEST_BYTES_MAX: Final = 150_000  # one packet must fit into a socket buffer of the default size
_ANSWER_BYTES_MAX: Final = 1 << 16
_CREDENTIALS: Final = struct.Struct("3i")
_KILLED: Final = -int(signal.SIGKILL)

T = TypeVar("T")


async def build_init() -> Path:
    """The program at the other end of the wire, built unless it is already."""
    return await build_go_program(_INIT, "cgrace-init")


class Control:
    """The cgrace end of a control socket. Lives in one event loop; `close` ends init and with it the sandbox.

    started: the outer pid of init once its mounts are made (TargetError when they cannot be). init_pid: its outer pid as
    soon as it is known, else None.
    """

    def __init__(self, end: socket.socket) -> None:
        self._loop = asyncio.get_running_loop()
        self._socket = end
        self._socket.setblocking(False)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        self._spawning: deque[tuple[asyncio.Future[tuple[int, int]], Callable[[int], None]]] = deque()
        self._clearing: dict[int, asyncio.Future[int]] = {}
        self._connecting: dict[int, Callable[[int], None]] = {}
        self._on_exit: dict[int, Callable[[int], None]] = {}
        self._outbox: deque[tuple[bytes, tuple[int, ...]]] = deque()
        self._tokens = itertools.count(1)
        self.started: asyncio.Future[int] = self._loop.create_future()
        self.init_pid: int | None = None
        self.closed = False
        self.garbled: list[str] = []
        self._loop.add_reader(self._socket, self._readable)

    # ---- requests

    async def spawn(
        self,
        name: str,
        argv: Sequence[str],
        env: Mapping[str, str],
        *,
        descriptors: tuple[int, ...],
        on_exit: Callable[[int], None],
        cwd: str = "/",
        closes: bool = False,
    ) -> tuple[int, int]:
        """Start a child of init: (inner pid, outer pid). `on_exit` is not called before this returned.

        descriptors: its first three; a fourth is the socket for the listener of the filter that it then runs under (notify.py),
        which also stops it where it closes.
        """
        answer: asyncio.Future[tuple[int, int]] = self._loop.create_future()
        environment = [f"{key}={value}" for key, value in env.items()]
        request: dict[str, Any] = {"spawn": name, "argv": list(argv), "env": environment, "cwd": cwd}
        if len(descriptors) > 3:
            machine = filters.architecture()
            request["filter"] = {"call": machine.seccomp, "program": filters.program(machine, closes=closes).hex()}
        self._send(request, descriptors)
        self._spawning.append((answer, on_exit))
        return await answer

    def signal(self, pid: int, number: int) -> None:
        """Send a signal to an inner pid; nothing happens when it is gone."""
        with contextlib.suppress(TargetError):
            self._send({"signal": pid, "number": number})

    def connect(self, sock: int, to: int, told: Callable[[int], None]) -> None:
        """Have init connect a socket of ours to the one that `to` (O_PATH) stands for, so that who listens there sees a process of
        its own pid namespace. told: gets 0 or an errno, later. Both descriptors may be closed at once."""
        token = next(self._tokens)
        self._send({"connect": token}, (sock, to))
        self._connecting[token] = told

    async def clear(self) -> int:
        """Kill everything but init; returns how many of init's own children there still were, once all are reaped."""
        token = next(self._tokens)
        self._send({"clear": token})
        self._clearing[token] = self._loop.create_future()
        return await self._clearing[token]

    def _send(self, request: Mapping[str, Any], descriptors: tuple[int, ...] = ()) -> None:
        if self.closed:
            raise TargetError("the sandbox is gone: its init has ended")
        packet = json.dumps(request).encode()
        if len(packet) > REQUEST_BYTES_MAX:
            raise TargetError(f"arguments and environment are too large for one request ({len(packet)} bytes)")
        if self._outbox or not self._send_now(packet, descriptors):
            # The caller may close its descriptors as soon as we return, so what waits keeps its own.
            self._outbox.append((packet, tuple(os.dup(fd) for fd in descriptors)))
            self._loop.add_writer(self._socket, self._writable)

    def _send_now(self, packet: bytes, descriptors: tuple[int, ...]) -> bool:
        beside = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors))] if descriptors else []
        try:
            self._socket.sendmsg([packet], beside)
        except BlockingIOError:
            return False
        except (BrokenPipeError, ConnectionResetError):
            pass  # the reader sees the end and tells everybody
        return True

    def _writable(self) -> None:
        while self._outbox:
            packet, descriptors = self._outbox[0]
            if not self._send_now(packet, descriptors):
                return
            self._outbox.popleft()
            for fd in descriptors:
                os.close(fd)
        self._loop.remove_writer(self._socket)

    # ---- answers

    def _readable(self) -> None:
        while not self.closed:
            try:
                packet, beside, _, _ = self._socket.recvmsg(_ANSWER_BYTES_MAX, socket.CMSG_SPACE(_CREDENTIALS.size))
            except BlockingIOError:
                return
            except OSError:
                packet, beside = b"", []
            if not packet:
                self.close()
                return
            pid = next((_CREDENTIALS.unpack(data)[0] for _, kind, data in beside if kind == socket.SCM_CREDENTIALS), 0)
            self._take(json.loads(packet), pid)

    def _take(self, answer: dict[str, Any], pid: int) -> None:
        match answer:
            case {"cloned": int(child)}:
                self.init_pid = child
            case {"ready": _}:
                self.init_pid = pid
                _resolve(self.started, pid)
            case {"failed": str(why)}:
                _refuse(self.started, TargetError(f"cannot set up a sandbox: {why}"))
            case {"spawned": _, "pid": int(inner)}:
                waiter, on_exit = self._spawning.popleft()
                self._on_exit[inner] = on_exit
                _resolve(waiter, (inner, inner if answer.get("same") else pid))
            case {"refused": name, "error": why}:
                waiter, _ = self._spawning.popleft()
                _refuse(waiter, TargetError(f"cannot start {name!r} in the sandbox: {why}"))
            case {"exited": int(inner), "status": int(status)}:
                if (told := self._on_exit.pop(inner, None)) is not None:
                    # Not at once: whoever awaits the spawn of this process has to run first.
                    self._loop.call_soon(told, os.waitstatus_to_exitcode(status))
            case {"connected": int(token), "errno": int(number)}:
                self._connecting.pop(token)(number)
            case {"cleared": int(token), "killed": int(killed)}:
                _resolve(self._clearing.pop(token), killed)
            case _:
                self.garbled.append(str(answer))

    def close(self) -> None:
        """Say no more: init exits, the kernel kills the rest. Everything that is waited for ends now."""
        if self.closed:
            return
        self.closed = True
        self._loop.remove_reader(self._socket)
        self._loop.remove_writer(self._socket)
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_WR)
        for _, descriptors in self._outbox:
            for fd in descriptors:
                os.close(fd)
        gone = TargetError("the sandbox is gone: its init has ended")
        _refuse(self.started, gone)
        for waiter, _ in self._spawning:
            _refuse(waiter, gone)
        for clearing in self._clearing.values():
            _refuse(clearing, gone)
        for told in self._on_exit.values():
            self._loop.call_soon(told, _KILLED)
        self._on_exit.clear()
        for told in self._connecting.values():
            self._loop.call_soon(told, errno.ECONNREFUSED)
        self._connecting.clear()

    def drain(self, seconds_max: float) -> None:
        """Read to the end, after `close`, and let go of the socket. Blocks until init and stage 1 have ended.

        A sandbox that is given up while it starts may have an init of which we have not read yet: it has to be reaped.
        """
        assert self.closed
        with self._socket, contextlib.suppress(OSError):
            self._socket.settimeout(seconds_max)
            while packet := self._socket.recv(_ANSWER_BYTES_MAX):
                self.init_pid = json.loads(packet).get("cloned", self.init_pid)


def _resolve(future: asyncio.Future[T], value: T) -> None:
    if not future.done():
        future.set_result(value)


def _refuse(future: asyncio.Future[Any], error: TargetError) -> None:
    if not future.done():
        future.set_exception(error)
        future.exception()  # seen: nobody may be left to await it
