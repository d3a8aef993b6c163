"""Probes on a booted systemd: it says what was recorded, a build is laid over a root, and no trace is left."""

from __future__ import annotations

import asyncio
import os
import shutil
import tempfile
from pathlib import Path

import pytest

from cgrace.harness.errors import TargetError
from cgrace.harness.targets import owner, roots, roots_own
from cgrace.harness.targets.container import ContainerTarget
from cgrace.harness.validate.ask import ask_all
from cgrace.harness.validate.baseline import load, recorded
from cgrace.harness.validate.compare import compare
from cgrace.harness.validate.machine import open_machine, parse_machine
from cgrace.harness.validate.probes import all_probes

SUITES = {"trixie": "257-v1", "bookworm": "252-v1", "bullseye": "247-v1"}
SUITE = next((suite for suite in SUITES if roots.look_up(suite)), "")
pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="booting a systemd takes root"),
    pytest.mark.skipif(not SUITE, reason="no root is built here yet (tests do not download one)"),
    pytest.mark.skipif(shutil.which("nsenter") is None, reason="no nsenter here"),
]
SOME = (
    "exists.scope-active",
    "exists.scope-queued",
    "order.own-job",
    "life.processes-end",
    "call.attach",
    "start.delegate-slice",
)


def test_a_booted_one_says_what_was_recorded() -> None:
    """Some probes of each kind; afterwards the machine's folder is gone."""
    probes = [one for one in all_probes() if one.id in SOME]

    async def go() -> None:
        async with open_machine(parse_machine(f"container:{SUITE}")) as machine:
            found = compare(load(recorded()[SUITES[SUITE]]), await ask_all(machine, probes), probes)
            assert found.changes == () and found.same == len(SOME)

    asyncio.run(go())
    assert list(Path(tempfile.gettempdir()).glob(f"{owner.own_name()}-c*")) == []


def test_an_install_tree_lies_over_the_root(tmp_path: Path) -> None:
    """What is in it is on the machine, the rest is the root's own; neither is written to."""
    root = roots.look_up(SUITE)
    assert root is not None
    place = tmp_path / "usr" / "lib" / "systemd"
    place.mkdir(parents=True)
    shutil.copy(next((root.folder / "root").glob("*/lib/systemd/systemd")), place)
    (tmp_path / "usr" / "ours").write_text("ours")

    async def go() -> None:
        async with ContainerTarget.open(f"{SUITE}+{tmp_path}") as machine:
            seen = Path(f"/proc/{machine.init_pid}/root/usr")
            assert (seen / "ours").read_text() == "ours" and (seen / "bin" / "sh").exists()

    asyncio.run(go())
    assert not (root.folder / "root/usr/ours").exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["usr"]


def test_what_is_no_install_tree(tmp_path: Path) -> None:
    """Refused before anything is booted: no systemd in it, or a folder that would hide the root's merged /usr."""
    below = tmp_path / "root"
    (below / "usr" / "lib").mkdir(parents=True)
    (below / "lib").symlink_to("usr/lib")
    with pytest.raises(TargetError, match="no install tree"):
        roots_own.install_tree(str(tmp_path), below)
    (tmp_path / "lib" / "systemd").mkdir(parents=True)
    (tmp_path / "lib" / "systemd" / "systemd").write_text("")
    with pytest.raises(TargetError, match="hide"):
        roots_own.install_tree(str(tmp_path), below)
