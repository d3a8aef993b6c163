"""A small ctypes door to what Linux offers and Python does not: the new mount API.

A *detached* mount (fsopen, fsconfig, fsmount) is a file descriptor and nothing else. It is in no mount namespace, so nobody
else on the host sees it, and it ends with its last descriptor, so a killed process leaves no mount behind. Its tree is
reached as /proc/self/fd/N/... The system call numbers are the same on every architecture (they are younger than the
unification of the tables), except alpha, which adds 110.

Refuses: anything that changes a mount which somebody else can see.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
from collections.abc import Mapping
from typing import Final

from cgrace.harness.errors import TargetError

_SHIFT: Final = 110 if platform.machine() == "alpha" else 0
_SYS_FSOPEN: Final = 430 + _SHIFT
_SYS_FSCONFIG: Final = 431 + _SHIFT
_SYS_FSMOUNT: Final = 432 + _SHIFT

_FSOPEN_CLOEXEC: Final = 1
_FSMOUNT_CLOEXEC: Final = 1
_FSCONFIG_SET_FLAG: Final = 0
_FSCONFIG_SET_STRING: Final = 1
_FSCONFIG_CMD_CREATE: Final = 6

MOUNT_ATTR_NOSUID: Final = 0x2
MOUNT_ATTR_NODEV: Final = 0x4
MOUNT_ATTR_NOEXEC: Final = 0x8

_LOG_BYTES_MAX: Final = 4096

_libc: Final = ctypes.CDLL(None, use_errno=True)


def _syscall(number: int, *arguments: int | bytes | None) -> int:
    """One raw system call; raises OSError with the kernel's errno."""
    words = [
        ctypes.c_char_p(word) if isinstance(word, bytes) else ctypes.c_void_p() if word is None else ctypes.c_long(word)
        for word in arguments
    ]
    _libc.syscall.restype = ctypes.c_long
    result: int = _libc.syscall(ctypes.c_long(number), *words)
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return result


def _context_log(context: int) -> str:
    """What the kernel wrote into the file system context about a refusal ("e cgroup1: Need name or subsystem set")."""
    lines: list[str] = []
    while True:
        try:
            line = os.read(context, _LOG_BYTES_MAX)
        except OSError:
            return "; ".join(lines)
        if not line:
            return "; ".join(lines)
        lines.append(line.decode(errors="replace").strip())


def mount_detached(fstype: str, options: Mapping[str, str | None] | None = None) -> int:
    """A detached mount of `fstype` as a file descriptor (close-on-exec); the caller closes it.

    options: what mount(8) takes after -o: a flag has the value None (`{"devices": None}`), a setting a string
    (`{"name": "systemd"}`). For cgroup v1 an existing hierarchy with exactly these controllers is shared, a new one is
    made only where they are bound to none. Raises OSError with the kernel's own words appended.
    """
    context = _syscall(_SYS_FSOPEN, fstype.encode(), _FSOPEN_CLOEXEC)
    try:
        for key, value in (options or {}).items():
            if value is None:
                _syscall(_SYS_FSCONFIG, context, _FSCONFIG_SET_FLAG, key.encode(), None, 0)
            else:
                _syscall(_SYS_FSCONFIG, context, _FSCONFIG_SET_STRING, key.encode(), value.encode(), 0)
        _syscall(_SYS_FSCONFIG, context, _FSCONFIG_CMD_CREATE, None, None, 0)
        attributes = MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | MOUNT_ATTR_NOEXEC
        return _syscall(_SYS_FSMOUNT, context, _FSMOUNT_CLOEXEC, attributes)
    except OSError as error:
        log = _context_log(context)
        code = error.errno or errno.EIO
        raise OSError(code, f"{os.strerror(code)}{f' ({log})' if log else ''}", fstype) from None
    finally:
        os.close(context)


def detached_mount(fstype: str, options: Mapping[str, str | None] | None = None) -> int:
    """`mount_detached` for callers that cannot go on without it: raises TargetError that says what would help."""
    try:
        return mount_detached(fstype, options)
    except OSError as error:
        raise TargetError(
            f"cannot mount {fstype} for cgrace alone: {error.strerror}", hint=_hint(error.errno, fstype)
        ) from error


def _hint(code: int | None, fstype: str) -> str:
    if code == errno.EPERM:
        return "run as root, or with CAP_SYS_ADMIN in the initial user namespace"
    if code == errno.ENODEV:
        return f"use a kernel that has the file system {fstype!r} (see /proc/filesystems)"
    if code == errno.ENOSYS:
        return "use Linux 5.2 or newer (fsopen, fsmount), and a container runtime whose seccomp profile lets it through"
    return f"see whether `mount -t {fstype} none /mnt` works on this machine"
