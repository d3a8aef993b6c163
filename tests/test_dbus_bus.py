"""The embedded bus, match rules, and what messages say to systemd."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cgrace.harness.dbus import systemd1
from cgrace.harness.dbus.auth import ClientAuth
from cgrace.harness.dbus.bus import PENDING_REPLIES_MAX, EmbeddedBus
from cgrace.harness.dbus.codec import encode
from cgrace.harness.dbus.frames import Framer
from cgrace.harness.dbus.match import MatchRuleError, parse_rule
from cgrace.harness.dbus.message import Message, MessageFlag, MessageType, Variant
from cgrace.harness.dbus.roster import Outgoing
from cgrace.harness.dbus.systemd1 import BUS_NAME, MANAGER, NAME, PATH, view
from cgrace.harness.errors import ProtocolError

CALM = settings(deadline=None, max_examples=60)  # a busy machine is no failure


class Silent:
    """A service that answers nothing by itself and remembers what it was told."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, Message]] = []
        self.gone: list[str] = []

    def call(self, sender: str, message: Message) -> list[Message]:
        self.calls.append((sender, message))
        return []

    def peer_gone(self, sender: str) -> list[Message]:
        self.gone.append(sender)
        return []


def to_bus(serial: int, member: str, signature: str = "", *body: Any, interface: str = BUS_NAME) -> Message:
    """A call to the bus itself."""
    return Message(
        type=MessageType.CALL,
        serial=serial,
        path="/org/freedesktop/DBus",
        interface=interface,
        member=member,
        destination=BUS_NAME,
        signature=signature,
        body=body,
    )


def to_systemd(serial: int, member: str = "GetUnit", *body: Any, flags: MessageFlag = MessageFlag.NONE) -> Message:
    """A call to systemd."""
    return Message(
        type=MessageType.CALL,
        serial=serial,
        flags=flags,
        path=PATH,
        interface=MANAGER,
        member=member,
        destination=NAME,
        signature="s" * len(body),
        body=body,
    )


def joined(bus: EmbeddedBus) -> int:
    """A client that has said Hello."""
    conn = bus.connect(pid=4, uid=5)
    bus.receive(conn, to_bus(1, "Hello"))
    return conn


def signal(member: str = "JobRemoved", *body: Any) -> Message:
    """A signal of systemd's manager with texts."""
    return Message(
        type=MessageType.SIGNAL, path=PATH, interface=MANAGER, member=member, signature="s" * len(body), body=body
    )


@pytest.fixture
def silent() -> Silent:
    return Silent()


@pytest.fixture
def bus(silent: Silent) -> EmbeddedBus:
    return EmbeddedBus({NAME: silent})


def test_hello_then_everything_else(bus: EmbeddedBus) -> None:
    """Before Hello the bus refuses, and hangs up on who talks to others."""
    conn = bus.connect()
    (refused,) = bus.receive(conn, to_bus(1, "ListNames"))
    assert refused.message.error_name.endswith("AccessDenied")
    with pytest.raises(ProtocolError):
        bus.receive(conn, to_systemd(2))
    answers = [item.message for item in bus.receive(conn, to_bus(3, "Hello"))]
    assert [(m.member, m.body) for m in answers] == [("", (":1.1",)), ("NameAcquired", (":1.1",))]
    assert answers[0].destination == ":1.1" and bus.unique_name(conn) == ":1.1"


def test_broadcast_once_to_each_that_matches(bus: EmbeddedBus) -> None:
    """Two rules that match give one message; a rule removed once of twice still matches."""
    first, second = joined(bus), joined(bus)
    rules = ["type='signal',member='JobRemoved'", f"sender='{NAME}'", f"type='signal',sender='{NAME}'"]
    for rule in [rules[0], *rules]:
        bus.receive(first, to_bus(2, "AddMatch", "s", rule))
    out = bus.emit(NAME, signal())
    assert [item.conn for item in out] == [first]
    assert out[0].message.sender == ":1.0" and out[0].message.serial == 1
    for rule in (rules[0], rules[1], rules[2]):
        bus.receive(first, to_bus(3, "RemoveMatch", "s", rule))
    assert len(bus.match_rules(first)) == 1
    assert len(bus.emit(NAME, signal())) == 1
    bus.receive(first, to_bus(4, "RemoveMatch", "s", rules[0]))
    assert bus.emit(NAME, signal()) == []
    (error,) = bus.receive(second, to_bus(4, "RemoveMatch", "s", rules[0]))
    assert error.message.error_name.endswith("MatchRuleNotFound")


def test_calls_answers_and_who_waits(bus: EmbeddedBus, silent: Silent) -> None:
    """An answer reaches its caller once; nobody gets one that is not waited for."""
    conn = joined(bus)
    assert bus.receive(conn, to_systemd(7, "GetUnit", "a.slice")) == []
    sender, call = silent.calls[0]
    assert (sender, call.sender, call.body) == (":1.1", ":1.1", ("a.slice",))
    reply = systemd1.reply_to(call, "o", ("/x",))
    (out,) = bus.emit(NAME, reply)
    assert (out.conn, out.message.reply_serial, out.message.sender) == (conn, 7, ":1.0")
    assert bus.emit(NAME, reply) == []
    bus.receive(conn, to_systemd(8, flags=MessageFlag.NO_REPLY_EXPECTED))
    assert bus.emit(NAME, systemd1.reply_to(silent.calls[1][1])) == []


def test_no_more_than_128_calls_wait(bus: EmbeddedBus) -> None:
    """The 129th call without an answer is refused, as on dbus-daemon's system bus; so is a serial that is in use."""
    conn = joined(bus)
    for serial in range(2, PENDING_REPLIES_MAX + 2):
        assert bus.receive(conn, to_systemd(serial)) == []
    (refused,) = bus.receive(conn, to_systemd(5000))
    assert refused.message.error_name.endswith("LimitsExceeded")
    (again,) = bus.receive(conn, to_systemd(2))
    assert again.message.error_name.endswith("AccessDenied")


def test_a_service_that_goes_and_comes_back(bus: EmbeddedBus, silent: Silent) -> None:
    """Calls in flight end as NoReply, the name changes hands, later calls find the new one."""
    conn = joined(bus)
    bus.receive(conn, to_bus(2, "AddMatch", "s", "member='NameOwnerChanged',arg0='org.freedesktop.systemd1'"))
    bus.receive(conn, to_systemd(3))
    gone = [item.message for item in bus.service_gone(NAME)]
    assert gone[0].error_name.endswith("NoReply") and gone[0].reply_serial == 3
    assert gone[1].body == (NAME, ":1.0", "")
    (unknown,) = bus.receive(conn, to_systemd(4))
    assert unknown.message.error_name.endswith("ServiceUnknown")
    assert bus.emit(NAME, signal()) == []
    assert [item.message.body for item in bus.service_back(NAME, silent)] == [(NAME, "", ":1.2")]
    assert bus.receive(conn, to_systemd(5)) == [] and len(silent.calls) == 2


def test_a_client_that_goes(bus: EmbeddedBus, silent: Silent) -> None:
    """The service and those who match are told; names go to who waits for them."""
    first, second = joined(bus), joined(bus)
    bus.receive(second, to_bus(2, "AddMatch", "s", "member='NameOwnerChanged'"))
    assert bus.receive(first, to_bus(2, "RequestName", "su", "a.b", 0))[-1].message.body == (1,)
    assert bus.receive(second, to_bus(3, "RequestName", "su", "a.b", 0))[-1].message.body == (2,)
    bodies = [item.message.body for item in bus.disconnect(first)]
    assert bodies == [("a.b", ":1.1", ":1.2"), ("a.b",), (":1.1", ":1.1", "")]
    assert silent.gone == [":1.1"] and bus.disconnect(first) == []


def test_clients_talk_to_each_other(bus: EmbeddedBus) -> None:
    """Calls, answers and signals to a unique name arrive there, stamped."""
    first, second = joined(bus), joined(bus)
    call = Message(type=MessageType.CALL, serial=9, path="/", member="X", destination=":1.2", sender="a.lie")
    (out,) = bus.receive(first, call)
    assert (out.conn, out.message.sender) == (second, ":1.1")
    (answer,) = bus.receive(second, systemd1.reply_to(out.message, serial=4))
    assert (answer.conn, answer.message.sender) == (first, ":1.2")
    told = Message(type=MessageType.SIGNAL, serial=5, path="/", interface="a.b", member="S", destination=":1.1")
    assert [item.conn for item in bus.receive(second, told)] == [first]


# ---- the same questions to a real dbus-daemon

QUESTIONS: list[tuple[str, str, tuple[Any, ...]]] = [
    ("Hello", "", ()),
    ("GetNameOwner", "s", ("a.b",)),
    ("GetNameOwner", "s", (BUS_NAME,)),
    ("NameHasOwner", "s", ("a.b",)),
    ("GetConnectionUnixUser", "s", ("a.b",)),
    ("GetConnectionUnixProcessID", "s", ("a.b",)),
    ("GetConnectionCredentials", "s", ("a.b",)),
    ("RequestName", "su", ("a.b", 0)),
    ("RequestName", "su", ("a.b", 4)),
    ("RequestName", "su", ("..", 0)),
    ("RequestName", "su", (":1.5", 0)),
    ("RequestName", "su", (BUS_NAME, 0)),
    ("ListQueuedOwners", "s", ("a.c",)),
    ("ReleaseName", "s", ("a.b",)),
    ("ReleaseName", "s", ("a.c",)),
    ("ReleaseName", "s", (BUS_NAME,)),
    ("ReleaseName", "s", (":1.0",)),
    ("ReleaseName", "s", ("..",)),
    ("StartServiceByName", "su", ("a.b", 0)),
    ("ListActivatableNames", "", ()),
    ("Foo", "", ()),
    ("GetNameOwner", "u", (1,)),
    ("GetNameOwner", "", ()),
    ("RemoveMatch", "s", ("type='signal'",)),
]
RULES = """
type='signal'|type=signal|type='foo'|foo='bar'|type|type=|=x|type='signal|type='signal',type='signal'|sender='..'|sender=':1.5'
interface='a'|member='a.b'|path='a'|path='/a/'|path_namespace='/a/'|path='/',path_namespace='/'|destination='..'|argx='1'
arg='1'|arg64='1'|arg63='1'|arg0='a',arg0='b'|arg0path='/a/',arg0='x'|arg0namespace='a'|arg0namespace='..'|arg1namespace='a'
arg0foo='a'|eavesdrop='x'| type='signal' , member='X' |type='signal',|type='signal',,member='X'|arg0=\\'|arg0='\\'
arg0=a'b,c'd|arg0path='a'|arg999999999999='a'|member=''|arg01='a'|arg0=''|type='error'|type='invalid'|type='signal' member='X'
""".strip().replace("\n", "|").split("|")  # fmt: skip
QUESTIONS += [("AddMatch", "s", (rule,)) for rule in ["", "x" * 1030, *RULES]]


def test_the_same_answers_as_dbus_daemon(tmp_path: Path, bus: EmbeddedBus) -> None:
    """Every question gets the error name, text and values that a real dbus-daemon gives, in one conversation."""
    if shutil.which("dbus-daemon") is None:
        pytest.skip("dbus-daemon is not installed")
    calls = [to_bus(serial, *question[:2], *question[2]) for serial, question in enumerate(QUESTIONS, 2)]
    theirs = asyncio.run(_ask_daemon(tmp_path, [to_bus(1, "Hello"), *calls]))
    conn = joined(bus)
    for call in calls:
        ours = [o.message for o in bus.receive(conn, call) if o.message.type is not MessageType.SIGNAL]
        said = [(m.error_name, m.signature, m.body) for m in ours]
        assert said == [_names_as_ours(theirs[call.serial])], call.body


def _names_as_ours(message: Message) -> tuple[str, str, tuple[Any, ...]]:
    """There the client is :1.0, here :1.1, behind systemd."""
    body = tuple(value.replace('":1.0" is not allowed', '":1.1" is not allowed') if isinstance(value, str) else value
                 for value in message.body)  # fmt: skip
    return message.error_name, message.signature, body


async def _ask_daemon(path: Path, calls: list[Message]) -> dict[int, Message]:
    config = path / "bus.conf"
    config.write_text(
        f"<busconfig><listen>unix:path={path}/real</listen><policy context='default'>"
        "<allow send_destination='*'/><allow own='*'/><allow receive_sender='*'/></policy></busconfig>"
    )
    process = await asyncio.create_subprocess_exec(
        "dbus-daemon", f"--config-file={config}", "--nofork", "--nopidfile", "--print-address",
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL,
    )  # fmt: skip
    answers: dict[int, Message] = {}
    try:
        assert process.stdout is not None
        await process.stdout.readline()
        reader, writer = await asyncio.open_unix_connection(path / "real")
        auth, framer = ClientAuth(0), Framer()
        writer.write(auth.start())
        async with asyncio.timeout(20):
            while not auth.done:
                writer.write(auth.feed(await reader.read(4096)))
            writer.write(b"".join(map(encode, calls)))
            while len(answers) < len(calls):
                for frame in framer.feed(await reader.read(65536)):
                    if frame.message.reply_serial:
                        answers[frame.message.reply_serial] = frame.message
        writer.close()
    finally:
        process.kill()
        await process.wait()
    return answers


# ---- match rules


@pytest.mark.parametrize(
    ("rule", "matches"),
    [
        ("", True),
        ("type='signal'", True),
        ("type='error'", False),
        ("sender='org.freedesktop.systemd1'", True),
        ("sender=':1.0'", True),
        ("sender=':1.1'", False),
        ("path='/org/freedesktop/systemd1'", True),
        ("path_namespace='/org/freedesktop'", True),
        ("path_namespace='/org/free'", False),
        ("path_namespace='/'", True),
        ("member='JobRemoved',interface='org.freedesktop.systemd1.Manager'", True),
        ("arg0='a.b.c'", True),
        ("arg1='/x/y'", True),
        ("arg0='a'", False),
        ("arg2='a'", False),
        ("arg0namespace='a.b'", True),
        ("arg0namespace='a.'", None),
        ("arg0namespace='a'", True),
        ("arg0namespace='a.b.c.d'", False),
        ("arg1path='/x/'", True),
        ("arg1path='/x'", False),
        ("arg1path='/x/y'", True),
        ("destination=':1.1'", False),
    ],
)
def test_which_messages_a_rule_picks(rule: str, matches: bool | None) -> None:
    """A table of rules against one signal (None: no rule)."""
    if matches is None:
        with pytest.raises(MatchRuleError):
            parse_rule(rule)
        return
    assert parse_rule(rule).matches(signal("JobRemoved", "a.b.c", "/x/y"), (":1.0", NAME)) is matches


@given(st.text(st.sampled_from("type='signal',arg0path=/a.b\\ namespace1"), max_size=40) | st.text(max_size=20))
@CALM
def test_rules_parse_or_are_refused(text: str) -> None:
    """Any text is a rule or a MatchRuleError, and the same text is the same rule."""
    with contextlib.suppress(MatchRuleError):
        assert parse_rule(text) == parse_rule(text)


# ---- what messages say to systemd


@pytest.mark.parametrize(
    ("unit", "label"),
    [("1abc.scope", "_31abc_2escope"), ("a_b.scope", "a_5fb_2escope"), ("t1-a.scope", "t1_2da_2escope"), ("", "_")],
)
def test_labels(unit: str, label: str) -> None:
    """As bus_label_escape does it."""
    assert systemd1.escape_label(unit) == label
    assert systemd1.unescape_label(label) == unit
    assert systemd1.unit_of_path(systemd1.unit_path(unit)) == unit


@given(st.text(st.characters(codec="utf-8")))
@CALM
def test_labels_come_back(unit: str) -> None:
    """Every name survives, and a label is part of a valid path."""
    assert systemd1.unescape_label(systemd1.escape_label(unit)) == unit
    Message(type=MessageType.CALL, path=systemd1.unit_path(unit))


def test_views_of_calls_and_answers() -> None:
    """The unit of an answer is that of its call; a job's path is found in it."""
    properties = [["Description", Variant(signature="s", value="x")], ["PIDs", Variant(signature="au", value=[1, 2])]]
    call = Message(
        type=MessageType.CALL, serial=1, path=PATH, interface=MANAGER, member="StartTransientUnit",
        signature="ssa(sv)a(sa(sv))", body=("a.slice", "replace", properties, []),
    )  # fmt: skip
    seen = view(call)
    assert (seen.kind, seen.member, seen.unit) == ("call", "StartTransientUnit", "a.slice")
    assert seen.text == "a.slice, replace, [Description=x, PIDs=[1, 2]], []"
    assert systemd1.property_value(call, 2, "PIDs") == [1, 2]
    reply = view(systemd1.reply_to(call, "o", (systemd1.job_path(7),)), call)
    assert (reply.kind, reply.member, reply.unit, reply.job) == (
        "reply",
        "StartTransientUnit",
        "a.slice",
        PATH + "/job/7",
    )
    error = view(systemd1.error_to(call, "a.B", "Unit a.slice already exists."), call)
    assert (error.name, error.text, error.unit) == ("a.B", "Unit a.slice already exists.", "a.slice")
    assert view(systemd1.reply_to(call, "u", (5,))).unit == ""


def test_views_of_signals_and_properties() -> None:
    """JobRemoved names unit, job and result; properties are of the unit whose path they are read at."""
    removed = Message(
        type=MessageType.SIGNAL, path=PATH, interface=MANAGER, member="JobRemoved", signature="uoss",
        body=(3, systemd1.job_path(3), "a.slice", "done"),
    )  # fmt: skip
    seen = view(removed)
    assert (seen.unit, seen.job, seen.result) == ("a.slice", PATH + "/job/3", "done")
    path = systemd1.unit_path("x-y.scope")
    get = Message(
        type=MessageType.CALL, path=path, interface=systemd1.PROPERTIES, member="Get", signature="ss", body=("a.b", "C")
    )
    assert view(get).unit == "x-y.scope"
    changed = Message(type=MessageType.SIGNAL, path=path, interface=systemd1.PROPERTIES, member="PropertiesChanged")
    assert view(changed).unit == "x-y.scope"


@given(
    st.lists(
        st.recursive(st.integers() | st.text(max_size=5) | st.binary(max_size=20), st.lists, max_leaves=6), max_size=3
    )
)
@CALM
def test_views_never_fail(body: list[Any]) -> None:
    """Whatever is in a body, a view comes out, and it is short."""
    for kind in MessageType:
        for member in ("StartTransientUnit", "JobRemoved", "X"):
            message = Message(type=kind, path=PATH, interface=MANAGER, member=member, body=tuple(body))
            assert len(view(message, message).text) <= systemd1.TEXT_LENGTH_MAX


def test_outgoing_is_shared() -> None:
    """A broadcast is one message for all, so that it is encoded once."""
    bus = EmbeddedBus({NAME: Silent()})
    conns = [joined(bus), joined(bus)]
    for conn in conns:
        bus.receive(conn, to_bus(2, "AddMatch", "s", ""))
    first, second = bus.emit(NAME, signal())
    assert isinstance(first, Outgoing) and first.message is second.message


def test_what_nobody_can_hear_is_known_beforehand(bus: EmbeddedBus) -> None:
    """`hears` follows the rules as they come and go, whatever it has answered before."""
    assert not bus.hears(NAME, MANAGER, "JobNew")
    conn = joined(bus)
    rule = f"type='signal',sender='{NAME}',interface='{MANAGER}',member='JobNew',arg2='x.slice'"
    assert not bus.hears(NAME, MANAGER, "JobNew")
    bus.receive(conn, to_bus(2, "AddMatch", "s", rule))
    assert bus.hears(NAME, MANAGER, "JobNew") and not bus.hears(NAME, MANAGER, "JobRemoved")
    bus.service_gone(NAME)
    assert not bus.hears(NAME, MANAGER, "JobNew")
    bus.service_back(NAME, Silent())
    assert bus.hears(NAME, MANAGER, "JobNew")
    bus.receive(conn, to_bus(3, "RemoveMatch", "s", rule))
    assert not bus.hears(NAME, MANAGER, "JobNew")
