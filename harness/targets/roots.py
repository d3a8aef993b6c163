"""Debian roots to boot: made once for each suite, kept by content, never written to afterwards.

`${XDG_CACHE_HOME:-~/.cache}/cgrace/roots/<suite>-<key>/{root/,mnt/,root.json}`: the root itself (the lower layer of an
overlay), an empty directory to mount on, and what is in it. The key is over everything that decides the content, so a change of
the recipe makes a new root. An entry appears by one rename. mmdebstrap does the work, in namespaces of its own, from the
archive that this machine's own apt is configured with.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import json
import os
import shutil
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from cgrace.harness.drivers.cache import cache_root, content_key
from cgrace.harness.errors import TargetError
from cgrace.harness.proc.run import run

NOTE_FILE: Final = "root.json"
FORMAT: Final = 1  # of an entry; a change makes every root new
BUILD_S_MAX: Final = 1800.0
VARIANT: Final = "essential"
PACKAGES: Final = ("dbus", "systemd", "systemd-sysv")
# What is known to work, and what systemd that is. Others are tried as they are.
SUITES: Final = {"bullseye": "247", "bookworm": "252", "trixie": "257"}
# A suite that is no longer maintained has a Release file past its date; its signature is checked all the same.
APT_OPTIONS: Final = ('Acquire::Check-Valid-Until "false"',)
_NEVER: Final = "usr/share/doc usr/share/man usr/share/locale usr/share/info"
# Nothing of this machine stays in the root, and systemd takes it for updated: it would rebuild caches at each boot else.
_HOOKS: Final = (
    'rm -f "$1/etc/hostname" "$1/etc/resolv.conf" "$1/etc/machine-id"; : > "$1/etc/machine-id"',
    'touch "$1/etc/.updated" "$1/var/.updated"',
)
_FREE_BYTES_MIN: Final = 600_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Root:
    """A root that can be booted. folder: has root/ and mnt/; suite: its name; note: what root.json says."""

    suite: str
    folder: Path
    note: dict[str, Any]


def roots_folder() -> Path:
    """Where roots are kept."""
    return cache_root() / "roots"


def look_up(suite: str) -> Root | None:
    """The root, if it is built. Anything that is not a whole entry does not count."""
    folder = _entry_folder(suite)
    try:
        note = json.loads((folder / NOTE_FILE).read_bytes())
    except (OSError, ValueError):
        return None
    if not isinstance(note, dict) or not (folder / "root").is_dir() or not (folder / "mnt").is_dir():
        return None
    return Root(suite=suite, folder=folder, note=note)


async def build_root(suite: str, *, progress: Callable[[str], None] = lambda _: None) -> Root:
    """The root of a suite, built unless it is already; TargetError with the builder's own lines where it cannot be.

    Two that want the same root at once: the second waits for the first. Offline once built.
    """
    if (root := look_up(suite)) is not None:
        return root
    _check(suite)
    async with _turn(suite, progress):
        if (root := look_up(suite)) is not None:
            return root
        progress(f"building a root with {suite}'s systemd (once, some 15 s)")
        with _workshop() as workshop:
            (workshop / "entry/mnt").mkdir(parents=True)
            await _debootstrap(suite, workshop / "entry")
            return _into_place(suite, workshop / "entry")


def _entry_folder(suite: str) -> Path:
    parts = [str(FORMAT), suite, VARIANT, *PACKAGES, *APT_OPTIONS, _NEVER, *_HOOKS]
    return roots_folder() / f"{suite}-{content_key([(part, b'') for part in parts])}"


def _check(suite: str) -> None:
    if not suite.replace("-", "").isalnum() or suite.startswith("-"):
        raise TargetError(f"{suite!r:.80} is no name of a Debian suite", hint=f"known: {', '.join(SUITES)}")
    if os.geteuid() != 0:
        raise TargetError("building a root takes root (device files, owners)", hint="sudo cgrace ...")
    if shutil.which("mmdebstrap") is None:
        raise TargetError(
            f"a root with {suite}'s systemd has to be built once, and mmdebstrap is not installed",
            hint="apt install mmdebstrap",
        )


@contextlib.asynccontextmanager
async def _turn(suite: str, progress: Callable[[str], None]) -> AsyncIterator[None]:
    """Our turn to build this suite: one cgrace at a time. The kernel lets the lock go with its holder."""
    try:
        roots_folder().mkdir(parents=True, exist_ok=True)
        lock = os.open(roots_folder() / f".{suite}.lock", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise TargetError(f"{roots_folder()} cannot be written: {error.strerror}", hint="set XDG_CACHE_HOME") from None
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            progress(f"another cgrace builds {suite}'s root; waiting for it")
            await asyncio.to_thread(fcntl.flock, lock, fcntl.LOCK_EX)
        yield
    finally:
        os.close(lock)


@contextlib.contextmanager
def _workshop() -> Iterator[Path]:
    """A folder on the cache's file system, gone afterwards; those of killed builds are removed first."""
    base = roots_folder()
    for left in base.glob(".work-*"):
        with contextlib.suppress(OSError):
            holder = os.open(left, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                fcntl.flock(holder, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(left, ignore_errors=True)
            finally:
                os.close(holder)
    free = shutil.disk_usage(base).free
    if free < _FREE_BYTES_MIN:
        raise TargetError(
            f"a root needs {_FREE_BYTES_MIN // 1_000_000} MB in {base}, and {free // 1_000_000} MB are free",
            hint="free some, or set XDG_CACHE_HOME",
        )
    folder = Path(tempfile.mkdtemp(prefix=".work-", dir=base))
    holder = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(holder, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(holder)


async def _debootstrap(suite: str, entry: Path) -> None:
    words = ["mmdebstrap", "--quiet", f"--variant={VARIANT}", f"--include={','.join(PACKAGES)}"]
    words += [f"--aptopt={option}" for option in APT_OPTIONS]
    words += [f"--dpkgopt=path-exclude=/{path}/*" for path in _NEVER.split()]
    words += [f"--customize-hook={hook}" for hook in _HOOKS]
    words += [suite, str(entry / "root"), *await _archives()]
    # mmdebstrap puts scratch files into TMPDIR; in the workshop they go with it.
    done = await run(words, env={"TMPDIR": str(entry.parent), "LC_ALL": "C.UTF-8"}, timeout_s=BUILD_S_MAX)
    if not done.ok:
        raise TargetError(
            f"the root of {suite} cannot be built: mmdebstrap {done.how}", hint=done.command_line, detail=done.tail
        )


async def _archives() -> Sequence[str]:
    """The Debian archive that this machine's apt uses (deb-src, security and updates aside), else none: mmdebstrap's own choice."""
    asked = ["apt-get", "indextargets", "--format", "$(ORIGIN)|$(LABEL)|$(REPO_URI)", "Created-By: Packages"]
    done = await run(asked, env={"LC_ALL": "C.UTF-8"}, timeout_s=60)
    rows = [line.split("|") for line in done.text.splitlines()]
    return [row[2] for row in rows if len(row) == 3 and row[:2] == ["Debian", "Debian"]][:1]


def _into_place(suite: str, entry: Path) -> Root:
    """Note what it is, then let it appear whole."""
    packages = {}
    status = (entry / "root/var/lib/dpkg/status").read_text(encoding="utf-8", errors="replace")
    for block in status.split("\n\n"):
        fields = dict(line.split(": ", 1) for line in block.splitlines() if ": " in line and line[0] != " ")
        if fields.get("Package") in PACKAGES:
            packages[fields["Package"]] = fields.get("Version", "")
    if "systemd" not in packages:
        raise TargetError(f"the root of {suite} was built without systemd")
    note = {"suite": suite, "packages": packages}
    (entry / NOTE_FILE).write_text(json.dumps(note, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    folder = _entry_folder(suite)
    if folder.exists():  # something incomplete, or `look_up` would have found it; nobody uses it
        shutil.rmtree(folder, ignore_errors=True)
    try:
        entry.rename(folder)
    except OSError as error:
        raise TargetError(f"{folder} cannot be written: {error.strerror}", hint="set XDG_CACHE_HOME") from None
    return Root(suite=suite, folder=folder, note=note)
