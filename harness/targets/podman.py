"""What podman is told, so that it has an OCI runtime boot what cgrace boots by itself: `container:bookworm@podman`.

Its storage, its locks and all else that it keeps are in the machine's own runtime folder, so nobody's own podman is touched, nor
its settings read. Its container has the machine's name. It is called by the keeper (go/boot/keeper.go), in whose namespaces
conmon stays, too, and with which all of it ends. What podman has no word for (cgroups of ours, mounts as the machine's) is put
into its configuration by a hook of the stage `precreate` (oci-hooks(5)).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from cgrace.harness.errors import TargetError
from cgrace.harness.proc.find import SYSTEM_FOLDERS, find_program

PROGRAM: Final = "podman"
LABEL: Final = "cgrace"  # of every container of ours; its value is the machine's name
# podman 5 locks a file there, whatever it is told (containers/common, libnetwork/netavark/const.go); only root may.
PRIVATE: Final = ("/run/lock",)


def find_runtimes() -> tuple[str, ...]:
    """The runtimes that podman could use here, as it would choose (containers.conf(5), `runtime`)."""
    return tuple(str(Path(found).resolve()) for name in ("crun", "runc") if (found := find_program(name)))


def missing() -> tuple[str, ...]:
    """What is not installed of what it takes, by the packages' names."""
    lacking = [name for name in (PROGRAM, "conmon") if find_program(name) is None]
    return (*lacking, *([] if find_runtimes() else ["crun"]))


def settings(folder: Path) -> dict[str, str]:
    """The files that podman reads, by path below `folder`; the rest is its defaults (containers.conf(5), storage.conf(5))."""
    engine = {"cgroup_manager": "cgroupfs", "events_logger": "none", "lock_type": "file"}
    engine_lines = [f"{name} = {json.dumps(value)}" for name, value in engine.items()]
    network = f"network_config_dir = {json.dumps(str(folder / 'networks'))}"
    storage = {"driver": "vfs", "graphroot": str(folder / "storage"), "runroot": str(folder / "run")}
    storage_lines = [f"{name} = {json.dumps(value)}" for name, value in storage.items()]
    return {
        "containers.conf": "\n".join(["[engine]", *engine_lines, "[network]", network, ""]),
        "storage.conf": "\n".join(["[storage]", *storage_lines, ""]),
    }


def write_settings(folder: Path, hook: Sequence[str]) -> None:
    """Make the folder, with the settings and the hook: a program with its arguments. Blocks for a moment."""
    (folder / "hooks").mkdir(parents=True)
    (folder / "tmp").mkdir()
    for name, text in settings(folder).items():
        (folder / name).write_text(text, encoding="utf-8")
    told = {
        "version": "1.0.0",
        "hook": {"path": hook[0], "args": list(hook)},
        "when": {"always": True},
        "stages": ["precreate"],
    }
    (folder / "hooks" / "machine.json").write_text(json.dumps(told), encoding="utf-8")


def commands(
    *, program: str, folder: Path, name: str, hostname: str, root: str, argv: Sequence[str], pid_file: str
) -> dict[str, Any]:
    """The "create", "start", "env", "pid_file" and "private" of a bundle (go/boot/bundle.go)."""
    runtimes = find_runtimes()
    if not runtimes:
        raise TargetError("podman has no runtime here: neither crun nor runc is installed", hint="apt install crun")
    before = [program, "--root", str(folder / "storage"), "--runroot", str(folder / "run")]
    before += ["--tmpdir", str(folder / "libpod"), "--hooks-dir", str(folder / "hooks")]
    before += ["--runtime", runtimes[0], "--runtime-flag", f"root={folder / 'oci'}"]
    create = ["create", "--rootfs", "--name", name, "--label", f"{LABEL}={name}", "--hostname", hostname]
    create += ["--network", "none", "--no-hosts", "--cgroups", "no-conmon", "--cgroup-parent", "/"]
    create += ["--log-driver", "passthrough", "--systemd", "false", "--security-opt", "seccomp=unconfined"]
    create += ["--pidfile", pid_file, root, *argv]
    return {
        "create": [_command("create", [*before, *create]), _command("init", [*before, "init", name])],
        "start": _command("start", [*before, "start", name]),
        "env": [
            f"PATH={SYSTEM_FOLDERS}",
            f"HOME={folder}",
            f"XDG_RUNTIME_DIR={folder / 'tmp'}",
            f"TMPDIR={folder / 'tmp'}",
            f"CONTAINERS_CONF={folder / 'containers.conf'}",
            f"CONTAINERS_STORAGE_CONF={folder / 'storage.conf'}",
            "PODMAN_IGNORE_CGROUPSV1_WARNING=1",
        ],
        "pid_file": pid_file,
        "private": list(PRIVATE),
    }


def _command(word: str, words: Sequence[str]) -> dict[str, Any]:
    return {"name": f"{PROGRAM} {word}", "words": list(words)}
