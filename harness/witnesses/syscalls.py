"""Which system calls wait, and where each keeps its limit: data, for x86_64 and aarch64.

Numbers are those of the kernel's own tables (arch/x86/entry/syscalls/syscall_64.tbl and, for aarch64, scripts/syscall.tbl).
A call that is not listed is one that we cannot judge: a thread in it makes a proof impossible, never wrong.
"""

from __future__ import annotations

import platform
from dataclasses import dataclass
from enum import StrEnum
from typing import Final


class Limit(StrEnum):
    """How a waiting call says how long it will wait at most."""

    NONE = "none"  # without limit, until somebody acts
    MS = "ms"  # an int of milliseconds in argument `at`, negative: without limit
    TIMESPEC = "timespec"  # argument `at` points at a relative struct timespec, NULL: without limit
    TIMEVAL = "timeval"  # argument `at` points at a relative struct timeval, NULL: without limit
    FUTEX = "futex"  # relative or absolute, by the operation
    CLOCK_NANOSLEEP = "clock_nanosleep"  # relative or absolute, by the flags
    ABSOLUTE = (
        "absolute"  # argument `at` points at an absolute timespec, argument 4 names the clock, NULL: without limit
    )
    DESCRIPTOR = "descriptor"  # depends on what descriptor argument 0 is


@dataclass(frozen=True, slots=True)
class WaitingCall:
    """A system call in which a thread may sleep. `at` is the index of the argument that carries the limit."""

    name: str
    limit: Limit
    at: int = 0


# name: (limit, argument, number on x86_64 or None, number on aarch64 or None)
_TABLE: Final[tuple[tuple[str, Limit, int, int | None, int | None], ...]] = (
    ("futex", Limit.FUTEX, 3, 202, 98),
    ("futex_waitv", Limit.ABSOLUTE, 3, 449, 449),
    ("epoll_wait", Limit.MS, 3, 232, None),
    ("epoll_pwait", Limit.MS, 3, 281, 22),
    ("epoll_pwait2", Limit.TIMESPEC, 3, 441, 441),
    ("poll", Limit.MS, 2, 7, None),
    ("ppoll", Limit.TIMESPEC, 2, 271, 73),
    ("select", Limit.TIMEVAL, 4, 23, None),
    ("pselect6", Limit.TIMESPEC, 4, 270, 72),
    ("nanosleep", Limit.TIMESPEC, 0, 35, 101),
    ("clock_nanosleep", Limit.CLOCK_NANOSLEEP, 2, 230, 115),
    ("pause", Limit.NONE, 0, 34, None),
    ("rt_sigsuspend", Limit.NONE, 0, 130, 133),
    ("rt_sigtimedwait", Limit.TIMESPEC, 2, 128, 137),
    ("wait4", Limit.NONE, 0, 61, 260),
    ("waitid", Limit.NONE, 0, 247, 95),
    ("read", Limit.DESCRIPTOR, 0, 0, 63),
    ("readv", Limit.DESCRIPTOR, 0, 19, 65),
    ("write", Limit.DESCRIPTOR, 0, 1, 64),
    ("writev", Limit.DESCRIPTOR, 0, 20, 66),
    ("recvfrom", Limit.DESCRIPTOR, 0, 45, 207),
    ("recvmsg", Limit.DESCRIPTOR, 0, 47, 212),
)


def _calls(machine: str) -> dict[int, WaitingCall]:
    column = {"x86_64": 3, "aarch64": 4}.get(machine)
    if column is None:
        return {}
    calls: dict[int, WaitingCall] = {}
    for row in _TABLE:
        number = row[column]
        if isinstance(number, int):
            calls[number] = WaitingCall(row[0], row[1], row[2])
    return calls


WAITING_CALLS: Final = _calls(platform.machine())

FUTEX_COMMAND_MASK: Final = 127  # FUTEX_PRIVATE_FLAG is 128, FUTEX_CLOCK_REALTIME 256
FUTEX_CLOCK_REALTIME: Final = 256
FUTEX_WAIT: Final = 0
FUTEX_LOCK_PI: Final = 6  # absolute, always CLOCK_REALTIME
FUTEX_WAIT_BITSET: Final = 9
FUTEX_WAIT_REQUEUE_PI: Final = 11
FUTEX_LOCK_PI2: Final = 13
FUTEX_ABSOLUTE: Final = frozenset({FUTEX_LOCK_PI, FUTEX_WAIT_BITSET, FUTEX_WAIT_REQUEUE_PI, FUTEX_LOCK_PI2})
TIMER_ABSTIME: Final = 1
