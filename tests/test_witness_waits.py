"""The waits witness against real programs: what each thread waits in, and that nothing awake is ever called asleep."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator

import pytest

from cgrace.harness.clock import NS_PER_MS, NS_PER_S
from cgrace.harness.witnesses.rest import RestWatcher
from cgrace.harness.witnesses.syscalls import WAITING_CALLS
from cgrace.harness.witnesses.waits import SYSMON, ProcessGone, Rest, at_rest, sample

pytestmark = pytest.mark.skipif(not WAITING_CALLS, reason="no table of system calls for this machine")

LOOKS_S_MAX = 10.0

GO_PROGRAM = """
package main

import ("bufio"; "fmt"; "os"; "runtime"; "syscall"; "time")

func main() {
	fmt.Println("ready")
	switch os.Args[1] {
	case "channel":
		c := make(chan int)
		go func() { bufio.NewScanner(os.Stdin).Scan() }()
		<-c
	case "after":
		<-time.After(60 * time.Second)
	case "ticker":
		for range time.Tick(5 * time.Millisecond) { }
	case "busy":
		for { }
	case "behind":
		runtime.GOMAXPROCS(1)
		var ends [2]int
		syscall.Pipe(ends[:])
		one := make([]byte, 1)
		for {
			go syscall.Write(ends[1], one)
			syscall.Read(ends[0], one)
		}
	case "ping-pong":
		a, b := make(chan int), make(chan int)
		go func() { for { <-a; b <- 1 } }()
		for { a <- 1; <-b }
	}
}
"""

PYTHON_PING_PONG = """
import os, threading
a, b = os.pipe(), os.pipe()
def back():
    while True:
        os.read(a[0], 1)
        os.write(b[1], b"x")
threading.Thread(target=back, daemon=True).start()
print("ready", flush=True)
while True:
    os.write(a[1], b"x")
    os.read(b[0], 1)
"""


@contextlib.contextmanager
def running(argv: list[str]) -> Iterator[subprocess.Popen[bytes]]:
    """A child that has said that it is ready; it is gone afterwards."""
    process = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdin is not None
    try:
        assert process.stdout.readline() == b"ready\n"
        yield process
    finally:
        process.kill()
        process.wait()
        process.stdin.close()
        process.stdout.close()


def python(program: str) -> list[str]:
    return [sys.executable, "-c", "print('ready', flush=True)\n" + program]


def rest_of(pid: int, note: tuple[int, int] | None = None, wanted: Callable[[Rest], bool] = lambda _: True) -> Rest:
    """Look until it rests as wanted."""
    end = time.monotonic() + LOOKS_S_MAX
    while time.monotonic() < end:
        rest = at_rest(pid, note)
        if rest is not None and wanted(rest):
            return rest
    raise AssertionError(f"never at rest as wanted: {sample(pid)}")


@pytest.mark.parametrize(
    ("program", "where", "bound_s"),
    [
        ("import threading; l = threading.Lock(); l.acquire(); l.acquire()", "futex", None),
        ("import threading; l = threading.Lock(); l.acquire(); l.acquire(timeout=50)", "futex until a deadline", 50),
        ("import select; e = select.epoll(); e.poll()", "epoll", None),
        ("import select; e = select.epoll(); e.poll(30)", "epoll", 30),
        ("import select; select.poll().poll()", "poll", None),
        ("import select; select.poll().poll(20000)", "poll", 20),
        ("import select; select.select([], [], [], 40)", "select", 40),
        ("import time; time.sleep(60)", "nanosleep", 60),
        ("import signal; signal.pause()", "pause", None),
        ("import os; os.read(0, 1)", "read of an empty pipe", None),
        ("import os; a, b = os.pipe()\nwhile True: os.write(b, bytes(65536))", "write to a full pipe", None),
        ("import signal; signal.sigtimedwait([10], 25)", "rt_sigtimedwait", 25),
    ],
)
def test_a_wait_is_told_with_its_limit(program: str, where: str, bound_s: int | None) -> None:
    """Each kind of wait is named, and its limit is the program's own, to a second."""
    with running(python(program)) as process:
        rest = rest_of(process.pid, wanted=lambda rest: where in rest.threads[0].where)
        assert rest.unjudged == ()
        if bound_s is None:
            assert rest.bound_ns is None
        else:
            assert rest.bound_ns is not None
            assert (bound_s - 2) * NS_PER_S < rest.bound_ns <= bound_s * NS_PER_S


def test_the_least_limit_of_many_threads_counts() -> None:
    """Of several threads the first to wake bounds the rest, and every one is listed."""
    program = """
import threading
lock = threading.Lock()
lock.acquire()
for seconds in (500, 40, 300):
    threading.Thread(target=lock.acquire, kwargs={"timeout": seconds}, daemon=True).start()
lock.acquire()
"""
    with running(python(program)) as process:
        rest = rest_of(process.pid, wanted=lambda rest: len(rest.threads) == 4 and rest.bound_ns is not None)
        assert rest.bound_ns is not None
        assert 38 * NS_PER_S < rest.bound_ns <= 40 * NS_PER_S
        assert sum(thread.bound_ns is None for thread in rest.threads) == 1


def test_children_rest_too() -> None:
    """A process that waits for a child rests as the child does, and is bounded by the child's limit."""
    program = "import subprocess; subprocess.run(['sleep', '70'])"
    with running(python(program)) as process:
        rest = rest_of(process.pid, wanted=lambda rest: len(rest.processes) == 2 and rest.bound_ns is not None)
        child = rest.processes[1]
        assert 60 * NS_PER_S < (rest.bound_ns or 0) <= 70 * NS_PER_S
        os.kill(child, signal.SIGTERM)


def test_a_busy_child_keeps_its_parent_from_rest() -> None:
    """While a child runs, its waiting parent is not at rest."""
    program = "import os\nif os.fork() == 0:\n  while True: pass\nos.wait()"
    with running(python(program)) as process:
        try:
            assert not any(at_rest(process.pid) for _ in range(200))
        finally:
            for child in sample(process.pid).children:
                os.kill(child, signal.SIGKILL)


def test_a_stopped_process_is_not_judged() -> None:
    """A process under SIGSTOP sleeps, but whoever stopped it can let it go on, and that is said."""
    with running(python("import signal; signal.pause()")) as process:
        process.send_signal(signal.SIGSTOP)
        rest = rest_of(process.pid, wanted=lambda rest: bool(rest.unjudged))
        assert "stopped by a signal" in rest.unjudged[0]


def test_a_process_that_ended_is_told() -> None:
    """Looking at a process that is gone raises ProcessGone, and the watcher answers None."""
    process = subprocess.Popen(["true"])
    process.wait()
    with pytest.raises(ProcessGone):
        at_rest(process.pid)
    assert RestWatcher(process.pid).look() is None


@pytest.mark.parametrize("loaded", [False, True], ids=["alone", "both cores busy"])
def test_ping_pong_is_never_at_rest(loaded: bool) -> None:
    """Two threads that take turns look asleep in every single look, and never in a double one: 2,000 of 2,000."""
    with contextlib.ExitStack() as stack:
        if loaded:
            for _ in range(2):
                stack.enter_context(running(python("while True: pass")))
        process = stack.enter_context(running([sys.executable, "-c", PYTHON_PING_PONG]))
        assert sum(at_rest(process.pid) is not None for _ in range(2_000)) == 0


def test_until_rest_waits_for_the_queues() -> None:
    """The watcher answers only when the connections are empty, or when unread bytes are allowed."""

    async def scenario() -> None:
        with running(python("import signal; signal.pause()")) as process:
            rest_of(process.pid)
            left = [(0, 7), (3, 0)]
            watcher = RestWatcher(process.pid, queues=lambda: left[-1] if left else (0, 0))
            assert watcher.look() is None
            assert watcher.look(unread_too=True) is None
            left.pop()
            assert watcher.look() is None
            assert watcher.look(unread_too=True) is not None
            assert await watcher.until_rest(0.005) is None
            left.clear()
            assert await watcher.until_rest(5) is not None

    asyncio.run(scenario())


def test_a_look_is_cheap() -> None:
    """A double sample of ten threads stays far below the shortest poll, in processor time (measured: 0.6 ms)."""
    program = """
import threading
lock = threading.Lock()
lock.acquire()
for _ in range(9):
    threading.Thread(target=lock.acquire, daemon=True).start()
lock.acquire()
"""
    with running(python(program)) as process:
        rest_of(process.pid, wanted=lambda rest: len(rest.threads) == 10)
        costs = []
        for _ in range(50):
            begin = time.thread_time_ns()
            at_rest(process.pid)
            costs.append(time.thread_time_ns() - begin)
        assert sorted(costs)[25] < 5 * NS_PER_MS


# ---- Go


@pytest.fixture(scope="module")
def go_program(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, tuple[int, int]]:
    """A Go program that waits in several ways, with the address range of its scheduler, where sysmon's note lies."""
    go = shutil.which("go")
    if go is None:
        pytest.skip("no Go compiler on PATH")
    folder = tmp_path_factory.mktemp("go")
    (folder / "main.go").write_text(GO_PROGRAM)
    binary = folder / "waits"
    subprocess.run([go, "build", "-o", str(binary), "main.go"], cwd=folder, check=True)
    symbols = subprocess.run(
        [go, "tool", "nm", "-size", str(binary)], check=True, capture_output=True, text=True
    ).stdout.splitlines()
    address, size = next(line.split()[:2] for line in symbols if line.split()[-1] == "runtime.sched")
    return str(binary), (int(address, 16), int(address, 16) + int(size))


def test_a_goroutine_on_a_channel_waits_without_limit(go_program: tuple[str, tuple[int, int]]) -> None:
    """A Go program stuck on a channel has no limit: sysmon's own timed futex is set aside, and known as such."""
    binary, note = go_program
    with running([binary, "channel"]) as process:
        rest = rest_of(process.pid, note, lambda rest: any(t.where == "read of an empty pipe" for t in rest.threads))
        assert rest.bound_ns is None
        assert rest.unjudged == ()
        assert [thread.ignored for thread in rest.threads if thread.ignored] == [SYSMON]
        without = rest_of(process.pid)
        assert without.bound_ns is not None, "an unknown timed futex is a limit like any other"


def test_a_go_timer_is_the_limit(go_program: tuple[str, tuple[int, int]]) -> None:
    """A goroutine that waits for a timer bounds the process by what is left of that timer."""
    binary, note = go_program
    with running([binary, "after"]) as process:
        rest = rest_of(process.pid, note, lambda rest: rest.bound_ns is not None)
        assert rest.bound_ns is not None
        assert 50 * NS_PER_S < rest.bound_ns <= 60 * NS_PER_S


def test_a_ticker_bounds_every_rest(go_program: tuple[str, tuple[int, int]]) -> None:
    """A program with a ticker may rest between ticks, but never without a limit."""
    binary, note = go_program
    with running([binary, "ticker"]) as process:
        rests = [rest for _ in range(500) if (rest := at_rest(process.pid, note)) is not None]
        assert all(rest.bound_ns is not None and rest.bound_ns <= 5 * NS_PER_MS for rest in rests)


@pytest.mark.parametrize("mode", ["busy", "ping-pong"])
def test_a_go_program_at_work_is_never_at_rest(go_program: tuple[str, tuple[int, int]], mode: str) -> None:
    """A loop, and goroutines that hand over to each other, are never called asleep: 2,000 of 2,000."""
    binary, note = go_program
    with running([binary, mode]) as process:
        assert sum(at_rest(process.pid, note) is not None for _ in range(2_000)) == 0


def test_a_goroutine_behind_a_system_call_is_no_rest(go_program: tuple[str, tuple[int, int]]) -> None:
    """A runnable goroutine whose only P sits in a blocking read: every thread sleeps, until sysmon's next nap is over.

    Such a moment is seen as a rest that still polls, and never as one that proves anything.
    """
    binary, note = go_program
    with running([binary, "behind"]) as process:
        rests = [at_rest(process.pid, note, polling_too=True) for _ in range(2_000)]
        assert all(rest.polling for rest in rests if rest is not None)
