"""Whether a process sleeps, where the kernel lets us see no more of it than anybody.

A process with a capability that we lack keeps the system calls of its threads from us (proc_pid_syscall(5), ptrace(2)): so does a
user's systemd that was given CAP_WAKE_ALARM. The states of its threads, and how often they were switched out, are for everybody.
By these it is told here, in the order that waits.py argues for. What is not told is in what it sleeps: a systemd that waits for
an answer of somebody else's inside a call looks as if it waited for work. So this serves to observe, and to prove nothing.
"""

from __future__ import annotations

import os
from pathlib import Path


def sleeps(pid: int) -> bool:
    """Whether every thread of the process slept at one instant; True, too, when it has ended."""
    before = _threads(pid)
    if any(state != "S" for state, _ in before.values()):
        return False
    return _threads(pid) == before


def _threads(pid: int) -> dict[str, tuple[str, int]]:
    """The state and the number of switches of each thread; {} when the process has ended."""
    try:
        return {name: _look(f"/proc/{pid}/task/{name}") for name in os.listdir(f"/proc/{pid}/task")}  # noqa: PTH208
    except (FileNotFoundError, ProcessLookupError):
        return {}


def _look(path: str) -> tuple[str, int]:
    fields = dict(
        line.partition(":")[::2]
        for line in Path(path, "status").read_text(encoding="utf-8", errors="replace").splitlines()
    )
    switches = int(fields["voluntary_ctxt_switches"]) + int(fields["nonvoluntary_ctxt_switches"])
    return fields["State"].split()[0], switches
