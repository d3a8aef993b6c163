"""Removes what a killed cgrace process left: processes of its sandboxes, cgroups, tracefs instances, runtime folders.

Everything that we make is named after the process that makes it (owner.py), so that a sweep needs no list: it looks where
such names can be and leaves every name alone whose process lives. A few ms when there is nothing.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cgrace.harness.errors import TargetError
from cgrace.harness.targets import owner
from cgrace.harness.targets.layout import HostHierarchy, host_hierarchies
from cgrace.harness.targets.linux import mount_detached
from cgrace.harness.targets.removal import remove_tree

PLACES_FILE: Final = "places.json"  # in a runtime folder: {hierarchy name: cgroup that the owner was in}
_PLACES_BYTES_MAX: Final = 1 << 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Swept:
    """One thing that a sweep dealt with. kind: "process", "cgroup", "tracefs instance" or "folder"; name: its pid or path,
    a cgroup's as "hierarchy:path"; problem: why it is still there, "" when it is gone."""

    kind: str
    name: str
    problem: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Find:
    kind: str
    owner: str
    path: str  # as this process can open it
    shown: str


def sweep() -> list[Swept]:
    """Remove what dead owners left; what is still theirs to use, or not ours at all, is never touched. Blocks.

    Without root it does what it can: only the user's own folders.
    """
    with contextlib.ExitStack() as mounts:
        folders = list(_folders())
        finds = [*folders, *_tracefs_instances(mounts), *_cgroups(mounts, [find.path for find in folders])]
        names = {find.owner for find in finds} - {owner.own_name()}
        dead = {name for name in names if not owner.process_lives(name)}
        lockable = [find for find in finds if find.owner in dead and find.kind in ("cgroup", "folder")]
        dead -= {find.owner for find in lockable if owner.is_locked(find.path)}
        # Folders last: as long as something is left, the places that they name may be needed again.
        order = {"cgroup": 0, "tracefs instance": 1, "folder": 2}
        swept: list[Swept] = []
        for find in sorted((find for find in finds if find.owner in dead), key=lambda find: order[find.kind]):
            swept += _remove(find)
        return swept


def record_places(folder: Path) -> None:
    """Write down in a runtime folder below which cgroups its owner may make its own (before it does)."""
    places = {hierarchy.name: hierarchy.own for hierarchy in host_hierarchies()}
    (folder / PLACES_FILE).write_text(json.dumps(places), encoding="utf-8")


def _remove(find: _Find) -> list[Swept]:
    try:
        if find.kind == "cgroup":
            killed = remove_tree(find.path)
            return [
                *(Swept(kind="process", name=str(pid)) for pid in sorted(killed)),
                Swept(kind="cgroup", name=find.shown),
            ]
        if find.kind == "folder":
            shutil.rmtree(find.path)
        else:
            Path(find.path).rmdir()
    except TargetError as error:
        return [Swept(kind=find.kind, name=find.shown, problem=error.message)]
    except FileNotFoundError:
        return []
    except OSError as error:
        return [Swept(kind=find.kind, name=find.shown, problem=str(error.strerror))]
    return [Swept(kind=find.kind, name=find.shown)]


def _named(directory: str) -> Iterator[os.DirEntry[str]]:
    """The real directories in `directory` that bear an owner's name."""
    try:
        with os.scandir(directory) as entries:
            found = [entry for entry in entries if owner.OWNED_NAME.fullmatch(entry.name)]
    except OSError:
        return
    yield from (entry for entry in found if entry.is_dir(follow_symlinks=False))


def _folders() -> Iterator[_Find]:
    for directory in dict.fromkeys((tempfile.gettempdir(), "/tmp")):
        for entry in _named(directory):
            info = entry.stat(follow_symlinks=False)
            # Anybody can make a directory of that name in /tmp: ours belongs to us and is closed to others.
            if info.st_uid == os.geteuid() and stat.S_IMODE(info.st_mode) == 0o700:
                yield _Find(kind="folder", owner=entry.name, path=entry.path, shown=entry.path)


def _tracefs_instances(mounts: contextlib.ExitStack) -> Iterator[_Find]:
    try:
        fd = mount_detached("tracefs")
    except OSError:
        return
    mounts.callback(os.close, fd)
    for entry in _named(f"/proc/self/fd/{fd}/instances"):
        yield _Find(kind="tracefs instance", owner=entry.name, path=entry.path, shown=entry.name)


def _cgroups(mounts: contextlib.ExitStack, folders: list[str]) -> Iterator[_Find]:
    recorded = [_read_places(folder) for folder in folders]
    for hierarchy in host_hierarchies():
        try:
            fd = hierarchy.mount()
        except OSError:
            continue
        mounts.callback(os.close, fd)
        for place in _places(hierarchy, recorded):
            for entry in _named(f"/proc/self/fd/{fd}{place}"):
                shown = f"{hierarchy.name}:{place}/{entry.name}"
                yield _Find(kind="cgroup", owner=entry.name, path=entry.path, shown=shown)


def _places(hierarchy: HostHierarchy, recorded: list[dict[str, str]]) -> Iterator[str]:
    """Cgroups ("" for the root) below which owners' directories can be."""
    seen = {"", "/"}
    yield ""
    for place in (hierarchy.own, *(places.get(hierarchy.name, "/") for places in recorded)):
        for above in (place, *map(str, Path(place).parents)):
            if above not in seen:
                seen.add(above)
                yield above


def _read_places(folder: str) -> dict[str, str]:
    """What `record_places` wrote; {} when it is not there or not of that form."""
    try:
        with Path(folder, PLACES_FILE).open(encoding="utf-8") as file:
            places = json.loads(file.read(_PLACES_BYTES_MAX))
    except (OSError, ValueError):
        return {}
    if not isinstance(places, dict):
        return {}
    return {
        name: place
        for name, place in places.items()
        if isinstance(place, str) and place.startswith("/") and ".." not in place.split("/")
    }
