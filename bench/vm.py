"""How long a virtual machine takes to boot, to be given cgrace, and to go back to its snapshot.

    python -m bench vm [--target vm:sid:v2 ...] [--resets 5]

Boot: from QEMU's start to the first command over ssh. Beside the time on the clock is the time on processors that QEMU took until
then: on a busy machine the former says little. Images are built before the clock starts.
"""

from __future__ import annotations

from bench.common import Load, Row, options, quantile, show
from cgrace.harness.clock import now_ns
from cgrace.harness.targets.remote import RemoteVm, open_machine, parse_remote
from cgrace.harness.targets.vms import describe_vm

BOOT_GOAL_S = 40.0
RESET_GOAL_S = 3.0


async def main() -> None:
    """Measure and show."""
    parser = options(__doc__)
    parser.add_argument("--target", action="append", default=[], help="machines to boot (vm:sid:v2)")
    parser.add_argument("--resets", type=int, default=5, help="resets of each")
    chosen = parser.parse_args()
    rows: list[Row] = []
    for target in chosen.target or ["vm:sid:v2"]:
        await describe_vm(parse_remote(target).which)
        rows += await measure(target, chosen.resets)
    show("vm", rows, as_json=chosen.json)


async def measure(target: str, resets: int) -> list[Row]:
    """The rows of one machine."""
    load = Load()
    started = now_ns()
    async with open_machine(target) as machine:
        ready_s = (now_ns() - started) / 1e9
        assert isinstance(machine, RemoteVm)
        booted = machine.target
        boot_s, busy = booted.boot_ns / 1e9, load.so_far()
        await machine.reset()  # the first one keeps the state
        took: list[float] = []
        cpu = booted.cpu_s()
        for _ in range(resets):
            begun = now_ns()
            await machine.reset()
            took.append((now_ns() - begun) / 1e9)
        cpu = booted.cpu_s() - cpu
        under = f"{booted.accelerator}; {booted.boot_cpu_s:.1f} s on processors"
    rows = [
        Row(
            name=f"{target}: boot",
            value=boot_s,
            unit="s",
            goal=f"< {BOOT_GOAL_S:.0f} s",
            met=boot_s < BOOT_GOAL_S,
            load=busy,
            note=under,
        ),
        Row(name=f"{target}: with cgrace inside", value=ready_s, unit="s", load=busy),
    ]
    if took:
        late = quantile(took, 0.5)
        rows.append(
            Row(
                name=f"{target}: snapshot reset, p50",
                value=late,
                unit="s",
                goal=f"< {RESET_GOAL_S:.0f} s",
                met=late < RESET_GOAL_S,
                load=load.so_far(),
                note=f"longest {max(took):.2f} s; {cpu / resets:.2f} s on processors each",
            )
        )
    return rows
