"""The kernel's own word on the cgroup tree: who made, removed or emptied which cgroup, and when.

One tracefs instance for each cgrace process, in a detached mount that nobody else sees, named as all that we make
(targets/owner.py). It records events/cgroup/* with the trace clock `mono`, which is the clock of our traces, cut to whole
microseconds by the kernel's text form. A filter in the kernel drops everything whose path does not carry our name, so the
host's own cgroup traffic costs nothing and cannot push our events out of the buffer. On a machine whose own systemd is the
target, that name is the prefix of our units.

Order. An event is in the buffer before the system call that caused it returns, and `drain` reads until there is nothing
left. So whoever drains before he records a driver's answer has every cgroup event that the driver caused before it, in front
of it. What the buffer lost is told to every subscriber, never passed over.

Limits: the kernel names threads by their ids in the first pid namespace; where cgrace runs in another one, it finds that out
and leaves the ids away (0).
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import re
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple

from cgrace.harness.clock import NS_PER_S
from cgrace.harness.errors import TargetError
from cgrace.harness.events import Actor, Event
from cgrace.harness.targets.base import Sandbox
from cgrace.harness.targets.linux import mount_detached
from cgrace.harness.targets.owner import OWNED_NAME, own_name, process_lives
from cgrace.harness.witnesses.attribution import RunWitness, of_this_machine

__all__ = ["KernelRecord", "KernelWitness", "RunWitness", "Subscription", "sweep_instances"]

BUFFER_KB_PER_CPU: Final = 4096  # about 40,000 events
INSTANCES_MAX: Final = 16
READ_BYTES: Final = 64 * 1024
MARKER: Final = "cgrace-marker"
# event: the field of its path, the field that we filter on
EVENTS: Final = {
    "cgroup_mkdir": "path",
    "cgroup_rmdir": "path",
    "cgroup_attach_task": "dst_path",
    "cgroup_transfer_tasks": "dst_path",
}
EXISTING_MOUNTS: Final = ("/sys/kernel/tracing", "/sys/kernel/debug/tracing")

_LINE = re.compile(
    r"(.{1,16}?)-(\d+)\s+\(\s*(\d+|-+)\)\s+\[\d+\]\s+\S+\s+(\d+)\.(\d{6}): (cgroup_\w+|tracing_mark_write): (.*)$"
)
_TREE = re.compile(r"root=(\d+) id=\d+ level=\d+ path=(.*)$")
_MOVE = re.compile(r"dst_root=(\d+) dst_id=\d+ dst_level=\d+ dst_path=(.*?) pid=(\d+) comm=")
_LOST = re.compile(r"\[LOST (?:(\d+) )?EVENTS\]")


class KernelRecord(NamedTuple):
    """One cgroup event.

    t_ns: CLOCK_MONOTONIC, whole microseconds. kind: "made", "removed", "moved", or "lost" (then only `pid` says how many
    events, 0 for an unknown number). root: the hierarchy's id as in /proc/cgroups, 0 for v2. path: below the run's root,
    starting with "/". tid, tgid: the thread that did it and its process, outer (tgid 0: not known; both 0: another pid
    namespace than ours). pid: the process that was moved, outer. command: the thread's name, "" where the kernel forgot it.
    """

    t_ns: int
    kind: str
    root: int
    path: str
    tid: int
    tgid: int
    pid: int = 0
    command: str = ""


@dataclass(eq=False, slots=True)
class Subscription:
    """One run's share: everything at or below `prefix`, or, on a machine whose own systemd is the target, what is called like a
    unit of ours below `homes`: by hierarchy id, the path at which the kernel sees the root that we see."""

    prefix: str
    sink: Callable[[KernelRecord], None]
    homes: Mapping[int, str] | None = None

    def share(self, record: KernelRecord) -> KernelRecord | None:
        """The record with its path as this run knows it; None when it is not for it."""
        if record.kind == "lost":
            return record
        if self.homes is not None:
            home = self.homes.get(record.root, "")
            below = record.path.removeprefix(home)
            told = record.path.startswith(home) and of_this_machine(below)
            return record._replace(path=below) if told else None
        at = record.path.find(self.prefix)
        below = record.path[at + len(self.prefix) :]
        return record._replace(path=below or "/") if at >= 0 and (not below or below[0] == "/") else None


class KernelWitness:
    """The tracefs instance of this process. Make one with `open`, end it with `close` (or use it as a context manager)."""

    def __init__(self, mount: int | None, instance: Path, name: str = "") -> None:
        self._mount = mount
        self._name = name
        self._instance = instance
        self._made = False
        self._subscriptions: list[Subscription] = []
        self._waiting: deque[KernelRecord] = deque()
        self._rest = ""
        self._asked: set[Path] = set()
        self._known_homes: dict[int, str] = {}
        self._ids_are_ours = True
        self._loop: asyncio.AbstractEventLoop | None = None
        self._pipe = -1
        self.lost = 0

    # ---- life

    @classmethod
    def open(cls, name: str = "") -> KernelWitness:
        """Make the instance (about 30 ms, most of it the kernel's wait for the new clock: asyncio.to_thread may call it).

        name: part of every path that is to be told of, "" for this process's own name. Raises TargetError where the kernel or our
        rights do not allow it.
        """
        mount, top = _tracefs()
        witness = cls(mount, top / "instances" / own_name(), name or own_name())
        try:
            sweep_instances(top)
            witness._make()
            witness._set_up()
        except OSError as error:
            with contextlib.suppress(OSError):
                witness.close()
            raise TargetError(
                f"cannot make a tracefs instance: {error.strerror}",
                hint="run as root, on a kernel with CONFIG_FTRACE and cgroup trace events",
            ) from None
        return witness

    def _make(self) -> None:
        """A second instance of this process gets a number behind its name."""
        first = self._instance
        for number in range(2, INSTANCES_MAX + 2):
            try:
                self._instance.mkdir()
            except FileExistsError:
                self._instance = first.with_name(f"{first.name}.{number}")
            else:
                self._made = True
                return
        raise OSError(errno.EEXIST, f"{INSTANCES_MAX} instances of this process are there")

    def _set_up(self) -> None:
        self._write("trace_clock", "mono")
        self._write("buffer_size_kb", str(BUFFER_KB_PER_CPU))
        with contextlib.suppress(OSError):  # Linux 4.20 and newer
            self._write("buffer_percent", "0")
        self._write("options/record-tgid", "1")
        for event, field in EVENTS.items():
            self._write(f"events/cgroup/{event}/filter", f'{field} ~ "*{self._name}*"')
            self._write(f"events/cgroup/{event}/enable", "1")
        self._pipe = os.open(self._instance / "trace_pipe", os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        with (self._instance / "trace_marker").open("wb", buffering=0) as marker:
            marker.write(MARKER.encode())
        self.drain()

    def start(self) -> None:
        """Read on the running event loop from now on, whenever the kernel has something; an earlier loop may have ended."""
        loop = asyncio.get_running_loop()
        if loop is not self._loop:
            self._stop_reading()
            self._loop = loop
            loop.add_reader(self._pipe, self.read_some)

    def _stop_reading(self) -> None:
        if self._loop is not None and not self._loop.is_closed():
            self._loop.remove_reader(self._pipe)
        self._loop = None

    def close(self) -> None:
        """Remove the instance (about 30 ms, most of it the kernel's). Safe to call twice."""
        self._stop_reading()
        if self._pipe >= 0:
            os.close(self._pipe)
        self._pipe = -1
        if self._made:
            self._made = False
            with contextlib.suppress(FileNotFoundError):
                self._instance.rmdir()
        if self._mount is not None:
            os.close(self._mount)
            self._mount = None

    def __enter__(self) -> KernelWitness:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _write(self, name: str, text: str) -> None:
        with (self._instance / name).open("w", encoding="ascii") as file:
            file.write(text)

    # ---- subscribers

    def subscribe(
        self, prefix: str, sink: Callable[[KernelRecord], None], homes: Mapping[int, str] | None = None
    ) -> Subscription:
        """Tell `sink` of everything that happens at or below the cgroup path `prefix` from now on, in order; homes: see there."""
        self.drain()
        subscription = Subscription(prefix, sink, homes)
        self._subscriptions.append(subscription)
        return subscription

    def unsubscribe(self, subscription: Subscription) -> None:
        """Tell it no more (no error when it was never told)."""
        with contextlib.suppress(ValueError):
            self._subscriptions.remove(subscription)

    def attach(
        self,
        sandbox: Sandbox,
        record: Callable[[Event, int | None], object],
        *,
        known: Mapping[int, Actor] | None = None,
    ) -> RunWitness:
        """Turn one run's records into events; the caller closes the RunWitness. Needs a running event loop.

        known: where systemd is real, processes that stand for somebody, by outer pid; then what this process does is CGRACE's.
        """
        self.start()
        witness = RunWitness(sandbox.cgroup_prefix, sandbox, record, known=known)
        homes = None if sandbox.cgroup_prefix else self._homes(sandbox)
        subscription = self.subscribe(sandbox.cgroup_prefix, witness.take, homes)
        witness.on_close = lambda: self.unsubscribe(subscription)
        witness.on_drain = self.drain
        return witness

    def _homes(self, sandbox: Sandbox) -> dict[int, str]:
        """Where the kernel sees the roots that we see: in a cgroup namespace (a container that ssh leads to) only a cgroup that is
        made, and seen, tells. Asked once of each."""
        for hierarchy in sandbox.hierarchies:
            if hierarchy.root in self._asked:
                continue
            self._asked.add(hierarchy.root)
            seen: list[KernelRecord] = []
            asking = self.subscribe("", seen.append)
            with contextlib.suppress(OSError):
                probe = hierarchy.root / own_name()
                probe.mkdir()
                probe.rmdir()
            self.drain()
            self.unsubscribe(asking)
            name = f"/{own_name()}"
            self._known_homes |= {one.root: one.path.removesuffix(name) for one in seen if one.path.endswith(name)}
        return self._known_homes

    # ---- reading

    def drain(self) -> None:
        """Read, and tell, every event that happened before this call. Costs some 3 us when there is none."""
        self._fill()
        self._tell()

    async def settle(self) -> None:
        """The same, for callers in a coroutine; it never waits."""
        self.drain()

    def read_some(self) -> None:
        """Read and tell what is there."""
        self.drain()

    def _fill(self) -> None:
        """Read into the queue until the pipe is empty."""
        while self._pipe >= 0:
            try:
                data = os.read(self._pipe, READ_BYTES)
            except BlockingIOError:
                return
            except InterruptedError:
                continue
            if not data:
                return
            *lines, self._rest = (self._rest + data.decode("utf-8", "surrogateescape")).split("\n")
            for line in lines:
                record = self._parse(line)
                if record is not None:
                    self._waiting.append(record)

    def _tell(self) -> None:
        """Tell the queue's records. A sink that drains continues with the same queue, so the order stays."""
        while self._waiting:
            record = self._waiting.popleft()
            for subscription in tuple(self._subscriptions):
                if (share := subscription.share(record)) is not None:
                    subscription.sink(share)

    def _parse(self, line: str) -> KernelRecord | None:
        """A record, or None for a line that says nothing to us."""
        found = _LINE.search(line)
        if found is None:
            lost = _LOST.search(line)
            if lost is None:
                return None
            count = int(lost[1] or 0)
            self.lost += count or 1
            return KernelRecord(0, "lost", 0, "", 0, 0, count)
        command, tid, tgid, seconds, micros, event, fields = found.groups()
        command = "" if command.lstrip() == "<...>" else command.lstrip()
        if event == "tracing_mark_write":
            if fields.strip() == MARKER:  # we wrote it: are the kernel's ids those of our pid namespace?
                self._ids_are_ours = Path(f"/proc/self/task/{tid}").exists()
            return None
        t_ns = int(seconds) * NS_PER_S + int(micros) * 1000
        who = (int(tid), 0 if tgid[0] == "-" else int(tgid)) if self._ids_are_ours else (0, 0)
        if event in ("cgroup_mkdir", "cgroup_rmdir"):
            tree = _TREE.match(fields)
            kind = "made" if event == "cgroup_mkdir" else "removed"
            return None if tree is None else KernelRecord(t_ns, kind, int(tree[1]), tree[2], *who, 0, command)
        move = _MOVE.match(fields)
        if move is None:
            return None
        moved = int(move[3]) if self._ids_are_ours else 0
        return KernelRecord(t_ns, "moved", int(move[1]), move[2], *who, moved, command)


def _tracefs() -> tuple[int | None, Path]:
    """A detached mount of tracefs, else one that is there."""
    try:
        mount = mount_detached("tracefs")
        return mount, Path(f"/proc/self/fd/{mount}")
    except OSError as error:
        for path in EXISTING_MOUNTS:
            if os.access(f"{path}/instances", os.W_OK):
                return None, Path(path)
        raise TargetError(
            f"cannot reach the kernel's tracefs: {error.strerror}",
            hint="run as root; without it, only what happens is seen (inotify), not who did it",
        ) from None


def sweep_instances(top: Path | None = None) -> tuple[str, ...]:
    """Remove the instances of cgrace processes that are dead; returns their names.

    An instance that somebody has open, in whichever pid namespace, is refused by the kernel (EBUSY) and left alone.
    """
    if top is None:
        mount, top = _tracefs()
    else:
        mount = None
    gone: list[str] = []
    try:
        for instance in (top / "instances").iterdir():
            owner, _, number = instance.name.partition(".")
            ours = OWNED_NAME.fullmatch(owner) and (not number or number.isdigit())
            if ours and not process_lives(owner):
                with contextlib.suppress(OSError):
                    instance.rmdir()
                    gone.append(instance.name)
    finally:
        if mount is not None:
            os.close(mount)
    return tuple(gone)
