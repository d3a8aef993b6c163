"""Stopping a process, and PID 1 of one's own pid namespace, which takes no signal for it."""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
import sys

import pytest

from cgrace.harness.proc import standstill

# PID 1 of a pid namespace of its own; its child is what runs CODE there and tells what /proc says of PID 1.
_INIT = """
import os, subprocess, sys
child = subprocess.run([sys.executable, "-c", sys.argv[1]], stdout=subprocess.PIPE, text=True)
print(child.stdout, end="")
print("after", child.returncode)
"""
_STATE = """
import os, signal, sys
from cgrace.harness.proc import standstill
def state():
    return open("/proc/1/stat").read().rpartition(")")[2].split()[0]
print("refusal", repr(standstill.refusal()), flush=True)
"""


def inside(code: str) -> list[str]:
    """What code prints next to a PID 1 that waits for it."""
    if os.geteuid() != 0 or not shutil.which("unshare"):
        pytest.skip("pid namespaces take root and unshare")
    argv = ["unshare", "--pid", "--fork", "--mount-proc", "--kill-child", sys.executable, "-c", _INIT, _STATE + code]
    return subprocess.run(argv, stdout=subprocess.PIPE, text=True, timeout=60, check=True).stdout.splitlines()


def test_pid_1_stands_still_and_goes_on() -> None:
    """PID 1 is stopped from inside of its own namespace, does not run, and runs again."""
    told = inside("standstill.stop(1); print(state()); standstill.go_on(1); print(state() in 'SR')")
    assert told == ["refusal ''", "t", "True", "after 0"]


def test_a_signal_does_not_stop_pid_1() -> None:
    """What made us trace it: the kernel drops the signal."""
    assert inside("os.kill(1, signal.SIGSTOP); print(state() in 'SR')") == ["refusal ''", "True", "after 0"]


def test_pid_1_goes_on_when_its_tracer_is_killed() -> None:
    """Nobody has to sweep up after a cgrace that was killed while PID 1 stood still."""
    assert inside("standstill.stop(1); os.kill(os.getpid(), signal.SIGKILL)") == ["refusal ''", "after -9"]


def test_going_on_is_nothing_to_who_was_not_stopped() -> None:
    """A run lets systemd go on at its end whether or not a fault had stopped it."""
    assert inside("standstill.go_on(1); print(state() in 'SR')") == ["refusal ''", "True", "after 0"]


def test_another_process_is_stopped_by_a_signal() -> None:
    """From outside of its namespace a container's systemd is a process like others."""
    with subprocess.Popen(["sleep", "60"]) as child:
        try:
            standstill.stop(child.pid)
            assert os.WIFSTOPPED(os.waitpid(child.pid, os.WUNTRACED)[1])
            standstill.go_on(child.pid)
            assert os.WIFCONTINUED(os.waitpid(child.pid, os.WCONTINUED)[1])
        finally:
            child.kill()


def test_where_it_is_refused_a_sentence_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a user reads who may not trace PID 1; it is tried once, for a stopped PID 1 stops everybody."""
    tried = []

    def refuse(request: int, pid: int) -> None:
        tried.append(pid)
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(standstill, "_trace", refuse)
    refusal = functools.cache(standstill.refusal.__wrapped__)
    told = {refusal() for _ in range(3)}
    assert told == {"nobody can stop PID 1 here, ptrace of it is refused (Operation not permitted)"}
    assert tried == [1]
