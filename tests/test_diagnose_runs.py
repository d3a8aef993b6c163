"""Every hang of the scenarios by its own name: real drivers run, and what their runs left is diagnosed."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from cgrace.harness import cli
from cgrace.harness import events as ev
from cgrace.harness.checkers import deadlock
from cgrace.harness.commands.select import find_scenarios
from cgrace.harness.diagnose.judge import Diagnosis, diagnose
from cgrace.harness.diagnose.observed import observe
from cgrace.harness.diagnose.signatures import signatures
from cgrace.harness.diagnose.traced import observe_trace
from cgrace.harness.doctor import examine, missing
from cgrace.harness.drivers.build import is_built
from cgrace.harness.drivers.catalogue import find, find_all
from cgrace.harness.engine.run import Run
from cgrace.harness.errors import TraceError
from cgrace.harness.runner import CASES_FOR_WORKERS, plan, run_cases
from cgrace.harness.suite import Case
from cgrace.harness.trace import Trace, read_trace
from cgrace.harness.verdict import Invariant, Verdict

# What their dumps alone do not tell: only the messages do (one job for two calls), or the list of jobs, which is not empty there.
MESSAGES_TELL = ("corpus/two_stops_one_job", "corpus/accepted_never_started")
# The kubelet, which takes minutes to build: it takes part where somebody has used it.
LARGE = ("K",)
FOLDERS = ["runc_1780", "corpus", "core", "primers"]
DRIVERS = ["rc4", "wait-forever", "timeout", "err-nil", "buffered", "fleet", "today"]
DUMPED = {Invariant.NO_DEADLOCK, Invariant.BOUNDED_LATENCY, Invariant.DRIVER_ALIVE}
Taken = list[tuple[str, Trace]]
# A scenario that is new needs no entry to name it, as long as some entry is it.
NAMED = {name for one in signatures() for name in one.scenarios}


def picked() -> list[Case]:
    """Of each scenario, of all drivers that come to the same there, the oldest and the newest; where nobody can have a dump, the
    oldest alone, and none that takes half a minute."""
    drivers = [spec for name in DRIVERS for spec in find_all(name)]
    built = is_built(drivers)
    drivers = [spec for spec in drivers if spec.family not in LARGE or built[spec.name]]
    groups: dict[tuple[object, ...], list[Case]] = {}
    for case in plan(find_scenarios(FOLDERS), drivers):
        wrong = tuple(pair for one in case.expected for pair in one.violated)
        dumped = not DUMPED.isdisjoint(invariant for invariant, _ in wrong)
        if dumped or "slow" not in case.scenario.markers:
            key = (case.scenario.name, case.setting.layout, *(wrong if dumped else ()))
            groups.setdefault(key, []).append(case)
    return [
        case for key, same in groups.items() for case in (dict.fromkeys([same[0], same[-1]]) if key[2:] else same[:1])
    ]


@pytest.fixture(scope="module")
def traces(tmp_path_factory: pytest.TempPathFactory) -> Taken:
    """The traces of one run of them all, with the names of their scenarios."""
    if lacking := missing(examine()):
        pytest.skip(f"cannot run here: no {', '.join(check.name for check in lacking)}")
    results = asyncio.run(run_cases(picked(), store=tmp_path_factory.mktemp("runs"), jobs=24))
    read = [read_trace(result.trace) for result in results if result.trace is not None]
    assert read
    return [(str(trace.head.scenario["name"]), trace) for trace in read]


def names(found: Diagnosis) -> list[str]:
    """What it is, the best first."""
    return [one.signature.id for one in found.matches]


def has_dump(trace: Trace) -> bool:
    """Whether its driver waited when the run ended, or died with its goroutines on stderr. Who came back by itself, after a second
    say, waits no more."""
    waited = trace.first(ev.Stacks) is not None or trace.first(ev.WorldClosed) is not None
    return waited or any(said.text.startswith("panic:") for _, said in trace.of(ev.DriverSaid))


def test_every_dump_is_diagnosed_as_its_own(traces: Taken) -> None:
    """The best entry of each trace with a dump names the scenario that made it; one without a dump is none, and that is said."""
    told: set[str] = set()
    wrong: list[tuple[str, str, str]] = []
    for name, trace in traces:
        if not has_dump(trace):
            with pytest.raises(TraceError, match="nothing waited"):
                observe_trace(name, trace)
            continue
        best = diagnose(observe_trace(name, trace)).best
        if best is None or (name in NAMED and name not in best.signature.scenarios):
            wrong.append((name, trace.head.driver["name"], best.signature.id if best is not None else "none"))
        told.add(name)
    assert wrong == []
    assert len(told) >= 30


def test_who_goes_wrong_has_a_dump_or_came_back(traces: Taken) -> None:
    """A proved hang and a wait that was not waited out never lack one."""
    for name, trace in traces:
        out = [finding for finding in deadlock.check(trace) if finding.verdict is Verdict.VIOLATED]
        assert has_dump(trace) or not out, (name, trace.head.driver)


def test_the_dump_alone_says_the_same(traces: Taken) -> None:
    """With the jobs and the user's word that it does not move, the scenario is named, or an entry that looks the same."""
    wrong: list[tuple[str, str, list[str]]] = []
    for name, trace in traces:
        for _, stacks in trace.of(ev.Stacks):
            if "goroutine 1 " not in stacks.text or name in MESSAGES_TELL:
                continue
            found = diagnose(observe(stacks.text, jobs="No jobs running.\n", stuck=True))
            if name in NAMED and not any(name in one.signature.scenarios for one in (*found.matches, *found.alike)):
                wrong.append((name, trace.head.driver["name"], names(found)))
    assert wrong == []


def test_a_dump_of_who_is_well_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Goroutines taken while nothing is asked any more: no entry, though somebody says that it has not moved for long."""
    dumps: list[str] = []
    finish, begun = Run.finish, set[Run]()

    async def take(run: Run) -> None:
        dumps.extend([await process.shim.stacks(5) for process in run.crew.processes.values()])
        finish(run, "complete")

    def finishing(run: Run, why: str, text: str = "", details: tuple[str, ...] = ()) -> None:
        if why != "complete":
            finish(run, why, text, details)
        elif run not in begun and run.tasks is not None:
            begun.add(run)
            run.tasks.create_task(take(run))

    monkeypatch.setattr(Run, "finish", finishing)
    scenarios = find_scenarios(["core/late_job", "primers/unit_exists"])
    drivers = [find(name) for name in ("rc4", "buffered", "runc@1.0.0", "today", "containerd@3.1.3")]
    cases = [case for case in plan(scenarios, drivers) if not case.expected][: CASES_FOR_WORKERS - 1]
    asyncio.run(run_cases(cases, store=tmp_path))
    assert len(dumps) >= 8
    for text in dumps:
        assert "goroutine 1 " in text
        assert diagnose(observe(text, jobs="No jobs running.\n", stuck=True)).best is None


def test_a_wait_that_the_job_will_end_is_none(traces: Taken) -> None:
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
