"""Target `user`: the systemd of the user who runs cgrace. No root, only units with our prefix, and everything undone.

A run's processes are plain children of cgrace: no namespace, no mount, nothing that takes a privilege. They start in a scope of
ours that the user's systemd delegates to us, so that a driver may move them below that systemd's own cgroup, which belongs to the
user, and nowhere else. Under cgroup v1 a user's systemd has no controller and may move nothing: there is no such target then.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Final

from cgrace.harness.clock import now_ns
from cgrace.harness.dbus import systemd1
from cgrace.harness.dbus.address import unix_path
from cgrace.harness.dbus.message import Variant
from cgrace.harness.errors import CgraceError, TargetError
from cgrace.harness.proc.handle import ProcessHandle
from cgrace.harness.targets import namespaces, owner
from cgrace.harness.targets.base import Hierarchy
from cgrace.harness.targets.bus_client import BusClient
from cgrace.harness.targets.joined import Joined
from cgrace.harness.targets.layout import INNER_ROOT, UNIFIED
from cgrace.harness.targets.machine import MachineSandbox
from cgrace.harness.targets.putback import PutBack
from cgrace.harness.targets.standing import Standing, alone
from cgrace.harness.targets.sweep import Swept, sweep

ANSWER_S_MAX: Final = 10.0
UNDO_S_MAX: Final = 30.0  # there is no other one to go on with
FOLDERS: Final = (
    "systemd/user.control",
    "systemd/transient",
    "systemd/user",
)  # below XDG_RUNTIME_DIR (systemd.unit(5))


class UserTarget(Standing):
    """The user's systemd. Made by `UserTarget.open`; one run at a time, and one cgrace at a time.

    The root of its one hierarchy is that systemd's own cgroup ("user.slice/user-1000.slice/user@1000.service"), so paths of units
    are as on a whole machine. init_pid: that systemd.
    """

    def __init__(self, bus_path: str, runtime: Path) -> None:
        super().__init__("v2", bus_path)
        self.undo_s_max = UNDO_S_MAX
        self._runtime = runtime
        self._manager_pid = 0
        self._watched: ProcessHandle | None = None
        self._seats = 0

    @classmethod
    @contextlib.asynccontextmanager
    async def open(cls) -> AsyncIterator[UserTarget]:
        """TargetError where the user has no systemd that cgrace could work with, with the reason.

        What an earlier cgrace left there goes first. When the block ends, however it ends, no unit, cgroup or process of ours is
        left.
        """
        why = why_not()
        if why:
            raise TargetError(f"target user cannot be had: {why}", hint=hint_for(why))
        target = cls(bus_of(), runtime_of())
        with alone(target._runtime, target="user", whose="user"):
            await asyncio.to_thread(sweep)
            try:
                await target._look()
                await target._set_up()
                yield target
            finally:
                await target._tear_down()

    @classmethod
    async def clean(cls) -> list[Swept]:
        """Remove what a killed cgrace left with the user's systemd; nothing where there is none, or where a living one works."""
        if why_not():
            return []
        target = cls(bus_of(), runtime_of())
        try:
            with alone(target._runtime, target="user", whose="user"):
                await target._look()
                comparison = target._comparison()
                comparison.look_at_nothing()
                left = await comparison.left()
                problem = await comparison.put_back(UNDO_S_MAX) if left else ""
        except TargetError:
            return []
        return [Swept(kind="unit", name=name, problem=problem) for name in left]

    @property
    def init_pid(self) -> int:
        """The user's systemd."""
        return self._manager_pid

    async def prepare(self) -> Joined:
        """Have the process of ours that starts a run's processes, in a scope of its own."""
        before = self._joined
        if before is None or before.control.closed:
            self._put_back = self._put_back or await self._clean()
            joined = await super().prepare()
            await self._seat(joined.pid)
            return joined
        return await super().prepare()

    def _sandbox(self, joined: Joined) -> MachineSandbox:
        return UserSandbox(self, joined, epoch=self.epoch, started_ns=now_ns())

    def _view(self) -> dict[str, Any]:
        return {"plain": True, "wake": self._manager_pid}

    def _comparison(self) -> PutBack:
        own = owner.own_name()
        return PutBack(
            self.bus_path,
            self._runtime,
            self.hierarchies,
            prefix=owner.UNIT_PREFIX,
            folders=FOLDERS,
            besides=own,
        )

    async def _clean(self) -> PutBack:
        """End what a killed cgrace left: whatever has our prefix, as we are alone. TargetError for what stays."""
        comparison = self._comparison()
        comparison.look_at_nothing()
        if problem := await comparison.put_back(UNDO_S_MAX):
            raise TargetError(f"an earlier cgrace left what cannot be undone: {problem}", hint="cgrace clean")
        await comparison.look()
        return comparison

    async def _look(self) -> None:
        try:
            async with asyncio.timeout(ANSWER_S_MAX), BusClient(self.bus_path) as bus:
                self.version = await bus.get(systemd1.PATH, systemd1.MANAGER, "Version")
                cgroup = str(await bus.get(systemd1.PATH, systemd1.MANAGER, "ControlGroup"))
                answer = await bus.call(*systemd1.TO_BUS, "GetConnectionUnixProcessID", "s", systemd1.NAME)
        except TimeoutError:
            raise TargetError(
                f"target user cannot be had: the user's systemd does not answer on {self.bus_path}",
                hint="systemctl --user status says more",
            ) from None
        self._manager_pid = int(answer.body[0])
        root = Path(f"{INNER_ROOT}{cgroup}")
        if not os.access(root, os.W_OK):
            raise TargetError(f"target user cannot be had: {root}, the cgroup of the user's systemd, cannot be written")
        controllers = tuple((root / "cgroup.controllers").read_text(encoding="ascii").split())
        self.cgroup_prefix = cgroup
        self.hierarchies = (Hierarchy(name=UNIFIED, controllers=controllers, root=root, inner=str(root)),)

    async def _set_up(self) -> None:
        self._folder.make()
        try:
            self._watched = ProcessHandle(self._manager_pid)
        except ProcessLookupError:
            raise TargetError("the user's systemd has just ended") from None
        self._watched.on_end(self._gone)

    def _gone(self) -> None:
        if not self._ended.done():
            self._ended.set_result(None)

    async def _seat(self, pid: int) -> None:
        self._seats += 1
        await delegate(self.bus_path, f"{owner.own_name()}-s{self._seats}.scope", pid)

    async def _tear_down(self) -> None:
        if self._watched is not None:
            self._watched.close()
        await super()._tear_down()


class UserSandbox(MachineSandbox):
    """A place beside the user's systemd, in the same pid namespace: a pid is the same inside and outside."""

    uses_session_bus = True

    @property
    def is_outside(self) -> bool:
        """No: there is one pid namespace (that of a systemd with a capability cannot be looked up)."""
        return False

    @property
    def dropins(self) -> Path:
        """The user's own runtime folder of units."""
        return runtime_of() / "systemd" / "user"

    def outer(self, pid: int) -> int | None:
        """The same, None when there is no such process."""
        if (spawned := self._by_inner.get(pid)) is not None:
            return spawned.pid_outer
        return pid if Path(f"/proc/{pid}").exists() else None

    def inner(self, pid_outer: int) -> int | None:
        """The same, of the process of a thread; None when there is no such process."""
        if (spawned := self._by_outer.get(pid_outer)) is not None:
            return spawned.pid
        return namespaces.process_of(pid_outer)


def runtime_of() -> Path:
    """The user's runtime directory."""
    return Path(os.environ.get("XDG_RUNTIME_DIR") or f"/run/user/{os.geteuid()}")


def bus_of() -> str:
    """The socket of the user's bus."""
    address = os.environ.get("DBUS_SESSION_BUS_ADDRESS", "")
    if address:
        with contextlib.suppress(CgraceError):
            return unix_path(address)
    return str(runtime_of() / "bus")


def why_not() -> str:
    """Why there can be no target user here, "" where it may be tried."""
    if not Path(INNER_ROOT, "cgroup.controllers").exists():
        return "cgroup v1 is in use here, and under v1 a user's systemd may use no controller and move no process"
    if not Path(bus_of()).exists():
        if (runtime_of() / "systemd" / "private").exists():
            return f"the user's systemd has no bus ({bus_of()})"
        return f"this user has no systemd of its own (no {bus_of()})"
    return ""


def hint_for(why: str) -> str:
    """What would help."""
    if "v1" in why:
        return "--target vm:trixie:v2, or boot this machine with systemd.unified_cgroup_hierarchy=1"
    if "no bus" in why:
        return "apt install dbus-user-session, and log in again"
    return "loginctl enable-linger, or log in by a session of its own (ssh, not su)"


async def delegate(bus_path: str, name: str, pid: int) -> None:
    """Have a process of ours moved into a scope of that name, which is ours to use. From a session's own scope only the system's
    systemd may take it, which the user's asks for that by itself (src/core/cgroup.c, unit_attach_pid_to_cgroup_via_bus)."""
    properties = [
        ("Description", Variant(signature="s", value="cgrace: what runs start from")),
        ("PIDs", Variant(signature="au", value=[pid])),
        ("Delegate", Variant(signature="b", value=True)),
    ]
    async with asyncio.timeout(ANSWER_S_MAX), BusClient(bus_path) as bus:
        rule = f"type='signal',sender='{systemd1.NAME}',member='JobRemoved'"
        await bus.call(*systemd1.TO_BUS, "AddMatch", "s", rule)
        words: tuple[Any, ...] = (name, "fail", properties, [])
        answer = await bus.call(*systemd1.TO_MANAGER, "StartTransientUnit", "ssa(sv)a(sa(sv))", *words)
        async for said in bus.signals():
            if said.member == "JobRemoved" and said.body[1] == answer.body[0]:
                break
    if said.body[3] != "done":
        raise TargetError(
            f"the user's systemd cannot take a process of ours: its job ended as '{said.body[3]}'",
            hint="systemd-run --user --scope true says more; then start cgrace by: systemd-run --user --scope",
        )
