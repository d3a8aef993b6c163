"""Holding a process inside a system call: seccomp user notifications (seccomp_unotify(2)).

A supervised process runs under a filter (filters.py) that stops it where it opens a file for writing or, if asked for, closes one,
and nowhere else: every other system call is let through by the kernel itself. Each stop becomes an Opening or a Closing on our
event loop. Until it is let go on, the thread sleeps inside its system call; then the kernel carries that out as if nothing had
been (SECCOMP_USER_NOTIF_FLAG_CONTINUE, Linux 5.5). We look and delay, and never decide: what the process asked for is read from
its memory and may since have changed.

Both ropes hold: a killed process leaves its call by itself (letting it go on then does nothing), and when we die the kernel
closes the listener and fails the calls with ENOSYS, while init's death kills the process (go/init).
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import fcntl
import os
import platform
import re
import select
import socket
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cgrace.harness.errors import TargetError
from cgrace.harness.targets.filters import architecture, impossible

LISTENER_S_MAX: Final = 10.0
_PATH_BYTES_MAX: Final = 4096  # PATH_MAX, with the NUL
_PAGE_BYTES: Final = 4096
_SOCKET_BYTES_MAX: Final = 4096
_PARENTS_MAX: Final = 64

# linux/seccomp.h
_FLAG_CONTINUE: Final = 1
_NOTIFICATION: Final = struct.Struct("=QIIiIQ6Q")  # id, pid, flags, then seccomp_data: nr, arch, ip, args
_RESPONSE: Final = struct.Struct("=QqiI")  # id, val, error, flags
_IOCTL_RECV: Final = 0xC0502100
_IOCTL_SEND: Final = 0xC0182101
_IOCTL_ID_VALID: Final = 0x40082102
_AT_FDCWD: Final = -100

NAMED_FD: Final = re.compile(r"^/proc/(?:self|thread-self|\d+)/fd/(\d+)$")
_SOCKET: Final = re.compile(r"^socket:\[(\d+)\]$")
_OWN_PROC: Final = re.compile(r"^/proc/(?:self|thread-self)/")


@dataclass(frozen=True, slots=True, kw_only=True)
class Opening:
    """A call that waits to go on. id: the kernel's name for it; tid: its thread, as we see it; path: what it opens, as it
    said it; directory: of openat, -100 for the working directory."""

    id: int
    tid: int
    path: str
    directory: int

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


@dataclass(frozen=True, slots=True, kw_only=True)
class Closing:
    """A close(2) that waits to go on, of the descriptor `number`; id and tid as of an Opening."""

    id: int
    tid: int
    number: int

    @property
    def path(self) -> str:
        """What it is about, the same when a signal had it begin anew."""
        return f"descriptor {self.number}"

    def socket(self) -> int:
        """The inode of the socket that it is about; 0 where it is none."""
        try:
            found = _SOCKET.match(str(Path(f"/proc/{self.tid}/fd/{self.number}").readlink()))
        except OSError:
            return 0
        return int(found[1]) if found else 0


class Listener:
    """Our end of one process's filter. Closing lets everything fail that still waits (ENOSYS): only for what is done."""

    def __init__(self, handle: int) -> None:
        self._handle = handle
        self._early: list[Opening] = []
        self._on_call: Callable[[Opening | Closing], None] = self._before
        self._loop = asyncio.get_running_loop()
        self._poll = select.poll()
        self._poll.register(handle, select.POLLIN)
        self._known = architecture()

    def listen(self, on_call: Callable[[Opening | Closing], None]) -> None:
        """Call this in the event loop for every call that the filter stops, which then waits until it is let `go_on`."""
        self._on_call = on_call
        early, self._early = self._early, []
        for opening in early:
            on_call(opening)

    def start(self) -> None:
        """Take up the calls. Those that open wait for `listen`; the stage closes what is not the program's, and goes on."""
        self._loop.add_reader(self._handle, self._readable)

    def _before(self, call: Opening | Closing) -> None:
        if isinstance(call, Opening):
            self._early.append(call)
        else:
            self.go_on(call)

    def close(self) -> None:
        """Listen no more."""
        if self._handle >= 0:
            self._loop.remove_reader(self._handle)
            os.close(self._handle)
            self._handle = -1

    def asks(self) -> bool:
        """Whether a call waits that has not been reported yet."""
        return bool(self._early) or self._has_next()

    def _has_next(self) -> bool:
        return self._handle >= 0 and any(events & select.POLLIN for _, events in self._poll.poll(0))

    def waits(self, call: Opening | Closing) -> bool:
        """Whether the call still waits: a signal may have interrupted it, or its process may be gone."""
        if self._handle < 0:
            return False
        try:
            fcntl.ioctl(self._handle, _IOCTL_ID_VALID, struct.pack("=Q", call.id))
        except OSError:
            return False
        return True

    def go_on(self, call: Opening | Closing) -> None:
        """Let the kernel carry the call out. Nothing happens when it does not wait any more."""
        self._answer(call.id)

    def _answer(self, number: int) -> None:
        if self._handle < 0:
            return
        try:
            fcntl.ioctl(self._handle, _IOCTL_SEND, _RESPONSE.pack(number, 0, 0, _FLAG_CONTINUE))
        except OSError as error:
            if error.errno not in (errno.ENOENT, errno.EINPROGRESS):
                raise

    def check(self) -> None:
        """UnavailableError where the kernel cannot let a call go on: asked about a call that is none, it says which it is."""
        if self._handle < 0:
            return
        try:
            fcntl.ioctl(self._handle, _IOCTL_SEND, _RESPONSE.pack(0, 0, 0, _FLAG_CONTINUE))
        except OSError as error:
            if error.errno != errno.ENOENT:
                raise impossible(
                    f"Linux {platform.release()} cannot let a held call go on ({error.strerror})"
                ) from error

    def _readable(self) -> None:
        if (
            not self._has_next()
        ):  # to receive would block in older kernels, whose poll says only that all processes are gone
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
        asked = self._asked(number, tid, call, arguments)
        if asked is None or not self.waits(asked):  # else what was read is another process's
            self._answer(number)
        else:
            self._on_call(asked)

    def _end_if_over(self) -> None:
        if any(events & ~select.POLLIN for _, events in self._poll.poll(0)):
            self.close()

    def _asked(self, number: int, tid: int, call: int, arguments: list[int]) -> Opening | Closing | None:
        """What a notification says, None when it opens nothing for writing or cannot be read."""
        if call == self._known.close:
            return Closing(id=number, tid=tid, number=arguments[0] & 0xFFFFFFFF)
        known = self._known.calls.get(call)
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
        return Opening(id=number, tid=tid, path=path, directory=directory if known.path == 1 else _AT_FDCWD)


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
        """The listener, once the process runs its program. TargetError when there is none; UnavailableError where none can be."""
        self._theirs.close()
        with contextlib.ExitStack() as undo:
            try:
                async with asyncio.timeout(LISTENER_S_MAX):
                    text, handles = await self._packet()
                    if not handles:
                        raise self._failure(text)
                    listener = Listener(handles[0])
                    undo.callback(listener.close)
                    listener.start()
                    # The stage's end of the socket closes as it becomes the program; before that it may still say why not.
                    if text := (await self._packet())[0]:
                        raise self._failure(text)
            except TimeoutError:
                raise TargetError(f"a supervised process was not ready within {LISTENER_S_MAX:g} s") from None
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
            str(errno.EBUSY): "somebody else already listens to its system calls (a container manager)",
            str(errno.EACCES): "CAP_SYS_ADMIN is missing",
            str(errno.EINVAL): "the kernel has no seccomp user notification",
            str(errno.ENOSYS): "the kernel has no seccomp",
        }
        if number in ("", "0"):
            return TargetError(
                f"cannot start a supervised process: {words or 'it ended before its filter was installed'}"
            )
        return impossible(why.get(number, words or text))
