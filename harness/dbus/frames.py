"""A byte stream to frames: where each message begins and ends, and which file descriptors came with it. No I/O.

A frame keeps the bytes as they came; they are decoded only when somebody asks. The framer judges no more than it must to
find the end of a message: byte order, version, type and lengths. Everything else shows when `.message` is asked for.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from cgrace.harness.dbus import codec
from cgrace.harness.dbus.message import MESSAGE_BYTES_MAX, Message
from cgrace.harness.errors import ProtocolError

FDS_MAX = 253  # SCM_MAX_FD of Linux: the most that one message can carry
_FDS_FIELD = b"\x09\x01u\0"  # header field UNIX_FDS with its type; a text before it would have to end in such bytes


@dataclass(frozen=True)
class Frame:
    """One message as it is on the wire. fds: the descriptors that travel with it, in order.

    The relay's descriptors are `OwnedFd`: they close when the last frame that names them is gone, so frames may be kept,
    dropped and sent twice without a thought for them.
    """

    raw: bytes
    fds: tuple[int, ...] = ()

    @cached_property
    def message(self) -> Message:
        """The decoded message; ProtocolError when the bytes are not one."""
        return codec.decode(self.raw)

    @cached_property
    def header(self) -> Message:
        """The message without its body: () whatever its signature says; ProtocolError as above."""
        return self.__dict__.get("message") or codec.decode_header(self.raw)

    def with_serial(self, serial: int) -> Frame:
        """The same frame under another serial."""
        return Frame(codec.rewrite_serial(self.raw, serial), self.fds)

    @classmethod
    def of(cls, message: Message, fds: tuple[int, ...] = ()) -> Frame:
        """Encode a message of our own; ProtocolError when its parts do not fit each other."""
        frame = cls(codec.encode(message), fds)
        frame.__dict__["message"] = message  # what encode() took decodes to itself: spare the work
        return frame


class Framer:
    """Cuts a stream into frames. After a ProtocolError the stream is lost for good: every further feed raises it again."""

    def __init__(self, bytes_max: int = MESSAGE_BYTES_MAX) -> None:
        self._buffer = bytearray()
        self._fds: deque[int] = deque()
        self._bytes_max = bytes_max
        self._wanted = codec.HEADER_BYTES  # nothing can be cut before the buffer has so many bytes
        self._error: ProtocolError | None = None

    @property
    def pending(self) -> int:
        """How many bytes of an unfinished message are here."""
        return len(self._buffer)

    def feed(self, data: bytes, fds: Sequence[int] = ()) -> list[Frame]:
        """Take bytes, and the descriptors received with them; give every frame that is now whole."""
        if self._error is not None:
            raise self._error
        if not data and not fds:
            return []
        self._fds.extend(fds)
        self._buffer += data
        frames: list[Frame] = []
        try:
            self._cut(frames)
        except ProtocolError as error:
            self._error = error
            if not frames:
                raise
        return frames

    def _cut(self, frames: list[Frame]) -> None:
        start = 0
        buffer = self._buffer
        try:
            while len(buffer) - start >= self._wanted:
                total, header_end = self._extent(start)
                if len(buffer) - start < total:
                    self._wanted = total
                    break
                raw = bytes(memoryview(buffer)[start : start + total])
                frames.append(Frame(raw, self._take_fds(raw, header_end)))
                start += total
                self._wanted = codec.HEADER_BYTES
            if len(buffer) > start and buffer[start] not in b"lB":
                codec.extent(buffer[start : start + 1])  # no need to wait for more: it raises
            if len(self._fds) > FDS_MAX:
                raise ProtocolError("file descriptors without a message that announces them")
        finally:
            del buffer[:start]

    def _extent(self, start: int) -> tuple[int, int]:
        found = codec.extent(self._buffer[start : start + codec.HEADER_BYTES])
        if found.total > self._bytes_max:
            raise ProtocolError(f"a message of {found.total} bytes: at most {self._bytes_max} are taken here")
        return found.total, found.header_end

    def _take_fds(self, raw: bytes, header_end: int) -> tuple[int, ...]:
        """The descriptors that the header announces; most messages have none, which costs one search."""
        if raw.find(_FDS_FIELD, codec.HEADER_BYTES, header_end) < 0:
            return ()
        count = codec.decode_header(raw).fds
        if count > len(self._fds):
            raise ProtocolError(f"the message announces {count} file descriptors, {len(self._fds)} came with it")
        return tuple(self._fds.popleft() for _ in range(count))
