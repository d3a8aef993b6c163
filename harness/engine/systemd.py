"""What the engine asks of the systemd of a run, fake (manager.py) or real (real.py)."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import Protocol

from cgrace.harness import events as ev
from cgrace.harness import faults as ft
from cgrace.harness.events import MessageSeen
from cgrace.harness.relay.base import Backend, Handler


class Systemd(Protocol):
    """before_job: called before a job's change is recorded, so that what the kernel saw until then stands before it."""

    before_job: Callable[[], None]

    @property
    def is_real(self) -> bool:
        """Whether it is a real one, in processes of its own."""
        ...

    @property
    def backend(self) -> Backend:
        """What stands behind the relay."""
        ...

    def handler(self, handler: Handler) -> Handler:
        """What the relay tells, before it tells `handler`."""
        ...

    @property
    def unique_name(self) -> str:
        """The sender of what it says."""
        ...

    def open(self) -> AbstractAsyncContextManager[None]:
        """It is on its bus inside of this. TargetError where that cannot be had."""
        ...

    def close(self) -> None:
        """Let go of everything; called last."""
        ...

    def arm(self) -> None:
        """The driver's own probes are over: faults on jobs hold from now on."""
        ...

    def let_go(self, fault: ft.JobStays) -> None:
        """The gate opens: the job runs now."""
        ...

    def passes(self, seen: MessageSeen) -> None:
        """A message of the driver's is about to be recorded."""
        ...

    def catch_up(self) -> None:
        """A message for the driver is about to be recorded: note first what systemd said before it."""
        ...

    def settle(self) -> None:
        """Do now what waits for a turn of ours."""
        ...

    def tells_end(self) -> bool:
        """Whether the run's place has ended with it, and it will say so itself."""
        ...

    def process_ended(self) -> None:
        """A process of the run ended."""
        ...

    def busy(self) -> bool:
        """Whether it or its bus still has something to do by itself, or a message is under way between the relay and it."""
        ...

    async def idle(self) -> None:
        """Wait until all that is under way has arrived; not for ever, where a driver keeps the bus busy."""
        ...

    async def arrived(self) -> None:
        """Before the run goes on from something that the driver did: what that caused has arrived."""
        ...

    def processes(self) -> dict[int, str]:
        """Processes of systemd's side among the run's own, by outer pid."""
        ...

    def unaccounted(self) -> tuple[str, ...]:
        """What on systemd's side could still bring something about by itself."""
        ...

    async def perished(self) -> ev.RunEnded | None:
        """How the run ends where the machine below it is ending; None where it is well."""
        ...

    def queued(self) -> tuple[str, ...]:
        """Jobs that have not ended."""
        ...

    def newest_job(self, unit: str) -> str:
        """The path of the newest job of a unit, "" when there was none."""
        ...

    def loaded(self) -> tuple[str, ...]:
        """Units that somebody made and that are still there."""
        ...

    def cgroup_of(self, unit: str) -> str:
        """The unit's cgroup below the run's root, where systemd (still) knows one."""
        ...

    def do(self, what: str) -> bool:
        """Carry out what the scenario does to systemd; False where that cannot be."""
        ...

    def do_to_bus(self, what: str) -> None:
        """The same to its bus, beyond what the relay does to connections."""
        ...
