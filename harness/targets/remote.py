"""Machines by their names: `vm:SUITE[:v1|v2|hybrid]` is booted, `ssh:HOST` is the user's own; each comes with cgrace inside."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Final

from cgrace.harness.errors import TargetError, UsageError
from cgrace.harness.targets.folder import runtime_folder
from cgrace.harness.targets.images import LAYOUTS
from cgrace.harness.targets.names import split_layout
from cgrace.harness.targets.remote_machine import Facts, RemoteMachine
from cgrace.harness.targets.ssh import SshChannel
from cgrace.harness.targets.sweep import sweep
from cgrace.harness.targets.vm import VmTarget
from cgrace.harness.targets.vms import is_own_disk, open_vm

KINDS: Final = ("vm", "ssh")
VM_BASE: Final = "/opt/cgrace"  # of a guest: part of its snapshot
# The first place where a program of ours can be started and that has room: some administrators mount some of them noexec. The
# folder goes with the session, which ends with us however we end; first whatever still runs from it has a while to end by itself.
_SESSION: Final = """umask 077
for place in /var/tmp /run /opt /root /tmp; do
  base=$(mktemp -d "$place/cgrace-XXXXXXXX" 2>/dev/null) || continue
  free=$(df -P -m "$base" 2>/dev/null | tail -n 1 | { read -r _ _ _ free _; echo "$free"; })
  [ "${free:-999}" -ge 200 ] && printf '#!/bin/sh\\n' > "$base/try" && chmod 700 "$base/try" && "$base/try" 2>/dev/null && break
  rm -rf "$base"; base=
done
[ -n "$base" ] || { echo "cgrace-connected"; exec cat > /dev/null; }
trap '' HUP PIPE TERM INT
echo "cgrace-connected $base"
cat > /dev/null
n=0
while [ $n -lt 20 ] && ls -l /proc/[0-9]*/exe 2>/dev/null | grep -q " $base/"; do n=$((n + 1)); sleep 1; done
rm -rf "$base"
"""


@dataclass(frozen=True, slots=True)
class RemoteName:
    """A machine's name, taken apart. kind: "vm" or "ssh"; which: the suite or host; layout: "" for what it has."""

    kind: str
    which: str
    layout: str = ""

    def __str__(self) -> str:
        return ":".join(part for part in (self.kind, self.which, self.layout) if part)


def parse_remote(text: str) -> RemoteName:
    """Read a name; UsageError with what there is."""
    kind, _, which = text.partition(":")
    layout = ""
    if kind == "vm":
        which, layout = split_layout(kind, which, LAYOUTS)
    if kind not in KINDS or not which:
        raise UsageError(
            f"{text!r:.80} is no machine",
            hint="vm:sid:v2, vm:bookworm:v1, vm:bookworm:hybrid, ssh:HOST as ssh takes it",
        )
    return RemoteName(kind, which, layout or ("v2" if kind == "vm" and not is_own_disk(which) else ""))


class RemoteVm(RemoteMachine):
    """A virtual machine with cgrace inside, which can be reset."""

    def __init__(self, name: str, target: VmTarget) -> None:
        super().__init__(name, lambda: target.channel, VM_BASE, target.console_tail)
        self.target = target

    async def reset(self) -> None:
        """Back to what the first call found (targets/vm.py); workers in it are gone."""
        await self.target.reset()


@contextlib.asynccontextmanager
async def open_machine(text: str, *, progress: Callable[[str], None] = lambda _: None) -> AsyncIterator[RemoteMachine]:
    """The machine, with cgrace inside, for as long as the block lasts; nothing of ours is left of it afterwards.

    TargetError where it cannot be had, UsageError for what is no name.
    """
    name = parse_remote(text)
    if name.kind == "vm":
        async with open_vm(name.which, name.layout, progress=progress) as target:
            vm = RemoteVm(str(name), target)
            await vm.prepare(progress)
            if name.layout not in ("", vm.facts.layout):
                raise TargetError(
                    f"{name} came up with cgroup {vm.facts.layout}: its systemd or its kernel decided otherwise",
                    hint=f"vm:{name.which}:{vm.facts.layout}",
                )
            yield vm
    else:
        async with open_ssh(name.which) as machine:
            if not machine.base:
                raise TargetError(
                    f"{name} has no folder where programs can be started and 200 MiB are free",
                    hint=f"cgrace doctor --target {name}",
                )
            await machine.prepare(progress)
            yield machine


async def look_at(host: str) -> Facts:
    """What the user's machine is, without putting anything there."""
    with runtime_folder() as folder:
        async with SshChannel.open(host, folder=folder) as channel:
            return await RemoteMachine(f"ssh:{host}", lambda: channel, "", lambda: "").look()


@contextlib.asynccontextmanager
async def open_ssh(host: str) -> AsyncIterator[RemoteMachine]:
    """The user's machine with nothing of ours on it but an empty folder, `base`, "" where there is no place for one.

    The folder and what was put into it are gone afterwards. TargetError where ssh does not connect.
    """
    await asyncio.to_thread(sweep)
    with runtime_folder() as folder:
        async with SshChannel.open(host, folder=folder, session=_SESSION) as channel:
            yield RemoteMachine(f"ssh:{host}", lambda: channel, channel.greeting, lambda: "")
