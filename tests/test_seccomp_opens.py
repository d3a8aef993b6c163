"""What the engine makes of a driver's openings, without a driver: holds, counts, and calls that a signal interrupted."""

from __future__ import annotations

from pathlib import Path
from typing import cast

from cgrace.harness import events as ev
from cgrace.harness.engine.opens import Opens, _Process
from cgrace.harness.engine.plan import Plan
from cgrace.harness.events import Event
from cgrace.harness.scenario.parse import load_text
from cgrace.harness.targets.base import Hierarchy
from cgrace.harness.targets.notify import Listener, Opening

SCENARIO = """
title = "t"
on = { profile = "219-rhel7.4" }
steps = [{ id = "first", do = "apply", unit = "cgrace-a.scope", parent = "cgrace.slice", pid = "container" }]
faults = [
  { id = "one", hold_open = "pids of cgrace-a.scope", until = "JOB" },
  { id = "two", hold_open = "pids of cgrace-a.scope", until = "first ended", nth = 2 },
]
"""
PROCS = "/cgrace.slice/cgrace-a.scope/cgroup.procs"


class FakeListener:
    """Remembers which calls went on; `gone` are those that do not wait any more."""

    def __init__(self) -> None:
        self.went_on: list[int] = []
        self.gone: set[int] = set()

    def waits(self, opening: Opening) -> bool:
        """Whether nobody let it go on, and no signal interrupted it."""
        return opening.id not in self.went_on and opening.id not in self.gone

    def go_on(self, opening: Opening) -> None:
        """It goes on."""
        self.went_on.append(opening.id)

    def asks(self) -> bool:
        """Nothing waits unreported."""
        return False

    def close(self) -> None:
        """Nothing to close."""


class Paths(Opening):
    """An opening whose path is one that the process sees."""

    def inner_path(self) -> str:
        """As said."""
        return self.path


class Bench:
    """An engine's part: plan, record, and one supervised process "driver", ready unless said otherwise."""

    def __init__(
        self, *, until: str = "job of cgrace-a.scope ended", uses_bus: bool = True, ready: bool = True
    ) -> None:
        self.plan = Plan(load_text(SCENARIO.replace("JOB", until), Path("/story/my.toml")), uses_bus=uses_bus)
        self.events: list[Event] = []
        names = ("pids", "cpu,cpuacct")
        trees = tuple(Hierarchy(name=n, controllers=(n,), root=Path("/x"), inner=f"/sys/fs/cgroup/{n}") for n in names)
        self.opens = Opens(self.plan, trees, self.record)
        self.listener = FakeListener()
        self.opens._processes["driver"] = _Process(cast(Listener, self.listener))
        if ready:
            self.record(ev.DriverReady(process="driver", ok=True))

    def record(self, event: Event) -> None:
        """Note an event, and let go what it opens, as the run does."""
        self.events.append(event)
        for keep in self.plan.on_event(event).open:
            keep.open = True
            self.opens.let_go(keep)

    def open(self, number: int, path: str = f"/sys/fs/cgroup/pids{PROCS}", tid: int = 10) -> None:
        """The driver opens something."""
        self.opens._asks("driver", Paths(id=number, tid=tid, path=path, directory=-100))

    def opened(self) -> list[tuple[str, str]]:
        """(hierarchy, hold) of what was recorded."""
        return [(event.hierarchy, event.hold) for event in self.events if isinstance(event, ev.DriverOpens)]

    def job_ends(self) -> None:
        """The scope's job ends."""
        self.record(ev.JobChanged(job="/1", unit="cgrace-a.scope", type="start", state="ended", result="done"))


def test_first_is_held_and_second_by_its_own() -> None:
    """Each hold takes the opening that it counts to, and only that."""
    bench = Bench()
    bench.open(1)
    assert (bench.listener.went_on, bench.opens.holds("driver")) == ([], True)
    bench.open(2, tid=11)
    bench.open(3, tid=12)
    assert bench.listener.went_on == [3]
    bench.job_ends()
    assert bench.listener.went_on == [3, 1]
    assert bench.opened() == [("pids", "one"), ("pids", "two"), ("pids", "")]
    assert [keep.fault.id for keep in bench.plan.closed()] == ["two"]


def test_other_files_go_on() -> None:
    """Other cgroups are recorded and go on; what puts no process anywhere goes on unrecorded."""
    bench = Bench()
    bench.open(1, f"/sys/fs/cgroup/cpu,cpuacct{PROCS}")
    bench.open(2, "/sys/fs/cgroup/pids/cgrace.slice/cgrace-a.scope/pids.max")
    bench.open(3, "/tmp/cgroup.procs")
    bench.open(4, "/sys/fs/cgroup/pidsx/cgroup.procs")
    assert bench.listener.went_on == [1, 2, 3, 4]
    assert bench.opened() == [("cpu,cpuacct", "")]


def test_point_that_was_before() -> None:
    """Nothing is held for a point that was reached already, and the fault has acted all the same."""
    bench = Bench()
    bench.job_ends()
    bench.open(1)
    assert bench.listener.went_on == [1]
    fired = [event for event in bench.events if isinstance(event, ev.FaultFired)]
    assert [(event.fault, "goes on at once" in event.what) for event in fired] == [("one", True)]


def test_driver_without_a_bus_is_not_held_for_one() -> None:
    """A job that cannot come holds nobody."""
    bench = Bench(uses_bus=False)
    bench.open(1)
    assert bench.listener.went_on == [1]


def test_what_a_driver_does_before_its_hello() -> None:
    """Its start-up probes are seen, and neither held nor counted."""
    bench = Bench(ready=False)
    bench.open(1)
    bench.record(ev.DriverReady(process="driver", ok=True))
    bench.open(2)
    assert bench.listener.went_on == [1]
    assert bench.opened() == [("pids", ""), ("pids", "one")]


def test_interrupted_call_is_the_same_call() -> None:
    """A held call that a signal interrupted and that came again, in whichever thread, is held on and not counted again."""
    bench = Bench()
    bench.open(1)
    bench.listener.gone.add(1)
    bench.open(2)
    bench.listener.gone.add(2)
    bench.open(3, tid=11)
    assert bench.opened() == [("pids", "one")]
    bench.job_ends()
    assert bench.listener.went_on == [3]
    bench.open(4)
    assert bench.opened() == [("pids", "one"), ("pids", "two")]


def test_dead_driver_is_held_no_more() -> None:
    """With the process its calls are gone: the hold keeps nothing, and no order is unmet for it."""
    bench = Bench()
    bench.open(1)
    bench.opens.exited("driver")
    assert not bench.opens.holds("driver")
    assert bench.plan.closed() == ()
    assert not bench.opens.holds("nobody")
    assert not bench.opens.asks("nobody")
