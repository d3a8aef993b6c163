"""What building a root for a container and an image for a virtual machine have in common: turns, workshops, mmdebstrap.

Both are kept by content in a folder of the cache. An entry appears by one rename; one cgrace at a time builds it, in a workshop on
the cache's own file system, and those of killed builds are removed by the next.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import json
import os
import re
import shutil
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

from cgrace.harness.errors import TargetError
from cgrace.harness.proc.run import run

BUILD_S_MAX: Final = 1800.0
# What is known to work, and what systemd that is. Others are tried as they are.
SUITES: Final = {"bullseye": "247", "bookworm": "252", "trixie": "257", "forky": "262", "sid": "262"}
# A suite that is no longer maintained has a Release file past its date; its signature is checked all the same.
APT_OPTIONS: Final = ('Acquire::Check-Valid-Until "false"',)
EPOCH: Final = "1600000000"  # of files that the build itself makes: the same twice
NEVER: Final = "usr/share/doc usr/share/man usr/share/locale usr/share/info"
# However we end, what mmdebstrap started ends too, and with it every mount: those are in a namespace of its own.
_ENDS_WITH_US: Final = (
    *("setpriv", "--pdeathsig", "KILL"),
    *("unshare", "--mount", "--pid", "--fork", "--kill-child=KILL", "--mount-proc"),
)
_STAGE: Final = re.compile(r"I: (running apt-get|downloading|extracting|installing|cleaning) ")
# Nothing of this machine stays in the root, and systemd takes it for updated: it would rebuild caches at each boot else.
HOOKS: Final = (
    'rm -f "$1/etc/hostname" "$1/etc/resolv.conf" "$1/etc/machine-id"; : > "$1/etc/machine-id"',
    'touch "$1/etc/.updated" "$1/var/.updated"',
)


def check_can_build(suite: str, what: str) -> None:
    """TargetError where this machine cannot build it, before anything is begun."""
    if not suite.replace("-", "").isalnum() or suite.startswith("-"):
        raise TargetError(f"{suite!r:.80} is no name of a Debian suite", hint=f"known: {', '.join(SUITES)}")
    if os.geteuid() != 0:
        raise TargetError(f"building {what} takes root (device files, owners)", hint="sudo cgrace ...")
    if shutil.which("mmdebstrap") is None:
        raise TargetError(
            f"{what} with {suite}'s systemd has to be built once, and mmdebstrap is not installed",
            hint="apt install mmdebstrap",
        )


@contextlib.asynccontextmanager
async def turn(base: Path, name: str, progress: Callable[[str], None]) -> AsyncIterator[None]:
    """Our turn to build `name` in `base`: one cgrace at a time. The kernel lets the lock go with its holder."""
    try:
        base.mkdir(parents=True, exist_ok=True)  # noqa: ASYNC240 - one system call
        lock = os.open(base / f".{name}.lock", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise TargetError(f"{base} cannot be written: {error.strerror}", hint="set XDG_CACHE_HOME") from None
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            progress(f"another cgrace builds {name}; waiting for it")
            await asyncio.to_thread(fcntl.flock, lock, fcntl.LOCK_EX)
        yield
    finally:
        os.close(lock)


@contextlib.contextmanager
def workshop(base: Path, free_bytes_min: int) -> Iterator[Path]:
    """A folder on the cache's file system, gone afterwards; those of killed builds are removed first."""
    for left in base.glob(".work-*"):
        with contextlib.suppress(OSError):
            holder = os.open(left, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                fcntl.flock(holder, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(left, ignore_errors=True)
            finally:
                os.close(holder)
    free = shutil.disk_usage(base).free
    if free < free_bytes_min:
        raise TargetError(
            f"the build needs {free_bytes_min // 1_000_000} MB in {base}, and {free // 1_000_000} MB are free",
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


async def mmdebstrap(
    suite: str,
    to: Path,
    *,
    packages: Sequence[str],
    hooks: Sequence[str],
    variant: str = "essential",
    progress: Callable[[str], None] = lambda _: None,
) -> None:
    """Make a root in the folder `to`, in a workshop; TargetError with mmdebstrap's own lines where it cannot be."""
    words = [*_ENDS_WITH_US, "mmdebstrap", f"--variant={variant}", f"--include={','.join(packages)}"]
    words += [f"--aptopt={option}" for option in APT_OPTIONS]
    words += [f"--dpkgopt=path-exclude=/{path}/*" for path in NEVER.split()]
    words += [f"--customize-hook={hook}" for hook in hooks]
    words += [suite, str(to), *await archives()]
    # mmdebstrap puts scratch files into TMPDIR; in the workshop they go with it.
    done = await run(
        words,
        env={"TMPDIR": str(to.parent.parent), "LC_ALL": "C.UTF-8", "SOURCE_DATE_EPOCH": EPOCH},
        timeout_s=BUILD_S_MAX,
        on_line=lambda line: progress(f"{suite}: {line.removeprefix('I: ')}") if _STAGE.match(line) else None,
    )
    if not done.ok:
        known = suite in SUITES
        raise TargetError(
            f"the root of {suite} cannot be built: mmdebstrap {done.how}",
            hint=done.command_line if known else f"a suite that is known: {', '.join(SUITES)}",
            detail=done.tail,
        )


async def archives() -> Sequence[str]:
    """The Debian archive that this machine's apt uses (deb-src, security and updates aside), else none: mmdebstrap's own choice."""
    asked = ["apt-get", "indextargets", "--format", "$(ORIGIN)|$(LABEL)|$(REPO_URI)", "Created-By: Packages"]
    done = await run(asked, env={"LC_ALL": "C.UTF-8"}, timeout_s=60)
    rows = [line.split("|") for line in done.text.splitlines()]
    return [row[2] for row in rows if len(row) == 3 and row[:2] == ["Debian", "Debian"]][:1]


def into_place(entry: Path, folder: Path) -> None:
    """Let a whole entry appear."""
    if folder.exists():  # something incomplete, or it would have been found; nobody uses it
        shutil.rmtree(folder, ignore_errors=True)
    try:
        entry.rename(folder)
    except OSError as error:
        raise TargetError(f"{folder} cannot be written: {error.strerror}", hint="set XDG_CACHE_HOME") from None


def read_note(path: Path) -> dict[str, Any] | None:
    """What an entry's note says; None where there is none."""
    try:
        note = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return None
    return note if isinstance(note, dict) else None


def write_note(path: Path, note: dict[str, Any]) -> None:
    """Say what an entry is."""
    path.write_text(json.dumps(note, indent=1, sort_keys=True) + "\n", encoding="utf-8")


def package_versions(root: Path, wanted: Sequence[str]) -> dict[str, str]:
    """The versions of packages that are installed in a root."""
    packages = {}
    status = (root / "var/lib/dpkg/status").read_text(encoding="utf-8", errors="replace")
    for block in status.split("\n\n"):
        fields = dict(line.split(": ", 1) for line in block.splitlines() if ": " in line and line[0] != " ")
        if fields.get("Package") in wanted:
            packages[fields["Package"]] = fields.get("Version", "")
    return packages
