"""The order of replies and signals, and who is told what (dbus-manager.c, dbus-job.c, dbus-unit.c)."""

from __future__ import annotations

from cgrace.harness.validate.probe import LATER, PROBES, WAITING
from cgrace.harness.validate.stage import Answer, Stage

RELIES = WAITING + LATER


@PROBES.contract(
    "order.own-job",
    "Who made a job, with a match rule and without Subscribe: what does it hear of a scope's start, in which order?",
    "org.freedesktop.systemd1(5), Manager: Subscribe() and JobRemoved; dbus-job.c bus_job_send_removed_signal",
    relied_on=RELIES,
    scenarios=("core/late_signal", "runc_1780/late_signal_lock"),
)
async def own_job(s: Stage) -> Answer:
    pid = await s.worker()
    await s.client.match()
    since = len(s.client.inbox)
    result = await s.up("t-a.scope", PIDs=[pid])
    await s.quiet()
    return [result, s.heard(since)]


@PROBES.habit(
    "order.subscribed",
    "With Subscribe: everything that is heard of a scope's start, in order",
    "dbus-unit.c bus_unit_send_change_signal; dbus-job.c bus_job_send_pending_change_signal",
)
async def subscribed(s: Stage) -> Answer:
    pid = await s.worker()
    await s.client.match()
    await s.call("Subscribe")
    since = len(s.client.inbox)
    await s.up("t-a.scope", PIDs=[pid])
    await s.quiet()
    return s.heard(since, details=True)
