"""Our own line to a real systemd, over its bus and beside the relay: calls whose answers one may await, and every signal in order.

It is subscribed, so that systemd says everything (src/core/dbus.c, bus_foreach_bus: what nobody subscribed to is not sent). A
driver hears no more by that than on any machine with a session manager. The rule has neither type nor interface, because a
dbus-daemon writes to whoever has such a rule first (bus/signals.c, bus_matchmaker_get_recipients): what a driver can read we can.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Callable, Sequence
from typing import Any, Final

from cgrace.harness.dbus import systemd1
from cgrace.harness.dbus.client_stream import ClientStream
from cgrace.harness.dbus.codec import encode
from cgrace.harness.dbus.message import Message, MessageType
from cgrace.harness.errors import ProtocolError, TargetError
from cgrace.harness.relay.wire import Wire

ANSWER_S_MAX: Final = 25.0
_SYSTEMD: Final = f"sender='{systemd1.NAME}'"
_OWNER: Final = f"sender='{systemd1.BUS_NAME}',member='NameOwnerChanged',arg0='{systemd1.NAME}'"
_NO_OWNER: Final = "org.freedesktop.DBus.Error.NameHasNoOwner"


class Refused(TargetError):
    """A call was answered with an error. name: the error's; text: its own words."""

    def __init__(self, member: str, name: str, text: str) -> None:
        super().__init__(f"systemd refuses {member}: {name}: {text}")
        self.name = name
        self.text = text


class Control:
    """path: the bus's socket. on_signal: gets each signal. on_closed: the bus hung up; gets why. bug: gets what a callback raised.

    unique_name: systemd's on the bus. bus_pid: the bus's process, as the bus itself sees it. Both from `open` on.
    """

    def __init__(
        self,
        path: str,
        *,
        on_signal: Callable[[Message], None],
        on_closed: Callable[[str], None],
        bug: Callable[[Exception], None],
    ) -> None:
        self.path = path
        self.unique_name = ""
        self.bus_pid = 0
        self._on_signal, self._on_closed, self._bug = on_signal, on_closed, bug
        self._wire: Wire | None = None
        self._stream = ClientStream(os.geteuid())
        self._serial = 0
        self._calls: dict[int, tuple[str, asyncio.Future[Message]]] = {}
        self._owned = asyncio.Event()

    # ---- coming and going

    async def open(self) -> None:
        """Connect and subscribe, once systemd is on the bus: a new one it joins a moment later. TargetError where it is not."""
        self._connect()
        self._owned.clear()
        hello = self.call("Hello", to=systemd1.TO_BUS)
        rules = [self.call("AddMatch", "s", rule, to=systemd1.TO_BUS) for rule in (_SYSTEMD, _OWNER)]
        owner = self.call("GetNameOwner", "s", systemd1.NAME, to=systemd1.TO_BUS)
        pid = self.call("GetConnectionUnixProcessID", "s", systemd1.BUS_NAME, to=systemd1.TO_BUS)
        for answer in (hello, *rules):
            await self._answer(answer)
        self.bus_pid = int((await self._answer(pid))[0])
        try:
            self.unique_name = str((await self._answer(owner))[0])
        except Refused as refused:
            if refused.name != _NO_OWNER:
                raise
            await self._until_owned()
        await self.ask("Subscribe")

    async def _until_owned(self) -> None:
        try:
            async with asyncio.timeout(ANSWER_S_MAX):
                await self._owned.wait()
        except TimeoutError:
            raise TargetError(f"systemd is not on its bus, and did not come within {ANSWER_S_MAX:.0f} s") from None

    def _connect(self) -> None:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        try:
            sock.connect(self.path)
        except OSError as error:
            sock.close()
            raise TargetError(f"the bus at {self.path} cannot be reached: {error.strerror or error}") from None
        self._stream = ClientStream(os.geteuid())
        self._wire = Wire(sock, on_data=self._data, on_closed=self._closed, on_drained=_nothing, bug=self._bug)
        self._wire.write(self._stream.start())
        self._wire.start()

    def close(self) -> None:
        """Hang up; calls that have no answer never get one."""
        if self._wire is not None:
            self._wire.close()
        self._forget("the line was closed")

    @property
    def connected(self) -> bool:
        """Whether there is a line at all."""
        return self._wire is not None and not self._wire.closed

    @property
    def busy(self) -> bool:
        """Whether a call has no answer yet, or something lies unread in either direction."""
        return bool(self._calls) or self._carries()

    def _carries(self) -> bool:
        if self._wire is None or self._wire.closed:
            return False
        return self._wire.unsent > 0 or self._stream.pending > 0 or self._wire.kernel_queues() != (0, 0)

    def read_now(self) -> None:
        """Take what has come by now, before the loop would: it came before whatever is about to be looked at."""
        if self._wire is not None:
            self._wire.read_now()

    # ---- calls

    def call(
        self,
        member: str,
        signature: str = "",
        *body: Any,
        to: tuple[str, str, str] = systemd1.TO_MANAGER,
    ) -> asyncio.Future[Message]:
        """Ask (to: destination, object, interface). The future gets the answer, or Refused, or TargetError when the line ends
        first; nobody need await it."""
        self._serial += 1
        answer: asyncio.Future[Message] = asyncio.get_running_loop().create_future()
        answer.add_done_callback(_look_at)
        if not self.connected:
            answer.set_exception(TargetError(f"no line to systemd for {member}"))
            return answer
        self._calls[self._serial] = (member, answer)
        assert self._wire is not None
        message = systemd1.call_to(to, member, signature, body, serial=self._serial)
        self._wire.write(self._stream.say(encode(message)))
        return answer

    async def ask(
        self,
        member: str,
        signature: str = "",
        *body: Any,
        to: tuple[str, str, str] = systemd1.TO_MANAGER,
    ) -> tuple[Any, ...]:
        """The same, awaited: the body of the answer. TargetError where none comes within ANSWER_S_MAX."""
        return await self._answer(self.call(member, signature, *body, to=to))

    async def get(self, path: str, interface: str, name: str) -> Any:
        """A property of an object of systemd's."""
        (value,) = await self.ask("Get", "ss", interface, name, to=(systemd1.NAME, path, systemd1.PROPERTIES))
        return value.value

    @staticmethod
    async def _answer(answer: asyncio.Future[Message]) -> tuple[Any, ...]:
        try:
            async with asyncio.timeout(ANSWER_S_MAX):
                return (await answer).body
        except TimeoutError:
            raise TargetError(f"systemd does not answer within {ANSWER_S_MAX:.0f} s") from None

    # ---- inside

    def _data(self, data: bytes, _: Sequence[int]) -> None:
        assert self._wire is not None
        try:
            answer, frames = self._stream.feed(data)
            self._wire.write(answer)
            for frame in frames:
                self._take(frame.message)
        except ProtocolError as error:
            self.close()
            self._on_closed(f"the bus broke the protocol: {error.message}")

    def _take(self, message: Message) -> None:
        if message.type is MessageType.SIGNAL:
            if message.member == "NameOwnerChanged":
                self.unique_name = str(message.body[2])
                if self.unique_name:
                    self._owned.set()
            self._on_signal(message)
            return
        member, answer = self._calls.pop(message.reply_serial, ("", None))
        if answer is None or answer.done():
            return
        if message.type is MessageType.ERROR:
            text = str(message.body[0]) if message.body else ""
            answer.set_exception(Refused(member, message.error_name, text))
        else:
            answer.set_result(message)

    def _closed(self, why: str) -> None:
        self._forget("the bus hung up")
        self._on_closed(why or "the bus hung up")

    def _forget(self, why: str) -> None:
        calls, self._calls = self._calls, {}
        for member, answer in calls.values():
            if not answer.done():
                answer.set_exception(TargetError(f"no answer to {member}: {why}"))


def _look_at(answer: asyncio.Future[Message]) -> None:
    """Nobody need await an answer: an error in it is then none."""
    if not answer.cancelled():
        answer.exception()


def _nothing() -> None:
    """Nobody waits for room."""
