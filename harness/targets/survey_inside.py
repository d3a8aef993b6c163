"""What the machine that this runs on offers cgrace, and which way cgrace goes where something is missing: one JSON list on stdout.

Run inside a machine that ssh leads to (survey.py) with the Python that was taken along, and on this very machine. Looks, and
leaves nothing: the kernel's witness is opened and closed.
"""

from __future__ import annotations

import asyncio
import dataclasses
import json
import os
import platform
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from cgrace.harness.dbus import systemd1
from cgrace.harness.errors import CgraceError, TargetError
from cgrace.harness.proc import standstill
from cgrace.harness.proc.handle import has_pidfd
from cgrace.harness.targets import filters
from cgrace.harness.targets.bus_client import BusClient
from cgrace.harness.targets.host import BOOTED, BUS_SOCKET
from cgrace.harness.targets.linux import mount_detached
from cgrace.harness.targets.namespaces import tells_pids
from cgrace.harness.targets.owner import UNIT_PREFIX, is_locked
from cgrace.harness.targets.probe import Check
from cgrace.harness.witnesses.sockdiag import SockDiag
from cgrace.harness.witnesses.tracefs import KernelWitness
from cgrace.harness.witnesses.waits import lists_children

WITNESS: Final = "witness"
HELD_CALLS: Final = "held calls"
BUS: Final = "bus"
NAMESPACE: Final = "cgroup namespace"
STANDSTILL: Final = "stopped systemd"
SYSCALL: Final = "thread waits"
NEEDED: Final = frozenset({BUS, SYSCALL})
_UNSHARE: Final = "import ctypes, sys; sys.exit(ctypes.CDLL(None).unshare(0x02000000) != 0)"  # CLONE_NEWCGROUP
ANSWER_S_MAX: Final = 10.0


def look(*, its_systemd: bool = True, is_init: bool = True) -> Iterator[Check]:
    """Every look. Never raises for what the machine lacks. its_systemd: also what matters only where a systemd that runs there is
    the target; is_init: which is PID 1."""
    if its_systemd:
        yield from _own_systemd(is_init)
    yield _check(
        WITNESS,
        "who made, removed or emptied which cgroup",
        _kernel_witness,
        there="tracefs with cgroup events",
        instead="inotify instead, which sees cgroups come and go, not by whom, and no moves of processes",
    )
    yield _check(
        HELD_CALLS,
        "faults that stop a driver in a system call (hold_open: row 1-4b)",
        filters.available,
        there="seccomp user notification",
        instead="such scenarios cannot run here",
    )
    yield _check(
        "pidfd",
        "ends of processes",
        lambda: "" if has_pidfd() else "no pidfd_open (before Linux 5.3)",
        there="pidfd_open",
        instead="waitid in a thread for our children, /proc every 5 ms for others",
    )
    yield _check(
        "mounts",
        "hierarchies that the machine has not mounted",
        _mount_api,
        there="fsopen, fsmount: detached, seen by nobody",
        instead="what the machine has mounted is used",
    )
    yield _check(
        "process tree",
        "proofs of hangs: a driver's children",
        lambda: "" if lists_children() else "this kernel lists no children (CONFIG_PROC_CHILDREN)",
        there="children in /proc",
        instead="every process is asked for its parent",
    )
    yield _check(
        "pids",
        "pids inside and outside of namespaces",
        lambda: "" if tells_pids() else "no NSpid (before Linux 4.1)",
        there="NSpid in /proc",
        instead="the machine's own namespace alone, where a pid is the same on both sides",
    )
    yield _check(
        SYSCALL,
        "proofs of hangs: in which call each thread sleeps",
        lambda: "" if Path("/proc/self/syscall").exists() else "no /proc/PID/syscall (CONFIG_HAVE_ARCH_TRACEHOOK)",
        there="/proc/PID/syscall",
        instead="a hang is never proved: it ends as 'cannot tell'",
    )
    yield _check(
        "sockets",
        "proofs of hangs: who is at the other end",
        _unix_diag,
        there="unix_diag",
        instead="a hang with a socket open is never proved: it ends as 'cannot tell' (modprobe unix_diag)",
    )


def _own_systemd(is_init: bool) -> Iterator[Check]:
    yield _bus()
    yield _check(
        NAMESPACE,
        "targets fake and container on that machine; not for its own systemd",
        _cgroup_namespace,
        there="not used: a run's processes live in the machine's own namespaces",
        instead="none is used: a run's processes live in the machine's own, and its units bear our prefix",
    )
    if is_init:  # a signal stops any other
        yield _check(
            STANDSTILL,
            "faults that stop systemd (corpus/systemd_does_not_read)",
            standstill.refusal,
            there="PID 1 is traced (ptrace), and goes on when cgrace ends",
            instead="such scenarios cannot run here",
        )


def _check(name: str, needed_for: str, lacks: Callable[[], str], *, there: str, instead: str) -> Check:
    try:
        why = lacks()
    except OSError as error:
        why = str(error.strerror or error)
    return Check(name=name, ok=not why, found=f"{why}: {instead}" if why else there, needed_for=needed_for)


def _bus() -> Check:
    async def ask() -> str:
        async with asyncio.timeout(ANSWER_S_MAX), BusClient(BUS_SOCKET) as bus:
            return str(await bus.get(systemd1.PATH, systemd1.MANAGER, "Version"))

    version = ""
    try:
        version = asyncio.run(ask())
        why = "another cgrace works with this systemd" if is_locked(str(BOOTED)) else ""
    except (CgraceError, TimeoutError, OSError) as error:
        why = getattr(error, "message", "") or f"{BUS_SOCKET} gives no answer within {ANSWER_S_MAX:g} s"
    return Check(
        name=BUS,
        ok=not why,
        found=f"{why}: nothing can run" if why else f"{BUS_SOCKET}, where systemd {version} answers",
        needed_for="everything",
    )


def _kernel_witness() -> str:
    try:
        KernelWitness.open(UNIT_PREFIX).close()
    except TargetError as error:
        return error.message
    return ""


def _cgroup_namespace() -> str:
    if not Path("/proc/self/ns/cgroup").exists():
        return "this kernel has none (before 4.6)"
    words = [sys.executable, "-S", "-c", _UNSHARE]
    return "" if subprocess.run(words, check=False).returncode == 0 else "we may not make one here"


def _mount_api() -> str:
    os.close(mount_detached("proc"))
    return ""


def _unix_diag() -> str:
    ours, theirs = socket.socketpair()
    with ours, theirs, SockDiag() as diag:
        return "" if diag.peer(os.fstat(ours.fileno()).st_ino) is not None else "the kernel does not tell (unix_diag)"


def facts() -> dict[str, str]:
    """Of the Python that this is."""
    return {"python": platform.python_version(), "executable": sys.executable}


if __name__ == "__main__":
    json.dump({"facts": facts(), "checks": [dataclasses.asdict(check) for check in look()]}, sys.stdout)
