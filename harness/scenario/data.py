"""Scenarios as JSON data and back: a stored trace carries the scenario that it was a run of."""

from __future__ import annotations

from typing import Any

from cgrace.harness.scenario.model import Scenario
from cgrace.harness.scenario.records import decode, encode


def to_data(scenario: Scenario) -> dict[str, Any]:
    """The scenario as JSON data."""
    return scenario.to_data()


def from_data(data: Any) -> Scenario:
    """The inverse of `to_data`, without loss; TraceError when the data is no scenario."""
    return Scenario.from_data(data)


__all__ = ["decode", "encode", "from_data", "to_data"]
