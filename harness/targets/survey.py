"""A look at a machine before anything runs on it, for `cgrace doctor --target`: what is there, and which way cgrace will go.

ssh:HOST is connected to, asked with nothing but its shell, given cgrace and its Python, and asked again from inside; vm: is booted
first. Nothing is left there. What stands here already (fake, container, host) is looked at without a connection.
"""

from __future__ import annotations

import asyncio
import json
import platform
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from cgrace.harness.errors import CgraceError
from cgrace.harness.targets import survey_inside
from cgrace.harness.targets.names import systemd_number
from cgrace.harness.targets.probe import Check
from cgrace.harness.targets.registry import TargetName, describe, scenario_layout
from cgrace.harness.targets.remote import open_machine, open_ssh
from cgrace.harness.targets.remote_machine import Facts, RemoteMachine

NEEDED: Final = frozenset({"ssh", "root", "systemd", "cgroups", "tools", "place", "runtime"}) | survey_inside.NEEDED
FREE_MB_MIN: Final = 200  # the runtime, cgrace, some drivers and traces
# Each line: a word, then what was found. No tool but those of a shell and coreutils.
_ASK: Final = """
for tool in tar gzip mktemp; do command -v $tool >/dev/null 2>&1 || echo "lacks $tool"; done
for place in /var/tmp /run /opt /root /tmp; do
  base=$(mktemp -d "$place/cgrace-XXXXXXXX" 2>/dev/null) || { echo "closed $place"; continue; }
  printf '#!/bin/sh\\n' > "$base/try" && chmod 700 "$base/try" && "$base/try" 2>/dev/null || echo "noexec $place"
  rm -rf "$base"
done
echo "shell $0"
for python in python3 python2 python; do command -v $python >/dev/null 2>&1 && { echo "python $python"; break; }; done
sshd=$(command -v sshd || echo /usr/sbin/sshd)
"$sshd" -T 2>/dev/null | grep -i -E '^(allowstreamlocalforwarding|allowtcpforwarding|maxsessions) ' | sed 's/^/sshd /'
df -P -m "$1" 2>/dev/null | tail -n 1 | { read -r _ _ _ free _; echo "free $free"; }
true
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Survey:
    """checks: in order; systemd: its number, 0 for a machine whose systemd is not known; layouts: of cgroups that it has."""

    checks: tuple[Check, ...]
    systemd: int = 0
    layouts: tuple[str, ...] = ()

    def get(self, name: str) -> Check | None:
        """The check of that name."""
        return next((check for check in self.checks if check.name == name), None)

    @property
    def missing(self) -> tuple[Check, ...]:
        """Those without which nothing runs there."""
        return tuple(check for check in self.checks if not check.ok and check.name in NEEDED)


async def survey(name: TargetName, progress: Callable[[str], None] = lambda _: None) -> Survey:
    """Look at a target. TargetError where it cannot even be reached."""
    if name.kind == "ssh":
        async with open_ssh(name.place) as machine:
            return await _remote(machine, progress)
    if name.kind == "vm":
        async with open_machine(name.text, progress=progress) as machine:
            return await _remote(machine, progress)
    brings = name.kind in ("fake", "container")  # a bus and namespaces of its own
    looks = survey_inside.look(its_systemd=not brings, is_init=name.kind != "user")
    checks = await asyncio.to_thread(lambda: tuple(looks))
    if name.kind == "fake":
        return Survey(checks=checks, layouts=("v1", "v2"))
    facts = await describe(name, progress)
    found = Check(name="systemd", ok=True, found=facts.version, needed_for="everything")
    return Survey(
        checks=(found, *checks), systemd=facts.systemd, layouts=(name.wanted,) if name.wanted else facts.layouts
    )


async def _remote(machine: RemoteMachine, progress: Callable[[str], None]) -> Survey:
    facts = await machine.look()
    asked = await machine.channel.run(["sh", "-c", _ASK, "sh", machine.base], timeout_s=60)
    said = [line.partition(" ")[::2] for line in asked.text.splitlines()]
    systemd = systemd_number(facts.systemd) if facts.systemd else 0
    checks = _outside(machine, facts, said)
    if all(check.ok or check.name not in NEEDED for check in checks):
        checks += await _inside(machine, progress)
    return Survey(
        checks=tuple(checks),
        systemd=systemd,
        layouts=(scenario_layout(facts.layout),) if facts.layout else (),
    )


async def _inside(machine: RemoteMachine, progress: Callable[[str], None]) -> list[Check]:
    """What cgrace's own Python says there, once it is there."""
    try:
        await machine.prepare(progress)
        done = await machine.python(["-m", survey_inside.__name__], timeout_s=120)
        answer = json.loads(done.text) if done.ok else None
    except CgraceError as error:
        return [_runtime(False, f"{error.message}{': ' if error.detail else ''}{error.detail}")]
    if answer is None:
        return [_runtime(False, f"cgrace's own Python does not run there: it {done.how}: {done.tail}")]
    own = machine.facts.machine == platform.machine()
    brought = (
        "brought along with its loader and C library; the machine's own is not used" if own else "the machine's own"
    )
    found = _runtime(True, f"Python {answer['facts']['python']}, {brought}")
    return [found, *(Check(**check) for check in answer["checks"])]


def _runtime(ok: bool, found: str) -> Check:
    return Check(name="runtime", ok=ok, found=found, needed_for="cgrace inside the machine: relay, witnesses, drivers")


def _outside(machine: RemoteMachine, facts: Facts, said: list[tuple[str, str]]) -> list[Check]:
    """What its shell says."""

    def values(word: str) -> list[str]:
        return [value for key, value in said if key == word]

    lacking, free = values("lacks"), next(iter(values("free")), "")
    sshd = dict(line.split(" ", 1) for line in values("sshd") if " " in line)
    room = int(free) if free.isdigit() else None
    not_there = [f"noexec {' '.join(values('noexec'))}"] if values("noexec") else []
    if values("closed"):
        not_there.append(f"not writable {' '.join(values('closed'))}")
    if machine.base:
        place = f"{machine.base}" + ("" if room is None else f", {room} MiB free")
    else:
        place = f"none where programs may start and {FREE_MB_MIN} MiB are free"
    return [
        Check(name="ssh", ok=True, found=f"connected to {machine.channel.destination}", needed_for="everything"),
        Check(
            name="root",
            ok=facts.uid == 0,
            found=f"uid {facts.uid}",
            needed_for="units and cgroups of the machine",
            how="" if facts.uid == 0 else "User root for that host in ~/.ssh/config",
        ),
        Check(
            name="systemd",
            ok=bool(facts.systemd),
            found=facts.systemd or "none: systemctl says nothing",
            needed_for="everything",
        ),
        Check(
            name="kernel",
            ok=True,
            found=f"{facts.kernel}, {facts.machine}",
            needed_for="what the rows below tell of it",
        ),
        Check(
            name="cgroups",
            ok=bool(facts.layout),
            found=facts.layout or "no cgroups are mounted",
            needed_for="scenarios, which are about v1 or v2; hybrid runs those about v1",
        ),
        Check(
            name="tools",
            ok=not lacking,
            found=f"without {' '.join(lacking)}" if lacking else "sh, tar, gzip, mktemp",
            needed_for="putting cgrace there",
        ),
        Check(
            name="place",
            ok=bool(machine.base),
            found="; ".join([place, *not_there]),
            needed_for="cgrace's folder there, gone with the connection",
            how="" if machine.base else f"make room in one of {' '.join(values('noexec') or ['/var/tmp'])}",
        ),
        _forwarding(sshd),
    ]


def _forwarding(sshd: dict[str, str]) -> Check:
    """cgrace forwards nothing: the relay stands inside the machine, and a session's stdin and stdout carry all else."""
    refuses = [name for name in ("allowstreamlocalforwarding", "allowtcpforwarding") if sshd.get(name) == "no"]
    its = (
        f"this sshd refuses it ({', '.join(f'{name} no' for name in refuses)})"
        if refuses
        else "whatever this sshd allows"
    )
    return Check(
        name="forwarding",
        ok=True,
        found=f"not needed, {its}: cgrace runs inside, its relay there, and all else goes over the session's stdin and stdout",
        needed_for="nothing",
    )
