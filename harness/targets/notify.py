"""Holding a process inside a system call: seccomp user notifications (seccomp_unotify(2)).

A supervised process runs under a filter that stops it where it opens a file for writing, and nowhere else: every other system call
is let through by the kernel itself. Each stop becomes an Opening on our event loop. Until it is let go on, the thread sleeps
inside its system call; then the kernel carries that out as if nothing had been (SECCOMP_USER_NOTIF_FLAG_CONTINUE, Linux 5.5).
We look and delay, and never decide: what the process asked for is read from its memory and may since have changed.

Both ropes hold: a killed process leaves its call by itself (letting it go on then does nothing), and when we die the kernel
closes the listener and fails the calls with ENOSYS, while init's death kills the process (go/init).
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import errno
import fcntl
import os
import platform
import re
import select
import socket
import struct
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cgrace.harness.errors import TargetError

LISTENER_S_MAX: Final = 10.0
_PATH_BYTES_MAX: Final = 4096  # PATH_MAX, with the NUL
_PAGE_BYTES: Final = 4096
_SOCKET_BYTES_MAX: Final = 4096
_PARENTS_MAX: Final = 64

# linux/seccomp.h
_GET_ACTION_AVAIL: Final = 2
_RET_ALLOW: Final = 0x7FFF0000
_RET_USER_NOTIF: Final = 0x7FC00000
_FLAG_CONTINUE: Final = 1
_NOTIFICATION: Final = struct.Struct("=QIIiIQ6Q")  # id, pid, flags, then seccomp_data: nr, arch, ip, args
_RESPONSE: Final = struct.Struct("=QqiI")  # id, val, error, flags
_IOCTL_RECV: Final = 0xC0502100
_IOCTL_SEND: Final = 0xC0182101
_IOCTL_ID_VALID: Final = 0x40082102
_AT_FDCWD: Final = -100

# linux/bpf_common.h: one instruction is (code, jump if true, jump if false, operand)
_INSTRUCTION: Final = struct.Struct("=HBBI")
_LOAD_WORD: Final = 0x20  # BPF_LD | BPF_W | BPF_ABS
_JUMP_EQUAL: Final = 0x15  # BPF_JMP | BPF_JEQ | BPF_K
_AND: Final = 0x54  # BPF_ALU | BPF_AND | BPF_K
_RETURN: Final = 0x06  # BPF_RET | BPF_K
_AT_NUMBER: Final = 0  # offsets into struct seccomp_data
_AT_ARCH: Final = 4
_AT_ARGUMENTS: Final = 16

NAMED_FD: Final = re.compile(r"^/proc/(?:self|thread-self|\d+)/fd/(\d+)$")
_OWN_PROC: Final = re.compile(r"^/proc/(?:self|thread-self)/")


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
    """What seccomp needs to know of one machine: its AUDIT_ARCH number, that of seccomp(2), and its calls that open."""

    audit: int
    seccomp: int
    calls: dict[int, OpenCall]


ARCHITECTURES: Final = {
    "x86_64": Architecture(audit=0xC000003E, seccomp=317, calls={2: _OPEN, 85: _CREAT, 257: _OPENAT, 437: _OPENAT2}),
    "aarch64": Architecture(audit=0xC00000B7, seccomp=277, calls={56: _OPENAT, 437: _OPENAT2}),
}


def program(architecture: Architecture) -> bytes:
    """The filter: stop at a call that opens for writing (or may: openat2's flags lie in memory), allow all else.

    A call of another architecture (32-bit, x32) is allowed: no driver of ours makes one.
    """
    always = [number for number, call in architecture.calls.items() if call.flags is None or call.in_memory]
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
    """This machine's; TargetError where we know none."""
    found = ARCHITECTURES.get(platform.machine())
    if found is None or sys.byteorder != "little":
        raise _impossible(f"cgrace does not know the system calls of {platform.machine()}")
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


def _impossible(why: str) -> TargetError:
    return TargetError(
        f"a driver cannot be held inside a system call here: {why}",
        hint="use Linux 5.5 or newer with CONFIG_SECCOMP_FILTER, as root, and outside a supervisor that listens itself; "
        "`cgrace doctor` looks; the other scenarios do not need this",
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Opening:
    """A call that waits to go on. id: the kernel's name for it; tid: its thread, as we see it; path: what it opens, as it
    said it; directory: of openat, -100 for the working directory; number: of the system call."""

    id: int
    tid: int
    path: str
    directory: int
    number: int

    def may_be(self, files: tuple[str, ...]) -> bool:
        """Whether it may open a file with one of these names, as far as its words tell; `inner_path` then tells."""
        return self.path.rpartition("/")[2] in files or NAMED_FD.match(self.path) is not None

    def inner_path(self) -> str:
        """The absolute path as the process sees it, links on the way resolved by the kernel; "" when it cannot be said.

        What does not exist is named below the nearest directory above it that does.
        """
        if named := NAMED_FD.match(self.path):
            with contextlib.suppress(OSError):
                return str(Path(f"/proc/{self.tid}/fd/{named[1]}").readlink())
            return ""
        folder, _, file = self._from_here().rpartition("/")
        missing: list[str] = []
        for _ in range(_PARENTS_MAX):
            try:
                handle = os.open(folder, os.O_PATH | os.O_CLOEXEC)
            except FileNotFoundError:
                folder, _, last = folder.rpartition("/")
                missing.insert(0, last)
            except OSError:
                return ""
            else:
                with _closing(handle):
                    return "/".join((str(Path(f"/proc/self/fd/{handle}").readlink()).rstrip("/"), *missing, file))
        return ""

    def _from_here(self) -> str:
        """The path by way of our /proc, where the process's own root, working directory and descriptors are."""
        if _OWN_PROC.match(self.path):
            return _OWN_PROC.sub(f"/proc/{self.tid}/", self.path)
        if self.path.startswith("/"):
            return f"/proc/{self.tid}/root{self.path}"
        start = "cwd" if self.directory == _AT_FDCWD else f"fd/{self.directory}"
        return f"/proc/{self.tid}/{start}/{self.path}"


class Listener:
    """Our end of one process's filter. Closing lets everything fail that still waits (ENOSYS): only for what is done."""

    def __init__(self, handle: int) -> None:
        self._handle = handle
        self._on_opening: Callable[[Opening], None] = self.go_on
        self._loop = asyncio.get_running_loop()
        self._poll = select.poll()
        self._poll.register(handle, select.POLLIN)
        self._calls = architecture().calls

    def listen(self, on_opening: Callable[[Opening], None]) -> None:
        """Call this in the event loop for every opening for writing, which then waits until it is let `go_on`."""
        self._on_opening = on_opening
        self._loop.add_reader(self._handle, self._readable)

    def close(self) -> None:
        """Listen no more."""
        if self._handle >= 0:
            self._loop.remove_reader(self._handle)
            os.close(self._handle)
            self._handle = -1

    def asks(self) -> bool:
        """Whether a call waits that has not been reported yet."""
        return self._handle >= 0 and any(events & select.POLLIN for _, events in self._poll.poll(0))

    def waits(self, opening: Opening) -> bool:
        """Whether the call still waits: a signal may have interrupted it, or its process may be gone."""
        if self._handle < 0:
            return False
        try:
            fcntl.ioctl(self._handle, _IOCTL_ID_VALID, struct.pack("=Q", opening.id))
        except OSError:
            return False
        return True

    def go_on(self, opening: Opening) -> None:
        """Let the kernel carry the call out. Nothing happens when it does not wait any more."""
        self._answer(opening.id)

    def _answer(self, number: int) -> None:
        if self._handle < 0:
            return
        try:
            fcntl.ioctl(self._handle, _IOCTL_SEND, _RESPONSE.pack(number, 0, 0, _FLAG_CONTINUE))
        except OSError as error:
            if error.errno not in (errno.ENOENT, errno.EINPROGRESS):
                raise

    def check(self) -> None:
        """TargetError where the kernel cannot let a call go on: asked about a call that is none, it says which it is."""
        try:
            fcntl.ioctl(self._handle, _IOCTL_SEND, _RESPONSE.pack(0, 0, 0, _FLAG_CONTINUE))
        except OSError as error:
            if error.errno != errno.ENOENT:
                raise _impossible(
                    f"Linux {platform.release()} cannot let a held call go on ({error.strerror})"
                ) from error

    def _readable(self) -> None:
        if not self.asks():  # to receive would block in older kernels, whose poll says only that all processes are gone
            self._end_if_over()
            return
        notification = bytearray(_NOTIFICATION.size)
        try:
            fcntl.ioctl(self._handle, _IOCTL_RECV, notification, True)
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.EINTR):  # whoever asked is gone
                return
            raise
        number, tid, _, call, _, _, *arguments = _NOTIFICATION.unpack(notification)
        opening = self._opening(number, tid, call, arguments)
        if opening is None or not self.waits(opening):  # else what was read is another process's
            self._answer(number)
        else:
            self._on_opening(opening)

    def _end_if_over(self) -> None:
        if any(events & ~select.POLLIN for _, events in self._poll.poll(0)):
            self.close()

    def _opening(self, number: int, tid: int, call: int, arguments: list[int]) -> Opening | None:
        """What a notification says, None when it opens nothing for writing or cannot be read."""
        known = self._calls.get(call)
        if known is None:
            return None
        try:
            with _closing(os.open(f"/proc/{tid}/mem", os.O_RDONLY | os.O_CLOEXEC)) as memory:
                if known.in_memory and known.flags is not None:
                    (flags,) = struct.unpack("=Q", os.pread(memory, 8, arguments[known.flags]))
                    if flags & os.O_ACCMODE == os.O_RDONLY or flags & os.O_PATH:
                        return None
                path = _text(memory, arguments[known.path])
        except (OSError, struct.error, UnicodeDecodeError):
            return None
        (directory,) = struct.unpack("=i", struct.pack("=I", arguments[0] & 0xFFFFFFFF))
        return Opening(
            id=number, tid=tid, path=path, directory=directory if known.path == 1 else _AT_FDCWD, number=call
        )


def _text(memory: int, address: int) -> str:
    """A NUL-terminated path, read page by page: the page behind it may not be there."""
    found = b""
    while b"\0" not in found and len(found) < _PATH_BYTES_MAX:
        at = address + len(found)
        piece = os.pread(memory, _PAGE_BYTES - at % _PAGE_BYTES, at)
        if not piece:
            break
        found += piece
    return os.fsdecode(found.partition(b"\0")[0])


@contextlib.contextmanager
def _closing(handle: int) -> Iterator[int]:
    try:
        yield handle
    finally:
        os.close(handle)


class Handover:
    """How a listener comes to us from the stage before the process's program (go/init/filter.go). An async context manager;
    `theirs` is what the sandbox's spawn passes on."""

    def __init__(self) -> None:
        architecture()
        self._ours, self._theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._ours.setblocking(False)

    @property
    def theirs(self) -> int:
        """The descriptor for the process's side."""
        return self._theirs.fileno()

    def close(self) -> None:
        """Let go of both ends."""
        self._ours.close()
        self._theirs.close()

    async def listener(self) -> Listener:
        """The listener, once the process runs its program. TargetError when there is none, and why."""
        self._theirs.close()
        with contextlib.ExitStack() as undo:
            try:
                async with asyncio.timeout(LISTENER_S_MAX):
                    text, handles = await self._packet()
                    if not handles:
                        raise self._failure(text)
                    listener = Listener(handles[0])
                    undo.callback(listener.close)
                    # The stage's end of the socket closes as it becomes the program; before that it may still say why not.
                    if text := (await self._packet())[0]:
                        raise self._failure(text)
            except TimeoutError:
                raise _impossible(f"its filter was not ready within {LISTENER_S_MAX:g} s") from None
            listener.check()
            undo.pop_all()
        return listener

    async def _packet(self) -> tuple[str, list[int]]:
        loop = asyncio.get_running_loop()
        readable: asyncio.Future[None] = loop.create_future()
        loop.add_reader(self._ours, lambda: None if readable.done() else readable.set_result(None))
        try:
            await readable
        finally:
            loop.remove_reader(self._ours)
        data, handles, _, _ = socket.recv_fds(self._ours, _SOCKET_BYTES_MAX, 1, socket.MSG_CMSG_CLOEXEC)
        return data.decode(errors="replace"), handles

    @staticmethod
    def _failure(text: str) -> TargetError:
        number, _, words = text.partition(" ")
        why = {
            "": "it ended before its filter was installed",
            str(errno.EBUSY): "somebody else already listens to its system calls (a container manager)",
            str(errno.EACCES): "CAP_SYS_ADMIN is missing",
            str(errno.EINVAL): "the kernel has no seccomp user notification",
            str(errno.ENOSYS): "the kernel has no seccomp",
        }
        if number == "0":
            return TargetError(f"cannot start a supervised process: {words}")
        return _impossible(why.get(number, words or text))
