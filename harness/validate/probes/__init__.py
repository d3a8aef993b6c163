"""The probes, by subject. Importing this gives all of them."""

from __future__ import annotations

from cgrace.harness.validate.probe import PROBES, Probe
from cgrace.harness.validate.probes import calls, cgroup, exists, life, order, property, reload, start

__all__ = ["all_probes", "calls", "cgroup", "exists", "life", "order", "property", "reload", "start"]


def all_probes() -> tuple[Probe, ...]:
    """Every probe."""
    return PROBES.all()
