"""How scopes and slices end: by themselves, by a stop, by a failure; what stays, and for how long (scope.c, slice.c)."""

from __future__ import annotations

from typing import Any

from cgrace.harness.validate.probe import EVERY, LATER, Subject
from cgrace.harness.validate.stage import GONE_STATE, SHORT_S, Answer, Stage

SCOPE = "scope.c scope_start, scope_stop, scope_enter_signal, scope_notify_cgroup_empty_event"
MAN = "systemd.scope(5); systemd.kill(5)"
MS = 1000

probe = Subject("life", SCOPE)


@probe.habit("processes-end", "The only process of a scope ends: what becomes of the scope?", relied_on=LATER)
async def processes_end(s: Stage) -> Answer:
    await s.scope("t-a.scope")
    await s.kill()
    await s.quiet()
    return await s.becomes("t-a.scope", GONE_STATE, 3.0)


@probe.habit("empty-below", "As before, and an empty cgroup is below the scope", relied_on=LATER)
async def empty_below(s: Stage) -> Answer:
    await s.scope("t-a.scope", Delegate=True)
    s.mkdir(s.path("t-a.scope") + "/sub")
    await s.kill()
    await s.quiet()
    state = await s.becomes("t-a.scope", GONE_STATE, 3.0)
    return [state, s.systemd_has(s.path("t-a.scope"))]


@probe.contract(
    "stop",
    "StopUnit of a scope: does its process get SIGTERM, and what is the scope when the job is done?",
    source=MAN,
    relied_on=EVERY,
)
async def stop(s: Stage) -> Answer:
    await s.scope("t-a.scope")
    result = await s.down("t-a.scope")
    return [result, await s.ends(), await s.settled("t-a.scope")]


@probe.habit("stop-stubborn", "StopUnit of a scope whose process ignores SIGTERM: does the job wait?", relied_on=LATER)
async def stop_stubborn(s: Stage) -> Answer:
    return await _stop_stubborn(s)


@probe.habit("stop-stubborn-delegated", "The same of a scope with Delegate=yes", relied_on=LATER)
async def stop_stubborn_delegated(s: Stage) -> Answer:
    return await _stop_stubborn(s, Delegate=True)


async def _stop_stubborn(s: Stage, **values: Any) -> Answer:
    await s.scope("t-a.scope", stubborn=True, **values)
    await s.call("StopUnit", "ss", "t-a.scope", "replace")
    ends = await s.ends(seconds_max=SHORT_S)
    return [await s.settled("t-a.scope"), ends]


@probe.habit(
    "stop-timeout",
    "A stop that needs SIGKILL after TimeoutStopUSec: how does the job end, what is the scope?",
    relied_on=LATER,
)
async def stop_timeout(s: Stage) -> Answer:
    await s.scope("t-a.scope", stubborn=True, TimeoutStopUSec=300 * MS)
    result = await s.down("t-a.scope")
    ends = await s.ends()
    return [result, ends, await s.settled("t-a.scope"), await s.get("t-a.scope", "Scope", "Result")]


@probe.contract(
    "runtime-max",
    "RuntimeMaxUSec of a scope is over: what is the scope, what its Result?",
    source="systemd.scope(5), RuntimeMaxSec=",
)
async def runtime_max(s: Stage) -> Answer:
    first = await s.scope("t-a.scope", RuntimeMaxUSec=300 * MS)
    if first != "done":
        return first
    state = await s.becomes("t-a.scope", "failed/failed", 4.0)
    return [state, await s.get("t-a.scope", "Scope", "Result")]


@probe.habit(
    "attach-fails",
    "A scope's only process is gone when its job runs: job, state and Result",
    relied_on=LATER,
    scenarios=("core/failed_job",),
)
async def attach_fails(s: Stage) -> Answer:
    return [
        await s.failed("t-a.scope"),
        await s.get("t-a.scope", "Scope", "Result"),
        s.systemd_has(s.path("t-a.scope")),
    ]


@probe.habit("attach-some", "One of a scope's two processes is gone when its job runs", relied_on=LATER)
async def attach_some(s: Stage) -> Answer:
    gate = await s.gate()
    await s.worker()
    await s.worker("doomed", adopted=False)
    await s.listen()
    job = await s.queue("t-a.scope", PIDs=[s.pid(), s.pid("doomed")], After=[gate.unit])
    await s.kill("doomed")
    return [await s.let_go(job, gate), await s.state("t-a.scope")]


@probe.contract(
    "collect-mode",
    "A scope with CollectMode=inactive-or-failed fails: is it still there?",
    source="systemd.unit(5), CollectMode=",
    relied_on=LATER,
)
async def collect_mode(s: Stage) -> Answer:
    failed = await s.failed("t-a.scope", CollectMode="inactive-or-failed")
    await s.quiet()
    return [failed if isinstance(failed, dict) else failed[0], await s.state("t-a.scope")]


@probe.habit("failed-stays", "A scope that failed, after a stop job: still failed?", relied_on=LATER)
async def failed_stays(s: Stage) -> Answer:
    await s.failed("t-a.scope")
    result = await s.down("t-a.scope")
    await s.quiet()
    return [result, await s.state("t-a.scope")]


@probe.habit("start-again", "StartUnit of a scope: active, and while it is stopping", relied_on=())
async def start_again(s: Stage) -> Answer:
    await s.scope("t-a.scope", stubborn=True)
    since = await s.listen()
    active = await s.client.call("StartUnit", "ss", s.name("t-a.scope"), "replace")
    first = await s.ended(active.body[0], since)
    stop = await s.client.call("StopUnit", "ss", s.name("t-a.scope"), "replace")
    await s.quiet()
    if not (await s.state("t-a.scope")).startswith("deactivating"):
        return [first, "its stop does not wait"]
    again = await s.client.call("StartUnit", "ss", s.name("t-a.scope"), "replace")
    if again.error_name:
        return [first, s.told(again)]
    stopped = await s.ended(stop.body[0], since)
    await s.kill()
    return [first, stopped, await s.ended(again.body[0], since)]


@probe.habit(
    "slice-empty",
    "A slice whose last unit ended: does it stay?",
    source="unit.c unit_may_gc; slice.c slice_start",
    relied_on=EVERY,
)
async def slice_empty(s: Stage) -> Answer:
    await s.scope("t-a.scope", Slice="t-b.slice")
    await s.down("t-a.scope")
    await s.quiet()
    return [await s.state("t-b.slice"), s.systemd_has(s.path("t-b.slice"))]


@probe.habit(
    "slice-stop-foreign",
    "A slice is stopped that holds somebody else's cgroup with a process in it",
    source="cgroup.c unit_prune_cgroup",
    relied_on=EVERY,
)
async def slice_stop_foreign(s: Stage) -> Answer:
    result = await _stop_around_foreign(s)
    return [result, await s.state("t-a.slice"), s.systemd_says(), await s.ends(seconds_max=0.05)]


@probe.habit(
    "slice-again-foreign",
    "That slice is then made anew: what is said?",
    source="cgroup.c unit_prune_cgroup",
    relied_on=EVERY,
)
async def slice_again_foreign(s: Stage) -> Answer:
    await _stop_around_foreign(s)
    return [await s.up("t-a.slice"), await s.state("t-a.slice"), s.systemd_says()]


async def _stop_around_foreign(s: Stage) -> Answer:
    """Stop a slice while a process is in somebody else's cgroup below it; how the job ended."""
    await s.worker()
    await s.up("t-a.slice")
    s.put("worker", s.path("t-a.slice") + "/foreign")
    result = await s.down("t-a.slice")
    await s.quiet()
    return result


@probe.contract("stop-below", "A scope is stopped that has processes in cgroups below it", source=MAN, relied_on=LATER)
async def stop_below(s: Stage) -> Answer:
    await s.worker("below")
    await s.scope("t-a.scope", Delegate=True)
    s.put("below", s.path("t-a.scope") + "/sub/sub")
    result = await s.down("t-a.scope")
    return [result, await s.ends(), await s.ends("below")]


@probe.contract(
    "kill-mode-none", "KillMode=none: does a stop leave the process alone?", source="systemd.kill(5), KillMode="
)
async def kill_mode_none(s: Stage) -> Answer:
    await s.scope("t-a.scope", KillMode="none")
    result = await s.down("t-a.scope")
    return [result, await s.ends(seconds_max=0.1)]


@probe.habit("killed-outside", "Somebody kills the process while the scope is stopping", relied_on=LATER)
async def killed_outside(s: Stage) -> Answer:
    await s.scope("t-a.scope", stubborn=True)
    since = await s.listen()
    stop = await s.client.call("StopUnit", "ss", s.name("t-a.scope"), "replace")
    await s.quiet()
    await s.kill()
    result = await s.ended(stop.body[0], since)
    return [result, await s.settled("t-a.scope")]
