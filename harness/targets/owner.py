"""Who made it: the name that everything of one cgrace process carries on the host, and whether that process still lives.

The name is `cgrace-<pid>-<starttime>`, with a suffix `-c<n>` for each of several machines. starttime (clock ticks since
boot, /proc/PID/stat field 22) tells a reused pid from its first owner. A pid means nothing in another pid namespace, so an
owner also holds a lock (flock) on its directories: the kernel drops it with the process, and it is seen across namespaces.
"""

from __future__ import annotations

import fcntl
import functools
import itertools
import os
import re
from pathlib import Path
from typing import Final

from cgrace.harness.proc.pidstat import DEAD, START_TIME, STATE, stat_fields

OWNED_NAME: Final = re.compile(r"cgrace-([1-9][0-9]{0,9})-([1-9][0-9]{0,19})(?:-c[1-9][0-9]{0,5})?")
UNIT_PREFIX: Final = "cgrace"  # of every unit and cgroup of a run on a machine that others use, too
_machines: Final = itertools.count(1)


@functools.cache
def _name_of(pid: int) -> str:
    fields = stat_fields(pid)
    assert fields is not None, "a process sees itself in /proc"
    return f"cgrace-{pid}-{fields[START_TIME]}"


def own_name() -> str:
    """The name of what this process makes (right after a fork, too)."""
    return _name_of(os.getpid())


def machine_name() -> str:
    """A name for one more machine of this process."""
    return f"{own_name()}-c{next(_machines)}"


def pid_namespace() -> str:
    """Our pid namespace, as the kernel names it."""
    return str(Path("/proc/self/ns/pid").readlink())


def process_lives(name: str) -> bool:
    """Whether the pid of the name runs, as seen from our pid namespace, and is the process that the name means."""
    match = OWNED_NAME.fullmatch(name)
    if match is None:
        return False
    fields = stat_fields(int(match[1]))
    return fields is not None and fields[START_TIME] == match[2] and fields[STATE] not in DEAD


def lock(directory: str) -> int:
    """Hold a directory for as long as the descriptor (close-on-exec) or this process lives."""
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    fcntl.flock(fd, fcntl.LOCK_EX)
    return fd


def is_locked(directory: str) -> bool:
    """Whether some process, in whichever pid namespace, holds the directory."""
    try:
        fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(fd)
    return False
