"""The order of replies and signals, and who is told what (dbus-manager.c, dbus-job.c, dbus-unit.c)."""

from __future__ import annotations

import re
from typing import Any

from cgrace.harness.dbus.message import Message
from cgrace.harness.validate.machine import START
from cgrace.harness.validate.probe import LATER, WAITING, Subject
from cgrace.harness.validate.stage import Answer, Stage, in_order

DOCUMENT = "org.freedesktop.systemd1(5), The Manager Object: Methods (StartUnit, Subscribe), Signals (JobRemoved)"
SOURCE = "dbus-job.c bus_job_send_removed_signal, bus_job_send_change_signal; dbus-unit.c bus_unit_send_change_signal"
RELIES = WAITING + LATER
SCENARIOS = ("core/late_signal", "core/lost_signal", "runc_1780/late_signal_lock")

probe = Subject("order", SOURCE, scenarios=SCENARIOS)


@probe.habit(
    "own-job",
    "Who made a scope, with a match rule and without Subscribe: what does it hear, in which order?",
    relied_on=RELIES,
)
async def own_job(s: Stage) -> Answer:
    since = await s.listen()
    result = await s.scope("t-a.scope")
    await s.quiet()
    return [result, s.heard(since)]


@probe.contract(
    "removed-after-reply",
    "Does JobRemoved of the job that a call made come after the call's reply, also for ten calls at once?",
    source=DOCUMENT,
    relied_on=RELIES,
)
async def removed_after_reply(s: Stage) -> Answer:
    since = await s.listen()
    posted = [s.client.post("StartTransientUnit", START, s.own(f"t-{n}.slice"), "replace", [], []) for n in range(10)]
    jobs = [(await one).body[0] for one in posted]
    for job in jobs:
        await s.ended(job, since)
    late = [job for job in jobs if _place(s, since, job, reply=True) > _place(s, since, job, reply=False)]
    return {"jobs": len(set(jobs)), "removed before the reply": len(late)}


def _place(s: Stage, since: int, job: str, *, reply: bool) -> int:
    def wanted(m: Message) -> bool:
        return m.body[:1] == (job,) if reply else m.member == "JobRemoved" and m.body[1] == job

    return next(index for index, m in enumerate(s.client.inbox) if index >= since and wanted(m))


@probe.habit("subscribed-start", "With Subscribe: everything that is heard of a scope's start, in order")
async def subscribed_start(s: Stage) -> Answer:
    since = await s.listen(subscribed=True)
    await s.scope("t-a.scope")
    await s.quiet()
    return s.heard(since, details=True)


@probe.habit("subscribed-stop", "With Subscribe: everything that is heard of a scope's stop, in order")
async def subscribed_stop(s: Stage) -> Answer:
    await s.scope("t-a.scope")
    since = await s.listen(subscribed=True)
    await s.down("t-a.scope")
    heard = s.heard(since, details=True)
    return heard[: heard.index("JobRemoved t-a.scope done") + 1]


@probe.habit(
    "subscribed-slice",
    "With Subscribe: what is heard of a scope's start in a slice that is not there yet",
    relied_on=RELIES,
)
async def subscribed_slice(s: Stage) -> Answer:
    since = await s.listen(subscribed=True)
    await s.scope("t-a.scope", Slice="t-b.slice")
    await s.quiet()
    return s.heard(since)


@probe.habit("refused", "With Subscribe: what is heard of a call that was refused")
async def refused(s: Stage) -> Answer:
    since = await s.listen(subscribed=True)
    await s.start("t-a.scope", Nonsense=True)
    await s.quiet()
    return s.heard(since)


@probe.habit(
    "others-hear",
    "Another connection with a match rule, nobody subscribed: what does it hear of somebody's scope?",
    relied_on=RELIES,
)
async def others_hear(s: Stage) -> Answer:
    other = await s.connect()
    await other.match()
    await s.scope("t-a.scope")
    await s.down("t-a.scope")
    await s.quiet()
    return s.heard(by=other)


@probe.habit(
    "caller-left",
    "The caller disconnects while its job is queued: does the job go on, and does anybody hear of its end?",
    relied_on=WAITING,
)
async def caller_left(s: Stage) -> Answer:
    gate = await s.gate()
    await s.worker()
    await s.listen()
    async with s.machine.connect() as caller:
        first = s.told(await s.ask_start("t-a.scope", by=caller, PIDs=[s.pid()], After=[gate.unit]))
    await s.quiet()
    since = len(s.client.inbox)
    await gate.open()
    state = await s.becomes("t-a.scope", "active/running")
    await s.quiet()
    return [first, state, [word for word in s.heard(since) if word != "reply"]]


@probe.habit("two-stops", "Two StopUnit while a scope is stopping: do they share one job?", relied_on=RELIES)
async def two_stops(s: Stage) -> Answer:
    await s.scope("t-a.scope", stubborn=True)
    first = await s.client.call("StopUnit", "ss", s.name("t-a.scope"), "replace")
    await s.quiet()
    if not (await s.state("t-a.scope")).startswith("deactivating"):
        return "its stop does not wait"
    second = await s.client.call("StopUnit", "ss", s.name("t-a.scope"), "replace")
    return first.body == second.body


@probe.habit("two-starts", "A start of a slice that has a queued start job: is it the same job?")
async def two_starts(s: Stage) -> Answer:
    gate = await s.gate()
    first = await s.ask_start("t-a.slice", After=[gate.unit])
    second = await s.client.call("StartUnit", "ss", s.name("t-a.slice"), "replace")
    return first.body == second.body


@probe.habit(
    "stop-over-start", "StopUnit while the start job is queued: what is heard, and how do both end?", relied_on=RELIES
)
async def stop_over_start(s: Stage) -> Answer:
    gate = await s.gate()
    await s.worker()
    await s.listen()
    await s.ask_start("t-a.scope", PIDs=[s.pid()], After=[gate.unit])
    since = len(s.client.inbox)
    result = await s.down("t-a.scope")
    await s.quiet()
    return [result, s.heard(since), s.systemd_says()]


@probe.habit("stop-fail", "StopUnit in mode 'fail' while the start job is queued")
async def stop_fail(s: Stage) -> Answer:
    gate = await s.gate()
    await s.worker()
    await s.ask_start("t-a.scope", PIDs=[s.pid()], After=[gate.unit])
    return await s.call("StopUnit", "ss", "t-a.scope", "fail")


@probe.habit(
    "stop-slice", "A slice with a scope and a slice in it is stopped: what is heard, in which order?", relied_on=LATER
)
async def stop_slice(s: Stage) -> Answer:
    await s.up("t-b-c.slice")
    await s.scope("t-a.scope", Slice="t-b.slice")
    since = await s.listen(subscribed=True)
    await s.down("t-b.slice")
    await s.quiet()
    heard = [word for word in s.heard(since) if word.startswith(("Job", "reply"))]
    return [*in_order(heard[:-1]), heard[-1]]


@probe.habit(
    "job-gone",
    "After JobRemoved: what does the job's object say, and GetJob and CancelJob of its number?",
    source="dbus-job.c bus_job_find; dbus-manager.c method_get_job, method_cancel_job",
)
async def job_gone(s: Stage) -> Answer:
    await s.listen()
    job = await s.queue("t-a.slice")
    await s.ended(job)
    number = int(job.rpartition("/")[2])
    read = await s.client.get(job, "org.freedesktop.systemd1.Job", "State")
    said = [s.told(read), await s.call("GetJob", "u", number), await s.call("CancelJob", "u", number)]
    return _without(said, number)


def _without(said: Any, number: int) -> Any:
    """What was said, with a job's number put in words."""
    if isinstance(said, list):
        return [_without(one, number) for one in said]
    if isinstance(said, dict):
        return {key: _without(one, number) for key, one in said.items()}
    return re.sub(rf"\b{number}\b", "<number>", said) if isinstance(said, str) else said


@probe.contract(
    "cancel", "CancelJob of a queued start job: how does the job end, and what is the unit?", source=DOCUMENT
)
async def cancel(s: Stage) -> Answer:
    await s.listen()
    job, _ = await s.queued("t-a.scope")
    said = await s.call("CancelJob", "u", int(job.rpartition("/")[2]))
    return [said, await s.ended(job), await s.state("t-a.scope")]


@probe.habit("job-property", "The Job property of a unit, and the job's own properties, while it is queued")
async def job_property(s: Stage) -> Answer:
    job, _ = await s.queued("t-a.scope")
    kind = await s.client.get(job, "org.freedesktop.systemd1.Job", "JobType")
    state = await s.client.get(job, "org.freedesktop.systemd1.Job", "State")
    of_unit = await s.get("t-a.scope", "Unit", "Job")
    return [s.told(kind), s.told(state), s.plain(of_unit[1]) == s.plain(job), await s.state("t-a.scope")]


@probe.habit(
    "subscribe-twice",
    "Subscribe twice, Unsubscribe twice",
    relied_on=(),
    source="dbus-manager.c method_subscribe, method_unsubscribe",
)
async def subscribe_twice(s: Stage) -> Answer:
    return [await s.call(member) for member in ("Subscribe", "Subscribe", "Unsubscribe", "Unsubscribe")]


@probe.habit(
    "active-start",
    "StartUnit of a slice that is active already: how does that job end?",
    source="job.c job_run_and_invalidate",
)
async def active_start(s: Stage) -> Answer:
    await s.up("t-a.slice")
    since = await s.listen()
    answer = await s.client.call("StartUnit", "ss", s.name("t-a.slice"), "replace")
    return await s.ended(answer.body[0], since)
