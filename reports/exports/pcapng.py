"""The messages of a run as a pcapng file for Wireshark. Pure.

Block layouts: the IETF draft "PCAP Now Generic" (draft-ietf-opsawg-pcapng), sections 4.1 to 4.3 and 3.5. Link type 231 is
LINKTYPE_DBUS: a packet is one message without its connection's handshake. An interface stands for a connection of the driver. Times
are CLOCK_MONOTONIC and so count from about the machine's boot. What the relay did to a message is the packet's comment.
"""

from __future__ import annotations

import base64
import binascii
import struct
from collections.abc import Iterable

from cgrace import __version__
from cgrace.harness import events as ev
from cgrace.harness.errors import TraceError
from cgrace.harness.trace import Trace
from cgrace.reports.inert import inert_line

LINKTYPE_DBUS = 231
_SECTION, _INTERFACE, _PACKET = 0x0A0D0D0A, 1, 6
_BYTE_ORDER = 0x1A2B3C4D
_END, _COMMENT, _NAME, _DESCRIPTION, _RESOLUTION, _APPLICATION, _FLAGS = 0, 1, 2, 3, 9, 4, 2
_NANOSECONDS = b"\x09"  # if_tsresol: 10 to the power of -9
_INBOUND, _OUTBOUND = 1, 2
OPTION_BYTES_MAX = 2000


def pcapng(trace: Trace) -> bytes:
    """Every message that reached the relay, as it did, in the order in which it did.

    TraceError where the trace has no raw messages: older ones do not, nor do drivers that use no bus.
    """
    seen = [(entry.t_ns, event) for entry, event in trace.of(ev.MessageSeen)]
    if not any(event.raw for _, event in seen):
        raise TraceError("the trace holds no messages as bytes", hint="run the case again: newer traces do")
    processes = {event.connection: event.process for _, event in trace.of(ev.Connected)}
    connections = sorted({event.connection for _, event in seen} | set(processes))
    deeds = _deeds(trace)
    blocks = [_section(trace)]
    blocks += [_interface(f"connection {number}", processes.get(number, "")) for number in connections]
    for t_ns, event in seen:
        if event.raw:
            blocks.append(_packet(connections.index(event.connection), t_ns, event, deeds.get(event.message, [])))
    return b"".join(blocks)


def raw_of(event: ev.MessageSeen) -> bytes:
    """The bytes that the trace holds of a message, which may be fewer than its size; TraceError where they are none."""
    try:
        return base64.b64decode(event.raw, validate=True)
    except (ValueError, binascii.Error):
        raise TraceError(f"the raw bytes of message {event.message} are not base64") from None


def _deeds(trace: Trace) -> dict[int, list[str]]:
    """What the relay did to each message that it did not simply pass on."""
    deeds: dict[int, list[str]] = {}
    for entry in trace.entries:
        match entry.event:
            case ev.MessageSeen(message=number, origin=origin) if origin != "peer":
                told = "forged by cgrace"
            case ev.FaultFired(message=number, fault=fault, what=what) if number:
                told = f"{fault}: {what}"
            case ev.MessageHeld(message=number, hold=hold, behind=behind):
                told = f"held behind what {hold} holds" if behind else f"held by {hold}"
            case ev.MessageDropped(message=number, fault=fault):
                told = f"never delivered: {fault}"
            case _:
                continue
        deeds.setdefault(number, []).append(told)
    return deeds


# ---- blocks


def _padded(data: bytes) -> bytes:
    return data + b"\0" * (-len(data) % 4)


def _option(code: int, value: bytes) -> bytes:
    return struct.pack("<HH", code, len(value)) + _padded(value)


def _text(code: int, text: str) -> bytes:
    return _option(code, inert_line(text).encode()[:OPTION_BYTES_MAX].decode(errors="ignore").encode())


def _options(options: Iterable[bytes]) -> bytes:
    found = b"".join(options)
    return found + _option(_END, b"") if found else b""


def _block(kind: int, body: bytes) -> bytes:
    length = 12 + len(body)
    return struct.pack("<II", kind, length) + body + struct.pack("<I", length)


def _section(trace: Trace) -> bytes:
    about = f"{trace.head.command or 'a cgrace run'}; times are {trace.head.clock}"
    options = _options([_text(_COMMENT, about), _text(_APPLICATION, f"cgrace {__version__}")])
    return _block(_SECTION, struct.pack("<IHHq", _BYTE_ORDER, 1, 0, -1) + options)


def _interface(name: str, process: str) -> bytes:
    options = [_text(_NAME, name), _option(_RESOLUTION, _NANOSECONDS)]
    options += [_text(_DESCRIPTION, f"of {process}")] if process else []
    return _block(_INTERFACE, struct.pack("<HHI", LINKTYPE_DBUS, 0, 0) + _options(options))


def _packet(interface: int, t_ns: int, event: ev.MessageSeen, deeds: list[str]) -> bytes:
    data = raw_of(event)
    way = _INBOUND if event.direction is ev.Direction.TO_DRIVER else _OUTBOUND
    options = [_option(_FLAGS, struct.pack("<I", way))]
    options += [_text(_COMMENT, "; ".join(deeds))] if deeds else []
    time = t_ns & 0xFFFF_FFFF_FFFF_FFFF
    length = max(min(event.size, 0xFFFF_FFFF), len(data))
    head = struct.pack("<IIIII", interface, time >> 32, time & 0xFFFF_FFFF, len(data), length)
    return _block(_PACKET, head + _padded(data) + _options(options))
