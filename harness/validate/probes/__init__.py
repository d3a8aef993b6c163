"""The probes, by subject. Importing this gives all of them."""

from __future__ import annotations

from cgrace.harness.validate.probe import PROBES, Probe
from cgrace.harness.validate.probes import exists, order

__all__ = ["all_probes", "exists", "order"]


def all_probes() -> tuple[Probe, ...]:
    """Every probe."""
    return PROBES.all()
