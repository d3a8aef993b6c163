"""Install trees to lay over a root: what a developer of systemd has just built (`DESTDIR=DIR ninja install`).

Neither the root nor the tree is written to or copied: they are layers of the machine's overlay (go/boot). A tree for a /usr that is
not merged, as Debian's packages were until trixie (lib/systemd/systemd), would hide a merged root's link lib -> usr/lib; what is
below such a directory is put to where the link leads. What the programs need is looked up before anything is booted, as the dynamic
loader will (ld.so(8)), for a systemd that cannot be started says so on a console that nobody reads.
"""

from __future__ import annotations

import errno
import os
import re
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cgrace.harness.errors import TargetError
from cgrace.harness.targets.elf import Elf, read_elf

INITS: Final = ("usr/lib/systemd/systemd", "lib/systemd/systemd")
MERGED: Final = ("bin", "sbin", "lib", "lib64")  # of a merged /usr: links to usr/bin and so on (hier(7))
# The programs without which nothing can be asked, where they are there: PID 1, what it starts units with (255), the bus.
_PROGRAMS: Final = (
    *INITS,
    "usr/lib/systemd/systemd-executor",
    "lib/systemd/systemd-executor",
    "usr/bin/dbus-daemon",
    "usr/bin/dbus-broker",
)
_LOADER_PATHS: Final = ("/lib64", "/usr/lib64", "/lib", "/usr/lib")
_LINKS_MAX: Final = 40
# Debian's packages are called after the soname (Debian policy, 8.1), a few are not.
_PACKAGES: Final = {
    "libpam.so.0": "libpam0g",
    "libcrypto.so.3": "libssl3",
    "libssl.so.3": "libssl3",
    "libgcc_s.so.1": "libgcc-s1",
    "libstdc++.so.6": "libstdc++6",
    "libgpg-error.so.0": "libgpg-error0",
    "liblz4.so.1": "liblz4-1",
}
_SHOWN_MAX: Final = 6
_SAYS_VERSION: Final = re.compile(rb"systemd (2[0-9]{2}[0-9a-z.~+-]*) running in")
_SHARED: Final = re.compile(r"libsystemd-shared-(\d.*)\.so")


@dataclass(frozen=True, slots=True, kw_only=True)
class Tree:
    """An install tree that fits a root. folder: where it is; version: of its systemd, as far as it can be told without starting it;
    inits: where its systemd will be on the machine, the first that is there."""

    folder: Path
    version: str
    inits: tuple[str, ...]


class Layers:
    """A root with a tree laid over it, as the machine will see it. Paths are absolute there; links mean what they mean there."""

    def __init__(self, tree: Path | None, root: Path) -> None:
        self._root = root
        self._tree = tree
        # merged directories of the root that the tree has for itself: go/boot puts what is in them to where the link leads
        self.moved = {
            name: str((root / name).readlink()).strip("/")
            for name in MERGED
            if tree is not None and _is_folder(tree / name) and (root / name).is_symlink()
        }

    def _places(self, path: str) -> Iterator[Path]:
        """Where a path may be, the uppermost first; no part of it but the last is a link."""
        if self._tree is not None:
            for name, target in self.moved.items():
                if path == target or path.startswith(f"{target}/"):
                    yield self._tree / (name + path.removeprefix(target))
            if path.partition("/")[0] not in self.moved:
                yield self._tree / path
        yield self._root / path

    def find(self, path: str) -> Path | None:
        """The file or directory that a path leads to; None for none."""
        left = [part for part in reversed(path.split("/")) if part]
        here: list[str] = []
        links = 0
        found: Path | None = self._root
        while left:
            part = left.pop()
            if part in (".", ".."):
                here = here[:-1] if part == ".." else here
                continue
            found = next((one for one in self._places("/".join([*here, part])) if os.path.lexists(one)), None)
            if found is None:
                return None
            if not found.is_symlink():
                here.append(part)
                continue
            links += 1
            if links > _LINKS_MAX:
                return None
            target = str(found.readlink())
            here = [] if target.startswith("/") else here
            left += [one for one in reversed(target.split("/")) if one]
            found = self._root
        return found if found is not self._root else self._last(here)

    def _last(self, here: Sequence[str]) -> Path | None:
        return next((one for one in self._places("/".join(here)) if one.exists()), None)

    def library_paths(self) -> list[str]:
        """Where libraries are looked for: /etc/ld.so.conf and what it includes, and the loader's own (ldconfig is run at boot)."""
        paths: list[str] = []
        folder = self.find("/etc/ld.so.conf.d")
        names = sorted(one.name for one in folder.iterdir()) if folder is not None and folder.is_dir() else []
        for name in ["ld.so.conf", *(f"ld.so.conf.d/{one}" for one in names if one.endswith(".conf"))]:
            file = self.find(f"/etc/{name}")
            if file is not None and file.is_file():
                text = file.read_text(encoding="utf-8", errors="replace")
                paths += [line.strip() for line in text.splitlines() if line.strip().startswith("/")]
        return [*paths, *_LOADER_PATHS]


def install_tree(text: str, root: Path, below: str = "the root") -> Tree:
    """The install tree, which can be laid over that root; TargetError where that would give no systemd that starts.

    below: what the root is called.
    """
    folder = Path(text).expanduser().absolute()
    try:
        has = [name for name in INITS if (folder / name).is_file()]
        if not has:
            raise TargetError(
                f"{text!r:.200} is no install tree with a systemd: it has no usr/lib/systemd/systemd",
                hint=f"DESTDIR={text:.200} ninja install, in systemd's build folder",
            )
        if not any(os.access(folder / name, os.X_OK) for name in has):
            raise TargetError(
                f"the systemd in {text} cannot start: its {has[0]} may not be executed",
                hint="chmod +x, or install it again",
            )
        _check_layout(text, folder, root, below)
        layers = Layers(folder, root)
        wrong = list(what_is_missing(layers, below))
    except OSError as error:
        raise TargetError(f"{text} cannot be read: {error.strerror}") from None
    if wrong:
        raise _cannot_start(text, below, wrong)
    return Tree(folder=folder, version=systemd_version(folder), inits=tuple(f"/{name}" for name in has))


def _check_layout(text: str, folder: Path, root: Path, below: str) -> None:
    """TargetError for a tree that hides what is in the root, or that the root's own units would stay apart from."""
    for name in MERGED:
        if _is_folder(root / name) and (folder / name).is_symlink():
            raise _split(text, below, name)
    if _is_folder(root / "lib") and not (folder / "lib/systemd").is_dir():
        raise _split(text, below, "lib")


def _split(text: str, below: str, name: str) -> TargetError:
    return TargetError(
        f"{text} is for a merged /usr, and {below} has a /{name} of its own beside /usr/{name}",
        hint="lay it over bookworm or newer, or over a root of your own with a merged /usr: container:ROOT+DIR",
    )


def _is_folder(path: Path) -> bool:
    return path.is_dir() and not path.is_symlink()


def systemd_version(root: Path) -> str:
    """The version of the systemd in a root or an install tree, "" where it cannot be told."""
    for base in ("usr/lib", "usr/lib64", "lib", "lib64"):
        if (root / base).is_symlink():
            continue
        for found in sorted((root / base).glob("**/systemd/libsystemd-shared-*.so")):
            if (match := _SHARED.fullmatch(found.name)) is not None:
                return match[1]
    for name in INITS:
        binary = root / name
        if binary.is_file() and (said := _SAYS_VERSION.search(binary.read_bytes())) is not None:
            return said[1].decode()
    return ""


# ---- what its programs need


@dataclass(frozen=True, slots=True)
class Missing:
    """A library, or a version of its symbols, that is not there. wanted_by: the file's name."""

    library: str
    version: str
    wanted_by: str


def what_is_missing(layers: Layers, below: str) -> Iterator[Missing]:
    """What systemd and the bus need and the layers lack, each once. TargetError for programs of another machine."""
    seen: set[tuple[str, str]] = set()
    for program in _PROGRAMS:
        file = layers.find(f"/{program}")
        if file is None:
            continue
        for one in _of_program(layers, f"/{program}", file, below):
            if (one.library, one.version) not in seen:
                seen.add((one.library, one.version))
                yield one


def _of_program(layers: Layers, program: str, file: Path, below: str) -> Iterator[Missing]:
    """Breadth first, as the loader does: a library that is loaded already is taken for everybody who wants it."""
    top = _elf(file)
    if top is None:
        return  # a script, or a file that only a test would put there
    own = _elf(layers.find("/bin/sh") or Path())
    if own is not None and (own.machine, own.bits) != (top.machine, top.bits):
        raise TargetError(
            f"{file} is built for another processor than {below} (ELF machine {top.machine}, not {own.machine})",
            hint="build it for this machine",
        )
    common = layers.library_paths()
    loaded: dict[str, Elf | None] = {}
    waiting: list[tuple[str, Elf]] = [(program, top)]
    for place, one in waiting:
        for soname, required in [*((name, True) for name in one.needed), *_opened(layers, place, one, common)]:
            if soname not in loaded:
                found = _find_library(layers, soname, place, one, common)
                loaded[soname] = _elf(found[1]) if found is not None else None
                if found is not None and (library := loaded[soname]) is not None:
                    waiting.append((found[0], library))
            if loaded[soname] is None and required:
                yield Missing(soname, "", place)
        for soname, versions in one.wants.items():
            library = loaded.get(soname)
            if library is not None and library.gives:
                yield from (Missing(soname, each, place) for each in versions if each not in library.gives)


def _opened(layers: Layers, place: str, one: Elf, common: list[str]) -> Iterator[tuple[str, bool]]:
    """Of what it opens by itself and cannot do without: the one that is there, else the first."""
    for choices in one.opens:
        there = [name for name in choices if _find_library(layers, name, place, one, common) is not None]
        yield from ((name, True) for name in (there or list(choices))[:1])


def _find_library(layers: Layers, soname: str, place: str, wanting: Elf, common: list[str]) -> tuple[str, Path] | None:
    """Its path on the machine and the file; one that is for another processor is passed by."""
    origin = place.rpartition("/")[0]
    for folder in [*(re.sub(r"\$ORIGIN|\$\{ORIGIN\}", origin, path) for path in wanting.paths), *common]:
        found = layers.find(f"{folder}/{soname}")
        elf = _elf(found) if found is not None else None
        if found is not None and elf is not None and (elf.machine, elf.bits) == (wanting.machine, wanting.bits):
            return f"{folder}/{soname}", found
    return None


def _elf(path: Path) -> Elf | None:
    try:
        info = path.stat()
        return read_elf(path.read_bytes()) if stat.S_ISREG(info.st_mode) else None
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENOTDIR):
            return None
        raise


def _cannot_start(text: str, below: str, wrong: Sequence[Missing]) -> TargetError:
    lines = [
        f"{one.wanted_by} needs {f'{one.version} of ' if one.version else ''}{one.library}"
        for one in wrong[:_SHOWN_MAX]
    ]
    if len(wrong) > _SHOWN_MAX:
        lines.append(f"and {len(wrong) - _SHOWN_MAX} more")
    detail = "\n".join(lines)
    if old := [one for one in wrong if one.version]:  # what no package of that suite mends
        return TargetError(
            f"the systemd in {text} cannot start over {below}: {old[0].library} is too old there, it lacks {old[0].version}",
            hint="build it on that suite, or lay it over a newer one: container:trixie+DIR, container:sid+DIR",
            detail=detail,
        )
    packages = ",".join(dict.fromkeys(package_of(one.library) for one in wrong))
    return TargetError(
        f"the systemd in {text} cannot start over {below}, which lacks {', '.join(dict.fromkeys(one.library for one in wrong))}",
        hint=f"build it without, or over a root of your own that has it: mmdebstrap --variant=essential "
        f"--include=systemd-sysv,dbus,{packages} SUITE ROOT, then container:ROOT+DIR",
        detail=detail,
    )


def package_of(soname: str) -> str:
    """The Debian package that is most likely to have a library."""
    if soname in _PACKAGES:
        return _PACKAGES[soname]
    name, _, number = soname.partition(".so.")
    dash = "-" if name[-1:].isdigit() and number else ""
    return f"{name}{dash}{number}".lower().replace("_", "-")
