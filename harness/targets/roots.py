"""Debian roots to boot: made once for each suite, kept by content, never written to afterwards.

`${XDG_CACHE_HOME:-~/.cache}/cgrace/roots/<suite>-<key>/{root/,mnt/,root.json}`: the root itself (the lower layer of an
overlay), an empty directory to mount on, and what is in it. The key is over everything that decides the content, so a change of
the recipe makes a new root. An entry appears by one rename. mmdebstrap does the work, in namespaces of its own, from the
archive that this machine's own apt is configured with.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from cgrace.harness.drivers.cache import cache_root, content_key
from cgrace.harness.errors import TargetError
from cgrace.harness.targets import roots_build, roots_own
from cgrace.harness.targets.roots_build import APT_OPTIONS, HOOKS, NEVER
from cgrace.harness.targets.roots_tree import Tree, install_tree

NOTE_FILE: Final = "root.json"
FORMAT: Final = 1  # of an entry; a change makes every root new
VARIANT: Final = "essential"
PACKAGES: Final = ("dbus", "systemd", "systemd-sysv")
_FREE_BYTES_MIN: Final = 600_000_000
Fill = Callable[[Path], Awaitable[dict[str, Any]]]
"""Puts root/ into an entry; what it is, as root.json says it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Root:
    """A root that can be booted. folder: has root/ and mnt/; suite: its name; note: what root.json says, with the version of the
    systemd that it will boot. over: an install tree that is laid over it when it boots, never copied."""

    suite: str
    folder: Path
    note: dict[str, Any]
    over: Tree | None = None


def roots_folder() -> Path:
    """Where roots are kept."""
    return cache_root() / "roots"


def split_over(text: str) -> tuple[str, str]:
    """A place's name in two: "trixie+DIR" is a root and the install tree over it, "" for none. A path may have a + in it: of those
    the last is meant before which a root is there."""
    base, plus, over = text.partition("+")
    if not plus or not roots_own.is_own(base):
        return base, over
    ends = [at for at, letter in enumerate(text) if letter == "+"]
    for end in [len(text), *reversed(ends)]:
        if Path(text[:end]).expanduser().exists():
            return text[:end], text[end + 1 :]
    return text, ""


def look_up(suite: str) -> Root | None:
    """The root, if it is built. Anything that is not a whole entry does not count."""
    return _whole(suite, _entry_folder(suite))


async def build_root(suite: str, *, progress: Callable[[str], None] = lambda _: None) -> Root:
    """The root of a suite, built unless it is already, or one of the user's own by its path (roots_own.py); TargetError with the
    builder's own lines where it cannot be. "trixie+DIR" is trixie's with the install tree in DIR laid over it: what a developer of
    systemd has just built (DESTDIR=DIR ninja install).

    Two that want the same root at once: the second waits for the first. Offline once built.
    """
    base, over = split_over(suite)
    if over:
        below = await build_root(base, progress=progress)
        tree = await asyncio.to_thread(install_tree, over, below.folder / "root", base)
        if not tree.version:
            raise TargetError(f"{over} has a {tree.inits[0][1:]} that does not say which systemd it is")
        note = {**below.note, "suite": suite, "packages": {**below.note["packages"], "systemd": tree.version}}
        return replace(below, suite=suite, over=tree, note=note)
    if roots_own.is_own(suite):
        return await _own(suite, progress)
    if (root := look_up(suite)) is not None:
        return root
    roots_build.check_can_build(suite, "a root")
    return await _made(suite, suite, _entry_folder(suite), lambda entry: _fill(suite, entry, progress), progress)


async def _own(text: str, progress: Callable[[str], None]) -> Root:
    path, key, archives = await asyncio.to_thread(roots_own.describe, text)
    folder = roots_folder() / f"own-{key}"
    if (root := _whole(text, folder)) is not None:
        return root
    roots_own.check_can_copy()
    return await _made(
        text, folder.name, folder, lambda entry: roots_own.fill(text, path, archives, entry, progress), progress
    )


async def _made(suite: str, turn: str, folder: Path, fill: Fill, progress: Callable[[str], None]) -> Root:
    """The root in a folder of the cache, made when it is our turn, unless somebody else had it made until then."""
    async with roots_build.turn(roots_folder(), turn, progress):
        if (root := _whole(suite, folder)) is not None:
            return root
        with roots_build.workshop(roots_folder(), _FREE_BYTES_MIN) as workshop:
            entry = workshop / "entry"
            (entry / "mnt").mkdir(parents=True)
            note = await fill(entry)
            roots_build.write_note(entry / NOTE_FILE, note)
            roots_build.into_place(entry, folder)
    return Root(suite=suite, folder=folder, note=note)


async def _fill(suite: str, entry: Path, progress: Callable[[str], None]) -> dict[str, Any]:
    """Put a suite's root into an entry; what it is."""
    progress(f"building a root with {suite}'s systemd (once, some 15 s)")
    root = entry / "root"
    await roots_build.mmdebstrap(suite, root, packages=PACKAGES, hooks=HOOKS, variant=VARIANT, progress=progress)
    packages = roots_build.package_versions(root, PACKAGES)
    if "systemd" not in packages:
        raise TargetError(f"the root of {suite} was built without systemd")
    return {"suite": suite, "packages": packages}


def _whole(suite: str, folder: Path) -> Root | None:
    note = roots_build.read_note(folder / NOTE_FILE)
    if note is None or not (folder / "root").is_dir() or not (folder / "mnt").is_dir():
        return None
    return Root(suite=suite, folder=folder, note=note)


def _entry_folder(suite: str) -> Path:
    parts = [str(FORMAT), suite, VARIANT, *PACKAGES, *APT_OPTIONS, NEVER, *HOOKS]
    return roots_folder() / f"{suite}-{content_key([(part, b'') for part in parts])}"
