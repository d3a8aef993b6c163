"""How many StartTransientUnit -> JobRemoved -> StopUnit -> JobRemoved cycles a second the fake systemd's core does.

    python -m bench fake-core [--profile 257] [--cycles 2000]

One line a tree: in memory, one real v1 hierarchy (pids), and all v1 hierarchies that are mounted. Another unit with the same
needs stays up meanwhile, as on any node in use; "alone" is without it: then, by systemd's own rules, the whole tree gains
and loses controllers at each cycle. Real cgroups are made below directories of our own, which are removed at the end.
Beside each number: how long a boot of the fake takes.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cgrace.fakes.systemd.manager import Manager
from cgrace.fakes.systemd.profile import Profile, load_profile
from cgrace.fakes.systemd.tree import CgroupTree, KernelTree, MemoryTree
from cgrace.harness.dbus.message import Message, MessageType, Variant
from cgrace.harness.targets.base import Hierarchy

V1_NAMES = ("cpu", "cpuacct", "cpuset", "memory", "devices", "freezer", "blkio", "pids", "systemd")
MOUNTS = Path("/sys/fs/cgroup")
PREFIX = f"cgrace-bench-{os.getpid()}"


def hierarchy(name: str, root: Path) -> Hierarchy:
    """A v1 hierarchy of that name."""
    return Hierarchy(
        name=name, controllers=() if name == "systemd" else (name,), root=root, inner=f"/sys/fs/cgroup/{name}"
    )


@contextmanager
def real_tree(names: tuple[str, ...]) -> Iterator[KernelTree]:
    """Private directories in these hierarchies; gone afterwards."""
    roots = tuple(hierarchy(name, MOUNTS / name / PREFIX) for name in names)
    for each in roots:
        each.root.mkdir()
    try:
        with KernelTree(roots) as tree:
            yield tree
            for each in roots:
                tree.rmdir(each.name, "", keep_root=True)
    finally:
        for each in roots:
            each.root.rmdir()


def call(serial: int, member: str, signature: str, *body: object) -> Message:
    """A call to the manager."""
    return Message(
        type=MessageType.CALL,
        serial=serial,
        path="/org/freedesktop/systemd1",
        interface="org.freedesktop.systemd1.Manager",
        member=member,
        signature=signature,
        body=body,
    )


def properties(profile: Profile) -> list[list[object]]:
    """What a driver asks for a slice."""
    yes = Variant(signature="b", value=True)
    names = ["MemoryAccounting", "CPUAccounting", "BlockIOAccounting"]
    if profile.slice_delegate:
        names.append("Delegate")
    return [[name, yes] for name in names] + [["DefaultDependencies", Variant(signature="b", value=False)]]


def rate(profile: Profile, tree: CgroupTree, cycles: int, *, alone: bool = False) -> tuple[float, float, float]:
    """Cycles a second of wall time and of CPU time (user and system), and milliseconds of a boot."""
    begun = time.perf_counter()
    manager = Manager(profile, tree)
    boot_ms = (time.perf_counter() - begun) * 1000
    asked = properties(profile)
    if not alone:
        cycle(manager, call(1, "StartTransientUnit", "ssa(sv)a(sa(sv))", "cgrace-other.slice", "replace", asked, []))
    started, started_cpu = time.perf_counter(), time.process_time()
    for index in range(cycles):
        unit = f"cgrace-u{index}.slice"
        cycle(manager, call(2 * index + 1, "StartTransientUnit", "ssa(sv)a(sa(sv))", unit, "replace", asked, []))
        cycle(manager, call(2 * index + 2, "StopUnit", "ss", unit, "replace"))
    cpu_s = time.process_time() - started_cpu
    return cycles / (time.perf_counter() - started), cycles / cpu_s, boot_ms


def cycle(manager: Manager, message: Message) -> None:
    """A call and all that follows; the job must have ended as done."""
    messages = manager.call(":1.1", message)
    while manager.pending():
        messages += manager.turn()
    removed = [each for each in messages if each.member == "JobRemoved"]
    assert removed and removed[-1].body[3] == "done", messages


async def main() -> None:
    """Print the table."""
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    options.add_argument("--profile", default="257")
    options.add_argument("--cycles", type=int, default=1000)
    chosen = options.parse_args()
    profile = load_profile(chosen.profile)
    names = tuple(name for name in V1_NAMES if (MOUNTS / name).is_dir() and os.access(MOUNTS / name, os.W_OK))
    memory = MemoryTree([hierarchy(name, Path("/")) for name in V1_NAMES])
    report("in memory", *rate(profile, memory, chosen.cycles))
    wanted = (
        ("one real hierarchy", ("pids",), False),
        ("all v1 hierarchies", names, False),
        ("the same, alone", names, True),
    )
    for title, some, alone in wanted:
        if not set(some) <= set(names) or not some:
            print(f"{title:24} not here: needs a writable cgroup v1")
            continue
        with real_tree(some) as tree:
            report(title, *rate(profile, tree, chosen.cycles, alone=alone))


def report(title: str, per_second: float, per_cpu_second: float, boot_ms: float) -> None:
    """One line."""
    print(f"{title:22} {per_second:6.0f} cycles/s  {per_cpu_second:6.0f} a CPU second   boot {boot_ms:5.2f} ms")
