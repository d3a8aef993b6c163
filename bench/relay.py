"""What the relay adds: to a round trip on dbus-daemon, and to StartTransientUnit to JobRemoved of a real PID 1.

    python -m bench relay [--suite trixie] [--calls 300] [--cycles 100] [--rounds 5]

Each round is one direct and one through the relay, in turns, by the same client. The numbers are those of the median call.
"""

from __future__ import annotations

from bench.client import Timed, bus_call, jobs, keeper, measure
from bench.common import Load, PassOn, Row, median, options, quantile, show
from cgrace.harness.dbus.bus import EmbeddedBus
from cgrace.harness.relay import Embedded, Relay, Upstream
from cgrace.harness.targets.container import ContainerTarget

ADDED_MS_GOAL = 0.3
SHARE_GOAL = 0.25


async def main() -> None:
    """Measure and show."""
    parser = options(__doc__)
    parser.add_argument("--suite", default="trixie", help="a Debian suite, whose systemd and dbus-daemon are used")
    parser.add_argument("--calls", type=int, default=300, help="GetId calls of each round")
    parser.add_argument("--cycles", type=int, default=100, help="units of each round")
    parser.add_argument("--rounds", type=int, default=5)
    chosen = parser.parse_args()
    trips = [Timed(message=bus_call(serial, "GetId")) for serial in range(10, 10 + chosen.calls)]
    direct: list[float] = []
    relayed: list[float] = []
    embedded: list[float] = []
    jobs_direct: list[float] = []
    jobs_relayed: list[float] = []
    async with ContainerTarget.open(chosen.suite) as machine:
        tap, inside = machine.runtime_dir / "tap", machine.runtime_dir / "embedded"
        load = Load()
        async with Relay(tap, PassOn(), Upstream(machine.bus_path)), Relay(inside, PassOn(), Embedded(EmbeddedBus({}))):
            for turn in range(chosen.rounds):
                direct += await measure(machine.bus_path, trips)
                relayed += await measure(tap, trips)
                embedded += await measure(inside, trips)
                here, there = f"round{turn}d", f"round{turn}r"
                jobs_direct += (await measure(machine.bus_path, jobs(chosen.cycles, here), keeper(here)))[::2]
                jobs_relayed += (await measure(tap, jobs(chosen.cycles, there), keeper(there)))[::2]
        busy = load.so_far()
        version = machine.version
    rows = [
        *trips_rows(direct, relayed, busy),
        timed_row("round trip, embedded bus", embedded, busy),
        *jobs_rows(jobs_direct, jobs_relayed, busy, version),
    ]
    show("relay", rows, as_json=chosen.json)


def timed_row(name: str, took: list[float], load: float) -> Row:
    """The median of some calls."""
    note = f"p99 {quantile(took, 0.99) * 1000:.3f} ms"
    return Row(name=name, value=median(took) * 1000, unit="ms", load=load, note=note)


def trips_rows(direct: list[float], relayed: list[float], load: float) -> list[Row]:
    """Round trips, and what the relay adds to them."""
    added = (median(relayed) - median(direct)) * 1000
    return [
        timed_row("round trip, direct", direct, load),
        timed_row("round trip, by relay", relayed, load),
        Row(
            name="added to a round trip",
            value=added,
            unit="ms",
            goal=f"<= {ADDED_MS_GOAL}",
            met=added <= ADDED_MS_GOAL,
            load=load,
            note=f"ratio {median(relayed) / median(direct):.2f}",
        ),
    ]


def jobs_rows(direct: list[float], relayed: list[float], load: float, version: str) -> list[Row]:
    """StartTransientUnit to JobRemoved of a real PID 1, and what the relay adds to that."""
    share = median(relayed) / median(direct) - 1
    return [
        timed_row(f"job of systemd {version}, direct", direct, load),
        timed_row(f"job of systemd {version}, by relay", relayed, load),
        Row(
            name="added to a job",
            value=share * 100,
            unit="%",
            goal=f"<= {SHARE_GOAL:.0%}",
            met=share <= SHARE_GOAL,
            load=load,
            note=f"{(median(relayed) - median(direct)) * 1000:.3f} ms",
        ),
    ]
