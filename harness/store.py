"""Where runs live: one folder a run, below ${XDG_STATE_HOME:-~/.local/state}/cgrace/runs.

    runs/20180309T101500Z-1/            made by this file, and marked so: only marked folders are ever pruned
        cgrace-run                      the mark
        <case>.jsonl                    a trace, written by the engine while the case runs
        results.json                    what the run came to (reports/machine.py), written after the traces
    runs/last -> 20180309T101500Z-1     the newest one

Bounded: the newest RUNS_MAX runs, at most BYTES_MAX bytes and none older than AGE_S_MAX are kept; the newest one always. Of a run
only what cgrace wrote is removed: a folder into which somebody put a file of his own stays, with that file. Names come from
scenarios and units, which may be hostile: `file_name` admits no separator, no leading dot and no length that a file system refuses.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cgrace.harness.errors import CgraceError, UsageError
from cgrace.harness.whole import write_whole

RUNS_MAX = 20
BYTES_MAX = 2 * 1024**3
AGE_S_MAX = 90 * 24 * 3600
RESULTS_BYTES_MAX = 256 * 1024**2
TRIES_MAX = 1000  # names tried for one second's runs
NAME_BYTES_MAX = 120
MARK = "cgrace-run"
RESULTS = "results.json"
LAST = "last"
_STAMP = "%Y%m%dT%H%M%SZ"
_RUN_NAME = re.compile(r"^[0-9]{8}T[0-9]{6}Z-[0-9]{1,4}$")


@dataclass(frozen=True, slots=True)
class StoredRun:
    """One run's folder."""

    folder: Path

    def trace(self, case_id: str, turn: int = 0) -> Path:
        """Where the trace of a case lies; `turn` counts repetitions from 0."""
        return self.folder / file_name(f"{case_id}#{turn + 1}" if turn else case_id, ".jsonl")

    def kept(self, trace: str) -> Path:
        """The file in this run's folder that results.json names as a trace, whatever folder that was written in.

        A CgraceError where it would lead out of the folder: results may come from a stranger.
        """
        path = self.folder / Path(trace).name
        if Path(trace).name in ("", "..") or path.is_symlink():
            raise CgraceError(
                f"the results name a trace outside of the run: {trace!r:.200}", file=self.folder / RESULTS
            )
        return path

    def save(self, results: dict[str, Any]) -> Path:
        """Write results.json whole or not at all."""
        path = self.folder / RESULTS
        _replace(path, json.dumps(results, indent=1) + "\n")
        return path

    def results(self) -> dict[str, Any]:
        """What `save` wrote; a CgraceError where the run has none or it cannot be read."""
        path = self.folder / RESULTS
        try:
            if path.stat().st_size > RESULTS_BYTES_MAX:
                raise CgraceError("larger than any results that cgrace writes", file=path)
            data = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise CgraceError("this run did not come to its end: it has no results", file=path) from None
        except (OSError, ValueError, RecursionError) as error:
            raise CgraceError(f"the results cannot be read: {error}", file=path) from None
        if not isinstance(data, dict):
            raise CgraceError("these are not results that cgrace wrote", file=path)
        return data


def runs_home() -> Path:
    """Where runs are kept unless the user says otherwise (the XDG base directory rules: state)."""
    state = os.environ.get("XDG_STATE_HOME", "")
    base = Path(state) if state.startswith("/") else Path.home() / ".local" / "state"
    return base / "cgrace" / "runs"


def is_run_name(text: str) -> bool:
    """Whether this is what `new_run` calls a folder."""
    return _RUN_NAME.match(text) is not None


def file_name(text: str, suffix: str = "") -> str:
    """A file name for any text: readable, one component, and different for different texts."""
    plain = re.sub(r"[^A-Za-z0-9._:@-]+", "-", text).lstrip(".-")
    if plain and plain == text and len(plain) + len(suffix) <= NAME_BYTES_MAX:
        return plain + suffix
    digest = hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()[:8]
    return f"{plain[: NAME_BYTES_MAX - len(suffix) - 9].rstrip('-.') or 'case'}-{digest}{suffix}"


def new_run(home: Path | None = None) -> StoredRun:
    """A fresh folder, which `last` then names; older runs beyond the bounds are removed first."""
    home = home or runs_home()
    try:
        home.mkdir(parents=True, exist_ok=True)
        prune(home)
        stamp = time.strftime(_STAMP, time.gmtime())
        for number in range(1, TRIES_MAX):
            folder = home / f"{stamp}-{number}"
            with contextlib.suppress(FileExistsError):
                folder.mkdir()
                (folder / MARK).touch()
                _point_last(home, folder.name)
                return StoredRun(folder)
    except OSError as error:
        raise CgraceError(f"runs cannot be stored: {error}", hint="--store DIR", file=home) from None
    raise CgraceError(f"more than {TRIES_MAX} runs in one second", hint="--store DIR", file=home)


def last_run(home: Path | None = None) -> StoredRun:
    """The newest run; UsageError when there is none."""
    home = home or runs_home()
    folder = home / LAST
    try:
        name = folder.readlink().name
    except OSError:
        name = max((path.name for path in _ours(home)), default="")
    if not name or not (home / name / MARK).is_file():
        raise UsageError(f"no run is stored in {home}", hint="cgrace reproduce 1780")
    return StoredRun(home / name)


def prune(
    home: Path,
    *,
    runs_max: int = RUNS_MAX,
    bytes_max: int = BYTES_MAX,
    age_s_max: int = AGE_S_MAX,
    now_s: float | None = None,
) -> int:
    """Remove our oldest runs until all bounds hold, leaving room for one more; gives how many went.

    Only folders with our name and our mark count or go; a run that another process still writes is the newest, so it stays.
    now_s: seconds since 1970, by default now.
    """
    kept, size, gone = 0, 0, 0
    oldest = time.strftime(_STAMP, time.gmtime((time.time() if now_s is None else now_s) - age_s_max))
    for folder in sorted(_ours(home), key=_order, reverse=True):
        size += _size(folder)
        fits = size <= bytes_max and folder.name.partition("-")[0] >= oldest
        if kept + 1 < runs_max and (fits or kept == 0):
            kept += 1
        else:
            _remove(folder)
            gone += 1
    return gone


def _size(folder: Path) -> int:
    """Bytes of a run; files that go while it is looked at count nothing."""
    size = 0
    with contextlib.suppress(OSError):
        for path in folder.iterdir():
            with contextlib.suppress(OSError):
                size += path.lstat().st_size
    return size


def _remove(folder: Path) -> None:
    """Remove what we wrote, and the folder if that was all. What is left is no run any more, so that it is never touched again."""
    with contextlib.suppress(OSError):
        files = [path for path in folder.iterdir() if path.is_file() and not path.is_symlink()]
        traces = {path.stem for path in files if path.suffix == ".jsonl"}
        for path in files:
            results = path.name == RESULTS or path.name.startswith(f".{RESULTS}-")
            if results or (path.suffix in (".jsonl", ".html") and path.stem in traces):
                path.unlink()
        (folder / MARK).unlink()
        folder.rmdir()


def _order(folder: Path) -> tuple[str, int]:
    stamp, _, number = folder.name.partition("-")
    return stamp, int(number)


def _ours(home: Path) -> list[Path]:
    try:
        found = list(home.iterdir())
    except OSError:
        return []
    return [p for p in found if _RUN_NAME.match(p.name) and not p.is_symlink() and (p / MARK).is_file()]


def _point_last(home: Path, name: str) -> None:
    """Point `last` at the run by a rename, so that it is never missing; nothing of somebody else's is replaced."""
    link = home / LAST
    if link.exists() and not link.is_symlink():
        return
    fresh = home / f".{LAST}-{os.getpid()}"
    fresh.symlink_to(name)
    fresh.replace(link)


def _replace(path: Path, text: str) -> None:
    try:
        write_whole(path, text)
    except OSError as error:
        raise CgraceError(f"the results cannot be written: {error}", hint="--store DIR", file=path) from None
