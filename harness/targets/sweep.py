"""Removes what a killed cgrace process left: processes of its sandboxes, cgroups, tracefs instances, runtime folders.

Everything that we make is named after the process that makes it (owner.py), so that a sweep needs no list: it looks where
such names can be and leaves every name alone whose process lives. A few ms when there is nothing.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from cgrace.harness.errors import TargetError
from cgrace.harness.targets import owner
from cgrace.harness.targets.layout import HostHierarchy, host_hierarchies
from cgrace.harness.targets.linux import mount_detached
from cgrace.harness.targets.removal import remove_trees

OWNER_FILE: Final = "owner.json"  # in a runtime folder: what `record_owner` says
_OWNER_BYTES_MAX: Final = 1 << 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Swept:
    """One thing that a sweep dealt with. kind: "process", "cgroup", "tracefs instance" or "folder"; name: its pid or path,
    a cgroup's as "hierarchy:path"; problem: why it is still there, "" when it is gone."""

    kind: str
    name: str
    problem: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Record:
    """What an owner wrote down (see `record_owner`); all empty when that cannot be read."""

    pid_namespace: str = ""
    places: Mapping[str, str] = field(default_factory=dict)


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
        records = {find.owner: _read_record(find.path) for find in folders}
        finds = [*folders, *_tracefs_instances(mounts), *_cgroups(mounts, list(records.values()))]
        names = {find.owner for find in finds} - {owner.own_name()}
        dead = {name for name in names if not owner.process_lives(name)}
        # In our own pid namespace the pid says it all. (A lock may outlive its owner by the moment that a child of it
        # takes from fork to exec.) Elsewhere only the lock tells.
        here = owner.pid_namespace()
        foreign = {name for name in dead if name not in records or records[name].pid_namespace != here}
        lockable = [find for find in finds if find.owner in foreign and find.kind in ("cgroup", "folder")]
        dead -= {find.owner for find in lockable if owner.is_locked(find.path)}
        swept: list[Swept] = []
        for name in sorted(dead):
            swept += _remove_owner([find for find in finds if find.owner == name])
        return swept


def record_owner(folder: Path) -> None:
    """Write down in our runtime folder, before we make any cgroup, what a later sweep cannot know otherwise: our pid
    namespace, and the cgroups below which we may make ours."""
    places = {hierarchy.name: hierarchy.own for hierarchy in host_hierarchies()}
    record = {"pid_namespace": owner.pid_namespace(), "places": places}
    (folder / OWNER_FILE).write_text(json.dumps(record), encoding="utf-8")


def _remove_owner(finds: list[_Find]) -> list[Swept]:
    """Remove everything of one dead owner; its folder last, and only if nothing else stayed: it names the places."""
    swept: list[Swept] = []
    cgroups = [find for find in finds if find.kind == "cgroup"]
    try:
        killed = remove_trees([find.path for find in cgroups])
        swept += [Swept(kind="process", name=str(pid)) for pid in sorted(killed)]
        swept += [Swept(kind="cgroup", name=find.shown) for find in cgroups]
    except TargetError as error:
        swept += [
            Swept(kind="cgroup", name=find.shown, problem=error.message if Path(find.path).exists() else "")
            for find in cgroups
        ]
    for find in finds:
        if find.kind == "tracefs instance":
            swept += _remove(find, Path(find.path).rmdir)
    for find in finds:
        if find.kind == "folder" and not any(one.problem for one in swept):
            swept += _remove(find, functools.partial(shutil.rmtree, find.path))
    return swept


def _remove(find: _Find, remove: Callable[[], None]) -> list[Swept]:
    try:
        remove()
    except FileNotFoundError:
        return []
    except OSError as error:
        return [Swept(kind=find.kind, name=find.shown, problem=error.strerror or str(error))]
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
            try:
                info = entry.stat(follow_symlinks=False)
            except FileNotFoundError:  # its owner, who lives, has just removed it
                continue
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


def _cgroups(mounts: contextlib.ExitStack, records: list[_Record]) -> Iterator[_Find]:
    for hierarchy in host_hierarchies():
        try:
            fd = hierarchy.mount()
        except OSError:
            continue
        mounts.callback(os.close, fd)
        for place in _places(hierarchy, records):
            for entry in _named(f"/proc/self/fd/{fd}{place}"):
                shown = f"{hierarchy.name}:{place}/{entry.name}"
                yield _Find(kind="cgroup", owner=entry.name, path=entry.path, shown=shown)


def _places(hierarchy: HostHierarchy, records: list[_Record]) -> Iterator[str]:
    """Cgroups ("" for the root) below which owners' directories can be."""
    seen = {"", "/"}
    yield ""
    for place in (hierarchy.own, *(record.places.get(hierarchy.name, "/") for record in records)):
        for above in (place, *map(str, Path(place).parents)):
            if above not in seen:
                seen.add(above)
                yield above


def _read_record(folder: str) -> _Record:
    try:
        with Path(folder, OWNER_FILE).open(encoding="utf-8") as file:
            record = json.loads(file.read(_OWNER_BYTES_MAX))
    except (OSError, ValueError):
        return _Record()
    match record:
        case {"pid_namespace": str(namespace), "places": dict(places)}:
            sound = {
                name: place
                for name, place in places.items()
                if isinstance(place, str) and place.startswith("/") and ".." not in place.split("/")
            }
            return _Record(pid_namespace=namespace, places=sound)
        case _:
            return _Record()
