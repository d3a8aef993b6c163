"""What drivers are asked and answer: their processes, and the steps of a scenario."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from cgrace.harness.events.base import Event

# ---- the driver's processes


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessStarted(Event):
    """`role` is "driver" or "workload"; `process` is the name that the scenario gives it."""

    KIND: ClassVar[str] = "process-started"
    process: str
    role: str
    pid: int
    pid_outer: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessExited(Event):
    """`status` as waitpid gives it, decoded: >= 0 exit code, < 0 minus the signal."""

    KIND: ClassVar[str] = "process-exited"
    process: str
    status: int
    expected: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class DriverReady(Event):
    """The shim's hello: its own start-up probes are over, faults and counts arm now."""

    KIND: ClassVar[str] = "driver-ready"
    process: str
    ok: bool
    error: str = ""
    conclusions: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class DriverSaid(Event):
    """A line of the driver's stderr, or (`babble`) a line of stdout that is not the shim protocol."""

    KIND: ClassVar[str] = "driver-said"
    process: str
    text: str
    babble: bool = False


# ---- steps


@dataclass(frozen=True, slots=True, kw_only=True)
class StepCalled(Event):
    """A step was asked of a driver. `workload` is the named process that it places, or "" for pid -1."""

    KIND: ClassVar[str] = "step-called"
    step: str
    process: str
    op: str
    unit: str
    workload: str = ""
    pid: int = -1


@dataclass(frozen=True, slots=True, kw_only=True)
class StepReturned(Event):
    """The step ended: returned (`error` is "") or failed. `driver_ns` is the shim's own measure.

    `paths` are (hierarchy, path) pairs that the driver reports for the unit, in the driver's namespace.
    """

    KIND: ClassVar[str] = "step-returned"
    step: str
    error: str = ""
    driver_ns: int = 0
    paths: tuple[tuple[str, str], ...] = ()
    value: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class StepNever(Event):
    """The run ended while the step was still out: indeterminate. `why` says what ended the run."""

    KIND: ClassVar[str] = "step-never"
    step: str
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class OrderWaived(Event):
    """A step does not wait for this point, because with this driver it cannot come; `why` says so."""

    KIND: ClassVar[str] = "order-waived"
    step: str
    point: str
    why: str
