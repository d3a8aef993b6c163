"""Which cases of a run begin: shards and time budgets."""

from __future__ import annotations

import dataclasses

import handmade
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cgrace.harness.clock import NS_PER_S
from cgrace.harness.errors import UsageError
from cgrace.harness.scenario.model import Setting
from cgrace.harness.schedule import UNKNOWN_NS, Budget, Shard, parse_span
from cgrace.harness.suite import Case

PROFILES = ("219-rhel7", "257")


def cases(scenarios: int, drivers: int) -> list[Case]:
    """Every scenario in two settings on every driver."""
    return [
        Case(
            scenario=handmade.scenario(name=f"core/s{number}"),
            setting=Setting(profile=profile),
            driver=handmade.driver(f"d{driver}"),
        )
        for number in range(scenarios)
        for profile in PROFILES
        for driver in range(drivers)
    ]


@given(st.integers(1, 6), st.integers(1, 4), st.integers(1, 8), st.booleans())
def test_shards_are_disjoint_complete_and_balanced(scenarios: int, drivers: int, count: int, keep_rows: bool) -> None:
    """Together they are all cases, no two share one, and none has more than one card more than another."""
    found = cases(scenarios, drivers)
    cards = scenarios * len(PROFILES) * (1 if keep_rows else drivers)
    if count > cards:
        with pytest.raises(UsageError):
            Shard(1, count).of(found, keep_rows=keep_rows)
        return
    parts = [Shard(number, count).of(found, keep_rows=keep_rows) for number in range(1, count + 1)]
    ids = [case.id for part in parts for case in part]
    assert sorted(ids) == sorted(case.id for case in found)
    sizes = [len(part) // (drivers if keep_rows else 1) for part in parts]
    assert max(sizes) - min(sizes) <= 1
    if keep_rows:
        rows = [{(case.scenario.name, case.setting) for case in part} for part in parts]
        assert sum(map(len, rows)) == len(set().union(*rows))


@pytest.mark.parametrize("text", ["", "0/3", "4/3", "1/0", "1", "1/3/4", "-1/3", "a/b", "1/99999"])
def test_bad_shards(text: str) -> None:
    """What is not a part of a whole is refused."""
    with pytest.raises(UsageError):
        Shard.parse(text)


@pytest.mark.parametrize(("text", "seconds"), [("90s", 90), ("3m", 180), ("1h30m", 5400), ("1m1s", 61)])
def test_times(text: str, seconds: int) -> None:
    """Hours, minutes and seconds."""
    assert parse_span(text) == seconds * NS_PER_S


@pytest.mark.parametrize("text", ["", "3", "0s", "m", "1s1m", "-1m", "1.5m", "3 m"])
def test_bad_times(text: str) -> None:
    """No unit, no time, or no order."""
    with pytest.raises(UsageError):
        parse_span(text)


def test_a_budget_admits_what_fits() -> None:
    """By what an earlier run took, else by the longest of the scenario so far, else by a guess."""
    now = 0
    first, _, other, *_ = cases(2, 2)
    long = dataclasses.replace(first, driver=handmade.driver("long"))
    budget = Budget(10 * NS_PER_S, {long.id: 9 * NS_PER_S}, clock=lambda: now)
    assert budget.admits(long)
    now = 2 * NS_PER_S
    assert not budget.admits(long)
    assert budget.admits(first)
    now = 10 * NS_PER_S - UNKNOWN_NS
    assert budget.admits(other)
    budget.took(first, 3 * NS_PER_S)
    assert not budget.admits(other)
    now += 1
    assert not budget.admits(cases(2, 1)[-1])
