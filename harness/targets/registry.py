"""What --target may say, in one place: the name's parts, what is known of a target before it is opened, and how to open it.

A new kind of target is a name in KINDS, a case in `describe` and one in `open_target`.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Final, Protocol

from cgrace.harness.errors import TargetError, UsageError
from cgrace.harness.targets.fake import FakeTarget
from cgrace.harness.targets.machine import MachineSandbox
from cgrace.harness.targets.pool import ContainerPool
from cgrace.harness.targets.roots import build_root
from cgrace.harness.targets.sandbox import FakeSandbox

KINDS: Final = ("fake", "container")
LAYOUTS: Final = ("v1", "v2")
V1_ENDS: Final = 258  # the first systemd without cgroup v1 (systemd-behaviour: release notes of 258)
_HINT: Final = "--target fake, or a booted systemd: --target container:bookworm, container:bookworm:v1"


@dataclass(frozen=True, slots=True, kw_only=True)
class TargetName:
    """A target as it is called. text: as given. kind: of KINDS; place: what comes behind it ("bookworm"); layout: the one that was
    asked for, "" for whichever scenarios want."""

    text: str
    kind: str
    place: str = ""
    layout: str = ""

    @property
    def is_real(self) -> bool:
        """Whether its systemd is real."""
        return self.kind != "fake"

    @property
    def base(self) -> str:
        """Its name without the layout: "container:bookworm"."""
        return f"{self.kind}:{self.place}" if self.place else self.kind

    @property
    def slug(self) -> str:
        """The same, fit to be part of a file's name."""
        return re.sub(r"[^A-Za-z0-9_.]+", "-", self.base).strip("-")


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


def parse_target(text: str) -> TargetName:
    """UsageError for what is no target's name."""
    kind, _, rest = text.partition(":")
    place, layout = rest, ""
    if rest.rpartition(":")[2] in LAYOUTS:
        place, _, layout = rest.rpartition(":")
    if kind not in KINDS:
        raise UsageError(f"there is no target {text!r}", hint=_HINT)
    if kind == "fake" and rest:
        raise UsageError(f"target fake takes no {rest!r}: scenarios say which systemd and layout", hint=_HINT)
    if kind == "container" and not place:
        raise UsageError("which container? A Debian suite's name has to follow", hint=_HINT)
    return TargetName(text=text, kind=kind, place=place, layout=layout)


async def describe(name: TargetName, progress: Callable[[str], None] = lambda _: None) -> Facts:
    """What a real target will be; builds its root where that is not built yet. TargetError where it cannot be had."""
    root = await build_root(name.place, progress=progress)
    version = str(root.note.get("packages", {}).get("systemd", ""))
    systemd = systemd_number(version)
    layouts = LAYOUTS if systemd < V1_ENDS else ("v2",)
    return Facts(name=name, version=version, systemd=systemd, layouts=layouts)


def systemd_number(version: str) -> int:
    """252 of "252.39-1~deb12u2", "systemd 252" or "v252"; TargetError where there is none."""
    found = re.search(r"\d+", version)
    if found is None:
        raise TargetError(f"which systemd is this? It calls itself {version!r}")
    return int(found[0])


@contextlib.asynccontextmanager
async def open_target(
    name: TargetName, layouts: Sequence[str], *, machines: int = 1, progress: Callable[[str], None] = lambda _: None
) -> AsyncIterator[Target]:
    """The target with these layouts; nothing is left of it when the block ends. machines: of a real one, at most at once for each
    layout. TargetError where it cannot be had."""
    if name.kind == "container":
        async with ContainerPool.open(name.place, layouts, machines=machines, progress=progress) as pool:
            yield pool
    else:
        async with FakeTarget.open(layouts) as fake:
            yield fake
