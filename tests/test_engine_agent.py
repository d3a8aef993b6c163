"""What is told to a container's systemd on v1 in the kernel's stead."""

from __future__ import annotations

import os
import socket
from pathlib import Path

from cgrace.harness.engine.agent import ReleaseAgent
from cgrace.harness.targets.base import Hierarchy


def cgroup(root: Path, path: str, *pids: int) -> None:
    """A directory as cgroupfs shows it."""
    (root / path).mkdir(parents=True, exist_ok=True)
    (root / path / "cgroup.procs").write_text("".join(f"{pid}\n" for pid in pids), encoding="ascii")


def hierarchy(root: Path, name: str = "systemd") -> Hierarchy:
    """One of a machine's."""
    return Hierarchy(name=name, controllers=(), root=root, inner=f"/sys/fs/cgroup/{name}")


def told(tmp_path: Path, *scopes: str, name: str = "systemd", has_agent: bool = False) -> list[str]:
    """The paths that an agent's socket got."""
    root = tmp_path / "cgroup"
    root.mkdir(exist_ok=True)
    if has_agent:
        (root / "release_agent").write_text("/agent\n", encoding="ascii")
    agent = ReleaseAgent(os.getpid(), [hierarchy(root, name)])
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        path = tmp_path / "agent"
        path.unlink(missing_ok=True)
        sock.bind(str(path))
        sock.setblocking(False)
        agent._socket = str(path)
        agent.process_ended(scopes)
        said = []
        while True:
            try:
                said.append(sock.recv(4096).decode())
            except BlockingIOError:
                return sorted(said)


def test_the_scopes_that_ran_empty_are_told_by_their_paths(tmp_path: Path) -> None:
    """Also empty below; not one in which somebody lives, nor one that nobody asks for."""
    root = tmp_path / "cgroup"
    cgroup(root, "cgrace.slice/a.scope")
    cgroup(root, "cgrace.slice/a.scope/below")
    cgroup(root, "cgrace.slice/b.scope")
    cgroup(root, "cgrace.slice/b.scope/below", 7)
    cgroup(root, "system.slice/c.scope")
    assert told(tmp_path, "a.scope", "b.scope", "gone.scope") == ["/cgrace.slice/a.scope"]


def test_where_the_kernel_tells_it_nobody_else_does(tmp_path: Path) -> None:
    """On v2 there is cgroup.events, and the root of v1 has an agent of its own."""
    cgroup(tmp_path / "cgroup", "a.scope")
    assert told(tmp_path, "a.scope", name="unified") == []
    assert told(tmp_path, "a.scope", has_agent=True) == []


def test_a_systemd_that_is_gone_is_told_nothing(tmp_path: Path) -> None:
    """And nobody minds."""
    root = tmp_path / "cgroup"
    cgroup(root, "a.scope")
    agent = ReleaseAgent(os.getpid(), [hierarchy(root)])
    agent._socket = str(tmp_path / "nobody")
    agent.process_ended(["a.scope"])
