"""A machine that is reached by ssh, for tests: a booted container in which an sshd of this machine serves one connection.

The container is no part of what is tested: to the code under test it is a host that its user's own ssh configuration names. What a
kernel or an sshd of ten years ago lacks is taken away from the session by a filter of system calls (lacking.py) and by sshd's
own options. sshd: CGRACE_TEST_SSHD, else the installed one.
"""

from __future__ import annotations

import contextlib
import functools
import os
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from cgrace.harness.proc.find import find_program
from cgrace.harness.targets import roots
from cgrace.harness.targets.container import ContainerTarget

SUITE = next((suite for suite in ("bookworm", "trixie", "bullseye") if roots.look_up(suite)), "")
SSHD = os.environ.get("CGRACE_TEST_SSHD") or find_program("sshd") or ""
HOST = "old.example"
# Of Linux after 3.10 (RHEL 7): what such a kernel answers with ENOSYS. (Without getrandom an sshd of today does not start.)
NEWER = (
    *("pidfd_open", "pidfd_send_signal", "pidfd_getfd", "fsopen", "fsconfig", "fsmount", "move_mount", "open_tree"),
    *("openat2", "statx", "close_range", "clone3", "memfd_create", "seccomp", "copy_file_range"),
    *("execveat", "renameat2", "bpf", "faccessat2", "epoll_pwait2", "rseq", "membarrier", "userfaultfd", "preadv2"),
)
OLD_SSHD = ("AllowStreamLocalForwarding no", "AllowTcpForwarding no")
_HERE = Path(__file__).parent

needs_sshd = pytest.mark.skipif(
    os.geteuid() != 0 or not SUITE or not SSHD,
    reason="takes root, a built root (tests do not download one) and an sshd (CGRACE_TEST_SSHD)",
)


@dataclass(frozen=True, slots=True)
class Place:
    """machine: what ssh leads to; folder: ours, with keys and the user's configuration; path: PATH with the user's ssh in it."""

    machine: ContainerTarget
    folder: Path
    path: str

    @property
    def root(self) -> Path:
        """The machine's root directory."""
        return Path(f"/proc/{self.machine.init_pid}/root")


@contextlib.asynccontextmanager
async def reached(
    folder: Path, *, layout: str = "v1", lacking: Sequence[str] = (), sshd: Sequence[str] = (), suite: str = SUITE
) -> AsyncIterator[Place]:
    """A booted machine that `ssh HOST` reaches, with a ssh in PATH that reads our configuration in place of the user's.

    lacking: system calls that the session does not have, "cgroup-namespaces" for those; sshd: more lines of its configuration.
    """
    async with ContainerTarget.open(suite, layout=layout) as machine:
        place = Place(machine, folder, f"{folder}/bin:{os.environ['PATH']}")
        _install(place.root)
        _keys(folder, place.root)
        _configure(place, lacking, sshd)
        yield place


@contextlib.contextmanager
def as_user(place: Place, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """With this place's ssh."""
    with monkeypatch.context() as patch:
        patch.setenv("PATH", place.path)
        yield


def _install(root: Path) -> None:
    """sshd with its libraries; it is run there from /opt/sshd."""
    there = root / "opt/sshd"
    there.mkdir(parents=True)
    for path in _closure():
        shutil.copy(path, there / path.name)
    with (root / "etc/passwd").open("a") as file:
        file.write("sshd:x:64999:65534::/run/sshd:/usr/sbin/nologin\n")
    (root / "run/sshd").mkdir(exist_ok=True, mode=0o755)


@functools.cache
def _closure() -> tuple[Path, ...]:
    beside = Path(SSHD).parent.parent / "lib"
    extra = ":".join(str(path.parent) for path in [*beside.glob("**/*.so*")][:1])
    env = {**os.environ, "LD_LIBRARY_PATH": ":".join(filter(None, (extra, *map(str, beside.glob("*-linux-gnu")))))}
    listed = subprocess.run(["ldd", SSHD], env=env, capture_output=True, text=True, check=True).stdout
    found = [Path(SSHD)]
    for line in listed.splitlines():
        words = line.split()
        if "=>" in words:
            found.append(Path(words[2]))
        elif words and "/ld-" in words[0]:
            found.append(Path(words[0]))
    return tuple(found)


def _keys(folder: Path, root: Path) -> None:
    for name in ("id", "host"):
        subprocess.run(
            ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "test", "-f", str(folder / name)], check=True
        )
    (folder / "known_hosts").write_text(f"{HOST} {(folder / 'host.pub').read_text()}")
    (root / "root/.ssh").mkdir(mode=0o700, exist_ok=True)
    (root / "root/.ssh/authorized_keys").write_text((folder / "id.pub").read_text())
    shutil.copy(folder / "host", root / "opt/sshd/host")
    (root / "opt/sshd/host").chmod(0o600)


def _configure(place: Place, lacking: Sequence[str], sshd: Sequence[str]) -> None:
    lines = ("HostKey /opt/sshd/host", "UsePAM no", "UseDNS no", "PermitRootLogin prohibit-password", *sshd)
    (place.root / "opt/sshd/config").write_text("".join(f"{line}\n" for line in lines))
    loader = next(path.name for path in _closure() if path.name.startswith("ld-"))
    server = f"/opt/sshd/{loader} --library-path /opt/sshd /opt/sshd/sshd -i -e -f /opt/sshd/config"
    enter = "for file in /sys/fs/cgroup/*/cgroup.procs; do [ -d /sys/fs/cgroup/init.scope ] || echo 0 > $file; done"
    v2 = "if [ -d /sys/fs/cgroup/init.scope ]; then mkdir -p /sys/fs/cgroup/sshd; echo 0 > /sys/fs/cgroup/sshd/cgroup.procs; fi"
    connect = place.folder / "connect"
    connect.write_text(
        "#!/bin/sh\n"
        f"exec {sys.executable} {_HERE / 'lacking.py'} {','.join(lacking) or '-'} "
        f"nsenter --target {place.machine.init_pid} --mount --pid --uts --ipc --cgroup -- "
        f"/bin/sh -c '{enter}; {v2}; exec {server} 2>/dev/null'\n"
    )
    connect.chmod(0o700)
    (place.folder / "config").write_text(
        f"Host {HOST}\n  User root\n  ProxyCommand {connect}\n  IdentityFile {place.folder}/id\n  IdentitiesOnly yes\n"
        f"  IdentityAgent none\n  UserKnownHostsFile {place.folder}/known_hosts\n  StrictHostKeyChecking yes\n  LogLevel ERROR\n"
    )
    (place.folder / "bin").mkdir()
    client = place.folder / "bin/ssh"
    client.write_text(f'#!/bin/sh\nexec {shutil.which("ssh")} -F {place.folder}/config "$@"\n')
    client.chmod(0o700)
