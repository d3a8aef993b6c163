"""Which cgroup hierarchy a directory is in, by the mount table."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from cgrace.harness.errors import TargetError
from cgrace.harness.targets.base import Hierarchy

_MOUNT_TABLE = Path("/proc/self/mountinfo")
_FLAGS = frozenset(("rw", "ro", "xattr", "clone_children", "noprefix", "nsdelegate", "memory_recursiveprot"))


def hierarchies_of(roots: Iterable[Path]) -> tuple[Hierarchy, ...]:
    """A Hierarchy for each directory; TargetError for one that is not in a cgroup file system."""
    table = _MOUNT_TABLE.read_text()
    return tuple(hierarchy_of(root.resolve(), table) for root in roots)


def hierarchy_of(root: Path, table: str) -> Hierarchy:
    """The hierarchy of one resolved directory, by a mountinfo text. The innermost, latest mount counts."""
    best: tuple[int, Hierarchy] | None = None
    for line in table.splitlines():
        fields, _, rest = line.partition(" - ")
        kind, _, options = rest.split(" ", 2)
        mount = Path(re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), fields.split(" ")[4]))
        if not root.is_relative_to(mount) or (best is not None and len(mount.parts) < best[0]):
            continue
        best = (len(mount.parts), _describe(root, mount, kind, options))
    if best is None or not best[1].name:
        raise TargetError(f"{root} is not in a cgroup file system", hint="give directories below /sys/fs/cgroup")
    return best[1]


def _describe(root: Path, mount: Path, kind: str, options: str) -> Hierarchy:
    """A Hierarchy; without a name where the mount is not a cgroup one."""
    if kind == "cgroup2":
        return Hierarchy(name="unified", controllers=_enabled(root), root=root, inner=str(mount))
    if kind != "cgroup":
        return Hierarchy(name="", controllers=(), root=root, inner="")
    words = [word for word in options.split(",") if word not in _FLAGS and not word.startswith("release_agent=")]
    named = [word.removeprefix("name=") for word in words if word.startswith("name=")]
    controllers = tuple(word for word in words if not word.startswith("name="))
    return Hierarchy(name=",".join(controllers or named), controllers=controllers, root=root, inner=str(mount))


def _enabled(root: Path) -> tuple[str, ...]:
    try:
        return tuple((root / "cgroup.controllers").read_text().split())
    except OSError:
        return ()
