"""What a daemon-reload and a daemon-reexec change in between (manager-serialize.c, unit-serialize.c, job.c)."""

from __future__ import annotations

import asyncio

from cgrace.harness.validate.probe import EVERY, LATER, WAITING, Subject
from cgrace.harness.validate.stage import Answer, Stage

SOURCE = "manager-serialize.c manager_serialize; unit-serialize.c unit_serialize_state; job.c job_serialize"
DOCUMENT = "org.freedesktop.systemd1(5), The Manager Object: Methods (Reload, Reexecute), Signals (Reloading)"

probe = Subject("reload", SOURCE)


@probe.contract(
    "order", "Reload with Subscribe: what is heard of a scope, in which order, and when is the reply?", source=DOCUMENT
)
async def order(s: Stage) -> Answer:
    await s.scope("t-a.scope")
    await s.listen(subscribed=True)
    await s.quiet()
    since = len(s.client.inbox)
    await s.call("Reload")
    await s.quiet()
    return s.heard(since)


@probe.habit("scope", "A scope and its process over a Reload", relied_on=EVERY)
async def scope(s: Stage) -> Answer:
    await s.scope("t-a.scope", Slice="t-b.slice", Description="ours", TasksMax=100)
    await s.call("Reload")
    names = ("Description", "Transient")
    found = [await s.get("t-a.scope", "Unit", name) for name in names]
    return [
        await s.state("t-a.scope"),
        await s.state("t-b.slice"),
        *found,
        await s.get("t-a.scope", "Scope", "TasksMax"),
        s.systemd_says(),
    ]


@probe.habit(
    "job",
    "A queued job over a Reload: does it go on under its id, with its processes, and is its end told?",
    relied_on=WAITING,
)
async def job(s: Stage) -> Answer:
    await s.listen()
    job, gate = await s.queued("t-a.scope")
    await s.call("Reload")
    state = await s.state("t-a.scope")
    return [state, await s.let_go(job, gate), await s.state("t-a.scope"), s.systemd_says()]


@probe.habit("failed", "A scope that failed, over a Reload", relied_on=LATER)
async def failed(s: Stage) -> Answer:
    await s.failed("t-a.scope")
    await s.call("Reload")
    return [await s.state("t-a.scope"), await s.start("t-a.scope", PIDs=[await s.worker("other")])]


@probe.habit("subscription", "Subscribe over a Reload", relied_on=LATER)
async def subscription(s: Stage) -> Answer:
    await s.call("Subscribe")
    await s.call("Reload")
    return await s.call("Subscribe")


@probe.habit("reference", "A reference (AddRef) over a Reload")
async def reference(s: Stage) -> Answer:
    await s.scope("t-a.scope", AddRef=True)
    await s.call("Reload")
    return [await s.down("t-a.scope"), await s.state("t-a.scope"), await s.call("UnrefUnit", "s", "t-a.scope")]


@probe.habit("quota", "CPUQuotaPerSecUSec=123456 as it is read, before and after a Reload", relied_on=LATER)
async def quota(s: Stage) -> Answer:
    await s.up("t-a.slice", CPUQuotaPerSecUSec=123_456)
    before = await s.get("t-a.slice", "Slice", "CPUQuotaPerSecUSec")
    await s.call("Reload")
    return [before, await s.get("t-a.slice", "Slice", "CPUQuotaPerSecUSec")]


@probe.contract(
    "reexec",
    "Reexecute: what does the caller hear, and a scope and a subscription over it?",
    source=DOCUMENT,
    relied_on=LATER,
)
async def reexec(s: Stage) -> Answer:
    await s.scope("t-a.scope")
    since = await s.listen(subscribed=True)
    said = await s.call("Reexecute")
    await s.client.until(lambda m: m.member == "NameOwnerChanged" or bool(m.error_name), since)
    async with asyncio.timeout(8):
        again = await s.patiently("Subscribe")
    return [said, again, await s.state("t-a.scope"), s.systemd_says()]


@probe.habit("reexec-job", "A queued job over a Reexecute: is its end told to who made it?", relied_on=WAITING)
async def reexec_job(s: Stage) -> Answer:
    await s.listen()
    job, gate = await s.queued("t-a.scope")
    await s.call("Reexecute")
    await s.patiently("GetUnit", "s", "t-a.scope")
    state = await s.state("t-a.scope")
    return [state, await s.let_go(job, gate), s.systemd_says()]
