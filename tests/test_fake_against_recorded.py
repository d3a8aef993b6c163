"""The fake is held against the real: with the profile N it answers every probe as the real N did when that was recorded."""

from __future__ import annotations

import asyncio
import os

import pytest

from cgrace.fakes.systemd.profile import profile_names
from cgrace.harness.errors import TargetError
from cgrace.harness.validate.ask import ask_all
from cgrace.harness.validate.baseline import Baseline, known_differences, load, recorded
from cgrace.harness.validate.compare import compare
from cgrace.harness.validate.machine import MachineName, open_machine
from cgrace.harness.validate.probes import all_probes

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="the fake's cgroups and namespaces take root")
PROFILES = profile_names()


async def answers_of(which: str, layout: str) -> Baseline:
    """What the fake says to every probe."""
    async with open_machine(MachineName("fake", which, layout)) as machine:
        return await ask_all(machine, all_probes())


@needs_root
@pytest.mark.parametrize("key", sorted(recorded()))
def test_every_probe_is_answered_as_recorded(key: str) -> None:
    """Not one answer differs, but for those that differences.toml names; what is about cgroups is asked where the hierarchies are
    those of the recording."""
    old = load(recorded()[key])
    if str(old.version) not in PROFILES:
        pytest.skip(f"there is no profile {old.version} yet")
    try:
        place = "" if old.runs_in.startswith("container") else f"@{old.runs_in}"
        new = asyncio.run(answers_of(f"{old.version}{place}", old.layout))
    except TargetError as error:
        pytest.skip(error.message)
    known = known_differences(key)
    found = compare(old, new, all_probes(), known=known)
    differing = [(one.probe.id, one.differences) for one in found.changes]
    assert differing == []
    assert set(found.excused) == set(known), "a difference that is known and is none any more is taken off the list"
    if old.hierarchies == new.hierarchies:
        assert found.apart == {}
        assert found.same + len(known) == len(old.answers)


def test_recorded_baselines_have_every_probe() -> None:
    """Who adds a probe records it: each baseline has an answer to all that its machine could be asked."""
    for path in recorded().values():
        one = load(path)
        controllers = {each for names in one.hierarchies.values() for each in names}
        asked = {
            probe.id for probe in all_probes() if one.layout in probe.layouts and controllers.issuperset(probe.needs)
        }
        assert set(one.answers) == asked, path.name
