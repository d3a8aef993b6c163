"""Where the fake systemd sits: on the embedded bus, or on a real one of the run's own. The engine knows no difference.

On a real bus everything that was true of the embedded one has to be made true: no rest, proof or patience is concluded while
a message is inside the bus's process or a socket of it (`busy`), and steps and ends wait until all has arrived (`arrives`).
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Protocol

from cgrace.harness.dbus.bus import EmbeddedBus, Service
from cgrace.harness.dbus.message import Message
from cgrace.harness.dbus.systemd1 import NAME
from cgrace.harness.errors import TargetError
from cgrace.harness.relay.base import Backend
from cgrace.harness.relay.embedded import Embedded
from cgrace.harness.relay.seat import POLL_S, Seat
from cgrace.harness.relay.upstream import Upstream
from cgrace.harness.targets.base import Sandbox
from cgrace.harness.targets.buses import RunningBus, bus_socket, run_bus
from cgrace.harness.witnesses.waits import ProcessGone, at_rest

SEATED_S_MAX = 20.0


class SystemdSeat(Protocol):
    """backend: for the relay. unique_name: the sender of what systemd says. poll_s: how long to wait between two looks at
    `busy` (0: one turn of the loop). arrives: whether messages take time, so that one may wait for them."""

    backend: Backend
    poll_s: float
    arrives: bool

    @property
    def unique_name(self) -> str: ...
    @property
    def busy(self) -> bool:
        """Whether a message is on its way somewhere between the relay and systemd."""
        ...

    def open(self) -> AbstractAsyncContextManager[None]:
        """The bus, with systemd on it, for as long as the run lasts. TargetError where it cannot be had."""
        ...

    def emit(self, messages: Iterable[Message]) -> None:
        """Systemd says something by itself."""
        ...

    def pause(self) -> None:
        """Systemd reads nothing more."""
        ...

    def resume(self) -> None:
        """It goes on."""
        ...

    def leave(self) -> None:
        """Its connection ends."""
        ...

    def join(self) -> None:
        """It connects again, under another unique name."""
        ...

    def processes(self) -> dict[int, str]:
        """The bus's process: its outer pid and name; {} where it is none of its own."""
        ...

    def unaccounted(self) -> tuple[str, ...]:
        """What in the bus could still bring something about by itself: () when it is idle."""
        ...


class EmbeddedSeat:
    """On the embedded bus: no process, no time."""

    poll_s = 0.0
    arrives = False

    def __init__(self, service: Service, after: Callable[[], None]) -> None:
        self._service = service
        self._bus = EmbeddedBus({NAME: service})
        self._embedded = Embedded(self._bus, after=after)
        self.backend: Backend = self._embedded

    def hears(self, interface: str, member: str) -> bool:
        """Whether anybody on the bus may hear such a signal of systemd."""
        return self._bus.hears(NAME, interface, member)

    @property
    def unique_name(self) -> str:
        """The owner of systemd's name."""
        return self._bus.owner(NAME)

    @property
    def busy(self) -> bool:
        """Whether something waits for a turn of the loop."""
        return self._embedded.busy

    @contextlib.asynccontextmanager
    async def open(self) -> AsyncIterator[None]:
        """It is there."""
        yield

    def emit(self, messages: Iterable[Message]) -> None:
        """Out by the bus."""
        self._embedded.emit(NAME, messages)

    def pause(self) -> None:
        """Keep what drivers say."""
        self._embedded.pause()

    def resume(self) -> None:
        """Hand out what was kept."""
        self._embedded.resume()

    def leave(self) -> None:
        """Calls in flight fail."""
        self._embedded.queue(self._bus.service_gone(NAME))

    def join(self) -> None:
        """A new unique name."""
        self._embedded.queue(self._bus.service_back(NAME, self._service))

    def processes(self) -> dict[int, str]:
        """None but us."""
        return {}

    def unaccounted(self) -> tuple[str, ...]:
        """Nothing acts here but us."""
        return ()


class RealSeat:
    """On a bus of the given kind, started in the run's sandbox. stem: see `run_bus`. lost: the bus failed us; gets why."""

    poll_s = POLL_S
    arrives = True

    def __init__(
        self,
        kind: str,
        sandbox: Sandbox,
        stem: Path,
        service: Service,
        *,
        after: Callable[[], None],
        lost: Callable[[str], None],
    ) -> None:
        self._kind = kind
        self._sandbox = sandbox
        self._stem = stem
        self._lost = lost
        self._bus: RunningBus | None = None
        self._fails = asyncio.Event()
        self._why = ""
        path = str(bus_socket(stem))
        self._upstream = Upstream(path)
        self.backend: Backend = self._upstream
        owns = self._upstream.let_go
        self._seat = Seat(
            path, NAME, service, after=after, owns=owns, under_way=self._under_way, lost=self._failed, bug=self._bug
        )

    @property
    def unique_name(self) -> str:
        """What the bus called it."""
        return self._seat.unique_name

    @property
    def busy(self) -> bool:
        """Whether something is in a socket, in the bus, or waits its turn to be said."""
        return self._seat.busy

    @contextlib.asynccontextmanager
    async def open(self) -> AsyncIterator[None]:
        """Start the bus and take the name."""
        async with run_bus(self._kind, self._sandbox, self._stem, self._failed) as bus:
            self._bus = bus
            self._seat.join()
            try:
                await self._take_seat()
                yield
            finally:
                self._seat.close()

    async def _take_seat(self) -> None:
        """Wait for the name; a bus that fails meanwhile is told at once."""
        seated = asyncio.ensure_future(self._seat.seated())
        failed = asyncio.ensure_future(self._fails.wait())
        try:
            await asyncio.wait({seated, failed}, timeout=SEATED_S_MAX, return_when=asyncio.FIRST_COMPLETED)
            if not seated.done():
                why = self._why or f"nothing within {SEATED_S_MAX:.0f} s"
                raise TargetError(f"the bus '{self._kind}' does not let systemd in: {why}")
        finally:
            seated.cancel()
            failed.cancel()

    def emit(self, messages: Iterable[Message]) -> None:
        """One thing at a time (see Seat)."""
        self._seat.emit(messages)

    def pause(self) -> None:
        """Keep what drivers say."""
        self._seat.pause()

    def resume(self) -> None:
        """Take what was kept."""
        self._seat.resume()

    def leave(self) -> None:
        """The bus tells everybody."""
        self._seat.leave()

    def join(self) -> None:
        """Takes a moment, in which the name has no owner; what drivers say meanwhile waits with us."""
        self._upstream.keep()
        self._seat.join()

    def processes(self) -> dict[int, str]:
        """The bus."""
        return {self._bus.pid_outer: self._kind} if self._bus is not None else {}

    def unaccounted(self) -> tuple[str, ...]:
        """The bus's process is a peer of the driver's: only while it sleeps without a limit nothing comes from there."""
        if self._bus is None or self._under_way():
            return (f"{self._kind}, which is not idle",)
        try:
            rest = at_rest(self._bus.pid_outer)
        except ProcessGone:
            return (f"{self._kind}, which has ended",)
        if rest is None or rest.bound_ns is not None:
            return (f"{self._kind}, which does not wait for us alone",)
        return ()

    def _under_way(self) -> bool:
        """What went in, then the bus itself, then what comes out: a message that moves on meanwhile is seen behind."""
        if self._bus is None or self._upstream.queues()[1]:
            return True
        try:
            rest = at_rest(self._bus.pid_outer)
        except ProcessGone:
            return False  # `lost` tells of it
        if rest is None or rest.unjudged:  # awake; or stopped, with who knows what inside
            return True
        return self._upstream.queues()[0] > 0

    def _failed(self, why: str) -> None:
        self._why = self._why or why
        self._fails.set()
        self._lost(why)

    def _bug(self, error: Exception) -> None:
        if self._upstream.bug is None:
            raise error
        self._upstream.bug(error)
