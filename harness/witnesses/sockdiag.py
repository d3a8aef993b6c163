"""Who is at the other end of a unix socket: the kernel's sock_diag netlink family, which `ss` uses too.

/proc/net/unix does not tell it, and SO_PEERCRED gives only a pid. The kernel answers for sockets of the caller's network
namespace alone (net/unix/diag.c, unix_lookup_by_ino); an accepted socket belongs to the namespace of the one that connected.
"""

from __future__ import annotations

import socket
import struct
from typing import Final

NETLINK_SOCK_DIAG: Final = 4
SOCK_DIAG_BY_FAMILY: Final = 20
UDIAG_SHOW_PEER: Final = 4
UNIX_DIAG_PEER: Final = 2
ALL_STATES: Final = 0xFFFFFFFF
NO_COOKIE: Final = 0xFFFFFFFF
NLM_F_REQUEST: Final = 1
NLMSG_ERROR: Final = 2
ANSWER_BYTES: Final = 4096

_HEADER = struct.Struct("=IHHII")  # length, type, flags, sequence, port
_REQUEST = struct.Struct("=BBHIIIII")  # family, protocol, pad, states, inode, show, cookie (two words)
_ANSWER = struct.Struct("=BBBBIII")  # family, type, state, pad, inode, cookie (two words)
_ATTRIBUTE = struct.Struct("=HH")  # length, type
_INODE = struct.Struct("=I")


class SockDiag:
    """A netlink socket to ask with. Use it as a context manager. Raises OSError where the kernel has no unix_diag."""

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC, NETLINK_SOCK_DIAG)
        self._sequence = 0

    def __enter__(self) -> SockDiag:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def peer(self, inode: int) -> int | None:
        """The inode of the socket that a unix socket is connected to, None when it has none or cannot be seen."""
        self._sequence += 1
        body = _REQUEST.pack(socket.AF_UNIX, 0, 0, ALL_STATES, inode, UDIAG_SHOW_PEER, NO_COOKIE, NO_COOKIE)
        length = _HEADER.size + len(body)
        self._socket.send(_HEADER.pack(length, SOCK_DIAG_BY_FAMILY, NLM_F_REQUEST, self._sequence, 0) + body)
        answer = self._socket.recv(ANSWER_BYTES)
        length, kind, _, sequence, _ = _HEADER.unpack_from(answer)
        if kind == NLMSG_ERROR or sequence != self._sequence:
            return None
        return _peer_attribute(answer[_HEADER.size + _ANSWER.size : length])


def _peer_attribute(attributes: bytes) -> int | None:
    while len(attributes) >= _ATTRIBUTE.size:
        length, kind = _ATTRIBUTE.unpack_from(attributes)
        if kind == UNIX_DIAG_PEER and length >= _ATTRIBUTE.size + _INODE.size:
            return int(_INODE.unpack_from(attributes, _ATTRIBUTE.size)[0]) or None
        if length < _ATTRIBUTE.size:
            return None
        attributes = attributes[(length + 3) & ~3 :]
    return None
