"""Who could still wake a process that sleeps: every descriptor, child and timer of it is accounted for, or named.

A descriptor is accounted for when nothing but the process itself, or we, can make it ready: our ends of its bus
connections and pipes, its own pipes, socket pairs and eventfds, files that are always ready, timers (a limit, not a
stranger). Everything else is named, and whoever proves a hang has to say "unknown". What is taken for granted: it sent none of
its eventfds to another process, and set no alarm(2) or setitimer(2), which /proc does not show.
"""

from __future__ import annotations

import fcntl
import os
import re
import socket
import stat
import struct
import termios
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from cgrace.harness.clock import NS_PER_S
from cgrace.harness.witnesses.sockdiag import SockDiag
from cgrace.harness.witnesses.waits import PROCESSES_MAX, ProcessGone, sample

SIOCINQ: Final = termios.FIONREAD
SIOCOUTQ: Final = termios.TIOCOUTQ
_INT: Final = struct.Struct("=i")
_INODE = re.compile(r"^(pipe|socket):\[(\d+)\]$")
_TFD = re.compile(r"^tfd:\s*(\d+)", re.MULTILINE)
_IT_VALUE = re.compile(r"^it_value: \((\d+), (\d+)\)", re.MULTILINE)
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
    fires, None without one."""

    unaccounted: tuple[str, ...]
    bytes_in: int
    bytes_out: int
    bound_ns: int | None = None


@dataclass(slots=True)
class _Descriptor:
    pid: int
    number: int
    what: str  # as readlink shows it
    inode: int = 0  # of a pipe or socket
    writable: bool = False


@dataclass(slots=True)
class _Findings:
    unaccounted: list[str] = field(default_factory=list)
    bounds: list[int] = field(default_factory=list)


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
    found = _Findings()
    family = _family(pid_outer, ours, found)
    descriptors = [item for pid in family for item in _descriptors(pid)]
    peers = _Peers(ours, descriptors)
    for item in descriptors:
        why = _why_open(item, descriptors, peers, ours, family, found)
        if why:
            of = "" if item.pid == pid_outer else f"child {item.pid}, "
            found.unaccounted.append(f"{of}descriptor {item.number}: {why}")
    bytes_in = bytes_out = 0
    for connection in ours.connections:
        waiting, sent = socket_queues(connection)
        bytes_in, bytes_out = bytes_in + waiting, bytes_out + sent
    return World(
        unaccounted=tuple(found.unaccounted),
        bytes_in=bytes_in,
        bytes_out=bytes_out,
        bound_ns=min(found.bounds, default=None),
    )


# ---- the process and its descendants


def _family(pid_outer: int, ours: Ours, found: _Findings) -> tuple[int, ...]:
    """The process and its descendants, save those that we speak for; notes waits and timers that cannot be judged."""
    family: list[int] = []
    todo = [pid_outer]
    while todo:
        pid = todo.pop()
        if pid in family or pid in ours.pids:
            continue
        if len(family) >= PROCESSES_MAX:
            found.unaccounted.append(f"more than {PROCESSES_MAX} child processes")
            break
        try:
            process = sample(pid)
        except ProcessGone:
            if pid == pid_outer:
                raise
            continue
        family.append(pid)
        todo.extend(process.children)
        for thread in process.threads:
            if thread.wait is None:
                found.unaccounted.append(f"thread {thread.tid}: awake")
            elif thread.wait.unjudged:
                found.unaccounted.append(f"thread {thread.tid}: {thread.wait.unjudged}")
        if _text(f"/proc/{pid}/timers"):
            found.unaccounted.append(f"process {pid}: a POSIX timer")
    return tuple(family)


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


# ---- one descriptor


class _Peers:
    """Which sockets of the family lead to us or to the family itself. Asks the kernel once for each."""

    def __init__(self, ours: Ours, descriptors: Iterable[_Descriptor]) -> None:
        self.accounted: set[int] = set()
        sockets = {item.inode for item in descriptors if item.what.startswith("socket:")}
        if not sockets:
            return
        relay = {os.fstat(connection).st_ino for connection in ours.connections}
        try:
            with SockDiag() as diag:
                for inode in sockets:
                    peer = diag.peer(inode)
                    if peer is not None and (peer in relay or peer in sockets):
                        self.accounted.add(inode)
        except OSError:
            return  # no unix_diag in this kernel: every socket stays unaccounted for


def _why_open(
    item: _Descriptor,
    all_of_them: list[_Descriptor],
    peers: _Peers,
    ours: Ours,
    family: tuple[int, ...],
    found: _Findings,
) -> str:
    """Why this descriptor may become ready without us, "" when it cannot."""
    what = item.what
    if what.startswith("socket:"):
        return "" if item.inode in peers.accounted else "a socket whose other end is not ours"
    if what.startswith("pipe:"):
        inside = item.inode in ours.pipes or _is_private_pipe(item.inode, all_of_them, family)
        return "" if inside else "a pipe whose other end is not ours"
    if what.startswith("anon_inode:"):
        return _why_anonymous_open(item, all_of_them, family, ours, found)
    return _why_file_open(item)


def _is_private_pipe(inode: int, all_of_them: list[_Descriptor], family: tuple[int, ...]) -> bool:
    """Whether both ends of a pipe are in the family and no other process holds one (looks at every process: some 10 ms)."""
    ends = {item.writable for item in all_of_them if item.what.startswith("pipe:") and item.inode == inode}
    if ends != {True, False}:
        return False
    name = f"pipe:[{inode}]"
    for process in Path("/proc").iterdir():
        if process.name.isdigit() and int(process.name) not in family and _holds(process, name):
            return False
    return True


def _holds(process: Path, name: str) -> bool:
    try:
        return any(str(link.readlink()) == name for link in (process / "fd").iterdir())
    except FileNotFoundError:
        return False  # the process, or the descriptor, ended
    except OSError:
        return True  # we may not look: it might


def _why_anonymous_open(
    item: _Descriptor, all_of_them: list[_Descriptor], family: tuple[int, ...], ours: Ours, found: _Findings
) -> str:
    kind = item.what.removeprefix("anon_inode:").strip("[]")
    info = _text(f"/proc/{item.pid}/fdinfo/{item.number}")
    match kind:
        case "eventfd":
            return ""
        case "eventpoll":
            return _why_poll_set_open(item, info, all_of_them)
        case "timerfd":
            value = _IT_VALUE.search(info)
            if value is None:
                return "a timerfd that cannot be read"
            left_ns = int(value[1]) * NS_PER_S + int(value[2])
            if left_ns:
                found.bounds.append(left_ns)
            return ""
        case "pidfd":
            pid = _PIDFD.search(info)
            known = pid is not None and (int(pid[1]) == -1 or int(pid[1]) in family or int(pid[1]) in ours.pids)
            return "" if known else "a pidfd of a process that is not ours"
    return f"{kind}, which somebody else may make ready"


def _why_poll_set_open(item: _Descriptor, info: str, all_of_them: list[_Descriptor]) -> str:
    """An epoll set is as closed as its members; one that is no descriptor of the process any more cannot be looked at,
    and a file in it is one of the kernel's that announces changes (only those can be polled)."""
    mine = {other.number: other for other in all_of_them if other.pid == item.pid}
    for number in map(int, _TFD.findall(info)):
        member = mine.get(number)
        if member is None:
            return f"an epoll set with descriptor {number}, which is closed here and may live elsewhere"
        if member.what.startswith("/") and _is_file(member):
            return f"an epoll set that watches {member.what}"
    return ""


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
