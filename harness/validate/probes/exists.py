"""UnitExists: in which states of a unit StartTransientUnit refuses to make it (unit.c, unit_is_pristine)."""

from __future__ import annotations

from cgrace.harness.validate.probe import EVERY, PROBES
from cgrace.harness.validate.stage import Answer, Stage

SOURCE = "dbus-manager.c transient_unit_from_message; unit.c unit_is_pristine"
SCENARIOS = ("core/unit_exists_*", "runc_1780/unit_exists_*")


@PROBES.habit(
    "exists.scope.active", "A scope that is active: may it be made again?", SOURCE, relied_on=EVERY, scenarios=SCENARIOS
)
async def scope_active(s: Stage) -> Answer:
    pid = await s.worker()
    return [await s.up("t-a.scope", PIDs=[pid]), await s.start("t-a.scope", PIDs=[pid])]


@PROBES.habit(
    "exists.slice.active", "A slice made by a call: may it be made again?", SOURCE, relied_on=EVERY, scenarios=SCENARIOS
)
async def slice_active(s: Stage) -> Answer:
    return [await s.up("t-a.slice"), await s.start("t-a.slice")]


@PROBES.habit(
    "exists.slice.implicit",
    "A slice that came up only as the parent of a unit: may it be made?",
    SOURCE,
    relied_on=EVERY,
    scenarios=SCENARIOS,
)
async def slice_implicit(s: Stage) -> Answer:
    pid = await s.worker()
    first = await s.up("t-a.scope", Slice="t-b.slice", PIDs=[pid])
    return [first, await s.state("t-b.slice"), await s.up("t-b.slice"), await s.start("t-b.slice")]
