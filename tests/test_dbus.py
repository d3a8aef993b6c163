"""The D-Bus core: codec, frames, authentication. Any bytes give messages or a ProtocolError, nothing else."""

from __future__ import annotations

import asyncio
import contextlib
import io
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cgrace.harness.dbus import codec
from cgrace.harness.dbus.auth import ClientAuth, ServerAuth
from cgrace.harness.dbus.codec import decode, decode_header, encode, rewrite_serial
from cgrace.harness.dbus.frames import Frame, Framer
from cgrace.harness.dbus.message import Message, MessageFlag, MessageType, Variant
from cgrace.harness.dbus.signature import Node, parse_signature, split_signature
from cgrace.harness.errors import ProtocolError

CALM = settings(deadline=None, max_examples=60)  # a busy machine is no failure

# ---- messages of random signatures

TEXTS = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=12)
PATHS = st.lists(st.text("abXY09_", min_size=1, max_size=4), max_size=3).map(lambda parts: "/" + "/".join(parts))
SIGNATURES = st.recursive(
    st.sampled_from("ybnqiuxtdsogv"),
    lambda inner: st.one_of(
        inner.map(lambda one: "a" + one),
        st.lists(inner, min_size=1, max_size=3).map(lambda many: "(" + "".join(many) + ")"),
        st.tuples(st.sampled_from("ybnqiuxtsog"), inner).map(lambda pair: "a{" + "".join(pair) + "}"),
    ),
    max_leaves=6,
)
BITS = {"n": (True, 16), "q": (False, 16), "i": (True, 32), "u": (False, 32), "x": (True, 64), "t": (False, 64)}


def values(node: Node) -> st.SearchStrategy[Any]:
    """Values of a type as message.py says."""
    code = node.code
    if code in BITS:
        signed, bits = BITS[code]
        low = -(1 << (bits - 1)) if signed else 0
        return st.integers(low, low + (1 << bits) - 1)
    simple: dict[str, st.SearchStrategy[Any]] = {
        "y": st.integers(0, 255),
        "h": st.integers(0, 9),
        "b": st.booleans(),
        "d": st.floats(allow_nan=False),
        "s": TEXTS,
        "o": PATHS,
        "g": SIGNATURES,
    }
    if code in simple:
        return simple[code]
    if code == "v":
        return SIGNATURES.flatmap(
            lambda text: values(parse_signature(text)[0]).map(lambda value: Variant(signature=text, value=value))
        )
    if code == "(":
        return st.tuples(*map(values, node.children)).map(list)
    item = node.children[0]
    if item.code == "y":
        return st.binary(max_size=9)
    if item.code == "e":
        key, value = item.children
        return st.dictionaries(values(key), values(value), max_size=3)
    return st.lists(values(item), max_size=3)


@st.composite
def messages(draw: st.DrawFn) -> Message:
    """Valid messages of every type and both byte orders."""
    kind = draw(st.sampled_from(MessageType))
    signature = "".join(draw(st.lists(SIGNATURES, max_size=3)))
    body = tuple(draw(values(node)) for node in parse_signature(signature))
    calls = kind in (MessageType.CALL, MessageType.SIGNAL)
    names = st.sampled_from(["", ":1.7", "org.example.Name"])
    return Message(
        type=kind,
        serial=draw(st.integers(1, (1 << 32) - 1)),
        flags=MessageFlag(draw(st.integers(0, 7))),
        path=draw(PATHS) if calls else "",
        interface=draw(st.sampled_from(["a.b", "org.freedesktop.systemd1.Manager"])) if calls else "",
        member="Do" if calls else "",
        error_name="a.b.Error" if kind is MessageType.ERROR else "",
        reply_serial=0 if calls else draw(st.integers(1, (1 << 32) - 1)),
        destination=draw(names),
        sender=draw(names),
        signature=signature,
        body=body,
        fds=draw(st.integers(0, 3)),
        little_endian=draw(st.booleans()),
    )


@given(messages())
@CALM
def test_round_trip(message: Message) -> None:
    """What is encoded decodes to itself, in both byte orders; the header alone says the same."""
    raw = encode(message)
    assert decode(raw) == message
    assert (decode_header(raw).signature, decode_header(raw).sender) == (message.signature, message.sender)
    assert decode(rewrite_serial(raw, 77)).serial == 77


def ours(value: Any) -> Any:
    """A value of dbus-fast's as one of ours."""
    from dbus_fast import Variant as Theirs

    if isinstance(value, Theirs):
        return Variant(signature=value.signature, value=ours(value.value))
    if isinstance(value, (list, tuple)):
        return [ours(item) for item in value]
    if isinstance(value, dict):
        return {key: ours(item) for key, item in value.items()}
    return value


@given(messages())
@CALM
def test_dbus_fast_reads_the_same(message: Message) -> None:
    """An independent implementation reads what we write, in both byte orders."""
    from dbus_fast._private.unmarshaller import Unmarshaller

    stream: Any = io.BytesIO(encode(message))
    theirs = Unmarshaller(stream).unmarshall()
    assert theirs is not None
    assert (theirs.serial, theirs.sender or "", theirs.signature) == (message.serial, message.sender, message.signature)
    assert tuple(ours(value) for value in theirs.body) == message.body


@given(messages(), st.data())
@CALM
def test_mutated_messages_decode_or_are_refused(message: Message, data: st.DataObject) -> None:
    """A few bytes changed, cut or added: a message, or a ProtocolError; what is accepted encodes again."""
    raw = bytearray(encode(message))
    for _ in range(data.draw(st.integers(1, 4))):
        index = data.draw(st.integers(0, len(raw) - 1))
        match data.draw(st.sampled_from(["set", "cut", "add"])):
            case "set":
                raw[index] = data.draw(st.integers(0, 255))
            case "cut" if len(raw) > 1:
                del raw[index]
            case _:
                raw.insert(index, data.draw(st.integers(0, 255)))
    for read in (decode, decode_header):
        try:
            again = read(bytes(raw))
        except ProtocolError:
            continue
        if read is decode:
            encode(again)


@given(st.binary(max_size=200))
@CALM
def test_noise_is_refused(noise: bytes) -> None:
    """Bytes of any kind raise nothing but ProtocolError, whole and as a stream."""
    for start in (b"", b"l\1\0\1", b"B\2\0\1\0\0\0\0\0\0\0\1\0\0\0\x08"):
        with contextlib.suppress(ProtocolError):
            decode(start + noise)
        try:
            for frame in Framer().feed(start + noise):
                _ = frame.message
        except ProtocolError:
            pass


@pytest.mark.parametrize(
    ("signature", "values_", "said"),
    [
        ("s", (5,), "argument 0"),
        ("u", (-1,), "argument 0"),
        ("u", ("x",), "argument 0"),
        ("as", ("abc",), "not a list"),
        ("v", ("x",), "not a Variant"),
        ("(su)", (["x"],), "struct of 2"),
        ("s", (), "0 arguments"),
        ("a", ([],), "no complete type"),
        ("o", ("x",), "not an object path"),
        ("s", ("a\0b",), "NUL"),
        ("y", (256,), "argument 0"),
        ("b", (2,), "boolean"),
        ("a{sv}", ([],), "not a dict"),
        ("s", ("\ud800",), "argument 0"),
        ("v", (Variant(signature="ss", value=""),), "not one complete type"),
    ],
)
def test_values_that_do_not_fit(signature: str, values_: tuple[Any, ...], said: str) -> None:
    """A body that is not what its signature says is refused with the argument named."""
    message = Message(type=MessageType.REPLY, serial=1, reply_serial=1, signature=signature, body=values_)
    with pytest.raises(ProtocolError, match=said):
        encode(message)


@pytest.mark.parametrize(
    "signature",
    [
        "(",
        ")",
        "()",
        "a",
        "{sv}",
        "a{vs}",
        "a{s}",
        "a{sss}",
        "a{sv",
        "z",
        "s" * 256,
        "a" * 33 + "s",
        "(" * 33 + "s" + ")" * 33,
    ],
)
def test_bad_signatures(signature: str) -> None:
    """What the specification does not allow is refused."""
    with pytest.raises(ProtocolError):
        parse_signature(signature)


def test_deep_nesting_is_bounded() -> None:
    """Variants in variants end at the specification's 64 levels, not at the interpreter's."""
    value = Variant(signature="s", value="")
    for _ in range(100):
        value = Variant(signature="v", value=value)
    raw = encode(Message(type=MessageType.REPLY, serial=1, reply_serial=1, signature="v", body=(value,)))
    with pytest.raises(ProtocolError, match="deeper"):
        decode(raw)


def test_signatures_split() -> None:
    """Complete types as texts."""
    assert split_signature("sa{sv}(uu)as") == ["s", "a{sv}", "(uu)", "as"]


# ---- frames

SIMPLE = Message(type=MessageType.SIGNAL, serial=1, path="/a", interface="a.b", member="C", signature="s", body=("x",))


@given(st.lists(messages(), max_size=5), st.lists(st.integers(1, 40), min_size=1))
@settings(max_examples=50, deadline=None)
def test_any_chunking_gives_the_same_frames(many: list[Message], sizes: list[int]) -> None:
    """However a stream is cut, the frames are those that were sent, bytes and all; descriptors go by their headers."""
    stream = b"".join(map(encode, many))
    fds = list(range(100, 100 + sum(message.fds for message in many)))
    framer, frames, position, turn = Framer(), [], 0, 0
    while position < len(stream):
        size = sizes[turn % len(sizes)]
        frames += framer.feed(stream[position : position + size], fds if turn == 0 else ())
        position, turn = position + size, turn + 1
    assert [frame.message for frame in frames] == many
    assert [fd for frame in frames for fd in frame.fds] == fds
    assert framer.pending == 0


@pytest.mark.parametrize(
    ("start", "said"),
    [
        (b"x", "byte order"),
        (b"l\1\0\2" + bytes(12), "version"),
        (b"l\5\0\1" + bytes(12), "type"),
        (b"l\1\0\1" + bytes(12), "serial 0"),
        (b"l\1\0\1\xff\xff\xff\x0f\1\0\0\0\0\0\0\0", "a message of"),
        (b"B\1\0\1\0\0\0\0\0\0\0\1\x08\0\0\0", "a header of"),
    ],
)
def test_what_no_message_begins_with(start: bytes, said: str) -> None:
    """The framer refuses at the earliest byte that shows it, keeps whole frames before it, and stays refused."""
    framer = Framer()
    assert len(framer.feed(encode(SIMPLE) + start)) == 1
    for _ in range(2):
        with pytest.raises(ProtocolError, match=said):
            framer.feed(b"")


def test_descriptors_that_are_announced_and_missing() -> None:
    """A header may not promise descriptors that did not come."""
    raw = encode(Message(type=MessageType.REPLY, serial=1, reply_serial=1, fds=2))
    with pytest.raises(ProtocolError, match="announces 2"):
        Framer().feed(raw, [7])


def test_a_frame_of_ours_is_not_decoded_again() -> None:
    """Frame.of keeps the message that it encoded."""
    frame = Frame.of(SIMPLE)
    assert frame.message is SIMPLE
    assert frame.with_serial(9).message.serial == 9
    assert codec.serial_of(frame.raw) == 1


def test_a_large_message() -> None:
    """32 MiB in pieces of 64 KiB take no time to speak of."""
    raw = encode(Message(type=MessageType.REPLY, serial=1, reply_serial=1, signature="ay", body=(bytes(1 << 25),)))
    framer, frames = Framer(), []
    for start in range(0, len(raw), 1 << 16):
        frames += framer.feed(raw[start : start + (1 << 16)])
    assert len(frames) == 1 and len(frames[0].message.body[0]) == 1 << 25


# ---- authentication

GUID = "0" * 32
OK = f"OK {GUID}\r\n".encode()


@pytest.mark.parametrize(
    ("sent", "answered", "fds"),
    [
        (b"\0AUTH EXTERNAL 30\r\nBEGIN\r\n", OK, False),
        (b"\0AUTH EXTERNAL\r\nDATA\r\nBEGIN\r\n", b"DATA\r\n" + OK, False),
        (b"\0AUTH EXTERNAL\r\nDATA\r\nNEGOTIATE_UNIX_FD\r\nBEGIN\r\n", b"DATA\r\n" + OK + b"AGREE_UNIX_FD\r\n", True),
        (b"\0AUTH EXTERNAL\r\nDATA 30\r\nBEGIN\r\n", b"DATA\r\n" + OK, False),
        (b"\0AUTH\r\nAUTH EXTERNAL 30\r\nBEGIN\r\n", b"REJECTED EXTERNAL\r\n" + OK, False),
        (b"\0AUTH ANONYMOUS\r\nAUTH EXTERNAL 30\r\nBEGIN\r\n", b"REJECTED EXTERNAL\r\n" + OK, False),
        (b"\0AUTH EXTERNAL zz\r\nAUTH EXTERNAL 30\r\nBEGIN\r\n", b"REJECTED EXTERNAL\r\n" + OK, False),
        (b"\0AUTH EXTERNAL 30\r\nCANCEL\r\nAUTH EXTERNAL 30\r\nBEGIN\r\n", OK + b"REJECTED EXTERNAL\r\n" + OK, False),
        (b"\0AUTH EXTERNAL\r\nERROR\r\nAUTH EXTERNAL 30\r\nBEGIN\r\n", b"DATA\r\nREJECTED EXTERNAL\r\n" + OK, False),
        (b"\0HELO\r\nAUTH EXTERNAL 30\r\nBEGIN\r\n", b'ERROR "Unknown command"\r\n' + OK, False),
        (b"\0NEGOTIATE_UNIX_FD\r\nAUTH EXTERNAL 30\r\nBEGIN\r\n", b'ERROR "Unknown command"\r\n' + OK, False),
    ],
)
@pytest.mark.parametrize("size", [1, 1000])
def test_authentication(sent: bytes, answered: bytes, fds: bool, size: int) -> None:
    """Every way in, at once and byte by byte; what follows BEGIN is left for the framer."""
    auth, out = ServerAuth(GUID), b""
    data = sent + b"l..."
    rest = b""
    for start in range(0, len(data), size):
        if auth.done:
            rest += data[start : start + size]
        else:
            out += auth.feed(data[start : start + size])
    assert (out, auth.done, auth.fds_agreed, auth.leftover + rest) == (answered, True, fds, b"l...")


@pytest.mark.parametrize(
    "sent",
    [
        b"A",
        b"\0BEGIN\r\n",
        b"\0" + b"x" * 20000,
        b"\0AUTH EXTERNAL\r\nBEGIN\r\n",
        b"\0" + b"AUTH X\r\n" * 6,
        b"\0A\xff\r\n",
        b"\0A\0\r\n",
    ],
)
def test_sent_away(sent: bytes) -> None:
    """What ends the connection."""
    with pytest.raises(ProtocolError):
        ServerAuth(GUID).feed(sent)


@given(st.binary(max_size=100))
@CALM
def test_authentication_takes_noise(noise: bytes) -> None:
    """Noise gives answers or a ProtocolError."""
    for start in (b"", b"\0", b"\0AUTH EXTERNAL "):
        with contextlib.suppress(ProtocolError):
            ServerAuth(GUID).feed(start + noise)
        with contextlib.suppress(ProtocolError):
            ClientAuth(0).feed(noise)


@pytest.mark.parametrize("fds", [True, False])
def test_both_sides_joined(fds: bool) -> None:
    """Our client and our server agree, with and without descriptors."""
    client, server = ClientAuth(1000), ServerAuth(GUID, can_pass_fds=fds)
    to_server = client.start()
    while not (client.done and server.done):
        to_server = client.feed(server.feed(to_server))
        if client.done:
            server.feed(to_server)
    assert (server.claimed, client.guid) == ("1000", GUID)
    assert client.fds_agreed is server.fds_agreed is fds


def test_a_bus_that_refuses() -> None:
    """Our client names what it was refused with."""
    with pytest.raises(ProtocolError, match="REJECTED"):
        ClientAuth(0).feed(b"REJECTED EXTERNAL\r\n")


def test_core_needs_no_loop() -> None:
    """The core is used here without an event loop running."""
    with pytest.raises(RuntimeError):
        asyncio.get_running_loop()
