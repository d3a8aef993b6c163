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
import marshal
import os
import subprocess
import sys
import sysconfig
import tarfile
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import IO, Final

from cgrace.harness.drivers.cache import cache_root
from cgrace.harness.errors import TargetError
from cgrace.harness.proc.find import find_program
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
            "xmlrpc",
            "wsgiref",
            "turtle.py",
        ),
        *("__pycache__", "site-packages", "dist-packages"),
    )
)
_LEFT_OUT_PREFIXES: Final = (
    *("config-", "_tkinter", "_test", "_ctypes_test", "_xxtestfuzz", "xxlimited", "nis.", "_sqlite3", "readline."),
    *("_curses", "_dbm", "_gdbm", "_ssl", "_hashlib", "ossaudiodev", "audioop", "_crypt"),
    *("_codecs_", "cjkencodings", "_elementtree", "_lsprof", "_zoneinfo"),
)
# What parts of ours import from elsewhere (pyproject.toml); the worker needs nothing of the tests.
_DEPENDENCIES: Final = ("rich", "markdown_it", "mdurl", "pygments")
_LEFT_OUT_DEPENDENCIES: Final = ("pygments/lexers/", "pygments/styles/")
_FORMAT: Final = 2
_KEPT: Final = 4  # older archives of each part
_PACKAGE: Final = ("harness", "fakes", "reports", "scenarios")
_UNCHECKED_HASH: Final = 1
_LEVEL: Final = 6  # of compression: made once, and sent again and again
_STRIP: Final = "strip"  # binutils; symbols are two thirds of a Python that was built at home
_ELF: Final = b"\x7fELF"
_SOURCES_NOT: Final = frozenset(("__pycache__", "node_modules"))
_START: Final = """#!/bin/sh
here=$(CDPATH= cd -P -- "$(dirname -- "$0")/.." && pwd -P)
export PYTHONDONTWRITEBYTECODE=1 PYTHONNOUSERSITE=1
exec "$here/lib/{loader}" --library-path "$here/lib" --argv0 "$here/bin/python" "$here/bin/python-real" "$@"
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """An archive to unpack below a folder there. key: of its content; file: a compressed tar in the cache."""

    name: str
    key: str
    file: Path


@dataclass(frozen=True, slots=True)
class _Member:
    """name: in the archive; source: the file, or its content."""

    name: str
    source: Path | bytes
    mode: int = 0o644


async def interpreter_part() -> Part:
    """bin/python and what it takes; TargetError where this Python cannot be taken along."""
    real, stdlib, extensions = _binaries()
    libraries, loader = await _libraries([real, *extensions])
    return await asyncio.to_thread(lambda: _part("python", list(_interpreter(real, stdlib, libraries, loader))))


async def package_part() -> Part:
    """This checkout's package, as cgrace/."""
    return await asyncio.to_thread(lambda: _part("cgrace", list(_package())))


def parts_folder() -> Path:
    """Where archives are kept."""
    return cache_root() / "parts"


def _binaries() -> tuple[Path, Path, list[Path]]:
    """This interpreter, its standard library and the extension modules that go along."""
    real = Path(getattr(sys, "_base_executable", sys.executable)).resolve()
    stdlib = Path(sysconfig.get_paths()["stdlib"])
    extensions = sorted((stdlib / "lib-dynload").glob("*.so"))
    return real, stdlib, [one for one in extensions if not _is_left_out(one.name)]


def _interpreter(real: Path, stdlib: Path, libraries: Mapping[str, Path], loader: Path) -> Iterator[_Member]:
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    yield _Member("bin/python-real", real, 0o755)
    yield _Member("bin/python", _START.format(loader=loader.name).encode(), 0o755)
    yield _Member(f"lib/{loader.name}", loader, 0o755)
    for name, path in sorted(libraries.items()):
        yield _Member(f"lib/{name}", path, 0o755)
    for path in _files(stdlib, lambda name: name in _LEFT_OUT or _is_left_out(name)):
        yield _Member(f"lib/{version}/{path.relative_to(stdlib)}", path)
    for name in _DEPENDENCIES:
        spec = importlib.util.find_spec(name)
        if spec is None or not spec.submodule_search_locations:
            continue
        folder = Path(next(iter(spec.submodule_search_locations)))
        for path in _files(folder, lambda name: name in _SOURCES_NOT):
            inner = f"{name}/{path.relative_to(folder)}"
            if path.name == "__init__.py" or not inner.startswith(_LEFT_OUT_DEPENDENCIES):
                yield _Member(f"lib/{version}/site-packages/{inner}", path)


def _package() -> Iterator[_Member]:
    import cgrace

    base = Path(next(iter(cgrace.__path__)))
    yield _Member("cgrace/__init__.py", base / "__init__.py")
    for name in _PACKAGE:
        folder = (base / name).resolve()
        for path in _files(folder, lambda name: name in _SOURCES_NOT):
            yield _Member(f"cgrace/{name}/{path.relative_to(folder)}", path)
    about = f"Metadata-Version: 2.1\nName: cgrace\nVersion: {metadata.version('cgrace')}\n"
    yield _Member("cgrace-0.dist-info/METADATA", about.encode())


def _part(name: str, members: Sequence[_Member]) -> Part:
    """The archive of these, made unless it is there: what files are is told by path, size and time, as make(1) does."""
    said = [sys.version, str(_FORMAT), str(find_program(_STRIP) is not None)]
    for member in members:
        if isinstance(member.source, bytes):
            said.append(f"{member.name} {member.source!r}")
        else:
            info = member.source.stat()
            said.append(f"{member.name} {member.source} {info.st_size} {info.st_mtime_ns}")
    key = hashlib.sha256("\n".join(said).encode()).hexdigest()[:24]
    file = parts_folder() / f"{name}-{key}.tgz"
    if not file.exists():
        file.parent.mkdir(parents=True, exist_ok=True)
        for old in sorted(file.parent.glob(f"{name}-*.tgz"), key=lambda path: path.stat().st_mtime)[:-_KEPT]:
            old.unlink(missing_ok=True)
        handle, made = tempfile.mkstemp(dir=file.parent, prefix=".new-")
        try:
            with os.fdopen(handle, "wb") as out:
                _write(members, out)
            Path(made).rename(file)
        finally:
            Path(made).unlink(missing_ok=True)
    return Part(name=name, key=key, file=file)


def _write(members: Sequence[_Member], out: IO[bytes]) -> None:
    """A compressed tar, with the byte code of every source: an emulated processor compiles for half a minute."""
    with (
        tempfile.TemporaryDirectory() as scratch,
        gzip.GzipFile(fileobj=out, mode="wb", compresslevel=_LEVEL, mtime=0, filename="") as packed,
        tarfile.open(fileobj=packed, mode="w", format=tarfile.GNU_FORMAT) as tar,
    ):
        seen: set[str] = set()

        def add(name: str, content: bytes, mode: int) -> None:
            info = tarfile.TarInfo(name)
            info.size, info.mode, info.mtime = len(content), mode, 1_600_000_000
            tar.addfile(info, io.BytesIO(content))

        for member in members:
            if member.name in seen:
                continue
            seen.add(member.name)
            content = (
                member.source if isinstance(member.source, bytes) else _content(member.source, Path(scratch, "elf"))
            )
            add(member.name, content, member.mode)
            is_source = isinstance(member.source, Path) and member.source.suffix == ".py"
            if is_source and (compiled := _compile(content, member.name)) is not None:
                place = Path(member.name)
                add(f"{place.parent}/__pycache__/{place.stem}.{sys.implementation.cache_tag}.pyc", compiled, 0o644)


def _content(source: Path, scratch: Path) -> bytes:
    """The file's content; a program's or library's without the symbols that only debuggers read, where strip(1) is there."""
    content = source.read_bytes()
    if not content.startswith(_ELF) or find_program(_STRIP) is None:
        return content
    words = [_STRIP, "--strip-unneeded", "-o", str(scratch), str(source)]
    done = subprocess.run(words, capture_output=True, check=False)
    return scratch.read_bytes() if done.returncode == 0 else content


def _compile(content: bytes, name: str) -> bytes | None:
    """Its byte code, which holds whatever the source's time is (PEP 552: unchecked, by hash); None where it is no Python
    (templates among the library)."""
    try:
        code = compile(content, name, "exec", dont_inherit=True)
    except (SyntaxError, ValueError):
        return None
    flags = _UNCHECKED_HASH.to_bytes(4, "little")
    return importlib.util.MAGIC_NUMBER + flags + importlib.util.source_hash(content) + marshal.dumps(code)


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
