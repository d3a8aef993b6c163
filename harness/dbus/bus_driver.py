"""What the bus itself answers: the methods of org.freedesktop.DBus, after dbus-daemon's bus/driver.c, texts included.

The texts were recorded from dbus-daemon 1.14. Like it, the bus answers every call to itself, also one that wants no answer.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

from cgrace.harness.dbus import systemd1
from cgrace.harness.dbus.match import MatchRuleError, parse_rule
from cgrace.harness.dbus.message import Message, Variant
from cgrace.harness.dbus.roster import Outgoing, Peer, Roster
from cgrace.harness.dbus.signature import is_bus_name, split_signature
from cgrace.harness.dbus.systemd1 import BUS_NAME, INTROSPECTABLE, PEER, PROPERTIES

MACHINE_ID = "c9ace000000000000000000000000000"
_FEATURES = {"Features": Variant(signature="as", value=[]), "Interfaces": Variant(signature="as", value=[])}


class Refusal(Exception):
    """A call is answered with an error; `name` is behind org.freedesktop.DBus.Error. (or whole, with dots)."""

    def __init__(self, name: str, text: str) -> None:
        super().__init__(text)
        self.name = name.removeprefix("org.freedesktop.DBus.Error.")


Answer = tuple[tuple[Any, ...], list[Outgoing]]  # the reply's body, and what is sent before it


class Method(NamedTuple):
    """One row of the table: signatures and who does it."""

    interface: str
    signature: str
    returns: str
    call: Callable[..., Answer]


class BusDriver:
    """org.freedesktop.DBus on one bus."""

    def __init__(self, roster: Roster) -> None:
        self._bus = roster

    def receive(self, peer: Peer, message: Message) -> list[Outgoing]:
        """A call to the bus; the answer, and the signals that it causes."""
        method = METHODS.get(message.member)
        if not peer.name and message.member != "Hello":
            text = "Client tried to send a message other than Hello without being registered"
            return self._bus.refuse(peer, message, "AccessDenied", text)
        if message.interface not in _INTERFACES:
            return self._unknown(peer, message, "UnknownInterface")
        if method is None or message.interface not in ("", method.interface):
            return self._unknown(peer, message, "UnknownMethod")
        if message.signature != method.signature:
            text = f"Call to {message.member} has wrong args ({message.signature}, expected {method.signature})\n"
            return self._bus.refuse(peer, message, "InvalidArgs", text)
        try:
            body, before = method.call(self, peer, *message.body)
        except Refusal as refusal:
            return self._bus.refuse(peer, message, refusal.name, str(refusal))
        if message.member == "Hello":
            return self._reply(peer, message, method.returns, body) + self._named(peer)
        return before + self._reply(peer, message, method.returns, body)

    def _unknown(self, peer: Peer, message: Message, name: str) -> list[Outgoing]:
        return self._bus.refuse(peer, message, name, f"{BUS_NAME} does not understand message {message.member}")

    def _reply(self, peer: Peer, call: Message, signature: str, body: tuple[Any, ...]) -> list[Outgoing]:
        return self._bus.tell(peer, _addressed(systemd1.reply_to(call, signature, body), peer.name))

    # ---- names

    def hello(self, peer: Peer) -> Answer:
        """Give the peer its unique name."""
        if peer.name:
            raise Refusal("Failed", "Already handled an Hello message")
        peer.name = self._bus.new_unique_name()
        self._bus.register(peer)
        return (peer.name,), []

    def _named(self, peer: Peer) -> list[Outgoing]:
        """After the answer to Hello: tell of the new name."""
        _, changes = self._bus.names.request(peer.name, peer.name, 0)
        return [out for change in changes for out in self._bus.owner_changed(change)]

    def request_name(self, peer: Peer, name: str, flags: int) -> Answer:
        """Own a well-known name, or wait for it."""
        if name[:1] == ":":
            raise Refusal("InvalidArgs", f"Cannot acquire a service starting with ':' such as \"{name}\"")
        if not is_bus_name(name):
            raise Refusal("InvalidArgs", f'Requested bus name "{name}" is not valid')
        if name == BUS_NAME:
            text = f'Connection "{peer.name}" is not allowed to own the service "{name}"'
            raise Refusal("InvalidArgs", f"{text}because it is reserved for D-Bus' use only")
        answer, changes = self._bus.names.request(name, peer.name, flags)
        return (int(answer),), [out for change in changes for out in self._bus.owner_changed(change)]

    def release_name(self, peer: Peer, name: str) -> Answer:
        """Give a well-known name back."""
        if name[:1] == ":":
            raise Refusal("InvalidArgs", f"Cannot release a service starting with ':' such as \"{name}\"")
        if not is_bus_name(name):
            raise Refusal("InvalidArgs", f'Given bus name "{name}" is not valid')
        if name == BUS_NAME:
            raise Refusal("InvalidArgs", f"Cannot release the {name} service because it is owned by the bus")
        answer, changes = self._bus.names.release(name, peer.name)
        return (int(answer),), [out for change in changes for out in self._bus.owner_changed(change)]

    def get_name_owner(self, _: Peer, name: str) -> Answer:
        """The unique name of a name's owner."""
        owner = self._owner(name)
        if not owner:
            raise Refusal("NameHasNoOwner", f"Could not get owner of name '{name}': no such name")
        return (owner,), []

    def name_has_owner(self, _: Peer, name: str) -> Answer:
        """Whether a name has an owner."""
        return (bool(self._owner(name)),), []

    def list_names(self, _: Peer) -> Answer:
        """Every name on the bus."""
        return ([BUS_NAME, *self._bus.names.all()],), []

    def list_activatable_names(self, _: Peer) -> Answer:
        """Nothing here is started on demand."""
        return ([BUS_NAME],), []

    def list_queued_owners(self, _: Peer, name: str) -> Answer:
        """Everyone who has the name or waits for it."""
        queued = [BUS_NAME] if name == BUS_NAME else self._bus.names.queued(name)
        if not queued:
            raise Refusal("NameHasNoOwner", f"Could not get owners of name '{name}': no such name")
        return (queued,), []

    def start_service_by_name(self, _: Peer, name: str, flags: int) -> Answer:
        """2 for what runs already; nothing can be started."""
        if name != BUS_NAME and not name.startswith(":") and self._owner(name):
            return (2,), []
        raise Refusal("ServiceUnknown", f"The name {name} was not provided by any .service files")

    def _owner(self, name: str) -> str:
        return BUS_NAME if name == BUS_NAME else self._bus.names.owner(name)

    # ---- match rules

    def add_match(self, peer: Peer, text: str) -> Answer:
        """One more rule; the same one twice counts twice."""
        try:
            peer.rules.append(parse_rule(text))
            self._bus.heard.clear()
        except MatchRuleError as error:
            raise Refusal(error.name, str(error)) from None
        return (), []

    def remove_match(self, peer: Peer, text: str) -> Answer:
        """One rule less."""
        try:
            peer.rules.remove(parse_rule(text))
            self._bus.heard.clear()
        except MatchRuleError as error:
            raise Refusal(error.name, str(error)) from None
        except ValueError:
            raise Refusal("MatchRuleNotFound", "The given match rule wasn't found and can't be removed") from None
        return (), []

    # ---- who is who

    def get_unix_user(self, _: Peer, name: str) -> Answer:
        """The uid behind a name."""
        return (self._credentials(name, "UID")[1],), []

    def get_unix_process_id(self, _: Peer, name: str) -> Answer:
        """The pid behind a name."""
        return (self._credentials(name, "PID")[0],), []

    def get_credentials(self, _: Peer, name: str) -> Answer:
        """Pid and uid behind a name."""
        pid, uid = self._credentials(name, "credentials")
        return ({"ProcessID": Variant(signature="u", value=pid), "UnixUserID": Variant(signature="u", value=uid)},), []

    def _credentials(self, name: str, what: str) -> tuple[int, int]:
        """Of the bus and of services: pid 1, which systemd is, and root."""
        if not self._owner(name):
            raise Refusal("NameHasNoOwner", f"Could not get {what} of name '{name}': no such name")
        owner = self._bus.peer_of(name)
        return (owner.pid, owner.uid) if owner is not None else (1, 0)

    # ---- the bus as an object

    def get_id(self, _: Peer) -> Answer:
        """The bus's own id."""
        return (self._bus.guid,), []

    def nothing(self, _: Peer, *args: Any) -> Answer:
        """Ping, ReloadConfig, UpdateActivationEnvironment: success."""
        return (), []

    def get_machine_id(self, _: Peer) -> Answer:
        """Not the host's: a run must not depend on it."""
        return (MACHINE_ID,), []

    def introspect(self, _: Peer) -> Answer:
        """The table below as XML."""
        return (_introspection(),), []

    def get_property(self, _: Peer, interface: str, name: str) -> Answer:
        """One of the two properties that a bus has."""
        if interface not in _INTERFACES:
            raise Refusal("UnknownInterface", f'Interface "{interface}" not found')
        if name not in _FEATURES:
            raise Refusal("UnknownProperty", f'Property "{interface}.{name}" not found')
        return (_FEATURES[name],), []

    def get_all_properties(self, _: Peer, interface: str) -> Answer:
        """Both."""
        if interface not in _INTERFACES:
            raise Refusal("UnknownInterface", f'Interface "{interface}" not found')
        return (_FEATURES if interface == BUS_NAME else {},), []

    def set_property(self, _: Peer, interface: str, name: str, value: Variant) -> Answer:
        """Never."""
        raise Refusal("PropertyReadOnly", f"Property '{interface}.{name}' cannot be set")


METHODS: dict[str, Method] = {
    "Hello": Method(BUS_NAME, "", "s", BusDriver.hello),
    "RequestName": Method(BUS_NAME, "su", "u", BusDriver.request_name),
    "ReleaseName": Method(BUS_NAME, "s", "u", BusDriver.release_name),
    "GetNameOwner": Method(BUS_NAME, "s", "s", BusDriver.get_name_owner),
    "NameHasOwner": Method(BUS_NAME, "s", "b", BusDriver.name_has_owner),
    "ListNames": Method(BUS_NAME, "", "as", BusDriver.list_names),
    "ListActivatableNames": Method(BUS_NAME, "", "as", BusDriver.list_activatable_names),
    "ListQueuedOwners": Method(BUS_NAME, "s", "as", BusDriver.list_queued_owners),
    "StartServiceByName": Method(BUS_NAME, "su", "u", BusDriver.start_service_by_name),
    "AddMatch": Method(BUS_NAME, "s", "", BusDriver.add_match),
    "RemoveMatch": Method(BUS_NAME, "s", "", BusDriver.remove_match),
    "GetConnectionUnixUser": Method(BUS_NAME, "s", "u", BusDriver.get_unix_user),
    "GetConnectionUnixProcessID": Method(BUS_NAME, "s", "u", BusDriver.get_unix_process_id),
    "GetConnectionCredentials": Method(BUS_NAME, "s", "a{sv}", BusDriver.get_credentials),
    "GetId": Method(BUS_NAME, "", "s", BusDriver.get_id),
    "ReloadConfig": Method(BUS_NAME, "", "", BusDriver.nothing),
    "UpdateActivationEnvironment": Method(BUS_NAME, "a{ss}", "", BusDriver.nothing),
    "Introspect": Method(INTROSPECTABLE, "", "s", BusDriver.introspect),
    "Ping": Method(PEER, "", "", BusDriver.nothing),
    "GetMachineId": Method(PEER, "", "s", BusDriver.get_machine_id),
    "Get": Method(PROPERTIES, "ss", "v", BusDriver.get_property),
    "GetAll": Method(PROPERTIES, "s", "a{sv}", BusDriver.get_all_properties),
    "Set": Method(PROPERTIES, "ssv", "", BusDriver.set_property),
}
_INTERFACES = ("", BUS_NAME, INTROSPECTABLE, PEER, PROPERTIES)


def _addressed(message: Message, destination: str) -> Message:
    return replace(message, destination=destination)


def _introspection() -> str:
    """One interface after the other, its methods in the table's order."""
    lines = ["<node>"]
    for interface in _INTERFACES[1:]:
        lines.append(f'  <interface name="{interface}">')
        for member, method in METHODS.items():
            if method.interface == interface:
                lines.append(f'    <method name="{member}">')
                for direction, signature in (("in", method.signature), ("out", method.returns)):
                    lines += [
                        f'      <arg direction="{direction}" type="{one}"/>' for one in split_signature(signature)
                    ]
                lines.append("    </method>")
        if interface == BUS_NAME:
            lines += ['    <signal name="NameOwnerChanged">', *['      <arg type="s"/>'] * 3, "    </signal>"]
            for member in ("NameAcquired", "NameLost"):
                lines += [f'    <signal name="{member}">', '      <arg type="s"/>', "    </signal>"]
        lines.append("  </interface>")
    return "\n".join([*lines, "</node>", ""])
