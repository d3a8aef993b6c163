"""In the kernel's stead: telling a container's systemd on cgroup v1 that a cgroup has run empty.

On v1 the kernel runs a program for that, the release agent, and only in its own first namespaces and for its own root (cgroup-v1,
"notify_on_release"). A systemd in a container never hears of it: a scope whose processes were no children of PID 1 then stops only
after its 90 s, or when some other child happens to die. The agent of systemd says nothing but the cgroup's path, to a socket of PID
1's (src/cgroups-agent/cgroups-agent.c); so can we, and the container's systemd does what it would do on a machine of its own.
"""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

from cgrace.harness.targets.base import Hierarchy

_SOCKET: Final = "run/systemd/cgroups-agent"
_PROCESSES: Final = "cgroup.procs"


class ReleaseAgent:
    """For one machine. init_pid: its PID 1; hierarchies: its own."""

    def __init__(self, init_pid: int, hierarchies: Iterable[Hierarchy]) -> None:
        self._socket = f"/proc/{init_pid}/root/{_SOCKET}"
        found = next((one for one in hierarchies if one.name == "systemd" and not one.is_v2), None)
        self._root = found.root if found is not None and not (found.root / "release_agent").exists() else None

    def process_ended(self, scopes: Iterable[str]) -> None:
        """A process of the run ended: tell of each of these scopes whose cgroup is empty now."""
        wanted = set(scopes)
        if self._root is None or not wanted:
            return
        for folder in _empty(self._root, wanted):
            path = f"/{folder.relative_to(self._root)}"
            with (
                contextlib.suppress(OSError),
                socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock,
            ):
                sock.sendto(os.fsencode(path), socket.MSG_DONTWAIT, self._socket)


def _empty(root: Path, wanted: set[str]) -> Iterator[Path]:
    for folder, below, _ in os.walk(root):
        for name in wanted.intersection(below):
            top = Path(folder, name)
            if not any(_lives(Path(one)) for one, _, _ in os.walk(top)):
                yield top


def _lives(folder: Path) -> bool:
    try:
        return bool((folder / _PROCESSES).read_bytes())
    except OSError:
        return False
