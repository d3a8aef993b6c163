"""The probes, by subject. Importing this gives all of them."""

from __future__ import annotations

import fnmatch
from collections.abc import Sequence

from cgrace.harness.validate.probe import PROBES, Probe
from cgrace.harness.validate.probes import calls, cgroup, exists, life, order, property, reload, start

__all__ = ["all_probes", "calls", "cgroup", "exists", "life", "matching", "order", "property", "reload", "start"]


def all_probes() -> tuple[Probe, ...]:
    """Every probe."""
    return PROBES.all()


def matching(patterns: Sequence[str]) -> tuple[Probe, ...]:
    """The probes whose ids match one of the patterns; every probe where there are none."""
    return tuple(one for one in all_probes() if not patterns or any(fnmatch.fnmatch(one.id, each) for each in patterns))
