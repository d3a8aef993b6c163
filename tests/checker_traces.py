"""Literal traces for the checkers' tests: a scenario, a list of (milliseconds, event), and what they share."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from cgrace.harness import events as ev
from cgrace.harness.events import Actor, Direction, Event
from cgrace.harness.faults import Fault
from cgrace.harness.points import parse_point
from cgrace.harness.scenario.model import Scenario, Setting, Step
from cgrace.harness.trace import Entry, Head, Trace, decode_entry, decode_head, encode_entry, encode_head

MS = 1_000_000
S = 1_000 * MS
UNITS = {"first": "late.slice", "second": "other.slice", "third": "third.slice"}


def scenario(*faults: Fault, steps: dict[str, str] | None = None, **more: Any) -> Scenario:
    """Steps `first` and `second` as applies of UNITS, unless `steps` gives others as {id: "op unit"}."""
    wanted = steps or {"first": "apply late.slice", "second": "apply other.slice"}
    made = tuple(
        Step(id=name, do=text.split()[0], unit=text.split()[1], parent="-.slice", line=4)
        for name, text in wanted.items()
    )
    settings = (Setting(profile="219-rhel7"),)
    return Scenario(file=Path("x.toml"), name="x/y", title="t", settings=settings, steps=made, faults=faults, **more)


def trace(what: Scenario, *told: tuple[float, Event], driver: dict[str, str] | None = None) -> Trace:
    """A trace of these events at these milliseconds, gone through the stored form once."""
    head = Head(
        scenario=what.to_data(),
        driver={"name": "err-nil", "uses_bus": "true"} | (driver or {}),
        target="fake",
        profile="219-rhel7",
        layout="v1",
    )
    entries = tuple(Entry(i, round(t * MS), event) for i, (t, event) in enumerate(told))
    stored = [encode_head(head), *(encode_entry(entry) for entry in entries)]
    return Trace(decode_head(stored[0]), tuple(decode_entry(line, i) for i, line in enumerate(stored[1:])))


def point(text: str) -> Any:
    """A parsed point."""
    return parse_point(text)


def start(process: str = "driver") -> list[tuple[float, Event]]:
    """A driver that came up and has its two connections (1: calls, 2: signals)."""
    return [
        (0, ev.ProcessStarted(process=process, role="driver", pid=2, pid_outer=2002)),
        (1, ev.Connected(connection=1, process=process)),
        (1, ev.Connected(connection=2, process=process)),
        (2, ev.DriverReady(process=process, ok=True)),
    ]


def called(step: str, op: str = "apply", unit: str = "", workload: str = "", process: str = "driver") -> Event:
    """The step was called."""
    return ev.StepCalled(step=step, process=process, op=op, unit=unit or UNITS[step], workload=workload)


def call(number: int, unit: str, member: str = "StartTransientUnit") -> Event:
    """A call by the driver arrived at the relay; its serial is the message's number."""
    return ev.MessageSeen(
        message=number,
        connection=1,
        direction=Direction.TO_SYSTEMD,
        kind="call",
        member=member,
        unit=unit,
        serial=number,
    )


def reply(number: int, to: int, unit: str, error: str = "") -> Event:
    """systemd's answer to a call arrived at the relay."""
    return ev.MessageSeen(
        message=number, connection=1, direction=Direction.TO_DRIVER, kind="error" if error else "reply", name=error,
        member="StartTransientUnit", unit=unit, reply_serial=to, job="" if error else "/job/1",
    )  # fmt: skip


def removed(number: int, unit: str, job: str = "/job/1") -> Event:
    """A JobRemoved signal arrived at the relay."""
    return ev.MessageSeen(
        message=number, connection=2, direction=Direction.TO_DRIVER, kind="signal", member="JobRemoved", unit=unit, job=job,
        result="done",
    )  # fmt: skip


def sent(number: int) -> Event:
    """The relay wrote the message out."""
    return ev.MessageSent(message=number)


def threads(count: int = 7) -> tuple[ev.ThreadWait, ...]:
    """Threads that wait without limit, and sysmon."""
    waiting = tuple(ev.ThreadWait(tid=10 + i, where="futex", bound_ns=None, switches=5) for i in range(count))
    return (*waiting, ev.ThreadWait(tid=99, where="futex", bound_ns=10 * MS, switches=5, ignored="sysmon"))


def closed(process: str = "driver", **more: Any) -> Event:
    """A look that is a proof, unless `more` spoils it."""
    fields: dict[str, Any] = {
        "process": process, "bound_ns": None, "bytes_in": 0, "bytes_out": 0, "threads": threads(), "quiet_ns": 60 * MS,
    }  # fmt: skip
    return ev.WorldClosed(**(fields | more))


def made(path: str, by: Actor = Actor.DRIVER, hierarchy: str = "pids") -> Event:
    """A cgroup was made."""
    return ev.CgroupMade(hierarchy=hierarchy, path=path, by=by)


def gone(path: str, by: Actor = Actor.SYSTEMD, hierarchy: str = "pids") -> Event:
    """A cgroup was removed."""
    return ev.CgroupRemoved(hierarchy=hierarchy, path=path, by=by)


def moved(path: str, by: Actor, process: str = "w", hierarchy: str = "pids") -> Event:
    """A process was moved."""
    return ev.ProcessMoved(hierarchy=hierarchy, path=path, process=process, pid=7, by=by)


def seen(step: str, path: str, exists: bool = True, hierarchy: str = "pids", **more: Any) -> Event:
    """A look at one reported path."""
    return ev.CgroupSeen(step=step, hierarchy=hierarchy, path=path, exists=exists, **more)


def ended(why: str = "complete", text: str = "") -> Event:
    """The run ended."""
    return ev.RunEnded(why=why, text=text)
