"""Cases on machines that cgrace runs inside of: each goes there, and comes back as its result and its trace.

A machine has one cgroup layout; one is opened for each that the cases want. What a run did to a virtual machine and could not undo,
the snapshot undoes. A machine that is lost makes what was to run there inconclusive, with its last words.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from pathlib import Path
from typing import Final

from cgrace.harness.drivers.base import BuiltDriver
from cgrace.harness.errors import CgraceError, StoreError, UnavailableError
from cgrace.harness.proc.workers import Worker, WorkerDied
from cgrace.harness.suite import Case, CaseResult
from cgrace.harness.targets.control import build_init
from cgrace.harness.targets.registry import UNDONE, TargetName, scenario_layout
from cgrace.harness.targets.remote import RemoteVm, open_machine
from cgrace.harness.targets.remote_machine import RemoteMachine

WORKER: Final = "cgrace.harness.worker"


class RemoteRuns:
    """The machines. Made by `open`; `run` may be asked for many cases at once, and each machine runs one after the other."""

    def __init__(self, store: Path | None) -> None:
        self._store = store
        self._benches: dict[str, _Bench] = {}
        self._has = ""  # the layout of a machine that has but one, and is not ours to boot

    @classmethod
    @contextlib.asynccontextmanager
    async def open(
        cls,
        name: TargetName,
        layouts: Sequence[str],
        built: Mapping[str, BuiltDriver],
        store: Path | None,
        progress: Callable[[str], None],
    ) -> AsyncIterator[RemoteRuns]:
        """Open a machine for each layout that there is to be one for; nothing of ours is left there when the block ends."""
        runs = cls(store)
        async with contextlib.AsyncExitStack() as stack:
            for layout in layouts:
                text = _machine_for(name, layout)
                if text is None or runs._has:
                    continue
                machine = await stack.enter_async_context(open_machine(text, progress=progress))
                if name.kind == "ssh":
                    runs._has = scenario_layout(machine.facts.layout)
                if (runs._has or layout) in layouts:
                    bench = _Bench(machine, name, runs._has or layout, built)
                    await bench.set_up()
                    stack.push_async_callback(bench.close)
                    runs._benches[runs._has or layout] = bench
            yield runs

    async def run(self, case: Case, expect_clean: bool) -> CaseResult:
        """Run one case; what goes wrong on the way is an inconclusive result with the reason."""
        try:
            bench = self._benches.get(case.setting.layout)
            if bench is None:
                has = f"{case.target} has cgroup {self._has}" if self._has else f"the target is {case.target}"
                raise UnavailableError(f"it is about cgroup {case.setting.layout}, and {has}")
            result = await bench.run(case, expect_clean)
            if self._store is not None and result.trace is not None:
                result = dataclasses.replace(result, trace=await bench.fetch(result.trace, self._store))
        except StoreError:
            raise
        except CgraceError as error:
            return CaseResult.without_run(case, error)
        return result


class _Bench:
    """One machine with a worker in it."""

    def __init__(self, machine: RemoteMachine, name: TargetName, layout: str, built: Mapping[str, BuiltDriver]) -> None:
        self._machine = machine
        self._name = name
        self._layout = layout
        self._built = built
        self._work = contextlib.AsyncExitStack()
        self._worker: Worker | None = None
        self._lost: CgraceError | None = None

    async def set_up(self) -> None:
        """Put the drivers there, keep that state, and have a worker."""
        init = await build_init()
        entries = {one.binary.parent for one in self._built.values()} | {init.parent}
        await self._machine.put_builds(sorted(entries))
        await self._machine.channel.run_ok(["mkdir", "-p", self._folder], what="a folder for traces cannot be made")
        if isinstance(self._machine, RemoteVm):
            await self._machine.reset()
        await self._start()

    async def run(self, case: Case, expect_clean: bool) -> CaseResult:
        """As `RemoteRuns.run`, but raises."""
        result = await self._ask(case, expect_clean)
        if UNDONE in result.error and isinstance(self._machine, RemoteVm):
            await self.close()
            await self._machine.reset()
            await self._start()
            result = await self._ask(case, expect_clean)
        return result

    async def fetch(self, path: Path, store: Path) -> Path:
        """Bring a trace here."""
        done = await self._machine.channel.run(["cat", str(path)])
        if not done.ok:
            raise CgraceError(f"the trace of a run inside {self._machine.name} cannot be fetched", detail=done.tail)
        here = store / path.name
        await asyncio.to_thread(_write, here, done.stdout)
        await self._machine.channel.run(["rm", "-f", str(path)])
        return here

    async def close(self) -> None:
        """End the worker."""
        await self._work.aclose()
        self._worker = None

    @property
    def _folder(self) -> str:
        return f"{self._machine.base}/traces"

    async def _start(self) -> None:
        shown = self._name.base
        words = (self._folder, self._layout, ",".join(self._built), "embedded", f"host={shown}", "1")
        self._work = contextlib.AsyncExitStack()
        self._worker = await self._work.enter_async_context(self._machine.worker(WORKER, *words))

    async def _ask(self, case: Case, expect_clean: bool) -> CaseResult:
        if self._lost is not None:
            raise self._lost
        assert self._worker is not None
        try:
            result = await self._worker.ask((case, expect_clean))
        except WorkerDied:
            self._lost = await self._machine.why_lost(self._worker)
            raise self._lost from None
        assert isinstance(result, CaseResult)
        return result


def _write(path: Path, data: bytes) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    except OSError as error:
        raise StoreError(f"{path} cannot be written: {error.strerror}", hint="--store DIR with room") from None


def _machine_for(name: TargetName, layout: str) -> str | None:
    """The machine on which cases of a layout run; None where the target is another."""
    if name.kind == "ssh":
        return name.text
    if name.wanted not in ("", layout):
        return None
    return f"vm:{name.place}:{name.layout or layout}"
