"""Ranges of released versions, as expectations name drivers."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cgrace.harness.scenario.releases import Releases, among, order, trouble

_ASCENDING = (
    "1.0.0-rc4",
    "1.0.0-rc9",
    "1.0.0-rc10",
    "1.0.0-rc93",
    "1.0.0",
    "1.0.3",
    "1.1.0",
    "1.1.15",
    "1.6.0-rc.1",
    "1.6.0",
)
_RANKS = st.integers(0, len(_ASCENDING) - 1)


def test_versions_are_in_order() -> None:
    """Candidates come before their release, and numbers count as numbers."""
    assert sorted(_ASCENDING, key=order) == list(_ASCENDING)


@given(_RANKS, _RANKS, _RANKS)
def test_a_range_has_what_lies_between_its_ends(first: int, last: int, one: int) -> None:
    """Both ends belong to it, and so does everything between them."""
    first, last = sorted((first, last))
    found = Releases.parse(f"runc {_ASCENDING[first]}..{_ASCENDING[last]}")
    assert (f"runc@{_ASCENDING[one]}" in found) is (first <= one <= last)


@pytest.mark.parametrize(
    ("text", "release", "is_in"),
    [
        ("runc", "runc@1.1.5", True),
        ("runc ..1.1.5", "runc@1.0.0-rc4", True),
        ("runc 1.1.6..", "runc@1.1.5", False),
        ("runc 1.1.5", "runc@1.1.5", True),
        ("runc 1.1", "runc@1.1.0", True),
        ("runc 1.1.5", "cgroups@1.1.5", False),
        ("cgroups 0.1.0", "cgroups@0.1.0+go-systemd@22.7.0", False),
        ("cgroups 0.1.0+go-systemd@22.7.0", "cgroups@0.1.0+go-systemd@22.7.0", True),
        ("cgroups 0.1.0+go-systemd@22.7.0", "cgroups@0.1.0", False),
        ("runc", "", False),
    ],
)
def test_what_a_range_has(text: str, release: str, is_in: bool) -> None:
    """Ends may be open; a build with other parts is asked for by name."""
    assert not trouble(text)
    assert among(release, (text,)) is is_in


@pytest.mark.parametrize("text", ["", "runc  1.1", "runc 1.x", "runc 2..1", "Runc 1.1", "runc 1.1..1.2..1.3"])
def test_what_is_no_range(text: str) -> None:
    """Everything else is said to be wrong, with an example."""
    assert trouble(text)
