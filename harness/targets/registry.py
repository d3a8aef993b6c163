"""What --target may say, in one place: the name's parts, what is known of a target before it is opened, and how to open it.

A new kind of target is a name in KINDS, a case in `describe` and one in `open_target`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import re
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Final, Protocol

from cgrace.harness.errors import TargetError, UnavailableError, UsageError
from cgrace.harness.targets.fake import FakeTarget
from cgrace.harness.targets.host import HostTarget
from cgrace.harness.targets.layout import ENTERED
from cgrace.harness.targets.machine import MachineSandbox
from cgrace.harness.targets.names import V1_ENDS, split_layout, systemd_number
from cgrace.harness.targets.oci import split_runtime
from cgrace.harness.targets.pool import ContainerPool
from cgrace.harness.targets.remote import look_at
from cgrace.harness.targets.roots import build_root, split_over
from cgrace.harness.targets.sandbox import FakeSandbox
from cgrace.harness.targets.user import UserTarget
from cgrace.harness.targets.vms import describe_vm, split_place

KINDS: Final = ("fake", "container", "vm", "ssh", "host", "user")
REMOTE: Final = ("vm", "ssh")  # cgrace itself runs inside, and there the target is the host (engine/remote.py)
LAYOUTS: Final = ("v1", "v2")
HYBRID: Final = "hybrid"  # of a vm: v1 with systemd in a v2 of its own
UNDONE: Final = "the machine is not as it was before the last run"
_HINT: Final = "--target fake, or a booted systemd: --target container:bookworm, container:bookworm:v1"


@dataclass(frozen=True, slots=True, kw_only=True)
class TargetName:
    """A target as it is called. text: as given. kind: of KINDS; place: what comes behind it ("bookworm"); layout: the one that was
    asked for, "" for whichever scenarios want. booted_by: the OCI runtime that boots a container, "" for cgrace itself.
    shown: another name for it in traces, where cgrace runs inside of it."""

    text: str
    kind: str
    place: str = ""
    layout: str = ""
    booted_by: str = ""
    shown: str = ""

    @property
    def is_real(self) -> bool:
        """Whether its systemd is real."""
        return self.kind != "fake"

    @property
    def is_alone(self) -> bool:
        """Whether it has one run at a time."""
        return self.is_remote or self.kind in ("host", "user")

    @property
    def wanted(self) -> str:
        """The layout that scenarios have to be about, "" for any."""
        return scenario_layout(self.layout)

    @property
    def is_remote(self) -> bool:
        """Whether cgrace runs inside of it."""
        return self.kind in REMOTE

    @property
    def base(self) -> str:
        """Its name without the layout: "container:bookworm"."""
        return self.shown or (f"{self.kind}:{self.place}" if self.place else self.kind)

    @property
    def slug(self) -> str:
        """The same, fit to be part of a file's name. A build over a root (container:trixie+DIR) is held against what was recorded
        of the root's own systemd."""
        base = self.base
        if self.is_build:
            base = f"{self.kind}:{self._split[0]}"
        return re.sub(r"[^A-Za-z0-9_.]+", "-", base).strip("-")

    @property
    def is_build(self) -> bool:
        """Whether its systemd is in an install tree that is laid over a root."""
        return self.kind in ("container", "vm") and bool(self._split[1])

    @property
    def _split(self) -> tuple[str, str]:
        return split_place(self.place) if self.kind == "vm" else split_over(self.place)


FAKE: Final = TargetName(text="fake", kind="fake")


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What is known of a real target before it runs anything. version: as its systemd calls itself; systemd: the number in it;
    layouts: of cgroups, that it can have."""

    name: TargetName
    version: str
    systemd: int
    layouts: tuple[str, ...]


class Target(Protocol):
    """An open target: sandboxes for runs, as many at once as it likes."""

    def sandbox(self, layout: str = "v1") -> AbstractAsyncContextManager[FakeSandbox | MachineSandbox]:
        """A place for one run."""
        ...


class _Alone:
    """This machine, or its user's systemd: runs one after the other, and no more once one left what could not be undone."""

    def __init__(self, host: HostTarget | UserTarget) -> None:
        self._host = host

    @contextlib.asynccontextmanager
    async def sandbox(self, layout: str = "v1") -> AsyncIterator[MachineSandbox]:
        if layout != self._host.layout:
            raise UnavailableError(f"it is about cgroup {layout}, and this machine has {self._host.layout}")
        if self._host.ended.done():  # never a machine's own, which goes with it
            raise TargetError("the user's systemd has ended meanwhile", hint="loginctl enable-linger keeps it running")
        if self._host.dirty:
            raise TargetError(f"{UNDONE}: {self._host.dirty}", hint="cgrace clean")
        async with self._host.sandbox() as sandbox:
            yield sandbox


def scenario_layout(layout: str) -> str:
    """Which layout scenarios are about that can be run on a machine with this one."""
    return "v1" if layout == HYBRID else layout


def parse_target(text: str, *, allow_host: bool = False) -> TargetName:
    """UsageError for what is no target's name. allow_host: whether this very machine may be one."""
    kind, _, rest = text.partition(":")
    place, layout = rest, ""
    if kind not in KINDS:
        raise UsageError(f"there is no target {text!r}", hint=_HINT)
    if kind in ("container", "vm"):
        place, layout = split_layout(kind, rest, (*LAYOUTS, HYBRID) if kind == "vm" else LAYOUTS)
    if kind == "fake" and rest:
        raise UsageError(f"target fake takes no {rest!r}: scenarios say which systemd and layout", hint=_HINT)
    if kind in ("container", "vm") and place in ("", *LAYOUTS, HYBRID):
        raise UsageError(f"which {kind}? A Debian suite's name has to follow", hint=_HINT)
    if kind == "ssh" and (not place or place.startswith("-") or rest.endswith((":v1", ":v2"))):
        raise UsageError(
            "which host? Its name as ssh takes it has to follow, and its layout is its own", hint="ssh:HOST"
        )
    if kind in ("host", "user") and rest:
        raise UsageError(f"target {kind} takes no {rest!r}: it is this machine's", hint=f"--target {kind}")
    if kind == "host" and not allow_host:
        raise UsageError("target host starts units on this very machine", hint="allow it: --allow-host")
    place, booted_by = split_runtime(place) if kind == "container" else (place, "")
    return TargetName(text=text, kind=kind, place=place, layout=layout, booted_by=booted_by)


async def describe(name: TargetName, progress: Callable[[str], None] = lambda _: None) -> Facts:
    """What a real target will be; builds its root where that is not built yet. TargetError where it cannot be had."""
    match name.kind:
        case "ssh":
            layouts: tuple[str, ...]
            seen = await look_at(name.place)
            version, layouts = seen.systemd, (scenario_layout(seen.layout),)
        case "host":
            async with HostTarget.open(allow_host=True) as host:
                version, layouts = host.version, (host.layout,)
        case "user":
            async with UserTarget.open() as user:
                version, layouts = user.version, (user.layout,)
            name = dataclasses.replace(name, shown=name.shown or f"user:{systemd_number(version)}")
        case "vm":
            version, layouts = await describe_vm(name.place, progress)
        case _:
            root = await build_root(name.place, progress=progress)
            version = str(root.note.get("packages", {}).get("systemd", ""))
            layouts = ("v2",) if os.environ.get(ENTERED) else LAYOUTS
    systemd = systemd_number(version)
    if systemd >= V1_ENDS:
        layouts = ("v2",)
    return Facts(name=name, version=version, systemd=systemd, layouts=layouts)


async def try_build(name: TargetName, layouts: Sequence[str], progress: Callable[[str], None] = lambda _: None) -> None:
    """Boot a container with what somebody has just built over its root, once for each layout: one TargetError where it does not,
    instead of one for each case. Nothing is done for any other target."""
    if name.kind != "container" or not name.is_build:
        return
    facts = await describe(name, progress)
    for layout in (one for one in layouts if one in facts.layouts):
        with contextlib.suppress(UnavailableError):
            async with open_target(name, [layout], progress=progress) as target, target.sandbox(layout):
                pass


@contextlib.asynccontextmanager
async def open_target(
    name: TargetName, layouts: Sequence[str], *, machines: int = 1, progress: Callable[[str], None] = lambda _: None
) -> AsyncIterator[Target]:
    """The target with these layouts; nothing is left of it when the block ends. machines: of a real one, at most at once for each
    layout. TargetError where it cannot be had."""
    if name.kind == "container":
        opened = ContainerPool.open(name.place, layouts, machines=machines, booted_by=name.booted_by, progress=progress)
        async with opened as pool:
            yield pool
    elif name.kind == "host":
        async with HostTarget.open(allow_host=True) as host:
            yield _Alone(host)
    elif name.kind == "user":
        async with UserTarget.open() as user:
            yield _Alone(user)
    else:
        async with FakeTarget.open(layouts) as fake:
            yield fake
