"""Targets `container` and `fake` for a user who is not root: cgrace goes into a user namespace, and is root of that.

Once, before anything else: it has itself moved into a scope that the user's systemd delegates (as `systemd-run --user --scope -p
Delegate=yes` does), and becomes `unshare`, which maps the user's subordinate ids (subuid(5)), and then cgrace again. Inside nothing
is otherwise than for root: cgroups are below the scope, mounts and namespaces are its own. What takes the real root is not to be
had there: cgroup v1 and the kernel's tracefs. With its last process the scope ends, and all of it.

    python -m cgrace.harness.targets.rootless WORDS...      the step inside, which ends by becoming `cgrace WORDS...`
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final, NoReturn

from cgrace.harness.errors import TargetError
from cgrace.harness.proc.find import find_program
from cgrace.harness.targets import layout, owner, user
from cgrace.harness.targets.linux import mount_detached

ENTERED: Final = layout.ENTERED
LEAF: Final = "cgrace.itself"  # a cgroup with processes gives its children no controllers
MODULE: Final = "cgrace.harness.targets.rootless"
COMMAND: Final = "cgrace.harness.cli"
RANGES: Final = ("/etc/subuid", "/etc/subgid")
NAMESPACES: Final = ("--user", "--map-root-user", "--map-auto", "--cgroup", "--mount", "--propagation", "private")


def is_command() -> bool:
    """Whether this process is the cgrace command, which may become another; not a test, nor somebody's program."""
    return Path(sys.argv[0]).name in ("cgrace", "cli.py")


def why_not() -> str:
    """Why this user cannot have them, "" where it may be tried."""
    if os.environ.get(ENTERED):
        return "already in a user namespace"
    if why := user.why_not():
        return why
    for program, package in (("unshare", "util-linux"), ("newuidmap", "uidmap")):
        if find_program(program) is None:
            return f"{program} is not installed (apt install {package})"
    if not all(_has_range(Path(file)) for file in RANGES):
        return "the user has no subordinate ids (usermod --add-subuids 100000-165535 --add-subgids 100000-165535 USER)"
    return ""


def _has_range(file: Path) -> bool:
    """Whether the user has ids of that kind; by name or by number (subuid(5))."""
    try:
        rows = [line.split(":") for line in file.read_text(encoding="utf-8", errors="replace").splitlines()]
    except OSError:
        return False
    return any(len(row) == 3 and row[0] in (str(os.getuid()), _name()) for row in rows)


def _name() -> str:
    import pwd

    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return ""


def enter(words: Sequence[str]) -> NoReturn:
    """Become `cgrace WORDS...` in a user namespace. TargetError where the user's systemd gives no scope."""
    asyncio.run(user.delegate(user.bus_of(), f"run-{owner.own_name()}.scope", os.getpid()))
    os.environ[ENTERED] = "1"
    program = find_program("unshare")
    assert program is not None
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os.execv(program, [program, *NAMESPACES, sys.executable, "-m", MODULE, *words])


def settle() -> None:
    """Leave the root of what was delegated, and hand its controllers down."""
    mount = mount_detached("cgroup2")
    root = Path(f"/proc/self/fd/{mount}")
    (root / LEAF).mkdir(exist_ok=True)
    (root / LEAF / "cgroup.procs").write_text("0")
    for controller in (root / "cgroup.controllers").read_text(encoding="ascii").split():
        with contextlib.suppress(OSError):
            (root / "cgroup.subtree_control").write_text(f"+{controller}")
    os.close(mount)


def _main(words: Sequence[str]) -> NoReturn:
    try:
        settle()
    except (OSError, TargetError) as error:
        sys.exit(f"cgrace: the scope that the user's systemd delegated cannot be used: {error}")
    os.execv(sys.executable, [sys.executable, "-m", COMMAND, *words])


if __name__ == "__main__":
    _main(sys.argv[1:])
