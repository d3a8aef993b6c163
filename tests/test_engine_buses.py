"""The same scenarios on every bus: what comes out must not depend on whether the bus behind the relay is ours or a real one."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from engine_kit import TWO, Ran, case, needs_root, run_all

from cgrace.harness import events as ev
from cgrace.harness.canonical import canonical
from cgrace.harness.commands.common import scenarios_folder
from cgrace.harness.drivers.catalogue import find
from cgrace.harness.engine import seats
from cgrace.harness.errors import DriverError
from cgrace.harness.runner import fits
from cgrace.harness.scenario.parse import load
from cgrace.harness.suite import Case
from cgrace.harness.targets.buses import EMBEDDED, REAL_BUSES
from cgrace.harness.verdict import Outcome

pytestmark = [needs_root, pytest.mark.timeout(180)]

# The four primers, and rows 7b, 5b and 1-4.
FILES = (
    "primers/delay",
    "primers/dropped_job_removed",
    "primers/unit_exists",
    "primers/deleted_controller",
    "runc_1780/late_signal_lock",
    "runc_1780/unit_exists_slice",
    "runc_1780/late_job_slice",
)
DRIVERS = ("async", "wait-forever", "err-nil", "buffered", "today")
# What is done to systemd itself; each ends as it must, whatever the bus.
PEERS = {
    "reload": '{ id = "act", peer = "systemd", do = "reload", when = "first ended" }',
    "reexec": '{ id = "act", peer = "systemd", do = "reexec", when = "first ended" }',
    "kill": '{ id = "act", peer = "systemd", do = "kill", when = "first ended" }',
    "restart": '{ id = "act", peer = "systemd", do = "restart", when = "first ended" }',
    "pause": '{ id = "act", peer = "systemd", do = "pause", when = "first ended" }',
    "bus": '{ id = "act", peer = "bus", do = "kill", when = "first ended" }',
}


def installed(bus: str) -> str:
    """The bus; skips the test where it is not installed."""
    if bus != EMBEDDED and shutil.which(bus) is None:
        pytest.skip(f"{bus} is not installed")
    return bus


def shipped() -> list[Case]:
    """The scenarios above in their settings on those drivers."""
    scenarios = [load(scenarios_folder() / f"{name}.toml") for name in FILES]
    drivers = [find(name) for name in DRIVERS]
    return [
        Case(scenario=s, setting=t, driver=d) for s in scenarios for t in s.settings for d in drivers if fits(s, t, d)
    ]


def outcomes(ran: list[Ran]) -> list[Any]:
    """What each run came to, in words."""
    return [
        (
            one.trace.head.scenario["name"],
            one.trace.head.driver["name"],
            one.judgement.outcome,
            sorted(f"{f.invariant} {f.subject} {f.verdict}" for f in one.judgement.findings),
            one.end.why,
        )
        for one in ran
    ]


@pytest.fixture(scope="module")
def on_embedded(tmp_path_factory: pytest.TempPathFactory) -> list[Ran]:
    """All of them on our own bus."""
    try:
        return run_all(tmp_path_factory.mktemp("embedded"), shipped())
    except DriverError as error:
        pytest.skip(str(error))


@pytest.mark.parametrize("bus", REAL_BUSES)
def test_the_story_comes_out_the_same(bus: str, on_embedded: list[Ran], tmp_path: Path) -> None:
    """Primers and rows 7b, 5b and 1-4: the same outcomes and findings, as history says, and the same canonical traces."""
    ran = run_all(tmp_path, shipped(), bus=installed(bus))
    assert outcomes(ran) == outcomes(on_embedded)
    assert {one.judgement.outcome for one in ran} <= {Outcome.CLEAN, Outcome.REPRODUCED}
    for ours, theirs in zip(on_embedded, ran, strict=True):
        assert canonical(theirs.trace) == canonical(ours.trace)
        assert theirs.trace.head.versions["bus"].startswith(f"{bus} ")


@pytest.fixture(scope="module")
def peers_on_embedded(tmp_path_factory: pytest.TempPathFactory) -> list[Ran]:
    """What is done to systemd, on our own bus."""
    return run_all(tmp_path_factory.mktemp("peers"), _peers(tmp_path_factory.mktemp("texts")))


def _peers(folder: Path) -> list[Case]:
    steps = TWO.replace(
        'unit = "cgrace-b.slice" }', 'unit = "cgrace-b.slice", after = ["first ended", "fault act fired"] }'
    )
    return [case(folder, f"{steps}faults = [{fault}]\n", "reference") for fault in PEERS.values()]


@pytest.mark.parametrize("bus", REAL_BUSES)
def test_what_is_done_to_systemd_comes_out_the_same(bus: str, peers_on_embedded: list[Ran], tmp_path: Path) -> None:
    """Reload, re-execute, kill, restart and pause of systemd, and the end of all connections."""
    ran = run_all(tmp_path, _peers(tmp_path), bus=installed(bus))
    assert [(one.end.why, one.fired()) for one in ran] == [(one.end.why, one.fired()) for one in peers_on_embedded]
    assert [one.judgement.outcome for one in ran] == [one.judgement.outcome for one in peers_on_embedded]


@pytest.mark.parametrize("bus", REAL_BUSES)
def test_a_bus_that_is_killed(bus: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run whose bus dies is inconclusive, says so, and leaves nothing."""
    monkeypatch.setattr(seats, "run_bus", _mortal(seats.run_bus))
    (run,) = run_all(tmp_path, [case(tmp_path, TWO, "reference")], bus=installed(bus))
    assert run.end.why == "error"
    assert run.end.text.startswith("the bus failed: ")
    assert run.judgement.outcome is Outcome.INCONCLUSIVE


def _mortal(run_bus: Any) -> Any:
    """Buses that are killed as soon as the first driver connects."""

    @contextlib.asynccontextmanager
    async def mortal(*arguments: Any) -> AsyncIterator[Any]:
        async with run_bus(*arguments) as bus:
            original = seats.Upstream.open

            def open_and_kill(upstream: Any, conn: Any) -> None:
                original(upstream, conn)
                with contextlib.suppress(ProcessLookupError):
                    os.kill(bus.pid_outer, signal.SIGKILL)

            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(seats.Upstream, "open", open_and_kill)
                yield bus

    return mortal


def test_every_message_is_there(tmp_path: Path) -> None:
    """On a real bus no signal is missed at the end of a run: the last JobRemoved of a driver that waits for none is recorded."""
    text = 'steps = [{ id = "first", do = "apply", unit = "cgrace-a.slice" }]\n'
    runs = run_all(tmp_path, [case(tmp_path, text, "async") for _ in range(12)], bus=installed("dbus-daemon"))
    for run in runs:
        assert [m.unit for m in run.of(ev.MessageSeen) if m.member == "JobRemoved"][-1] == "cgrace-a.slice"
