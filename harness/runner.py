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
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path

from cgrace.harness import events as ev
from cgrace.harness.canonical import canonical_hash
from cgrace.harness.checkers import check_all
from cgrace.harness.clock import now_ns
from cgrace.harness.drivers.base import BuiltDriver, DriverSpec
from cgrace.harness.drivers.build import build
from cgrace.harness.engine.run import Run
from cgrace.harness.engine.sink import TraceFile
from cgrace.harness.errors import CgraceError, StoreError, TargetError, UnavailableError
from cgrace.harness.proc.workers import workers
from cgrace.harness.scenario.data import to_data
from cgrace.harness.scenario.model import Expect, Scenario, Setting
from cgrace.harness.suite import Case, CaseResult
from cgrace.harness.targets.buses import EMBEDDED, bus_version, find_bus
from cgrace.harness.targets.fake import FakeTarget
from cgrace.harness.trace import Head, Trace
from cgrace.harness.verdict import Judgement, Outcome, judge
from cgrace.harness.witnesses.inotify import InotifyWitness
from cgrace.harness.witnesses.tracefs import KernelWitness

JOBS_DEFAULT = 24
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
    if scenario.drivers and driver.name not in scenario.drivers:
        return f"{scenario.name} is only for {', '.join(scenario.drivers)}"
    placed: set[str] = set()
    for step in scenario.steps:
        if (kind := step.unit.rpartition(".")[2]) not in driver.units:
            return f"step {step.id} is about a {kind}, and {driver.name} has only {' and '.join(driver.units)} units"
        if step.do not in driver.operations:
            return f"step {step.id} wants '{step.do}', which {driver.name} cannot do"
        if driver.places_own and step.do == "apply":
            if not step.workload or step.workload in placed:
                which = "no process" if not step.workload else "the same process again"
                return f"step {step.id} places {which}, and {driver.name} makes a new one each time"
            placed.add(step.workload)
    return ""


def plan(scenarios: Iterable[Scenario], drivers: Sequence[DriverSpec], rows: Sequence[str] = ()) -> list[Case]:
    """Every scenario in each of its settings on each driver that fits; `rows` picks scenarios that serve one of them."""
    return [
        Case(scenario=scenario, setting=setting, driver=driver)
        for scenario in scenarios
        if not rows or set(rows) & set(scenario.rows)
        for setting in scenario.settings
        for driver in drivers
        if fits(scenario, setting, driver)
    ]


async def prepare(
    drivers: Sequence[DriverSpec], progress: Callable[[str], None] | None = None
) -> dict[str, BuiltDriver]:
    """Build what is not built yet; DriverError with the compiler's lines where that fails."""
    return await build(drivers, progress=progress)


def expected(case: Case) -> tuple[Expect, ...]:
    """What history says of this driver here."""
    return case.scenario.expected(case.driver.generation, case.setting, case.driver.release)


def judge_trace(trace: Trace, case: Case, *, expect_clean: bool = False) -> Judgement:
    """Findings of a trace against what its scenario expects of this driver here."""
    expectations = () if expect_clean else expected(case)
    return judge(
        check_all(trace),
        [pair for e in expectations for pair in e.violated],
        [(event.step, event.error) for _, event in trace.of(ev.StepReturned) if event.error],
        [pair for e in expectations for pair in e.failed],
        {step.id for step in case.scenario.steps if step.may_fail},
    )


@functools.cache
def versions() -> dict[str, str]:
    """What took part on our side."""
    return {
        "cgrace": metadata.version("cgrace"),
        "python": platform.python_version(),
        "kernel": platform.release(),
    }


@dataclass(slots=True)
class Place:
    """What runs share: the target, the kernel's witness, the built drivers. refused: layouts that this machine cannot make, and
    why; target: None where it can make none."""

    target: FakeTarget | None
    kernel: KernelWitness | InotifyWitness
    built: dict[str, BuiltDriver]
    bus: str = EMBEDDED
    bus_version: str = EMBEDDED
    refused: Mapping[str, TargetError] = field(default_factory=dict)


async def run_case(case: Case, place: Place, store: Path | None, *, expect_clean: bool = False) -> CaseResult:
    """Run and judge one case. The trace is on disk before it is judged."""
    started = now_ns()
    target = place.target
    if target is None or case.setting.layout in place.refused:
        why = place.refused[case.setting.layout]
        raise UnavailableError(why.message, hint=why.hint)
    built = place.built[case.driver.name]
    path = None if store is None else store / f"{file_name(case)}.jsonl"
    head = Head(
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
        target="fake",
        profile=case.setting.profile,
        layout=case.setting.layout,
        versions=versions() | {"bus": place.bus_version},
        command=" ".join(sys.argv),
    )
    with contextlib.nullcontext() if path is None else TraceFile(path) as sink:
        async with target.sandbox(case.setting.layout) as sandbox:
            run = Run(
                scenario=case.scenario,
                setting=case.setting,
                built=built,
                sandbox=sandbox,
                kernel=place.kernel,
                head=head,
                sink=sink,
                bus=place.bus,
            )
            trace = await run.go()
        if sink is not None:
            sink.check()
    return CaseResult(
        case=case,
        judgement=judge_trace(trace, case, expect_clean=expect_clean),
        trace=path,
        wall_ns=now_ns() - started,
        canonical=canonical_hash(trace),
    )


def file_name(case: Case) -> str:
    """A name for the case's trace that is safe as a file's, whatever the scenario calls itself; repetitions have their own."""
    name = re.sub(r"[^A-Za-z0-9_.@+-]+", "_", case.id)
    return f"{name}.{case.turn + 1}" if case.turn else name


async def run_cases(
    cases: Sequence[Case],
    *,
    jobs: int = JOBS_DEFAULT,
    store: Path | None = None,
    expect_clean: bool = False,
    bus: str = EMBEDDED,
    on_result: Callable[[CaseResult], None] = lambda _: None,
    on_event: Callable[[str], None] = lambda _: None,
    admits: Callable[[Case], bool] = lambda _: True,
) -> list[CaseResult]:
    """Run cases side by side, `jobs` at once, and return their results in the order of the cases.

    store: the folder for traces (None: kept nowhere). bus: what stands behind the relay (targets/buses.py). An inconclusive run
    is repeated once, and counted. admits: asked when a case would begin; one that it refuses is left out. Many cases are shared
    out among worker processes, one for each core. Raises DriverError where a driver cannot be built.
    """
    if bus != EMBEDDED:
        find_bus(bus)
    drivers = list({case.driver.name: case.driver for case in cases}.values())
    built = await prepare(drivers, on_event)
    layouts = sorted({case.setting.layout for case in cases})
    cores = len(os.sched_getaffinity(0))

    async def run_all(run: Callable[[Case], Awaitable[CaseResult]]) -> list[CaseResult]:
        return await _run_all(cases, run, jobs=jobs, again_jobs=cores, admits=admits, on_result=on_result)

    if len(cases) < CASES_FOR_WORKERS or cores == 1:
        async with open_place(built, layouts, on_event, bus=bus) as place:
            return await run_all(lambda case: run_once(case, place, store, expect_clean))
    else:
        arguments = (str(store or ""), ",".join(layouts), ",".join(spec.name for spec in drivers), bus)
        async with workers("cgrace.harness.worker", min(cores, WORKERS_MAX), *arguments) as team:
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


@contextlib.asynccontextmanager
async def open_place(
    built: dict[str, BuiltDriver],
    layouts: Sequence[str],
    on_event: Callable[[str], None] = lambda _: None,
    *,
    bus: str = EMBEDDED,
) -> AsyncIterator[Place]:
    """Open what runs share; gone when the block ends."""
    async with AsyncExitStack() as stack:
        kernel = _open_witness(on_event)
        stack.callback(kernel.close)
        target, refused = await _open_target(stack, layouts)
        yield Place(target, kernel, built, bus, await bus_version(bus), refused)


async def _open_target(
    stack: AsyncExitStack, layouts: Sequence[str]
) -> tuple[FakeTarget | None, dict[str, TargetError]]:
    """The target with every layout that this machine can make, and why not the others."""
    refused: dict[str, TargetError] = {}
    try:
        return await stack.enter_async_context(FakeTarget.open(layouts)), refused
    except TargetError as error:
        if len(layouts) == 1:
            return None, {layouts[0]: error}
    for layout in layouts:
        try:
            async with FakeTarget.open([layout], warm=0):
                pass
        except TargetError as error:
            refused[layout] = error
    had = [layout for layout in layouts if layout not in refused]
    return (await stack.enter_async_context(FakeTarget.open(had)) if had else None), refused


def _open_witness(say: Callable[[str], None]) -> KernelWitness | InotifyWitness:
    """The kernel's tracefs; where it cannot be had, inotify, which does not see who did it."""
    try:
        return KernelWitness.open()
    except TargetError as error:
        say(f"{error.message}: falling back to inotify, which does not see who changes the cgroup tree")
        return InotifyWitness()


async def run_once(case: Case, place: Place, store: Path | None, expect_clean: bool) -> CaseResult:
    """A case that cannot run is inconclusive with its reason; the others go on."""
    try:
        return await run_case(case, place, store, expect_clean=expect_clean)
    except StoreError:
        raise
    except CgraceError as error:
        judgement = Judgement(outcome=Outcome.INCONCLUSIVE, findings=(), reasons=(str(error),))
        cannot = isinstance(error, UnavailableError)
        return CaseResult(case=case, judgement=judgement, error=str(error), unavailable=cannot)


def some_ran(results: Sequence[CaseResult]) -> None:
    """UnavailableError where this machine could run none of them."""
    if results and all(result.unavailable for result in results):
        raise UnavailableError(results[0].error)
