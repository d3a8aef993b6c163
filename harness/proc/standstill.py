"""Stopping systemd and letting it go on.

A signal stops it from outside of its pid namespace alone: from inside the kernel drops SIGSTOP for PID 1 (pid_namespaces(7)). There
it is traced (ptrace(2), PTRACE_SEIZE and PTRACE_INTERRUPT, Linux 3.4), which needs no signal; and a tracer that ends, killed or
not, lets what it traces go on.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import os
import signal
from typing import Final

_SEIZE: Final = 0x4206
_INTERRUPT: Final = 0x4207
_DETACH: Final = 17
_WALL: Final = 0x40000000  # threads too: __WALL of linux/wait.h
OUR_INIT: Final = 1

_libc: Final = ctypes.CDLL(None, use_errno=True)


def stop(pid: int) -> None:
    """It runs no more. ProcessLookupError when it is gone, PermissionError where nobody may trace PID 1."""
    if pid != OUR_INIT:
        os.kill(pid, signal.SIGSTOP)
        return
    _trace(_SEIZE, pid)
    _trace(_INTERRUPT, pid)
    os.waitpid(pid, _WALL)


def go_on(pid: int) -> None:
    """It runs again; nothing to what was not stopped. By the thread that stopped it. ProcessLookupError when it is gone."""
    if pid != OUR_INIT:
        os.kill(pid, signal.SIGCONT)
        return
    with contextlib.suppress(ProcessLookupError):  # ESRCH also says that we do not trace it
        _trace(_DETACH, pid)


@functools.cache
def refusal() -> str:
    """Why PID 1 of our own namespace cannot be stopped, "" where it can: it is for a moment, as nothing else tells. Once for a
    process, which has one PID 1."""
    try:
        stop(OUR_INIT)
    except OSError as error:
        return f"nobody can stop PID 1 here, ptrace of it is refused ({error.strerror})"
    go_on(OUR_INIT)
    return ""


def _trace(request: int, pid: int) -> None:
    _libc.ptrace.restype = ctypes.c_long
    if _libc.ptrace(ctypes.c_long(request), ctypes.c_long(pid), None, None) < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
