"""What the worker inside a machine runs on: this Python, and this checkout of cgrace, as one archive to unpack anywhere.

A machine of another distribution has another Python, or none (RHEL 7, whose systemd is 219), so it is given the very one that runs
here: the interpreter, its standard library and the shared libraries that these name, started through their own loader, so that
nothing of the machine's is used but its kernel. The C library says which kernels it runs on (glibc 2.36: 3.2 and newer). Kept by
content: what a machine has already is not sent again.
"""

from __future__ import annotations

import asyncio
import gzip
import hashlib
import importlib.util
import io
import os
import sys
import sysconfig
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cgrace.harness.errors import TargetError
from cgrace.harness.proc.run import run

# Of the standard library, what nothing of ours imports and what is large.
_LEFT_OUT: Final = frozenset(
    (
        *(
            "test",
            "tests",
            "idlelib",
            "tkinter",
            "turtledemo",
            "ensurepip",
            "lib2to3",
            "distutils",
            "venv",
            "pydoc_data",
        ),
        *("__pycache__", "site-packages", "dist-packages"),
    )
)
_LEFT_OUT_PREFIXES: Final = (
    *("config-", "_tkinter", "_test", "_ctypes_test", "_xxtestfuzz", "xxlimited", "nis.", "_sqlite3", "readline."),
    *("_curses", "_dbm", "_gdbm", "_ssl", "_hashlib", "ossaudiodev", "audioop", "_crypt"),
)
# What parts of ours import from elsewhere (pyproject.toml); the worker needs nothing of the tests.
_DEPENDENCIES: Final = ("rich", "markdown_it", "mdurl", "pygments")
_LEFT_OUT_DEPENDENCIES: Final = frozenset(("pygments/lexers", "pygments/styles"))
_PACKAGE: Final = ("harness", "fakes", "reports", "scenarios")
_LEVEL: Final = 3  # of compression: the archive is half as large, and made in a second
_SOURCES_NOT: Final = frozenset(("__pycache__", "node_modules"))
_START: Final = """#!/bin/sh
here=$(CDPATH= cd -P -- "$(dirname -- "$0")/.." && pwd -P)
export PYTHONDONTWRITEBYTECODE=1 PYTHONNOUSERSITE=1
exec "$here/lib/{loader}" --library-path "$here/lib" {argv0}"$here/bin/{binary}" "$@"
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One archive to unpack below a folder there. key: of its content; data: a compressed tar."""

    name: str
    key: str
    data: bytes


def _binaries() -> tuple[Path, Path, list[Path]]:
    """This interpreter, its standard library and the extension modules that go along."""
    real = Path(getattr(sys, "_base_executable", sys.executable)).resolve()
    stdlib = Path(sysconfig.get_paths()["stdlib"])
    extensions = sorted((stdlib / "lib-dynload").glob("*.so"))
    return real, stdlib, [one for one in extensions if not _is_left_out(one.name)]


async def interpreter_part() -> Part:
    """bin/python and what it takes; TargetError where this Python cannot be taken along."""
    real, stdlib, extensions = _binaries()
    libraries, loader = await _libraries([real, *extensions])
    return await asyncio.to_thread(_pack_interpreter, real, stdlib, libraries, loader)


def _pack_interpreter(real: Path, stdlib: Path, libraries: dict[str, Path], loader: Path) -> Part:
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    with _Archive() as archive:
        archive.add("bin/python-real", real, 0o755)
        start = _START.format(loader=loader.name, argv0='--argv0 "$here/bin/python" ', binary="python-real")
        archive.add_bytes("bin/python", start.encode(), 0o755)
        archive.add(f"lib/{loader.name}", loader, 0o755)
        for name, path in sorted(libraries.items()):
            archive.add(f"lib/{name}", path, 0o755)
        for path in _files(stdlib, lambda name: name in _LEFT_OUT or _is_left_out(name)):
            archive.add(f"lib/{version}/{path.relative_to(stdlib)}", path)
        for name in _DEPENDENCIES:
            spec = importlib.util.find_spec(name)
            if spec is None or not spec.submodule_search_locations:
                continue
            folder = Path(next(iter(spec.submodule_search_locations)))
            for path in _files(folder, lambda name: name in _SOURCES_NOT):
                inner = f"{name}/{path.relative_to(folder)}"
                if not any(
                    inner.startswith(left + "/") and path.name != "__init__.py" for left in _LEFT_OUT_DEPENDENCIES
                ):
                    archive.add(f"lib/{version}/site-packages/{inner}", path)
        return archive.part("python")


async def package_part() -> Part:
    """This checkout's package, as cgrace/."""
    return await asyncio.to_thread(_pack_package)


def _pack_package() -> Part:
    import cgrace

    base = Path(next(iter(cgrace.__path__)))
    with _Archive() as archive:
        archive.add("cgrace/__init__.py", base / "__init__.py")
        for name in _PACKAGE:
            folder = (base / name).resolve()
            for path in _files(folder, lambda name: name in _SOURCES_NOT):
                archive.add(f"cgrace/{name}/{path.relative_to(folder)}", path)
        archive.add_bytes("cgrace-0.dist-info/METADATA", _metadata())
        return archive.part("cgrace")


def _metadata() -> bytes:
    from importlib import metadata

    return f"Metadata-Version: 2.1\nName: cgrace\nVersion: {metadata.version('cgrace')}\n".encode()


class _Archive:
    """A tar in memory that is the same for the same content."""

    def __init__(self) -> None:
        self._out = io.BytesIO()
        self._tar = tarfile.open(fileobj=self._out, mode="w", format=tarfile.GNU_FORMAT)  # noqa: SIM115 - closed below
        self._seen: set[str] = set()

    def __enter__(self) -> _Archive:
        return self

    def __exit__(self, *_: object) -> None:
        self._tar.close()

    def add(self, name: str, path: Path, mode: int = 0o644) -> None:
        self.add_bytes(name, path.read_bytes(), mode)

    def add_bytes(self, name: str, content: bytes, mode: int = 0o644) -> None:
        if name in self._seen:
            return
        self._seen.add(name)
        info = tarfile.TarInfo(name)
        info.size, info.mode, info.mtime = len(content), mode, 1_600_000_000
        self._tar.addfile(info, io.BytesIO(content))

    def part(self, name: str) -> Part:
        self._tar.close()
        data = self._out.getvalue()
        key = hashlib.sha256(data).hexdigest()[:24]
        return Part(name=name, key=key, data=gzip.compress(data, compresslevel=_LEVEL, mtime=0))


def _files(folder: Path, leave_out: Callable[[str], bool]) -> Iterator[Path]:
    for base, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not leave_out(name))
        for name in sorted(names):
            path = Path(base, name)
            if not leave_out(name) and path.is_file():
                yield path


def _is_left_out(name: str) -> bool:
    return name.startswith(_LEFT_OUT_PREFIXES) or name.endswith((".a", ".pyc"))


async def _libraries(binaries: list[Path]) -> tuple[dict[str, Path], Path]:
    """What they are linked with, by name, and the loader, as ldd(1) tells."""
    done = await run(["ldd", *map(str, binaries)], env={"LC_ALL": "C"}, timeout_s=60)
    libraries: dict[str, Path] = {}
    loader: Path | None = None
    for line in done.text.splitlines():
        words = line.split()
        if len(words) >= 3 and words[1] == "=>" and words[2].startswith("/"):
            libraries[words[0]] = Path(words[2])
        elif words and words[0].startswith("/") and "/ld-" in words[0]:
            loader = Path(words[0])
    if loader is None:
        raise TargetError(
            "this Python cannot be taken along to another machine: ldd names no loader for it", detail=done.tail
        )
    return libraries, loader
