"""A target's name taken apart: the place, and behind it the cgroup layout that was asked for; and what a machine says of itself:
its systemd's version, its layout."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

from cgrace.harness.errors import TargetError, UsageError

V1_ENDS: Final = 258  # the first systemd without cgroup v1 (systemd-behaviour: release notes of 258)
# For a shell: two lines, of which `layout_of` makes the layout that a machine has.
LOOK_AT_CGROUPS: Final = (
    "stat -f -c %T /sys/fs/cgroup 2>/dev/null || echo none; "
    "[ -e /sys/fs/cgroup/unified/cgroup.procs ] && echo unified || echo"
)
# The second is what a stat(1) says that is older than cgroup v2.
_LAYOUT_OF: Final = {"cgroup2fs": "v2", "UNKNOWN (0x63677270)": "v2", "tmpfs": "v1"}
_LIKE_LAYOUT: Final = re.compile(r"v\d+|hybrid|legacy|unified")  # behind a path, which may hold colons


def split_layout(kind: str, rest: str, layouts: Sequence[str]) -> tuple[str, str]:
    """("bookworm", "v1") of "bookworm:v1", and "" for a layout that is not said; UsageError for one that there is not."""
    place, _, last = rest.rpartition(":")
    if place and last in layouts:
        return place, last
    if place and ("/" not in rest or _LIKE_LAYOUT.fullmatch(last)):
        raise UsageError(f"{last!r:.40} is no cgroup layout of {kind}:{place}", hint=f"one of: {', '.join(layouts)}")
    return rest, ""


def layout_of(kind: str, unified: str) -> str:
    """ "v1", "hybrid" or "v2" by the lines of LOOK_AT_CGROUPS; "" where no cgroups are mounted."""
    layout = _LAYOUT_OF.get(kind, "")
    return "hybrid" if layout == "v1" and unified else layout


def systemd_number(version: str) -> int:
    """252 of "252.39-1~deb12u2", "systemd 252" or "v252"; TargetError where there is none."""
    found = re.search(r"\d+", version)
    if found is None:
        raise TargetError(f"which systemd is this? It calls itself {version!r}")
    return int(found[0])
