"""What other people's programs wait in: Go programs, sockets with and without a limit of their own, and pipes with a name."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from cgrace.harness.witnesses import programs
from cgrace.harness.witnesses.waits import Rest, at_rest, sample, sysmon_of
from cgrace.harness.witnesses.world import Ours, look

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="looking into another process takes root")


@contextmanager
def child(text: str, *arguments: str, passing: tuple[int, ...] = ()) -> Iterator[subprocess.Popen[bytes]]:
    """A Python program; it is killed at the end."""
    argv = [sys.executable, "-I", "-S", "-c", text, *arguments]
    null = subprocess.DEVNULL
    process = subprocess.Popen(argv, stdin=null, stdout=null, stderr=null, pass_fds=passing)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def rest_of(pid: int) -> Rest:
    """Its rest in its one waiting call, which comes within a few seconds."""
    until = time.monotonic() + 10
    while time.monotonic() < until:
        rest = at_rest(pid)
        if rest is not None:
            return rest
        time.sleep(0.01)
    raise AssertionError("it did not come to rest")


@pytest.mark.parametrize(("limit_s", "bound_ns"), [(0, None), (7, 7_000_000_000)])
def test_a_socket_keeps_its_own_limit(limit_s: int, bound_ns: int | None) -> None:
    """A blocking receive waits as long as SO_RCVTIMEO says, which only the socket knows; without it, for ever."""
    ours, theirs = socket.socketpair()
    text = (
        "import os, socket, struct, sys\n"
        "end = socket.socket(fileno=int(sys.argv[1]))\n"
        "end.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack('qq', int(sys.argv[2]), 0))\n"
        "os.read(int(sys.argv[1]), 1)\n"
    )
    with ours, theirs, child(text, str(theirs.fileno()), str(limit_s), passing=(theirs.fileno(),)) as process:
        rest = rest_of(process.pid)
        assert rest.bound_ns == bound_ns
        assert rest.unjudged == ()
        assert [wait.where for wait in rest.threads] == ["read of a socket"]


@pytest.mark.parametrize("polled", [True, False])
def test_a_pipe_with_a_name_wakes_only_who_waits_on_it(polled: bool, tmp_path: Path) -> None:
    """Anybody may open a pipe with a name: it counts for a process that polls it, and not for one that sleeps elsewhere."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    text = (
        "import os, select, sys\n"
        "fifo = os.open(sys.argv[1], os.O_RDONLY | os.O_NONBLOCK)\n"
        "ours = os.pipe()\n"
        "poll = select.poll()\n"
        "poll.register(fifo if sys.argv[2] == 'True' else ours[0], select.POLLIN)\n"
        "poll.poll()\n"
    )
    with child(text, str(pipe), str(polled)) as process:
        rest_of(process.pid)
        (thread,) = sample(process.pid).threads
        assert thread.wait is not None
        numbers = programs.waited_on(process.pid, thread.wait.call, thread.wait.arguments)
        assert numbers is not None
        assert len(numbers) == 1
        named = [text for text in look(process.pid, Ours()).unaccounted if str(pipe) in text]
        assert bool(named) is polled


def test_what_a_call_waits_on() -> None:
    """Reads and epoll wait on their first argument, sleeps on nothing; select's sets are not read, so nobody knows."""
    assert programs.waited_on(os.getpid(), "read", (5, 0, 1, 0, 0, 0)) == (5,)
    assert programs.waited_on(os.getpid(), "epoll_pwait", (9, 0, 1, 0, 0, 0)) == (9,)
    assert programs.waited_on(os.getpid(), "futex", (0, 0, 0, 0, 0, 0)) == ()
    assert programs.waited_on(os.getpid(), "pselect6", (1, 0, 0, 0, 0, 0)) is None
    assert programs.waited_on(os.getpid(), "ppoll", (0, 1, 0, 0, 0, 0)) is None


def test_a_python_is_no_go_program() -> None:
    """Only an executable with Go's mark is one, and a process that is gone is none."""
    assert not programs.is_go(os.getpid())
    with child("") as process:
        pass
    assert not programs.is_go(process.pid)
    stop, ready = threading.Event(), threading.Event()

    def wait() -> None:
        ready.set()
        stop.wait()

    thread = threading.Thread(target=wait)
    thread.start()
    ready.wait()
    assert sysmon_of(sample(os.getpid())) == 0  # threads alone do not make it one
    stop.set()
    thread.join()


@pytest.mark.skipif(shutil.which("go") is None, reason="no go tool on this machine")
def test_a_go_program_is_known_by_its_executable() -> None:
    """The go tool itself is one, stripped or not."""
    tool = shutil.which("go")
    assert tool is not None
    descriptor = os.open(Path(tool).resolve(), os.O_RDONLY)
    try:
        assert programs._has_mark(descriptor, (1, 2, 3, 4))
    finally:
        os.close(descriptor)
        programs._looked_at.pop((1, 2, 3, 4))


def test_a_poll_of_nothing_waits_on_nothing() -> None:
    """ppoll without descriptors, as our own workloads sleep, waits on none."""
    with child("import select; select.poll().poll()") as process:
        rest_of(process.pid)
        (thread,) = sample(process.pid).threads
        assert thread.wait is not None
        assert programs.waited_on(process.pid, thread.wait.call, thread.wait.arguments) == ()
