"""A process to be signalled and outlived, whichever kernel this is: by a pidfd, and where there is none (before Linux 5.3; RHEL 7
has 3.10) by what is left.

Without a pidfd the end of a child of ours is waited for in a thread, by waitid(2) with WNOWAIT, which reaps nothing; that of any
other process is asked of /proc again and again, as no event tells it. A child that is not reaped keeps its number, so a signal to
it meets it alone. Any other is known by its start time (proc_pid_stat(5), field 22), which is looked at right before the signal:
a number that is given away in the microsecond between would be met, which only a pidfd can rule out.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import select
import signal
import threading
import time
from collections.abc import Callable
from typing import Final

from cgrace.harness.clock import NS_PER_MS
from cgrace.harness.proc.pidstat import DEAD, START_TIME, STATE, stat_fields

POLL_NS: Final = 5 * NS_PER_MS  # between two questions to /proc
_NO_PIDFD: Final = (errno.ENOSYS, errno.EPERM)  # EPERM: a container's or a service's filter of system calls


class ProcessHandle:
    """One process; `close` lets go of it, and changes nothing about it. Raises ProcessLookupError when there is none."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self._fd = _pidfd(pid)
        self._started = "" if self._fd >= 0 else _start_time(pid)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._closed = threading.Event()

    @property
    def is_exact(self) -> bool:
        """Whether the kernel itself holds the process (a pidfd)."""
        return self._fd >= 0

    def kill(self, number: int) -> None:
        """Send it a signal; ProcessLookupError when it is gone and reaped."""
        if self._fd >= 0:
            signal.pidfd_send_signal(self._fd, number)
        elif self._is_there():
            os.kill(self.pid, number)
        else:
            raise ProcessLookupError(errno.ESRCH, os.strerror(errno.ESRCH))

    def on_end(self, told: Callable[[], None]) -> None:
        """Call `told` once on the running event loop when it has ended (it may not be reaped yet), unless `close` comes first."""
        assert self._loop is None, "one may listen"
        self._loop = loop = asyncio.get_running_loop()
        if self._fd >= 0:

            def once() -> None:
                loop.remove_reader(self._fd)
                told()

            loop.add_reader(self._fd, once)
            return

        def tell() -> None:
            if not self._closed.is_set():
                told()

        def waiting() -> None:
            self._wait_in_thread()
            with contextlib.suppress(RuntimeError):  # the loop is closed, and nobody listens
                loop.call_soon_threadsafe(tell)

        threading.Thread(target=waiting, name=f"end of {self.pid}", daemon=True).start()

    async def ended(self) -> None:
        """Wait until it has ended."""
        gone = asyncio.Event()
        self.on_end(gone.set)
        await gone.wait()

    def wait(self, seconds_max: float) -> bool:
        """Block until it has ended; False when it has not by then."""
        if self._fd >= 0:
            poller = select.poll()
            poller.register(self._fd, select.POLLIN)
            return bool(poller.poll(max(seconds_max, 0) * 1000))
        deadline = time.monotonic() + seconds_max
        while self._runs():
            left = deadline - time.monotonic()
            if left <= 0:
                return False
            threading.Event().wait(min(left, POLL_NS / 1e9))
        return True

    def close(self) -> None:
        """Let go of it. Safe to call twice, in the loop's thread."""
        self._closed.set()
        if self._fd >= 0:
            if self._loop is not None and not self._loop.is_closed():
                self._loop.remove_reader(self._fd)
            os.close(self._fd)
            self._fd = -1

    # ---- without a pidfd

    def _wait_in_thread(self) -> None:
        try:
            os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOWAIT)
        except ChildProcessError:  # no child of ours, or reaped already
            while self._runs() and not self._closed.wait(POLL_NS / 1e9):
                pass

    def _is_there(self) -> bool:
        """Whether the process exists, be it as a zombie."""
        try:
            return _start_time(self.pid) == self._started
        except ProcessLookupError:
            return False

    def _runs(self) -> bool:
        fields = stat_fields(self.pid)
        return fields is not None and fields[START_TIME] == self._started and fields[STATE] not in DEAD


def has_pidfd() -> bool:
    """Whether this kernel gives us pidfds."""
    try:
        handle = os.pidfd_open(os.getpid())
    except OSError:
        return False
    os.close(handle)
    return True


def _pidfd(pid: int) -> int:
    """A pidfd, or -1 where there are none."""
    try:
        return os.pidfd_open(pid)
    except OSError as error:
        if error.errno in _NO_PIDFD:
            return -1
        raise


def _start_time(pid: int) -> str:
    fields = stat_fields(pid)
    if fields is None:
        raise ProcessLookupError(errno.ESRCH, os.strerror(errno.ESRCH))
    return fields[START_TIME]
