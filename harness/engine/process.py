"""A driver's process as a run knows it, and the pipes to it."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import sys
import termios
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

from cgrace.harness.drivers.base import Answer
from cgrace.harness.drivers.shim import Shim, ShimGone
from cgrace.harness.scenario.model import Step
from cgrace.harness.targets.base import Sandbox, Spawned
from cgrace.harness.witnesses.attribution import status_number

ANCESTORS_MAX = 8


@dataclass(slots=True)
class DriverProcess:
    """One driver process of a run. `out` are its steps that have been called and have not ended."""

    name: str
    spawned: Spawned
    shim: Shim
    pipes: frozenset[int] = frozenset()
    out: dict[str, Step] = field(default_factory=dict)
    gone: bool = False
    ready: bool = False
    stdout: int = -1
    answers: dict[str, asyncio.Future[Answer | ShimGone]] = field(default_factory=dict)
    exited: asyncio.Event = field(default_factory=asyncio.Event)

    def has_said(self) -> bool:
        """Whether it has said something that has not been recorded yet, in its pipe or read and not yet taken up; or is to be
        asked something that has not been written yet: then it does not rest in that step either."""
        if any(step not in self.answers for step in self.out) or any(answer.done() for answer in self.answers.values()):
            return True
        return not self.gone and not self.shim.gone and bool(pipe_bytes(self.stdout))


def owner(sandbox: Sandbox, pid_outer: int) -> str:
    """The name of the process of a run that this one is, or descends from; "" where it is none of them (any more)."""
    for _ in range(ANCESTORS_MAX):
        inner = sandbox.inner(pid_outer)
        if inner is not None and (name := sandbox.name_of(inner)):
            return name
        pid_outer = status_number(pid_outer, b"PPid:")
        if pid_outer <= 1:
            break
    return ""


def environment(socket: str, folder: str, *, of_user: bool = False) -> dict[str, str]:
    """A driver's whole environment: the bus at that socket, and a folder for what it keeps. of_user: it is a user's bus, and there
    is no other.

    No garbage is collected: once Go's scavenger ran, it sleeps on a timer of its own, and a wait without limit seems to have one.
    """
    return {
        f"DBUS_{'SESSION' if of_user else 'SYSTEM'}_BUS_ADDRESS": f"unix:path={socket}",
        "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
        "TMPDIR": folder,
        "GOTRACEBACK": "all",
        "GOGC": "off",
    }


def pipe_bytes(descriptor: int) -> int:
    """Bytes that lie in a pipe; 0 when it is closed."""
    try:
        return int.from_bytes(fcntl.ioctl(descriptor, termios.FIONREAD, bytes(4)), sys.byteorder)
    except OSError:
        return 0


@contextlib.asynccontextmanager
async def pipes() -> AsyncIterator[tuple[tuple[int, int, int], tuple[int, int, int]]]:
    """Three pipes: our ends (write stdin, read stdout, read stderr), the driver's ends. Theirs are closed on leaving."""
    stdin, stdout, stderr = os.pipe(), os.pipe(), os.pipe()
    try:
        yield (stdin[1], stdout[0], stderr[0]), (stdin[0], stdout[1], stderr[1])
    except BaseException:
        for fd in (stdin[1], stdout[0], stderr[0]):
            os.close(fd)
        raise
    finally:
        for fd in (stdin[0], stdout[1], stderr[1]):
            os.close(fd)
