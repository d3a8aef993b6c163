"""One non-blocking unix socket with its buffers, and the file descriptors that travel on it. Knows nothing of D-Bus.

asyncio's streams cannot pass descriptors, hence recvmsg and sendmsg here. Bytes are written at once where the kernel takes
them, which is what keeps a round trip short.
"""

from __future__ import annotations

import array
import asyncio
import fcntl
import os
import socket
import struct
import termios
from collections import deque
from collections.abc import Callable, Sequence

READ_BYTES = 64 * 1024
FDS_MAX = 253  # SCM_MAX_FD
SIOCOUTQ = termios.TIOCOUTQ  # the same number; for a unix socket: memory of what the peer has not read, 0 when nothing
_ANCILLARY_BYTES = socket.CMSG_SPACE(FDS_MAX * 4)
_GATHER_MAX = 64  # buffers in one sendmsg
_CORKED_BYTES_MAX = 16 * 1024  # of what waits to be written together


class OwnedFd(int):
    """A file descriptor that closes when the last reference to it is gone."""

    def __del__(self) -> None:
        os.close(self)


class Wire:
    """A connected socket.

    on_data(data, fds): bytes came. on_closed(why): the peer closed ("") or the socket failed; called once, not after close().
    on_drained(): the output was above `low_bytes` and is so no more. bug: gets what a callback raised.
    """

    def __init__(
        self,
        sock: socket.socket,
        *,
        on_data: Callable[[bytes, Sequence[int]], None],
        on_closed: Callable[[str], None],
        on_drained: Callable[[], None],
        bug: Callable[[Exception], None],
    ) -> None:
        sock.setblocking(False)
        self._sock = sock
        self._loop = asyncio.get_running_loop()
        self._on_data, self._on_closed, self._on_drained, self._bug = on_data, on_closed, on_drained, bug
        self._out: deque[tuple[memoryview, tuple[int, ...]]] = deque()
        self.unsent = 0
        self._pauses: set[str] = {"not started"}
        self._writing = False
        self._corked = False
        self._finishing = False
        self.closed = False

    def fileno(self) -> int:
        """The socket's descriptor, -1 when closed."""
        return self._sock.fileno()

    def kernel_queues(self) -> tuple[int, int]:
        """(SIOCINQ, SIOCOUTQ): bytes not read by us, and memory held by what the peer has not read."""
        if self.closed:
            return 0, 0
        numbers = []
        for request in (termios.FIONREAD, SIOCOUTQ):
            answer = fcntl.ioctl(self._sock.fileno(), request, b"\0\0\0\0")
            numbers.append(struct.unpack("i", answer)[0])
        return numbers[0], numbers[1]

    # ---- reading

    def pause(self, reason: str) -> None:
        """Stop reading until this reason (and every other) is resumed."""
        if not self._pauses and not self.closed:
            self._loop.remove_reader(self._sock.fileno())
        self._pauses.add(reason)

    def resume(self, reason: str) -> None:
        """Take a reason back."""
        if reason in self._pauses:
            self._pauses.discard(reason)
            if not self._pauses and not self.closed:
                self._loop.add_reader(self._sock.fileno(), self._readable)

    def start(self) -> None:
        """Begin to read."""
        self.resume("not started")

    def read_now(self) -> None:
        """Read what lies in the socket now, before the loop would; not while reading is paused."""
        while not self._pauses and not self.closed and self.kernel_queues()[0]:
            self._readable()

    def _readable(self) -> None:
        try:
            self._read()
        except Exception as error:
            self._bug(error)

    def _read(self) -> None:
        try:
            data, ancillary, flags, _ = self._sock.recvmsg(READ_BYTES, _ANCILLARY_BYTES, socket.MSG_CMSG_CLOEXEC)
        except (BlockingIOError, InterruptedError):
            return
        except OSError as error:
            self._fail(error.strerror or str(error))
            return
        fds: list[int] = []
        for level, kind, content in ancillary:
            if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                numbers = array.array("i")
                numbers.frombytes(content[: len(content) - len(content) % numbers.itemsize])
                fds += [OwnedFd(number) for number in numbers]
        if flags & socket.MSG_CTRUNC:
            self._fail("file descriptors were lost: too many of them")
        elif not data:
            self._fail("")
        else:
            self._on_data(data, fds)

    # ---- writing

    def write(self, data: bytes, fds: tuple[int, ...] = ()) -> None:
        """Write, now or as soon as the peer reads; descriptors go with the first byte."""
        if self.closed or self._finishing or not data:
            return
        self._out.append((memoryview(data), fds))
        self.unsent += len(data)
        if not self._writing and (not self._corked or self.unsent > _CORKED_BYTES_MAX):
            self._flush()

    def cork(self) -> None:
        """Gather what is written from now on, up to `uncork`: the peer is woken once and not for each message."""
        self._corked = True

    def uncork(self) -> None:
        """Write what was gathered."""
        self._corked = False
        if self._out and not self._writing and not self.closed:
            self._flush()

    def _writable(self) -> None:
        try:
            self._flush()
            self._on_drained()
        except Exception as error:
            self._bug(error)

    def _flush(self) -> None:
        try:
            while self._out:
                self._sent(self._send_some())
        except (BlockingIOError, InterruptedError):
            pass
        except OSError as error:
            why = error.strerror or str(error)
            self._stop_writing()
            self._loop.call_soon(self._fail, why)
            return
        if self._out and not self._writing:
            self._writing = True
            self._loop.add_writer(self._sock.fileno(), self._writable)
        elif not self._out and self._writing:
            self._stop_writing()
        if not self._out and self._finishing:
            self.close()

    def _send_some(self) -> int:
        first, fds = self._out[0]
        if fds:
            rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))]
            return self._sock.sendmsg([first], rights, socket.MSG_NOSIGNAL)
        if len(self._out) == 1:
            return self._sock.send(first, socket.MSG_NOSIGNAL)
        buffers: list[memoryview] = []
        for data, more_fds in self._out:
            if more_fds or len(buffers) == _GATHER_MAX:
                break
            buffers.append(data)
        return self._sock.sendmsg(buffers, (), socket.MSG_NOSIGNAL)

    def _sent(self, count: int) -> None:
        self.unsent -= count
        while count:
            data, _ = self._out[0]
            if count < len(data):
                self._out[0] = (data[count:], ())
                return
            count -= len(data)
            self._out.popleft()

    def _stop_writing(self) -> None:
        if self._writing:
            self._writing = False
            self._loop.remove_writer(self._sock.fileno())

    # ---- the end

    def finish(self) -> None:
        """Read no more, write what is left, then close."""
        if self.closed:
            return
        self.pause("finishing")
        self._finishing = True
        if not self._out:
            self.close()

    def close(self) -> None:
        """Close at once; what was not written is lost. on_closed is not called."""
        if self.closed:
            return
        self.pause("closed")
        self._stop_writing()
        self.closed = True
        self._out.clear()
        self.unsent = 0
        self._sock.close()

    def _fail(self, why: str) -> None:
        if self.closed:
            return
        silent = self._finishing
        self.close()
        if not silent:
            self._on_closed(why)
