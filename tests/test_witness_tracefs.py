"""The kernel witness: every cgroup event of a run, in order, with who did it, and nothing lost in silence."""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from cgrace.harness.clock import now_ns
from cgrace.harness.errors import TargetError
from cgrace.harness.events import Actor, CgroupMade, CgroupRemoved, Event, ProcessMoved, ProcessStarted, WitnessLost
from cgrace.harness.targets.base import Hierarchy
from cgrace.harness.targets.owner import own_name
from cgrace.harness.witnesses import tracefs
from cgrace.harness.witnesses.attribution import RunWitness, hierarchy_names
from cgrace.harness.witnesses.tracefs import KernelRecord, KernelWitness, sweep_instances

MOUNTS = (("devices", "/sys/fs/cgroup/devices"), ("pids", "/sys/fs/cgroup/pids"), ("unified", "/sys/fs/cgroup/unified"))
DEVICES = (
    Hierarchy(name="devices", controllers=("devices",), root=Path("/nonexistent"), inner="/sys/fs/cgroup/devices"),
)


@dataclass
class Box:
    """As much of a sandbox as the witness asks for: a cgroup prefix, and pids that are the same inside and outside."""

    cgroup_prefix: str
    hierarchies: tuple[Hierarchy, ...] = DEVICES
    layout: str = "v1"
    names: dict[int, str] = field(default_factory=dict)

    def inner(self, pid_outer: int) -> int | None:
        return pid_outer if pid_outer in self.names else None

    def name_of(self, pid: int) -> str:
        return self.names.get(pid, "")


@pytest.fixture(scope="module")
def kernel() -> Iterator[KernelWitness]:
    """One instance for this file."""
    try:
        witness = KernelWitness.open()
    except TargetError as error:
        pytest.skip(error.message)
    with witness:
        yield witness


@pytest.fixture
def root() -> Iterator[Path]:
    """A cgroup that is ours, in some hierarchy that lets us make one; its name is what the instance filters by."""
    for _, mount in MOUNTS:
        path = Path(mount) / f"{own_name()}.witness"
        with contextlib.suppress(OSError):
            path.mkdir()
            break
    else:
        pytest.skip("no cgroup hierarchy in which we may make a directory")
    try:
        yield path
    finally:
        for folder, _, _ in os.walk(path, topdown=False):
            Path(folder).rmdir()


def tree(seen: list[Event]) -> list[tuple[str, str, Actor]]:
    return [(e.KIND, e.path, e.by) for e in seen if isinstance(e, CgroupMade | CgroupRemoved | ProcessMoved)]


def test_who_did_what(kernel: KernelWitness, root: Path) -> None:
    """The fake systemd, a fault of ours and a driver are told apart, in the order in which they acted."""
    seen: list[Event] = []
    box = Box(f"/{root.name}")
    witness = RunWitness(box.cgroup_prefix, box, lambda event, _: seen.append(event))  # type: ignore[arg-type]
    subscription = kernel.subscribe(witness.prefix, witness.take)
    code = f"import os\ninput()\nos.mkdir('{root}/a')\nprint(flush=True)\ninput()"
    driver = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        box.names[driver.pid] = "main"
        witness.started(ProcessStarted(process="main", role="driver", pid=driver.pid, pid_outer=driver.pid))
        (root / "b").mkdir()
        with witness.acting(Actor.CGRACE):
            (root / "b").rmdir()
        thread = threading.Thread(target=(root / "c").mkdir)
        thread.start()
        thread.join()
        (root / "c" / "cgroup.procs").write_text(str(driver.pid))
        assert driver.stdin is not None
        assert driver.stdout is not None
        driver.stdin.write(b"\n")
        driver.stdin.flush()
        driver.stdout.readline()
    finally:
        driver.kill()
        driver.communicate()
    kernel.drain()
    kernel.unsubscribe(subscription)
    assert tree(seen) == [
        ("cgroup-made", "/b", Actor.SYSTEMD),
        ("cgroup-removed", "/b", Actor.CGRACE),
        ("cgroup-made", "/c", Actor.SYSTEMD),
        ("process-moved", "/c", Actor.SYSTEMD),
        ("cgroup-made", "/a", Actor.DRIVER),
    ]
    moved = seen[3]
    assert isinstance(moved, ProcessMoved)
    assert (moved.process, moved.pid) == ("main", driver.pid)


def test_a_closed_run_hears_no_more(kernel: KernelWitness, root: Path) -> None:
    """Closing reads what happened until then, and nothing after it; the witness serves one event loop after another."""

    async def scenario() -> list[Event]:
        seen: list[Event] = []
        witness = kernel.attach(Box(f"/{root.name}"), lambda event, _: seen.append(event))  # type: ignore[arg-type]
        (root / "before").mkdir()
        witness.close()
        (root / "after").mkdir()
        await kernel.settle()
        for name in ("before", "after"):
            (root / name).rmdir()
        return seen

    for _ in range(2):
        assert [path for _, path, _ in tree(asyncio.run(scenario()))] == ["/before"]


def test_two_instances_of_one_process(kernel: KernelWitness) -> None:
    """A second witness of the same process gets an instance of its own, and leaves nothing behind."""
    with KernelWitness.open() as second:
        instance = second._instance
        assert instance != kernel._instance
        assert instance.exists()
        name = instance.name
    assert not (kernel._instance.parent / name).exists()


def test_runs_do_not_see_each_other(kernel: KernelWitness, root: Path) -> None:
    """Each run gets what is at or below its own prefix, with paths below it; a prefix of a name is not a parent."""
    seen: dict[str, list[str]] = {"r1": [], "r11": []}
    subscriptions = [
        kernel.subscribe(f"/{root.name}/{run}", lambda record, run=run: seen[run].append(record.path))  # type: ignore[misc]
        for run in seen
    ]
    for name in ("r1", "r11", "r1/a", "r11/b", "other"):
        (root / name).mkdir()
    kernel.drain()
    for subscription in subscriptions:
        kernel.unsubscribe(subscription)
    assert seen == {"r1": ["/", "/a"], "r11": ["/", "/b"]}


def test_a_sink_that_drains_keeps_the_order(kernel: KernelWitness, root: Path) -> None:
    """A sink may itself ask for all earlier events: they still come once each, and in order."""
    seen: list[str] = []

    def sink(record: KernelRecord) -> None:
        seen.append(record.path)
        kernel.drain()

    subscription = kernel.subscribe(f"/{root.name}", sink)
    for number in range(50):
        (root / str(number)).mkdir()
    kernel.drain()
    kernel.unsubscribe(subscription)
    assert seen == [f"/{number}" for number in range(50)]


def test_events_come_by_themselves_and_on_our_clock(kernel: KernelWitness, root: Path) -> None:
    """Without a drain the event loop wakes for an event, which carries the monotonic time at which it happened."""

    async def scenario() -> tuple[int, KernelRecord, int]:
        got: asyncio.Future[KernelRecord] = asyncio.get_running_loop().create_future()
        kernel.start()
        subscription = kernel.subscribe(f"/{root.name}", got.set_result)
        before = now_ns()
        (root / "x").mkdir()
        after = now_ns()
        async with asyncio.timeout(5):
            record = await got
        kernel.unsubscribe(subscription)
        return before, record, after

    before, record, after = asyncio.run(scenario())
    assert before - 1000 < record.t_ns <= after
    assert record.tgid in (0, os.getpid())


def test_what_the_buffer_lost_is_told() -> None:
    """A line of the kernel's about lost events becomes an event; a hostile command name cannot forge one of another kind."""
    witness = KernelWitness(None, Path("/nonexistent"))
    lost = witness._parse("CPU:1 [LOST 23121 EVENTS]")
    assert isinstance(lost, KernelRecord)
    assert (lost.kind, lost.pid, witness.lost) == ("lost", 23121, 23121)
    events: list[Event] = []
    run = RunWitness("/r", Box("/r"), lambda event, _: events.append(event))  # type: ignore[arg-type]
    run.take(lost)
    assert events == [WitnessLost(witness="tracefs", count=23121)]


@pytest.mark.parametrize(
    ("line", "wanted"),
    [
        (
            "  a b-c (x)-7254    (   7212) [001] d..1.  1327.756838: cgroup_mkdir: root=5 id=35 level=2 path=/r/a b",
            KernelRecord(1327756838000, "made", 5, "/r/a b", 7254, 7212, 0, "a b-c (x)"),
        ),
        (
            "           sh-7     (-------) [000] d..1.     1.000001: cgroup_rmdir: root=0 id=35 level=2 path=/r",
            KernelRecord(1000001000, "removed", 0, "/r", 7, 0, 0, "sh"),
        ),
        (
            "           sh-7     (      7) [000] d..1.     1.000001: cgroup_attach_task: dst_root=9 dst_id=13 dst_level=1 "
            "dst_path=/r/c pid=7257 comm=x pid=1 comm=y",
            KernelRecord(1000001000, "moved", 9, "/r/c", 7, 7, 7257, "sh"),
        ),
    ],
)
def test_the_kernels_lines(line: str, wanted: KernelRecord) -> None:
    """Lines as this kernel prints them, with command names that try to confuse, become records."""
    assert KernelWitness(None, Path("/nonexistent"))._parse(line) == wanted


@pytest.mark.parametrize(
    "line", ["", "noise", "x-1 (1) [000] .... 1.0: cgroup_mkdir: path=/", "x: tracing_mark_write: cgrace-marker 1"]
)
def test_lines_that_say_nothing(line: str) -> None:
    """Anything else is passed over."""
    assert KernelWitness(None, Path("/nonexistent"))._parse(line) is None


def test_hierarchy_ids_have_the_runs_names() -> None:
    """Ids become the names of the run's own mounts, whatever order the kernel lists controllers in."""
    text = Path("/proc/self/cgroup").read_text()
    names = hierarchy_names(DEVICES)
    assert len(names) == len(text.splitlines())
    for line in text.splitlines():
        number, controllers, _ = line.split(":", 2)
        wanted = "unified" if not controllers else controllers.removeprefix("name=")
        assert names[int(number)] == wanted


def test_the_instances_of_the_dead_are_swept(kernel: KernelWitness) -> None:
    """What a killed cgrace left is removed by name; what lives, and what others made, is left alone."""
    mount, top = tracefs._tracefs()
    try:
        dead, foreign = top / "instances/cgrace-4000000-1", top / "instances/not-cgrace-4000000-1"
        dead.mkdir()
        foreign.mkdir()
        try:
            assert dead.name in sweep_instances(top)
            assert not dead.exists()
            assert foreign.exists()
            assert kernel._instance.exists()
        finally:
            foreign.rmdir()
    finally:
        if mount is not None:
            os.close(mount)


def test_a_living_thread_says_itself_whose_it_is() -> None:
    """The kernel's table may still have the process of an older thread of the same number; a dead one's is all there is."""
    events: list[Event] = []
    run = RunWitness("/r", Box(cgroup_prefix="/r"), lambda event, _: events.append(event))
    with subprocess.Popen(["/bin/cat"], stdin=subprocess.PIPE) as driver:
        gone = subprocess.Popen(["/bin/true"])
        gone.wait()
        run.started(ProcessStarted(process="driver", role="driver", pid=driver.pid, pid_outer=driver.pid))
        for tid, tgid in ((driver.pid, os.getpid()), (threading.get_native_id(), driver.pid), (gone.pid, driver.pid)):
            run.take(KernelRecord(now_ns(), "made", 1, "/a", tid, tgid))
        assert driver.stdin is not None
        driver.stdin.close()
    assert [event.by for event in events if isinstance(event, CgroupMade)] == [
        Actor.DRIVER,
        Actor.SYSTEMD,
        Actor.DRIVER,
    ]
