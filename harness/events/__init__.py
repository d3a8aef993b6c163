"""What a trace is made of: one frozen record for each thing that a witness saw.

Rules of this file: values only, no I/O. Units are last in names. Cgroup paths are relative to the run's own cgroup root
and start with "/"; a `hierarchy` is its mount's name ("devices", "cpu,cpuacct", "systemd" for name=systemd, "unified"
for cgroup v2). Pids are those that the driver sees (inner) unless a name ends in `_outer`. Messages have ids of their
own (1, 2, ... in order of arrival at the relay), because serials are per connection.
"""

from __future__ import annotations

from cgrace.harness.events.base import RAW_BYTES_MAX, Actor, Direction, Event, Grade
from cgrace.harness.events.bus import (
    Connected,
    Disconnected,
    FaultFired,
    HoldLetGo,
    JobChanged,
    MatchRule,
    MessageDropped,
    MessageHeld,
    MessageSeen,
    MessageSent,
    MessageTaken,
    SystemdSaid,
    UnitChanged,
)
from cgrace.harness.events.kernel import (
    CgroupMade,
    CgroupRemoved,
    CgroupSeen,
    DriverAsks,
    DriverCloses,
    DriverOpens,
    ProcessMoved,
    WitnessLost,
)
from cgrace.harness.events.steps import (
    DriverReady,
    DriverSaid,
    OrderWaived,
    ProcessExited,
    ProcessStarted,
    StepCalled,
    StepNever,
    StepReturned,
)
from cgrace.harness.events.waits import (
    DriverWaits,
    Leftover,
    RunEnded,
    Stacks,
    StepWaits,
    StepWatched,
    ThreadWait,
    WorldClosed,
)

__all__ = [
    "RAW_BYTES_MAX",
    "Actor",
    "CgroupMade",
    "CgroupRemoved",
    "CgroupSeen",
    "Connected",
    "Direction",
    "Disconnected",
    "DriverAsks",
    "DriverCloses",
    "DriverOpens",
    "DriverReady",
    "DriverSaid",
    "DriverWaits",
    "Event",
    "FaultFired",
    "Grade",
    "HoldLetGo",
    "JobChanged",
    "Leftover",
    "MatchRule",
    "MessageDropped",
    "MessageHeld",
    "MessageSeen",
    "MessageSent",
    "MessageTaken",
    "OrderWaived",
    "ProcessExited",
    "ProcessMoved",
    "ProcessStarted",
    "RunEnded",
    "Stacks",
    "StepCalled",
    "StepNever",
    "StepReturned",
    "StepWaits",
    "StepWatched",
    "SystemdSaid",
    "ThreadWait",
    "UnitChanged",
    "WitnessLost",
    "WorldClosed",
]
