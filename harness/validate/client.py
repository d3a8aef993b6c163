"""A client of a message bus that keeps everything that it was told, in order: answers and signals, errors as values.

What carries the bytes is the machine's: a socket of a real bus, or the embedded bus of the fake (machine.py).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Final

from cgrace.harness.dbus import systemd1
from cgrace.harness.dbus.message import Message, MessageType
from cgrace.harness.errors import TargetError

CALL_S_MAX: Final = 15.0
_EVERYTHING: Final = f"type='signal',sender='{systemd1.NAME}'"


class Client:
    """One connection. Made by `Machine.connect`, which says Hello. slowness: see there; time-outs are so much longer.

    inbox: every message that arrived, in order, the bus's own answers too. serial: the last one that was used.
    """

    def __init__(self, send: Callable[[Message], None], *, slowness: float = 1.0) -> None:
        self._send = send
        self._slowness = slowness
        self._waiting: dict[int, asyncio.Future[Message]] = {}
        self._news = asyncio.Event()
        self.inbox: list[Message] = []
        self.serial = 0
        self.unique_name = ""
        self.failure: TargetError | None = None

    # ---- the carrier's side

    def received(self, message: Message) -> None:
        """A message arrived."""
        self.inbox.append(message)
        if message.type in (MessageType.REPLY, MessageType.ERROR):
            waiter = self._waiting.pop(message.reply_serial, None)
            if waiter is not None and not waiter.done():
                waiter.set_result(message)
        self._wake()

    def lost(self, why: str) -> None:
        """The connection ended: whoever waits hears it."""
        self.failure = TargetError(why)
        for waiter in self._waiting.values():
            if not waiter.done():
                waiter.set_exception(self.failure)
                waiter.exception()  # seen: nobody may be left to await it
        self._waiting.clear()
        self._wake()

    def _wake(self) -> None:
        self._news.set()
        self._news = asyncio.Event()

    # ---- the caller's side

    def post(
        self,
        member: str,
        signature: str = "",
        *body: Any,
        destination: str = systemd1.NAME,
        path: str = systemd1.PATH,
        interface: str = systemd1.MANAGER,
    ) -> asyncio.Future[Message]:
        """Send a call, by default of the Manager. Several in a row, without awaiting, are on the wire one behind the other."""
        if self.failure is not None:
            raise self.failure
        self.serial += 1
        message = systemd1.call_to((destination, path, interface), member, signature, body, serial=self.serial)
        answer: asyncio.Future[Message] = asyncio.get_running_loop().create_future()
        self._waiting[self.serial] = answer
        self._send(message)
        return answer

    async def call(self, member: str, signature: str = "", *body: Any, **where: str) -> Message:
        """Call and wait for the answer, a reply or an error. TimeoutError when none comes, TargetError when the bus is lost."""
        async with asyncio.timeout(CALL_S_MAX * self._slowness):
            return await self.post(member, signature, *body, **where)

    async def get(self, path: str, interface: str, name: str) -> Message:
        """Properties.Get of an object of systemd: the answer as it is."""
        return await self.call("Get", "ss", interface, name, path=path, interface=systemd1.PROPERTIES)

    async def match(self, rule: str = _EVERYTHING) -> None:
        """AddMatch; by default of every signal of systemd's."""
        await self.call_bus("AddMatch", "s", rule)

    async def call_bus(self, member: str, signature: str = "", *body: Any) -> Message:
        """Call the bus itself."""
        return await self.call(
            member,
            signature,
            *body,
            destination=systemd1.BUS_NAME,
            path=systemd1.BUS_PATH,
            interface=systemd1.BUS_NAME,
        )

    async def until(
        self, wanted: Callable[[Message], bool], since: int = 0, seconds_max: float = CALL_S_MAX
    ) -> Message:
        """The first message of the inbox from index `since` on that is wanted, waited for; TimeoutError when it does not come."""
        async with asyncio.timeout(seconds_max * self._slowness):
            position = since
            while True:
                while position < len(self.inbox):
                    if wanted(self.inbox[position]):
                        return self.inbox[position]
                    position += 1
                if self.failure is not None:
                    raise self.failure
                await self._news.wait()
