"""`python -m bench` lists the benches; `python -m bench NAME [OPTIONS]` runs one. Each has --help and --json."""

from __future__ import annotations

import importlib
import sys

from cgrace.harness.commands.common import run_async
from cgrace.harness.errors import CgraceError

BENCHES = {
    "fake-rate": "jobs a second of the fake systemd beside a real PID 1",
    "fake-core": "the same of the fake's core alone, without bus or driver",
    "relay": "what the relay adds to a round trip, and to a job of a real PID 1",
    "proofs": "how soon hangs are proved, and how many proofs are false",
    "throughput": "how long a passing run takes, and how many there are in a second",
    "witness-cost": "what the trace and the kernel's tracefs add to a passing run",
    "vm": "how long a virtual machine takes to boot and to go back to its snapshot",
    "reproduce": "wall time of `cgrace reproduce 1780`, warm",
}


def main() -> int:
    """Run the bench that the first argument names."""
    if len(sys.argv) < 2 or sys.argv[1] in ("-h", "--help"):
        for name, what in BENCHES.items():
            print(f"python -m bench {name:12} {what}")
        return 0
    name = sys.argv[1]
    if name not in BENCHES:
        print(f"there is no bench {name!r}; there are: {', '.join(BENCHES)}", file=sys.stderr)
        return 2
    sys.argv = [f"python -m bench {name}", *sys.argv[2:]]
    module = importlib.import_module(f"bench.{name.replace('-', '_')}")
    try:
        run_async(module.main())
    except CgraceError as error:
        print(f"bench {name}: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
