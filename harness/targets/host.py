"""Target `host`: this machine's own systemd. Only where it is allowed, only units with our prefix, and everything undone.

A run's processes are children of cgrace in its own namespaces, but for a mount namespace that hides systemd's private socket, and
start in cgrace's own cgroups (standing.py).
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Final

from cgrace.harness.dbus import systemd1
from cgrace.harness.dbus.address import unix_path
from cgrace.harness.errors import TargetError
from cgrace.harness.targets import owner
from cgrace.harness.targets.base import Hierarchy
from cgrace.harness.targets.bus_client import BusClient
from cgrace.harness.targets.layout import INNER_ROOT, UNIFIED, HostHierarchy, host_hierarchies
from cgrace.harness.targets.machine import MachineSandbox
from cgrace.harness.targets.putback import PutBack
from cgrace.harness.targets.standing import Standing, alone
from cgrace.harness.targets.sweep import sweep

BUS_SOCKET: Final = "/run/dbus/system_bus_socket"  # unless DBUS_SYSTEM_BUS_ADDRESS says otherwise, as for everybody
UNDO_S_MAX: Final = 20.0  # of a run, more than where another machine is soon booted
NOT_OURS: Final = "cgrace.target"  # what images of ours boot to (images.py)
BOOTED: Final = Path("/run/systemd/system")  # sd_booted(3)


class HostTarget(Standing):
    """This machine. Made by `HostTarget.open`; one run at a time.

    runs on it see its cgroups as everybody does, so `cgroup_prefix` is "" and the roots of `hierarchies` are its mounts.
    """

    def __init__(self, layout: str) -> None:
        super().__init__(layout, unix_path(os.environ.get("DBUS_SYSTEM_BUS_ADDRESS", BUS_SOCKET)))
        self.undo_s_max = UNDO_S_MAX
        self.hierarchies = _mounted(layout)

    @classmethod
    @contextlib.asynccontextmanager
    async def open(cls, *, allow_host: bool) -> AsyncIterator[HostTarget]:
        """TargetError where this machine has no systemd of its own, where we are not root, and unless the user allowed it.

        What a killed cgrace left of a run goes first.
        When the block ends, however it ends, no unit, cgroup or process of ours is left.
        """
        if not allow_host:
            raise TargetError("target host starts units on this very machine", hint="allow it: --allow-host")
        if os.geteuid() != 0:
            raise TargetError("target host starts units of the system, which takes root", hint="sudo cgrace ...")
        layout = _layout()
        with alone(BOOTED, target="host", whose="machine"):
            await asyncio.to_thread(sweep)
            target = cls(layout)
            try:
                await asyncio.to_thread(target._folder.make)
                async with BusClient(target.bus_path) as bus:
                    target.version = await bus.get(systemd1.PATH, systemd1.MANAGER, "Version")
                await target._clean()
                yield target
            finally:
                await target._tear_down()

    @contextlib.asynccontextmanager
    async def place(self, layout: str = "v1") -> AsyncIterator[MachineSandbox]:
        """`sandbox`, if that is of the wanted layout. What cannot be undone is an error here: nobody boots another host."""
        if layout != self.layout:
            raise TargetError(
                f"this machine has cgroup {self.layout}, not {layout}", hint="--target container:bookworm"
            )
        async with self.sandbox() as sandbox:
            yield sandbox
        if self.dirty:
            raise TargetError(f"not all that the run did to this machine was undone: {self.dirty}", hint="cgrace clean")

    @property
    def init_pid(self) -> int:
        """PID 1."""
        return 1

    def _view(self) -> dict[str, Any]:
        return {}

    def _comparison(self) -> PutBack:
        return PutBack(self.bus_path, Path("/"), self.hierarchies, prefix=owner.UNIT_PREFIX, besides=NOT_OURS)

    async def _clean(self) -> None:
        """End what a killed cgrace left of its run. TargetError for what stays."""
        self._wake()
        past = self._comparison()
        await past.look_past_leftovers()
        if problem := await past.put_back(self.undo_s_max):
            raise TargetError(
                f"an earlier cgrace left what cannot be undone: {problem}", hint="systemctl status 'cgrace*'"
            )


def _layout() -> str:
    """Which layout this machine's systemd uses; TargetError where it has none."""
    name = Path("/proc/1/comm").read_text(encoding="utf-8", errors="replace").strip()
    if name != "systemd" or not BOOTED.is_dir():
        raise TargetError(
            f"target host wants a machine whose PID 1 is systemd, and here it is {name!r}",
            hint="--target container:bookworm boots one",
        )
    v1 = any(one.controllers and one.mounted and not one.is_v2 for one in host_hierarchies())
    return "v1" if v1 else "v2"


def _mounted(layout: str) -> tuple[Hierarchy, ...]:
    """The hierarchies of the layout, where this machine has them mounted."""
    found = []
    for host in host_hierarchies():
        if host.is_v2 != (layout == "v2") or not host.mounted:
            continue
        root = _place(host)
        if root is None:
            continue
        controllers = host.controllers
        if host.is_v2:
            controllers = tuple((root / "cgroup.controllers").read_text(encoding="ascii").split())
        found.append(Hierarchy(name=host.name, controllers=controllers, root=root, inner=str(root)))
    return tuple(found)


def _place(host: HostHierarchy) -> Path | None:
    own = Path(INNER_ROOT, host.name)
    if own.is_dir():
        return own
    return Path(INNER_ROOT) if host.name == UNIFIED and Path(INNER_ROOT, "cgroup.controllers").exists() else None
