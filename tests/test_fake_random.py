"""Properties of the fake systemd over random call sequences: it never breaks, and keeps the rules that clients rely on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fake_world import V1, World, properties, v1_hierarchies, v2_hierarchy
from hypothesis import given, settings
from hypothesis import strategies as st

from cgrace.fakes.systemd.profile import profile_names
from cgrace.harness.dbus.message import Message, MessageType

UNITS = ("cgrace.slice", "cgrace-a.slice", "cgrace-a-b.slice", "cgrace-x.scope", "cgrace-y.scope", "bad", "a--b.slice")
SLICES = ("cgrace.slice", "cgrace-a.slice", "system.slice")
SENDERS = (":1.1", ":1.2")
unit = st.sampled_from(UNITS)
mode = st.sampled_from(("replace", "fail", "replace-irreversibly"))
pids = st.lists(st.integers(100, 111), min_size=0, max_size=2)
own = st.fixed_dictionaries(
    {},
    optional={
        "PIDs": pids,
        "Slice": st.sampled_from(SLICES),
        "Delegate": st.booleans(),
        "CPUAccounting": st.booleans(),
        "BlockIOAccounting": st.booleans(),
        "DevicePolicy": st.sampled_from(("auto", "closed")),
        "Wants": st.lists(unit, max_size=1),
        "After": st.lists(unit, max_size=1),
        "AddRef": st.booleans(),
    },
)
action = st.one_of(
    st.tuples(st.just("start"), unit, mode, own),
    st.tuples(st.just("stop"), unit, mode),
    st.tuples(
        st.sampled_from(("reset", "ref", "unref", "load", "freeze", "thaw", "reload", "subscribe", "settle")), unit
    ),
    st.tuples(st.sampled_from(("stay", "let go", "cgroups", "fail", "read", "kill")), unit),
    st.tuples(st.just("exit"), st.integers(100, 109)),
    st.tuples(st.just("gone"), st.sampled_from(SENDERS)),
    st.tuples(st.just("time"), st.integers(1, 100)),
)
_SIMPLE = {"reset": "ResetFailedUnit", "ref": "RefUnit", "unref": "UnrefUnit", "load": "LoadUnit"}
_SIMPLE |= {"freeze": "FreezeUnit", "thaw": "ThawUnit"}


class Client:
    """Carries out actions."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.freezing: set[int] = set()

    def act(self, what: tuple[Any, ...], sender: str) -> None:
        """One action."""
        match what:
            case ("start", name, how, asked):
                array = properties(**asked)
                self.call("StartTransientUnit", "ssa(sv)a(sa(sv))", name, how, array, [], sender=sender)
            case ("stop", name, how):
                self.call("StopUnit", "ss", name, how, sender=sender)
            case (("reload" | "subscribe") as word, _):
                self.call(word.capitalize(), "", sender=sender)
            case ("kill", name):
                self.call("KillUnit", "ssi", name, "all", 9, sender=sender)
            case (word, name) if word in _SIMPLE:
                self.call(_SIMPLE[word], "s", name, sender=sender)
            case (word, value):
                self.happen(word, value)

    def happen(self, word: str, value: Any) -> None:
        """What is no call."""
        world, manager = self.world, self.world.manager
        happenings: dict[str, Callable[[], object]] = {
            "read": lambda: world.get(value, "Unit", "ActiveState"),
            "settle": world.settle,
            "stay": lambda: manager.stay_queued(value),
            "let go": lambda: manager.let_go(value),
            "fail": lambda: manager.end_job(value, "failed"),
            "cgroups": lambda: world.make_everywhere(f"/cgrace.slice/{value}/sub"),
            "exit": lambda: world.tree.exit(value),
            "gone": lambda: world.wire.extend(manager.peer_gone(value)),
            "time": lambda: world.wire.extend(manager.elapsed(value * 10**9)),
        }
        happenings[word]()

    def call(self, member: str, signature: str, *body: object, sender: str) -> None:
        """A call has exactly one answer; one that freezes or thaws has it later."""
        messages = self.world.send(member, signature, *body, sender=sender)
        answers = [each for each in messages if each.type is not MessageType.SIGNAL]
        if member in ("FreezeUnit", "ThawUnit"):
            self.freezing.add(self.world.serial)
        answers = [each for each in answers if each.reply_serial not in self.freezing - {self.world.serial}]
        if answers or member not in ("FreezeUnit", "ThawUnit"):
            assert [each.reply_serial for each in answers] == [self.world.serial]


def check_jobs(seen: list[Message]) -> None:
    """Ids are unique; a job is removed once at most, after its JobNew and after every reply that names it.

    A client that joins a job whose JobNew nobody was there to hear gets only JobRemoved, as from a real one.
    """
    new: list[int] = []
    removed: list[int] = []
    for each in seen:
        if each.member == "JobNew":
            assert each.body[0] not in removed
            new.append(each.body[0])
        elif each.member == "JobRemoved":
            removed.append(each.body[0])
        elif each.type is MessageType.REPLY and each.signature == "o" and "/job/" in each.body[0]:
            assert int(each.body[0].rpartition("/")[2]) not in removed
    assert len(set(new)) == len(new)
    assert len(set(removed)) == len(removed)


@settings(max_examples=150, deadline=None)
@given(
    profile=st.sampled_from(profile_names()),
    v2=st.booleans(),
    actions=st.lists(st.tuples(action, st.sampled_from(SENDERS)), max_size=25),
)
def test_any_sequence(profile: str, v2: bool, actions: list[Any]) -> None:
    """Whatever is asked in whatever order: one answer a call, each job ends once, and nothing is left after all is stopped."""
    layout = v2_hierarchy() if v2 and not profile.startswith("219") else v1_hierarchies()
    world = World(profile, hierarchies=layout)
    booted = set(world.manager.loaded_units())
    client = Client(world)
    for what, sender in actions:
        client.act(what, sender)
    tear_down(world, client)
    check_jobs(world.wire)
    assert world.manager.queued_jobs() == ()
    assert set(world.manager.loaded_units()) - booted == set()


def tear_down(world: World, client: Client) -> None:
    """Let every gate go, thaw, stop and reset all, let every client leave."""
    for name in UNITS:
        world.manager.let_go(name)
    for name in UNITS:
        client.call("ThawUnit", "s", name, sender=":1.3")
    client.call("Reload", "", sender=":1.3")  # a unit whose making anew was refused cannot be stopped before that
    world.settle()
    for name in UNITS:
        client.call("ThawUnit", "s", name, sender=":1.3")
        client.call("StopUnit", "ss", name, "replace", sender=":1.3")
        world.settle()
    for name in UNITS:
        client.call("ResetFailedUnit", "s", name, sender=":1.3")
    for sender in SENDERS:
        world.wire += world.manager.peer_gone(sender)
    world.settle()


@settings(max_examples=50, deadline=None)
@given(
    held=st.sampled_from(("cgrace.slice", "cgrace-a.slice", "cgrace-x.scope")),
    profile=st.sampled_from(("219-rhel7", "257")),
)
def test_realised_again_changes_nothing(held: str, profile: str) -> None:
    """Whichever job was late, the same units end up with the same cgroups, when nobody else touches the tree."""

    def end_state(late: str) -> dict[str, set[str]]:
        world = World(profile)
        if late:
            world.manager.stay_queued(late)
        world.start("cgrace-a.slice", CPUAccounting=True)
        world.start("cgrace-x.scope", PIDs=[100], Slice="cgrace.slice")
        world.settle()
        world.manager.let_go(late)
        world.settle()
        return {path: world.where(path) for path in ("/cgrace.slice/cgrace-a.slice", "/cgrace.slice/cgrace-x.scope")}

    assert end_state(held) == end_state("")
    assert "cpuset" not in set().union(*end_state(held).values())
    assert set(V1) >= set().union(*end_state(held).values())
