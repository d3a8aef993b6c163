"""A client's bytes of a connection: what waits for the authentication, and what comes behind it."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from cgrace.harness.dbus import systemd1
from cgrace.harness.dbus.client_stream import ClientStream
from cgrace.harness.dbus.codec import encode
from cgrace.harness.dbus.frames import Framer

OK = b"OK 0123456789abcdef0123456789abcdef\r\n"
CALLS = [encode(systemd1.call_to(systemd1.TO_BUS, "Hello", serial=serial)) for serial in range(1, 5)]


@given(st.integers(0, 4), st.data())
def test_what_is_said_early_comes_in_order(early: int, data: st.DataObject) -> None:
    """Calls made before the bus lets us in are written behind BEGIN, whatever the bus's bytes are cut into, and each once."""
    stream = ClientStream(1000)
    written = b"".join(map(stream.say, CALLS[:early]))
    assert written == b"" and not stream.let_in
    came = OK + CALLS[0] + CALLS[1]
    cuts = sorted(data.draw(st.sets(st.integers(1, len(came) - 1))))
    frames = []
    for start, end in zip([0, *cuts], [*cuts, len(came)], strict=True):
        answer, whole = stream.feed(came[start:end])
        written += answer
        frames += whole
    written += b"".join(map(stream.say, CALLS[early:]))
    assert written == b"BEGIN\r\n" + b"".join(CALLS)
    assert [frame.message.serial for frame in frames] == [1, 2]
    assert stream.let_in and stream.pending == 0


def test_a_call_is_what_it_says() -> None:
    """Destination, object and interface in that order."""
    (frame,) = Framer().feed(encode(systemd1.call_to(systemd1.TO_MANAGER, "StopUnit", "ss", ("a", "b"), serial=7)))
    call = frame.message
    assert (call.destination, call.path, call.interface) == systemd1.TO_MANAGER
    assert (call.member, call.signature, call.body, call.serial) == ("StopUnit", "ss", ("a", "b"), 7)
