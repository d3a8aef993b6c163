"""What the relay's parts promise each other: a handler decides, a backend stands for systemd's side, limits are data.

Two rules make handlers simple. No method of a handler is ever called from inside a method of a connection or of a handler: what
a call causes comes when that has returned, in order. And no method of a connection fails because a peer is gone: that is
told once, by `disconnected`, and everything sent afterwards goes nowhere.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from cgrace.harness.dbus.frames import Frame
from cgrace.harness.dbus.message import MESSAGE_BYTES_MAX
from cgrace.harness.events import Actor

if TYPE_CHECKING:
    from cgrace.harness.relay.connection import Connection


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What a peer may make us keep.

    message_bytes_max: of one message. unsent_bytes_max: waiting to be written to a peer that does not read; with more than that
    already waiting, the connection ends. pause_bytes: from so many on, the other side of the connection is not read.
    """

    message_bytes_max: int = MESSAGE_BYTES_MAX
    unsent_bytes_max: int = 64 * 1024 * 1024
    pause_bytes: int = 1024 * 1024


class Handler(Protocol):
    """Decides what happens to messages. All methods are called in the event loop's thread and must not block.

    Frames that arrive here decode: `frame.message` raises nothing. A frame may be kept and sent at any later time.
    """

    def connected(self, conn: Connection) -> None:
        """A driver connected (it has not authenticated yet)."""
        ...

    def disconnected(self, conn: Connection, by: Actor, why: str) -> None:
        """The connection ended, exactly once for each. by: DRIVER, SYSTEMD (the bus) or CGRACE; why: "" for a plain close."""
        ...

    def from_driver(self, conn: Connection, frame: Frame) -> None:
        """The driver said something."""
        ...

    def from_systemd(self, conn: Connection, frame: Frame) -> None:
        """The bus said something to this connection."""
        ...


class Link(Protocol):
    """Systemd's side of one driver connection."""

    can_pass_fds: bool

    @property
    def unsent(self) -> int:
        """Bytes to systemd that wait with us."""
        ...

    def send(self, frame: Frame) -> None:
        """Pass a message on."""
        ...

    def begin(self) -> None:
        """The handler is about to see what the driver has said; no deliveries until `end`."""
        ...

    def end(self) -> None:
        """It has seen all that has come: what that caused may be delivered, now."""
        ...

    def close(self) -> None:
        """The driver is gone; what was sent before still arrives."""
        ...

    def pause(self) -> None:
        """Read nothing more from systemd's side: the driver does not take it."""
        ...

    def resume(self) -> None:
        """Read again."""
        ...

    def queues(self) -> tuple[int, int]:
        """(bytes from systemd that were not handed out, bytes to systemd that it has not read)."""
        ...


class Backend(Protocol):
    """What stands behind the relay. `open` calls conn.linked(link), now or later, or conn.lost(why).

    bug: set by the relay; gets what a callback raised, which is a mistake of ours.
    """

    bug: Callable[[Exception], None] | None

    def open(self, conn: Connection) -> None:
        """A driver connected."""
        ...

    def close(self) -> None:
        """The relay ends: close whatever is still open."""
        ...
