"""The client of the benches: a process of its own that asks one bus and times each answer. `measure` starts it.

It decodes nothing: calls come ready-made, and it looks for the end of a job or an answer by the frames' lengths and names.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cgrace.harness.dbus import systemd1
from cgrace.harness.dbus.codec import encode
from cgrace.harness.dbus.message import Message, Variant
from cgrace.harness.errors import TargetError

JOB_RULE = "type='signal',interface='org.freedesktop.systemd1.Manager',member='JobRemoved'"
PROGRAM = r"""
import json, os, socket, struct, sys, time
asked = json.load(sys.stdin)
sock = socket.socket(socket.AF_UNIX)
sock.connect(asked["path"])
sock.sendall(b"\0AUTH EXTERNAL " + str(os.geteuid()).encode().hex().encode() + b"\r\n")
assert sock.recv(4096).startswith(b"OK")
sock.sendall(b"BEGIN\r\n")
rest = b""
def frames():
    global rest
    while True:
        while len(rest) >= 16:
            body, _, fields = struct.unpack_from("<III", rest, 4)
            total = 16 + (fields + 7) // 8 * 8 + body
            if len(rest) < total:
                break
            frame, rest = rest[:total], rest[total:]
            yield frame
        data = sock.recv(65536)
        if not data:
            sys.exit("the bus hung up")
        rest += data
stream = frames()
def ask(call, unit):
    sock.sendall(call)
    if not unit:
        return next(f for f in stream if f[1] in (2, 3))
    for frame in stream:
        if frame[1] == 3:
            sys.exit(repr(frame))
        if frame[1] == 4 and b"JobRemoved" in frame and unit in frame:
            return frame
for call in asked["before"]:
    assert ask(bytes.fromhex(call), b"")[1] == 2, call
took = []
for call, unit in [(bytes.fromhex(call), unit.encode()) for call, unit in asked["timed"]]:
    started = time.perf_counter_ns()
    frame = ask(call, unit)
    took.append(time.perf_counter_ns() - started)
    if unit and b"done" not in frame[-24:]:
        sys.exit(repr(frame))
json.dump(took, sys.stdout)
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Timed:
    """One timed call: the message, and the unit whose JobRemoved ends it ("": its answer does)."""

    message: Message
    unit: str = ""


def bus_call(serial: int, member: str, signature: str = "", *body: object) -> Message:
    """A call to the bus itself."""
    return systemd1.call_to(systemd1.TO_BUS, member, signature, body, serial=serial)


def manager_call(serial: int, member: str, signature: str = "", *body: object) -> Message:
    """A call to systemd's manager."""
    return systemd1.call_to(systemd1.TO_MANAGER, member, signature, body, serial=serial)


def jobs(count: int, prefix: str, first_serial: int = 1000) -> list[Timed]:
    """StartTransientUnit of a slice with every accounting that a driver asks for, then StopUnit, so many times."""
    yes = Variant(signature="b", value=True)
    accounts = ("MemoryAccounting", "CPUAccounting", "BlockIOAccounting", "TasksAccounting")
    properties = [[name, yes] for name in accounts] + [["DefaultDependencies", Variant(signature="b", value=False)]]
    timed = []
    for index in range(count):
        unit, serial = f"{prefix}{index}.slice", first_serial + 2 * index
        start = manager_call(serial, "StartTransientUnit", "ssa(sv)a(sa(sv))", unit, "replace", properties, [])
        timed.append(Timed(message=start, unit=unit))
        timed.append(Timed(message=manager_call(serial + 1, "StopUnit", "ss", unit, "replace"), unit=unit))
    return timed


def keeper(prefix: str) -> list[Message]:
    """A slice with the same needs that stays up meanwhile, as on any node in use: without one, each start and stop would give
    controllers to the whole tree and take them away again."""
    start = jobs(1, f"{prefix}keeper", 500)[0]
    return [start.message]


async def measure(path: str | Path, timed: Sequence[Timed], before: Sequence[Message] = ()) -> list[float]:
    """Seconds that each took, one after the other, on a connection of its own, after Hello, the JobRemoved rule and Subscribe
    (the latter two only where a job is timed)."""
    first = [bus_call(1, "Hello")]
    if any(one.unit for one in timed):
        first += [bus_call(2, "AddMatch", "s", JOB_RULE), manager_call(3, "Subscribe")]
    asked = {
        "path": os.fspath(path),
        "before": [encode(message).hex() for message in (*first, *before)],
        "timed": [(encode(one.message).hex(), one.unit) for one in timed],
    }
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        PROGRAM,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    output, said = await process.communicate(json.dumps(asked).encode())
    if process.returncode != 0:
        raise TargetError(f"the bench's client failed on {path}", detail=said.decode(errors="replace"))
    return [took / 1e9 for took in json.loads(output)]
