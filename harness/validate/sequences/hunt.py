"""Plays drawn sequences on two machines and gathers what differs: `cgrace validate --differential`."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

from cgrace.harness.validate.baseline import leading_number
from cgrace.harness.validate.machine import MachineName, open_machine
from cgrace.harness.validate.sequences.draw import draw
from cgrace.harness.validate.sequences.fit import fit
from cgrace.harness.validate.sequences.judge import Found, Judge, excuses
from cgrace.harness.validate.sequences.play import Theatre, Told, opened
from cgrace.harness.validate.sequences.program import Program
from cgrace.harness.validate.sequences.shrink import shrink

BATCH: Final = 150
QUIET_S: Final = 0.045
PATIENT_S: Final = 0.3  # when a difference is looked at again
AGAIN: Final = 30  # plays of the real one alone, to see whether chance decides there
ALONE: Final = 12  # such plays with nothing beside them
MORE: Final = 3  # rounds of AGAIN plays, where chance has a hand in it
KINDS_MAX: Final = 12  # so many different differences are made small
SHRINK_S_MAX: Final = 300.0
_SHRINK_PART: Final = 0.15  # of a given time, for making small what was found
_FIRST: Final = 40  # sequences that are played to see how long one takes, where time is short


@dataclass(slots=True, kw_only=True)
class Hunt:
    """What came of it. played: sequences; unsteady: such as differed once and not again. excused: needed entries of the list.

    by_chance: such as came out otherwise each time, and yet as ours in some of many plays of the real one: there it is a race.
    found: one of each kind, as small as it gets; differing: how many sequences differed.
    """

    played: int = 0
    differing: int = 0
    unsteady: list[Program] = field(default_factory=list)
    by_chance: list[Program] = field(default_factory=list)
    found: list[Found] = field(default_factory=list)
    excused: dict[str, int] = field(default_factory=dict)
    seconds: float = 0.0


class Pair:
    """Two machines and the judge between them."""

    def __init__(self, ours: Theatre, real: Theatre, judge: Judge) -> None:
        self._ours = ours
        self._real = real
        self.judge = judge

    async def compare(self, programs: Sequence[Program], quiet_s: float = QUIET_S) -> list[Found | None]:
        """Play them on both; where each differs."""
        found: dict[int, Found | None] = {}
        self._ours.quiet_s = self._real.quiet_s = quiet_s
        for subscribed in (False, True):
            chosen = [(at, one) for at, one in enumerate(programs) if one.subscribed is subscribed]
            for start in range(0, len(chosen), BATCH):
                some = chosen[start : start + BATCH]
                played = [one for _, one in some]
                ours, real = await asyncio.gather(self._ours.play(played), self._real.play(played))
                for (at, program), one, other in zip(some, ours, real, strict=True):
                    found[at] = self.judge.differs(program, one, other)
        return [found[at] for at in range(len(programs))]

    async def steady(self, found: Sequence[Found], again: int = 2) -> tuple[list[Found], list[Program]]:
        """Those that differ each time, when there is more patience; and those that do not."""
        left, unsteady = list(found), []
        for _ in range(again):
            results = await self.compare([one.program for one in left], PATIENT_S)
            unsteady += [one.program for one, result in zip(left, results, strict=True) if result is None]
            left = [result for result in results if result is not None]
        return left, unsteady

    async def by_chance(self, found: Sequence[Found]) -> tuple[list[Found], list[Program]]:
        """Those that the real one never tells as ours does; and those for which it does both, which makes each a race."""
        left, races = [], []
        for one in found:
            if await self._comes_out_as_ours(one):
                races.append(one.program)
            else:
                left.append(one)
        return left, races

    async def proven(self, one: Found) -> Found | None:
        """It as it was seen last, None where it does not differ each time or does so by chance."""
        left, _ = await self.steady([one])
        left, _ = await self.by_chance(left)
        return left[0] if left else None

    async def _comes_out_as_ours(self, one: Found) -> bool:
        """Whether the real one tells it as ours does, now and then. With others side by side PID 1 comes to each act later than
        alone, so that what races with it wins more often. Where it tells it in several ways, it is given more plays."""
        self._real.quiet_s = QUIET_S
        first: Told | None = None
        alike = True
        for count in (AGAIN, *(1,) * ALONE, *(AGAIN,) * MORE):
            if count == AGAIN and first is not None and alike:
                return False
            for told in await self._real.play([one.program] * count):
                if self.judge.differs(one.program, one.ours, told) is None:
                    return True
                first = first or told
                alike = alike and told == first
        return False


@contextlib.asynccontextmanager
async def pair(ours: MachineName, real: MachineName, progress: Callable[[str], None]) -> AsyncIterator[Pair]:
    """Both machines, ready."""
    async with contextlib.AsyncExitStack() as stack:
        theatres = []
        for name in (ours, real):
            machine = await stack.enter_async_context(open_machine(name, progress=progress))
            theatres.append(await stack.enter_async_context(opened(machine, QUIET_S)))
        there = theatres[1].machine
        judge = Judge(excuses(), leading_number(there.version), there.layout)
        yield Pair(theatres[0], theatres[1], judge)


async def hunt(
    both: Pair, count: int, *, seed: int = 0, seconds: float = 0.0, told: Callable[[Hunt], None] = lambda _: None
) -> Hunt:
    """Play `count` sequences, or as many as there is time for where `seconds` is given. `told` hears after each batch."""
    result = Hunt()
    kinds: dict[tuple[str, ...], Found] = {}
    began = time.monotonic()
    while size := _size(result, count, seconds):
        programs = [fit(draw(seed + result.played + n), both.judge.version) for n in range(size)]
        differing = [one for one in await both.compare(programs) if one is not None]
        if differing:
            differing, unsteady = await both.steady(differing)
            differing, races = await both.by_chance(differing)
            result.unsteady += unsteady
            result.by_chance += races
        result.played += size
        result.differing += len(differing)
        for one in differing:
            have = kinds.get(one.kind)
            if have is None or len(str(one.program)) < len(str(have.program)):
                kinds[one.kind] = one
        result.seconds = time.monotonic() - began
        told(result)
        await asyncio.sleep(0)
    result.excused = dict(both.judge.excused)
    left_s = max(0.0, seconds - result.seconds) if seconds else SHRINK_S_MAX
    result.found = await shrink(list(kinds.values())[:KINDS_MAX], both.compare, both.proven, left_s)
    return result


def _size(so_far: Hunt, count: int, seconds: float) -> int:
    """How many to play next, 0 when it is enough: with a time, not more than a quarter of what is left can hold."""
    if not seconds:
        return min(2 * BATCH, count - so_far.played)
    if not so_far.played:
        return _FIRST
    left_s = seconds * (1 - _SHRINK_PART) - so_far.seconds
    fits = int(left_s * so_far.played / so_far.seconds)
    return min(2 * BATCH, fits) if fits >= _FIRST // 2 else 0
