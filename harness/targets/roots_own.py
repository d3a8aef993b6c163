"""Roots of the user's own to boot: a folder, a tar archive, or an OCI image layout, copied into the cache once.

What is in the cache is never written to, and neither is what the user named. Entries are as those of roots.py, under
`roots/own-<key>`; the key of a folder is over every name in it with its size, mode and times, that of an archive over its content,
that of a layout over its manifest's digests.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import re
import stat
import sys
import tarfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

from cgrace.harness.drivers.cache import content_key
from cgrace.harness.errors import TargetError
from cgrace.harness.proc.run import run_ok
from cgrace.harness.targets.roots_tree import INITS, systemd_version

UNPACKER: Final = Path(__file__).with_name("roots_unpack.py")
BUSES: Final = ("usr/bin/dbus-daemon", "usr/bin/dbus-broker", "bin/dbus-daemon")
UNPACK_S_MAX: Final = 1800.0
_FORMAT: Final = 1
_MANIFESTS: Final = (
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.v2+json",
)
_DIGEST: Final = re.compile(r"sha256:[0-9a-f]{64}")
_BLOCK: Final = 1 << 20


def is_own(text: str) -> bool:
    """Whether a place's name is a path and not a suite's."""
    return "/" in text or text in (".", "..")


def describe(text: str) -> tuple[Path, str, tuple[Path, ...]]:
    """What is meant: the path, its key, and the archives to unpack (none: a folder to copy). TargetError for anything else."""
    path = Path(text).expanduser()
    try:
        if path.is_dir() and (path / "oci-layout").is_file():
            layers = _layers(path)
            return path, _key("oci", *(layer.name for layer in layers)), layers
        if path.is_dir():
            _check(text, path)  # before every name in it is looked at: perhaps it is a whole disk
            return path, _key("folder", *_listing(path)), ()
        if path.is_file() and tarfile.is_tarfile(path):
            return path, _key("tar", _digest(path)), (path,)
    except OSError as error:
        raise TargetError(f"{text} cannot be read: {error.strerror}") from None
    raise TargetError(
        f"{text} is no root: neither a folder, nor a tar archive, nor an OCI layout"
        if path.exists()
        else f"there is no {text}",
        hint="container:bookworm, or container:./my-root",
    )


async def fill(
    text: str, path: Path, archives: Sequence[Path], entry: Path, progress: Callable[[str], None]
) -> dict[str, Any]:
    """Put the root into `entry`/root; what it is, as root.json says it. TargetError where it is no root to boot."""
    progress(f"copying {text} into the cache (once)")
    root = entry / "root"
    await asyncio.to_thread(root.mkdir)
    if archives:
        words = [sys.executable, "-I", str(UNPACKER), str(root), *map(str, archives)]
    else:
        words = ["cp", "-a", "--reflink=auto", "--", f"{path}/.", str(root)]
    await run_ok(words, what=f"{text} cannot be copied", error=TargetError, timeout_s=UNPACK_S_MAX)
    version = await asyncio.to_thread(_check, text, root)
    return {"suite": text, "packages": {"systemd": version}}


def _check(text: str, root: Path) -> str:
    """The version of its systemd; TargetError where it lacks what a boot takes."""
    if not any(_exists(root, name) for name in INITS):
        raise TargetError(
            f"{text} is a root without systemd", hint="install it there: apt install systemd dbus, dnf install systemd"
        )
    if not any(_exists(root, name) for name in BUSES):
        raise TargetError(
            f"{text} has no D-Bus daemon, which systemd is asked through",
            hint="install it there: apt install dbus, dnf install dbus-broker",
        )
    return systemd_version(root)


def _exists(root: Path, name: str) -> bool:
    """Whether the root has it, with links as the root means them; those of merged directories lead below it."""
    return (root / name).exists() or (root / name).is_symlink()


def _layers(folder: Path) -> tuple[Path, ...]:
    """The layers of a layout's one image, the lowest first; each file's content is what its name says."""
    index = _json(folder / "index.json")
    manifests = [one for one in index.get("manifests", ()) if isinstance(one, dict)]
    chosen = [one for one in manifests if one.get("mediaType") in _MANIFESTS]
    if len(chosen) != 1:
        raise TargetError(
            f"{folder} holds {len(chosen)} images, and one is wanted", hint="skopeo copy IMAGE oci:FOLDER makes such"
        )
    manifest = _json(_blob(folder, chosen[0]))
    layers = tuple(_blob(folder, layer) for layer in manifest.get("layers", ()))
    for layer in layers:
        if _digest(layer) != layer.name:
            raise TargetError(f"{folder} is damaged: {layer.name[:12]} is not what its digest says")
        if not tarfile.is_tarfile(layer):
            raise TargetError(
                f"{folder} has a layer in a form that is not known here (zstd?)",
                hint="skopeo copy --dest-compress-format gzip oci:FOLDER oci:OTHER",
            )
    return layers


def _blob(folder: Path, descriptor: Any) -> Path:
    digest = str(descriptor.get("digest", "")) if isinstance(descriptor, dict) else ""
    if _DIGEST.fullmatch(digest) is None:
        raise TargetError(f"{folder} is damaged: {digest!r:.80} is no sha256 digest")
    return folder / "blobs" / "sha256" / digest.removeprefix("sha256:")


def _json(path: Path) -> dict[str, Any]:
    try:
        data = json.loads(path.read_bytes())
    except ValueError:
        data = None
    if not isinstance(data, dict):
        raise TargetError(f"{path} is no JSON object")
    return data


def _digest(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()


def _listing(folder: Path) -> Iterator[str]:
    """Every name in a folder with what tells a change of it."""
    for base, folders, names in os.walk(folder):
        folders.sort()
        for name in sorted([*folders, *names]):
            info = os.lstat(f"{base}/{name}")
            kind = stat.S_IFMT(info.st_mode)
            times = (info.st_mtime_ns, info.st_ctime_ns) if not stat.S_ISDIR(info.st_mode) else ()
            yield f"{base}/{name} {kind} {info.st_mode} {info.st_uid} {info.st_gid} {info.st_size} {times}"


def _key(*texts: str) -> str:
    return content_key([(text, b"") for text in (str(_FORMAT), *texts)])


def check_can_copy() -> None:
    """TargetError where owners and devices of a root cannot be kept."""
    if os.geteuid() != 0:
        raise TargetError("copying a root takes root (device files, owners)", hint="sudo cgrace ...")
