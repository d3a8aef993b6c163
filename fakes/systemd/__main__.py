"""python -m fakes.systemd --bus-address ADDR [--profile 257] [--cgroup-root DIR...]: the fake on a real bus."""

from __future__ import annotations

import argparse
import asyncio
import signal
import sys
from contextlib import ExitStack
from pathlib import Path

from cgrace.fakes.systemd.hierarchies import hierarchies_of
from cgrace.fakes.systemd.manager import Manager
from cgrace.fakes.systemd.profile import load_profile, profile_names
from cgrace.fakes.systemd.service import run
from cgrace.fakes.systemd.tree import CgroupTree, KernelTree, MemoryTree
from cgrace.harness import events as ev
from cgrace.harness.errors import CgraceError
from cgrace.harness.targets.base import Hierarchy

_HOW = """\
The bus may be any dbus-daemon or dbus-broker on which nobody owns org.freedesktop.systemd1 yet and everybody may own
names: a private one, never the machine's own. The fake serves until the bus goes away, or SIGINT or SIGTERM comes;
"ready as :1.0" on stdout says that it has the name, systemd's log goes to stderr. A bus to try it on:

  cat > /tmp/bus.conf <<END
  <busconfig><listen>unix:path=/tmp/bus</listen><auth>EXTERNAL</auth><policy context="default">
  <allow send_destination="*"/><allow receive_sender="*"/><allow own="*"/></policy></busconfig>
  END
  dbus-daemon --config-file=/tmp/bus.conf --nofork --nopidfile &
  python -m fakes.systemd --bus-address unix:path=/tmp/bus --profile 247 &
  busctl --address=unix:path=/tmp/bus get-property org.freedesktop.systemd1 /org/freedesktop/systemd1 \\
    org.freedesktop.systemd1.Manager Version

dbus-broker is started by dbus-broker-launch, which needs a socket passed to it (LISTEN_FDS) and journald's socket;
where those are missing, `cgrace run --bus dbus-broker` starts one by its controller.
"""
_IMAGINED = ("cpu,cpuacct", "memory", "devices", "blkio", "pids", "cpuset", "freezer", "systemd")


class ImaginedTree(MemoryTree):
    """Cgroups in memory, for processes that really run: the fake without a cgroup file system."""

    def __init__(self) -> None:
        super().__init__(
            Hierarchy(
                name=name,
                controllers=() if name == "systemd" else tuple(name.split(",")),
                root=Path("/"),
                inner=f"/sys/fs/cgroup/{name}",
            )
            for name in _IMAGINED
        )

    def outer(self, pid: int) -> int | None:
        """A process is known once it was named, until it ends."""
        known = super().outer(pid) is not None
        alive = pid > 0 and Path(f"/proc/{pid}").exists()
        if alive and not known:
            self.spawn(pid)
        elif known and not alive:
            self.exit(pid)
        return pid if alive else None


def log(event: ev.Event) -> None:
    """systemd's log goes to stderr."""
    if isinstance(event, ev.SystemdSaid):
        print(f"{event.unit}: {event.text}" if event.unit else event.text, file=sys.stderr, flush=True)


async def serve(address: str, manager: Manager) -> None:
    """Serve until the bus goes away or SIGINT or SIGTERM comes."""
    async with asyncio.TaskGroup() as group:
        serving = group.create_task(run(address, manager, lambda name: print(f"ready as {name}", flush=True)))
        for number in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(number, serving.cancel)


def main(argv: list[str] | None = None) -> int:
    """The command; returns its exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m fakes.systemd",
        description="A fake systemd on a real message bus, dbus-daemon or dbus-broker.",
        epilog=_HOW,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--bus-address", required=True, help="unix:path=... or unix:abstract=...")
    parser.add_argument("--profile", default="257", help=f"one of: {', '.join(profile_names())}")
    parser.add_argument(
        "--cgroup-root",
        type=Path,
        action="append",
        default=[],
        metavar="DIR",
        help="a directory of the fake's own in a cgroup hierarchy; once for each hierarchy (none: cgroups in memory)",
    )
    options = parser.parse_args(argv)
    failures: list[str] = []
    try:
        with ExitStack() as stack:
            profile = load_profile(options.profile)
            tree: CgroupTree = ImaginedTree()
            if options.cgroup_root:
                tree = stack.enter_context(KernelTree(hierarchies_of(options.cgroup_root)))
            asyncio.run(serve(options.bus_address, Manager(profile, tree, on_event=log)))
    except* CgraceError as group:
        failures += [str(error) for error in group.exceptions]
    for failure in failures:
        print(f"error: {failure}", file=sys.stderr)
    return 2 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
