"""A service's place on a real bus: one connection of ours that owns a name there, in the event loop that decides everything.

The embedded bus hands messages out one after the other. A real one is a process of its own and promises order only within a
connection, so the seat lets it take one thing at a time: what goes to another connection than the message before is said
once that has arrived; then comes the service's own work (`after`); only then the next call. Thus the same input gives the same
order here as there. Nothing tells when a bus has come to rest, hence the polls: they observe and order nothing.
"""

from __future__ import annotations

import asyncio
import dataclasses
import os
import socket
from collections import deque
from collections.abc import Callable, Iterable, Sequence

from cgrace.harness.dbus import systemd1
from cgrace.harness.dbus.bus import Service
from cgrace.harness.dbus.client_stream import ClientStream
from cgrace.harness.dbus.frames import Frame
from cgrace.harness.dbus.message import Message, MessageType
from cgrace.harness.errors import ProtocolError
from cgrace.harness.relay.wire import Wire

POLL_S = 0.0003
POLL_S_MAX = 0.004  # where many runs share few cores, looking must not take what the buses need
PACE_S_MAX = 0.25  # a bus that others keep busy is not waited for any longer than that, for one message
_HELLO, _ADD_MATCH, _REQUEST_NAME = 1, 2, 3
_RULE = f"type='signal',sender='{systemd1.BUS_NAME}',interface='{systemd1.BUS_NAME}',member='NameOwnerChanged',arg2=''"


class Seat:
    """path: the bus's socket. name: what it owns there. service: gets calls, and is told who left the bus.

    after: called each time that the service was told something, when its answers have arrived: it may then run what it put
    off, and give what that says to `emit`. owns: called when it owns the name, after each `join`. under_way: whether the bus,
    or a connection to it, still carries something; the seat's own connection apart. lost: the bus hung up, or does not let
    us in; gets why. bug: gets what a callback raised.
    """

    def __init__(
        self,
        path: str,
        name: str,
        service: Service,
        *,
        after: Callable[[], None],
        owns: Callable[[], None],
        under_way: Callable[[], bool],
        lost: Callable[[str], None],
        bug: Callable[[Exception], None],
    ) -> None:
        self.unique_name = ""
        self._path, self._name, self._service = path, name, service
        self._after, self._owns, self._under_way, self._lost, self._bug = after, owns, under_way, lost, bug
        self._wire: Wire | None = None
        self._stream = ClientStream(os.geteuid())
        self._serial = 0
        self._inbox: deque[Message] = deque()
        self._outbox: deque[Message] = deque()
        self._last: str | None = None  # whom the message before went to, "" for a broadcast
        self._told = False
        self._paused = False
        self._seated = asyncio.Event()
        self._timer: asyncio.TimerHandle | None = None
        self._waits_since = 0.0

    # ---- coming and going

    def join(self) -> None:
        """Connect and ask for the name; `seated` tells when we own it."""
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        try:
            sock.connect(self._path)
        except OSError as error:
            sock.close()
            self._lost(f"the bus cannot be reached: {error.strerror or error}")
            return
        self._seated.clear()
        self._stream = ClientStream(os.geteuid())
        self._serial = 0
        self._wire = Wire(sock, on_data=self._data, on_closed=self._closed, on_drained=_nothing, bug=self._bug)
        self._wire.write(self._stream.start())
        self._ask("Hello", "")
        self._ask("AddMatch", "s", _RULE)
        self._ask("RequestName", "su", self._name, 0)
        self._wire.start()

    async def seated(self) -> None:
        """Wait until we own the name."""
        await self._seated.wait()

    def leave(self) -> None:
        """Hang up, after what was said before. Calls in flight fail, the name has no owner."""
        while self._outbox:
            self._say(self._outbox.popleft())
        if self._wire is not None:
            self._wire.finish()
        self._wire = None
        self._stop()

    def close(self) -> None:
        """Hang up at once."""
        if self._wire is not None:
            self._wire.close()
        self._wire = None
        self._stop()

    # ---- what the service says

    def emit(self, messages: Iterable[Message]) -> None:
        """Say these, in order."""
        if self._wire is not None:
            self._outbox.extend(messages)
            self._pump_soon(0)

    def pause(self) -> None:
        """The service stops: what it is told waits, what it has said still goes out."""
        self._paused = True

    def resume(self) -> None:
        """It goes on, with what waited."""
        self._paused = False
        self._pump_soon(0)

    @property
    def busy(self) -> bool:
        """Whether anything is on its way: in us, between us and the bus, or in the bus."""
        if self._wire is None:
            return self._under_way()
        return not self._seated.is_set() or self._has_work or self._carries()

    @property
    def _has_work(self) -> bool:
        return bool(self._outbox) or (not self._paused and (self._told or bool(self._inbox)))

    def _carries(self) -> bool:
        """What went out first, then the bus, then what comes back: nothing slips through between the looks."""
        assert self._wire is not None
        return (
            self._wire.unsent > 0
            or self._wire.kernel_queues()[1] > 0
            or self._under_way()
            or self._wire.kernel_queues()[0] > 0
            or self._stream.pending > 0
        )

    # ---- saying one thing at a time

    def _pump_soon(self, seconds: float) -> None:
        if self._timer is None and self._wire is not None:
            loop = asyncio.get_running_loop()
            self._waits_since = self._waits_since or loop.time()
            self._timer = loop.call_later(seconds, self._pump)

    def _pump(self) -> None:
        self._timer = None
        try:
            self._go_on()
        except Exception as error:
            self._bug(error)

    def _go_on(self) -> None:
        """Say what may be said now; once all has arrived let the service do what it put off."""
        if not self._seated.is_set():
            self._pump_soon(POLL_S)
            return
        while self._outbox and self._outbox[0].destination == self._last:
            self._say(self._outbox.popleft())
        if self._wire is None or not self._has_work:
            self._waits_since = 0.0
            return
        waited_s = asyncio.get_running_loop().time() - self._waits_since
        if waited_s < PACE_S_MAX and self._carries():
            self._pump_soon(min(max(waited_s, POLL_S), POLL_S_MAX))
            return
        self._waits_since, self._last = 0.0, None
        self._one_thing()
        self._pump_soon(0)

    def _one_thing(self) -> None:
        """Nothing is under way: what has to be said, else the service's own work, else the next thing that it is told."""
        if self._outbox:
            self._last = self._outbox[0].destination
        elif self._told:
            self._told = False
            self._after()
        else:
            message = self._inbox.popleft()
            self._told = True
            if message.type is MessageType.CALL:
                self.emit(self._service.call(message.sender, message))
            else:
                self.emit(self._service.peer_gone(message.body[0]))

    def _say(self, message: Message) -> None:
        if self._wire is not None:
            self._serial += 1
            self._wire.write(self._stream.say(Frame.of(dataclasses.replace(message, serial=self._serial)).raw))

    def _stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._inbox.clear()
        self._outbox.clear()
        self._told = False
        self._last = None
        self._waits_since = 0.0

    # ---- what we are told

    def _data(self, data: bytes, _: Sequence[int]) -> None:
        assert self._wire is not None
        try:
            answer, frames = self._stream.feed(data)
            self._wire.write(answer)
            for frame in frames:
                self._take(frame.message)
        except ProtocolError as error:
            self.close()
            self._lost(f"the bus broke the protocol: {error.message}")

    def _ask(self, member: str, signature: str, *body: object) -> None:
        """A call to the bus itself."""
        self._say(systemd1.call_to(systemd1.TO_BUS, member, signature, body))

    def _closed(self, why: str) -> None:
        self.close()
        self._lost(why or "the bus closed the connection")

    def _take(self, message: Message) -> None:
        """Calls and departures wait their turn; what else the bus says is for us."""
        if message.sender == systemd1.BUS_NAME or message.reply_serial:
            self._from_bus(message)
        elif message.type is MessageType.CALL:
            self._inbox.append(message)
            self._pump_soon(0)

    def _from_bus(self, message: Message) -> None:
        match message:
            case Message(type=MessageType.ERROR) if not self._seated.is_set():
                self.close()
                self._lost(f"the bus does not let us in: {message.error_name}: {message.body}")
            case Message(type=MessageType.REPLY, reply_serial=serial) if serial == _HELLO:
                self.unique_name = str(message.body[0])
            case Message(type=MessageType.SIGNAL, member="NameAcquired", body=(self._name,)):
                self._seated.set()
                self._owns()
            case Message(type=MessageType.SIGNAL, member="NameOwnerChanged", body=(str(name), _, "")):
                if name.startswith(":"):
                    self._inbox.append(message)
                    self._pump_soon(0)


def _nothing() -> None:
    """Nobody waits for room."""
