"""Versions as Go modules and their users write them, in order: v1.0.0-rc9 < v1.0.0-rc10 < v1.0.0-rc91 < v1.0.0 < v1.1.15."""

from __future__ import annotations

import re

_VERSION = re.compile(r"^v?(\d{1,9})(?:\.(\d{1,9}))?(?:\.(\d{1,9}))?(?:-(?P<pre>[0-9A-Za-z.-]+))?(?:\+\S*)?$")
Key = tuple[int, int, int, bool, tuple[tuple[int, int, str], ...]]


def key(text: str) -> Key | None:
    """What to compare a version by; None for what is none. Upstream counts rc9, rc10, rc90: digits in a pre-release are numbers."""
    found = _VERSION.match(text.strip()) if len(text) < 200 else None
    if found is None:
        return None
    pre = found["pre"] or ""
    parts = tuple(
        (0, int(p), "") if p.isdecimal() and len(p) < 19 else (1, 0, p) for p in re.findall(r"\d+|[A-Za-z]+", pre)
    )
    return int(found[1]), int(found[2] or 0), int(found[3] or 0), not pre, parts


def is_before(one: str, other: str) -> bool | None:
    """Whether a version is older than another; None when one of them is no version."""
    mine, theirs = key(one), key(other)
    return mine < theirs if mine is not None and theirs is not None else None
