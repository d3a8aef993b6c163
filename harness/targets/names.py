"""A target's name taken apart: the place, and behind it the cgroup layout that was asked for."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

from cgrace.harness.errors import UsageError

_LIKE_LAYOUT: Final = re.compile(r"v\d+|hybrid|legacy|unified")  # behind a path, which may hold colons


def split_layout(kind: str, rest: str, layouts: Sequence[str]) -> tuple[str, str]:
    """("bookworm", "v1") of "bookworm:v1", and "" for a layout that is not said; UsageError for one that there is not."""
    place, _, last = rest.rpartition(":")
    if place and last in layouts:
        return place, last
    if place and ("/" not in rest or _LIKE_LAYOUT.fullmatch(last)):
        raise UsageError(f"{last!r:.40} is no cgroup layout of {kind}:{place}", hint=f"one of: {', '.join(layouts)}")
    return rest, ""
