"""The SASL exchange in front of D-Bus messages, both sides, without I/O: bytes in, bytes out.

After the specification's chapter on authentication. The server's side takes what clients really do: sd-bus sends the NUL, AUTH,
DATA, NEGOTIATE_UNIX_FD, BEGIN and its first messages in one write, godbus and libdbus wait for each answer.
"""

from __future__ import annotations

from enum import Enum, auto

from cgrace.harness.errors import ProtocolError

LINE_BYTES_MAX = 16 * 1024
FAILURES_MAX = 6  # as libdbus: then the client is sent away


class _Lines:
    """Cuts lines from bytes. What is behind the last line that was taken stays in `rest`."""

    def __init__(self) -> None:
        self.rest = bytearray()

    def next(self) -> str | None:
        """The next whole line without its end, None when there is none yet."""
        end = self.rest.find(b"\r\n", 0, LINE_BYTES_MAX + 2)
        if end < 0:
            if len(self.rest) > LINE_BYTES_MAX:
                raise ProtocolError(f"a line of the authentication is longer than {LINE_BYTES_MAX} bytes")
            return None
        line = bytes(self.rest[:end])
        del self.rest[: end + 2]
        if not line.isascii() or b"\0" in line:
            raise ProtocolError("a line of the authentication is not ASCII")
        return line.decode("ascii")


class _State(Enum):
    NUL = auto()
    AUTH = auto()
    DATA = auto()
    BEGIN = auto()
    DONE = auto()


class ServerAuth:
    """The relay's side towards a driver. Whoever may open the socket is let in: EXTERNAL with any number, or none.

    guid: 32 hex digits. can_pass_fds: whether descriptors can be passed on. Feed until `done`; then `leftover` holds the first
    bytes of messages, and `fds_agreed` says whether the client may send descriptors.
    """

    def __init__(self, guid: str, *, can_pass_fds: bool = True) -> None:
        self._guid = guid
        self._can_pass_fds = can_pass_fds
        self._lines = _Lines()
        self._state = _State.NUL
        self._failures = 0
        self.claimed = ""  # the uid that the client gave, as it gave it
        self.fds_agreed = False

    @property
    def done(self) -> bool:
        """Whether BEGIN was read."""
        return self._state is _State.DONE

    @property
    def leftover(self) -> bytes:
        """What came behind BEGIN."""
        return bytes(self._lines.rest) if self.done else b""

    def feed(self, data: bytes) -> bytes:
        """Take bytes, give what to answer; ProtocolError when the client must be sent away."""
        self._lines.rest += data
        if self._state is _State.NUL and self._lines.rest:
            if self._lines.rest[0] != 0:
                raise ProtocolError("the first byte of a connection is not NUL")
            del self._lines.rest[0]
            self._state = _State.AUTH
        out: list[str] = []
        while self._state not in (_State.NUL, _State.DONE) and (line := self._lines.next()) is not None:
            answer = self._take(line)
            if answer:
                out.append(answer + "\r\n")
        return "".join(out).encode()

    def _take(self, line: str) -> str:
        command, _, argument = line.partition(" ")
        match self._state, command:
            case _State.AUTH, "AUTH":
                return self._auth(argument)
            case _State.DATA, "DATA":
                return self._external(argument)
            case _State.BEGIN, "BEGIN":
                self._state = _State.DONE
                return ""
            case _State.BEGIN, "NEGOTIATE_UNIX_FD":
                if not self._can_pass_fds:
                    return 'ERROR "Unix fd passing is not supported"'
                self.fds_agreed = True
                return "AGREE_UNIX_FD"
            case _, "BEGIN":
                raise ProtocolError("BEGIN before authentication")
            case ((_State.DATA | _State.BEGIN), "CANCEL"):
                return self._reject()
            case _, "ERROR":
                return self._reject()
        return 'ERROR "Unknown command"'

    def _auth(self, argument: str) -> str:
        mechanism, _, response = argument.partition(" ")
        if mechanism != "EXTERNAL":
            return self._reject()
        if not response:
            self._state = _State.DATA
            return "DATA"
        return self._external(response)

    def _external(self, response: str) -> str:
        """The uid in hex of its decimal digits; nothing stands for the uid that the socket tells."""
        try:
            claimed = bytes.fromhex(response).decode("ascii")
        except ValueError:
            return self._reject()
        if claimed and not claimed.isdigit():
            return self._reject()
        self.claimed = claimed
        self._state = _State.BEGIN
        return f"OK {self._guid}"

    def _reject(self) -> str:
        self._failures += 1
        if self._failures >= FAILURES_MAX:
            raise ProtocolError(f"{FAILURES_MAX} failed attempts to authenticate")
        self._state = _State.AUTH
        self.fds_agreed = False
        return "REJECTED EXTERNAL"


class ClientAuth:
    """The relay's side towards a real bus: EXTERNAL, then descriptors. Write `start()`, feed answers until `done`."""

    def __init__(self, uid: int, *, want_fds: bool = True) -> None:
        self._uid = uid
        self._want_fds = want_fds
        self._lines = _Lines()
        self._authenticated = False
        self.guid = ""
        self.fds_agreed = False
        self.done = False

    def start(self) -> bytes:
        """The first bytes of a connection."""
        return b"\0AUTH EXTERNAL " + str(self._uid).encode().hex().encode() + b"\r\n"

    @property
    def leftover(self) -> bytes:
        """What the bus sent behind its last answer (nothing, by the protocol)."""
        return bytes(self._lines.rest) if self.done else b""

    def feed(self, data: bytes) -> bytes:
        """Take bytes, give what to answer; ProtocolError when the bus refuses us or says what no bus says."""
        self._lines.rest += data
        out = b""
        while not self.done and (line := self._lines.next()) is not None:
            out += self._take(line)
        return out

    def _take(self, line: str) -> bytes:
        command, _, argument = line.partition(" ")
        if not self._authenticated:
            if command != "OK":
                raise ProtocolError(f"the bus refused to authenticate uid {self._uid}: {line:.80}")
            self._authenticated = True
            self.guid = argument
            if self._want_fds:
                return b"NEGOTIATE_UNIX_FD\r\n"
        elif command not in ("AGREE_UNIX_FD", "ERROR"):
            raise ProtocolError(f"the bus answered NEGOTIATE_UNIX_FD with: {line:.80}")
        else:
            self.fds_agreed = command == "AGREE_UNIX_FD"
        self.done = True
        return b"BEGIN\r\n"
