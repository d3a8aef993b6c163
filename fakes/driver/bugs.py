"""The reference driver's bugs, by name. Each is one small difference from the correct driver, put in on purpose.

BUGS maps a name to what makes the shim. What each must come to is said in tests/test_engine_mutants.py.
"""

from __future__ import annotations

import os
import queue
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cgrace.fakes.driver import tree
from cgrace.fakes.driver.bus import Bus
from cgrace.fakes.driver.driver import Driver
from cgrace.fakes.driver.shim import Shim
from cgrace.harness.dbus.codec import encode
from cgrace.harness.dbus.message import Message
from cgrace.harness.dbus.systemd1 import BUS_NAME, TO_MANAGER, call_to

STDERR_LINES = 30_000
TICK_S = 0.05
TIMER_S = 30.0
_SLEEPER = (sys.executable, "-S", "-c", "import signal; signal.pause()")


def _wait_for_ever() -> None:
    threading.Event().wait()


# ---- bugs of the driver


class WaitsForEver(Driver):
    """Waits for the job without a limit."""

    def wait(self, removed: queue.SimpleQueue[tuple[str, str]], job: str) -> str:
        """As Driver."""
        while True:
            path, result = removed.get()
            if path == job:
                return result


class Ticks(Driver):
    """Waits without a limit, and wakes all the time to look whether anything is new."""

    def wait(self, removed: queue.SimpleQueue[tuple[str, str]], job: str) -> str:
        """As Driver."""
        while True:
            try:
                path, result = removed.get(timeout=TICK_S)
            except queue.Empty:
                continue
            if path == job:
                return result


class TalksToOthers(WaitsForEver):
    """Waits without a limit, and has a socket through which anybody may wake it."""

    def start(self) -> list[str]:
        """As Driver."""
        self.stranger = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        return super().start()


class LocksOverWait(WaitsForEver):
    """Holds the lock that the signal's reader needs, while it waits for the signal."""

    def __init__(self) -> None:
        super().__init__()
        self._jobs = threading.Lock()

    def job(self, unit: str, member: str, signature: str, body: tuple[Any, ...]) -> None:
        """As Driver."""
        with self._jobs:
            super().job(unit, member, signature, body)

    def on_signal(self, message: Message) -> None:
        """As Driver."""
        with self._jobs:
            super().on_signal(message)


class _DeafBus(Bus):
    """Reads the answer to its Hello, and nothing after it."""

    def _take(self, message: Message) -> None:
        super()._take(message)
        _wait_for_ever()


class NeverReads(Driver):
    """Calls, and never reads what comes back."""

    def start_unit(self, unit: str, parent: str, pid: int, delegate: bool | None) -> None:
        """As Driver."""
        deaf = _DeafBus()
        deaf.connect()
        deaf.call("GetUnit", "s", (unit,), limit_s=None)


class HalfAMessage(Driver):
    """Sends the first half of a call, and waits for its answer."""

    def start_unit(self, unit: str, parent: str, pid: int, delegate: bool | None) -> None:
        """As Driver."""
        call = call_to(TO_MANAGER, "StopUnit", "ss", (unit, "replace"), serial=99)
        raw = encode(call)
        self.calls.write(raw[: len(raw) // 2])
        _wait_for_ever()


class Garbage(Driver):
    """Sends what is not D-Bus; the bus hangs up."""

    def start_unit(self, unit: str, parent: str, pid: int, delegate: bool | None) -> None:
        """As Driver."""
        self.calls.write(b"\xff" * 64)
        super().start_unit(unit, parent, pid, delegate)


class FloodsBus(Driver):
    """Asks the bus the same thing for ever."""

    def start_unit(self, unit: str, parent: str, pid: int, delegate: bool | None) -> None:
        """As Driver."""
        while True:
            self.calls.call("GetId", destination=BUS_NAME, path="/org/freedesktop/DBus", interface=BUS_NAME)


class Spins(Driver):
    """Computes for ever."""

    def start_unit(self, unit: str, parent: str, pid: int, delegate: bool | None) -> None:
        """As Driver."""
        while True:
            pass


class LeaksChild(Driver):
    """Starts a process and never ends it."""

    def apply(self, unit: str, parent: str, pid: int, delegate: bool | None = None) -> dict[str, str]:
        """As Driver."""
        self.child = subprocess.Popen(
            _SLEEPER, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        return super().apply(unit, parent, pid, delegate)


class LeaksOrphans(Driver):
    """Starts processes that start processes, and leaves those to themselves; they keep its stdout open."""

    def apply(self, unit: str, parent: str, pid: int, delegate: bool | None = None) -> dict[str, str]:
        """As Driver."""
        script = f"import subprocess; [subprocess.Popen({_SLEEPER!r}, start_new_session=True) for _ in range(5)]"
        subprocess.run([sys.executable, "-S", "-c", script], check=True)
        return super().apply(unit, parent, pid, delegate)


class LeaksUnit(Driver):
    """Destroy removes directories, and leaves the unit."""

    def stop_unit(self, unit: str) -> None:
        """As Driver."""


class LeaksCgroup(Driver):
    """Destroy stops the unit, and leaves the directories that systemd does not know."""

    def destroy(self, unit: str, parent: str) -> None:
        """As Driver."""
        self.stop_unit(unit)


class FalsePath(Driver):
    """Reports a path and does not make it."""

    def apply(self, unit: str, parent: str, pid: int, delegate: bool | None = None) -> dict[str, str]:
        """As Driver."""
        paths = super().apply(unit, parent, pid, delegate)
        return {name: f"{path}/elsewhere" for name, path in paths.items()}


class LiesAboutProcess(Driver):
    """Reports success, and puts the process nowhere."""

    def apply(self, unit: str, parent: str, pid: int, delegate: bool | None = None) -> dict[str, str]:
        """As Driver."""
        self.start_unit(unit, parent, pid, delegate)
        paths = tree.paths_of(parent, unit)
        for path in paths.values():
            tree.make(Path(path))
        return paths


class Refuses(Driver):
    """Cannot be used, and says so."""

    def __init__(self, why: str) -> None:
        super().__init__()
        self._why = why

    def start(self) -> list[str]:
        """As Driver."""
        raise ValueError(self._why)


# ---- bugs of the process


class StaleTimer(Shim):
    """A thread sleeps on for a timer that nobody wants any more, until something else wakes the process: so Go's poller does."""

    def __init__(self, driver: Driver) -> None:
        super().__init__(driver)
        self._woken = threading.Event()
        threading.Thread(target=self._poll, daemon=True).start()

    def _poll(self) -> None:
        self._woken.wait(TIMER_S)
        _wait_for_ever()

    def say(self, data: dict[str, Any]) -> None:
        """As Shim; to be asked for its stacks wakes it."""
        super().say(data)
        if "hello" not in data:
            self._woken.set()


class Babbles(Shim):
    """Prints to stdout what is no answer."""

    def answer(self, request: dict[str, Any]) -> None:
        """As Shim."""
        self.write(b"Warning: this is not the protocol\n")
        super().answer(request)


class EndlessLine(Shim):
    """Prints one line that never ends."""

    def answer(self, request: dict[str, Any]) -> None:
        """As Shim."""
        while True:
            self.write(b"x" * (1 << 20))


class AnswersTwice(Shim):
    """Answers everything a second time."""

    def answer(self, request: dict[str, Any]) -> None:
        """As Shim."""
        super().answer(request)
        self.say({"id": request["id"], "ok": True, "error": "", "ns": 1, "value": ""})


class AnswersUnknown(Shim):
    """Answers what nobody asked."""

    def answer(self, request: dict[str, Any]) -> None:
        """As Shim."""
        self.say({"id": "nobody", "ok": True, "error": "", "ns": 1, "value": ""})
        super().answer(request)


class ClosesStdout(Shim):
    """Closes its stdout, and lives on."""

    def answer(self, request: dict[str, Any]) -> None:
        """As Shim."""
        os.close(1)


class Dies(Shim):
    """Ends in the middle of a step: by this signal, or with this status."""

    def __init__(self, driver: Driver, *, by: int = 0, status: int = 0) -> None:
        super().__init__(driver)
        self._by = by
        self._status = status

    def answer(self, request: dict[str, Any]) -> None:
        """As Shim."""
        if self._by:
            signal.raise_signal(self._by)
        os._exit(self._status)


class NoHello(Shim):
    """Is ready, and does not say so."""

    def hello(self) -> None:
        """As Shim."""
        self.driver.start()


class DiesAtOnce(Shim):
    """Ends before it has said anything."""

    def hello(self) -> None:
        """As Shim."""
        os._exit(7)


class FloodsStderr(Shim):
    """Writes to stderr more than anybody reads, then does its work."""

    def answer(self, request: dict[str, Any]) -> None:
        """As Shim."""
        for _ in range(STDERR_LINES // 100):
            os.write(2, b"debug: nothing happened\n" * 100)
        super().answer(request)


class IgnoresSigterm(Shim):
    """Cannot be asked to end."""

    def hello(self) -> None:
        """As Shim."""
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
        super().hello()


def _with(driver: type[Driver]) -> Callable[[], Shim]:
    return lambda: Shim(driver())


BUGS: dict[str, Callable[[], Shim]] = {
    "waits-for-ever": _with(WaitsForEver),
    "ticks": _with(Ticks),
    "talks-to-others": _with(TalksToOthers),
    "locks-over-wait": _with(LocksOverWait),
    "never-reads": _with(NeverReads),
    "half-a-message": _with(HalfAMessage),
    "garbage": _with(Garbage),
    "floods-bus": _with(FloodsBus),
    "spins": _with(Spins),
    "leaks-child": _with(LeaksChild),
    "leaks-orphans": _with(LeaksOrphans),
    "leaks-unit": _with(LeaksUnit),
    "leaks-cgroup": _with(LeaksCgroup),
    "false-path": _with(FalsePath),
    "lies-about-process": _with(LiesAboutProcess),
    "stale-timer": lambda: StaleTimer(WaitsForEver()),
    "babbles": lambda: Babbles(Driver()),
    "endless-line": lambda: EndlessLine(Driver()),
    "answers-twice": lambda: AnswersTwice(Driver()),
    "answers-unknown": lambda: AnswersUnknown(Driver()),
    "closes-stdout": lambda: ClosesStdout(Driver()),
    "dies-by-signal": lambda: Dies(Driver(), by=signal.SIGSEGV),
    "dies-by-exit": lambda: Dies(Driver(), status=3),
    "no-hello": lambda: NoHello(Driver()),
    "dies-at-once": lambda: DiesAtOnce(Driver()),
    "floods-stderr": lambda: FloodsStderr(Driver()),
    "ignores-sigterm": lambda: IgnoresSigterm(Driver()),
}
