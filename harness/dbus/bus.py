"""The embedded message bus: what dbus-daemon does between a driver and systemd, without sockets, in one process.

Messages in, messages out, nothing else: the caller says which connection a message came from and writes what is returned,
in order. What the bus itself answers is in bus_driver.py. Errors have dbus-daemon's names and texts. The
same fake systemd also sits on a real dbus-daemon and dbus-broker, and the same conversations (tests/test_bus_contract.py) and
scenarios must come out the same: that keeps this honest.

Left out on purpose: policy, activation, eavesdropping and monitors, limits other than the pending replies', and file
descriptors from one client to another. What differs from a real bus for the rest, and why:
- Whoever answers a call that nobody waits for hears nothing. dbus-daemon tells it AccessDenied, with uid, pid and command line
  of both in the text; drivers answer no calls, and the fake systemd would not listen.
- StartServiceByName of systemd says that it runs already, as on a machine where systemd's .service file is installed. A private
  bus without such files says ServiceUnknown.
- Behind the relay a real bus sees one process, ours: the pid and uid that it tells of a driver's connection are cgrace's. Here
  they are the driver's.
- A service that is restarted is back at once. On a real bus its name has no owner for a moment, in which the relay keeps what
  drivers say (relay/upstream.py).
- dbus-broker has texts of its own for the same error names, answers no call that wants no answer, knows no unique name without
  a dot, and answers a call without a destination itself, where libdbus does it without naming a sender.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Protocol

from cgrace.harness.dbus import systemd1
from cgrace.harness.dbus.bus_driver import BusDriver
from cgrace.harness.dbus.match import Rule
from cgrace.harness.dbus.message import Message, MessageFlag, MessageType
from cgrace.harness.dbus.names import RequestFlag
from cgrace.harness.dbus.roster import Outgoing, Peer, Roster
from cgrace.harness.errors import ProtocolError

PENDING_REPLIES_MAX = 128  # max_replies_per_connection of dbus-daemon's system bus
_ANSWERS = (MessageType.REPLY, MessageType.ERROR)


class Service(Protocol):
    """A program behind the bus, here the fake systemd.

    Messages that it gives need no sender and no serial: the bus stamps them. Answers have destination and reply_serial set
    (systemd1.reply_to, error_to); a signal without destination is broadcast. Order is kept.
    """

    def call(self, sender: str, message: Message) -> list[Message]:
        """A method call by the peer with the unique name `sender`; answers may come later, by EmbeddedBus.emit."""
        ...

    def peer_gone(self, sender: str) -> list[Message]:
        """A peer left the bus."""
        ...


@dataclass(slots=True)
class _Seat:
    """A service's place on the bus: its unique name and what it has said so far."""

    name: str
    service: Service
    serial: int = 0


class EmbeddedBus:
    """One bus. services: what owns a well-known name from the start; each gets a unique name of its own (":1.0", ...)."""

    def __init__(self, services: Mapping[str, Service], guid: str = "c9ace000000000000000000000000001") -> None:
        self._roster = Roster(guid)
        self._seats: dict[str, _Seat] = {}
        self._next_conn = 1
        self._driver = BusDriver(self._roster)
        for name, service in services.items():
            self.service_back(name, service)

    # ---- connections

    def connect(self, *, pid: int = 0, uid: int = 0) -> int:
        """A new client; pid and uid are what GetConnectionCredentials tells of it. Returns its connection's number."""
        conn = self._next_conn
        self._next_conn += 1
        self._roster.peers[conn] = Peer(conn, pid, uid)
        return conn

    def disconnect(self, conn: int) -> list[Outgoing]:
        """The client is gone; what the others are told. No error for one that is not there."""
        peer = self._roster.peers.pop(conn, None)
        if peer is None or not peer.name:
            return []
        del self._roster.by_name[peer.name]
        out = self._no_reply_from(peer.name)
        for change in self._roster.names.gone(peer.name):
            out += self._roster.owner_changed(change)
        for name, seat in list(self._seats.items()):
            out += self.emit_all(name, seat.service.peer_gone(peer.name))
        return out

    def match_rules(self, conn: int) -> tuple[Rule, ...]:
        """The rules that a connection has added and not removed."""
        peer = self._roster.peers.get(conn)
        return tuple(peer.rules) if peer else ()

    def unique_name(self, conn: int) -> str:
        """The connection's unique name, "" before Hello."""
        peer = self._roster.peers.get(conn)
        return peer.name if peer else ""

    def owner(self, name: str) -> str:
        """The unique name of a name's owner, "" for none."""
        return self._roster.names.owner(name)

    # ---- messages

    def receive(self, conn: int, message: Message) -> list[Outgoing]:
        """A client says something. ProtocolError when a real bus would hang up on it; the caller then disconnects it."""
        peer = self._roster.peers[conn]
        to_bus = message.destination == systemd1.BUS_NAME
        if not peer.name and not to_bus:
            raise ProtocolError("a message other than Hello before Hello")
        if message.path == "/org/freedesktop/DBus/Local" or message.interface == "org.freedesktop.DBus.Local":
            raise ProtocolError("a message in the name of the reserved local path or interface")
        if to_bus:
            return self._driver.receive(peer, message) if message.type is MessageType.CALL else []
        message = message.stamped(peer.name, message.serial)
        if message.destination:
            return self._unicast(peer, message)
        if message.type is MessageType.SIGNAL:
            return self._roster.broadcast(message, self._roster.names.owned_by(peer.name))
        if message.type is MessageType.CALL:
            return self._for_nobody(peer, message)
        return []

    def emit(self, service_name: str, message: Message) -> list[Outgoing]:
        """A service says something by itself: a signal, or an answer that it kept back."""
        seat = self._seats.get(service_name)
        if seat is None:
            return []
        seat.serial += 1
        roster = self._roster
        if not message.destination:
            # Most signals of a manager are heard by nobody: only one that is gets its sender and serial.
            heard = roster.hearers(message, roster.names.owned_by(seat.name))
            if not heard:
                return []
            message = message.stamped(seat.name, seat.serial)
            return [Outgoing(conn, message) for conn in heard]
        message = message.stamped(seat.name, seat.serial)
        target = roster.by_name.get(message.destination) or roster.peer_of(message.destination)
        if target is None:
            return []
        if message.type in _ANSWERS and target.pending.pop(message.reply_serial, None) is None:
            return []  # a real bus refuses an answer that nobody waits for
        return [Outgoing(target.conn, message)]

    def hears(self, service_name: str, interface: str, member: str) -> bool:
        """Whether any client may hear such a signal of the service: if not, it need not be made."""
        seat = self._seats.get(service_name)
        return seat is not None and self._roster.may_hear(seat.name, interface, member)

    def emit_all(self, service_name: str, messages: Iterable[Message]) -> list[Outgoing]:
        """Several of them, in order."""
        return [outgoing for message in messages for outgoing in self.emit(service_name, message)]

    # ---- services that leave and come back

    def service_gone(self, name: str) -> list[Outgoing]:
        """The service left the bus (killed, re-executed): calls in flight fail, its name has no owner."""
        seat = self._seats.pop(name, None)
        if seat is None:
            return []
        out = self._no_reply_from(seat.name)
        for change in self._roster.names.gone(seat.name):
            out += self._roster.owner_changed(change)
        return out

    def service_back(self, name: str, service: Service) -> list[Outgoing]:
        """A service takes a name, under a new unique name."""
        seat = _Seat(self._roster.new_unique_name(), service)
        self._seats[name] = seat
        out: list[Outgoing] = []
        for owned in (seat.name, name):
            _, changes = self._roster.names.request(owned, seat.name, RequestFlag.DO_NOT_QUEUE)
            for change in changes:
                out += self._roster.owner_changed(change)
        return out

    # ---- routing

    def _unicast(self, peer: Peer, message: Message) -> list[Outgoing]:
        owner = self._roster.names.owner(message.destination)
        if not owner and MessageFlag.NO_AUTO_START in message.flags:
            return self._roster.refuse(peer, message, "NameHasNoOwner", f'Name "{message.destination}" does not exist')
        if not owner:
            text = f"The name {message.destination} was not provided by any .service files"
            return self._roster.refuse(peer, message, "ServiceUnknown", text)
        wants_answer = message.wants_answer
        if wants_answer and message.serial in peer.pending:
            text = "Message has the same reply serial as a currently-outstanding existing method call"
            return self._roster.refuse(peer, message, "AccessDenied", text)
        if wants_answer and len(peer.pending) >= PENDING_REPLIES_MAX:
            text = "The maximum number of pending replies per connection has been reached"
            return self._roster.refuse(peer, message, "LimitsExceeded", text)
        target = self._roster.by_name.get(owner)
        if target is not None:
            if message.fds:
                return self._roster.refuse(
                    peer, message, "NotSupported", "The embedded bus passes no file descriptors on"
                )
            if message.type in _ANSWERS and target.pending.pop(message.reply_serial, None) is None:
                return []
        if wants_answer:
            peer.pending[message.serial] = owner
        if target is not None:
            return [Outgoing(target.conn, message)]
        for name, seat in self._seats.items():
            if seat.name == owner and message.type is MessageType.CALL:
                return self.emit_all(name, seat.service.call(peer.name, message))
        return []

    def _for_nobody(self, peer: Peer, message: Message) -> list[Outgoing]:
        """A call without a destination: libdbus answers, before the bus has seen it, so the error has no sender."""
        text = f'Method "{message.member}" with signature "{message.signature}" on interface "{message.interface}"'
        out = self._roster.refuse(peer, message, "UnknownMethod", f"{text} doesn't exist\n")
        return [replace(one, message=replace(one.message, sender="", destination="")) for one in out]

    def _no_reply_from(self, name: str) -> list[Outgoing]:
        text = "Message recipient disconnected from message bus without replying"
        out: list[Outgoing] = []
        for peer in self._roster.by_name.values():
            for serial in [serial for serial, owner in peer.pending.items() if owner == name]:
                del peer.pending[serial]
                call = Message(type=MessageType.CALL, serial=serial, sender=peer.name)
                out += self._roster.refuse(peer, call, "NoReply", text)
        return out
