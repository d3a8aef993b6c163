"""The scenario parser: every mistake is one ScenarioError that names file, line, what was found and what to write."""

from __future__ import annotations

from pathlib import Path

import pytest

from cgrace.harness.errors import ScenarioError
from cgrace.harness.scenario.parse import FILE_BYTES_MAX, load, load_text, load_tree

HEAD = 'title = "t"\non = { profile = "219-rhel7" }\n'
STEPS = """steps = [
  { id = "first", do = "apply", unit = "cgrace-a.slice" },
  { id = "second", do = "apply", unit = "cgrace-b.slice" },
]
"""
GOOD = HEAD + STEPS  # 6 lines; what a case adds begins in line 7


def problem(text: str) -> ScenarioError:
    """The error of a text that must have one."""
    with pytest.raises(ScenarioError) as caught:
        load_text(text, Path("my.toml"))
    return caught.value


def fault(body: str) -> str:
    """A good scenario with one fault in line 8."""
    return f"{GOOD}faults = [\n  {{ {body} }},\n]\n"


def expect(body: str) -> str:
    """A good scenario with one expectation, its body from line 8."""
    return f"{GOOD}[[expect]]\n{body}\n"


LATE = 'hold = "JobRemoved of cgrace-a.slice"'

SHAPE = [
    (HEAD, 1, "a scenario has no 'steps'", "steps"),
    ('title = "x"\n = 3', 2, "is not TOML: Invalid statement", "toml.io"),
    ('title = "x\n', 1, "is not TOML", "toml.io"),
    (GOOD + "fault = []", 7, "a scenario has no key 'fault'", "did you mean 'faults'?"),
    (GOOD + "xyzzy = 1", 7, "a scenario has no key 'xyzzy'", "remove it"),
    (GOOD.replace("do =", "doo ="), 4, "a step has no key 'doo'", "did you mean 'do'?"),
    (GOOD.replace('do = "apply", ', "", 1), 4, "a step has no 'do'", "add do"),
    (GOOD.replace('"apply"', '"aply"', 1), 4, "'aply' is not an operation", "write 'apply'"),
    (GOOD.replace('"apply"', "7", 1), 4, "steps[0].do is a number (7); expected apply", ""),
    (GOOD.replace("219-rhel7", "219-rhel"), 2, "'219-rhel' is not a systemd profile", "write '219-rhel7'"),
    (GOOD.replace('rhel7"', 'rhel7", layout = "v3"'), 2, "'v3' is not a cgroup layout; expected v1 or v2", ""),
    (GOOD.replace('rhel7"', 'rhel7", rung = "rc7"'), 2, "'rc7' is not a rung", ""),
    (HEAD + "steps = []", 3, "steps is empty; expected at least 1", ""),
    (HEAD.replace('"t"', '""') + STEPS, 1, "title is empty", ""),
    (GOOD + "bound = 5", 7, "bound is a number (5); expected a time such as '500ms'", "write '5s'"),
    (GOOD + 'bound = "5 hours"', 7, "bound is a text ('5 hours'); expected a time", ""),
    (GOOD + 'bound = "0s"', 7, "expected a time above zero", ""),
    (GOOD + "bound = true", 7, "bound is true or false (true); expected a time", ""),
    (GOOD + "bound = 1979-05-27", 7, "bound is a date or time", ""),
    (GOOD + "faults = {}", 7, "faults is a table ({}); expected a list", ""),
    (GOOD + 'rows = ["7 b"]', 7, "rows[0] '7 b': expected a row's name", ""),
]

UNITS = [
    ("cgrace-a.service", "a unit here ends in .slice or .scope"),
    ("cgrace-a", "a unit here ends in .slice or .scope"),
    ("cgrace--a.slice", "no part may be empty"),
    ("-a.slice", "no part may be empty"),
    ("a-.slice", "no part may be empty"),
    ("a@b.slice", "a slice cannot be an instance"),
    ("a b.slice", "' ' cannot be in a unit's name"),
    ("a/b.slice", "'/' cannot be in a unit's name"),
    ("ä.slice", "'ä' cannot be in a unit's name"),
    (".slice", "the name is empty"),
    ("a" * 250 + ".slice", "at most 255 characters, this one 256"),
    ("alone.scope", "a scope is named '<prefix>-<name>.scope'"),
    ("a-b@.scope", "that of a template"),
    ("-.slice", "'-.slice' is the root"),
]

NAMES = [
    (fault(f'{LATE}, until = "first finished"'), 8, "'first finished' is not a point", "called, returned, failed"),
    (fault(f'{LATE}, until = "when it is done"'), 8, "'when it is done' is not a point", "'driver ready'"),
    (fault(f'{LATE}, until = "frist ended"'), 8, "no step 'frist'", "did you mean 'first'?"),
    (fault(f'{LATE}, until = "fault late fired"'), 8, "no fault with the id 'late'", "give the fault an id"),
    (fault(f'{LATE}, until = "job of cgrace-c.slice ended"'), 8, "no unit 'cgrace-c.slice'", "did you mean"),
    (fault(f'{LATE}, until = "cgrace ended"'), 8, "no step 'cgrace'", ""),
    (fault(f'{LATE}, until = "StopUnt of cgrace-a.slice"'), 8, "no call or signal 'StopUnt'", "'StopUnit'"),
    (fault(f'{LATE}, until = "reply to JobRemoved"'), 8, "no call 'JobRemoved'", ""),
    (fault(f'{LATE}, until = "cgroup made: devices of x.slice"'), 8, "no unit 'x.slice'", ""),
    (fault(f'{LATE}, until = "cgroup made: device/x"'), 8, "no hierarchy 'device'", "did you mean 'devices'?"),
    (fault(f'{LATE}, until = "process moved: pod to pids/x"'), 8, "no workload 'pod'", ""),
    (fault('hold = "JobRemovd of cgrace-a.slice", until = "first ended"'), 8, "no call or signal 'JobRemovd'", "JobRemoved"),
    (fault('hold = "JobRemoved of cgrace-c.slice", until = "first ended"'), 8, "no unit 'cgrace-c.slice'", "did you mean"),
    (fault('drop = "JobRemoved of cgrace-a.slice nth 2"'), 8, "names no messages", "give nth"),
    (fault('drop = "JobRemoved of cgrace-a.slice delivered"'), 8, "names no messages", "no stage"),
    (GOOD.replace("first", "second", 1), 5, "two steps are called 'second'; the first is in line 4", ""),
    (GOOD + "bounds = { thrid = '2s' }", 7, "no step 'thrid'", ""),
    (GOOD.replace('a.slice"', 'a.slice", bound = "1s"') + "bounds = { first = '2s' }", 4, "has a bound here and", "keep one"),
    (GOOD.replace('a.slice"', 'a.slice", pid = "driver"'), 4, "'driver' is a process already", ""),
    (GOOD.replace('a.slice"', 'a.slice", parent = "x-y.scope"'), 4, "a parent is a slice", ""),
    (HEAD + 'steps = [{ id = "a", do = "apply", unit = "c-a.scope" }]', 3, "a scope needs a process", "add pid"),
    (GOOD.replace("on = {", 'on = [{ profile = "219-rhel7" }, {').replace(" }\n", " }]\n", 1), 2, "is there twice", ""),
]  # fmt: skip

FAULTS = [
    (fault('hld = "JobRemoved of cgrace-a.slice"'), "a fault has no verb; expected hold, drop", "did you mean 'hold'?"),
    (fault(f'{LATE}, drop = "JobNew"'), "a fault does one thing, this one says hold and drop", "write one for each"),
    (fault(LATE), "a fault 'hold' has no 'until'", "add until"),
    (fault(f'{LATE}, until = "first ended", whn = "x"'), "a fault 'hold' has no key 'whn'", "remove it"),
    (fault(f'{LATE}, until = "first ended", nth = 0'), "nth is a number (0); expected a whole number, at least 1", ""),
    (fault(f'{LATE}, until = "first ended", patience = "never"'), "expected a time such as", ""),
    (fault('answer = "JobRemoved", error = "a.b"'), "JobRemoved is a signal", "name a call"),
    (fault('answer = "StopUnit", error = "nope"'), "expected a D-Bus error's name", ""),
    (fault('amend = "StopUnit", set = {}'), "'set' replaces nothing", "argument number"),
    (fault('amend = "StopUnit", set = { x = 1 }'), "expected an index", ""),
    (fault('forge = "Reloading", when = "first ended"'), "cannot be forged", ""),
    (fault('forge = "JobRemoved of cgrace-a.slice", job = "7", when = "first ended"'), "'7' is not a job", ""),
    (
        fault('forge = "JobRemoved of cgrace-a.slice", result = "dne", when = "first ended"'),
        "'dne' is not a job's",
        "'done'",
    ),
    (
        fault('disconnect = "both", when = "first ended"'),
        "'both' is not a connection; expected calls, signals or all",
        "",
    ),
    (fault('stop_reading = false, when = "first ended"'), "expected true", ""),
    (fault('garbage = "nose", when = "first ended"'), "'nose' is not garbage", "write 'noise'"),
    (fault('job = "cgrace-a.slice"'), "has none of stays_queued_until or ends; expected exactly one", ""),
    (fault('job = "cgrace-a.slice", ends = "done", stays_queued_until = "first ended"'), "expected exactly one", ""),
    (fault('job = "cgrace-a.slice", ends = "done", patience = "1s"'), "patience says nothing here", "remove it"),
    (fault('delete = "devices of cgrace-c.slice", when = "first ended"'), "no unit 'cgrace-c.slice'", "did you mean"),
    (fault('delete = "device of cgrace-a.slice", when = "first ended"'), "no hierarchy 'device'", "'devices'"),
    (fault('delete = "the directory", when = "first ended"'), "'the directory' is not a cgroup", "devices of"),
    (fault('delete = "devices/../x", when = "first ended"'), "is not a cgroup's path", ""),
    (fault('delete = "devices/", when = "first ended"'), "the root of a hierarchy cannot be deleted", ""),
    (fault('move = "pod", to = "devices/x", when = "first ended"'), "no workload 'pod'", "name as their pid"),
    (fault('disable = "devices", at = "/x", when = "first ended"'), "'devices' is not a cgroup v2 controller", ""),
    (fault('freeze = "/a//b", when = "first ended"'), "is not a cgroup's path", ""),
    (fault('peer = "first", do = "kill", when = "first ended"'), "no peer 'first'", ""),
    (fault('peer = "bus", do = "reload", when = "first ended"'), "only systemd can reload", "pause"),
    (fault('peer = "driver", do = "restart", when = "first ended"'), "'driver' cannot be restarted", "pause"),
]

ORDERS = [
    ('orders = ["first called"]', 7, "orders[0] 'first called': expected '<point> before <point>'", ""),
    ('orders = ["first called before second called before first ended"]', 7, "is not an order", "write two"),
    ('orders = ["first called before first called"]', 7, "both are the same point", "remove it"),
    ('orders = ["second called before first called"]', 7, "'second' waits for 'first ended'", "turn one of them"),
    ('orders = ["first ended before first called"]', 7, "'first called' must come first", "turn one of them"),
    ('orders = ["JobRemoved of cgrace-a.slice before first called"]', 7, "can never be met", "turn one of them"),
    ('orders = ["first called before second returned"]', 7, "nothing can hold back 'second returned'", "order what causes"),
    (
        'orders = [\n  "job of cgrace-a.slice ended before second called",\n'
        '  "second called before job of cgrace-a.slice started",\n]',
        8,
        "met together with: 'second called before job of cgrace-a.slice started' (line 9)",
        "turn one of them",
    ),
    (
        'orders = ["JobRemoved of cgrace-a.slice delivered before second called"]\n'
        'faults = [{ hold = "JobRemoved of cgrace-a.slice", until = "second ended" }]',
        7,
        "JobRemoved of cgrace-a.slice is held until 'second ended' (line 8)",
        "turn one of them",
    ),
    (
        'faults = [{ job = "cgrace-a.slice", stays_queued_until = "JobRemoved of cgrace-a.slice seen" }]',
        7,
        "the job of cgrace-a.slice is kept until 'JobRemoved of cgrace-a.slice seen', which can never be met",
        "turn one of them",
    ),
    (
        'faults = [\n  { id = "x", peer = "bus", do = "kill", when = "fault y fired" },\n'
        '  { id = "y", peer = "bus", do = "kill", when = "fault x fired" },\n]',
        8,
        "y acts at 'fault x fired' (line 9)",
        "turn one of them",
    ),
]  # fmt: skip

AFTER = [
    ('after = "first called"', "step 'first' waits for itself ('first called')", "name another step"),
    ('after = "JobRemoved of cgrace-a.slice"', "'first called' must come first", ""),
    ('after = "second ended"', "can never be met together with: 'second' waits for 'first ended'", ""),
    ('after = ["second returned", "second failed"]', "either returns or fails: 'first' waits for both", "second ended"),
    ("after = 7", "after is a number (7); expected a point", ""),
]

EXPECT = [
    (
        'generations = ["asinc"]\nviolated = { "no deadlock" = "first" }',
        8,
        "'asinc' is not a generation",
        "write 'async'",
    ),
    ('generations = []\nviolated = { "no deadlock" = "first" }', 8, "generations is empty", ""),
    (
        'generations = ["async"]\nviolated = { "no dedlock" = "first" }',
        9,
        "'no dedlock' is not an invariant",
        "no deadlock",
    ),
    ('generations = ["async"]\nviolated = { "no deadlock" = "fist" }', 9, "no step 'fist'", ""),
    ('generations = ["async"]\nfailed = { fist = "no" }', 9, "no step 'fist'", ""),
    ('generations = ["async"]', 7, "the expectation expects nothing", "add violated"),
    ('failed = { a = "x" }', 7, "the expectation is about no driver", "add generations"),
    ('releases = ["runc 1.1.5..1.0"]\nfailed = { a = "x" }', 8, "ends before it begins", ""),
    ('releases = ["runc 1..x"]\nfailed = { a = "x" }', 8, "'x' is not a version", ""),
    ('generations = ["async"]\nprofiles = ["257"]\nfailed = { first = "x" }', 9, "in no setting of 'on'", ""),
]


def check(text: str, line: int, message: str, hint: str) -> None:
    """The text's error has this line, and these parts of message and hint."""
    error = problem(text)
    assert (error.file, error.line) == ("my.toml", line), str(error)
    assert message in error.message
    assert hint in error.hint


@pytest.mark.parametrize(("text", "line", "message", "hint"), SHAPE)
def test_wrong_shape(text: str, line: int, message: str, hint: str) -> None:
    """Unknown keys, wrong types, wrong words and broken TOML are named with their line."""
    check(text, line, message, hint)


@pytest.mark.parametrize(("unit", "message"), UNITS)
def test_bad_unit_name(unit: str, message: str) -> None:
    """A unit's name follows systemd's own rules, and the message says which one it breaks."""
    check(GOOD.replace("cgrace-b.slice", unit), 5, message, "")


@pytest.mark.parametrize(("text", "line", "message", "hint"), NAMES)
def test_unknown_name(text: str, line: int, message: str, hint: str) -> None:
    """Whatever a point, fault or bound names must exist; the nearest name is offered."""
    check(text, line, message, hint)


@pytest.mark.parametrize(("text", "message", "hint"), FAULTS)
def test_wrong_fault(text: str, message: str, hint: str) -> None:
    """A fault has one verb, the keys of that verb, and values that make sense."""
    check(text, 8, message, hint)


@pytest.mark.parametrize(("added", "line", "message", "hint"), ORDERS)
def test_order_that_cannot_be_met(added: str, line: int, message: str, hint: str) -> None:
    """Orders, holds and faults that go round in a circle are named, with the other lines of the circle."""
    check(GOOD + added, line, message, hint)


@pytest.mark.parametrize(("after", "message", "hint"), AFTER)
def test_step_that_waits_in_vain(after: str, message: str, hint: str) -> None:
    """A step that waits for itself, or for what it causes, is named."""
    check(GOOD.replace('a.slice"', f'a.slice", {after}'), 4, message, hint)


@pytest.mark.parametrize(("body", "line", "message", "hint"), EXPECT)
def test_wrong_expectation(body: str, line: int, message: str, hint: str) -> None:
    """An expectation names known generations, invariants and steps, and a place where the scenario runs."""
    check(expect(body), line, message, hint)


def test_first_problem_by_line_is_reported() -> None:
    """Of two mistakes the upper one is reported, whichever the parser met first."""
    text = GOOD.replace('"t"', "7").replace('"apply"', '"aply"') + "zzz = 1"
    assert problem(text).line == 1
    assert problem(GOOD.replace("cgrace-b.slice", "x") + "title2 = 1").line == 5


def test_message_as_people_see_it() -> None:
    """File, line, what was found, and what to write, in two lines."""
    error = problem(fault('hold = "JobRemoved of cgrace-aa.slice", until = "first ended"'))
    assert str(error) == (
        "my.toml:8: no unit 'cgrace-aa.slice': there are cgrace-a.slice, cgrace-b.slice and cgrace.slice\n"
        "  try: did you mean 'cgrace-a.slice'?"
    )


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    """A file that is absent, a folder without scenarios, bytes that are no text, and a huge file are ScenarioErrors."""
    empty, binary, huge = tmp_path / "empty", tmp_path / "b.toml", tmp_path / "h.toml"
    empty.mkdir()
    binary.write_bytes(b"title = 'x'\n\xff")
    huge.write_bytes(b"#" * (FILE_BYTES_MAX + 1))
    with pytest.raises(ScenarioError, match="cannot be read: No such file"):
        load(tmp_path / "absent.toml")
    with pytest.raises(ScenarioError, match="has no scenario in it"):
        load_tree(empty)
    with pytest.raises(ScenarioError, match=r"b\.toml:2: is not UTF-8"):
        load(binary)
    with pytest.raises(ScenarioError, match="larger than"):
        load(huge)


def test_two_files_of_one_name(tmp_path: Path) -> None:
    """A scenario's name is its folder's and its file's; two of one name are refused."""
    for folder in ("x/s", "y/s"):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "one.toml").write_text(GOOD)
    assert [s.name for s in load_tree(tmp_path / "x")] == ["s/one"]
    with pytest.raises(ScenarioError, match="two scenarios are called 's/one'"):
        load_tree(tmp_path)


@pytest.mark.parametrize(
    "text", ["a = " + "[" * 100_000, "a = " + "9" * 5000, "a = " + "{a=" * 5000, "a." * 5000 + "b=1"]
)
def test_hostile_toml(text: str) -> None:
    """Deep nesting and numbers without end are refused like any other mistake."""
    assert problem(text).file == "my.toml"
