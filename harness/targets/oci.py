"""A machine as an OCI bundle: what runc, crun or podman is told, so that it boots what boot.py boots.

`container:bookworm@runc` asks for it; without a word cgrace boots by itself, which needs nothing and is faster. Everything else is
the same: the machine's cgroups, its layer, its mounts, its console, what it notifies (go/boot/bundle.go lays the bundle out).
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from cgrace.harness.errors import TargetError, UsageError
from cgrace.harness.proc.find import SYSTEM_FOLDERS, find_program
from cgrace.harness.targets import podman
from cgrace.harness.targets.roots_tree import Layers

RUNTIMES: Final = ("runc", "crun")
BOOTERS: Final = (*RUNTIMES, podman.PROGRAM)
BUNDLE: Final = "mnt/bundle"  # below a root's entry, as go/boot/bundle.go has it
VIEW: Final = "mnt/view"
ROOT: Final = "mnt/merged"
TERMINAL: Final = "mnt/terminals/0"  # the console, where the runtime does not make it
_SOCKET: Final = "terminal"  # in the bundle; its name in go/boot/keeper.go
_ID: Final = "machine"
OCI_VERSION: Final = "1.0.2"
# All that a machine's root has but what reaches the host through no namespace; by number in go/boot/main.go, dropCapabilities.
_WITHOUT: Final = "SYS_MODULE SYS_RAWIO SYS_TIME AUDIT_CONTROL SYSLOG WAKE_ALARM BLOCK_SUSPEND AUDIT_READ"
_CAPABILITIES: Final = (  # capability(7), by number
    "CHOWN DAC_OVERRIDE DAC_READ_SEARCH FOWNER FSETID KILL SETGID SETUID SETPCAP LINUX_IMMUTABLE NET_BIND_SERVICE NET_BROADCAST "
    "NET_ADMIN NET_RAW IPC_LOCK IPC_OWNER SYS_MODULE SYS_RAWIO SYS_CHROOT SYS_PTRACE SYS_PACCT SYS_ADMIN SYS_BOOT SYS_NICE "
    "SYS_RESOURCE SYS_TIME SYS_TTY_CONFIG MKNOD LEASE AUDIT_WRITE AUDIT_CONTROL SETFCAP MAC_OVERRIDE MAC_ADMIN SYSLOG WAKE_ALARM "
    "BLOCK_SUSPEND AUDIT_READ PERFMON BPF CHECKPOINT_RESTORE"
)
_GUARDED: Final = ("nosuid", "nodev", "noexec")
_NAMESPACES: Final = ("mount", "pid", "uts", "ipc", "network", "cgroup")
_READ_ONLY: Final = ("/proc/sys", "/proc/irq", "/proc/bus", "/proc/fs", "/proc/sysrq-trigger")


def split_runtime(place: str) -> tuple[str, str]:
    """("bookworm", "runc") of "bookworm@runc", and "" where no runtime is asked for. UsageError for one that there is not."""
    before, at, runtime = place.rpartition("@")
    if not at or "/" in runtime:
        return place, ""
    if runtime not in BOOTERS:
        if Path(place).exists():
            return place, ""
        known = ", ".join(f"container:{before}@{one}" for one in BOOTERS)
        raise UsageError(
            f"cgrace boots no container by {runtime!r:.40}",
            hint=f"one of: {known}; without a word it boots it itself",
        )
    return before, runtime


def find_runtime(name: str) -> str:
    """The program of a runtime, or podman's. TargetError where it is not installed, or what it takes."""
    found = find_program(name)
    lacking = podman.missing() if name == podman.PROGRAM else () if found else (name,)
    if found is None or lacking:
        raise TargetError(
            f"{', '.join(lacking)} {'are' if lacking[1:] else 'is'} not installed",
            hint=f"apt install {' '.join(lacking)}, or no @{name}: cgrace boots by itself then",
        )
    return str(Path(found).resolve())


def bundle(
    *,
    booted_by: tuple[str, str],
    folder: Path,
    helper: Path,
    name: str,
    run: str,
    tops: Sequence[str],
    entry: Path,
    over: Path | None,
    hostname: str,
    inits: Sequence[str],
    argv: Sequence[str],
    env: Sequence[str],
) -> dict[str, Any]:
    """The "bundle" of go/boot's configuration; arguments as that has them.

    booted_by: of BOOTERS, and its program. folder: a new one for what that keeps; helper: go/boot's program; name: the machine's;
    over: an install tree that is laid over the root.
    """
    layers = Layers(over, entry / "root")
    init = next((path for path in inits if (found := layers.find(path)) and os.access(found, os.X_OK)), None)
    if init is None:
        raise TargetError(f"the root has no systemd: none of {', '.join(inits)} is there")
    words = [init, *argv]
    by_podman = booted_by[0] == podman.PROGRAM
    process, mounts = _process(words, env), _mounts(entry)
    if by_podman:
        podman.write_settings(folder, [str(helper), "hook", f"{entry}/{BUNDLE}/config.json"])
        told = podman.commands(
            program=booted_by[1],
            folder=folder,
            name=name,
            hostname=hostname,
            root=f"{entry}/{ROOT}",
            argv=words,
            pid_file=f"{entry}/{BUNDLE}/pid",
        )
        process["terminal"] = False
        mounts.append(_mount("/dev/console", "bind", "bind", source=f"{entry}/{TERMINAL}"))
    else:
        told = _commands(*booted_by, folder, entry)
    return {
        **told,
        "terminal": process["terminal"],
        "run": run,
        "tops": list(tops),
        "spec": {
            "ociVersion": OCI_VERSION,
            "root": {"path": f"{entry}/{ROOT}"},
            "hostname": hostname,
            "process": process,
            "mounts": mounts,
            "linux": {
                "namespaces": [{"type": name} for name in _NAMESPACES],
                "cgroupsPath": f"/{run}",
                "resources": {"devices": [{"allow": True, "access": "rwm"}]},
                "readonlyPaths": list(_READ_ONLY),
                "rootfsPropagation": "private",
            },
        },
    }


def _commands(name: str, program: str, state: Path, entry: Path) -> dict[str, Any]:
    """What a runtime is told by runc's words (runc(8))."""
    below, pid_file = f"{entry}/{BUNDLE}", f"{entry}/{BUNDLE}/pid"
    create = ["create", "--bundle", below, "--console-socket", f"{below}/{_SOCKET}", "--pid-file", pid_file, _ID]
    before = [program, "--root", str(state)]
    return {
        "create": [{"name": f"{name} create", "words": [*before, *create]}],
        "start": {"name": f"{name} start", "words": [*before, "start", _ID]},
        "env": [f"PATH={SYSTEM_FOLDERS}"],
        "pid_file": pid_file,
        "private": [],
    }


def _process(words: Sequence[str], env: Sequence[str]) -> dict[str, Any]:
    had = _own_capabilities()
    names = enumerate(_CAPABILITIES.split())
    capabilities = [f"CAP_{name}" for number, name in names if had >> number & 1 and name not in _WITHOUT.split()]
    return {
        "terminal": True,
        "user": {"uid": 0, "gid": 0},
        "args": list(words),
        "env": list(env),
        "cwd": "/",
        "capabilities": dict.fromkeys(("bounding", "effective", "permitted"), capabilities),
        "noNewPrivileges": False,
    }


def _own_capabilities() -> int:
    """Those in our bounding set: nobody can give what they have not."""
    text = Path("/proc/self/status").read_text(encoding="ascii", errors="replace")
    return next(int(line.split()[1], 16) for line in text.splitlines() if line.startswith("CapBnd:"))


def _mounts(entry: Path) -> list[dict[str, Any]]:
    """As go/boot/mounts.go, mountMachine, has them."""
    return [
        _mount("/proc", "proc", *_GUARDED),
        _mount("/sys", "sysfs", *_GUARDED, "ro"),
        _mount("/dev", "tmpfs", "nosuid", "mode=755", "size=4m"),
        _mount("/dev/pts", "devpts", "nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=620", "gid=5"),
        _mount("/dev/shm", "tmpfs", "nosuid", "nodev", "mode=1777", "size=64m"),
        _mount("/run", "tmpfs", "nosuid", "nodev", "mode=755", "size=64m"),
        _mount("/run/host/notify", "bind", "bind", source=f"{entry}/{BUNDLE}/notify"),
        _mount("/sys/fs/cgroup", "bind", "rbind", *_GUARDED, source=f"{entry}/{VIEW}"),
    ]


def _mount(target: str, kind: str, *options: str, source: str = "") -> dict[str, Any]:
    return {"destination": target, "type": kind, "source": source or kind, "options": list(options)}
