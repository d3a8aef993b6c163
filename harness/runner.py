"""Runs cases side by side and judges them: what `reproduce`, `run` and the pytest plugin share."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import functools
import os
import platform
import re
import sys
from collections.abc import Awaitable, Callable, Iterable, Sequence
from importlib import metadata
from pathlib import Path

from cgrace.harness import events as ev
from cgrace.harness.canonical import canonical_hash
from cgrace.harness.checkers import check_all
from cgrace.harness.checkers.stall import discounted
from cgrace.harness.clock import now_ns
from cgrace.harness.drivers.base import BuiltDriver, DriverSpec
from cgrace.harness.drivers.build import build
from cgrace.harness.drivers.commands import PROGRAM
from cgrace.harness.engine.ground import Ground
from cgrace.harness.engine.place import Place, RunSandbox, open_place
from cgrace.harness.engine.remote import RemoteRuns
from cgrace.harness.engine.run import Run
from cgrace.harness.engine.sink import TraceFile
from cgrace.harness.errors import CgraceError, StoreError, UnavailableError
from cgrace.harness.proc.workers import workers
from cgrace.harness.scenario.data import to_data
from cgrace.harness.scenario.model import Scenario, Setting
from cgrace.harness.suite import Case, CaseResult
from cgrace.harness.targets.buses import EMBEDDED, find_bus
from cgrace.harness.targets.registry import FAKE, TargetName, try_build
from cgrace.harness.trace import Head, Trace
from cgrace.harness.verdict import Judgement, Outcome, judge

# Many more runs than cores wait for a driver's timer at a time; so many that cores are short, and waits can no longer be told
# from a lack of them, are no faster.
JOBS_OF_CORE = 6
JOBS_DEFAULT = min(24, JOBS_OF_CORE * len(os.sched_getaffinity(0)))
CASES_FOR_WORKERS = 12  # fewer are done before a worker has started
WORKERS_MAX = 16


def fits(scenario: Scenario, setting: Setting, driver: DriverSpec) -> bool:
    """Whether a driver can take part."""
    return not misfit(scenario, setting, driver)


def misfit(scenario: Scenario, setting: Setting, driver: DriverSpec) -> str:
    """Why a driver cannot take part, "" where it can: its layout, the cut of the ladder, the scenario's list, what it can do."""
    if setting.layout not in driver.layouts:
        return f"{driver.name} does not drive cgroup {setting.layout}"
    if driver.rung and driver.rung != setting.rung:
        return f"{driver.name} is a cut of {driver.rung}, and this setting takes those of {setting.rung}"
    named = {name for name in scenario.drivers if not name.startswith("!")}
    if named and driver.name not in named:
        return f"{scenario.name} is only for {', '.join(sorted(named))}"
    if not {f"!{driver.name}", f"!{driver.generation}"}.isdisjoint(scenario.drivers):
        return f"{scenario.name} is not for {driver.generation}"
    placed: set[str] = set()
    for step in scenario.steps:
        if (kind := step.unit.rpartition(".")[2]) not in driver.units:
            return f"step {step.id} is about a {kind}, and {driver.name} has only {' and '.join(driver.units)} units"
        if step.do not in driver.operations:
            return f"step {step.id} wants '{step.do}', which {driver.name} cannot do"
        if driver.places_own and step.do in ("apply", "exec"):
            if not step.workload or step.workload in placed:
                which = "no process" if not step.workload else "the same process again"
                return f"step {step.id} places {which}, and {driver.name} makes a new one each time"
            placed.add(step.workload)
    return ""


def plan(
    scenarios: Iterable[Scenario], drivers: Sequence[DriverSpec], rows: Sequence[str] = (), *, on: Ground | None = None
) -> list[Case]:
    """Every scenario in each of its settings on each driver that fits; `rows` picks scenarios that serve one of them.

    on: a real target, which has settings and expectations of its own.
    """
    return [
        Case(scenario=scenario, setting=setting, driver=driver) if on is None else on.case(scenario, setting, driver)
        for scenario in scenarios
        if not rows or set(rows) & set(scenario.rows)
        for setting in (scenario.settings if on is None else on.settings(scenario))
        for driver in drivers
        if fits(scenario, setting, driver)
    ]


async def prepare(
    drivers: Sequence[DriverSpec], progress: Callable[[str], None] | None = None
) -> dict[str, BuiltDriver]:
    """Build what is not built yet; DriverError with the compiler's lines where that fails."""
    return await build(drivers, progress=progress)


def judge_trace(trace: Trace, case: Case, *, expect_clean: bool = False) -> Judgement:
    """Findings of a trace against what its scenario expects of this driver here."""
    expectations = () if expect_clean else case.expected
    judged = judge(
        check_all(trace),
        [pair for e in expectations for pair in e.violated],
        [(event.step, event.error) for _, event in trace.of(ev.StepReturned) if event.error],
        [pair for e in expectations for pair in e.failed],
        {step.id for step in case.scenario.steps if step.may_fail},
    )
    return discounted(judged, trace)


@functools.cache
def versions() -> dict[str, str]:
    """What took part on our side."""
    return {
        "cgrace": metadata.version("cgrace"),
        "python": platform.python_version(),
        "kernel": platform.release(),
    }


async def run_case(case: Case, place: Place, store: Path | None, *, expect_clean: bool = False) -> CaseResult:
    """Run and judge one case. The trace is on disk before it is judged. The time counts from where it has its place."""
    if case.refused:
        raise UnavailableError(case.refused)
    place.check(case.scenario, case.setting, case.driver)
    built = place.built[case.driver.name]
    path = None if store is None else store / f"{file_name(case)}.jsonl"
    with contextlib.nullcontext() if path is None else TraceFile(path) as sink:
        async with place.sandbox(case.setting.layout) as sandbox:
            started = now_ns()
            run = Run(
                scenario=case.scenario,
                setting=case.setting,
                built=built,
                sandbox=sandbox,
                kernel=place.kernel,
                head=_head(case, built, place, sandbox),
                sink=sink,
                bus=place.bus,
            )
            trace = await run.go()
            wall_ns = now_ns() - started
        check_speaks(case.driver, trace)
        if sink is not None:
            sink.check()
    return CaseResult(
        case=case,
        judgement=judge_trace(trace, case, expect_clean=expect_clean),
        trace=path,
        wall_ns=wall_ns,
        canonical=canonical_hash(trace),
    )


def check_speaks(driver: DriverSpec, trace: Trace) -> None:
    """UnavailableError for a program of the user's own that ended without a hello, and without a word on the bus: no driver."""
    ended = trace.last(ev.RunEnded)
    if driver.family != PROGRAM or ended is None or ended[1].why != "driver died":
        return
    if trace.first(ev.DriverReady) is None and trace.first(ev.MessageSeen) is None:
        raise UnavailableError(
            f"{driver.module} does not speak cgrace's protocol: it said no hello ({ended[1].text})",
            hint="docs/driver-protocol.md says what it must say; a build of runc or crun is --driver runc:PATH, crun:PATH",
        )


def _head(case: Case, built: BuiltDriver, place: Place, sandbox: RunSandbox) -> Head:
    """Who and what takes part."""
    return Head(
        scenario=to_data(case.scenario),
        driver={
            "name": case.driver.name,
            "generation": case.driver.generation,
            "module": case.driver.module,
            "version": case.driver.version,
            "release": case.driver.release,
            "build": built.build_id,
            "proof": built.proof,
            "uses_bus": str(case.driver.uses_bus).lower(),
        },
        target=place.name.base,
        profile=case.setting.profile,
        layout=case.setting.layout,
        versions=versions() | place.versions(sandbox),
        command=" ".join(sys.argv),
    )


def file_name(case: Case) -> str:
    """A name for the case's trace that is safe as a file's, whatever the scenario calls itself; repetitions have their own."""
    name = re.sub(r"[^A-Za-z0-9_.@+-]+", "_", case.id)
    return f"{name}.{case.turn + 1}" if case.turn else name


async def run_cases(
    cases: Sequence[Case],
    *,
    jobs: int | None = None,
    store: Path | None = None,
    expect_clean: bool = False,
    bus: str = EMBEDDED,
    target: TargetName = FAKE,
    on_result: Callable[[CaseResult], None] = lambda _: None,
    on_event: Callable[[str], None] = lambda _: None,
    admits: Callable[[Case], bool] = lambda _: True,
) -> list[CaseResult]:
    """Run cases side by side, `jobs` at once, and return their results in the order of the cases.

    jobs: JOBS_DEFAULT on the fake; on a real target one for each core, each on a machine of its own. store: the folder for traces
    (None: kept nowhere). bus: what stands behind the relay of a fake (targets/buses.py). An inconclusive run is repeated once, and
    counted. admits: asked when a case would begin; one that it refuses is left out. Many cases are shared out among worker
    processes, one for each core. Raises DriverError where a driver cannot be built, TargetError where a systemd that somebody
    has built does not boot.
    """
    if bus != EMBEDDED:
        find_bus(bus)
    drivers = list({case.driver.name: case.driver for case in cases}.values())
    built = await prepare(drivers, on_event)
    layouts = sorted({case.setting.layout for case in cases})
    await try_build(target, layouts, on_event)
    cores = len(os.sched_getaffinity(0))
    jobs = 1 if target.is_alone else jobs or (cores if target.is_real else JOBS_DEFAULT)

    async def run_all(run: Callable[[Case], Awaitable[CaseResult]]) -> list[CaseResult]:
        return await _run_all(cases, run, jobs=jobs, again_jobs=cores, admits=admits, on_result=on_result)

    if target.is_remote:
        async with RemoteRuns.open(target, layouts, built, store, on_event) as remote:
            return await run_all(lambda case: remote.run(case, expect_clean))
    team_size = min(cores, WORKERS_MAX, jobs if target.is_real else WORKERS_MAX)
    if len(cases) < CASES_FOR_WORKERS or team_size == 1:
        async with open_place(built, layouts, on_event, bus=bus, name=target, machines=jobs) as place:
            return await run_all(lambda case: run_once(case, place, store, expect_clean))
    else:
        names = ",".join(spec.name for spec in drivers)
        machines = -(-jobs // team_size)
        arguments = (str(store or ""), ",".join(layouts), names, bus, target.text, str(machines))
        async with workers("cgrace.harness.worker", team_size, *arguments) as team:
            return await run_all(lambda case: min(team, key=lambda worker: worker.load).ask((case, expect_clean)))


async def _run_all(
    cases: Sequence[Case],
    run: Callable[[Case], Awaitable[CaseResult]],
    *,
    jobs: int,
    again_jobs: int,
    admits: Callable[[Case], bool],
    on_result: Callable[[CaseResult], None],
) -> list[CaseResult]:
    """Every case that is admitted; then those that were inconclusive once more, few at a time: what could not be told on a busy
    machine often can when the others have ended."""
    results: dict[int, CaseResult] = {}
    again: list[int] = []

    async def first(gate: asyncio.Semaphore, index: int) -> None:
        async with gate:
            if not admits(cases[index]):
                return
            result = results[index] = await run(cases[index])
        if result.judgement.outcome is Outcome.INCONCLUSIVE and not result.unavailable:
            again.append(index)
        else:
            on_result(result)

    async def second(gate: asyncio.Semaphore, index: int) -> None:
        async with gate:
            result = results[index] = dataclasses.replace(await run(cases[index]), repeated=True)
        on_result(result)

    async with asyncio.TaskGroup() as tasks:
        gate = asyncio.Semaphore(jobs)
        for index in range(len(cases)):
            tasks.create_task(first(gate, index))
    async with asyncio.TaskGroup() as tasks:
        gate = asyncio.Semaphore(min(jobs, again_jobs))
        for index in sorted(again):
            tasks.create_task(second(gate, index))
    return [results[index] for index in sorted(results)]


async def run_once(case: Case, place: Place, store: Path | None, expect_clean: bool) -> CaseResult:
    """A case that cannot run is inconclusive with its reason; the others go on."""
    try:
        return await run_case(case, place, store, expect_clean=expect_clean)
    except StoreError:
        raise
    except CgraceError as error:
        return CaseResult.without_run(case, error)


def some_ran(results: Sequence[CaseResult]) -> None:
    """UnavailableError where this machine could run none of them."""
    if results and all(result.unavailable for result in results):
        raise UnavailableError(results[0].error)
