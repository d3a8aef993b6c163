"""What a probe runs against: a systemd with its bus and its cgroups, real or fake, and processes that it can be given.

`open_machine` gives one by its name:

    container:SUITE[+DIR][:v1|v2]  a booted Debian root's own systemd (targets/container.py), or the install tree in DIR over it
    fake:PROFILE[@qemu][:v1|v2]  the fake systemd with that profile on cgroups of this machine (fakes/systemd), in what it takes for
                               a container, with @qemu in a whole machine
    vm:SUITE[:v1|v2], ssh:HOST  asked from inside, by this program (targets/remote.py): see commands/validate.py
    user                       the systemd of the user who asks (targets/user.py); no root
    local                      the systemd of the machine that this runs on, over its system bus (in a guest, as root)

Whatever happens inside the block, processes and machines are gone after it. What a caller made on `local` is the caller's to
undo.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from dataclasses import dataclass, field
from typing import Final, Protocol

from cgrace.fakes.systemd.profile import load_profile
from cgrace.fakes.systemd.tree import KernelTree
from cgrace.harness.errors import UsageError
from cgrace.harness.validate.client import Client

WHOLE: Final = "@"  # in a fake's name, before where it is to believe that it runs
START: Final = "ssa(sv)a(sa(sv))"  # what StartTransientUnit takes
LAYOUTS: Final = ("v1", "v2")
USERS: Final = "user"  # the name of a user's systemd
HOME: Final = "/cgrace-home"  # where a new process is on v2: the root must have none, to hand down controllers

SYSTEM_SLICE: Final = "system.slice"
IGNORE_TERM: Final = "trap '' TERM;"  # in front of a shell's command: its exec keeps what is ignored


@dataclass(eq=False, slots=True, kw_only=True)
class Worker:
    """A process that does nothing until it is killed. pid: as systemd sees it, for PIDs=; pid_outer: as we do.

    gone: set once it has ended and was reaped. kill: sends a signal to it.
    """

    pid: int
    pid_outer: int
    kill: Callable[[int], None]
    gone: asyncio.Event = field(default_factory=asyncio.Event)


class Gate(Protocol):
    """A unit that is still starting: whatever is ordered After= it stays queued until the gate opens."""

    unit: str

    async def open(self) -> None:
        """Let go of what waits. May be called again."""
        ...


class Machine(Protocol):
    """name: as it was asked for, with its layout; layout: "v1" or "v2"; version, runs_in: the Manager's properties Version and
    Virtualization.

    tree: its cgroup file systems by hierarchy; paths there begin at what its systemd takes for the root ("" or "/a.slice").
    above: where that root is, as its ControlGroup says: "" of a machine's systemd, "/user.slice/..." of a user's. scopes_in: the
    slice of a scope that asks for none (unit.c, unit_set_default_slice).
    quiet_s: when so long nothing was heard, nothing more comes. 0 for the fake, which works at once. slowness: by how much it is
    slower than what time-outs were made for, 1 or more: an emulated machine, or a host with too much to do.
    """

    name: str
    layout: str
    version: str
    runs_in: str
    tree: KernelTree
    above: str
    scopes_in: str
    quiet_s: float
    slowness: float

    def connect(self) -> AbstractAsyncContextManager[Client]:
        """A connection of one's own to its bus, named; closed when the block ends."""
        ...

    async def spawn(self, *, stubborn: bool = False, adopted: bool = True) -> Worker:
        """A process in the root cgroup (v2: in HOME) that systemd did not start. stubborn: it ignores SIGTERM. adopted: where
        that can be, PID 1 is its parent and hears of its end; if not, it hears of no end."""
        ...

    async def spawn_many(self, stubborn: Sequence[bool]) -> list[Worker]:
        """As many processes, each adopted."""
        ...

    async def gate(self, client: Client, stem: str) -> Gate:
        """A closed gate, whose unit's name begins with `stem`."""
        ...

    def standing(self) -> AbstractContextManager[None]:
        """Its systemd does nothing inside the block, where it can be stopped: what is sent then is there all at once."""
        ...

    async def settle(self) -> None:
        """Until the fake has nothing left to do; on a real one until a quiet time has passed."""
        ...


@dataclass(frozen=True, slots=True)
class MachineName:
    """A machine's name, taken apart. kind: "container", "fake", "user" or "local"; which: the suite or profile. layout: "" for what
    it has; of a container v1 where its systemd knows that."""

    kind: str
    which: str
    layout: str

    def __str__(self) -> str:
        return ":".join(part for part in (self.kind, self.which, self.layout) if part)


def parse_machine(text: str) -> MachineName:
    """Read a machine's name; UsageError with what there is."""
    words = text.split(":")
    layout = words.pop() if len(words) > 1 and words[-1] in LAYOUTS else ""
    match words:
        case ["container", str(suite)] if suite:
            return MachineName("container", suite, layout)
        case ["fake", str(profile)] if profile:
            load_profile(profile.partition(WHOLE)[0])  # what there is not is said before anything is asked
            return MachineName("fake", profile, layout or "v1")
        case ["local"]:
            return MachineName("local", "", layout)
        case [str(kind)] if kind == USERS and layout in ("", "v2"):
            return MachineName(USERS, "", layout)
    raise UsageError(
        f"{text!r:.80} is no machine to validate",
        hint="container:trixie, container:bookworm:v2, fake:257, user, local, or a recorded baseline such as 257-v1",
    )


@contextlib.asynccontextmanager
async def open_machine(
    name: MachineName, *, progress: Callable[[str], None] = lambda _: None
) -> AsyncIterator[Machine]:
    """The machine, ready, for as long as the block lasts. TargetError where it cannot be had."""
    from cgrace.harness.validate import fake, real

    match name.kind:
        case "container":
            opened: AbstractAsyncContextManager[Machine] = real.container(name, progress)
        case "fake":
            opened = fake.fake(name)
        case kind if kind == USERS:
            opened = real.user()
        case _:
            opened = real.local()
    async with opened as machine:
        yield machine
