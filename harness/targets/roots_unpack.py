"""Unpacks tar archives over a root, one after another, from inside that root: `python -I roots_unpack.py ROOT ARCHIVE...`.

Run as a program of its own, because it changes its root directory first: whatever names and links the archives hold, nothing
outside can be reached by them, and a link that is absolute means what it means in that root. Layers of an image take away what
earlier ones brought by the marks of the OCI image specification (layer.md, "Whiteouts").
"""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
import tarfile
from pathlib import Path
from typing import IO, Any

_MARK = ".wh."
_OPAQUE = ".wh..wh..opq"
# Pythons that know filters want to be told (3.11.4); within its own root directory an archive may do as it likes.
_AS_IT_IS: dict[str, Any] = {"filter": "fully_trusted"} if hasattr(tarfile, "fully_trusted_filter") else {}


def unpack(root: str, archives: list[IO[bytes]]) -> None:
    """Go into the root for good, and unpack."""
    os.chroot(root)
    os.chdir("/")
    os.umask(0)
    for archive in archives:
        with tarfile.open(fileobj=archive, mode="r|*") as layer:
            _lay(layer)


def _lay(layer: tarfile.TarFile) -> None:
    brought: set[Path] = set()
    for member in layer:
        name = os.path.normpath(member.name.lstrip("/"))
        if name.split("/", 1)[0] == "..":
            raise SystemExit(f"{member.name!r} leads out of the root")
        path = Path("/", name)
        if path.name == _OPAQUE:
            with contextlib.suppress(OSError):
                for left in path.parent.iterdir():
                    if left not in brought:
                        _remove(left)
        elif path.name.startswith(_MARK):
            _remove(path.with_name(path.name.removeprefix(_MARK)))
        elif name != ".":
            if not member.isdir() or path.is_symlink():
                _remove(path)
            member.name = name
            layer.extract(member, "/", numeric_owner=True, **_AS_IT_IS)
            brought.update((path, *path.parents))


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with contextlib.suppress(OSError):
            path.unlink()


if __name__ == "__main__":
    try:
        unpack(sys.argv[1], [Path(name).open("rb") for name in sys.argv[2:]])  # noqa: SIM115 - until the end
    except (OSError, tarfile.TarError, EOFError) as error:
        raise SystemExit(str(error)) from None
