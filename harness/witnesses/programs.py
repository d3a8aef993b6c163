"""What a process's program is and what its descriptors are set to: for processes that are not ours to ask."""

from __future__ import annotations

import ctypes
import mmap
import os
import socket
import struct
from pathlib import Path
from typing import Final

from cgrace.harness.clock import NS_PER_S

_PIDFD_GETFD: Final = 438  # the same on every architecture that has it
_GO_MARK: Final = b"\xff Go buildinf:"  # at the head of the section .go.buildinfo (cmd/link), stripped or not
_POLLFD: Final = struct.Struct("=ihh")
_POLLED_MAX: Final = 1024
_TIMEVAL: Final = struct.Struct("=qq")
_LOOKED_AT_MAX: Final = 64
_looked_at: dict[tuple[int, ...], bool] = {}  # executables by identity: whether they are Go programs
_libc = ctypes.CDLL(None, use_errno=True)


def is_go(pid: int) -> bool:
    """Whether a process runs a Go program; False where it is gone."""
    try:
        descriptor = os.open(f"/proc/{pid}/exe", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        status = os.fstat(descriptor)
        return _has_mark(descriptor, (status.st_dev, status.st_ino, status.st_mtime_ns, status.st_size))
    except (OSError, ValueError):
        return False
    finally:
        os.close(descriptor)


def _has_mark(descriptor: int, identity: tuple[int, ...]) -> bool:
    if identity not in _looked_at:
        while len(_looked_at) >= _LOOKED_AT_MAX:
            _looked_at.pop(next(iter(_looked_at)))
        with mmap.mmap(descriptor, 0, prot=mmap.PROT_READ) as image:
            _looked_at[identity] = image.find(_GO_MARK) >= 0
    return _looked_at[identity]


def socket_limit_ns(pid: int, number: int, call: str) -> int | None:
    """How long a blocking call on this socket of the process waits at most by the socket's own setting, 0 without limit; None
    where that cannot be known. The kernel lends us the descriptor for as long as we ask (pidfd_getfd(2), since Linux 5.6)."""
    option = socket.SO_SNDTIMEO if call.startswith(("write", "send")) else socket.SO_RCVTIMEO
    try:
        handle = os.pidfd_open(pid)
    except OSError:
        return None
    try:
        lent = _libc.syscall(_PIDFD_GETFD, handle, number, 0)
    finally:
        os.close(handle)
    if lent < 0:
        return None
    try:
        with socket.socket(fileno=lent) as same:
            seconds, micros = _TIMEVAL.unpack(same.getsockopt(socket.SOL_SOCKET, option, _TIMEVAL.size))
    except OSError:
        return None
    return int(seconds) * NS_PER_S + int(micros) * 1000


def waited_on(pid: int, call: str, arguments: tuple[int, ...]) -> tuple[int, ...] | None:
    """The descriptors on which a system call waits, () for one that waits on none; None where they cannot be known."""
    if call.startswith(("read", "write", "recv", "epoll_")):
        return arguments[:1]
    if call in ("poll", "ppoll"):
        return _polled(pid, arguments[0], arguments[1])
    return None if call in ("select", "pselect6") or not call else ()


def _polled(pid: int, address: int, count: int) -> tuple[int, ...] | None:
    if count > _POLLED_MAX:
        return None
    try:
        descriptor = os.open(f"/proc/{pid}/mem", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        data = os.pread(descriptor, count * _POLLFD.size, address) if count else b""
    except OSError:
        return None
    finally:
        os.close(descriptor)
    if len(data) != count * _POLLFD.size:
        return None
    return tuple(number for number, _, _ in _POLLFD.iter_unpack(data) if number >= 0)


def short_name(pid: int) -> str:
    """The process's own short name (/proc/PID/comm), "" where it is gone."""
    try:
        return Path(f"/proc/{pid}/comm").read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""
