"""Who waits for whom: from a goroutine dump to the few lines that show a hang's cause. No verdicts; never raises on odd dumps.

Go does not say who holds a lock. What can be known comes from a small table: functions that are known to hold a lock while
they wait. Everything else is told as far as the dump goes: what is waited for, where, and the lock's address.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from cgrace.harness.stacks.goroutines import RUNTIME_PREFIXES, Frame, Goroutine, parse

DRIVER_PACKAGES = ("/libcontainer/cgroups", "opencontainers/cgroups", "containerd/cgroups")
_BUS_LIBRARY = "godbus/dbus."
LOCK_SPAN_BYTES = 1024
"""A lock that lies in an object: its address is at most this far behind the object's."""

_MODULE = re.compile(
    r".*?(?:^|/)(?:[a-z0-9-]+\.)+[a-z]+/[^/]+(?:/[^/@]+)?(?:@[^/]+)?(?:/v\d+)?(?:@[^/]+)?/(?P<rest>[^@]+)$"
)
_HOSTS = re.compile(r"(?:^|/)(?:github\.com|gitlab\.com|bitbucket\.org|golang\.org|gopkg\.in|go\.[a-z]+\.[a-z]+)/")


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownHolder:
    """A function that holds `lock` while it waits in one of `states` (a prefix of the goroutine's state).

    function: the end of the function's name. source: where that is known from.
    """

    function: str
    states: tuple[str, ...]
    lock: str
    source: str


KNOWN_HOLDERS = (
    KnownHolder(
        function="go-systemd/dbus.(*Conn).jobComplete",
        states=("chan send",),
        lock="jobListener",
        source="go-systemd dbus/methods.go, jobComplete sends inside the lock; opencontainers/runc#1780, go-systemd#429",
    ),
    KnownHolder(
        function="go-systemd/dbus.(*Conn).startJob",
        states=("chan receive", "select"),
        lock="jobListener",
        source="go-systemd dbus/methods.go, startJob keeps the lock until the method's reply is stored",
    ),
    KnownHolder(
        function="godbus/dbus.(*Conn).inWorker",
        states=("chan send",),
        lock="signalsLck",
        source="godbus before 2018 sends to full signal channels inside the lock (godbus#117)",
    ),
    *(
        KnownHolder(
            function=f"systemd.(*{kind}).{method}",
            states=("chan receive", "select"),
            lock="the manager's mutex",
            source=f"libcontainer since 1.0.0-rc91: {told} holds its mutex through the wait for the job",
        )
        for kind in ("LegacyManager", "legacyManager")
        for method, told in (("Apply", "v1 Apply"), ("Destroy", "Destroy"))
    ),
)

KNOWN_LOCKS = {
    "go-systemd/dbus.(*Conn).jobComplete": "jobListener",
    "go-systemd/dbus.(*Conn).startJob": "jobListener",
    "systemd.(*LegacyManager).": "the manager's mutex",
    "systemd.(*legacyManager).": "the manager's mutex",
}
"""The one lock that these functions (by the end or the middle of their names) take."""

_STATES = (
    ("chan send (nil chan)", "sends to a nil channel, for ever"),
    ("chan receive (nil chan)", "receives from a nil channel, for ever"),
    ("chan send", "sends to a channel that nobody reads"),
    ("chan receive", "receives from a channel that nobody sends to"),
    ("select (no cases)", "waits in a select without cases, for ever"),
    ("select", "waits in a select of which no case can come"),
    ("sync.WaitGroup.Wait", "waits for a wait group"),
    ("sync.Cond.Wait", "waits for a condition"),
    ("IO wait", "waits for a descriptor"),
    ("sleep", "sleeps"),
    ("syscall", "is in a system call"),
    ("runnable", "can run"),
    ("running", "runs"),
)
_LOCK_STATES = ("sync.Mutex", "sync.RWMutex")


@dataclass(frozen=True, slots=True, kw_only=True)
class Wait:
    """One goroutine's place in the graph. lock: what it waits for ("" when no lock); holds: locks that it keeps meanwhile;
    held_by: goroutines that hold `lock` (ids). line: for people, see `render`."""

    goroutine: int
    function: str
    what: str
    place: str
    lock: str = ""
    lock_address: int = 0
    holds: tuple[str, ...] = ()
    held_by: tuple[int, ...] = ()
    sources: tuple[str, ...] = ()


def plain(function: str) -> str:
    """A function's name without a major version in its import path: go-systemd/v22/dbus is go-systemd/dbus."""
    return re.sub(r"/v\d+(?=[/.])", "", re.sub(r"@[^/]+", "", function))


def short_place(frame: Frame) -> str:
    """`file:line` relative to the module it is in, "" when the dump does not say."""
    if not frame.file:
        return ""
    path = frame.file.replace("\\", "/")
    hosts = list(_HOSTS.finditer(path))
    if hosts and (module := _MODULE.match(path[hosts[-1].start() :])):
        path = module["rest"]
    elif "/src/" in path:
        path = path.rsplit("/src/", 1)[-1]
    else:
        path = "/".join(path.split("/")[-2:])
    return f"{path}:{frame.line}"


def _known_lock(frame: Frame) -> str:
    name = plain(frame.function)
    return next((lock for needle, lock in KNOWN_LOCKS.items() if needle in name), "")


def _lock(goroutine: Goroutine) -> tuple[str, int]:
    """Name and address of the lock that a goroutine waits for; ("", 0) when it waits for something else."""
    inside = [frame for frame in goroutine.frames if "Mutex)" in frame.function]
    if not (goroutine.state.startswith(_LOCK_STATES) or (goroutine.state.startswith("semacquire") and inside)):
        return "", 0
    address = next((a for frame in inside for a in frame.addresses[:1] if a > 0xFFFF), 0)
    blocking = goroutine.blocking
    name = _known_lock(blocking) if blocking is not None else ""
    return name or (f"the lock at {address:#x}" if address else "a lock"), address


def _awaits_reply(goroutine: Goroutine) -> bool:
    """Whether it waits inside the D-Bus library for the answer to a call (godbus: Object.Call and Call.Store)."""
    top = goroutine.blocking
    return (
        top is not None and _BUS_LIBRARY in plain(top.function) and goroutine.state.startswith(("chan rec", "select"))
    )


def _named(goroutine: Goroutine) -> Frame | None:
    """The frame that people know it by: who waits, and for a reply who made the call."""
    if not _awaits_reply(goroutine):
        return goroutine.blocking
    callers = (f for f in goroutine.frames if not f.function.startswith(RUNTIME_PREFIXES))
    return next((f for f in callers if _BUS_LIBRARY not in plain(f.function)), goroutine.blocking)


def _what(goroutine: Goroutine, lock: str) -> str:
    if lock:
        return f"waits for {lock}"
    if _awaits_reply(goroutine):
        return "waits for the reply to its call"
    return next((words for state, words in _STATES if goroutine.state.startswith(state)), f"is in '{goroutine.state}'")


def _holds(goroutine: Goroutine, lock: str) -> tuple[tuple[str, ...], tuple[str, ...], tuple[int, ...]]:
    """Locks that a goroutine holds by the table, their sources, and the addresses of the objects that they lie in."""
    names: list[str] = []
    sources: list[str] = []
    owners: list[int] = []
    for frame in goroutine.frames:
        name = plain(frame.function)
        for known in KNOWN_HOLDERS:
            if known.function.endswith(".startJob") and frame.args[1:2] == ("0x0",):
                continue  # without a channel it takes no lock
            if known.function in name and goroutine.state.startswith(known.states) and known.lock != lock:
                names.append(known.lock)
                sources.append(known.source)
                owners.extend(frame.addresses[:1])
    return tuple(dict.fromkeys(names)), tuple(dict.fromkeys(sources)), tuple(owners)


def _is_driver(goroutine: Goroutine) -> bool:
    return any(package in frame.function for frame in goroutine.frames for package in DRIVER_PACKAGES)


def _same_object(lock_address: int, owners: tuple[int, ...]) -> bool:
    """Whether a lock may lie in one of the owners; unknown addresses do not speak against it."""
    known = [owner for owner in owners if owner > 0xFFFF]
    return not lock_address or not known or any(0 <= lock_address - owner < LOCK_SPAN_BYTES for owner in known)


def wait_graph(dump: str) -> tuple[Wait, ...]:
    """The goroutines that matter: those inside a driver, and whoever holds what they wait for; causes before victims."""
    return graph(parse(dump))


def graph(goroutines: tuple[Goroutine, ...], wanted: Callable[[Goroutine], bool] | None = None) -> tuple[Wait, ...]:
    """`wait_graph` of a dump that was parsed, for the goroutines that are wanted (by default those inside a driver)."""
    locks = {g.id: _lock(g) for g in goroutines}
    held = {g.id: _holds(g, locks[g.id][0]) for g in goroutines}
    inside = {g.id for g in goroutines if (wanted or _is_driver)(g) and g.state not in ("running", "runnable")}
    if wanted is None and not inside:
        inside = {g.id for g in goroutines if held[g.id][0] or locks[g.id][0]}
    holding = [g for g in goroutines if held[g.id][0]]

    def holders(waiter: Goroutine) -> tuple[int, ...]:
        lock, address = locks[waiter.id]
        return tuple(
            g.id
            for g in holding
            if lock in held[g.id][0] and g.id != waiter.id and _same_object(address, held[g.id][2])
        )

    by_id = {g.id: g for g in goroutines}
    held_by: dict[int, tuple[int, ...]] = {}
    queue = [number for number in by_id if number in inside]
    while queue:
        number = queue.pop()
        if number in held_by:
            continue
        held_by[number] = holders(by_id[number]) if locks[number][0] else ()
        queue.extend(held_by[number])
    waits = []
    for number in sorted(held_by, key=lambda n: (bool(locks[n][0]), n)):
        goroutine = by_id[number]
        lock, address = locks[number]
        frame = _named(goroutine)
        waits.append(
            Wait(
                goroutine=number,
                function=frame.name if frame is not None else "?",
                what=_what(goroutine, lock),
                place=short_place(frame) if frame is not None else "",
                lock=lock,
                lock_address=address,
                holds=held[number][0],
                held_by=held_by[number],
                sources=held[number][1],
            )
        )
    return tuple(waits)


def render(waits: tuple[Wait, ...]) -> tuple[str, ...]:
    """The graph as aligned lines: `goroutine 9   jobComplete  sends to ..., holds jobListener   dbus/methods.go:54`."""
    rows = []
    for wait in waits:
        what = wait.what + (f", holds {' and '.join(wait.holds)}" if wait.holds else "")
        if len(wait.held_by) > 0 and wait.lock.startswith(("the lock at", "a lock")):
            what += f", held by goroutine {wait.held_by[0]}"
        rows.append((f"goroutine {wait.goroutine}", wait.function, what, wait.place))
    widths = [max((len(row[i]) for row in rows), default=0) for i in range(3)]
    return tuple(
        "  ".join([*(cell.ljust(width) for cell, width in zip(row[:3], widths, strict=True)), row[3]]).rstrip()
        for row in rows
    )
