"""A stage for conversations on a bus: clients behind the relay, a service on its seat, and a transcript of what they got.

What differs by nature is renamed or left out: unique names (by who has them), serials, the bus's id.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import shutil
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from relay_kit import AUTH, BUS, WAIT_S, Client, Recording, until

from cgrace.harness.dbus import systemd1
from cgrace.harness.dbus.codec import encode
from cgrace.harness.dbus.message import Message, MessageFlag, MessageType
from cgrace.harness.engine.seats import EmbeddedSeat, RealSeat, SystemdSeat
from cgrace.harness.relay import Relay
from cgrace.harness.targets.base import Spawned
from cgrace.harness.targets.buses import EMBEDDED

PEER = "org.freedesktop.DBus.Peer"
_UNIQUE = re.compile(r":\d+\.\d+")


class HostSandbox:
    """No sandbox: children of this process, for as long as the block lasts. Enough of `targets.base.Sandbox` for a bus."""

    layout = "v1"
    hierarchies = ()
    cgroup_prefix = ""

    def __init__(self) -> None:
        self._processes: dict[int, asyncio.subprocess.Process] = {}

    async def spawn(
        self,
        name: str,
        argv: Sequence[str],
        *,
        env: Mapping[str, str],
        stdin: int,
        stdout: int,
        stderr: int,
        role: str,
        on_exit: Callable[[int], None],
        **_: Any,
    ) -> Spawned:
        process = await asyncio.create_subprocess_exec(*argv, env=env, stdin=stdin, stdout=stdout, stderr=stderr)
        self._processes[process.pid] = process
        waiting = asyncio.ensure_future(process.wait())
        waiting.add_done_callback(lambda done: None if done.cancelled() else on_exit(done.result()))
        return Spawned(name=name, pid=process.pid, pid_outer=process.pid)

    def signal(self, pid: int, number: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)

    async def end(self) -> None:
        for process in self._processes.values():
            await process.wait()

    def outer(self, pid: int) -> int | None:
        return pid

    def inner(self, pid_outer: int) -> int | None:
        return pid_outer

    def name_of(self, pid: int) -> str:
        return ""


class Speaker:
    """A service that says what the member of a call asks for."""

    def __init__(self) -> None:
        self.say: Callable[[list[Message]], None] = lambda _: None
        self.later: list[Message] = []

    def call(self, sender: str, message: Message) -> list[Message]:
        reply = systemd1.reply_to(message, message.signature, message.body)
        answer = [] if MessageFlag.NO_REPLY_EXPECTED in message.flags else [reply]
        match message.member:
            case "Echo":
                return answer
            case "EchoAndSignal":
                return [signal("Before"), *answer, signal("After")]
            case "SignalOnlyMe":
                return [signal("OnlyYou", to=sender), *answer]
            case "Later":
                self.later += answer
                return []
            case "AnswerTwice":
                return [reply, reply]
            case "Never":
                return []
        return [systemd1.error_to(message, "a.service.Error", "as it says")]

    def peer_gone(self, sender: str) -> list[Message]:
        return [signal("PeerGone", sender)]

    def after(self) -> None:
        later, self.later = self.later, []
        if later:
            self.say([signal("WorkDone"), *later])


def signal(member: str, *body: str, to: str = "") -> Message:
    """A signal of the service."""
    return Message(
        type=MessageType.SIGNAL,
        flags=MessageFlag.NO_REPLY_EXPECTED,
        path=systemd1.PATH,
        interface=systemd1.MANAGER,
        member=member,
        destination=to,
        signature="s" * len(body),
        body=body,
    )


@dataclass
class Stage:
    """One bus, its service and clients by name. said: the transcript."""

    seat: SystemdSeat
    relay: Relay
    said: list[str] = field(default_factory=list)
    clients: dict[str, Client] = field(default_factory=dict)
    names: dict[str, str] = field(default_factory=dict)
    asked: dict[tuple[str, int], str] = field(default_factory=dict)
    owed: set[str] = field(default_factory=set)  # clients without a name that have said something

    async def enter(self, name: str, *, hello: bool = True) -> None:
        """A client connects and authenticates; says Hello unless told otherwise."""
        client = await Client.connect(self.relay.socket_path, hello=False)
        await client.send(AUTH)
        read = b""
        while read.count(b"\r\n") < 2:
            read += await asyncio.get_running_loop().sock_recv(client.sock, 1)
        self.clients[name] = client
        if hello:
            await self.call(name, "Hello")

    async def leave(self, name: str) -> None:
        """It hangs up."""
        self.said.append(f"{name} leaves")
        left = len(self.relay.connections) - 1
        self.clients.pop(name).sock.close()
        await until(lambda: len(self.relay.connections) == left)
        await self.settle()

    async def call(self, name: str, member: str, signature: str = "", *body: Any, **fields: Any) -> None:
        """A call to the bus, or to whom `fields` say; then everything that it brings about."""
        known: dict[str, Any] = {"path": systemd1.BUS_PATH, "interface": BUS, "destination": BUS}
        await self.send(name, type=MessageType.CALL, member=member, signature=signature, body=body, **(known | fields))

    async def ask(self, name: str, member: str, *body: str, **fields: Any) -> None:
        """A call to the service."""
        known: dict[str, Any] = {
            "path": systemd1.PATH,
            "interface": systemd1.MANAGER,
            "destination": systemd1.NAME,
        }
        signature = "s" * len(body)
        await self.send(name, type=MessageType.CALL, member=member, signature=signature, body=body, **(known | fields))

    async def send(self, name: str, **fields: Any) -> None:
        """Any message."""
        client = self.clients[name]
        client.serial += 1
        fields = {"serial": client.serial} | fields
        what = fields.get("member") or fields.get("error_name") or "an answer"
        self.said.append(f"{name}: {what} {fields.get('body', ())}")
        self.asked[name, fields["serial"]] = str(what)
        if not self._has_name(name):
            self.owed.add(name)
        await client.send(encode(Message(**fields)))
        await self.settle()

    def unique(self, name: str) -> str:
        """The unique name of a client."""
        return next(unique for unique, known in self.names.items() if known == f"<{name}>")

    async def settle(self) -> None:
        """Wait until all has arrived, and write down what each client got."""
        self.names |= {self.seat.unique_name: "<systemd>"}
        said, self.said = self.said, []
        await self._collect_all()  # behind this, what clients said has reached the bus
        async with asyncio.timeout(WAIT_S):
            while self.seat.busy:  # noqa: ASYNC110 (what it looks at has no event to wait for)
                await asyncio.sleep(self.seat.poll_s)
        self.names |= {self.seat.unique_name: "<systemd>"}
        await self._collect_all()
        self.said = said + sorted(self.said, key=lambda line: line.split()[0])

    async def _collect_all(self) -> None:
        for name, client in list(self.clients.items()):
            await self._collect(name, client)

    async def _collect(self, name: str, client: Client) -> None:
        """Everything up to the answer to a Ping; the bus keeps the order of a connection."""
        if not self._has_name(name):
            if name in self.owed:
                self.owed.discard(name)
                self._write(name, await client.next())
            return
        client.serial += 1
        ping = client.serial
        message = Message(
            type=MessageType.CALL, serial=ping, path=systemd1.BUS_PATH, interface=PEER, member="Ping", destination=BUS
        )
        with contextlib.suppress(OSError):  # it was cut off, and its end says so
            await client.send(encode(message))
        while (got := await client.next()) is not None and got.reply_serial != ping:
            self._write(name, got)
        if got is None:
            self._write(name, None)

    def _has_name(self, name: str) -> bool:
        return "Hello" in {what for (who, _), what in self.asked.items() if who == name}

    def _write(self, name: str, got: Message | None) -> None:
        if got is None:
            self.said.append(f"  {name} is cut off")
            self.clients.pop(name).sock.close()
            return
        to = self.asked.get((name, got.reply_serial), "")
        if to == "Hello" and got.type is MessageType.REPLY:
            self.names[got.body[0]] = f"<{name}>"
        words = [got.type.name.lower(), f"to {to}" if to else "", got.member or got.error_name, str(got.body)]
        self.said.append(f"  {name} <- {got.sender}: {' '.join(word for word in words if word)}")

    def transcript(self) -> list[str]:
        """What was said, with everybody under the name by which the conversation knows them."""
        return [_UNIQUE.sub(lambda found: self.names.get(found[0], "<someone>"), line) for line in self.said]


@contextlib.asynccontextmanager
async def stage(kind: str, folder: Path) -> AsyncIterator[Stage]:
    """A stage on a bus of this kind; skips the test where that is not installed."""
    if kind != EMBEDDED and shutil.which(kind) is None:
        pytest.skip(f"{kind} is not installed")
    speaker, sandbox = Speaker(), HostSandbox()
    failed: list[str] = []
    seat: SystemdSeat
    if kind == EMBEDDED:
        seat = EmbeddedSeat(speaker, speaker.after)
    else:
        seat = RealSeat(kind, sandbox, folder / "b", speaker, after=speaker.after, lost=failed.append)
    speaker.say = seat.emit
    try:
        async with seat.open(), Relay(folder / "bus", Recording(), seat.backend) as relay:
            on_it = Stage(seat, relay)
            yield on_it
            for client in on_it.clients.values():
                client.sock.close()
            assert failed == []
    finally:
        await sandbox.end()
