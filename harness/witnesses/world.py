"""Who could still wake a process that sleeps: every descriptor, child and timer of it is accounted for, or named.

A descriptor is accounted for when nothing but the process itself, or we, can make it ready: our ends of its bus
connections and pipes, its own pipes, socket pairs and eventfds, files that are always ready, pipes with a name on which no thread
of it waits, timers (a limit, not a stranger). Everything else is named, and whoever proves a hang has to say "unknown". What is
taken for granted: it passed none of its eventfds to another process, and none of its pipes to one that we may not look at; it
set no alarm(2) or setitimer(2), which /proc does not show.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import socket
import stat
import struct
import termios
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cgrace.harness.clock import NS_PER_S
from cgrace.harness.witnesses.programs import short_name, waited_on
from cgrace.harness.witnesses.sockdiag import SockDiag
from cgrace.harness.witnesses.waits import PROCESSES_MAX, ProcessGone, Wait, sample, sysmon_of

SIOCINQ: Final = termios.FIONREAD
SIOCOUTQ: Final = termios.TIOCOUTQ
_INT: Final = struct.Struct("=i")
_INODE = re.compile(r"^(pipe|socket):\[(\d+)\]$")
_TFD = re.compile(r"^tfd:\s*(\d+)", re.MULTILINE)
_IT_VALUE = re.compile(r"^it_value: \((\d+), (\d+)\)", re.MULTILINE)
_FLAGS = re.compile(r"^flags:\s*(\d+)", re.MULTILINE)
_O_ASYNC: Final = 0o20000
_PIDFD = re.compile(r"^Pid:\s*(-?\d+)", re.MULTILINE)
_MEM_MAJOR: Final = 1
_MEM_MINORS: Final = frozenset({3, 5, 7, 8, 9})  # null, zero, full, random, urandom


@dataclass(frozen=True, slots=True, kw_only=True)
class Ours:
    """For what the engine can speak.

    connections: descriptors of the relay's ends of the process's bus connections (it is idle: nothing to write).
    pipes: inodes of pipes whose other end only the engine holds (the shim's stdin, stdout, stderr).
    pids: processes (outer) that do nothing unless the engine makes them: the run's workloads.
    """

    connections: tuple[int, ...] = ()
    pipes: frozenset[int] = frozenset()
    pids: frozenset[int] = frozenset()


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """unaccounted: what could wake the process without us, in words. bytes_in: sent by it, not yet read by the relay.
    bytes_out: written by the relay, not yet read by it (only zero or not has a meaning). bound_ns: until its nearest timerfd
    fires, None without one. children: in what its child processes wait, in words."""

    unaccounted: tuple[str, ...]
    bytes_in: int
    bytes_out: int
    bound_ns: int | None = None
    children: tuple[str, ...] = ()


@dataclass(slots=True)
class _Descriptor:
    pid: int
    number: int
    what: str  # as readlink shows it
    inode: int = 0  # of a pipe or socket
    writable: bool = False


def socket_queues(end: socket.socket | int) -> tuple[int, int]:
    """Of our end of a unix socket: bytes that the peer sent and we have not read, and what we wrote and it has not read.

    The second is in the kernel's own accounting (buffers with their overhead): only zero or not has a meaning. Raises OSError
    for a closed socket.
    """
    number = end if isinstance(end, int) else end.fileno()
    inq = _INT.unpack(fcntl.ioctl(number, SIOCINQ, bytes(_INT.size)))[0]
    outq = _INT.unpack(fcntl.ioctl(number, SIOCOUTQ, bytes(_INT.size)))[0]
    return int(inq), int(outq)


def look(pid_outer: int, ours: Ours) -> World:
    """Look at everything that could wake the process or a descendant of it. Raises ProcessGone.

    It proves something only between two rests of the process with the same switch counts: a descriptor opened meanwhile
    would show as a switch.
    """
    look_at = _Look(pid_outer, ours)
    look_at.family_and_waits()
    look_at.descriptors()
    bytes_in = bytes_out = 0
    for connection in ours.connections:
        waiting, sent = socket_queues(connection)
        bytes_in, bytes_out = bytes_in + waiting, bytes_out + sent
    return World(
        unaccounted=tuple(look_at.unaccounted),
        bytes_in=bytes_in,
        bytes_out=bytes_out,
        bound_ns=min(look_at.bounds, default=None),
        children=look_at.children(),
    )


class _Look:
    """One look in progress: the family (the process and its descendants, save those that we speak for) and what was found."""

    def __init__(self, pid_outer: int, ours: Ours) -> None:
        self._pid = pid_outer
        self._ours = ours
        self._family: list[int] = []
        self._items: list[_Descriptor] = []
        self._accounted_sockets: set[int] = set()
        self._bus_sockets: set[int] = set()
        self._waits: list[
            tuple[int, Wait]
        ] = []  # of every thread that is asleep (a child's sysmon apart): process, wait
        self.unaccounted: list[str] = []
        self.bounds: list[int] = []

    def family_and_waits(self) -> None:
        """Find the family; note waits and timers that cannot be judged."""
        todo = [self._pid]
        while todo:
            pid = todo.pop()
            if pid in self._family or pid in self._ours.pids:
                continue
            if len(self._family) >= PROCESSES_MAX:
                self.unaccounted.append(f"more than {PROCESSES_MAX} child processes")
                break
            try:
                process = sample(pid)
            except ProcessGone:
                if pid == self._pid:
                    raise
                continue
            self._family.append(pid)
            todo.extend(process.children)
            for thread in process.threads:
                if thread.wait is None:
                    self.unaccounted.append(f"thread {thread.tid}: awake")
                    continue
                if pid == self._pid or thread.wait.bound_ns is None or thread.tid != sysmon_of(process):
                    self._waits.append((pid, thread.wait))
                if thread.wait.unjudged:
                    self.unaccounted.append(f"thread {thread.tid}: {thread.wait.unjudged}")
            if _text(f"/proc/{pid}/timers"):
                self.unaccounted.append(f"process {pid}: a POSIX timer")

    def descriptors(self) -> None:
        """Account for every descriptor of the family, or name it."""
        self._items = [item for pid in self._family for item in _descriptors(pid)]
        self._find_peers()
        for item in self._items:
            why = self._why_open(item)
            if why:
                of = "" if item.pid == self._pid else f"child {item.pid}, "
                self.unaccounted.append(f"{of}descriptor {item.number}: {why}")

    def _find_peers(self) -> None:
        """Which sockets of the family lead to us or to the family itself. Asks the kernel once for each."""
        sockets = {item.inode for item in self._items if item.what.startswith("socket:")}
        if not sockets:
            return
        bus = {os.fstat(connection).st_ino for connection in self._ours.connections}
        # No unix_diag in this kernel: every socket stays unaccounted for.
        with contextlib.suppress(OSError), SockDiag() as diag:
            peers = {inode: diag.peer(inode) for inode in sockets}
            self._accounted_sockets = {inode for inode, peer in peers.items() if peer in sockets | bus}
            self._bus_sockets = {inode for inode, peer in peers.items() if peer in bus}

    def children(self) -> tuple[str, ...]:
        """In what each child process waits: "crun 4711: ppoll without limit, on its bus connection"."""
        said: Counter[str] = Counter()
        for pid, wait in self._waits:
            if pid == self._pid:
                continue
            limit = "without limit" if wait.bound_ns is None else f"for up to {wait.bound_ns / NS_PER_S:.3f} s"
            on = sorted({self._what(pid, number) for number in waited_on(pid, wait.call, wait.arguments) or ()})
            said[f"{short_name(pid)} {pid}: {wait.where} {limit}{', on ' + ' and '.join(on) if on else ''}"] += 1
        return tuple(f"{line} ({count} threads)" if count > 1 else line for line, count in said.items())

    def _what(self, pid: int, number: int) -> str:
        """A descriptor of the family in words."""
        item = next((item for item in self._items if (item.pid, item.number) == (pid, number)), None)
        if item is None:
            return f"descriptor {number}"
        if item.inode in self._bus_sockets:
            return "its bus connection"
        if item.inode in self._accounted_sockets:
            return "a socket to another process of the driver's"
        if item.what == "anon_inode:[eventpoll]":
            members = {int(member) for member in _TFD.findall(_text(f"/proc/{pid}/fdinfo/{number}"))}
            return (
                f"an epoll set of {' and '.join(sorted({self._what(pid, m) for m in members - {number}})) or 'nothing'}"
            )
        return item.what.partition(":")[2].strip("[]") if item.what.startswith("anon_inode:") else item.what

    def _why_open(self, item: _Descriptor) -> str:
        """Why this descriptor may become ready without us, "" when it cannot."""
        what = item.what
        if what.startswith("socket:"):
            return "" if item.inode in self._accounted_sockets else "a socket whose other end is not ours"
        if what.startswith("pipe:"):
            inside = item.inode in self._ours.pipes or self._is_private_pipe(item.inode)
            return "" if inside else "a pipe whose other end is not ours"
        if what.startswith("anon_inode:"):
            return self._why_anonymous_open(item)
        return "" if _is_fifo(item) and not self._may_wait_on(item) else _why_file_open(item)

    def _may_wait_on(self, item: _Descriptor) -> bool:
        """Whether a thread of its process may wait on a pipe with a name, or be signalled for it (O_ASYNC). Anybody may open such
        a pipe, but who sleeps elsewhere does not wake for it."""
        text = _text(f"/proc/{item.pid}/fdinfo/{item.number}")
        flags = _FLAGS.search(text)
        if flags is None or int(flags[1], 8) & _O_ASYNC:
            return True
        on = [waited_on(pid, wait.call, wait.arguments) for pid, wait in self._waits if pid == item.pid]
        if not on or any(numbers is None or item.number in numbers for numbers in on):
            return True
        sets = [other for other in self._items if other.pid == item.pid and other.what == "anon_inode:[eventpoll]"]
        return any(str(item.number) in _TFD.findall(_text(f"/proc/{s.pid}/fdinfo/{s.number}")) for s in sets)

    def _is_private_pipe(self, inode: int) -> bool:
        """Whether the family has both ends of a pipe and no other process holds one (looks at every process: some ms)."""
        name = f"pipe:[{inode}]"
        if {item.writable for item in self._items if item.what == name} != {True, False}:
            return False
        others = (process for process in Path("/proc").iterdir() if process.name.isdigit())
        return not any(_holds(process, name) for process in others if int(process.name) not in self._family)

    def _why_anonymous_open(self, item: _Descriptor) -> str:
        kind = item.what.removeprefix("anon_inode:").strip("[]")
        info = _text(f"/proc/{item.pid}/fdinfo/{item.number}")
        match kind:
            case "eventfd" | "bpf-prog" | "bpf-map":  # the last two are never made ready by anybody
                return ""
            case "eventpoll":
                return self._why_poll_set_open(item, info)
            case "timerfd":
                value = _IT_VALUE.search(info)
                if value is None:
                    return "a timerfd that cannot be read"
                left_ns = int(value[1]) * NS_PER_S + int(value[2])
                if left_ns:
                    self.bounds.append(left_ns)
                return ""
            case "pidfd":
                pid = _PIDFD.search(info)
                known = pid is not None and int(pid[1]) in {-1, *self._family, *self._ours.pids}
                return "" if known else "a pidfd of a process that is not ours"
        return f"{kind}, which somebody else may make ready"

    def _why_poll_set_open(self, item: _Descriptor, info: str) -> str:
        """An epoll set is as closed as its members; one that is no descriptor of the process any more cannot be looked at,
        and a file in it is one of the kernel's that announces changes (only those can be polled)."""
        mine = {other.number: other for other in self._items if other.pid == item.pid}
        for number in map(int, _TFD.findall(info)):
            member = mine.get(number)
            if member is None:
                return f"an epoll set with descriptor {number}, which is closed here and may live elsewhere"
            if member.what.startswith("/") and _is_file(member):
                return f"an epoll set that watches {member.what}"
        return ""


# ---- what /proc says


def _text(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def _descriptors(pid: int) -> list[_Descriptor]:
    try:
        names = [entry.name for entry in Path(f"/proc/{pid}/fd").iterdir()]
    except OSError:
        return []
    items = []
    for name in sorted(names, key=int):
        link = Path(f"/proc/{pid}/fd/{name}")
        try:
            what = str(link.readlink())
            writable = bool(link.lstat().st_mode & stat.S_IWUSR)
        except OSError:
            continue
        inode = _INODE.match(what)
        items.append(_Descriptor(pid, int(name), what, int(inode[2]) if inode else 0, writable))
    return items


def _holds(process: Path, name: str) -> bool:
    """Whether a process has a descriptor of that name; False where it ended or where we may not look."""
    try:
        return any(str(link.readlink()) == name for link in (process / "fd").iterdir())
    except OSError:
        return False


def _is_fifo(item: _Descriptor) -> bool:
    try:
        return stat.S_ISFIFO(Path(f"/proc/{item.pid}/fd/{item.number}").stat().st_mode)
    except OSError:
        return False


def _is_file(item: _Descriptor) -> bool:
    try:
        return stat.S_ISREG(Path(f"/proc/{item.pid}/fd/{item.number}").stat().st_mode)
    except OSError:
        return True


def _why_file_open(item: _Descriptor) -> str:
    """Regular files and directories are always ready; of devices only those of memory (/dev/null ...) are."""
    try:
        status = Path(f"/proc/{item.pid}/fd/{item.number}").stat()
    except OSError:
        return f"{item.what}, which cannot be looked at"
    if stat.S_ISREG(status.st_mode) or stat.S_ISDIR(status.st_mode):
        return ""
    if stat.S_ISCHR(status.st_mode) and (os.major(status.st_rdev), os.minor(status.st_rdev)) in {
        (_MEM_MAJOR, minor) for minor in _MEM_MINORS
    }:
        return ""
    return f"{item.what}, which somebody else may make ready"
