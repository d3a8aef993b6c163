"""Built binaries by content: `${XDG_CACHE_HOME:-~/.cache}/cgrace/builds/<name>-<key>/{<name>,build.json}`.

An entry appears by one rename, whole or not at all, so two cgrace may build the same thing at once and a killed build
leaves nothing that counts as built. Its workshop, in `work` beside `builds`, is locked while it lives; a dead one is swept
by the next build.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import platform
import shutil
import tempfile
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cgrace.harness.errors import DriverError

NOTE_FILE = "build.json"
FORMAT = 1  # of an entry; a change makes every key new
_FAILED = "failed"  # marks a workshop that was left for a person to look at
_SWEEP_AGE_S = 3600.0  # younger workshops may not be locked yet, or hold a failure that a person looks at


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """Something that is built. note: what build.json says."""

    binary: Path
    key: str
    note: dict[str, Any]


def cache_root() -> Path:
    """Where cgrace keeps what can be made again."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    if base and Path(base).is_absolute():
        return Path(base) / "cgrace"
    try:
        return Path.home() / ".cache" / "cgrace"
    except RuntimeError:
        raise DriverError("there is no home directory to keep built drivers in", hint="set XDG_CACHE_HOME") from None


def content_key(parts: Iterable[tuple[str, bytes]]) -> str:
    """24 hex digits over named contents, this machine's architecture and the cache's format."""
    digest = hashlib.sha256(f"{FORMAT} {platform.machine()}".encode())
    for name, content in parts:
        head = f"\0{name}\0{len(content)}\0".encode()
        digest.update(head)
        digest.update(content)
    return digest.hexdigest()[:24]


def source_files(folder: Path) -> list[tuple[str, bytes]]:
    """The Go program in a folder: (relative name, content), sorted; DriverError when it cannot be read."""
    try:
        names = sorted(
            path
            for path in folder.rglob("*")
            if path.is_file() and (path.suffix in (".go", ".s") or path.name in ("go.mod", "go.sum"))
        )
        return [(str(path.relative_to(folder)), path.read_bytes()) for path in names]
    except OSError as error:
        raise DriverError(f"the Go sources in {folder} cannot be read: {error.strerror}") from None


def entry_folder(name: str, key: str) -> Path:
    """Where the entry is, or would be."""
    return cache_root() / "builds" / f"{name}-{key}"


def look_up(name: str, key: str) -> Entry | None:
    """The entry, if it is built. Anything that is not a whole entry does not count."""
    folder = entry_folder(name, key)
    try:
        note = json.loads((folder / NOTE_FILE).read_bytes())
    except (OSError, ValueError):
        return None
    binary = folder / name
    if not isinstance(note, dict) or not os.access(binary, os.X_OK):
        return None
    return Entry(binary=binary, key=key, note=note)


def look_up_any(name: str, prefix: str) -> Entry | None:
    """The newest entry whose key begins so: a fallback where the rest of the key cannot be known."""
    folders = sorted((cache_root() / "builds").glob(f"{name}-{prefix}*"), key=lambda p: p.stat().st_mtime, reverse=True)
    found = (look_up(name, folder.name.removeprefix(f"{name}-")) for folder in folders)
    return next((entry for entry in found if entry is not None), None)


def store(name: str, key: str, binary: Path, note: dict[str, Any]) -> Entry:
    """Make the entry from a binary in a workshop. Whoever was first wins; both are the same by content."""
    folder = entry_folder(name, key)
    whole = binary.parent / f"{name}-{key}.entry"
    try:
        whole.mkdir()
        binary.chmod(0o755)
        binary.rename(whole / name)
        (whole / NOTE_FILE).write_text(json.dumps(note, indent=1, sort_keys=True) + "\n", encoding="utf-8")
        folder.parent.mkdir(parents=True, exist_ok=True)
        _into_place(whole, folder, name, key)
    except OSError as error:
        raise DriverError(f"{folder} cannot be written: {error.strerror}", hint="set XDG_CACHE_HOME") from None
    entry = look_up(name, key)
    if entry is None:
        raise DriverError(f"{folder} vanished while it was made", hint="run it again")
    return entry


def _into_place(whole: Path, folder: Path, name: str, key: str) -> None:
    try:
        whole.rename(folder)
    except OSError:
        if look_up(name, key) is not None:
            return
        # Something incomplete is in the way: nobody uses it, for it does not count as built.
        shutil.rmtree(folder, ignore_errors=True)
        whole.rename(folder)


def _reason(error: OSError) -> str:
    """In a few words; what copies a whole folder has a list of them."""
    if isinstance(error, shutil.Error) and error.args and isinstance(error.args[0], list):
        first = str(error.args[0][0][-1])
        return first.partition("] ")[2].partition(":")[0] or first
    return error.strerror or str(error)


@contextlib.contextmanager
def workshop() -> Iterator[Path]:
    """A locked folder to build in, on the cache's own file system; gone afterwards. Only what the last DriverError tells of is left
    for a while, so that its command can be run again."""
    base = cache_root() / "work"
    try:
        base.mkdir(parents=True, exist_ok=True)
        _sweep(base)
        folder = Path(tempfile.mkdtemp(dir=base))
    except OSError as error:
        raise DriverError(f"{base} cannot be written: {error.strerror}", hint="set XDG_CACHE_HOME") from None
    lock = os.open(folder / "lock", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield folder
    except DriverError:
        for other in base.glob(f"*/{_FAILED}"):
            shutil.rmtree(other.parent, ignore_errors=True)
        with contextlib.suppress(OSError):
            (folder / _FAILED).touch()
        raise
    except OSError as error:
        shutil.rmtree(folder, ignore_errors=True)
        raise DriverError(
            f"nothing can be built in {base}: {_reason(error)}", hint="free some space, or set XDG_CACHE_HOME"
        ) from None
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    else:
        shutil.rmtree(folder, ignore_errors=True)
    finally:
        os.close(lock)


def _sweep(base: Path) -> None:
    """Remove the workshops of builds that died."""
    for folder in base.iterdir():
        with contextlib.suppress(OSError):
            if time.time() - folder.stat().st_mtime < _SWEEP_AGE_S:
                continue
            lock = os.open(folder / "lock", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(folder, ignore_errors=True)
            finally:
                os.close(lock)
