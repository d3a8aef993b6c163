"""Run a program under a kernel that lacks things: `lacking.py NAMES PROGRAM ARGUMENT...`.

NAMES: system calls, comma-separated, which answer ENOSYS from here on, for the program and all that it starts; "cgroup-namespaces":
the flag CLONE_NEWCGROUP of clone and unshare answers EINVAL, as before Linux 4.6; "-" for nothing. Takes root, or nothing at all.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import struct
import sys

NUMBERS = {
    "x86_64": {
        "clone": 56, "unshare": 272, "seccomp": 317, "getrandom": 318, "memfd_create": 319, "bpf": 321, "execveat": 322,
        "userfaultfd": 323, "membarrier": 324, "copy_file_range": 326, "preadv2": 327, "statx": 332, "rseq": 334,
        "renameat2": 316,
    },
    "aarch64": {
        "clone": 220, "unshare": 97, "seccomp": 277, "getrandom": 278, "memfd_create": 279, "bpf": 280, "execveat": 281,
        "userfaultfd": 282, "membarrier": 283, "copy_file_range": 285, "preadv2": 286, "statx": 291, "rseq": 293,
        "renameat2": 276,
    },
}  # fmt: skip
# Younger than the unification of the tables.
COMMON = {
    "pidfd_send_signal": 424, "open_tree": 428, "move_mount": 429, "fsopen": 430, "fsconfig": 431, "fsmount": 432,
    "pidfd_open": 434, "clone3": 435, "close_range": 436, "openat2": 437, "pidfd_getfd": 438, "faccessat2": 439,
    "epoll_pwait2": 441,
}  # fmt: skip
NAMESPACES = "cgroup-namespaces"
NEW_CGROUP = 0x02000000
SET_NO_NEW_PRIVS, SET_SECCOMP, MODE_FILTER = 38, 22, 2
LOAD, JUMP_EQUAL, JUMP_ANY_BIT, RETURN = 0x20, 0x15, 0x45, 0x06
ALLOW, ERRNO = 0x7FFF0000, 0x00050000
_INSTRUCTION = struct.Struct("=HBBI")


def program(names: list[str]) -> bytes:
    """The filter, in classic BPF."""
    numbers = NUMBERS[platform.machine()] | COMMON
    code = [(LOAD, 0, 0, 0)]
    for name in names:
        if name == NAMESPACES:
            for call in ("clone", "unshare"):  # load the flags; any bit of ours: refuse; else the number again
                code += [(JUMP_EQUAL, 0, 4, numbers[call]), (LOAD, 0, 0, 16), (JUMP_ANY_BIT, 0, 1, NEW_CGROUP)]
                code += [(RETURN, 0, 0, ERRNO | errno.EINVAL), (LOAD, 0, 0, 0)]
        else:
            code += [(JUMP_EQUAL, 0, 1, numbers[name]), (RETURN, 0, 0, ERRNO | errno.ENOSYS)]
    return b"".join(_INSTRUCTION.pack(*one) for one in [*code, (RETURN, 0, 0, ALLOW)])


def install(names: list[str]) -> None:
    """Filter this process from here on."""
    text = program(names)
    code = ctypes.create_string_buffer(text, len(text))
    head = struct.pack("@HP", len(text) // _INSTRUCTION.size, ctypes.addressof(code))
    libc = ctypes.CDLL(None, use_errno=True)
    if os.geteuid() != 0 and libc.prctl(SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl")
    if libc.prctl(SET_SECCOMP, MODE_FILTER, ctypes.c_char_p(head), 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "seccomp")


if __name__ == "__main__":
    if sys.argv[1] != "-":
        install(sys.argv[1].split(","))
    os.execvp(sys.argv[2], sys.argv[2:])
