"""The initial file system of a virtual machine: an init of ours (go/vminit), the few kernel modules that it loads, and the keys
of one boot. Written here, byte for byte the same for the same content; a kernel unpacks several of them one after another.

Source of the format: Documentation/driver-api/early-userspace/buffer-format.rst of Linux ("newc").
"""

from __future__ import annotations

import bz2
import gzip
import lzma
import stat
import subprocess
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cgrace.harness.errors import TargetError

# What a disk and a network over virtio take, in this order; a kernel that has one of them built in lacks the module. ext4 asks
# for crc32c by its algorithm's name, which no module's dependencies say.
WANTED: Final = (
    "virtio_pci",
    "virtio_blk",
    "virtio_net",
    "crc32c_generic",
    "ext4",
)
_ALIGN: Final = 4
_BLOCK: Final = 512


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """One file or directory of an archive. path: relative; mode: with the file type."""

    path: str
    mode: int
    content: bytes = b""


def directory(path: str, mode: int = 0o755) -> Member:
    """A directory."""
    return Member(path=path, mode=stat.S_IFDIR | mode)


def file(path: str, content: bytes, mode: int = 0o644) -> Member:
    """A regular file."""
    return Member(path=path, mode=stat.S_IFREG | mode, content=content)


def archive(members: Iterable[Member]) -> bytes:
    """A whole archive: owner root, time 0."""
    out = bytearray()
    for number, member in enumerate([*members, Member(path="TRAILER!!!", mode=0)], start=1):
        name = member.path.encode() + b"\0"
        fields = [number, member.mode, 0, 0, 1, 0, len(member.content), 0, 0, 0, 0, len(name), 0]
        out += b"070701" + b"".join(b"%08X" % value for value in fields) + name
        out += bytes(-len(out) % _ALIGN)
        out += member.content
        out += bytes(-len(out) % _ALIGN)
    out += bytes(-len(out) % _BLOCK)
    return bytes(out)


def modules(folder: Path) -> bytes:
    """The part that every boot of an image has. folder: lib/modules/<version> of the image."""
    paths = _in_order(folder)
    named = [(f"{number:02}-{path.name.split('.ko')[0]}.ko", path) for number, path in enumerate(paths)]
    listed = "".join(f"/lib/{name}\n" for name, _ in named)
    packed = [file(f"lib/{name}", _unpacked(path)) for name, path in named]
    return archive([file("modules", listed.encode()), directory("lib"), *packed])


def seed(init: bytes, files: Mapping[str, tuple[bytes, int]], *, over: str = "") -> bytes:
    """The part of one boot: its init, and files to copy over the root, by relative path with their modes; folders as only root
    may see them. over: the disk whose content is copied there before, "" for none."""
    members = [file("init", init, 0o755), directory("seed")]
    if over:
        members.append(file("over", over.encode()))
    known = {""}
    for path in files:
        for parent in reversed([str(parent) for parent in Path(path).parents if str(parent) != "."]):
            if parent not in known:
                known.add(parent)
                members.append(directory(f"seed/{parent}", 0o700))
        members.append(file(f"seed/{path}", *files[path]))
    return archive(members)


def _in_order(modules_folder: Path) -> list[Path]:
    """The wanted modules, each after what it needs, as modules.dep has it (modules.dep(5): the deepest need comes last)."""
    needs: dict[str, list[str]] = {}
    for line in (modules_folder / "modules.dep").read_text(encoding="utf-8").splitlines():
        path, _, rest = line.partition(":")
        needs[path] = rest.split()
    by_name = {Path(path).name.split(".ko")[0].replace("-", "_"): path for path in needs}
    paths: dict[str, None] = {}
    for name in WANTED:
        if (found := by_name.get(name)) is not None:
            paths |= dict.fromkeys([*reversed(needs[found]), found])
    return [modules_folder / path for path in paths]


def _unpacked(path: Path) -> bytes:
    content = path.read_bytes()
    match path.suffix:
        case ".ko":
            return content
        case ".xz":
            return lzma.decompress(content)
        case ".gz":
            return gzip.decompress(content)
        case ".bz2":
            return bz2.decompress(content)
        case ".zst":
            done = subprocess.run(["zstd", "-dc"], input=content, capture_output=True, check=False)
            if done.returncode == 0:
                return done.stdout
    raise TargetError(f"{path.name}: a kernel module in a form that is not known here", hint="apt install zstd")


def members(data: bytes) -> Iterator[Member]:
    """Read an archive back (for tests and for a look at an image)."""
    position = 0
    while True:
        fields = [int(data[position + 6 + 8 * i : position + 14 + 8 * i], 16) for i in range(13)]
        name_end = position + 110 + fields[11]
        name = data[position + 110 : name_end - 1].decode()
        if name == "TRAILER!!!":
            return
        start = name_end + -name_end % _ALIGN
        end = start + fields[6]
        yield Member(path=name, mode=fields[1], content=data[start:end])
        position = end + -end % _ALIGN
