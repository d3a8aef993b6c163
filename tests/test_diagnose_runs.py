"""Every hang of the scenarios by its own name: real drivers run, and what their runs left is diagnosed."""

from __future__ import annotations

from pathlib import Path

import pytest

from cgrace.harness import cli
from cgrace.harness import events as ev
from cgrace.harness.diagnose.judge import Diagnosis, diagnose
from cgrace.harness.diagnose.observed import observe
from cgrace.harness.diagnose.traced import observe_trace
from cgrace.harness.doctor import examine, missing
from cgrace.harness.errors import TraceError
from cgrace.harness.trace import Trace, read_trace

SCENARIOS = """core/lost_signal core/late_signal core/no_reply core/disconnect_signals core/unit_exists_slice core/late_job
runc_1780/unit_exists_slice runc_1780/unit_exists_then_late runc_1780/kubelet_many_slices runc_1780/late_signal_lock""".split()  # noqa: SIM905
DRIVERS = ["rc4", "wait-forever", "timeout", "err-nil", "buffered", "today"]


@pytest.fixture(scope="module")
def traces(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[str, Trace]]:
    """The traces of one run of them all, with the names of their scenarios."""
    if lacking := missing(examine()):
        pytest.skip(f"cannot run here: no {', '.join(check.name for check in lacking)}")
    store = tmp_path_factory.mktemp("runs")
    words = [word for driver in DRIVERS for word in ("--driver", driver)]
    assert cli.main(["run", *SCENARIOS, *words, "--store", str(store)]) in (0, 1)
    read = [read_trace(path) for path in sorted((store / "last").glob("*.jsonl"))]
    return [(str(trace.head.scenario["name"]), trace) for trace in read]


def names(found: Diagnosis) -> list[str]:
    """What it is, the best first."""
    return [one.signature.id for one in found.matches]


def test_every_hang_is_diagnosed_as_its_own(traces: list[tuple[str, Trace]]) -> None:
    """The best entry of each trace with a dump names the scenario that made it."""
    told = 0
    for name, trace in traces:
        if trace.first(ev.Stacks) is None:
            continue
        best = diagnose(observe_trace(name, trace)).best
        assert best is not None, (name, trace.head.driver)
        assert name in best.signature.scenarios, (name, trace.head.driver, best.signature.id)
        told += 1
    assert told >= 20


def test_the_dump_alone_says_the_same(traces: list[tuple[str, Trace]]) -> None:
    """With the jobs and the user's word that it does not move, the scenario is named, or an entry that looks the same."""
    for name, trace in traces:
        for _, stacks in trace.of(ev.Stacks):
            found = diagnose(observe(stacks.text, jobs="No jobs running.\n", stuck=True))
            assert found.best is not None
            assert any(name in one.signature.scenarios for one in (found.best, *found.alike)), (name, names(found))


def test_what_came_back_has_no_dump(traces: list[tuple[str, Trace]]) -> None:
    """A driver that is well left nothing to diagnose, and that is said."""
    clean = [(name, trace) for name, trace in traces if trace.first(ev.Stacks) is None]
    assert clean
    for name, trace in clean:
        with pytest.raises(TraceError, match="nothing waited"):
            observe_trace(name, trace)


def test_a_wait_that_the_job_will_end_is_none(traces: list[tuple[str, Trace]]) -> None:
    """The same dumps while the job is still queued: only what nothing can free is left."""
    for name, trace in traces:
        for _, stacks in trace.of(ev.Stacks):
            found = diagnose(observe(stacks.text, jobs="7 cgrace-a.slice start waiting\n1 jobs listed.\n"))
            assert set(names(found)) <= {"late-signal-lock", "bus-lost-in-wait"}, (name, names(found))


def test_a_trace_that_is_broken_is_refused(tmp_path: Path) -> None:
    """It is told from a dump by its first line, and read as a trace."""
    file = tmp_path / "broken.jsonl"
    file.write_text('{"cgrace-trace":1, "scenario": 7}\n', encoding="utf-8")
    assert cli.main(["diagnose", str(file)]) == 2
