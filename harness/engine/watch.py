"""Watches the driver's waits while a step is out, and decides from what it sees whether anything can still happen.

It orders nothing by time: its polls only observe. A hold's patience ends on what was seen (a wait without limit, or a limit
longer than the patience); a hang is proved, not waited out.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from cgrace.harness import events as ev
from cgrace.harness.clock import NS_PER_MS, now_ns
from cgrace.harness.witnesses.rest import RestWatcher
from cgrace.harness.witnesses.waits import ProcessGone, Rest
from cgrace.harness.witnesses.world import look

if TYPE_CHECKING:
    from cgrace.harness.engine.process import DriverProcess
    from cgrace.harness.engine.run import Run

POLL_S_FIRST = 0.002
POLL_S_MAX = 0.020
POLL_S_TIMED_MAX = 0.2  # while a driver sits in a timed wait that is waited out
QUIET_NS_MIN = 50 * NS_PER_MS  # asleep at least so long, without a context switch, before a proof is attempted
STACKS_S_MAX = 3.0
REST_S_MAX = 1.0  # to sleep again after it was asked for its stacks
HELLO_QUIET_NS_MIN = 500 * NS_PER_MS  # asleep so long without a limit, and no hello: it says none any more
TICKS_MIN = 3  # a driver that woke so often by itself, and did nothing, has a ticker


@dataclass(slots=True)
class _Seen:
    """The last rest of a process: which threads with which counts, since when, and what was made of it."""

    key: tuple[tuple[int, int], ...] = ()
    since_ns: int = 0
    rest: Rest | None = None
    told: set[str] = field(default_factory=set)
    ticks: int = 0  # how often it was seen at rest anew since it, or anybody, made progress at `progress_ns`
    progress_ns: int = 0

    def note_ticks(self, progress_ns: int) -> None:
        self.ticks = self.ticks + 1 if progress_ns == self.progress_ns else 0
        self.progress_ns = progress_ns


@dataclass(slots=True)
class _Looks:
    """How closely a step was watched."""

    last_ns: int
    beat_ns: int
    count: int = 0
    gap_ns: int = 0
    stall_ns: int = 0

    def look(self) -> None:
        now = now_ns()
        self.gap_ns = max(self.gap_ns, now - self.last_ns)
        self.last_ns = now

    def beat(self) -> None:
        """The watcher runs, whether or not it looks."""
        now = now_ns()
        self.stall_ns = max(self.stall_ns, now - self.beat_ns)
        self.beat_ns = now


class Watch:
    """One run's watcher. Runs until it is cancelled or the run is over."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._seen: dict[str, _Seen] = {}
        self._looks: dict[str, _Looks] = {}
        self._hung: tuple[list[DriverProcess], int | None, str] | None = None
        self._woken = False  # by being asked for stacks, before a limit of theirs was believed

    async def run(self) -> None:
        """Poll while there is a reason to: a step out, a point that needs "delivered", or steps that wait."""
        pause = POLL_S_FIRST
        while not self._run.over.is_set():
            if self._run.stir.is_set():
                self._run.stir.clear()
                pause = POLL_S_FIRST
            await self._pause(pause)
            for looks in self._looks.values():
                looks.beat()
            if self._run.stir.is_set() and not self._run.plan.wants_taken():
                continue
            pause = min(pause * 2, self._look())
            if self._hung is not None:
                await self._tell_hang(*self._hung)

    async def _pause(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self._run.stir.wait()
                # Something happened: still let it settle for one short poll, or a busy run would be sampled at every message.
                await asyncio.sleep(0)
        except TimeoutError:
            pass

    def _look(self) -> float:
        """One look at every process; returns the longest sensible pause until the next one, in seconds."""
        run = self._run
        # What is on its way inside us, or set off, is owed to the driver: its wait is ours, not its own.
        if run.systemd.busy() or run.owes():
            return POLL_S_FIRST
        processes = [p for p in run.crew.processes.values() if not p.gone]
        rests = [self._look_at(process) for process in processes]
        run.drain()
        if not processes or any(rest is None for rest in rests) or run.over.is_set():
            return POLL_S_MAX
        if run.call_rested():
            return POLL_S_FIRST
        if self._quiet_ns(processes) >= QUIET_NS_MIN and not run.plan.closed():
            run.wire.give_up_swaps()
        if not all(process.ready for process in processes):
            return self._no_hello(processes)
        if run.crew.out():
            return self._decide(processes)
        self._nothing_out(processes)
        return POLL_S_MAX

    def _quiet_ns(self, processes: list[DriverProcess]) -> int:
        """How long nothing has happened and nobody has moved."""
        return now_ns() - max(self._run.progress_ns, *(self._seen[p.name].since_ns for p in processes))

    def _bounds(self, processes: list[DriverProcess]) -> list[int]:
        """The limits of the processes' waits, of those that have one."""
        rests = [self._seen[process.name].rest for process in processes]
        return [rest.bound_ns for rest in rests if rest is not None and rest.bound_ns is not None]

    def called(self, step: str) -> None:
        """A step is out from now on."""
        self._looks[step] = _Looks(now_ns(), now_ns())

    def returned(self, step: str) -> ev.StepWatched:
        """It is not any more: how closely it was watched."""
        looks = self._looks.pop(step)
        looks.look()
        looks.beat()
        return ev.StepWatched(step=step, looks=looks.count, gap_ns=looks.gap_ns, stall_ns=looks.stall_ns)

    def _watcher(self, process: DriverProcess) -> RestWatcher:
        run = self._run
        return RestWatcher(
            process.spawned.pid_outer, run.built.sysmon_note, queues=lambda: run.wire.queues(process.name)
        )

    def _has_news(self, process: DriverProcess) -> bool:
        """Whether it has answered a step, or waits for us in a call or at a door that we have not taken up."""
        return process.has_said() or self._run.opens.asks(process.name) or self._run.relay.knocked

    def _look_at(self, process: DriverProcess) -> Rest | None:
        """See whether the process is at rest, and tell what follows. What it leaves unread cannot wake it (witnesses/waits.py)."""
        run, seen = self._run, self._seen.setdefault(process.name, _Seen())
        rest = None if self._has_news(process) else self._watcher(process).look(unread_too=True)
        if self._has_news(process):  # it may have answered before we looked, and its rest is then no wait of a step
            rest = None
        for step in process.out:
            self._looks[step].look()
            self._looks[step].count += 1
        if rest is None:
            seen.rest = None
            return None
        key = _key(rest)
        if key != seen.key or seen.rest is None:
            seen.key, seen.since_ns, seen.told = key, now_ns(), set()
            seen.note_ticks(run.progress_ns)
            run.record(ev.DriverWaits(process=process.name, bound_ns=rest.bound_ns, threads=rest.threads))
        seen.rest = rest
        for step in list(process.out):
            if step not in seen.told:
                seen.told.add(step)
                run.record(ev.StepWaits(step=step, bound_ns=rest.bound_ns))
        # From here on things may begin to move again: what was taken may let a step be called, patience may open a hold.
        before_ns = run.progress_ns
        if not run.wire.queues(process.name)[1]:
            run.wire.taken(process.name)
        if run.progress_ns != before_ns or run.owes():
            return None
        if (process.out or not process.ready) and not run.opens.holds(process.name):
            run.patience(rest.bound_ns)
        return rest if run.progress_ns == before_ns else None

    def _decide(self, processes: list[DriverProcess]) -> float:
        """Every process is at rest and steps are out: can anything still happen?"""
        run = self._run
        if run.stir.is_set():
            return POLL_S_FIRST
        out = [p for p in processes if p.out]
        limited = self._bounds(processes)
        quiet_ns = self._quiet_ns(processes)
        if limited and min(limited) <= run.scenario.patience_ns:
            if self._only_ticks(processes, min(limited)):
                self._close_world(out, quiet_ns, ticking=True)
            return POLL_S_TIMED_MAX
        if quiet_ns < QUIET_NS_MIN:
            return max((QUIET_NS_MIN - quiet_ns) / 1e9, POLL_S_FIRST)
        if run.systemd.busy():
            return POLL_S_MAX
        if suspended := run.acts.suspended():
            run.finish("unmet order", suspended)
            return POLL_S_MAX
        closed = run.plan.closed()
        if closed:
            names = ", ".join(f"'{keep.fault.until}'" for keep in closed)
            run.finish(
                "unmet order",
                f"{names} cannot come: holds are closed, and nothing else can end the wait of {', '.join(run.crew.out())}",
            )
            return POLL_S_MAX
        self._close_world(out, quiet_ns)
        return POLL_S_MAX

    def _only_ticks(self, processes: list[DriverProcess], bound_ns: int) -> bool:
        """Whether all that still happens is that a driver wakes by its own timer, again and again, and nothing comes of it."""
        waited_ns = now_ns() - self._run.progress_ns
        ticks = max(self._seen[process.name].ticks for process in processes)
        return ticks >= TICKS_MIN and waited_ns > self._run.scenario.patience_ns + 2 * bound_ns

    def _no_hello(self, processes: list[DriverProcess]) -> float:
        """Every process is at rest, and one has not said that it is ready: does it still come?"""
        run = self._run
        limited, quiet_ns = self._bounds(processes), self._quiet_ns(processes)
        if limited or run.stir.is_set() or run.systemd.busy():
            return POLL_S_MAX
        if quiet_ns < HELLO_QUIET_NS_MIN:
            return max((HELLO_QUIET_NS_MIN - quiet_ns) / 1e9, POLL_S_FIRST)
        late = next(process.name for process in processes if not process.ready)
        kept = run.acts.suspended() or ", ".join(f"'{keep.fault.until}' cannot come" for keep in run.plan.closed())
        if kept:
            run.finish("unmet order", f"{kept}: {late} waits and has not said that it is ready")
        else:
            run.finish("driver died", f"{late}: no hello, it waits without limit, and nothing of ours can end that")
        return POLL_S_MAX

    def _close_world(self, out: list[DriverProcess], quiet_ns: int, *, ticking: bool = False) -> None:
        """Record the looks that a proof rests on, one for each process with a step out, made while all of them slept on."""
        run = self._run
        looks = []
        for process in out:
            rest = self._seen[process.name].rest
            assert rest is not None
            try:
                world = look(process.spawned.pid_outer, run.crew.ours(process))
            except ProcessGone:
                return
            looks.append(
                ev.WorldClosed(
                    process=process.name,
                    bound_ns=least(rest.bound_ns, world.bound_ns),
                    bytes_in=0 if run.wire.is_unread(process.name) else world.bytes_in,
                    bytes_out=world.bytes_out,
                    holds=tuple(k.fault.id for k in run.plan.closed()),
                    jobs=run.plan.pending(run.systemd.queued()),
                    unaccounted=(*world.unaccounted, *rest.unjudged, *run.systemd.unaccounted()),
                    threads=rest.threads,
                    quiet_ns=quiet_ns,
                    children=world.children,
                )
            )
        for process in run.crew.processes.values():
            if process.gone:
                continue
            again = self._watcher(process).look(unread_too=True)
            if again is None or self._has_news(process) or _key(again) != self._seen[process.name].key:
                return
        if run.systemd.busy():
            return
        for event in looks:
            run.record(event)
        bounds = [event.bound_ns for event in looks if event.bound_ns is not None]
        open_to = [what for event in looks for what in event.unaccounted]
        why = "bound" if ticking else "open world" if open_to else "own wait" if bounds else "proved"
        self._hung = (out, min(bounds, default=None), why)

    async def _tell_hang(self, out: list[DriverProcess], bound_ns: int | None, why: str) -> None:
        """Ask the hung processes for their stacks (that wakes them, so it comes last), and end the run.

        A limit that is gone once they were awake was nobody's: Go's poller (findRunnable and netpoll in runtime/proc.go) sleeps on
        for a timer that was stopped meanwhile, and sees only when it wakes that there is none. Then the watch goes on.
        """
        stacks = []
        for process in out:
            if process.name in self._run.acts.paused:
                continue
            text = await process.shim.stacks(STACKS_S_MAX)
            if text:
                stacks.append(ev.Stacks(process=process.name, text=text))
        if why == "own wait" and not self._woken and stacks:
            self._woken = True
            if await self._have_no_limit(out):
                self._hung = None
                return
        for event in stacks:
            self._run.record(event)
        steps = ", ".join(self._run.crew.out())
        limit = "without limit" if bound_ns is None else f"for up to {bound_ns / 1e9:.3f} s"
        if why == "bound":
            limit += ", again and again"
        self._run.finish(why, f"{steps} waits {limit}, and nothing of ours can end that")

    async def _have_no_limit(self, processes: list[DriverProcess]) -> bool:
        """Whether all of them come to rest again, and none for a time."""
        waits = (self._watcher(process).until_rest(REST_S_MAX, unread_too=True) for process in processes)
        rests = await asyncio.gather(*waits)
        return all(rest is not None and rest.bound_ns is None for rest in rests)

    def _nothing_out(self, processes: list[DriverProcess]) -> None:
        """No step is out, yet some wait for a point: with everything at rest it cannot come."""
        run = self._run
        alive = {process.name for process in processes}
        waiting = [(step, points) for step, points in run.plan.steps_waiting() if step.process in alive]
        if not waiting or run.stir.is_set() or self._quiet_ns(processes) < QUIET_NS_MIN or run.systemd.busy():
            return
        step, points = waiting[0]
        names = ", ".join(f"'{point}'" for point in points)
        run.finish("unmet order", f"step {step.id} waits for {names}, and nothing can bring that about any more")


def _key(rest: Rest) -> tuple[tuple[int, int], ...]:
    """Which threads with which context-switch counts: equal keys mean that nothing ran in between."""
    return tuple((thread.tid, thread.switches) for thread in rest.threads if not thread.ignored)


def least(*bounds: int | None) -> int | None:
    """The least of the limits that there are."""
    return min((bound for bound in bounds if bound is not None), default=None)
