"""A machine that is reached by ssh, for tests: a booted container in which an sshd of this machine serves one connection.

The container is no part of what is tested: to the code under test it is a host that its user's own ssh configuration names. What a
kernel or an sshd of ten years ago lacks is taken away from the session by a filter of system calls (lacking.py) and by sshd's
own options. sshd: CGRACE_TEST_SSHD, else the installed one.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from cgrace.harness.proc.find import find_program
from cgrace.harness.targets import roots
from cgrace.harness.targets.container import ContainerTarget

SUITE = next((suite for suite in ("bookworm", "trixie", "bullseye") if roots.look_up(suite)), "")
SSHD = os.environ.get("CGRACE_TEST_SSHD") or find_program("sshd") or ""
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


ROOT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True, slots=True)
class Done:
    """A command of cgrace's that ended."""

    status: int
    text: str
    said: str

    @property
    def all(self) -> str:
        """What it wrote, on one line: the console folds lines."""
        return " ".join(f"{self.text} {self.said}".split())


@dataclass(frozen=True, slots=True)
class Place:
    """A booted machine. init_pid: its PID 1 as we see it; folder: ours, with keys and the ssh configuration of a user who calls it
    by the names that `name` gave it."""

    init_pid: int
    folder: Path

    @property
    def root(self) -> Path:
        """Its root directory."""
        return Path(f"/proc/{self.init_pid}/root")

    def name(self, host: str, *, lacking: Sequence[str] = (), sshd: Sequence[str] = (), config: str = "") -> str:
        """Call the machine so from now on. lacking: system calls that sessions there do not have, "cgroup-namespaces" for those;
        sshd: more lines of its configuration; config: more lines of the user's."""
        lines = ("HostKey /opt/sshd/host", "UsePAM no", "UseDNS no", "PermitRootLogin prohibit-password", *sshd)
        (self.root / f"opt/sshd/{host}").write_text("".join(f"{line}\n" for line in lines))
        loader = next(path.name for path in _closure() if path.name.startswith("ld-"))
        program = f"/opt/sshd/{loader} --library-path /opt/sshd /opt/sshd/sshd"
        server = f"{program} -i -e -f /opt/sshd/{host}"
        installed = self.root / "usr/sbin/sshd"  # for who asks it what it allows
        installed.write_text(f'#!/bin/sh\nexec {program} -f /opt/sshd/{host} "$@"\n')
        installed.chmod(0o755)
        v1 = "for file in /sys/fs/cgroup/*/cgroup.procs; do [ -d /sys/fs/cgroup/init.scope ] || echo 0 > $file; done"
        home = "/sys/fs/cgroup/sshd"
        v2 = f"if [ -d /sys/fs/cgroup/init.scope ]; then mkdir -p {home}; echo 0 > {home}/cgroup.procs; fi"
        connect = self.folder / f"connect-{host}"
        connect.write_text(
            "#!/bin/sh\n"
            f"exec {sys.executable} {_HERE / 'lacking.py'} {','.join(lacking) or '-'} "
            f"nsenter --target {self.init_pid} --mount --pid --uts --ipc --cgroup -- "
            f"/bin/sh -c '{v1}; {v2}; exec {server} 2>/dev/null'\n"
        )
        connect.chmod(0o700)
        with (self.folder / "config").open("a") as file:
            file.write(
                f"Host {host}\n  HostKeyAlias machine\n{config}  User root\n  ProxyCommand {connect}\n"
                f"  IdentityFile {self.folder}/id\n  IdentitiesOnly yes\n  IdentityAgent none\n"
                f"  UserKnownHostsFile {self.folder}/known_hosts\n  StrictHostKeyChecking yes\n  LogLevel ERROR\n"
            )
        return host

    @property
    def environment(self) -> Mapping[str, str]:
        """That of the user."""
        return environment_of(self.folder)

    def start(self, *words: str) -> subprocess.Popen[str]:
        """Start cgrace as this user."""
        return start_of(self.folder, *words)

    def cgrace(self, *words: str) -> Done:
        """Run cgrace as this user, to its end."""
        return cgrace_of(self.folder, *words)

    def left(self) -> list[str]:
        """What of cgrace is there, but for what the image itself has: cgroups, folders, processes."""
        found = [
            str(path)
            for place in ("var/tmp", "run", "opt", "root", "tmp")
            for path in (self.root / place).glob("cgrace-*")
        ]
        found += [str(path) for path in self.cgroups() if path.name != "cgrace.target"]
        for path in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                same = (path / "ns/pid").readlink() == Path(f"/proc/{self.init_pid}/ns/pid").readlink()
                if same and b"cgrace-" in (path / "cmdline").read_bytes():
                    found.append((path / "cmdline").read_bytes().replace(b"\0", b" ").decode()[:80])
        return found

    def cgroups(self) -> Iterator[Path]:
        """The cgroups that bear our prefix."""
        for path, folders, _ in os.walk(self.root / "sys/fs/cgroup"):
            yield from (Path(path, name) for name in folders if name.startswith("cgrace"))


def environment_of(folder: Path) -> Mapping[str, str]:
    """With a ssh in PATH that reads the folder's configuration in place of the user's, and a store of our own."""
    return {**os.environ, "PATH": f"{folder}/bin:{os.environ['PATH']}", "XDG_STATE_HOME": f"{folder}/state"}


def start_of(folder: Path, *words: str) -> subprocess.Popen[str]:
    """Start cgrace as the user whose ssh is in that folder."""
    argv = [sys.executable, "-m", "cgrace.harness.cli", *words]
    pipe = subprocess.PIPE
    return subprocess.Popen(argv, env=environment_of(folder), cwd=ROOT, stdout=pipe, stderr=pipe, text=True)


def cgrace_of(folder: Path, *words: str) -> Done:
    """The same, to its end."""
    return ended(start_of(folder, *words))


def ended(process: subprocess.Popen[str]) -> Done:
    """Wait for its end."""
    text, said = process.communicate(timeout=1200)  # an emulated machine on a busy one
    return Done(process.returncode, text, said)


@contextlib.contextmanager
def booted(folder: Path, layout: str = "v1") -> Iterator[Place]:
    """A machine in a process of its own, which ends it when its stdin does."""
    argv = [sys.executable, str(Path(__file__)), SUITE, layout]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None and process.stdout is not None
        try:
            place = Place(int(process.stdout.readline()), folder)
            _install(place.root)
            _keys(folder, place.root)
            (folder / "bin").mkdir()
            client = folder / "bin/ssh"
            client.write_text(f'#!/bin/sh\nexec {shutil.which("ssh")} -F {folder}/config "$@"\n')
            client.chmod(0o700)
            yield place
        finally:
            process.stdin.close()
            process.wait(30)


def _install(root: Path) -> None:
    """sshd with its libraries; it is run there from /opt/sshd."""
    there = root / "opt/sshd"
    there.mkdir(parents=True)
    for path in _closure():
        shutil.copy(path, there / path.name)
    with (root / "etc/passwd").open("a") as file:
        file.write("sshd:x:64999:65534::/run/sshd:/usr/sbin/nologin\nguest:x:64998:65534::/home/guest:/bin/sh\n")
    (root / "run/sshd").mkdir(exist_ok=True, mode=0o755)


@functools.cache
def _closure() -> tuple[Path, ...]:
    beside = Path(SSHD).parent.parent / "lib"
    env = {**os.environ, "LD_LIBRARY_PATH": ":".join(map(str, beside.glob("*-linux-gnu")))}
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
        words = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "test", "-f", str(folder / name)]
        subprocess.run(words, check=True)
    (folder / "known_hosts").write_text(f"machine {(folder / 'host.pub').read_text()}")
    for home in ("root", "home/guest"):
        (root / home / ".ssh").mkdir(mode=0o755, exist_ok=True, parents=True)
        (root / home / ".ssh/authorized_keys").write_text((folder / "id.pub").read_text())
    shutil.copy(folder / "host", root / "opt/sshd/host")
    (root / "opt/sshd/host").chmod(0o600)


async def _hold(suite: str, layout: str) -> None:
    async with ContainerTarget.open(suite, layout=layout) as machine:
        print(json.dumps(machine.init_pid), flush=True)
        await asyncio.to_thread(sys.stdin.read)


if __name__ == "__main__":
    asyncio.run(_hold(*sys.argv[1:3]))
