"""What jobs do to scopes and slices: start, stop, run empty, time out (scope.c, slice.c)."""

from __future__ import annotations

import signal

from cgrace.fakes.systemd import freezer, freezer_alone
from cgrace.fakes.systemd.core import Core
from cgrace.fakes.systemd.jobs import Job
from cgrace.fakes.systemd.realise import AttachError
from cgrace.fakes.systemd.units import Sub, Unit
from cgrace.harness import events as ev

_NS_PER_US = 1000
INFINITY = 2**64 - 1
# Before, a scope whose processes all ended while it waited starts without one (scope.c, scope_start).
_REFUSES_NOBODY = 250


def run_job(core: Core, job: Job) -> None:
    """Run a job of the queue to its end, or until its unit has to be waited for."""
    core.observe(ev.JobChanged(job=job.path, unit=job.unit.name, type=job.kind, state="started"))
    if job.forced:
        if job.forced == "failed" and core.profile.attach_fails_unit and job.unit.type == "scope":
            fail(core, job.unit, "resources")
        core.end_job(job, job.forced)
        return
    job.running = True
    result = _start(core, job.unit) if job.kind == "start" else _stop(core, job.unit)
    if result == "again":
        job.running = False
    elif result and core.jobs.by_id.get(job.id) is job:
        core.end_job(job, result)


def _start(core: Core, unit: Unit) -> str:
    """The job's result; "again" while the unit is on its way down (unit_start, scope_start, slice_start)."""
    if unit.is_active:
        return "done"
    if unit.type == "scope" and unit.was_active and unit.is_down and core.profile.once:
        return "once"
    if not unit.is_down and core.profile.version >= 258:
        return "again"
    if core.profile.announce_early:  # its conditions were looked at (unit.c, unit_test_condition)
        core.out.changed(unit)
    if core.profile.frozen_jobs_fail and unit.frozen:
        return "frozen"
    freezer_alone.thaw_first(core, unit)
    if not unit.is_down:
        return "again"
    if unit.sub is Sub.FAILED and unit.type == "scope":
        return "failed"
    core.starts += 1
    unit.invocation = core.starts
    core.realiser.realise(unit)
    if unit.type == "slice":
        core.watched.pop(unit, None)  # it was perhaps to be removed when it runs empty
        core.set_state(unit, Sub.ACTIVE)
        return "done"
    return _start_scope(core, unit)


def _start_scope(core: Core, unit: Unit) -> str:
    outer = [core.tree.outer(pid) for pid in unit.pids]
    missing = outer.count(None)
    alive = [pid for pid in outer if pid is not None]
    try:
        if missing and core.profile.any_pid_fails:
            core.said("cannot add its processes: No such process", unit.name)
            raise AttachError("No such process")
        attached = core.realiser.attach_initial(unit, alive)
        if not attached and (unit.pids or core.profile.version >= _REFUSES_NOBODY):
            core.said("no PIDs left to attach to the scope's control group, refusing", unit.name)
            raise AttachError("no process left")
    except AttachError:
        if core.profile.attach_fails_unit:
            fail(core, unit, "resources")
        else:
            core.realiser.prune(unit)
            core.consider(unit)
        return "failed"
    unit.was_active = True
    unit.result = "success"
    runtime_us = unit.settings.get("RuntimeMaxUSec", INFINITY)
    unit.deadline_ns = None if runtime_us == INFINITY else core.now_ns + runtime_us * _NS_PER_US
    core.set_state(unit, Sub.RUNNING)
    core.watched[unit] = None
    unit.populated = attached > 0
    unit.living = set()
    # Before 242 one that starts empty stays (scope.c, scope_start).
    if not core.realiser.is_v2 and core.profile.version >= 242:
        core.rewatch[unit] = None
    return "done"


def fail(core: Core, unit: Unit, result: str) -> None:
    """The unit becomes failed, for this reason."""
    unit.result = result
    core.set_state(unit, Sub.FAILED)


def _stop(core: Core, unit: Unit) -> str:
    """ "" while the unit is stopping."""
    if unit.is_down:
        return "done"
    if core.profile.frozen_jobs_fail and unit.frozen:
        return "frozen"
    if core.profile.announce_early:
        core.out.changed(unit)
    freezer_alone.thaw_first(core, unit)
    if unit.type == "slice":
        core.set_state(unit, Sub.DEAD)
        return "done"
    return _stop_scope(core, unit)


def _stop_scope(core: Core, unit: Unit) -> str:
    hit = unit.settings.get("KillMode") != "none" and kill_all(core, unit, signal.SIGTERM)
    if hit and not _waits(core, unit):
        kill_all(core, unit, signal.SIGKILL)
        hit = False
    if not hit:
        core.set_state(unit, _down(unit))
        return "done"
    core.set_state(unit, Sub.STOP_SIGTERM)
    if not core.realiser.is_v2:
        core.rewatch[unit] = None
    _set_deadline(core, unit)
    return ""


def _waits(core: Core, unit: Unit) -> bool:
    """Whether the stop job waits until the cgroup is empty (facts section 4)."""
    if core.realiser.is_v2:
        return True
    rule = core.profile.stop_waits_v1
    return rule == "always" or (rule == "undelegated" and not unit.delegate and not core.container)


def _down(unit: Unit) -> Sub:
    """What it becomes when it has ended."""
    return Sub.DEAD if unit.result == "success" else Sub.FAILED


def _set_deadline(core: Core, unit: Unit) -> None:
    timeout_us = unit.settings.get("TimeoutStopUSec", core.profile.default_timeout_stop_us)
    unit.deadline_ns = None if timeout_us == INFINITY else core.now_ns + timeout_us * _NS_PER_US


def kill_all(core: Core, unit: Unit, number: int) -> int:
    """Signal every process below the unit's cgroup; how many there were. SIGTERM is followed by SIGCONT."""
    if core.realiser.main is None or unit.phantom or not unit.realised:
        return 0
    pids = core.tree.procs(core.realiser.main.name, unit.cgroup, recursive=True)
    for pid in pids:
        core.kill(pid, number)
        if number == signal.SIGTERM:
            core.kill(pid, signal.SIGCONT)
    return len(pids)


def poll_empty(core: Core, agent: bool) -> None:
    """Look at every watched cgroup. One that ran empty ends its scope: on v1 only with a working release agent, unless it
    is being stopped. On v2 the last one comes first, and all that follows from it before the next (cgroup.c,
    unit_add_to_cgroup_empty_queue and on_cgroup_empty_event)."""
    main = core.realiser.main
    if main is None:
        return
    if main.is_v2 and core.is_busy:  # what waits is done before any event is looked at (manager.c, manager_loop)
        core.between_events()
    if main.is_v2 and core.profile.prunes_empty:
        _look_at_slices(core)
    for unit in tuple(reversed(core.watched) if main.is_v2 else core.watched):
        if unit not in core.watched:  # gone with one before it
            continue
        if unit.is_down:
            _release(core, unit)
            continue
        stopping = unit.sub in (Sub.STOP_SIGTERM, Sub.STOP_SIGKILL)
        if (stopping or main.is_v2 or agent) and _ran_empty(core, unit):
            freezer.tell(core, unit)  # both stand in cgroup.events, and are read at once (unit_check_cgroup_events)
            core.set_state(unit, _down(unit))
            if main.is_v2:
                core.between_events()


def _look_at_slices(core: Core) -> None:
    """Of a slice the kernel tells after what is in it, and so it comes first."""
    for unit in core.units:
        if unit.type == "slice" and unit.is_down and unit.realised and not unit.phantom and _ran_empty(core, unit):
            core.cgroup_empty(unit)


def _ran_empty(core: Core, unit: Unit) -> bool:
    """Whether its cgroup is empty and was not when it was looked at last."""
    was, unit.populated = unit.populated, core.realiser.is_populated(unit)
    return was and not unit.populated


def _release(core: Core, unit: Unit) -> None:
    """Its cgroup could not be removed when it went down: now perhaps it can."""
    if not core.realiser.is_populated(unit):
        del core.watched[unit]
        core.realiser.release(unit)
        core.cgroup_empty(unit)
        core.consider(unit)


def process_ended(core: Core, pid: int, *, late: bool = False) -> None:
    """systemd heard of the end of a child: the scopes that watched it look again. pid: an outer one. late: after it looked
    whether what is down can be collected: nothing makes it look again."""
    for unit in core.units:
        if pid in unit.living:
            unit.living.discard(pid)
            if unit.is_down:  # PIDs= are those that are watched (unit.c, unit_unwatch_pid)
                unit.pids = [one for one in unit.pids if core.tree.outer(one) is not None]
            if not core.realiser.is_v2:
                core.rewatch[unit] = None
        elif not late and unit.is_down and unit in core.watched:
            _release(core, unit)


def watch_again(core: Core) -> bool:
    """On v1 a scope watches the processes in its cgroup, and those that it watched before and that live; when there is none, it is
    at its end (unit.c, on_rewatch_pids_event). One scope at a time; False when there is none to look at."""
    if not core.rewatch:
        return False
    unit = next(iter(core.rewatch))
    del core.rewatch[unit]
    main = core.realiser.main
    if main is None or not unit.realised:
        return True
    alive = (pid for pid in unit.living if core.tree.locate(main.name, pid) is not None)
    unit.living = {*alive, *core.tree.procs(main.name, unit.cgroup, recursive=True)}
    if not unit.living:
        core.cgroup_empty(unit)
    return True


def check_deadlines(core: Core) -> None:
    """Stops that took too long: SIGKILL first, given up the second time."""
    for unit in tuple(core.watched):
        if unit.deadline_ns is None or unit.deadline_ns > core.now_ns:
            continue
        unit.result = "timeout"
        if unit.is_active:
            core.said("its time is over (RuntimeMaxSec=). Stopping.", unit.name)
            unit.deadline_ns = None
            _stop_scope(core, unit)
            continue
        if unit.sub is Sub.STOP_SIGTERM and unit.settings.get("SendSIGKILL", True):
            core.said("stopping timed out. Killing.", unit.name)
            core.set_state(unit, Sub.STOP_SIGKILL)
            _set_deadline(core, unit)
            kill_all(core, unit, signal.SIGKILL)
            continue
        core.said("still around after SIGKILL. Ignoring.", unit.name)
        fail(core, unit, "timeout")
