"""The cgroup tree as the driver sees it below /sys/fs/cgroup: where a unit's directories are, made, joined and removed."""

from __future__ import annotations

import contextlib
from pathlib import Path

ROOT = Path("/sys/fs/cgroup")
CPUSET_FILES = ("cpuset.cpus", "cpuset.mems")


def hierarchies() -> dict[str, Path]:
    """Mounted hierarchies by name; cgroup v2 mounted at the root is ""."""
    if (ROOT / "cgroup.controllers").exists():
        return {"": ROOT}
    return {path.name: path for path in sorted(ROOT.iterdir()) if path.is_dir() and not path.is_symlink()}


def below(parent: str, unit: str) -> str:
    """The unit's path below a hierarchy: a-b.slice is below a.slice (systemd.slice(5))."""
    parts: list[str] = []
    if parent not in ("", "-.slice"):
        words = parent.removesuffix(".slice").split("-")
        parts = ["-".join(words[: count + 1]) + ".slice" for count in range(len(words))]
    return "/".join([*parts, unit])


def paths_of(parent: str, unit: str) -> dict[str, str]:
    """The unit's directories by hierarchy."""
    return {name: str(root / below(parent, unit)) for name, root in hierarchies().items()}


def make(path: Path) -> None:
    """Make the directory and what is above it; a cpuset needs its parent's cpus and mems before anybody may join."""
    if not path.is_dir():
        make(path.parent)
        with contextlib.suppress(FileExistsError):
            path.mkdir()
    for name in CPUSET_FILES:
        file = path / name
        if file.exists() and not file.read_text(encoding="ascii").strip():
            file.write_text((path.parent / name).read_text(encoding="ascii"), encoding="ascii")


def join(path: Path, pid: int) -> None:
    """Put the process into the cgroup."""
    (path / "cgroup.procs").write_text(str(pid), encoding="ascii")


def remove(path: Path) -> None:
    """Remove the directory and those below it, if they are there."""
    if path.is_dir():
        for child in path.iterdir():
            if child.is_dir():
                remove(child)
        with contextlib.suppress(FileNotFoundError):
            path.rmdir()
