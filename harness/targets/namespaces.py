"""Pids across the border of a pid namespace, read from /proc (NSpid, see proc_pid_status(5)).

Kernels before 4.1 have no NSpid (RHEL 7: 3.10): there a process of our own namespace has the one pid that we see, and of any other
nothing can be said.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

_NS_GET_PARENT: Final = 0xB702  # ioctl_ns(2)
_NESTING_MAX: Final = 32  # the kernel's own limit of nested pid namespaces


def _status(pid: int) -> dict[str, list[str]]:
    try:
        text = Path(f"/proc/{pid}/status").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return {}
    return {key: value.split() for key, _, value in (line.partition(":") for line in text.splitlines())}


def _pids(pid: int) -> list[str]:
    """The pids of a process in each namespace from ours down; () for none, and for one that the kernel does not tell."""
    status = _status(pid)
    if status and "NSpid" not in status and in_namespace_of(pid, os.getpid()):
        return status.get("Tgid", [])
    return status.get("NSpid", [])


def tells_pids() -> bool:
    """Whether this kernel tells a process's pids in every namespace."""
    return "NSpid" in _status(os.getpid())


def levels(pid: int) -> int:
    """In how many pid namespaces, from ours down, the process has a pid (0: there is no such process)."""
    return len(_pids(pid))


def _pid_at(level: int, pid: int) -> int | None:
    """The pid that a process has in the namespace of that level, None for none."""
    pids = _pids(pid)
    return int(pids[level - 1]) if 0 < level <= len(pids) else None


def in_namespace_of(pid: int, init: int) -> bool:
    """Whether `pid` lives in the pid namespace of `init` or in one below it."""
    try:
        wanted = Path(f"/proc/{init}/ns/pid").stat().st_ino
        fd = os.open(f"/proc/{pid}/ns/pid", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        for _ in range(_NESTING_MAX):
            if os.fstat(fd).st_ino == wanted:
                return True
            above = fcntl.ioctl(fd, _NS_GET_PARENT)
            os.close(fd)
            fd = above
    except OSError:  # EPERM: what is above is not ours to see
        pass
    finally:
        os.close(fd)
    return False


def process_of(thread: int) -> int | None:
    """The process that a pid or a thread id belongs to, all as we see them; None when there is none."""
    group = _status(thread).get("Tgid", ())
    return int(group[0]) if group else None


def inner_pid(pid_outer: int, init: int) -> int | None:
    """The pid, in the namespace of `init`, of the process that an outer pid or thread id belongs to."""
    process = process_of(pid_outer)
    if process is None or not in_namespace_of(process, init):
        return None
    return _pid_at(levels(init), process)


def outer_pid(pid: int, init: int) -> int | None:
    """The pid as we see it of the process that `init`'s namespace calls `pid`."""
    level = levels(init)
    return next((one for one in descendants(init) if _pid_at(level, one) == pid), None)


def outer_pids(init: int) -> dict[int, int]:
    """Everybody in `init`'s namespace: the pid as we see it by the pid that it has there."""
    level = levels(init)
    return {pid: one for one in descendants(init) if (pid := _pid_at(level, one)) is not None}


def descendants(init: int) -> Iterator[int]:
    """`init` and all its descendants: in a pid namespace that is everybody, as orphans go to init."""
    if not Path(f"/proc/{init}/task/{init}/children").exists():
        yield from _descendants_by_scan(init)
        return
    queue = [init]
    while queue:
        pid = queue.pop()
        yield pid
        with contextlib.suppress(OSError):
            for task in Path(f"/proc/{pid}/task").iterdir():
                children = (task / "children").read_text(encoding="ascii")
                queue.extend(int(child) for child in children.split())


def _descendants_by_scan(init: int) -> Iterator[int]:
    """For kernels without CONFIG_PROC_CHILDREN: ask every process where it lives."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and in_namespace_of(int(entry.name), init):
            yield int(entry.name)
