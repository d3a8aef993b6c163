"""Target ssh on a whole machine with its own kernel and sshd, in which what RHEL 7 lacks is taken away; boots one, where asked for.

The machine is reached as any other: by a name in its user's own ssh configuration, which says host, port, key and host key.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from ssh_kit import NEWER, Done, cgrace_of

from cgrace.harness.targets.remote import RemoteVm, open_machine, parse_remote

BOOT = os.environ.get("CGRACE_TEST_VM", "")
pytestmark = [
    pytest.mark.skipif(not BOOT, reason="boots a machine for minutes: CGRACE_TEST_VM=vm:bookworm:v1"),
    pytest.mark.timeout(1800),
]
SSHD = "AllowStreamLocalForwarding no\nAllowTcpForwarding no\n"
SYSCALLS = f"[Service]\nSystemCallFilter=~{' '.join(NEWER)}\nSystemCallErrorNumber=ENOSYS\n"
NAMESPACES = "[Service]\nRestrictNamespaces=~cgroup\n"
TRACEFS = (
    "for at in /sys/kernel/tracing /sys/kernel/debug/tracing; do if [ -d $at ]; then mount -t tmpfs none $at; fi; done"
)
LEFT = (
    "find /sys/fs/cgroup -name 'cgrace*' ! -name cgrace.target; "
    "ls -d /var/tmp/cgrace-* /run/cgrace-* /tmp/cgrace-* 2>/dev/null || true; "
    "systemctl list-units --all --no-legend 'cgrace*' | grep -v cgrace.target || true"
)
QUICK = ("core/exec_scope", "core/no_reply_scope")


class Guest:
    """The booted machine, and its user here. take: makes the machine lack things, and says what is left on it."""

    def __init__(self, folder: Path, machine: RemoteVm, loop: asyncio.AbstractEventLoop) -> None:
        self.folder = folder
        self._machine = machine
        self._loop = loop

    def shell(self, script: str) -> str:
        """Run a script there, over the connection that the boot made."""
        done = self._loop.run_until_complete(self._machine.channel.run(["sh", "-ec", script]))
        assert done.ok, done.tail
        return done.text

    def take(self, files: dict[str, str], script: str = "") -> None:
        """Have a sshd with these files, for sessions that begin from now on."""
        self.shell(
            "rm -rf /etc/systemd/system/ssh.service.d /etc/ssh/sshd_config.d/00-old.conf; mkdir /etc/systemd/system/ssh.service.d"
        )
        for path, text in files.items():
            self.shell(f"cat > {path} <<'END'\n{text}END")
        self.shell(f"{script}\nsystemctl daemon-reload; systemctl restart ssh")

    def cgrace(self, *words: str) -> Done:
        """Run cgrace as the machine's user, to its end."""
        return cgrace_of(self.folder, *words)


@pytest.fixture(scope="module")
def guest(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guest]:
    """One machine for all of these tests, and a user's configuration that calls it `rhel7`."""
    folder = tmp_path_factory.mktemp("guest")
    loop = asyncio.new_event_loop()
    opening = open_machine(BOOT)
    machine = loop.run_until_complete(opening.__aenter__())
    try:
        assert isinstance(machine, RemoteVm)
        _configure(folder, machine)
        yield Guest(folder, machine, loop)
    finally:
        loop.run_until_complete(opening.__aexit__(None, None, None))
        loop.close()


def _configure(folder: Path, machine: RemoteVm) -> None:
    target = machine.target
    for name in ("id", "known_hosts"):
        shutil.copy(target.folder / name, folder / name)
        (folder / name).chmod(0o600)
    (folder / "config").write_text(
        f"Host rhel7\n  HostName 127.0.0.1\n  Port {target._qemu.port}\n  User root\n  HostKeyAlias cgrace-vm\n"  # type: ignore[union-attr]
        f"  IdentityFile {folder}/id\n  IdentitiesOnly yes\n  IdentityAgent none\n"
        f"  UserKnownHostsFile {folder}/known_hosts\n  StrictHostKeyChecking yes\n  LogLevel ERROR\n"
    )
    (folder / "bin").mkdir()
    (folder / "bin/ssh").write_text(f'#!/bin/sh\nexec {shutil.which("ssh")} -F {folder}/config "$@"\n')
    (folder / "bin/ssh").chmod(0o700)


def runs(guest: Guest, *scenarios: str) -> list[dict[str, str]]:
    """Run scenarios there, all as expected and nothing left; what each trace says took part."""
    done = guest.cgrace("run", *scenarios, "--target", "ssh:rhel7", "--driver", "today", "--json")
    assert done.status == 0, done.all
    assert len(json.loads(done.text)["results"]) == len(scenarios)
    assert guest.shell(LEFT) == ""
    traces = (guest.folder / "state/cgrace/runs/last").resolve().glob("*.jsonl")
    return [json.loads(trace.open().readline())["versions"] for trace in traces]


CASES = {
    "nothing": ({}, ""),
    "forwarding": ({"/etc/ssh/sshd_config.d/00-old.conf": SSHD}, ""),
    "cgroup namespaces": ({"/etc/systemd/system/ssh.service.d/namespaces.conf": NAMESPACES}, ""),
    "system calls": ({"/etc/systemd/system/ssh.service.d/calls.conf": SYSCALLS}, ""),
}


@pytest.mark.parametrize("lacking", CASES)
def test_each_by_itself(guest: Guest, lacking: str) -> None:
    """One thing is missing, and the runs come out as on the machine that has it."""
    guest.take(*CASES[lacking])
    versions = runs(guest, "core/exec_scope")
    assert all("cgroup events" not in one for one in versions)  # tracefs is mounted


def test_all_together(guest: Guest) -> None:
    """Tracefs is gone, too, and there is no Python: inotify watches, and doctor says which way each thing goes."""
    files = {path: text for case, _ in CASES.values() for path, text in case.items()}
    guest.take(files, TRACEFS)
    assert guest.shell("command -v python3 python2 python || true") == ""
    done = guest.cgrace("doctor", "--target", "ssh:rhel7", "--json")
    rows = {row["name"]: row for row in json.loads(done.text)["checks"]}
    lacks = {name for name, row in rows.items() if not row["ok"]}
    assert done.status == 0 and lacks == {"witness", "held calls", "pidfd", "mounts", "cgroup namespace"}, done.all
    assert "this sshd refuses it" in rows["forwarding"]["found"]
    assert rows["cgroups"]["found"] == parse_remote(BOOT).layout
    assert all(one["cgroup events"].startswith("inotify") for one in runs(guest, *QUICK))
    done = guest.cgrace("reproduce", "1780", "--row", "7b", "--row", "1-4b", "--target", "ssh:rhel7")
    assert done.status == 0 and "cannot run here: 1-4b: a driver cannot be held" in done.all, done.all
    assert guest.shell(LEFT) == ""
