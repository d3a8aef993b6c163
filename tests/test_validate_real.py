"""Probes on a booted systemd: it says what was recorded, a build is laid over a root, and no trace is left."""

from __future__ import annotations

import asyncio
import os
import shutil
import tempfile
from pathlib import Path

import pytest

from cgrace.harness.targets import owner, roots
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


@pytest.mark.parametrize("base", ["usr/lib", "lib"])
def test_an_install_tree_lies_over_the_root(tmp_path: Path, base: str) -> None:
    """What is in it is on the machine, the rest is the root's own, whether it has a merged /usr or not; neither is written to."""
    root = roots.look_up(SUITE)
    assert root is not None
    if base == "usr/lib" and not (root.folder / "root/lib").is_symlink():
        pytest.skip("that suite's /usr is not merged")
    place = tmp_path / base / "systemd"
    place.mkdir(parents=True)
    shutil.copy(next((root.folder / "root").glob("*/lib/systemd/systemd")), place)
    (tmp_path / base / "ours").write_text("ours")
    before = sorted(path.name for path in tmp_path.rglob("*"))

    async def go() -> None:
        async with ContainerTarget.open(f"{SUITE}+{tmp_path}") as machine:
            seen = Path(f"/proc/{machine.init_pid}/root")
            assert (seen / "usr/lib/ours").read_text() == (seen / "usr/lib/../lib/ours").read_text() == "ours"
            assert (seen / "usr/bin/sh").exists() and machine.version == root.note["packages"]["systemd"]

    asyncio.run(go())
    assert not (root.folder / "root/usr/lib/ours").exists()
    assert sorted(path.name for path in tmp_path.rglob("*")) == before
