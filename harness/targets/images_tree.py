"""An install tree of systemd (`DESTDIR=DIR ninja install`) for a virtual machine: it is put onto a small disk of its own, whose
content the guest's first program copies over its root (go/vminit). Neither the image nor the tree is written to.

What the tree's programs need is looked up before anything is booted, as for a container (roots_tree.py). For that the libraries of
the image are taken out of it once, by debugfs(8), and kept beside it.
"""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Final

from cgrace.harness.errors import TargetError
from cgrace.harness.proc.find import search_path
from cgrace.harness.proc.run import run
from cgrace.harness.targets import images, roots_build
from cgrace.harness.targets.images import Image
from cgrace.harness.targets.roots_tree import Tree, install_tree

_LOOKED_AT: Final = "looked-at"  # in an image's folder: what of its root an install tree is held against
# A merged /usr has links in place of the first four.
_WANTED: Final = "/bin /sbin /lib /lib64 /usr/bin /usr/lib /usr/lib64 /etc/ld.so.conf /etc/ld.so.conf.d"
_LARGE: Final = ("lib/modules", "usr/lib/modules", "usr/lib/firmware")
_FREE_BYTES_MIN: Final = 600_000_000  # debugfs would not say that it ran out of them
_BLOCK: Final = 4096
_SPARE_MB: Final = 16


async def tree_over(text: str, image: Image, progress: Callable[[str], None] = lambda _: None) -> Tree:
    """The install tree in a folder, which can be laid over the image's root; TargetError where that would give no systemd that
    starts."""
    root = await _looked_at(image, progress)
    tree = await asyncio.to_thread(install_tree, text, root, image.suite)
    if not tree.version:
        raise TargetError(f"{text} has a {tree.inits[0][1:]} that does not say which systemd it is")
    return tree


async def put_on_disk(tree: Tree, disk: Path) -> None:
    """Write the tree as a file system onto a new disk, just large enough for it."""
    megabytes, inodes = await asyncio.to_thread(_size, tree.folder)
    words = ["mke2fs", "-q", "-F", "-t", "ext4", "-b", str(_BLOCK), "-m", "0", "-N", str(inodes), "-O", "^has_journal"]
    made = await run(
        [*words, "-d", str(tree.folder.resolve()), str(disk), f"{megabytes}M"], env={"PATH": search_path()}
    )
    if not made.ok:
        raise TargetError(
            f"{tree.folder} cannot be put onto a disk: mke2fs {made.how}", hint=made.command_line, detail=made.tail
        )


def _size(folder: Path) -> tuple[int, int]:
    """Megabytes and inodes that are enough for a folder's content."""
    blocks = count = 0
    for base, folders, names in os.walk(folder):
        count += len(folders) + len(names)
        blocks += len(folders) + sum(-(-os.lstat(f"{base}/{name}").st_size // _BLOCK) for name in names)
    inodes = count + 64
    return ((blocks * _BLOCK + inodes * 256) * 21 // 20 >> 20) + _SPARE_MB, inodes


async def _looked_at(image: Image, progress: Callable[[str], None] = lambda _: None) -> Path:
    """The part of the image's root that decides whether a systemd starts, as a folder."""
    to = image.folder / _LOOKED_AT
    if to.is_dir():
        return to
    async with roots_build.turn(images.images_folder(), image.suite, progress):
        if not to.is_dir():
            with roots_build.workshop(images.images_folder(), _FREE_BYTES_MIN) as workshop:
                made = workshop / _LOOKED_AT
                await _take_out(image, made)
                roots_build.into_place(made, to)
    return to


async def _take_out(image: Image, made: Path) -> None:
    for folder in ("usr", "etc"):
        (made / folder).mkdir(parents=True)
    for path in _WANTED.split():  # what there is not is none of debugfs's failures
        words = ["debugfs", "-R", f'rdump {path} "{made}{path.rpartition("/")[0]}"', str(image.disk)]
        done = await run(words, env={"PATH": search_path()})
        if not done.ok:
            raise TargetError("the image cannot be looked into", hint=done.command_line, detail=done.tail)
    for path in _LARGE:
        await asyncio.to_thread(shutil.rmtree, made / path, ignore_errors=True)
    if not (made / "usr/lib").is_dir():
        raise TargetError(f"nothing was found in the image of {image.suite}", hint=f"rm -rf {image.folder}")
