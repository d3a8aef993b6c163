"""What the threads of a process wait in, read from /proc, and the proof that all of them were asleep at one instant.

The argument. A thread is seen asleep when the kernel itself finds it off every run queue, blocked, and unchanged while it
copies the system call (/proc/PID/task/TID/syscall; lib/syscall.c, task_current_syscall, which answers "running"
otherwise). /proc/PID/task/TID/status counts how often a thread was switched out. The first pass reads the count and then the
call; the second pass reads the call and then the count:

    count c   asleep in call        |        asleep in call   count c
    a1        b1                    M        b2               a2          a1 < b1 < M < b2 < a2

To be awake anywhere between b1 and b2 the thread would have had to be switched out again before b2, and the count at a2
would be higher than at a1. So it slept from b1 to b2. The first pass ends before the second begins, so at M, between them,
every thread slept at once. The list of threads is read before the first pass and after M: a thread that is in neither
list would have had to be made by a thread that slept, or to have ended before the second list, and whomever it woke
before it ended would not have been found asleep at b2. Children are read after their parent was seen asleep.

What follows from it. Threads that all sleep wake only by a timer (that is what `bound_ns` says), by a signal, or by somebody
outside who writes to a descriptor that they wait on. The kernel makes a waiter runnable inside the writer's own system call,
so data that was written before the first pass can no longer wake anybody, even where it lies unread in a socket: whoever
judges looks at the queues (world.socket_queues) to know whether the process wants it. Who could still write is the
question that world.look answers.

Go. The runtime's sysmon thread sleeps on a futex of its own with a limit and makes no progress by itself; it is known by
that futex's address (`sysmon_note`). It parks there only while every P is idle (runtime/proc.go, sysmon), and a thread that
enters a system call with its P wakes it (entersyscall). So "all asleep, sysmon parked" also says that no goroutine is
runnable. A child that is another Go program is known by its executable, and its sysmon by being the first thread that it made
(runtime.main starts it before any other code runs). Before it parks it polls with naps of 20 us to 10 ms, and may find a
runnable goroutine behind a thread that holds a P in a system call: such a rest is marked `polling` and proves nothing.

What this cannot see: alarm(2) and setitimer(2), which /proc does not show.
"""

from __future__ import annotations

import functools
import os
import struct
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from cgrace.harness.clock import NS_PER_MS, NS_PER_S, now_ns
from cgrace.harness.events import ThreadWait
from cgrace.harness.witnesses.programs import is_go, socket_limit_ns
from cgrace.harness.witnesses.syscalls import (
    FUTEX_ABSOLUTE,
    FUTEX_CLOCK_REALTIME,
    FUTEX_COMMAND_MASK,
    FUTEX_LOCK_PI,
    FUTEX_WAIT,
    TIMER_ABSTIME,
    WAITING_CALLS,
    Limit,
    WaitingCall,
)

SYSMON = "Go's sysmon"
SYSMON_POLLS = "Go's sysmon, before it parks"
SYSMON_NAP_NS_MAX: Final = 10 * NS_PER_MS
PROCESSES_MAX: Final = 64
_READ_BYTES: Final = 4096
_TIME: Final = struct.Struct("=qq")


class ProcessGone(ProcessLookupError):
    """The process ended while it was looked at."""


@dataclass(frozen=True, slots=True)
class Wait:
    """One thread's wait. `bound_ns` is its own limit (None: without). `unjudged` says why we cannot speak for it, if so.

    A relative limit is what was passed to the kernel; an absolute one is turned into what is left of it from now. call: the system
    call by name; arguments: its own.
    """

    where: str
    bound_ns: int | None = None
    unjudged: str = ""
    futex: int = 0
    call: str = ""
    arguments: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ThreadSample:
    """A thread at one look. `wait` is None when it was not asleep. `state` is the letter of /proc/PID/status."""

    tid: int
    state: str
    switches: int
    wait: Wait | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessSample:
    """All threads of a process at one look, by tid, and the processes that are its children."""

    pid: int
    threads: tuple[ThreadSample, ...]
    children: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Rest:
    """Every thread of the process and of all its descendants was asleep at `t_ns`.

    bound_ns: the least limit among waits that count (None: none has one). threads: all waits, sysmon's marked `ignored`.
    unjudged: waits for which we cannot speak, in words. polling: Go's sysmon had not parked yet. processes: pids, outer.
    """

    t_ns: int
    bound_ns: int | None
    threads: tuple[ThreadWait, ...]
    unjudged: tuple[str, ...] = ()
    polling: bool = False
    processes: tuple[int, ...] = ()


def sample(pid_outer: int) -> ProcessSample:
    """Look once at every thread of a process, and at its children. Raises ProcessGone."""
    return _look(pid_outer, count_first=True, whole=True)


def at_rest(
    pid_outer: int, sysmon_note: tuple[int, int] | None = None, *, polling_too: bool = False, alone: bool = False
) -> Rest | None:
    """Look twice, at once; a Rest if every thread of the process and its descendants slept in between, else None.

    While Go's sysmon still polls the answer is None, unless `polling_too`: such a rest is good to observe, not to prove.
    alone: its descendants do not count.

    sysmon_note: addresses (start, end) of the Go runtime's sysmon note in this binary, if it is a Go program that has one.
    Raises ProcessGone.
    """
    first: dict[int, ProcessSample] = {}
    todo = [pid_outer]
    while todo:
        pid = todo.pop()
        if pid in first:
            continue
        look = _child_look(pid, count_first=True) if pid != pid_outer else _look(pid, count_first=True)
        if look is None:
            continue
        if len(first) >= PROCESSES_MAX or not _asleep(look):
            return None
        first[pid] = look
        todo.extend(() if alone else look.children)
    t_ns = now_ns()
    threads: list[ThreadSample] = []
    sysmons: set[int] = set()
    for pid, before in first.items():
        after = _look(pid, count_first=False) if pid == pid_outer else _child_look(pid, count_first=False)
        if after is None or not _same_sleep(before, after):
            return None
        threads.extend(after.threads)
        if pid != pid_outer:
            sysmons.add(sysmon_of(after))
    rest = _rest(t_ns, threads, tuple(first), sysmon_note, frozenset(sysmons))
    return None if rest.polling and not polling_too else rest


def sysmon_of(process: ProcessSample) -> int:
    """The thread of a Go program's sysmon, 0 in other programs: the first that the program made."""
    later = [thread.tid for thread in process.threads if thread.tid > process.pid]
    return min(later) if later and is_go(process.pid) else 0


def _asleep(look: ProcessSample) -> bool:
    return all(thread.wait is not None for thread in look.threads)


def _same_sleep(before: ProcessSample, after: ProcessSample) -> bool:
    return (
        len(before.threads) == len(after.threads)
        and before.children == after.children
        and all(
            one.tid == two.tid and one.switches == two.switches and two.wait is not None
            for one, two in zip(before.threads, after.threads, strict=True)
        )
    )


def _rest(
    t_ns: int,
    threads: list[ThreadSample],
    pids: tuple[int, ...],
    note: tuple[int, int] | None,
    sysmons: frozenset[int] = frozenset(),
) -> Rest:
    waits: list[ThreadWait] = []
    unjudged: list[str] = []
    bounds: list[int] = []
    polling = False
    parked = any(t.wait is not None and _is_sysmon(t.wait, note) for t in threads)
    for thread in threads:
        wait = thread.wait
        assert wait is not None, "a thread at rest waits in something"
        ignored = ""
        if _is_sysmon(wait, note) or (thread.tid in sysmons and wait.call == "futex" and wait.bound_ns is not None):
            ignored = SYSMON
        elif thread.tid in sysmons and _is_nap(wait):
            ignored, polling = SYSMON_POLLS, True
        elif note is not None and not parked and _is_nap(wait):
            ignored, polling, parked = SYSMON_POLLS, True, True
        elif wait.unjudged:
            unjudged.append(f"thread {thread.tid}: {wait.unjudged}")
        elif wait.bound_ns is not None:
            bounds.append(wait.bound_ns)
        waits.append(
            ThreadWait(
                tid=thread.tid, where=wait.where, bound_ns=wait.bound_ns, switches=thread.switches, ignored=ignored
            )
        )
    return Rest(
        t_ns=t_ns,
        bound_ns=min(bounds, default=None),
        threads=tuple(waits),
        unjudged=tuple(unjudged),
        polling=polling,
        processes=pids,
    )


def _is_sysmon(wait: Wait, note: tuple[int, int] | None) -> bool:
    """sysmon always sleeps with a limit; a futex without one in the same range is a lock of the runtime's."""
    return note is not None and wait.bound_ns is not None and note[0] <= wait.futex < note[1]


def _is_nap(wait: Wait) -> bool:
    return wait.where == "nanosleep" and wait.bound_ns is not None and wait.bound_ns <= SYSMON_NAP_NS_MAX


# ---- one look


def _read(path: str) -> bytes:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.read(descriptor, _READ_BYTES)
    finally:
        os.close(descriptor)


def _child_look(pid: int, *, count_first: bool) -> ProcessSample | None:
    """Like _look; None for a child that has ended (a zombie has no thread that could run)."""
    try:
        return _look(pid, count_first=count_first)
    except ProcessGone:
        return None
    except PermissionError:  # becoming a user's container, it shows nothing: then it is not known to sleep
        awake = ThreadSample(tid=pid, state="?", switches=0, wait=None)
        return ProcessSample(pid=pid, threads=(awake,), children=())


def _look(pid: int, *, count_first: bool, whole: bool = False) -> ProcessSample:
    """Look at every thread; not beyond the first that is awake, if it is not to be a whole look."""
    root = f"/proc/{pid}/task"
    threads: list[ThreadSample] = []
    children: list[int] = []
    try:
        names = sorted(os.listdir(root), key=int)  # noqa: PTH208 (a third of the cost)
    except (FileNotFoundError, ProcessLookupError):
        raise ProcessGone(f"process {pid} ended") from None
    with _Memory(pid) as memory:
        for name in names:
            try:
                thread = _look_at_thread(f"{root}/{name}", int(name), memory, count_first=count_first)
                if thread is not None:
                    threads.append(thread)
                    if thread.wait is None and not whole:
                        break
                if lists_children():
                    children.extend(int(child) for child in _read(f"{root}/{name}/children").split())
            except (FileNotFoundError, ProcessLookupError):
                continue  # it ended since the list was read: the other look has another list
    if not threads:
        raise ProcessGone(f"process {pid} ended")
    if not lists_children():
        children = list(_children_by_scan(pid))
    return ProcessSample(pid=pid, threads=tuple(threads), children=tuple(sorted(children)))


@functools.cache
def lists_children() -> bool:
    """Whether this kernel tells a process's children (CONFIG_PROC_CHILDREN; before Linux 4.2, CONFIG_CHECKPOINT_RESTORE)."""
    return Path(f"/proc/self/task/{os.getpid()}/children").exists()


def _children_by_scan(pid: int) -> Iterator[int]:
    """For kernels that do not: every process is asked for its parent. A sleeping parent makes no more of them meanwhile."""
    for name in os.listdir("/proc"):  # noqa: PTH208
        if name.isdigit():
            try:
                stat = _read(f"/proc/{name}/stat")
            except (FileNotFoundError, ProcessLookupError):
                continue
            if int(stat[stat.rindex(b")") + 2 :].split(None, 2)[1]) == pid:
                yield int(name)


def _look_at_thread(path: str, tid: int, memory: _Memory, *, count_first: bool) -> ThreadSample | None:
    """None for a thread that has ended and was not collected: it never runs again."""
    if count_first:
        status = _read(path + "/status")
        call = _read(path + "/syscall")
    else:
        call = _read(path + "/syscall")
        status = _read(path + "/status")
    state, switches = _state_and_switches(status)
    if state in ("Z", "X"):
        return None
    wait = None if state in ("R", "D") else _wait(call, state, memory)
    return ThreadSample(tid=tid, state=state, switches=switches, wait=wait)


def _state_and_switches(status: bytes) -> tuple[str, int]:
    """The state's letter and voluntary plus involuntary switches, from /proc/PID/task/TID/status."""
    at = status.index(b"\nState:\t") + 8
    voluntary, forced = status[status.rindex(b"\nvoluntary_ctxt_switches:") :].split(b"\n")[1:3]
    return chr(status[at]), int(voluntary.rpartition(b"\t")[2]) + int(forced.rpartition(b"\t")[2])


class _Memory:
    """Reads a process's memory; opened on first use, because most waits have no limit to read."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self._descriptor = -1

    def __enter__(self) -> _Memory:
        return self

    def __exit__(self, *_: object) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)

    def pair(self, address: int) -> tuple[int, int] | None:
        """Two 64-bit numbers at an address (struct timespec, struct timeval); None where they cannot be read."""
        try:
            if self._descriptor < 0:
                self._descriptor = os.open(f"/proc/{self.pid}/mem", os.O_RDONLY | os.O_CLOEXEC)
            data = os.pread(self._descriptor, _TIME.size, address)
            return _TIME.unpack(data) if len(data) == _TIME.size else None
        except OSError:
            return None

    def descriptor_kind(self, number: int) -> str:
        """What a descriptor of the process is: "pipe", "socket", "anon_inode", a path, or "" when it is gone."""
        try:
            return str(Path(f"/proc/{self.pid}/fd/{number}").readlink())
        except OSError:
            return ""


# ---- one wait


def _wait(call: bytes, state: str, memory: _Memory) -> Wait | None:
    """The wait that a line of /proc/PID/task/TID/syscall shows, None for "running"."""
    words = call.split()
    if not words or words[0] == b"running":
        return None
    if state in ("T", "t"):
        by = "a tracer" if state == "t" else "a signal"
        return Wait("stopped", unjudged=f"stopped by {by}, and whoever stopped it can let it go on")
    if words[0] == b"-1" or len(words) < 9:
        return None  # blocked outside any system call: a page fault, which ends by itself
    number, *arguments = (int(word, 0) for word in words[:7])
    known = WAITING_CALLS.get(number)
    if known is None:
        return Wait(f"system call {number}", unjudged=f"system call {number}, whose wait we cannot judge")
    return replace(_limit(known, arguments, memory), call=known.name, arguments=tuple(arguments))


def _limit(call: WaitingCall, arguments: list[int], memory: _Memory) -> Wait:
    match call.limit:
        case Limit.NONE:
            return Wait(call.name)
        case Limit.MS:
            ms = arguments[call.at] & 0xFFFFFFFF
            return Wait(call.name, None if ms & 0x80000000 else ms * NS_PER_MS)
        case Limit.FUTEX:
            return _futex(arguments, memory)
        case Limit.DESCRIPTOR:
            return _descriptor_wait(call.name, arguments[0], memory)
        case Limit.CLOCK_NANOSLEEP:
            clock = arguments[0] if arguments[1] & TIMER_ABSTIME else None
            return _timed(call.name, arguments[call.at], memory, clock=clock)
        case Limit.ABSOLUTE:
            return _timed(call.name, arguments[call.at], memory, clock=arguments[4])
        case Limit.TIMESPEC:
            return _timed(call.name, arguments[call.at], memory)
        case Limit.TIMEVAL:
            return _timed(call.name, arguments[call.at], memory, fraction_ns=1000)


def _timed(name: str, pointer: int, memory: _Memory, *, clock: int | None = None, fraction_ns: int = 1) -> Wait:
    """A wait whose limit lies in the process's memory; `clock` is set for an absolute one."""
    if pointer == 0:
        return Wait(name)
    pair = memory.pair(pointer)
    if pair is None:
        return Wait(name, unjudged=f"{name} with a limit that cannot be read")
    limit_ns = pair[0] * NS_PER_S + pair[1] * fraction_ns
    if clock is None:
        return Wait(name, limit_ns)
    try:
        return Wait(f"{name} until a deadline", max(0, limit_ns - time.clock_gettime_ns(clock)))
    except OSError:
        return Wait(name, unjudged=f"{name} until a deadline on clock {clock}, which we cannot read")


def _futex(arguments: list[int], memory: _Memory) -> Wait:
    address, operation = arguments[0], arguments[1]
    command = operation & FUTEX_COMMAND_MASK
    if command == FUTEX_WAIT:
        wait = _timed("futex", arguments[3], memory)
    elif command in FUTEX_ABSOLUTE:
        realtime = bool(operation & FUTEX_CLOCK_REALTIME) or command == FUTEX_LOCK_PI
        wait = _timed("futex", arguments[3], memory, clock=time.CLOCK_REALTIME if realtime else time.CLOCK_MONOTONIC)
    else:
        wait = Wait("futex", unjudged=f"futex operation {operation}, which does not wait by itself")
    return Wait(wait.where, wait.bound_ns, wait.unjudged, address)


def _descriptor_wait(name: str, number: int, memory: _Memory) -> Wait:
    """A blocked read or write. A pipe's reader sleeps only while the pipe is empty, its writer only while it is full."""
    kind = memory.descriptor_kind(number)
    if kind.startswith("pipe:"):
        return Wait("read of an empty pipe" if name.startswith("read") else "write to a full pipe")
    if kind == "anon_inode:[eventfd]" and name.startswith("read"):
        return Wait("read of an eventfd")
    if kind.startswith("socket:") and (limit := socket_limit_ns(memory.pid, number, name)) is not None:
        return Wait(f"{name} of a socket", limit or None)
    return Wait(f"{name} of {kind}", unjudged=f"{name} of descriptor {number}, {kind or 'which is gone'}")
