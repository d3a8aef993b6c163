"""What cannot be done with a user's own systemd, and how a process is looked at that shows little of itself."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from cgrace.harness.drivers.catalogue import find
from cgrace.harness.engine.unprivileged import why_not
from cgrace.harness.scenario.parse import load
from cgrace.harness.witnesses.asleep import sleeps

SCENARIOS = Path(__file__).resolve().parents[1] / "scenarios"


@pytest.mark.parametrize(
    ("driver", "why"),
    [
        ("today", ""),
        ("runc@1.1.12", ""),
        ("runc@1.1.12+rootless", ""),
        ("program:/bin/true", ""),
        ("cgroupfs", "takes root"),
        ("rc4", "has no way to ask a user's systemd"),
        ("containerd@3.1.3", "has no way to ask a user's systemd"),
    ],
)
def test_drivers_that_can_ask_a_users_systemd(driver: str, why: str) -> None:
    """Those of libcontainer that know a rootless manager, and no others; each is told why."""
    said = why_not(load(SCENARIOS / "core/late_job.toml"), find(driver))
    assert why in said
    assert bool(said) == bool(why)


def test_a_users_bus_is_left_alone() -> None:
    """A fault that ends the bus is said before the run: the user's whole session is on it."""
    said = why_not(load(SCENARIOS / "corpus/bus_restart_call_in_flight.toml"), find("today"))
    assert "the user's whole session" in said


def test_a_process_sleeps_or_not() -> None:
    """One that waits for its stdin sleeps, one that spins does not, and one that has ended counts as asleep."""
    with subprocess.Popen(["/bin/cat"], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL) as cat:
        while not sleeps(cat.pid):
            pass
        assert cat.stdin is not None
        cat.stdin.close()
    assert sleeps(cat.pid)
    with subprocess.Popen(
        [sys.executable, "-Ic", "print(flush=True)\nwhile True: pass"], stdout=subprocess.PIPE
    ) as spin:
        assert spin.stdout is not None
        spin.stdout.readline()
        assert not sleeps(spin.pid)
        spin.kill()
    assert not sleeps(os.getpid())
