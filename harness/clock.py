"""The one clock. Every time in a trace is CLOCK_MONOTONIC in nanoseconds: the kernel's trace clock `mono` is the same."""

from __future__ import annotations

import time

CLOCK_NAME = "CLOCK_MONOTONIC"
NS_PER_MS = 1_000_000
NS_PER_S = 1_000_000_000


def now_ns() -> int:
    """CLOCK_MONOTONIC in nanoseconds."""
    return time.monotonic_ns()


def brief(ns: int) -> str:
    """A time span for a table, in three digits: "0.312 ms", "120 ms", "1.5 s"."""
    return f"{ns / NS_PER_S:.3g} s" if ns >= NS_PER_S else f"{ns / NS_PER_MS:.3g} ms"
