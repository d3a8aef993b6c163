"""UnitExists: in which states of a unit StartTransientUnit refuses to make it (unit.c, unit_is_pristine)."""

from __future__ import annotations

from cgrace.harness.validate.probe import EVERY, LATER, Subject
from cgrace.harness.validate.stage import SHORT_S, Answer, Stage

SOURCE = "dbus-manager.c transient_unit_from_message; unit.c unit_is_pristine"
SCENARIOS = ("core/unit_exists_*", "runc_1780/unit_exists_*")


probe = Subject("exists", SOURCE, relied_on=EVERY, scenarios=SCENARIOS)


@probe.habit("scope-active", "A scope that is active: may it be made again?")
async def scope_active(s: Stage) -> Answer:
    pid = await s.worker()
    return [await s.up("t-a.scope", PIDs=[pid]), await s.start("t-a.scope", PIDs=[pid])]


@probe.habit("scope-queued", "A scope whose start job is still queued: may it be made again?")
async def scope_queued(s: Stage) -> Answer:
    pid = await s.worker()
    gate = await s.gate()
    first = await s.start("t-a.scope", PIDs=[pid], After=[gate.unit])
    return [first, await s.state("t-a.scope"), await s.start("t-a.scope", PIDs=[pid])]


@probe.habit("scope-stopping", "A scope that is being stopped and whose process ignores SIGTERM: may it be made again?")
async def scope_stopping(s: Stage) -> Answer:
    pid = await s.worker("other")
    await s.scope("t-a.scope", stubborn=True)
    await s.call("StopUnit", "ss", "t-a.scope", "replace")
    await s.ends(seconds_max=SHORT_S)
    return [await s.settled("t-a.scope"), await s.start("t-a.scope", PIDs=[pid])]


@probe.habit("scope-failed", "A scope that failed: may it be made again, before and after ResetFailedUnit?")
async def scope_failed(s: Stage) -> Answer:
    failed = await s.failed("t-a.scope")
    pid = await s.worker("other")
    refused = await s.start("t-a.scope", PIDs=[pid])
    reset = await s.call("ResetFailedUnit", "s", "t-a.scope")
    return [failed, refused, reset, await s.up("t-a.scope", PIDs=[pid])]


@probe.habit(
    "scope-held", "A scope that ended while somebody holds a reference to it: may it be made again?", relied_on=()
)
async def scope_held(s: Stage) -> Answer:
    pid = await s.worker("other")
    await s.scope("t-a.scope", AddRef=True)
    stopped = await s.down("t-a.scope")
    await s.ends()
    refused = await s.start("t-a.scope", PIDs=[pid])
    released = await s.call("UnrefUnit", "s", "t-a.scope")
    await s.quiet()
    return [stopped, refused, released, await s.up("t-a.scope", PIDs=[pid])]


@probe.habit("scope-gone", "A scope that was stopped and is gone: may its name be used again?")
async def scope_gone(s: Stage) -> Answer:
    pid = await s.worker("other")
    await s.scope("t-a.scope")
    stopped = await s.down("t-a.scope")
    await s.ends()
    return [stopped, await s.settled("t-a.scope"), await s.up("t-a.scope", PIDs=[pid])]


@probe.habit("slice-active", "A slice made by a call: may it be made again?")
async def slice_active(s: Stage) -> Answer:
    return [await s.up("t-a.slice"), await s.start("t-a.slice")]


@probe.habit("slice-queued", "A slice whose start job is still queued: may it be made again?")
async def slice_queued(s: Stage) -> Answer:
    gate = await s.gate()
    return [await s.start("t-a.slice", After=[gate.unit]), await s.start("t-a.slice")]


@probe.habit("slice-implicit", "A slice that came up only as the parent of a unit: may it be made, and once more?")
async def slice_implicit(s: Stage) -> Answer:
    first = await s.scope("t-a.scope", Slice="t-b.slice")
    return [first, await s.state("t-b.slice"), await s.up("t-b.slice"), await s.start("t-b.slice")]


@probe.habit("slice-stopped", "A slice that was stopped: may it be made again at once?")
async def slice_stopped(s: Stage) -> Answer:
    await s.up("t-a.slice")
    stopped = await s.down("t-a.slice")
    await s.quiet()
    return [stopped, await s.state("t-a.slice"), await s.up("t-a.slice")]


@probe.habit("slice-with-file", "A slice with a unit file (user.slice): may it be made?", relied_on=LATER)
async def slice_with_file(s: Stage) -> Answer:
    return await s.start("user.slice")


@probe.habit("slice-bad-name", "A slice whose name has no place in the tree (a--b.slice): what is said?", relied_on=())
async def slice_bad_name(s: Stage) -> Answer:
    return await s.start("t--b.slice")


@probe.habit("retry", "After a call that was refused for a property: does the same name work at once?", relied_on=EVERY)
async def retry(s: Stage) -> Answer:
    pid = await s.worker()
    refused = await s.start("t-a.scope", PIDs=[pid], Nonsense=True)
    return [refused, await s.up("t-a.scope", PIDs=[pid])]
