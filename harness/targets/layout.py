"""What cgroup hierarchies the machine has, read from /proc and never assumed.

/proc/self/cgroup names every hierarchy that is alive in the kernel, mounted or not, and where we are in it;
/proc/self/mountinfo adds the directory names that people gave them. Each is then mounted once more, detached
(linux.py), so that a read-only or absent /sys/fs/cgroup does not matter.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cgrace.harness.errors import TargetError
from cgrace.harness.targets.linux import mount_detached

ENTERED: Final = (
    "CGRACE_ROOTLESS"  # in the environment of a cgrace that went into a user namespace (rootless.py): it has v2
)
INNER_ROOT: Final = "/sys/fs/cgroup"
UNIFIED: Final = "unified"
# Controllers of cgroup v1 that cgroup v2 does not have: mounting their hierarchy takes nothing from a host with v2 only.
# perf_event is not among them: it is an implicit controller of v2, and v1 would take it away from the host's perf.
V1_ONLY: Final = ("devices", "freezer", "net_cls", "net_prio")


@dataclass(frozen=True, slots=True, kw_only=True)
class HostHierarchy:
    """One hierarchy of the host. name: its mount's name; controllers: () for a named one; options: of a v1 mount;
    own: the cgroup of this process in it, "/" when that lies outside our cgroup namespace; mounted: somewhere in our mount
    namespace. One that is not may be new, or another cgrace's, and is there only as long as somebody holds it."""

    name: str
    controllers: tuple[str, ...]
    options: tuple[tuple[str, str | None], ...]
    own: str
    mounted: bool = False

    @property
    def is_v2(self) -> bool:
        """Whether this is the cgroup v2 hierarchy."""
        return self.name == UNIFIED

    def mount(self) -> int:
        """A detached mount of it, rooted at our cgroup namespace's root. OSError when the kernel refuses."""
        return mount_detached("cgroup2" if self.is_v2 else "cgroup", dict(self.options))

    @property
    def option_text(self) -> str:
        """The options as mount(2) takes them."""
        return ",".join(key if value is None else f"{key}={value}" for key, value in self.options)


def parse_hierarchies(cgroup: str, mountinfo: str) -> tuple[HostHierarchy, ...]:
    """All live hierarchies from the texts of /proc/self/cgroup and /proc/self/mountinfo, v2 last."""
    mounts = list(_v1_mounts(mountinfo))
    found: list[HostHierarchy] = []
    for line in cgroup.splitlines():
        _, _, rest = line.partition(":")
        subsystems, _, own = rest.partition(":")
        if own == "/.." or own.startswith("/../") or not own.startswith("/"):
            own = "/"
        own = own.removesuffix(" (deleted)")
        if not subsystems:
            found.append(HostHierarchy(name=UNIFIED, controllers=(), options=(), own=own, mounted=True))
            continue
        words = subsystems.split(",")
        controllers = tuple(word for word in words if not word.startswith("name="))
        named = [word.removeprefix("name=") for word in words if word.startswith("name=")]
        options: list[tuple[str, str | None]] = [(word, None) for word in controllers or ("none",)]
        options += [("name", name) for name in named]
        directories = [name for carried, name in mounts if carried.issuperset(words)]
        name = next((name for name in directories if _tells(name, words)), ",".join(controllers or named))
        found.append(
            HostHierarchy(
                name=name, controllers=controllers, options=tuple(options), own=own, mounted=bool(directories)
            )
        )
    return tuple(sorted(found, key=lambda hierarchy: hierarchy.is_v2))


def _tells(directory: str, words: Sequence[str]) -> bool:
    """Whether a directory's name says all that its hierarchy carries, as the usual ones do."""
    return set(directory.split(",")) == {word.removeprefix("name=") for word in words}


def _v1_mounts(mountinfo: str) -> Iterator[tuple[frozenset[str], str]]:
    """(mount options, directory name) of each mount of cgroup v1."""
    for line in mountinfo.splitlines():
        before, _, after = line.partition(" - ")
        fields, source = before.split(), after.split()
        if len(fields) >= 5 and len(source) >= 3 and source[0] == "cgroup":
            yield frozenset(source[2].split(",")), Path(fields[4]).name


def host_hierarchies() -> tuple[HostHierarchy, ...]:
    """The hierarchies of this machine."""
    return parse_hierarchies(
        Path("/proc/self/cgroup").read_text(encoding="utf-8"), Path("/proc/self/mountinfo").read_text(encoding="utf-8")
    )


def v1_controllers_free(proc_cgroups: str, found: tuple[HostHierarchy, ...]) -> tuple[str, ...]:
    """The v1-only controllers that the kernel has, enabled, and that no hierarchy carries (text of /proc/cgroups)."""
    taken = {controller for hierarchy in found for controller in hierarchy.controllers}
    rows = [line.split() for line in proc_cgroups.splitlines() if not line.startswith("#")]
    enabled = {row[0] for row in rows if len(row) == 4 and row[3] == "1"}
    return tuple(name for name in V1_ONLY if name in enabled and name not in taken)


def choose(layout: str, found: tuple[HostHierarchy, ...], free: tuple[str, ...]) -> tuple[HostHierarchy, ...]:
    """The hierarchies that make up the layout "v1" or "v2" on a machine with these; TargetError when it cannot be."""
    if layout == "v2":
        unified = tuple(hierarchy for hierarchy in found if hierarchy.is_v2)
        if not unified:
            raise TargetError(
                "layout v2 needs cgroup v2, which this kernel does not offer", hint="use a kernel with cgroup v2 (4.5+)"
            )
        return unified
    if layout != "v1":
        raise TargetError(f"there is no cgroup layout {layout!r}", hint='layouts are "v1" and "v2"')
    v1 = [hierarchy for hierarchy in found if not hierarchy.is_v2]
    # One that nobody has mounted is another cgrace's, and may end any moment.
    if not any(hierarchy.controllers and hierarchy.mounted for hierarchy in v1):
        v1 += [HostHierarchy(name=name, controllers=(name,), options=((name, None),), own="/") for name in free]
    if not any(("name", "systemd") in hierarchy.options for hierarchy in v1):
        options = (("none", None), ("name", "systemd"))
        v1.append(HostHierarchy(name="systemd", controllers=(), options=options, own="/"))
    return tuple(v1)
