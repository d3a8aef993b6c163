"""What runs share, in one process: the target with its layouts, the kernel's witness, the built drivers."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from dataclasses import dataclass, field

from cgrace.harness.drivers.base import BuiltDriver, DriverSpec
from cgrace.harness.engine import sight
from cgrace.harness.engine.gates import refused as refused_faults
from cgrace.harness.engine.plan import all_faults
from cgrace.harness.engine.unprivileged import why_not
from cgrace.harness.errors import TargetError, UnavailableError
from cgrace.harness.proc import standstill
from cgrace.harness.scenario.model import Scenario, Setting
from cgrace.harness.targets import filters
from cgrace.harness.targets.buses import EMBEDDED, bus_version
from cgrace.harness.targets.fake import FakeTarget
from cgrace.harness.targets.machine import MachineSandbox
from cgrace.harness.targets.names import V1_ENDS
from cgrace.harness.targets.owner import UNIT_PREFIX
from cgrace.harness.targets.registry import FAKE, Facts, Target, TargetName, describe, open_target
from cgrace.harness.targets.sandbox import FakeSandbox
from cgrace.harness.witnesses.inotify import InotifyWitness
from cgrace.harness.witnesses.tracefs import KernelWitness

RunSandbox = FakeSandbox | MachineSandbox


@dataclass(slots=True)
class Place:
    """refused: layouts that this machine cannot make, and why; target: None where it can make none. facts: of a real target.
    kernel: None where nobody needs to know what happens in the cgroup tree."""

    target: Target | None
    kernel: KernelWitness | InotifyWitness | None
    built: dict[str, BuiltDriver]
    name: TargetName = FAKE
    facts: Facts | None = None
    bus: str = EMBEDDED
    bus_version: str = EMBEDDED
    refused: Mapping[str, TargetError] = field(default_factory=dict)

    def check(self, scenario: Scenario, setting: Setting, driver: DriverSpec) -> None:
        """UnavailableError where a scenario cannot be run here on that driver, before anything of it was."""
        layout = setting.layout
        if self.facts is not None:
            if self.name.layout not in ("", layout):
                raise UnavailableError(f"it is about cgroup {layout}, and the target is {self.name.text}")
            if layout not in self.facts.layouts:
                if layout == "v1" and self.facts.systemd >= V1_ENDS:
                    raise UnavailableError(f"systemd {self.facts.systemd} knows cgroup {layout} no more")
                has = " and ".join(self.facts.layouts)
                raise UnavailableError(f"it is about cgroup {layout}, and {self.name.base} has cgroup {has}")
            for fault, why in refused_faults(all_faults(scenario), self.facts.systemd).items():
                raise UnavailableError(f"fault '{fault}' cannot be done on {self.name.base}: {why}")
        if self.name.kind == "user" and (why := why_not(scenario, driver)):
            raise UnavailableError(why)
        self._check_sight(scenario)
        if self.target is None or layout in self.refused:
            error = self.refused[layout]
            raise UnavailableError(error.message, hint=error.hint)

    def _check_sight(self, scenario: Scenario) -> None:
        """UnavailableError for a scenario that needs to see, or to stop, what this kernel does not show."""
        if sight.stops_calls(scenario) and (why := filters.available()):
            raise filters.impossible(why)
        if self.name.kind == "host" and sight.stops_systemd(scenario) and (why := standstill.refusal()):
            raise UnavailableError(why)
        if isinstance(self.kernel, InotifyWitness):
            sight.check_inotify(scenario)

    def sandbox(self, layout: str) -> AbstractAsyncContextManager[RunSandbox]:
        """A place for one run."""
        assert self.target is not None
        return self.target.sandbox(layout)

    def versions(self, sandbox: RunSandbox) -> dict[str, str]:
        """What takes part on systemd's side."""
        if isinstance(sandbox, MachineSandbox):
            return {"bus": "dbus-daemon of the target", "systemd": sandbox.machine.version, **self._witness()}
        return {"bus": self.bus_version, **self._witness()}

    def _witness(self) -> dict[str, str]:
        """What the trace says of a witness that sees less than the kernel's own."""
        return {"cgroup events": sight.INOTIFY} if isinstance(self.kernel, InotifyWitness) else {}


@contextlib.asynccontextmanager
async def open_place(
    built: dict[str, BuiltDriver],
    layouts: Sequence[str],
    on_event: Callable[[str], None] = lambda _: None,
    *,
    bus: str = EMBEDDED,
    name: TargetName = FAKE,
    machines: int = 1,
) -> AsyncIterator[Place]:
    """Open what runs share; gone when the block ends. machines: of a real target, at most at once for each layout."""
    async with AsyncExitStack() as stack:
        kernel = _open_witness(name, on_event)
        stack.callback(kernel.close)
        if name.is_real:
            facts = await describe(name, on_event)
            real = await stack.enter_async_context(
                open_target(
                    name, [one for one in layouts if one in facts.layouts], machines=machines, progress=on_event
                )
            )
            yield Place(real, kernel, built, name, facts)
        else:
            fake, refused = await _open_fake(stack, layouts)
            yield Place(fake, kernel, built, bus=bus, bus_version=await bus_version(bus), refused=refused)


async def _open_fake(stack: AsyncExitStack, layouts: Sequence[str]) -> tuple[FakeTarget | None, dict[str, TargetError]]:
    """The fake with every layout that this machine can make, and why not the others."""
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


def _open_witness(name: TargetName, say: Callable[[str], None]) -> KernelWitness | InotifyWitness:
    """The kernel's tracefs; where it cannot be had, inotify, which does not see who did it."""
    try:
        return KernelWitness.open(UNIT_PREFIX if name.kind == "host" else "")
    except TargetError as error:
        say(f"{error.message}: falling back to inotify, which does not see who changes the cgroup tree")
        return InotifyWitness()
