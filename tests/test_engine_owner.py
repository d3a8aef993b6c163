"""Whose a connection is: the process of the run that connected, or an ancestor of it."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import cast

from cgrace.harness.engine.process import owner
from cgrace.harness.targets.base import Sandbox


class _Known:
    """A sandbox with one named process."""

    def __init__(self, pid: int) -> None:
        self._pid = pid

    def inner(self, pid_outer: int) -> int | None:
        """Inner pids are the outer ones."""
        return pid_outer

    def name_of(self, pid: int) -> str:
        """Only that one has a name."""
        return "driver" if pid == self._pid else ""


def test_a_child_counts_as_the_process_that_started_it() -> None:
    """A command that an adaptor runs connects for it; a stranger and a process that is gone connect for nobody."""
    sandbox = cast(Sandbox, _Known(os.getpid()))
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
        assert owner(sandbox, os.getpid()) == "driver"
        assert owner(sandbox, child.pid) == "driver"
        assert owner(cast(Sandbox, _Known(child.pid)), os.getpid()) == ""
        child.kill()
    assert owner(sandbox, child.pid) == ""
