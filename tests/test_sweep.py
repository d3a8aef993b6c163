"""Where a driver's outcome changes: the axes, and how the change is found."""

from __future__ import annotations

import handmade
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cgrace.harness import faults as ft
from cgrace.harness.clock import NS_PER_S
from cgrace.harness.errors import UsageError
from cgrace.harness.sweep import FINE, FINE_NS, Span, at, stretches, wanted

LATE = Span.parse("late", "0..31s")


def search(span: Span, flips: list[int], waits: list[int]) -> dict[int, str]:
    """Try values until none is wanted, on a driver whose outcome changes at these values."""
    outcomes: dict[int, str] = {}
    for _ in range(64):
        asked = wanted(span, outcomes, waits if outcomes else [])
        if not asked:
            return outcomes
        for value in asked:
            outcomes[value] = str(sum(value >= flip for flip in flips))
    raise AssertionError("the search does not end")


@given(st.integers(1, 30 * NS_PER_S), st.booleans())
def test_a_flip_is_found(flip: int, seen: bool) -> None:
    """One change of a late signal is found as closely as promised, with or without a hint from the driver's own wait."""
    found = stretches(search(LATE, [flip], [flip] if seen else []))
    assert len(found) == 2
    assert found[0].last < flip <= found[1].first
    assert found[1].first - found[0].last <= max(FINE_NS, found[1].first // FINE)


@given(st.integers(2, 64))
def test_a_number_is_found_exactly(flip: int) -> None:
    """The number of units at which the outcome changes is a number."""
    found = stretches(search(Span.parse("units", "1..64"), [flip], []))
    assert [one.first for one in found][1:] == [flip]


def test_nothing_is_sought_where_nothing_changes() -> None:
    """The same outcome at both ends is taken for the whole: two runs."""
    assert sorted(search(LATE, [], [NS_PER_S])) == [0, 31 * NS_PER_S]


@pytest.mark.parametrize("axis", ["late", "early", "lost", "units"])
@pytest.mark.parametrize("text", ["", "1", "5..2", "a..b", "0..99999", "-1..3", "1..", "..", "0..0", "1.5.2..9"])
def test_what_is_no_range(axis: str, text: str) -> None:
    """A range that makes no sense is refused, with one that does."""
    with pytest.raises(UsageError, match="no range") as refused:
        Span.parse(axis, text)
    Span.parse(axis, refused.value.hint.split()[-1])


def test_times_are_read_as_people_write_them() -> None:
    """The unit may stand at the end alone."""
    assert Span.parse("late", "1..2s") == Span.parse("late", "1000ms..2000ms")
    assert Span.parse("late", "0..1.5s").last == 3 * NS_PER_S // 2


def test_late_takes_the_scenario_s_own_hold() -> None:
    """A hold of JobRemoved gets the value as its patience; a scenario without one gets a hold."""
    own = next(f for f in at(handmade.scenario(), "late", 7).faults if isinstance(f, ft.Hold))
    assert own.patience_ns == 7
    assert len(at(handmade.scenario(), "late", 7).faults) == max(1, len(handmade.scenario().faults))


def test_units_are_called_at_once() -> None:
    """Each has a unit and an id of its own."""
    scenario = at(handmade.scenario(), "units", 5)
    first = [step for step in scenario.steps if step.id.startswith(handmade.scenario().steps[0].id)]
    assert len({step.unit for step in first}) == len({step.id for step in first}) == 5
    assert all(not step.after for step in first[1:])
