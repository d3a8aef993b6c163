"""From a kernel record to an event of one run: hierarchy ids become names, thread ids become actors."""

from __future__ import annotations

import contextlib
import os
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Final

from cgrace.harness.clock import now_ns
from cgrace.harness.events import (
    Actor,
    CgroupMade,
    CgroupRemoved,
    Event,
    ProcessMoved,
    ProcessStarted,
    WitnessLost,
)
from cgrace.harness.targets.base import Hierarchy, Sandbox
from cgrace.harness.targets.owner import OWNED_NAME, UNIT_PREFIX

if TYPE_CHECKING:
    from cgrace.harness.witnesses.tracefs import KernelRecord

_MICROSECOND: Final = 1000  # the grain of the kernel's times
_ANCESTORS_MAX: Final = 64
_ROLES: Final = {"driver": Actor.DRIVER, "workload": Actor.WORKLOAD, "systemd": Actor.SYSTEMD}


class RunWitness:
    """One run's view of the kernel's records; `take` is the sink.

    known: for whom processes stand that are there from the start (outer pid), on targets whose systemd is real. Without it our
    own process stands for the fake systemd, which lives in it, where `acting` does not say otherwise.
    """

    def __init__(
        self,
        prefix: str,
        sandbox: Sandbox,
        record: Callable[[Event, int | None], object],
        *,
        known: Mapping[int, Actor] | None = None,
    ) -> None:
        self.prefix = prefix
        self.on_close: Callable[[], None] = lambda: None
        self.on_drain: Callable[[], None] = lambda: None
        self._sandbox = sandbox
        self._record = record
        self._ourselves = Actor.SYSTEMD if known is None else Actor.CGRACE
        self._own_pid = os.getpid()
        self._names = hierarchy_names(sandbox.hierarchies)
        self._actors: dict[int, Actor] = dict(known or {})
        # Names of the driver's commands: what ended before it could be asked whose child it was is known by its own.
        self.commands: frozenset[str] = frozenset()
        self._processes: dict[int, tuple[int, str]] = {}
        self._tgids: dict[int, int] = {}
        self._asked: dict[tuple[int, int], int] = {}
        self._acts: deque[tuple[int, int, Actor]] = deque()
        self._acting: list[tuple[int, Actor]] = []

    def close(self) -> None:
        """Read what happened until now, then take no more."""
        self.on_drain()
        self.on_close()
        self.on_drain = self.on_close = lambda: None

    def started(self, event: ProcessStarted) -> None:
        """A process of the run started: what it does is told by its role, also when it is read after its end."""
        self._actors[event.pid_outer] = _ROLES.get(event.role, Actor.OTHER)
        self._processes[event.pid_outer] = (event.pid, event.process)

    @contextlib.contextmanager
    def acting(self, actor: Actor) -> Iterator[None]:
        """What this process does to the run's tree in here is done by `actor`, not by the fake systemd."""
        entry = (now_ns(), actor)
        self._acting.append(entry)
        try:
            yield
        finally:
            self._acting.remove(entry)
            self._acts.append((entry[0], now_ns(), actor))

    # ---- records

    def take(self, raw: KernelRecord) -> None:
        """Record the event that a kernel record stands for."""
        if raw.kind == "lost":
            self._record(WitnessLost(witness="tracefs", count=raw.pid), None)
            return
        hierarchy = self._name_of(raw.root)
        by = self._actor(raw)
        event: Event
        if raw.kind == "made":
            event = CgroupMade(hierarchy=hierarchy, path=raw.path, by=by)
        elif raw.kind == "removed":
            event = CgroupRemoved(hierarchy=hierarchy, path=raw.path, by=by)
        else:
            pid, name = self._process(raw.pid)
            event = ProcessMoved(hierarchy=hierarchy, path=raw.path, process=name, pid=pid, by=by)
        self._record(event, raw.t_ns)

    def _name_of(self, root: int) -> str:
        if root not in self._names:
            self._names |= hierarchy_names(self._sandbox.hierarchies)
        return self._names.setdefault(root, f"hierarchy {root}")

    def _process(self, pid_outer: int) -> tuple[int, str]:
        """(inner pid, name) of a process that was moved; (-1, "") when it is gone and was never named."""
        if pid_outer not in self._processes:
            inner = self._sandbox.inner(pid_outer)
            if inner is None:
                return -1, ""
            self._processes[pid_outer] = (inner, self._sandbox.name_of(inner))
        return self._processes[pid_outer]

    # ---- who

    def _actor(self, raw: KernelRecord) -> Actor:
        tgid = self._tgid(raw)
        if tgid == 0:
            return Actor.DRIVER if raw.command in self.commands else Actor.OTHER
        if tgid == self._own_pid:
            return self._ourselves_at(raw.t_ns)
        known = self._actors.get(tgid)
        if known is None:
            known = self._stranger(tgid, raw.command)
            if known is not Actor.OTHER:
                self._actors[tgid] = known
        return known

    def _tgid(self, raw: KernelRecord) -> int:
        """The process of the thread that did it, 0 when nobody knows.

        The kernel notes a thread's process only when the thread is next switched out (kernel/trace/trace.c,
        tracing_record_taskinfo_sched_switch); until then its table has what the last thread of that number was. So a living
        thread is asked itself, once for each answer of the table, and the table counts for those that are gone.
        """
        asked = (raw.tid, raw.tgid)
        if asked not in self._asked:
            found = status_number(raw.tid, b"Tgid:") or raw.tgid or self._tgids.get(raw.tid, 0)
            if found == 0:
                return 0
            self._asked[asked] = self._tgids[raw.tid] = found
        return self._asked[asked]

    def _ourselves_at(self, t_ns: int) -> Actor:
        while self._acts and self._acts[0][1] + _MICROSECOND < t_ns:
            self._acts.popleft()
        for begin, end, actor in self._acts:
            if begin - _MICROSECOND < t_ns <= end:
                return actor
        for begin, actor in reversed(self._acting):
            if begin - _MICROSECOND < t_ns:
                return actor
        return self._ourselves

    def _stranger(self, tgid: int, command: str) -> Actor:
        """A process that was not announced: a child of one that was, something else in the sandbox, or somebody else.

        The sandbox's own init, and helpers that this process started, act for cgrace.
        """
        inner = self._sandbox.inner(tgid)
        if inner == 1:
            return Actor.CGRACE
        if inner is not None and self._sandbox.name_of(inner):
            return Actor.DRIVER
        pid = tgid
        for _ in range(_ANCESTORS_MAX):
            pid = status_number(pid, b"PPid:")
            if pid in self._actors:
                return self._actors[pid]
            if pid == self._own_pid and inner is None:
                return Actor.CGRACE
            if pid <= 1:
                break
        gone = inner is None and not Path(f"/proc/{tgid}").exists()
        return Actor.DRIVER if inner is not None or (gone and command in self.commands) else Actor.OTHER


def of_this_machine(path: str) -> bool:
    """Whether a cgroup is of a run on the machine's own systemd: it, or one above it, has our units' prefix, and it is in no tree
    of a cgrace that has one of its own there (targets/owner.py)."""
    names = path.split("/")
    ours = any(name.startswith(UNIT_PREFIX) for name in names)
    return ours and not any(OWNED_NAME.fullmatch(name) for name in names)


def status_number(pid: int, key: bytes) -> int:
    """A number in /proc/PID/status, 0 when the process is gone. Works for thread ids too."""
    try:
        descriptor = os.open(f"/proc/{pid}/status", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return 0
    try:
        text = os.read(descriptor, 4096)
    except OSError:
        return 0
    finally:
        os.close(descriptor)
    at = text.find(b"\n" + key)
    return int(text[at + 1 + len(key) :].split(None, 1)[0]) if at >= 0 else 0


def hierarchy_names(hierarchies: tuple[Hierarchy, ...]) -> dict[int, str]:
    """Hierarchy id to name. The id is that of /proc/cgroups and of /proc/self/cgroup; v2 is 0 (kernel/cgroup/cgroup.c,
    cgroup_init: the default root is the first to get one). A hierarchy that the run does not have keeps its own name."""
    by_controllers = {frozenset(h.controllers): h.name for h in hierarchies if h.controllers and not h.is_v2}
    names: dict[int, str] = {}
    for line in Path("/proc/self/cgroup").read_text(encoding="utf-8", errors="surrogateescape").splitlines():
        number, controllers, _ = line.split(":", 2)
        parts = frozenset(controllers.split(","))
        if not controllers:
            names[int(number)] = "unified"
        elif controllers.startswith("name="):
            names[int(number)] = controllers.removeprefix("name=")
        else:
            names[int(number)] = by_controllers.get(parts, controllers)
    return names
