"""Names of owners, and whether the owner lives."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from cgrace.harness.targets import owner


def test_own_name_lives() -> None:
    """This process is alive under its own name."""
    assert owner.OWNED_NAME.fullmatch(owner.own_name())
    assert owner.process_lives(owner.own_name())


def test_reused_pid_is_another_owner() -> None:
    """The same pid with another start time is somebody else."""
    assert not owner.process_lives(f"cgrace-{os.getpid()}-1")


def test_zombie_is_dead() -> None:
    """A process that was killed and not yet reaped uses nothing any more."""
    code = "from cgrace.harness.targets import owner; print(owner.own_name(), flush=True); input()"
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        name = child.stdout.readline().decode().strip()
        assert owner.process_lives(name)
        child.kill()
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
        assert not owner.process_lives(name)


def test_names_that_are_not_ours() -> None:
    """Nothing but the exact form is an owner's name."""
    for name in ("cgrace", "cgrace-1", "cgrace-1-2x", "cgrace-01-2", "xcgrace-1-2", "cgrace-1-2\n"):
        assert not owner.OWNED_NAME.fullmatch(name)
        assert not owner.process_lives(name)


def test_lock_is_seen_and_ends_with_its_descriptor(tmp_path: Path) -> None:
    """A directory is held for as long as the descriptor is open."""
    assert not owner.is_locked(str(tmp_path))
    fd = owner.lock(str(tmp_path))
    assert owner.is_locked(str(tmp_path))
    os.close(fd)
    assert not owner.is_locked(str(tmp_path))
