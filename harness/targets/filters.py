"""The filter under which a supervised process runs (notify.py): a classic BPF program for seccomp(2), and where it can be had."""

from __future__ import annotations

import ctypes
import os
import platform
import re
import struct
import sys
from dataclasses import dataclass
from typing import Final

from cgrace.harness.errors import UnavailableError

# linux/seccomp.h
_GET_ACTION_AVAIL: Final = 2
_RET_ALLOW: Final = 0x7FFF0000
_RET_USER_NOTIF: Final = 0x7FC00000

# linux/bpf_common.h: one instruction is (code, jump if true, jump if false, operand)
_INSTRUCTION: Final = struct.Struct("=HBBI")
_LOAD_WORD: Final = 0x20  # BPF_LD | BPF_W | BPF_ABS
_JUMP_EQUAL: Final = 0x15  # BPF_JMP | BPF_JEQ | BPF_K
_AND: Final = 0x54  # BPF_ALU | BPF_AND | BPF_K
_RETURN: Final = 0x06  # BPF_RET | BPF_K
_AT_NUMBER: Final = 0  # offsets into struct seccomp_data
_AT_ARCH: Final = 4
_AT_ARGUMENTS: Final = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenCall:
    """One system call that opens. path, flags: which argument they are; flags None: it always opens for writing;
    in_memory: that argument points to the flags (struct open_how)."""

    name: str
    path: int
    flags: int | None
    in_memory: bool = False


_OPEN: Final = OpenCall(name="open", path=0, flags=1)
_CREAT: Final = OpenCall(name="creat", path=0, flags=None)
_OPENAT: Final = OpenCall(name="openat", path=1, flags=2)
_OPENAT2: Final = OpenCall(name="openat2", path=1, flags=2, in_memory=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class Architecture:
    """What seccomp needs to know of one machine: its AUDIT_ARCH number, those of seccomp(2) and close(2), its calls that open."""

    audit: int
    seccomp: int
    close: int
    calls: dict[int, OpenCall]


ARCHITECTURES: Final = {
    "x86_64": Architecture(
        audit=0xC000003E, seccomp=317, close=3, calls={2: _OPEN, 85: _CREAT, 257: _OPENAT, 437: _OPENAT2}
    ),
    "aarch64": Architecture(audit=0xC00000B7, seccomp=277, close=57, calls={56: _OPENAT, 437: _OPENAT2}),
}


def program(architecture: Architecture, *, closes: bool = False) -> bytes:
    """The filter: stop at a call that opens for writing (or may: openat2's flags lie in memory), allow all else.

    closes: stop at close(2), too. A call of another architecture (32-bit, x32) is allowed: no driver of ours makes one.
    """
    always = [number for number, call in architecture.calls.items() if call.flags is None or call.in_memory]
    always += [architecture.close] if closes else []
    by_flags = {
        number: call.flags
        for number, call in architecture.calls.items()
        if call.flags is not None and not call.in_memory
    }
    # Laid out: arch, number, one jump for each call; a block of 4 for each that is told by its flags; allow; stop.
    first_block = 3 + len(always) + len(by_flags)
    allow = first_block + 4 * len(by_flags)
    stop = allow + 1
    code: list[tuple[int, int, int, int]] = []

    def jump(operand: int, yes: int, no: int) -> None:
        at = len(code) + 1
        code.append((_JUMP_EQUAL, yes - at, no - at, operand))

    code.append((_LOAD_WORD, 0, 0, _AT_ARCH))
    jump(architecture.audit, 2, allow)
    code.append((_LOAD_WORD, 0, 0, _AT_NUMBER))
    for number in always:
        jump(number, stop, len(code) + 1)
    for block, number in enumerate(by_flags):
        jump(number, first_block + 4 * block, allow if block == len(by_flags) - 1 else len(code) + 1)
    for argument in by_flags.values():
        # The low half of the argument: both architectures are little-endian.
        code.append((_LOAD_WORD, 0, 0, _AT_ARGUMENTS + 8 * argument))
        code.append((_AND, 0, 0, os.O_ACCMODE))
        jump(os.O_RDONLY, allow, len(code) + 1)
        code.append((_RETURN, 0, 0, _RET_USER_NOTIF))
    code.append((_RETURN, 0, 0, _RET_ALLOW))
    code.append((_RETURN, 0, 0, _RET_USER_NOTIF))
    assert (len(code), code[stop][3]) == (stop + 1, _RET_USER_NOTIF)
    return b"".join(_INSTRUCTION.pack(*instruction) for instruction in code)


def architecture() -> Architecture:
    """This machine's; UnavailableError where we know none."""
    found = ARCHITECTURES.get(platform.machine())
    if found is None or sys.byteorder != "little":
        raise impossible(f"cgrace does not know the system calls of {platform.machine()}")
    return found


def available() -> str:
    """Why no process can be held here, "" when one can be. Looks, and changes nothing."""
    found = ARCHITECTURES.get(platform.machine())
    if found is None:
        return f"unknown architecture {platform.machine()}"
    libc = ctypes.CDLL(None, use_errno=True)
    action = ctypes.c_uint32(_RET_USER_NOTIF)
    if libc.syscall(ctypes.c_long(found.seccomp), _GET_ACTION_AVAIL, 0, ctypes.byref(action)) != 0:
        return f"the kernel has no seccomp user notification ({os.strerror(ctypes.get_errno())})"
    release = tuple(int(part) for part in re.findall(r"\d+", platform.release())[:2])
    if release < (5, 5):
        return f"Linux {platform.release()}, a held call can go on from 5.5"
    return ""


def impossible(why: str) -> UnavailableError:
    """The one error for a machine on which no process can be held."""
    return UnavailableError(
        f"a driver cannot be held inside a system call here: {why}",
        hint="use Linux 5.5 or newer with CONFIG_SECCOMP_FILTER, in no container whose manager listens itself; see: cgrace doctor",
    )
