"""Who is on the embedded bus, and what every part of it does alike: name the peers, answer, refuse, tell, broadcast."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from cgrace.harness.dbus import systemd1
from cgrace.harness.dbus.match import Rule
from cgrace.harness.dbus.message import Message, MessageFlag, MessageType
from cgrace.harness.dbus.names import Names, OwnerChange

ERROR = "org.freedesktop.DBus.Error."


@dataclass(frozen=True, slots=True)
class Outgoing:
    """A message for one connection. A broadcast gives the same Message object to each, so that it is encoded once."""

    conn: int
    message: Message


@dataclass(slots=True)
class Peer:
    """A client connection. name: "" until Hello. pending: serials of its calls that wait for an answer, and from whom."""

    conn: int
    pid: int
    uid: int
    name: str = ""
    rules: list[Rule] = field(default_factory=list)
    pending: dict[int, str] = field(default_factory=dict)
    serial: int = 0  # of what the bus itself says to this peer


class Roster:
    """The peers of one bus and their names."""

    def __init__(self, guid: str) -> None:
        self.guid = guid
        self.names = Names()
        self.peers: dict[int, Peer] = {}
        self.by_name: dict[str, Peer] = {}
        self.heard: dict[
            tuple[str, str, str], bool
        ] = {}  # answers of `may_hear`, until somebody's rules or names change
        self._next_unique = 0

    def new_unique_name(self) -> str:
        """The next ":1.N"; never used twice."""
        name = f":1.{self._next_unique}"
        self._next_unique += 1
        return name

    def register(self, peer: Peer) -> None:
        """The peer said Hello and has its name."""
        self.heard.clear()
        self.by_name[peer.name] = peer

    def peer_of(self, name: str) -> Peer | None:
        """The client that has or owns the name; None also for a service's."""
        return self.by_name.get(self.names.owner(name))

    def tell(self, peer: Peer, message: Message) -> list[Outgoing]:
        """An answer or signal of the bus itself to one peer."""
        peer.serial += 1
        return [Outgoing(peer.conn, replace(message, serial=peer.serial, sender=systemd1.BUS_NAME))]

    def refuse(self, peer: Peer, call: Message, name: str, text: str) -> list[Outgoing]:
        """An error of the bus in answer to a call; as dbus-daemon does it, also to one that wants no answer."""
        if call.type is not MessageType.CALL:
            return []
        error = systemd1.error_to(call, ERROR + name, text)
        return self.tell(peer, replace(error, destination=peer.name))

    def owner_changed(self, change: OwnerChange) -> list[Outgoing]:
        """Tell everyone who wants to know, then the old and the new owner."""
        self.heard.clear()
        out = self.broadcast(
            _bus_signal("NameOwnerChanged", "sss", (change.name, change.old, change.new)), (systemd1.BUS_NAME,)
        )
        for member, owner in (("NameLost", change.old), ("NameAcquired", change.new)):
            if owner in self.by_name:
                peer = self.by_name[owner]
                out += self.tell(peer, replace(_bus_signal(member, "s", (change.name,)), destination=owner))
        return out

    def broadcast(self, message: Message, sender_names: Iterable[str]) -> list[Outgoing]:
        """A message to every peer with a rule that picks it, once each, in order of Hello."""
        return [Outgoing(conn, message) for conn in self.hearers(message, sender_names)]

    def may_hear(self, sender: str, interface: str, member: str) -> bool:
        """Whether any peer has a rule that can pick such a broadcast of the sender."""
        key = (sender, interface, member)
        if key not in self.heard:
            names = self.names.owned_by(sender)
            rules = (rule for peer in self.by_name.values() for rule in peer.rules)
            self.heard[key] = any(rule.may_match_signal(interface, member, names) for rule in rules)
        return self.heard[key]

    def hearers(self, message: Message, sender_names: Iterable[str]) -> list[int]:
        """The connections with a rule that picks a broadcast by the owner of these names, in order of Hello."""
        names = tuple(sender_names)
        return [peer.conn for peer in self.by_name.values() if any(rule.matches(message, names) for rule in peer.rules)]


def _bus_signal(member: str, signature: str, body: tuple[str, ...]) -> Message:
    return Message(
        type=MessageType.SIGNAL,
        serial=1,
        flags=MessageFlag.NO_REPLY_EXPECTED,
        path=systemd1.BUS_PATH,
        interface=systemd1.BUS_NAME,
        member=member,
        sender=systemd1.BUS_NAME,
        signature=signature,
        body=body,
    )
