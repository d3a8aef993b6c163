"""How checkers say times: for people, in the unit that reads best. Values in, text out."""

from __future__ import annotations

from cgrace.harness.clock import NS_PER_MS, NS_PER_S


def duration(ns: int) -> str:
    """A time span for a sentence: "0.3 ms", "120 ms", "1.00 s", "29.99 s"."""
    size = abs(ns)
    if size < 10 * NS_PER_MS:
        return f"{ns / NS_PER_MS:.1f} ms"
    if size < NS_PER_S:
        return f"{ns / NS_PER_MS:.0f} ms"
    return f"{ns / NS_PER_S:.2f} s"


def seconds(ns: int) -> str:
    """A time span in seconds with two decimals, as proofs give it: "0.13 s"."""
    return f"{ns / NS_PER_S:.2f} s"


def cell(ns: int) -> str:
    """A timer's length for a matrix cell, rounded as its author wrote it: 999 ms is "1s", 29,999 ms is "30s", 87 ms "90ms".

    A timer is always read a little after it was set, so the rounding is to a tenth of a second (below that to 10 ms).
    """
    if ns < 95 * NS_PER_MS:
        return f"{round(ns / NS_PER_MS, -1):.0f}ms"
    tenths = f"{ns / NS_PER_S:.1f}"
    return tenths.removesuffix(".0") + "s"


def since(ns: int, what: str) -> str:
    """When something was, seen from an event: "0.3 ms after WHAT", "2.0 ms before WHAT"."""
    return f"{duration(abs(ns))} {'after' if ns >= 0 else 'before'} {what}"


def listed(names: list[str] | tuple[str, ...], most: int = 4) -> str:
    """Names in a sentence, the rest as a count: "a, b and 3 more"."""
    if len(names) <= most:
        return ", ".join(names)
    return ", ".join(names[:most]) + f" and {len(names) - most} more"
