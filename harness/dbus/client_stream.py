"""A client's bytes of one connection to a bus, without I/O: the authentication, then messages both ways."""

from __future__ import annotations

from cgrace.harness.dbus.auth import ClientAuth
from cgrace.harness.dbus.frames import Frame, Framer


class ClientStream:
    """uid: as whom. Write `start()`, then what `say` and `feed` give back. For a client that passes no descriptors."""

    def __init__(self, uid: int) -> None:
        self._auth = ClientAuth(uid, want_fds=False)
        self._framer = Framer()
        self._unsent = b""

    def start(self) -> bytes:
        """The first bytes of the connection."""
        return self._auth.start()

    @property
    def let_in(self) -> bool:
        """Whether the bus has let us in."""
        return self._auth.done

    @property
    def pending(self) -> int:
        """How many bytes of an unfinished message are here."""
        return self._framer.pending

    def say(self, data: bytes) -> bytes:
        """A message of ours: what to write of it now. Before the bus has let us in that is nothing, and `feed` gives it later."""
        if self._auth.done:
            return data
        self._unsent += data
        return b""

    def feed(self, data: bytes) -> tuple[bytes, list[Frame]]:
        """Take bytes: what to write now, and every message that is now whole. ProtocolError when the bus refuses us or babbles."""
        answer = b""
        if not self._auth.done:
            answer = self._auth.feed(data)
            if not self._auth.done:
                return answer, []
            answer, self._unsent, data = answer + self._unsent, b"", self._auth.leftover
        return answer, self._framer.feed(data)
