"""The cgroups that one cgrace process makes: a directory of its own in each hierarchy, and one per run below it.

    <own cgroup of cgrace>/cgrace-<pid>-<starttime>/r<n>      in every hierarchy of the layout

It hangs below the caller's own cgroup where that is writable, else below the hierarchy's root. Other people's processes
are never moved or limited, and no file of a directory that we did not make is written.
"""

from __future__ import annotations

import contextlib
import errno
import os
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from cgrace.harness.errors import TargetError, UnavailableError
from cgrace.harness.targets import owner
from cgrace.harness.targets.base import Hierarchy
from cgrace.harness.targets.layout import (
    ENTERED,
    INNER_ROOT,
    HostHierarchy,
    choose,
    host_hierarchies,
    v1_controllers_free,
)
from cgrace.harness.targets.removal import remove_trees

_END_S_MAX: Final = 0.5
_END_RETRY_S: Final = 0.01
_CPUSET_FILES: Final = ("cpuset.cpus", "cpuset.mems")
# What a cgroup's settings are. A root whose settings changed is not pristine; counters and lists of processes may change.
SETTINGS: Final = frozenset(
    {
        "cgroup.freeze",
        "cgroup.subtree_control",
        "cgroup.type",
        "cpu.cfs_period_us",
        "cpu.cfs_quota_us",
        "cpu.max",
        "cpu.rt_runtime_us",
        "cpu.shares",
        "cpu.weight",
        "cpuset.cpu_exclusive",
        "cpuset.cpus",
        "cpuset.mems",
        "devices.list",
        "freezer.state",
        "memory.high",
        "memory.limit_in_bytes",
        "memory.max",
        "memory.memsw.limit_in_bytes",
        "net_cls.classid",
        "notify_on_release",
        "pids.max",
    }
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Branch:
    """Our directory in one hierarchy. mount: descriptor of the detached mount; top: path of the directory below it."""

    host: HostHierarchy
    mount: int
    top: str

    def path(self, below: str = "") -> str:
        """The directory, or one below it, as this process can open it."""
        return f"/proc/self/fd/{self.mount}{self.top}{f'/{below}' if below else ''}"


class Subtree:
    """Our directories in the hierarchies of one layout. `open` makes them, `close` removes them and all below.

    Every method blocks (a few ms at most, but for `close` after a crash) and may be called from any one thread.
    """

    def __init__(self, layout: str, name: str, branches: tuple[Branch, ...], locks: tuple[int, ...]) -> None:
        self.layout = layout
        self.name = name
        self.branches = branches
        self._locks = locks

    @classmethod
    def open(cls, layout: str, name: str) -> Subtree:
        """Make the directory `name` in each hierarchy of the layout; nothing is left when it cannot be."""
        found = host_hierarchies()
        free = v1_controllers_free(Path("/proc/cgroups").read_text(encoding="ascii"), found)
        with contextlib.ExitStack() as undo:
            branches: list[Branch] = []
            locks: list[int] = []
            hosts = choose(layout, found, free)
            for host in hosts:
                try:
                    branch, lock = _grow(host, name)
                except TargetError:
                    if host.mounted:
                        raise
                    continue  # ours to add, but not allowed here; or another cgrace's, just ending
                undo.callback(_cut, branch, lock)
                branches.append(branch)
                locks.append(lock)
            if not any(branch.host.is_v2 or branch.host.controllers for branch in branches):
                if os.environ.get(ENTERED):
                    raise UnavailableError(
                        f"it is about cgroup {layout}, and who is not root has v2 alone", hint="sudo, or vm:<suite>:v1"
                    )
                # One that could be ours is perhaps another cgrace's that is just ending: that is worth another try.
                kind = TargetError if any(host.controllers for host in hosts) else UnavailableError
                raise kind(
                    "layout v1 needs a cgroup v1 controller, and none can be had here",
                    hint="use target vm:<suite>:v1, or boot with systemd.unified_cgroup_hierarchy=0",
                )
            undo.pop_all()
        return cls(layout, name, tuple(branches), tuple(locks))

    def close(self) -> None:
        """Remove everything that is ours in these hierarchies, then let go of the mounts."""
        with contextlib.ExitStack() as last:
            last.callback(_let_end, [branch.host for branch in self.branches if not branch.host.mounted])
            for descriptor in (*self._locks, *(branch.mount for branch in self.branches)):
                last.callback(os.close, descriptor)
            last.callback(remove_trees, [branch.path() for branch in self.branches])
            self._locks = ()

    def make_run(self, run: str) -> tuple[Hierarchy, ...]:
        """Make the root of one run in each hierarchy; what was made is removed again when one of them fails."""
        with contextlib.ExitStack() as undo:
            for branch in self.branches:
                path = branch.path(run)
                try:
                    Path(path).mkdir()
                except OSError as error:
                    raise TargetError(f"cannot make a cgroup in {branch.host.name}: {error.strerror}") from error
                undo.callback(_remove_quietly, path)
                try:
                    _prepare(path, hand_down=False)
                except OSError as error:
                    raise TargetError(f"cannot prepare a cgroup in {branch.host.name}: {error.strerror}") from error
            undo.pop_all()
        return tuple(self._hierarchy(branch, run) for branch in self.branches)

    def _hierarchy(self, branch: Branch, run: str) -> Hierarchy:
        root = Path(branch.path(run))
        controllers = branch.host.controllers
        if branch.host.is_v2:
            controllers = tuple(_read(f"{root}/cgroup.controllers").split())
        bare = branch.host.is_v2 and self.layout == "v2"
        inner = INNER_ROOT if bare else f"{INNER_ROOT}/{branch.host.name}"
        return Hierarchy(name=branch.host.name, controllers=controllers, root=root, inner=inner)

    def remove_run(self, run: str) -> None:
        """Remove the root of one run and all below it, with the processes of its sandbox."""
        remove_trees([branch.path(run) for branch in self.branches])

    def empty_run(self, run: str, keep: str) -> None:
        """Remove all cgroups below the run's roots, except `keep` ("" for none), where the sandbox's init sits."""
        below: list[str] = []
        for branch in self.branches:
            with os.scandir(branch.path(run)) as entries:
                below += [entry.path for entry in entries if entry.is_dir(follow_symlinks=False) and entry.name != keep]
        remove_trees(below)

    def view(self, hierarchies: Sequence[Hierarchy]) -> dict[str, Any]:
        """What a process inside mounts to see these, the hierarchies of one run (go/init/mounts.go: "mounts" and "links")."""
        mounts, links = [], []
        for branch, hierarchy in zip(self.branches, hierarchies, strict=True):
            kind = "cgroup2" if hierarchy.is_v2 else "cgroup"
            mounts.append({"target": hierarchy.inner, "type": kind, "options": branch.host.option_text})
            links += [(name, hierarchy.name) for name in hierarchy.controllers if not hierarchy.is_v2]
        return {"mounts": mounts, "links": [link for link in links if link[0] != link[1]]}

    def settings(self, run: str) -> dict[str, str]:
        """The settings of the run's roots, by "hierarchy/file": equal before and after a run that left them alone."""
        found: dict[str, str] = {}
        for branch in self.branches:
            root = branch.path(run)
            for file in SETTINGS.intersection(os.listdir(root)):  # noqa: PTH208  (names are all that is wanted)
                found[f"{branch.host.name}/{file}"] = _read(f"{root}/{file}")
        return found


def _grow(host: HostHierarchy, name: str) -> tuple[Branch, int]:
    """Mount the hierarchy, make our directory in it and hold it; nothing is left when that fails."""
    mount = _mount(host)
    with contextlib.ExitStack() as undo:
        undo.callback(os.close, mount)
        branch = Branch(host=host, mount=mount, top=_make_top(host, mount, name))
        undo.callback(_remove_quietly, branch.path())
        try:
            _prepare(branch.path(), hand_down=True)
            lock = owner.lock(branch.path())
        except OSError as error:
            raise TargetError(f"cannot use a cgroup of our own in {host.name}: {error.strerror}") from error
        undo.pop_all()
    return branch, lock


def _cut(branch: Branch, lock: int) -> None:
    """The inverse of `_grow`."""
    _remove_quietly(branch.path())
    os.close(lock)
    os.close(branch.mount)


def _mount(host: HostHierarchy) -> int:
    try:
        return host.mount()
    except OSError as error:
        hint = "run as root (CAP_SYS_ADMIN over the cgroup namespace)"
        if error.errno == errno.ENOSYS:
            hint = "use Linux 5.2 or newer"
        raise TargetError(
            f"target fake needs its own cgroups, but cannot mount the cgroup hierarchy {host.name}: {error.strerror}",
            hint=hint,
        ) from error


def _let_end(hosts: list[HostHierarchy]) -> None:
    """See hierarchies end that nobody mounted but us.

    A v1 hierarchy ends with its last mount, but only if its cgroups are gone for good, which takes the kernel a moment
    after the rmdir and is no event that one could wait for. Until then mounting it anew gives it another chance.
    """
    deadline = time.monotonic() + _END_S_MAX
    while time.monotonic() < deadline:
        alive = {hierarchy.option_text for hierarchy in host_hierarchies() if not hierarchy.mounted}
        hosts = [host for host in hosts if host.option_text in alive]
        if not hosts:
            return
        threading.Event().wait(_END_RETRY_S)
        for host in hosts:
            with contextlib.suppress(OSError):
                os.close(host.mount())


def _make_top(host: HostHierarchy, mount: int, name: str) -> str:
    """Make our directory below our own cgroup, else below the root, and return its path from the mount."""
    places = [host.own.rstrip("/"), ""]
    if host.is_v2 and not _hands_down(f"/proc/self/fd/{mount}{places[0]}"):
        # A cgroup with processes gives its children no controllers; the root does, where the host lets it.
        places = ["", places[0]] if _hands_down(f"/proc/self/fd/{mount}") else places
    failure: OSError | None = None
    for place in dict.fromkeys(places):
        top = f"{place}/{name}"
        try:
            Path(f"/proc/self/fd/{mount}{top}").mkdir()
        except FileExistsError:
            return top
        except OSError as error:
            failure = error
            continue
        return top
    assert failure is not None
    raise TargetError(
        f"cannot make a cgroup in {host.name}, neither below {host.own} nor below its root: {failure.strerror}",
        hint="run as root, and in a container with the cgroup file system writable",
    ) from failure


def _hands_down(path: str) -> bool:
    try:
        return bool(_read(f"{path}/cgroup.subtree_control"))
    except OSError:
        return False


def _prepare(path: str, *, hand_down: bool) -> None:
    """Make a fresh directory of ours usable: cpuset needs cpus and memory before any process may enter (v1), and
    controllers must be handed down to the runs' roots (v2; each one that will not is left out)."""
    for file in _CPUSET_FILES:
        with contextlib.suppress(FileNotFoundError):
            if not _read(f"{path}/{file}") and not Path(f"{path}/cgroup.controllers").exists():
                _write(f"{path}/{file}", _read(f"{Path(path).parent}/{file}"))
    if hand_down:
        with contextlib.suppress(FileNotFoundError):
            for controller in _read(f"{path}/cgroup.controllers").split():
                with contextlib.suppress(OSError):
                    _write(f"{path}/cgroup.subtree_control", f"+{controller}")


def _remove_quietly(path: str) -> None:
    with contextlib.suppress(TargetError):
        remove_trees([path])


def _read(path: str) -> str:
    return Path(path).read_text(encoding="utf-8", errors="replace").strip()


def _write(path: str, text: str) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, text.encode())
    finally:
        os.close(fd)
