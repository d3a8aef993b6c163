"""The look at the world: what could wake a sleeping process without us is named, all else is accounted for."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from cgrace.harness.clock import NS_PER_S
from cgrace.harness.witnesses.sockdiag import SockDiag
from cgrace.harness.witnesses.waits import at_rest
from cgrace.harness.witnesses.world import Ours, World, look, socket_queues


@contextlib.contextmanager
def sleeping(program: str, *arguments: str) -> Iterator[tuple[subprocess.Popen[bytes], Ours]]:
    """A child that ran `program` and then sleeps for good, with the pipes that we hold of it."""
    code = f"import os, signal, sys\n{program}\nprint('ready', flush=True)\nwait = globals().get('wait', signal.pause)\nwait()"
    process = subprocess.Popen(
        [sys.executable, "-c", code, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        pass_fds=(),
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        assert process.stdout.readline() == b"ready\n"
        while at_rest(process.pid) is None:
            pass
        inodes = frozenset(os.fstat(pipe.fileno()).st_ino for pipe in (process.stdin, process.stdout))
        yield process, Ours(pipes=inodes)
    finally:
        process.kill()
        process.wait()
        process.stdin.close()
        process.stdout.close()


def world_of(program: str) -> World:
    with sleeping(program) as (process, ours):
        return look(process.pid, ours)


@pytest.mark.parametrize(
    "program",
    [
        "",
        "a, b = os.pipe()",
        "import socket; a, b = socket.socketpair()",
        "e = os.eventfd(0)",
        "import select; e = select.epoll(); e.register(os.eventfd(0)); e.register(0)",
        "f = open('/proc/self/status'); n = open('/dev/urandom'); d = os.open('/', os.O_RDONLY)",
        "p = os.pidfd_open(os.getpid())",
    ],
)
def test_a_closed_world(program: str) -> None:
    """What only the process itself can make ready, and what is always ready, is accounted for."""
    assert world_of(program).unaccounted == ()


@pytest.mark.parametrize(
    ("program", "word"),
    [
        ("import socket; s = socket.socket(); s.bind(('127.0.0.1', 0)); s.listen()", "a socket whose other end"),
        ("a, b = os.pipe(); os.close(b)", "a pipe whose other end"),
        ("import ctypes; i = ctypes.CDLL(None).inotify_init()", "inotify"),
        ("p = os.pidfd_open(os.getppid())", "a pidfd"),
        ("t = os.open('/dev/ptmx', os.O_RDWR)", "/dev/p"),
        (
            "import select; e = select.epoll(); a = os.eventfd(0); b = os.dup(a); e.register(a); os.close(a)",
            "closed here",
        ),
        ("import select; e = select.epoll(); m = open('/proc/self/mounts'); e.register(m, select.EPOLLPRI)", "watches"),
        ("import signal; wait = lambda: os.read(os.open('/dev/ptmx', os.O_RDWR), 1)", "read of descriptor"),
    ],
)
def test_an_open_world_is_named(program: str, word: str) -> None:
    """What a stranger can make ready is named, in words that say what it is."""
    unaccounted = world_of(program).unaccounted
    assert any(word in why for why in unaccounted), unaccounted


def test_a_pipe_of_ours_is_ours_only_if_told() -> None:
    """The same pipe is accounted for when the engine speaks for it, and named when it does not."""
    with sleeping("") as (process, ours):
        assert look(process.pid, ours).unaccounted == ()
        assert look(process.pid, Ours()).unaccounted == (
            "descriptor 0: a pipe whose other end is not ours",
            "descriptor 1: a pipe whose other end is not ours",
        )


def test_a_timerfd_is_a_limit() -> None:
    """A timer descriptor is no stranger: it bounds how long the world stays as it is."""
    program = """
import ctypes
libc = ctypes.CDLL(None)
t = libc.timerfd_create(1, 0)
libc.timerfd_settime(t, 0, (ctypes.c_long * 4)(0, 0, 100, 0), None)
"""
    world = world_of(program)
    assert world.unaccounted == ()
    assert world.bound_ns is not None
    assert 90 * NS_PER_S < world.bound_ns <= 100 * NS_PER_S


def test_a_childs_descriptors_count() -> None:
    """What a child holds is looked at as well, and told with its pid; a child that we speak for is passed over."""
    program = "c = os.fork()\nif c == 0:\n  a, b = os.pipe(); os.close(b); signal.pause()"
    with sleeping(program) as (process, ours):
        rest = at_rest(process.pid)
        assert rest is not None
        child = rest.processes[1]
        try:
            assert look(process.pid, ours).unaccounted == (
                f"child {child}, descriptor 3: a pipe whose other end is not ours",
            )
            mine = Ours(pipes=ours.pipes, pids=frozenset({child}))
            assert look(process.pid, mine).unaccounted == ()
        finally:
            os.kill(child, 9)


CONNECT = "import socket\ns = socket.socket(socket.AF_UNIX); s.connect(sys.argv[1]); s.send(b'hello')"


def test_a_bus_connection_is_known_by_its_other_end(tmp_path: Path) -> None:
    """A connection is ours when its other end is a descriptor that we hold; what lies in its queues is told both ways."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "bus"))
        listener.listen()
        with sleeping(CONNECT, str(tmp_path / "bus")) as (process, ours):
            not_accepted = look(process.pid, ours)
            assert not_accepted.unaccounted == ("descriptor 3: a socket whose other end is not ours",)
            end, _ = listener.accept()
            with end:
                mine = Ours(connections=(end.fileno(),), pipes=ours.pipes)
                world = look(process.pid, mine)
                assert world.unaccounted == ()
                assert (world.bytes_in, world.bytes_out) == (5, 0)
                end.recv(5)
                end.send(b"unread")
                world = look(process.pid, mine)
                assert world.bytes_in == 0
                assert world.bytes_out > 0


def test_peers_and_queues_of_a_socket_pair() -> None:
    """sock_diag names the other end by inode; the queues empty as the peer reads."""
    one, two = socket.socketpair()
    with one, two, SockDiag() as diag:
        assert diag.peer(os.fstat(one.fileno()).st_ino) == os.fstat(two.fileno()).st_ino
        assert diag.peer(1) is None
        assert socket_queues(one) == (0, 0)
        two.send(b"abc")
        assert socket_queues(one)[0] == 3
        assert socket_queues(two)[1] > 0
        one.recv(3)
        assert socket_queues(one) == (0, 0)
        assert socket_queues(two) == (0, 0)
