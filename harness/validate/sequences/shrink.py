"""Makes a sequence smaller as long as the two still differ in it. Every smaller one of a round is played in the same batch."""

from __future__ import annotations

import math
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import replace
from typing import Final

from cgrace.harness.validate.sequences.judge import Found
from cgrace.harness.validate.sequences.program import Act, Program

ROUNDS_MAX: Final = 30
CANDIDATES_MAX: Final = 24  # of each sequence, in a round

Try = Callable[[Sequence[Program]], Awaitable[Sequence[Found | None]]]
"""Plays sequences on both sides: where each differs, None where it does not."""
Prove = Callable[[Found], Awaitable[Found | None]]
"""Whether it differs each time, and not by chance: as it was seen last, None where it does not."""


def smaller(program: Program) -> Iterator[Program]:
    """Every sequence with one thing less, the biggest things first."""
    moments = program.moments
    half = len(moments) // 2
    if half > 1:
        yield replace(program, moments=moments[half:])
    for at in range(len(moments)):
        if len(moments) > 1:
            yield replace(program, moments=moments[:at] + moments[at + 1 :])
    if program.subscribed:
        yield replace(program, subscribed=False)
    for at, moment in enumerate(moments):
        for place, act in enumerate(moment):
            if len(moment) > 1:
                yield _with(program, at, moment[:place] + moment[place + 1 :])
            for less in _less(act):
                yield _with(program, at, (*moment[:place], less, *moment[place + 1 :]))


def _with(program: Program, at: int, moment: tuple[Act, ...]) -> Program:
    return replace(program, moments=(*program.moments[:at], moment, *program.moments[at + 1 :]))


def _less(act: Act) -> Iterator[Act]:
    given = act.properties
    for place in range(len(given)):
        if len(given) > 1 or act.do != "set":
            yield replace(act, properties=given[:place] + given[place + 1 :])
    if act.by:
        yield replace(act, by=0)
    if act.do in ("start", "stop", "start-unit") and act.args != ("replace",):
        yield replace(act, args=("replace",))


async def shrink(found: Sequence[Found], attempt: Try, prove: Prove, seconds_max: float = math.inf) -> list[Found]:
    """The smallest that was found of each in that time, with a difference in the same kind of place. None is taken that is a race:
    what is left of one after the other would else be another sequence's accident."""
    until = time.monotonic() + seconds_max
    best = [_cut(one) for one in found]
    open_ = set(range(len(best)))
    for _ in range(ROUNDS_MAX):
        if time.monotonic() >= until:
            break
        candidates = {at: list(smaller(best[at].program))[:CANDIDATES_MAX] for at in sorted(open_)}
        flat = [(at, one) for at, programs in candidates.items() for one in programs]
        if not flat:
            break
        results = await attempt([one for _, one in flat])
        progress: set[int] = set()
        for (at, _), result in zip(flat, results, strict=True):
            if at in progress or result is None or result.kind[0] != best[at].kind[0] or time.monotonic() >= until:
                continue
            proven = await prove(result)
            if proven is not None and proven.kind[0] == best[at].kind[0]:
                best[at] = _cut(proven)
                progress.add(at)
        open_ = progress
    return best


def _cut(found: Found) -> Found:
    """What comes after the moment in question is not needed."""
    return replace(found, program=replace(found.program, moments=found.program.moments[: found.moment + 1]))
