"""The poor man's kernel witness, for machines without tracefs: which cgroup was made or removed, but not by whom.

inotify watches directories, not trees: a directory made inside a new one before we watch that is found by looking into it, so
its making is told, though late; one that was made and removed in between is not seen at all. Nobody is named (`by` is
OTHER, or whom `acting` says), moves of processes are not seen, and times are those of reading. Every event says `via="inotify"`,
so that a report can say so. On a machine whose own systemd is the target only what can hold a run's units is watched (roots and
slices), and only what bears our prefix is told.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import errno
import os
import struct
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Final

from cgrace.harness.errors import TargetError
from cgrace.harness.events import Actor, CgroupMade, CgroupRemoved, Event, ProcessStarted, WitnessLost
from cgrace.harness.targets.base import Sandbox
from cgrace.harness.witnesses.attribution import of_this_machine

IN_CREATE: Final = 0x100
IN_DELETE: Final = 0x200
IN_Q_OVERFLOW: Final = 0x4000
IN_IGNORED: Final = 0x8000
IN_ONLYDIR: Final = 0x0100_0000
IN_ISDIR: Final = 0x4000_0000
READ_BYTES: Final = 64 * 1024
DEPTH_MAX: Final = 64

_HEAD: Final = struct.Struct("=iIII")  # watch, mask, cookie, length of the name
_libc: Final = ctypes.CDLL(None, use_errno=True)


class InotifyWitness:
    """Stands where KernelWitness would: attach, drain, settle, close."""

    def __init__(self) -> None:
        self._runs: list[InotifyRun] = []

    def attach(
        self,
        sandbox: Sandbox,
        record: Callable[[Event, int | None], object],
        *,
        known: Mapping[int, Actor] | None = None,
    ) -> InotifyRun:
        """Watch one run's hierarchies; the caller closes it. Needs a running event loop. Raises TargetError.

        known: as of KernelWitness; who does something is not seen here, so it changes nothing.
        """
        run = InotifyRun(sandbox, record, self._runs.remove)
        self._runs.append(run)
        return run

    def drain(self) -> None:
        """Read, and tell, every event that happened before this call."""
        for run in tuple(self._runs):
            run.drain()

    async def settle(self) -> None:
        """The same, for callers in a coroutine; it never waits."""
        self.drain()

    def close(self) -> None:
        """End every run's watch."""
        for run in tuple(self._runs):
            run.close()

    def __enter__(self) -> InotifyWitness:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class InotifyRun:
    """One run's watch. Knows each directory below the run's roots by (hierarchy, path)."""

    def __init__(
        self,
        sandbox: Sandbox,
        record: Callable[[Event, int | None], object],
        on_close: Callable[[InotifyRun], None],
    ) -> None:
        self._record = record
        self._on_close = on_close
        self._actor = Actor.OTHER
        self._shared = not sandbox.cgroup_prefix
        self._blind = False
        self._roots = {hierarchy.name: hierarchy.root for hierarchy in sandbox.hierarchies}
        self._watches: dict[int, tuple[str, str]] = {}
        self._known: set[tuple[str, str]] = set()
        self._descriptor = _libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
        if self._descriptor < 0:
            raise TargetError(
                f"cannot watch directories: {os.strerror(ctypes.get_errno())}",
                hint="raise /proc/sys/fs/inotify/max_user_instances",
            )
        for name in self._roots:
            self._watch(name, "/", tell=False)
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self._descriptor, self.drain)

    def close(self) -> None:
        """Read what happened until now, then watch no more. Safe to call twice."""
        if self._descriptor < 0:
            return
        self.drain()
        if not self._loop.is_closed():
            self._loop.remove_reader(self._descriptor)
        os.close(self._descriptor)
        self._descriptor = -1
        self._on_close(self)

    def started(self, event: ProcessStarted) -> None:
        """Of no use here: nobody is named."""

    @contextlib.contextmanager
    def acting(self, actor: Actor) -> Iterator[None]:
        """What happens in here is done by `actor`: all before it is read first, and all in it at its end."""
        self.drain()
        before, self._actor = self._actor, actor
        try:
            yield
        finally:
            self.drain()
            self._actor = before

    # ---- reading

    def drain(self) -> None:
        """Read, and tell, every event that happened before this call."""
        while self._descriptor >= 0:
            try:
                data = os.read(self._descriptor, READ_BYTES)
            except BlockingIOError:
                return
            at = 0
            while at < len(data):
                watch, mask, _, length = _HEAD.unpack_from(data, at)
                at += _HEAD.size + length
                name = os.fsdecode(data[at - length : at].rstrip(b"\0"))
                self._take(watch, mask, name)

    def _take(self, watch: int, mask: int, name: str) -> None:
        if mask & IN_Q_OVERFLOW:
            self._record(WitnessLost(witness="inotify"), None)
            return
        if mask & IN_IGNORED:
            self._watches.pop(watch, None)
            return
        if watch not in self._watches or not mask & IN_ISDIR:
            return
        hierarchy, parent = self._watches[watch]
        path = f"{parent.rstrip('/')}/{name}"
        if mask & IN_CREATE:
            self._watch(hierarchy, path, tell=True)
        elif (hierarchy, path) in self._known:
            self._known.discard((hierarchy, path))
            if self._is_told(path):
                self._record(CgroupRemoved(hierarchy=hierarchy, path=path, by=self._actor, via="inotify"), None)

    def _watch(self, hierarchy: str, path: str, *, tell: bool, depth: int = 0) -> None:
        """Watch a directory, then look into it: what was made there before the watch is told now, parents first."""
        if (hierarchy, path) in self._known or depth > DEPTH_MAX or not self._may_hold(path):
            return
        self._known.add((hierarchy, path))
        if tell and self._is_told(path):
            self._record(CgroupMade(hierarchy=hierarchy, path=path, by=self._actor, via="inotify"), None)
        folder = Path(f"{self._roots[hierarchy]}{path}")
        watch = _libc.inotify_add_watch(self._descriptor, os.fsencode(folder), IN_CREATE | IN_DELETE | IN_ONLYDIR)
        if watch < 0:
            if ctypes.get_errno() == errno.ENOSPC and not self._blind:  # /proc/sys/fs/inotify/max_user_watches
                self._blind = True
                self._record(WitnessLost(witness="inotify"), None)
            return  # it was removed meanwhile: its parent's watch tells so
        self._watches[watch] = (hierarchy, path)
        with contextlib.suppress(OSError):
            for child in sorted(folder.iterdir()):
                if child.is_dir():
                    self._watch(hierarchy, f"{path.rstrip('/')}/{child.name}", tell=tell, depth=depth + 1)

    def _is_told(self, path: str) -> bool:
        return not self._shared or of_this_machine(path)

    def _may_hold(self, path: str) -> bool:
        """Whether a run's cgroups can be there or below: on a shared machine not in what is another service's."""
        return not self._shared or path == "/" or path.endswith(".slice") or of_this_machine(path)
