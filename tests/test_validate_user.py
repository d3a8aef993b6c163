"""`validate user`: a user's systemd is asked without root, and says what a machine's own does, in the same words."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Final

import pytest
from test_targets_container import SUITE
from test_targets_machine import cgroups, on_machine
from test_targets_user import as_user, folder, log_in, own_cache

from cgrace.harness.cli import main
from cgrace.harness.errors import UsageError
from cgrace.harness.targets.container import ContainerTarget
from cgrace.harness.validate.baseline import leading_number
from cgrace.harness.validate.machine import parse_machine

__all__ = ["folder"]  # a fixture
KNOWN: Final = ("call.get-by-pid", "exists.slice-with-file")  # what it answers otherwise by its nature
PROBES: Final = (
    *KNOWN,
    "call.get-by-cgroup",
    "call.kill-all",
    "cgroup.made-scope",
    "life.stop-below",
    "manager.control-group",
    "property.read.Scope.*",
    "property.read.queued",
)
_INSIDE: Final = """
import sys
from cgrace.harness.cli import main
sys.exit(main(["validate", "user", *sys.argv[1:]]))
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="booting a systemd takes root")
@pytest.mark.skipif(not SUITE, reason="no root is built here yet (tests do not download one)")
@pytest.mark.skipif(shutil.which("setpriv") is None, reason="no setpriv (util-linux)")
@pytest.mark.timeout(240)
def test_a_users_systemd_says_what_a_machines_does(folder: Path) -> None:
    """Below its own root, with scopes in app.slice instead of system.slice; and afterwards nothing is there."""

    async def body(machine: ContainerTarget) -> None:
        await own_cache(folder)
        async with machine.sandbox() as sandbox:
            manager = await log_in(machine)
            words = [f"--probe={one}" for one in PROBES]
            against = f"--against={leading_number(machine.version)}-v2"
            status, text = await as_user(sandbox, manager, folder, _INSIDE, against, *words)
            assert status == 0, text
            assert "answers are the same\nsafe for the drivers: nothing changed" in text, text
            assert all(f"known difference: {one}:" in text for one in KNOWN), text
            assert cgroups(machine, "cgracev*") + cgroups(machine, "cgrace-home") == []
        assert machine.dirty == ""

    on_machine(body, "v2")


def test_its_name_and_what_is_not_recorded_of_it(capsys: pytest.CaptureFixture[str]) -> None:
    """It has cgroup v2 alone, and its answers are no baseline of a machine's."""
    assert (parse_machine("user").kind, parse_machine("user:v2").layout) == ("user", "v2")
    with pytest.raises(UsageError):
        parse_machine("user:v1")
    assert main(["validate", "user", "--record"]) == 2
    assert "not of a user's" in capsys.readouterr().err
