"""Drawn sequences: the same each time, made small, judged; and played on the fake beside each real systemd that is built here."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from dataclasses import replace
from typing import cast

import pytest

from cgrace.harness.errors import TargetError
from cgrace.harness.targets import roots
from cgrace.harness.validate.machine import parse_machine
from cgrace.harness.validate.sequences.draw import draw
from cgrace.harness.validate.sequences.fit import fit
from cgrace.harness.validate.sequences.hunt import AGAIN, ALONE, MORE, Hunt, Pair, hunt, pair
from cgrace.harness.validate.sequences.judge import Excuse, Found, Judge, excuses
from cgrace.harness.validate.sequences.play import Theatre, Told
from cgrace.harness.validate.sequences.program import Act, Program
from cgrace.harness.validate.sequences.shrink import shrink, smaller

PAIRS = (("247", "bullseye"), ("252", "bookworm"), ("257", "trixie"), ("262:v2", "sid:v2"))
SEQUENCES = 60


def stop(unit: str) -> Act:
    """StopUnit."""
    return Act(do="stop", unit=unit, args=("replace",))


def test_a_number_gives_the_same_sequence() -> None:
    """A sequence can be asked for again by its number, and others are others."""
    assert draw(7) == draw(7)
    assert len({str(draw(number)) for number in range(50)}) == 50


def test_every_smaller_sequence_is_smaller() -> None:
    """Whatever shrinking tries has less in it, so that it comes to an end."""
    for number in range(30):
        program = draw(number)
        for less in smaller(program):
            assert less != program
            assert (len(str(less)), less.subscribed) <= (len(str(program)), program.subscribed) or less.moments


def test_no_version_is_asked_what_it_does_not_live_through() -> None:
    """247 spins when one connection holds a unit twice: the second time is left out, for it alone."""
    ref, unref = Act(do="ref", unit="t-a.scope"), Act(do="unref", unit="t-a.scope")
    other = Act(do="ref", unit="t-a.scope", by=1)
    program = Program(moments=((ref,), (ref, other), (ref,), (unref,)))
    assert fit(program, 252) == program
    assert [moment for moment in fit(program, 247).moments if ref in moment] == [(ref,)]
    assert (other,) in fit(program, 247).moments
    assert len(fit(program, 247).moments) == len(program.moments)


def test_a_slice_is_frozen_once_where_a_second_time_is_the_end_of_it() -> None:
    """247 owes an answer for a slice that is frozen already, and aborts when it is to freeze or thaw that again."""
    freeze, thaw = Act(do="freeze", unit="t-x.slice"), Act(do="thaw", unit="t-x.slice")
    scope = Act(do="freeze", unit="t-a.scope")
    program = Program(moments=((freeze,), (scope, thaw), (scope,), (thaw,)))
    assert fit(program, 252) == program
    assert fit(program, 247).moments == ((freeze,), (scope,), (scope,), (Act(do="get-unit", unit="t-x.slice"),))


def test_shrinks_to_what_matters() -> None:
    """Of a long sequence that differs for one act, that act is left."""

    async def attempt(programs: Sequence[Program]) -> list[Found | None]:
        return [differing(one) for one in programs]

    async def prove(found: Found) -> Found | None:
        return found

    def differing(program: Program) -> Found | None:
        for at, moment in enumerate(program.moments):
            if stop("t-z.slice") in moment:
                told = [{"said": ["x" if n == at else ""]} for n in range(len(program.moments))]
                other = [{"said": [""]} for _ in program.moments]
                return Judge((), 257, "v1").differs(program, told, other)
        return None

    program = Program(moments=(*draw(3).moments, (stop("t-x.slice"), stop("t-z.slice")), *draw(4).moments))
    first = differing(program)
    assert first is not None
    small = asyncio.run(shrink([first], attempt, prove))
    assert small[0].program.moments == ((stop("t-z.slice"),),)


def test_does_not_shrink_to_a_race() -> None:
    """What only differs by chance is no smaller form of what always does: it is told as it was drawn."""

    async def attempt(programs: Sequence[Program]) -> list[Found | None]:
        told, other = [{"said": ["1"]}], [{"said": ["2"]}]
        return [
            Judge((), 257, "v1").differs(one, told * len(one.moments), other * len(one.moments)) for one in programs
        ]

    async def prove(found: Found) -> Found | None:
        return None

    (first,) = asyncio.run(attempt([replace(draw(3), moments=draw(3).moments[:1])]))
    assert first is not None
    small = asyncio.run(shrink([first], attempt, prove))
    assert small == [first]
    assert small[0].program.number == 3


def test_excuses_cover_what_they_say_and_no_more() -> None:
    """An entry of the list is for its versions and its place."""
    excuse = Excuse(name="a", reason="b", versions=(257,), place="said.*", ours="1", real="2")
    program = Program(moments=((stop("t-z.slice"),),))
    ours, real = [{"said": ["1"], "heard": []}], [{"said": ["2"], "heard": []}]
    assert Judge([excuse], 257, "v1").differs(program, ours, real) is None
    assert Judge([excuse], 252, "v1").differs(program, ours, real) is not None
    assert Judge([excuse], 257, "v1").differs(program, [{"said": ["3"], "heard": []}], real) is not None


ALIKE = ["2"] * (AGAIN + ALONE)


@pytest.mark.parametrize(
    ("words", "is_race"),
    [
        (["2"] * (AGAIN - 1) + ["1"], True),
        (ALIKE, False),
        ([*ALIKE[:-1], "1"], True),
        ([*ALIKE[:-1], "3", *["2"] * (AGAIN - 1), "1"], True),
        ([*ALIKE[:-1], "3", *["2"] * AGAIN * MORE], False),
    ],
)
def test_what_the_real_one_tells_in_both_ways_is_a_race(words: list[str], is_race: bool) -> None:
    """A difference is by chance only where the real one itself came out as ours at least once; where it tells it in several ways it
    is asked more often."""
    left_to_tell = list(words)

    class Real:
        """Tells what it is given to tell."""

        async def play(self, programs: Sequence[Program]) -> list[Told]:
            told = left_to_tell[: len(programs)]
            del left_to_tell[: len(programs)]
            return [[{"said": [word]}] for word in told]

    program = Program(moments=((stop("t-z.slice"),),))
    judge = Judge((), 257, "v1")
    found = judge.differs(program, [{"said": ["1"]}], [{"said": ["2"]}])
    assert found is not None
    both = Pair(cast(Theatre, None), cast(Theatre, Real()), judge)
    left, by_chance = asyncio.run(both.by_chance([found]))
    assert (left, by_chance) == (([], [program]) if is_race else ([found], []))
    assert left_to_tell == []


def test_the_list_of_differences_can_be_read() -> None:
    """Each entry has a reason."""
    assert all(one.reason for one in excuses())


@pytest.mark.skipif(os.geteuid() != 0, reason="booting a systemd takes root")
@pytest.mark.parametrize(("profile", "suite"), PAIRS)
@pytest.mark.timeout(300)
def test_the_fake_does_as_the_real_one(profile: str, suite: str) -> None:
    """The same sixty sequences on both: none differs but as written down."""
    if not roots.look_up(suite.partition(":")[0]):
        pytest.skip(f"no root of {suite} is built here (tests do not download one)")

    async def go() -> Hunt:
        async with pair(parse_machine(f"fake:{profile}"), parse_machine(f"container:{suite}"), lambda _: None) as both:
            return await hunt(both, SEQUENCES, seed=1)

    try:
        result = asyncio.run(go())
    except TargetError as error:
        pytest.skip(error.message)
    assert result.played == SEQUENCES
    assert not result.differing, "\n\n".join(str(one) for one in result.found)
