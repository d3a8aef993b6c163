"""Target `container`: a Debian root's real systemd, booted as PID 1 of namespaces of its own on this machine.

It has every cgroup hierarchy of the layout, writable, rooted at cgroups of ours; a network of its own, so that nothing of it
is seen from outside; and a writable layer that lives in its mount namespace alone. What belongs to the whole host (sysctls,
clock, modules) is out of its reach. With PID 1 everything ends but the cgroups, which we remove, or a sweep after us.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
import tempfile
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, Final

from cgrace.harness.clock import now_ns
from cgrace.harness.dbus import systemd1
from cgrace.harness.drivers.gobuild import build_go_program
from cgrace.harness.errors import CgraceError, TargetError
from cgrace.harness.targets import oci, owner
from cgrace.harness.targets.base import Hierarchy
from cgrace.harness.targets.boot import Boot
from cgrace.harness.targets.bus_client import BusClient
from cgrace.harness.targets.putback import PutBack
from cgrace.harness.targets.removal import processes_in, thaw
from cgrace.harness.targets.roots import Root, build_root
from cgrace.harness.targets.runs import MachineRuns, resume
from cgrace.harness.targets.subtree import Subtree
from cgrace.harness.targets.sweep import sweep

BOOT_SOURCE: Final = Path(__file__).resolve().parent / "go" / "boot"
BOOT_S_MAX: Final = 60.0
BUS_SOCKET: Final = "/run/dbus/system_bus_socket"
BUS_SOCKET_INSIDE: Final = f"/proc/1/root{BUS_SOCKET}"  # as a process of a run sees it, which has files of its own
INITS: Final = ("/lib/systemd/systemd", "/usr/lib/systemd/systemd")
WRITABLE_MB: Final = 1024  # of the layer over the root: a limit, taken from memory as it is used
_RUN: Final = "m"

# What is booted: the system's basic units and the bus, no logins.
_TARGET: Final = """[Unit]
Description=cgrace: systemd and its bus
Requires=basic.target dbus.socket dbus.service
After=basic.target dbus.socket dbus.service
AllowIsolate=yes
"""
# systemd 256 and newer refuse cgroup v1 unless they are told so on the kernel's command line, which in a container is
# PID 1's own (src/core/main.c and src/basic/proc-cmdline.c).
# fusectl is the only mount of theirs that is not of our namespaces.
_ARGUMENTS: Final = ("--unit=cgrace.target", "systemd.unit=cgrace.target", "systemd.mask=sys-fs-fuse-connections.mount")
_LEGACY: Final = "SYSTEMD_CGROUP_ENABLE_LEGACY_FORCE=1"
_LEGACY_ARGUMENTS: Final = (_LEGACY, "systemd.unified_cgroup_hierarchy=0", "systemd.legacy_systemd_cgroup_controller=1")


class ContainerTarget(MachineRuns):
    """One booted machine, for one run at a time (`sandbox`). Made by `ContainerTarget.open`. boot_ns: from start to ready."""

    def __init__(self, root: Root, layout: str, booted_by: tuple[str, str] | None = None) -> None:
        self.name = owner.machine_name()
        super().__init__(layout, Path(tempfile.gettempdir(), self.name))
        self.root = root
        self._booted_by = booted_by
        self.cgroup_prefix = f"/{self.name}/{_RUN}"
        self.boot_ns = 0
        self._boot = Boot()
        self._subtree: Subtree | None = None

    @classmethod
    @contextlib.asynccontextmanager
    async def open(
        cls,
        suite: str,
        *,
        layout: str = "v1",
        booted_by: str = "",
        progress: Callable[[str], None] = lambda _: None,
    ) -> AsyncIterator[ContainerTarget]:
        """Build the suite's root if need be, boot it and wait until its manager answers on its bus.

        layout: "v1" or "v2". booted_by: one of oci.BOOTERS, "" for cgrace itself. TargetError with the console's last
        lines where it does not boot. However the block ends, nothing is left of the machine: no process, mount, cgroup or file.
        """
        if os.geteuid() != 0:
            raise TargetError(
                "target container makes cgroups and namespaces, which takes root (CAP_SYS_ADMIN)",
                hint="sudo cgrace ..., or a container with --privileged --cgroupns=private",
            )
        booter = (booted_by, oci.find_runtime(booted_by)) if booted_by else None
        root = await build_root(suite, progress=progress)
        program = await build_go_program(BOOT_SOURCE, "cgrace-boot")
        await asyncio.to_thread(sweep)
        target = cls(root, layout, booter)
        failure: BaseException | None = None
        try:
            await target._start(program)
            yield target
        except BaseException as error:
            failure = error
            raise
        finally:
            await target._tear_down(failure)

    def _wake(self) -> None:
        for hierarchy in self.hierarchies:
            if hierarchy.is_v2 or "freezer" in hierarchy.controllers:
                thaw(str(hierarchy.root))
        systemds = next(one for one in self.hierarchies if not one.controllers or one.is_v2)
        resume(processes_in(str(systemds.root)))

    def _view(self) -> dict[str, Any]:
        assert self._subtree is not None
        return self._subtree.view(self.hierarchies)

    def _entrance(self) -> tuple[int | None, tuple[Hierarchy, ...]]:
        return self.init_pid, self.hierarchies

    def _comparison(self) -> PutBack:
        assert self._subtree is not None
        settings = functools.partial(self._subtree.settings, _RUN)
        return PutBack(self.bus_path, Path(f"/proc/{self.init_pid}/root"), self.hierarchies, settings)

    @property
    def init_pid(self) -> int:
        """PID 1 as we see it."""
        assert self._boot.pid is not None
        return self._boot.pid

    @property
    def bus_path(self) -> str:
        """The socket of its system bus; nothing need be installed in the root for it."""
        return f"/proc/{self.init_pid}/root{BUS_SOCKET}"

    @property
    def bus_address(self) -> str:
        """The same as a D-Bus address."""
        return f"unix:path={self.bus_path}"

    @property
    def ended(self) -> asyncio.Future[None]:
        """Done when its PID 1 is gone."""
        return self._boot.ended

    def console_tail(self, lines: int = 20) -> str:
        """The last lines of its console."""
        return self._boot.console.tail(lines) if self._boot.console is not None else ""

    async def _start(self, program: Path) -> None:
        started = now_ns()
        procs: list[int] = []
        try:
            await asyncio.to_thread(self._set_up)
            if self._booted_by is not None:
                bundle = await asyncio.to_thread(self._bundle, program, self._booted_by)
                self._boot.start(program, bundle, (), stage="keep")
            else:
                for hierarchy in self.hierarchies:
                    procs.append(os.open(hierarchy.root / "cgroup.procs", os.O_WRONLY | os.O_CLOEXEC))
                self._boot.start(program, self._configuration(), tuple(procs))
        finally:
            for fd in procs:
                os.close(fd)
        try:
            async with asyncio.timeout(BOOT_S_MAX):
                await self._boot.ready
                await self._ask_version()
        except TimeoutError:
            why = f"did not get ready within {BOOT_S_MAX:.0f} s ({self._boot.status or 'no status'})"
            raise await self._failed(why) from None
        except TargetError as error:
            raise await self._failed(error.message) from error
        self.boot_ns = now_ns() - started

    async def _failed(self, why: str) -> TargetError:
        return TargetError(
            f"{self.root.suite}'s systemd did not boot: {why}",
            hint=f"rm -rf {self.root.folder}, which builds the root anew"
            if self.root.over is None
            else "its console says why; the root alone boots: leave out what is behind the +",
            detail=await asyncio.to_thread(self._boot.last_words),
        )

    async def _ask_version(self) -> None:
        """READY=1 says that the boot's jobs are done, so the bus is there."""
        async with BusClient(self.bus_path) as bus:
            self.version = await bus.get(systemd1.PATH, systemd1.MANAGER, "Version")

    def _set_up(self) -> None:
        """Our folder, then our cgroups: the folder tells a sweep where those can be."""
        self._folder.make()
        self._subtree = Subtree.open(self.layout, self.name)
        self.hierarchies = self._subtree.make_run(_RUN)

    def _configuration(self) -> dict[str, Any]:
        legacy = self.layout == "v1"
        return {
            **self._view(),
            "entry": str(self.root.folder),
            "over": str(self.root.over.folder) if self.root.over is not None else "",
            "size_mb": WRITABLE_MB,
            "hostname": "cgrace",
            "files": {"/run/systemd/system/cgrace.target": _TARGET},
            "inits": self.root.over.inits if self.root.over is not None else INITS,
            "argv": [*_ARGUMENTS, *(_LEGACY_ARGUMENTS if legacy else ())],
            "env": [
                "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
                "container=cgrace",
                "TERM=dumb",
                "NOTIFY_SOCKET=/run/host/notify",
                *([_LEGACY] if legacy else ()),
            ],
        }

    def _bundle(self, program: Path, booted_by: tuple[str, str]) -> dict[str, Any]:
        """The same for an OCI runtime or podman; its files are in the writable layer, as the runtime mounts /run."""
        assert self._subtree is not None
        config = self._configuration()
        bundle = oci.bundle(
            booted_by=booted_by,
            folder=self.runtime_dir / booted_by[0],
            helper=program,
            name=self.name,
            run=_RUN,
            tops=[branch.top for branch in self._subtree.branches],
            entry=self.root.folder,
            over=self.root.over.folder if self.root.over is not None else None,
            hostname=config["hostname"],
            inits=config["inits"],
            argv=config["argv"],
            env=config["env"],
        )
        return {**config, "files": {"/etc/systemd/system/cgrace.target": _TARGET}, "bundle": bundle}

    async def _tear_down(self, failure: BaseException | None) -> None:
        """Runs whole: when we are cancelled meanwhile, the event loop's end waits for the thread."""
        self._boot.kill()
        self._boot.let_go()
        if self._joined is not None:
            self._joined.let_go()
        try:
            await asyncio.shield(asyncio.to_thread(self._remove_all))
        except CgraceError as error:
            if failure is None:
                raise
            failure.add_note(str(error))

    def _remove_all(self) -> None:
        with contextlib.ExitStack() as last:
            last.callback(self._folder.remove)
            if self._subtree is not None:
                last.callback(self._subtree.close)
                self._wake()  # what is frozen does not die
            if self._joined is not None:
                self._joined.reap()  # before PID 1, whose end waits for everybody in its namespace to be reaped
            self._boot.reap()
