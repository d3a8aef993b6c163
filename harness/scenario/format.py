"""The format of a scenario file as tables of shapes: every key, what it may be, and what it means (scenarios/README.md)."""

from __future__ import annotations

from cgrace.harness.scenario import releases, words
from cgrace.harness.scenario.shapes import (
    ByName,
    Duration,
    Flag,
    Key,
    Many,
    Number,
    Scalar,
    Table,
    Text,
    Verbs,
    Word,
)
from cgrace.harness.scenario.units import UNIT_PATTERN, unit_problem

NAME_PATTERN = r"^[a-z][A-Za-z0-9_-]{0,63}$"
ID_PATTERN = r"^[A-Za-z0-9_.-]{1,64}$"
ROW_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9_'.-]{0,31}$"
ERROR_PATTERN = r"^[A-Za-z_][A-Za-z0-9_]*(\.[A-Za-z_][A-Za-z0-9_]*)+$"
INDEX_PATTERN = r"^[0-9]{1,2}$"
NO_PID = "none"

NAME = Text("a name: a small letter first, then letters, digits, '-' and '_'", NAME_PATTERN)
UNIT = Text("a unit's name", UNIT_PATTERN, unit_problem)
POINT = Text("a point, such as 'first returned' or 'JobRemoved of cgrace-a.slice delivered'")
POINTS = Many(POINT, single=True)
MESSAGES = Text("messages, such as 'JobRemoved of cgrace-a.slice' or 'reply to StopUnit'")
CGROUP = Text("a cgroup, such as 'devices of cgrace-a.slice' or 'devices/cgrace.slice/x'")
GROUP = Text("a unit's name or a cgroup's path, such as 'cgrace-a.slice' or '/cgrace.slice'")
PATIENCE = Duration("none")

SETTING = Table(
    "a setting",
    (
        Key(
            "profile", Word(words.PROFILES, "a systemd profile"), "which systemd, by version and vendor", required=True
        ),
        Key("layout", Word(words.LAYOUTS, "a cgroup layout"), "v1 (the default) or v2"),
        Key("rung", Word(words.RUNGS, "a rung"), "which cut of the ladder: rc5 (the default), or rc6"),
    ),
)

STEP = Table(
    "a step",
    (
        Key("id", NAME, "the step's name in points, bounds and expectations", required=True),
        Key("do", Word(words.OPERATIONS, "an operation"), "what the driver is asked to do", required=True),
        Key("unit", UNIT, "the unit: 'cgrace-a.slice', or 'prefix-name.scope'", required=True),
        Key("parent", UNIT, "the slice above; by default from a slice's own name, 'system.slice' for a scope"),
        Key(
            "pid", NAME, "the workload to place, a name of yours; 'none' (the default) places none, as the kubelet does"
        ),
        Key("process", NAME, "which driver process; 'driver' by default"),
        Key("after", POINTS, "points to wait for; by default the previous step of the same process has ended"),
        Key("fresh", Flag(), "true (the default): a new manager object, as the kubelet makes one"),
        Key("may_fail", Flag(), "true: an error is as good an end as success, unless 'expect' says which"),
        Key("bound", Duration(), "how long it may take"),
        Key("resources", ByName(Scalar(flag=False), pattern=NAME_PATTERN, what="a resource"), "limits to ask for"),
        Key("delegate", Flag(), "ask for Delegate or not; by default as the driver does"),
    ),
)

_ID = Key(
    "id", Text("an id of letters, digits, '.', '_' and '-'", ID_PATTERN), "the fault's name in points and findings"
)
_WHEN = Key("when", POINT, "the point at which it acts", required=True)
_NTH = Key("nth", Number(1, "every"), "which of them: 1 (the default) is the first, or 'every'")
_PHASE = Key("phase", Word(("probe",), "a phase"), "'probe': also what a driver does before it is ready")
_PATIENCE = Key(
    "patience",
    PATIENCE,
    "let go early once the driver's own wait has no limit or a longer one than this; '500ms' by default, 'none': never",
)


def _on_messages(verb: str, doc: str, *keys: Key) -> tuple[str, Table]:
    return verb, Table(f"a fault '{verb}'", (Key(verb, MESSAGES, doc, required=True), *keys, _NTH, _PHASE, _ID))


def _at_point(verb: str, key: Key, *keys: Key) -> tuple[str, Table]:
    return verb, Table(f"a fault '{verb}'", (key, *keys, _WHEN, _ID))


FAULT = Verbs(
    "a fault",
    (
        _on_messages(
            "hold",
            "keep the message, and all behind it, until a point",
            Key("until", POINT, "the point at which it lets go", required=True),
            _PATIENCE,
            Key("overtake", Flag(), "true: later messages of the connection may pass (no correct bus does that)"),
        ),
        _on_messages("drop", "the message never arrives"),
        _on_messages("duplicate", "the message arrives twice"),
        _on_messages("reorder", "the message arrives after the next one of its connection"),
        _on_messages(
            "answer",
            "the call is not forwarded, the driver gets this error; or the error replaces a reply",
            Key("error", Text("a D-Bus error's name", ERROR_PATTERN), "the D-Bus error's name", required=True),
            Key("text", Text(empty=True), "the error's text"),
        ),
        _on_messages(
            "amend",
            "the message arrives with other arguments",
            Key("set", ByName(Scalar(), pattern=INDEX_PATTERN, what="an index"), "{ index = value }", required=True),
        ),
        _at_point(
            "forge",
            Key(
                "forge", MESSAGES, "a signal that systemd did not send, such as 'JobRemoved of x.slice'", required=True
            ),
            Key("job", Text("a job's path, or 'job of UNIT'"), "the job; by default the newest one of the unit"),
            Key("result", Word(words.JOB_RESULTS, "a job's result"), "its result; 'done' by default"),
            Key("times", Number(1), "how many of them, one behind the other; 1 by default"),
            Key(
                "sender",
                Text("a unique bus name such as ':1.99'", r"^:[0-9]+\.[0-9]+$"),
                "another peer of the bus that sends it; systemd by default",
            ),
        ),
        _at_point(
            "disconnect",
            Key("disconnect", Word(words.CONNECTIONS, "a connection"), "cut the driver's connections", required=True),
        ),
        _at_point(
            "stop_reading",
            Key("stop_reading", Flag(only=True), "read nothing more from the driver", required=True),
            Key("until", POINT, "the point at which reading goes on"),
        ),
        _at_point(
            "garbage",
            Key("garbage", Word(words.GARBAGE, "garbage"), "send what is not D-Bus", required=True),
            Key("which", Word(words.CONNECTIONS, "a connection"), "to which connections; 'all' by default"),
        ),
        (
            "job",
            Table(
                "a fault 'job'",
                (
                    Key("job", UNIT, "the unit whose job it is", required=True),
                    Key("stays_queued_until", POINT, "systemd keeps the job queued until this point"),
                    Key(
                        "ends",
                        Word((*words.JOB_RESULTS, words.NEVER), "a job's result"),
                        "the job ends so and does nothing; never: it stays queued for ever",
                    ),
                    _PATIENCE,
                    Key("type", Word(words.JOB_TYPES, "a type of job"), "'start' (the default) or 'stop'"),
                    Key("nth", Number(1), "which job of that type; 1 (the default) is the unit's first"),
                    _ID,
                ),
                one_of=("stays_queued_until", "ends"),
            ),
        ),
        (
            "hold_open",
            Table(
                "a fault 'hold_open'",
                (
                    Key("hold_open", CGROUP, "stop a driver where it opens this cgroup's cgroup.procs", required=True),
                    Key("until", POINT, "the point at which it goes on", required=True),
                    Key("nth", Number(1), "which such call; 1 (the default) is the first"),
                    _ID,
                ),
            ),
        ),
        (
            "hold_close",
            Table(
                "a fault 'hold_close'",
                (
                    Key(
                        "hold_close",
                        Word(words.CONNECTIONS[:2], "a connection"),
                        "stop a driver where it closes this connection",
                        required=True,
                    ),
                    Key("until", POINT, "the point at which it goes on", required=True),
                    Key("nth", Number(1), "which such call; 1 (the default) is the first"),
                    _ID,
                ),
            ),
        ),
        _at_point("delete", Key("delete", CGROUP, "remove this directory and what is below", required=True)),
        _at_point(
            "move",
            Key("move", NAME, "the workload to move", required=True),
            Key("to", CGROUP, "the cgroup to put it into", required=True),
        ),
        _at_point(
            "disable",
            Key("disable", Word(words.CONTROLLERS_V2, "a cgroup v2 controller"), "the controller", required=True),
            Key("at", GROUP, "the cgroup whose children lose it", required=True),
        ),
        _at_point("freeze", Key("freeze", GROUP, "the cgroup to freeze", required=True)),
        _at_point("thaw", Key("thaw", GROUP, "the cgroup to thaw", required=True)),
        _at_point(
            "peer",
            Key("peer", NAME, "'systemd', 'bus', or a driver process or workload", required=True),
            Key("do", Word(words.PEER_ACTIONS, "what can be done to a peer"), "what to do to it", required=True),
        ),
    ),
)

EXPECT = Table(
    "an expectation",
    (
        Key(
            "generations",
            Many(Word((*words.GENERATIONS, words.EVERY_DRIVER), "a generation"), single=True, least=1),
            "the drivers' generations that it is about; 'any': every driver",
        ),
        Key(
            "releases",
            Many(Text("releases such as 'runc 1.0.0-rc93..1.1.5'", releases.RANGE_PATTERN, releases.trouble),
                 single=True, least=1),
            "the released drivers that it is about, each a product and a range of versions",
        ),
        Key(
            "violated",
            ByName(Many(Text("a step's or fault's id, or '' for any", empty=True), single=True, least=1),
                   words.INVARIANTS, what="an invariant"),
            "{ invariant = step }, or a list of steps",
        ),
        Key("failed", ByName(Text("a part of the error's text"), pattern=NAME_PATTERN, what="a step"),
            "{ step = part of the error's text }: the step must fail so"),
        Key("profiles", Many(Word(words.PROFILES, "a systemd profile"), single=True), "only on these"),
        Key("rungs", Many(Word(words.RUNGS, "a rung"), single=True), "only on these"),
        Key("layouts", Many(Word(words.LAYOUTS, "a cgroup layout"), single=True), "only on these"),
        Key("note", Text(), "why"),
    ),
)  # fmt: skip

FILE = Table(
    "a scenario",
    (
        Key("title", Text(), "one line: what goes wrong", required=True),
        Key("issue", Text(), "where it was reported, such as 'opencontainers/runc#1780'"),
        Key("mechanism", Text(), "two or three sentences: the order of things and the symptom"),
        Key(
            "rows",
            Many(Text("a row's name, such as '7b'", ROW_PATTERN), single=True),
            "the story's rows that it serves",
        ),
        Key("on", Many(SETTING, single=True, least=1), "where it makes sense", required=True),
        Key(
            "drivers",
            Many(Text("a driver's name"), single=True),
            "only these drivers, or with a ! before a driver or generation all but these; by default every one that fits",
        ),
        Key("markers", Many(NAME), "pytest markers"),
        Key("bound", Duration(), "how long a step may take; '500ms' by default"),
        Key(
            "bounds", ByName(Duration(), pattern=NAME_PATTERN, what="a step"), "{ step = time }, for steps of their own"
        ),
        Key("patience", Duration(), "how long a driver's own timed wait is waited out; '3s' by default"),
        Key("wall", Duration(), "the backstop for the whole run; '30s' by default"),
        Key("steps", Many(STEP, least=1), "what is asked of the driver, in order", required=True),
        Key("faults", Many(FAULT), "what is done to the run"),
        Key("orders", Many(Text("'<point> before <point>'", r"\sbefore\s")), "races: '<point> before <point>'"),
        Key("expect", Many(EXPECT), "what history says; a driver that is not named is expected clean"),
    ),
)
