"""What the relay adds to a round trip: GetId on a private dbus-daemon, direct and through the relay, and on the embedded bus.

Run it as `python bench/relay_latency.py [calls]`. Goal: p50 of at most 0.3 ms added. One client, one call at a time; the
client is a plain blocking socket in a thread of its own, the relay has the event loop.
"""

from __future__ import annotations

import asyncio
import statistics
import sys
import tempfile
import time
from pathlib import Path

from cgrace.harness.dbus import systemd1
from cgrace.harness.dbus.bus import EmbeddedBus
from cgrace.harness.dbus.codec import encode
from cgrace.harness.dbus.frames import Frame
from cgrace.harness.dbus.message import Message, MessageType
from cgrace.harness.events import Actor
from cgrace.harness.relay import Connection, Embedded, Relay, Upstream

CALLS = 2000
PROGRAM = """
import socket, sys, time
path, calls, count = sys.argv[1], [bytes.fromhex(line) for line in sys.stdin.read().split()], 0
sock = socket.socket(socket.AF_UNIX)
sock.connect(path)
sock.sendall(b"\\0AUTH EXTERNAL " + str(__import__("os").geteuid()).encode().hex().encode() + b"\\r\\nBEGIN\\r\\n")
sock.recv(4096)
sock.sendall(calls[0])
greeting = b""
while b"NameAcquired" not in greeting:
    greeting += sock.recv(65536)
for call in calls[1:]:
    start = time.perf_counter_ns()
    sock.sendall(call)
    sock.recv(65536)
    print(time.perf_counter_ns() - start)
"""


class PassOn:
    """A handler that passes everything on."""

    def connected(self, conn: Connection) -> None:
        """Nothing to do."""

    def disconnected(self, conn: Connection, by: Actor, why: str) -> None:
        """Nothing to do."""

    def from_driver(self, conn: Connection, frame: Frame) -> None:
        """On to the bus."""
        conn.to_systemd(frame)

    def from_systemd(self, conn: Connection, frame: Frame) -> None:
        """On to the driver."""
        conn.to_driver(frame)


def call(serial: int, member: str) -> str:
    """A call to the bus, as hex."""
    return encode(
        Message(
            type=MessageType.CALL,
            serial=serial,
            path=systemd1.BUS_PATH,
            interface=systemd1.BUS_NAME,
            member=member,
            destination=systemd1.BUS_NAME,
        )
    ).hex()


async def measure(path: Path, calls: int) -> list[float]:
    """Round trips of a client process, in ms."""
    lines = [call(1, "Hello")] + [call(serial, "GetId") for serial in range(2, calls + 2)]
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", PROGRAM, str(path), stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
    )
    output, _ = await process.communicate("\n".join(lines).encode())
    return [int(line) / 1e6 for line in output.split()]


def report(name: str, times: list[float], base: list[float] | None = None) -> None:
    """One line: p50, p99, and against direct."""
    p50, p99 = statistics.median(times), statistics.quantiles(times, n=100)[98]
    line = f"{name:<28} p50 {p50:.3f} ms  p99 {p99:.3f} ms"
    if base is not None:
        direct = statistics.median(base)
        line += f"  added p50 {p50 - direct:+.3f} ms  ratio {p50 / direct:.2f}"
    print(line)


async def main(calls: int) -> None:
    """Measure all three."""
    with tempfile.TemporaryDirectory() as folder:
        real, tap = Path(folder) / "real", Path(folder) / "tap"
        config = Path(folder) / "bus.conf"
        config.write_text(
            f"<busconfig><listen>unix:path={real}</listen><policy context='default'>"
            "<allow send_destination='*'/><allow own='*'/><allow receive_sender='*'/></policy></busconfig>"
        )
        daemon = await asyncio.create_subprocess_exec(
            "dbus-daemon",
            f"--config-file={config}",
            "--nofork",
            "--nopidfile",
            "--print-address",
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
        )
        try:
            assert daemon.stdout is not None
            await daemon.stdout.readline()
            direct = await measure(real, calls)
            report("dbus-daemon, direct", direct)
            async with Relay(tap, PassOn(), Upstream(str(real))):
                report("dbus-daemon, through relay", await measure(tap, calls), direct)
            async with Relay(tap, PassOn(), Embedded(EmbeddedBus({}))):
                report("embedded bus in the relay", await measure(tap, calls), direct)
        finally:
            daemon.kill()
            await daemon.wait()


if __name__ == "__main__":
    started = time.monotonic()
    asyncio.run(main(int(sys.argv[1]) if len(sys.argv) > 1 else CALLS))
    print(f"measured in {time.monotonic() - started:.1f} s")
