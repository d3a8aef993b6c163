"""A systemd that runs already and that others use, too: what targets `host` and `user` have in common.

Of it nothing is compared or changed but what bears our prefix, and one cgrace at a time works with it.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from cgrace.harness.errors import TargetError
from cgrace.harness.targets import owner
from cgrace.harness.targets.base import Hierarchy
from cgrace.harness.targets.removal import processes_in, thaw
from cgrace.harness.targets.runs import MachineRuns, resume


class Standing(MachineRuns):
    """Its runs' processes are children of cgrace, in its own namespaces and cgroups. bus_path: its systemd's bus."""

    def __init__(self, layout: str, bus_path: str) -> None:
        super().__init__(layout, Path(tempfile.gettempdir(), owner.own_name()))
        self._bus_path = bus_path
        self._ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    @property
    def bus_path(self) -> str:
        """The socket of its systemd's bus."""
        return self._bus_path

    @property
    def ended(self) -> asyncio.Future[None]:
        """Done when its systemd is gone; never where the machine ends with that."""
        return self._ended

    def console_tail(self, lines: int = 20) -> str:
        """Nothing: it has no console that is ours to read."""
        return ""

    def _entrance(self) -> tuple[int | None, tuple[Hierarchy, ...]]:
        return None, ()

    def _wake(self) -> None:
        for hierarchy in self.hierarchies:
            # os.walk passes over what goes away meanwhile: the machine's own units come and go.
            for folder, names, _ in os.walk(hierarchy.root):
                for name in names:
                    if name.startswith(owner.UNIT_PREFIX):
                        thaw(f"{folder}/{name}")
                        resume(processes_in(f"{folder}/{name}"))

    async def _tear_down(self) -> None:
        if self._joined is not None:
            self._joined.let_go()
        await asyncio.shield(asyncio.to_thread(self._remove_all))

    def _remove_all(self) -> None:
        if self._joined is not None:
            self._wake()
            self._joined.reap()
        self._folder.remove()


@contextlib.contextmanager
def alone(folder: Path, *, target: str, whose: str) -> Iterator[None]:
    """Hold a folder of that systemd's: units of another cgrace would bear the same names. TargetError where another holds it.

    target, whose: words for the error ("host", "machine").
    """
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise TargetError(f"target {target} cannot be had: {folder}: {error.strerror}") from error
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise TargetError(
                f"another cgrace works with this {whose}'s systemd", hint="one at a time: wait for its end"
            ) from None
        yield
    finally:
        os.close(descriptor)
