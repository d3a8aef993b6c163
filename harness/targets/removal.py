"""Removes cgroup trees that we made, with what runs in them, and nothing else.

The order is: thaw (a frozen process cannot die under v1), kill, wait for the deaths, remove bottom-up. Only
processes of our sandboxes are killed; one that somebody else put there is named in the error, never touched.
"""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from cgrace.harness.errors import TargetError
from cgrace.harness.proc.handle import ProcessHandle

INIT_NAME: Final = b"cgrace-init"  # argv[0] of both stages (go/init/main.go)
REMOVE_S_MAX: Final = 5.0
# v1 has no event for "the last process is off the lists". A task leaves them a moment after its death can be seen, so
# EBUSY without any process is tried again at this interval.
_RETRY_S: Final = 0.001


def walk_up(root: str) -> Iterator[str]:
    """Every cgroup directory below and including `root`, children before parents. Follows no symlink."""
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        with os.scandir(root) as entries:
            below = [entry.path for entry in entries if entry.is_dir(follow_symlinks=False)]
        for path in below:
            yield from walk_up(path)
    yield root


def processes_in(root: str) -> set[int]:
    """Pids (as we see them) in the tree; those outside our pid namespace cannot be named and are left out."""
    pids: set[int] = set()
    for directory in walk_up(root):
        # ENODEV: being removed. EOPNOTSUPP: a threaded v2 cgroup, whose processes its domain names.
        with contextlib.suppress(OSError):
            pids.update(int(line) for line in Path(directory, "cgroup.procs").read_text(encoding="ascii").split())
    pids.discard(0)
    return pids


def is_ours(pid: int) -> bool | None:
    """Whether the process is one of a sandbox's: an init of ours, or in a pid namespace below ours. None: it is gone."""
    try:
        if Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0", 1)[0] == INIT_NAME:
            return True
        return Path(f"/proc/{pid}/ns/pid").readlink() != Path("/proc/self/ns/pid").readlink()
    except OSError:
        return None


def thaw(root: str) -> None:
    """Thaw the tree, parents first: a child's freezer.state follows its parents'."""
    for directory in reversed(list(walk_up(root))):
        for file, value in (("freezer.state", "THAWED"), ("cgroup.freeze", "0")):
            with contextlib.suppress(OSError):
                fd = os.open(f"{directory}/{file}", os.O_WRONLY | os.O_CLOEXEC)
                try:
                    os.write(fd, value.encode())
                finally:
                    os.close(fd)


def kill_ours(pids: set[int], deadline: float) -> set[int]:
    """SIGKILL those processes that are ours and wait until they are gone; returns those that were killed."""
    handles: list[ProcessHandle] = []
    try:
        for pid in pids:
            with contextlib.suppress(OSError):
                handle = ProcessHandle(pid)
                if not is_ours(pid):
                    handle.close()
                    continue
                handles.append(handle)
                handle.kill(signal.SIGKILL)
        for handle in handles:
            handle.wait(deadline - time.monotonic())
        return {handle.pid for handle in handles}
    finally:
        for handle in handles:
            handle.close()


def remove_trees(roots: Sequence[str], *, seconds_max: float = REMOVE_S_MAX) -> set[int]:
    """Remove the cgroups `roots` and everything below; returns the pids that had to be killed. Gone already is fine.

    Give all hierarchies' roots of one sandbox together: a process that is frozen in one of them cannot leave the others.
    TargetError names the process that keeps a cgroup, at once if it is not ours, else the reason after `seconds_max`.
    """
    deadline = time.monotonic() + seconds_max
    killed: set[int] = set()
    left = list(roots)
    while True:
        outcomes = {root: _remove_once(root) for root in left}
        left = [root for root, error in outcomes.items() if error is not None]
        if not left:
            return killed
        for root in left:
            thaw(root)
        inside = set().union(*(processes_in(root) for root in left))
        killed |= kill_ours(inside, deadline)
        error = outcomes[left[0]]
        strangers = sorted(pid for pid in inside if is_ours(pid) is False)
        hopeless = strangers or not all(_is_busy(outcomes[root]) for root in left)
        if hopeless or time.monotonic() > deadline:
            raise _kept(left[0], error, strangers) from error
        if not inside:
            threading.Event().wait(_RETRY_S)


def _is_busy(error: OSError | None) -> bool:
    return error is not None and error.errno == errno.EBUSY


def _kept(root: str, error: OSError | None, strangers: list[int]) -> TargetError:
    if strangers:
        return TargetError(
            f"cannot remove the cgroup {root}: process {strangers[0]} is in it",
            hint="move that process to another cgroup, then run: cgrace clean",
        )
    why = error.strerror if error is not None else ""
    return TargetError(f"cannot remove the cgroup {root}: {why}", hint="cgrace clean")


def _remove_once(root: str) -> OSError | None:
    for directory in walk_up(root):
        try:
            Path(directory).rmdir()
        except FileNotFoundError:
            continue
        except OSError as error:
            return error
    return None
