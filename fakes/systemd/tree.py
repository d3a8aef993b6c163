"""The cgroup tree as the fake acts on it: real file systems, or a dictionary for tests.

Paths are relative to the run's own root in a hierarchy: "" is the root, "/a.slice/b.scope" a unit. Pids here are outer ones
(as cgrace sees them); `outer` translates those that stand on the wire. The fake makes, removes and writes only through this.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterable
from functools import lru_cache
from pathlib import Path
from typing import Protocol

from cgrace.harness.targets.base import Hierarchy

_LINKS_OF_LEAF = 2
_WHOLE_BYTES = 1024  # seq_file fills a page before it returns: less than this is all there is


class CgroupTree(Protocol):
    """What the manager needs of a tree. Every OSError is the kernel's own; `rmdir` and `write_quietly` raise none."""

    hierarchies: tuple[Hierarchy, ...]

    def outer(self, pid: int) -> int | None:
        """The outer pid of a process that the driver names, None when there is none."""
        ...

    def mkdir(self, hierarchy: str, path: str) -> bool:
        """Make the directory and those above it; False when it was there."""
        ...

    def rmdir(self, hierarchy: str, path: str, *, keep_root: bool = False) -> bool:
        """Remove all below, deepest first, then itself; what holds a process stays. True when something was removed."""
        ...

    def exists(self, hierarchy: str, path: str) -> bool:
        """Whether the directory is there."""
        ...

    def inode(self, hierarchy: str, path: str) -> int:
        """The directory's number, 0 when it is not there."""
        ...

    def children(self, hierarchy: str, path: str) -> tuple[str, ...]:
        """Names of the directories in it, sorted; () when it is not there."""
        ...

    def procs(self, hierarchy: str, path: str, *, recursive: bool = False) -> tuple[int, ...]:
        """Outer pids in it (and below)."""
        ...

    def attach(self, hierarchy: str, path: str, pid_outer: int) -> None:
        """Put the process there. ENOENT: no such cgroup; ESRCH: no such process."""
        ...

    def locate(self, hierarchy: str, pid_outer: int) -> str | None:
        """The path of the process, None when it is gone or outside the run's root."""
        ...

    def read(self, hierarchy: str, path: str, file: str) -> str:
        """A control file's text."""
        ...

    def write(self, hierarchy: str, path: str, file: str, text: str) -> None:
        """Write a control file."""
        ...


def is_populated(tree: CgroupTree, hierarchy: Hierarchy, path: str) -> bool:
    """Whether a process is in the cgroup or below. A cgroup that is gone is empty."""
    if not hierarchy.is_v2:
        return bool(tree.procs(hierarchy.name, path, recursive=True))
    try:
        return "populated 1" in tree.read(hierarchy.name, path, "cgroup.events")
    except OSError:
        return False


class KernelTree:
    """Real cgroup file systems. Holds one directory descriptor for each hierarchy: `close` it, or use `with`."""

    def __init__(self, hierarchies: tuple[Hierarchy, ...], outer: Callable[[int], int | None] | None = None) -> None:
        self.hierarchies = hierarchies
        self._outer = outer or _living
        self._fds = {h.name: os.open(h.root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC) for h in hierarchies}
        self._prefixes: dict[str, str] = {}

    def __enter__(self) -> KernelTree:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the descriptors; the cgroups are the target's to remove."""
        while self._fds:
            os.close(self._fds.popitem()[1])

    def outer(self, pid: int) -> int | None:
        """See CgroupTree."""
        return self._outer(pid)

    def mkdir(self, hierarchy: str, path: str) -> bool:
        """See CgroupTree."""
        if not path:
            return False
        fd = self._fds[hierarchy]
        try:
            os.mkdir(path[1:], 0o755, dir_fd=fd)
        except FileExistsError:
            return False
        except FileNotFoundError:
            self.mkdir(hierarchy, path.rpartition("/")[0])
            os.mkdir(path[1:], 0o755, dir_fd=fd)
        return True

    def rmdir(self, hierarchy: str, path: str, *, keep_root: bool = False) -> bool:
        """See CgroupTree."""
        removed = False
        if path and not keep_root:
            try:
                os.rmdir(path[1:], dir_fd=self._fds[hierarchy])
            except FileNotFoundError:
                return False
            except OSError as error:
                if error.errno not in (errno.EBUSY, errno.ENOTEMPTY):
                    return False
            else:
                return True
        below = self.children(hierarchy, path)
        for name in below:
            removed |= self.rmdir(hierarchy, f"{path}/{name}")
        if path and not keep_root and below:
            try:
                os.rmdir(path[1:], dir_fd=self._fds[hierarchy])
            except OSError:
                return removed
            return True
        return removed

    def exists(self, hierarchy: str, path: str) -> bool:
        """See CgroupTree."""
        try:
            os.stat(path[1:] or ".", dir_fd=self._fds[hierarchy])
        except OSError:
            return False
        return True

    def inode(self, hierarchy: str, path: str) -> int:
        """See CgroupTree."""
        try:
            return os.stat(path[1:] or ".", dir_fd=self._fds[hierarchy]).st_ino
        except OSError:
            return 0

    def children(self, hierarchy: str, path: str) -> tuple[str, ...]:
        """See CgroupTree."""
        root = self._fds[hierarchy]
        try:
            # A cgroup directory's link count is 2 and one for each child: mostly there is nothing to list.
            if os.stat(path[1:] or ".", dir_fd=root).st_nlink == _LINKS_OF_LEAF:
                return ()
            fd = os.open(path[1:] or ".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=root)
        except OSError:
            return ()
        try:
            with os.scandir(fd) as entries:
                return tuple(sorted(entry.name for entry in entries if entry.is_dir(follow_symlinks=False)))
        finally:
            os.close(fd)

    def procs(self, hierarchy: str, path: str, *, recursive: bool = False) -> tuple[int, ...]:
        """See CgroupTree."""
        try:
            found = tuple(int(line) for line in self.read(hierarchy, path, "cgroup.procs").split())
        except OSError:
            found = ()
        if recursive:
            for name in self.children(hierarchy, path):
                found += self.procs(hierarchy, f"{path}/{name}", recursive=True)
        return found

    def attach(self, hierarchy: str, path: str, pid_outer: int) -> None:
        """See CgroupTree."""
        self.write(hierarchy, path, "cgroup.procs", str(pid_outer))

    def locate(self, hierarchy: str, pid_outer: int) -> str | None:
        """See CgroupTree."""
        for controllers, where in _cgroups_of(pid_outer):
            if _is_named(controllers, hierarchy):
                return self._below_root(hierarchy, where)
        return None

    def places(self, pid_outer: int) -> dict[str, str]:
        """The path of the process by hierarchy; where it is outside the run's root, and when it is gone, that is missing."""
        found = {}
        for controllers, where in _cgroups_of(pid_outer):
            name = next((one.name for one in self.hierarchies if _is_named(controllers, one.name)), "")
            place = self._below_root(name, where) if name else None
            if place is not None:
                found[name] = place
        return found

    def _below_root(self, hierarchy: str, where: str) -> str | None:
        prefix = self._prefix(hierarchy)
        if where == prefix or where.startswith(prefix + "/"):
            return where[len(prefix) :].rstrip("/")
        return None

    def read(self, hierarchy: str, path: str, file: str) -> str:
        """See CgroupTree."""
        fd = os.open(f"{path[1:]}/{file}" if path else file, os.O_RDONLY | os.O_CLOEXEC, dir_fd=self._fds[hierarchy])
        try:
            return _read_all(fd).decode()
        finally:
            os.close(fd)

    def write(self, hierarchy: str, path: str, file: str, text: str) -> None:
        """See CgroupTree."""
        fd = os.open(f"{path[1:]}/{file}" if path else file, os.O_WRONLY | os.O_CLOEXEC, dir_fd=self._fds[hierarchy])
        try:
            os.write(fd, text.encode())
        finally:
            os.close(fd)

    def _prefix(self, hierarchy: str) -> str:
        """The run root's path below the hierarchy's mount."""
        if hierarchy not in self._prefixes:
            root = Path(f"/proc/self/fd/{self._fds[hierarchy]}").readlink()
            if not root.exists():  # in a detached mount a path starts at the mount's own root
                self._prefixes[hierarchy] = "" if root == Path("/") else str(root)
                return self._prefixes[hierarchy]
            mount = root
            while mount.parent != mount and mount.parent.stat().st_dev == root.stat().st_dev:
                mount = mount.parent
            relative = root.relative_to(mount)
            self._prefixes[hierarchy] = "" if relative == Path() else f"/{relative}"
        return self._prefixes[hierarchy]


def _living(pid: int) -> int | None:
    return pid if pid > 0 and Path(f"/proc/{pid}").exists() else None


def _cgroups_of(pid_outer: int) -> list[tuple[str, str]]:
    """The lines of /proc/PID/cgroup: controllers and path; none when the process is gone."""
    try:
        fd = os.open(f"/proc/{pid_outer}/cgroup", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return []
    try:
        text = _read_all(fd).decode(errors="surrogateescape")
    except OSError:
        return []
    finally:
        os.close(fd)
    lines = (line.split(":", 2) for line in text.splitlines())
    return [(controllers, where) for _, controllers, where in lines]


def _read_all(fd: int) -> bytes:
    data = b""
    while chunk := os.read(fd, 65536):
        data += chunk
        if len(chunk) < _WHOLE_BYTES:
            break
    return data


@lru_cache(maxsize=256)
def _is_named(controllers: str, hierarchy: str) -> bool:
    """Whether a line of /proc/PID/cgroup is about this hierarchy: "cpu,cpuacct" and "cpuacct,cpu" are one."""
    if not controllers:
        return hierarchy == "unified"
    return sorted(controllers.removeprefix("name=").split(",")) == sorted(hierarchy.split(","))


class MemoryTree:
    """A tree in memory, with the kernel's errors. `log` lists what was done, in order: ("mkdir", "pids", "/a.slice")."""

    def __init__(self, hierarchies: Iterable[Hierarchy], pids: Iterable[int] = ()) -> None:
        self.hierarchies = tuple(hierarchies)
        self._where: dict[str, dict[int, str]] = {h.name: {} for h in self.hierarchies}
        self._dirs: dict[str, set[str]] = {h.name: {""} for h in self.hierarchies}
        self._files: dict[tuple[str, str, str], str] = {}
        self._inodes = {(h.name, ""): 1 for h in self.hierarchies}
        self._made = 1
        self.log: list[tuple[str, ...]] = []
        self._pids: set[int] = set()
        for pid in pids:
            self.spawn(pid)

    def spawn(self, pid: int) -> None:
        """A process appears in the root of every hierarchy."""
        self._pids.add(pid)
        for where in self._where.values():
            where[pid] = ""

    def exit(self, pid: int) -> None:
        """The process ends."""
        self._pids.discard(pid)
        for where in self._where.values():
            where.pop(pid, None)

    def outer(self, pid: int) -> int | None:
        """See CgroupTree."""
        return pid if pid in self._pids else None

    def mkdir(self, hierarchy: str, path: str) -> bool:
        """See CgroupTree."""
        dirs = self._dirs[hierarchy]
        if path in dirs:
            return False
        above = path.rpartition("/")[0]
        if above not in dirs:
            self.mkdir(hierarchy, above)
        dirs.add(path)
        self._made += 1
        self._inodes[hierarchy, path] = self._made
        self.log.append(("mkdir", hierarchy, path))
        return True

    def rmdir(self, hierarchy: str, path: str, *, keep_root: bool = False) -> bool:
        """See CgroupTree."""
        dirs = self._dirs[hierarchy]
        if path not in dirs:
            return False
        removed = False
        for name in self.children(hierarchy, path):
            removed |= self.rmdir(hierarchy, f"{path}/{name}")
        busy = path in self._where[hierarchy].values() or self.children(hierarchy, path)
        if path and not keep_root and not busy:
            dirs.remove(path)
            del self._inodes[hierarchy, path]
            for key in [key for key in self._files if key[:2] == (hierarchy, path)]:
                del self._files[key]
            self.log.append(("rmdir", hierarchy, path))
            removed = True
        return removed

    def exists(self, hierarchy: str, path: str) -> bool:
        """See CgroupTree."""
        return path in self._dirs[hierarchy]

    def inode(self, hierarchy: str, path: str) -> int:
        """See CgroupTree."""
        return self._inodes.get((hierarchy, path), 0)

    def children(self, hierarchy: str, path: str) -> tuple[str, ...]:
        """See CgroupTree."""
        start = path + "/"
        below = (each[len(start) :] for each in self._dirs[hierarchy] if each.startswith(start))
        return tuple(sorted(name for name in below if "/" not in name))

    def procs(self, hierarchy: str, path: str, *, recursive: bool = False) -> tuple[int, ...]:
        """See CgroupTree."""
        where = self._where[hierarchy]
        start = path + "/"
        return tuple(
            sorted(pid for pid, at in where.items() if at == path or (recursive and (at + "/").startswith(start)))
        )

    def attach(self, hierarchy: str, path: str, pid_outer: int) -> None:
        """See CgroupTree."""
        if path not in self._dirs[hierarchy]:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
        if pid_outer not in self._pids:
            raise ProcessLookupError(errno.ESRCH, os.strerror(errno.ESRCH))
        self._where[hierarchy][pid_outer] = path
        self.log.append(("attach", hierarchy, path, str(pid_outer)))

    def locate(self, hierarchy: str, pid_outer: int) -> str | None:
        """See CgroupTree."""
        return self._where[hierarchy].get(pid_outer)

    def read(self, hierarchy: str, path: str, file: str) -> str:
        """See CgroupTree."""
        self._check(hierarchy, path)
        if file == "cgroup.events":
            frozen = self._files.get((hierarchy, path, "cgroup.freeze"), "0")
            return f"populated {int(bool(self.procs(hierarchy, path, recursive=True)))}\nfrozen {frozen}\n"
        return self._files.get((hierarchy, path, file), "")

    def write(self, hierarchy: str, path: str, file: str, text: str) -> None:
        """See CgroupTree. cgroup.subtree_control adds and removes words as the kernel does."""
        self._check(hierarchy, path)
        key = (hierarchy, path, file)
        if file == "cgroup.subtree_control":
            have = set(self._files.get(key, "").split())
            for word in text.split():
                have = have | {word[1:]} if word.startswith("+") else have - {word[1:]}
            text = " ".join(sorted(have))
        self._files[key] = text
        self.log.append(("write", hierarchy, path, file, text))

    def _check(self, hierarchy: str, path: str) -> None:
        if path not in self._dirs[hierarchy]:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
