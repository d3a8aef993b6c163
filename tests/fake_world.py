"""What the tests of the fake systemd share: a manager on a tree in memory, and calls in short."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cgrace.fakes.systemd.manager import Manager
from cgrace.fakes.systemd.profile import load_profile
from cgrace.fakes.systemd.tree import CgroupTree, MemoryTree
from cgrace.harness import events as ev
from cgrace.harness.dbus.message import Message, MessageType, Variant
from cgrace.harness.targets.base import Hierarchy

V1 = ("cpu", "cpuacct", "cpuset", "memory", "devices", "freezer", "blkio", "pids", "systemd")
ME = ":1.7"
PATH = "/org/freedesktop/systemd1"
INFINITY = 2**64 - 1


def v1_hierarchies(names: Iterable[str] = V1) -> tuple[Hierarchy, ...]:
    """v1 hierarchies by mount name."""
    return tuple(
        Hierarchy(
            name=name,
            controllers=() if name == "systemd" else tuple(name.split(",")),
            root=Path("/"),
            inner=f"/sys/fs/cgroup/{name}",
        )
        for name in names
    )


def v2_hierarchy() -> tuple[Hierarchy, ...]:
    """The unified hierarchy with what a whole machine has."""
    controllers = ("cpuset", "cpu", "io", "memory", "pids")
    return (Hierarchy(name="unified", controllers=controllers, root=Path("/"), inner="/sys/fs/cgroup"),)


@dataclass
class World:
    """A manager and what it said; `wire` has all messages in order. Pids 100 to 109 exist."""

    profile: str
    hierarchies: tuple[Hierarchy, ...] = field(default_factory=v1_hierarchies)
    agent: bool = False
    tree: Any = None
    events: list[ev.Event] = field(default_factory=list)
    killed: list[tuple[int, int]] = field(default_factory=list)
    kills_work: bool = True
    kill: Callable[[int, int], None] | None = None
    serial: int = 0
    wire: list[Message] = field(default_factory=list)

    def __post_init__(self) -> None:
        if self.tree is None:
            self.tree = MemoryTree(self.hierarchies, range(100, 110))
        tree: CgroupTree = self.tree
        self.manager = Manager(
            load_profile(self.profile),
            tree,
            on_event=self.events.append,
            kill=self.kill or self._kill,
            agent=self.agent,
        )

    def _kill(self, pid: int, number: int) -> None:
        self.killed.append((pid, number))
        if self.kills_work and number in (9, 15):
            self.tree.exit(pid)

    def send(self, member: str, signature: str, *body: Any, sender: str = ME, **fields: Any) -> list[Message]:
        """Call without turns."""
        self.serial += 1
        values: dict[str, Any] = {"path": PATH, "interface": "org.freedesktop.systemd1.Manager"} | fields
        message = Message(
            type=MessageType.CALL, serial=self.serial, member=member, signature=signature, body=body, **values
        )
        messages = self.manager.call(sender, message)
        self.wire += messages
        return messages

    def settle(self) -> list[Message]:
        """All turns, and a look at what ran empty."""
        messages: list[Message] = []
        for _ in range(1000):
            messages += self.manager.poll_empty()
            if not self.manager.pending():
                self.wire += messages
                return messages
            messages += self.manager.turn()
        raise AssertionError("the manager never comes to rest")

    def do(self, member: str, signature: str, *body: Any, **fields: Any) -> list[Message]:
        """Call and take all turns."""
        return self.send(member, signature, *body, **fields) + self.settle()

    def start(self, unit: str, mode: str = "replace", /, **settings: Any) -> list[Message]:
        """StartTransientUnit without turns."""
        return self.send("StartTransientUnit", "ssa(sv)a(sa(sv))", unit, mode, properties(**settings), [])

    def stop(self, unit: str, mode: str = "replace") -> list[Message]:
        """StopUnit without turns."""
        return self.send("StopUnit", "ss", unit, mode)

    def get(self, unit: str, interface: str, name: str) -> Any:
        """A unit's property."""
        from cgrace.harness.dbus.systemd1 import unit_path

        full = f"org.freedesktop.systemd1.{interface}"
        fields = {"path": unit_path(unit), "interface": "org.freedesktop.DBus.Properties"}
        answer = self.send("Get", "ss", full, name, **fields)[-1]
        return answer.body[0].value if answer.type is MessageType.REPLY else answer.error_name

    def make_everywhere(self, path: str, pid: int | None = None) -> None:
        """What a v1 driver does: mkdir in every hierarchy, and its process into each."""
        for each in self.hierarchies:
            self.tree.mkdir(each.name, path)
            if pid is not None:
                self.tree.attach(each.name, path, pid)

    def where(self, path: str) -> set[str]:
        """The hierarchies that have the path."""
        return {each.name for each in self.hierarchies if self.tree.exists(each.name, path)}

    def log(self) -> list[str]:
        """What systemd's log says."""
        return [event.text for event in self.events if isinstance(event, ev.SystemdSaid)]


_SIGNATURES = {
    "Delegate": "b",
    "DelegateControllers": "as",
    "DefaultDependencies": "b",
    "PIDs": "au",
    "Slice": "s",
    "Wants": "as",
    "Requires": "as",
    "After": "as",
    "Description": "s",
    "DevicePolicy": "s",
    "DeviceAllow": "a(ss)",
    "CollectMode": "s",
    "AddRef": "b",
}


def properties(**settings: Any) -> list[list[Any]]:
    """a(sv) by keyword: Accounting is b, a number t, the rest by table; a Variant stands for itself."""
    rows = []
    for name, value in settings.items():
        if isinstance(value, Variant):
            variant = value
        else:
            signature = _SIGNATURES.get(name, "b" if isinstance(value, bool) else "t")
            variant = Variant(signature=signature, value=value)
        rows.append([name, variant])
    return rows


ACCOUNTING = {"MemoryAccounting": True, "CPUAccounting": True, "BlockIOAccounting": True, "DefaultDependencies": False}


def error(messages: list[Message]) -> tuple[str, str]:
    """The error's short name and text in an answer, ("", "") for a reply."""
    answer = messages[-1]
    if answer.type is not MessageType.ERROR:
        return "", ""
    name = answer.error_name.replace("org.freedesktop.DBus.Error.", "D:").replace("org.freedesktop.systemd1.", "S:")
    return name, answer.body[0]


def said(messages: list[Message]) -> list[str]:
    """The order on the wire: "reply", "error", or a signal's member with its unit and result."""
    words = []
    for each in messages:
        if each.type is MessageType.SIGNAL:
            tail = {"JobNew": each.body[2:3], "JobRemoved": each.body[2:4]}.get(each.member, each.body[:1])
            words.append(" ".join([each.member, *(str(part) for part in tail)]))
        else:
            words.append(each.type.name.lower())
    return words
