"""Goroutine dumps: the shapes that Go prints, and that nothing which is printed can hurt the parser."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_checkers_deadlock import DUMP

from cgrace.harness.stacks.goroutines import Frame, parse
from cgrace.harness.stacks.wait_graph import render, short_place, wait_graph

SIGQUIT = """SIGQUIT: quit
PC=0x40816c m=0 sigcode=0

goroutine 0 gp=0x573fa0 m=0 mp=0x574360 [idle]:
runtime.futex(0x574498, 0x80, 0x0, 0x0, 0x0, 0x0)
\t/usr/local/go/src/runtime/sys_linux_amd64.s:557 +0x21 fp=0x7ffe sp=0x7ffd pc=0x480221

goroutine 1 gp=0xedff63ea1e0 m=nil [select (no cases), 3 minutes, locked to thread]:
runtime.gopark(0xa01?, 0x0?, 0x0?, 0x0?, 0x0?)
\t/usr/local/go/src/runtime/proc.go:462 +0xce fp=0xedff6454ec0 sp=0xedff6454ea0 pc=0x47a38e
runtime.block()
\t/usr/local/go/src/runtime/select.go:104 +0x26 fp=0xedff6454ef0 sp=0xedff6454ec0 pc=0x45ab86
main.main()
\t/src/shim/main.go:13 +0x1ef fp=0xedff6454f48 sp=0xedff6454ef0 pc=0x498caf
...additional frames elided...

goroutine 34 gp=0xc1 m=nil [chan receive (nil chan)]:
main.(*family).apply.func1({0x1, {0x2, 0x3}}, ...)
\t/src/shim/main.go:20 +0x1
created by main.main in goroutine 1
\t/src/shim/main.go:9 +0x191

rax    0x0
rbx    0x1
exit status 2
"""
NIL_CHANNEL_JOB = """goroutine 5 [chan receive]:
github.com/godbus/dbus.(*Call).Store(0xc0000aa000, {0xc0000ab000, 0x1, 0x1})
\t/m/github.com/godbus/dbus@v4.1.0/call.go:31 +0x10
github.com/coreos/go-systemd/v22/dbus.(*Conn).startJob(0xc0000a0070, CHANNEL, {0x4bbee8, 0xb})
\t/m/github.com/coreos/go-systemd/v22@v22.7.0/dbus/methods.go:47 +0x89
github.com/opencontainers/cgroups/systemd.(*LegacyManager).Apply(0xc000018058, 0x8)
\t/m/github.com/opencontainers/cgroups@v0.1.0/systemd/v1.go:305 +0xca
created by main.dispatch
\t/src/shim/shim.go:130 +0x185

goroutine 6 [semacquire, 12 minutes]:
sync.runtime_SemacquireMutex(0xc0000a00c8, 0x0, 0x1)
\t/usr/local/go/src/runtime/sema.go:71 +0x47
sync.(*Mutex).lockSlow(0xc0000a00c8)
\t/usr/local/go/src/sync/mutex.go:138 +0xfc
github.com/coreos/go-systemd/v22/dbus.(*Conn).startJob(0xc0000a0070, 0xc0000b2000, {0x4bbee8, 0xb})
\t/m/github.com/coreos/go-systemd/v22@v22.7.0/dbus/methods.go:42 +0x89
github.com/opencontainers/cgroups/systemd.(*UnifiedManager).Apply(0xc000018059, 0x8)
\t/m/github.com/opencontainers/cgroups@v0.1.0/systemd/v2.go:305 +0xca
"""


def test_a_sigquit_dump() -> None:
    """Headers with gp and m, minutes, threads, nil channels, elided frames, register lines: all read, none mixed up."""
    idle, main, nil = parse(SIGQUIT)
    assert (idle.id, idle.state) == (0, "idle")
    assert (main.state, main.minutes, main.locked) == ("select (no cases)", 3, True)
    assert [frame.function for frame in main.frames] == ["runtime.gopark", "runtime.block", "main.main"]
    assert main.blocking is not None
    assert (main.blocking.name, main.blocking.line) == ("main", 13)
    assert (nil.created_in, nil.created_by) == (1, Frame(function="main.main", file="/src/shim/main.go", line=9))
    assert nil.frames[0].name == "apply"


def test_a_reply_that_does_not_come_holds_the_lock_with_a_channel() -> None:
    """startJob waits for its reply and keeps jobListener, for it was given a channel; the other one waits for the lock."""
    lines = render(wait_graph(NIL_CHANNEL_JOB.replace("CHANNEL", "0xc0000b1000")))
    assert lines == (
        "goroutine 5  startJob  waits for the reply to its call, holds jobListener and the manager's mutex  dbus/methods.go:47",
        "goroutine 6  startJob  waits for jobListener                                                       dbus/methods.go:42",
    )


def test_without_a_channel_it_takes_no_lock() -> None:
    """With a nil channel startJob takes no lock, so it is nobody's holder."""
    first, second = wait_graph(NIL_CHANNEL_JOB.replace("CHANNEL", "0x0"))
    assert "jobListener" not in first.holds
    assert (second.lock, second.held_by) == ("jobListener", ())


def test_a_lock_of_another_object_is_not_confused() -> None:
    """Two connections have two locks: the address tells them apart."""
    other = DUMP.replace("lockSlow(0xc0000a00c8)", "lockSlow(0xc0009900c8)")
    waiter = next(wait for wait in wait_graph(other) if wait.goroutine == 21)
    assert waiter.held_by == ()


@pytest.mark.parametrize(
    ("file", "place"),
    [
        ("/root/go/pkg/mod/github.com/coreos/go-systemd@v0.0.0-2016-48/dbus/methods.go", "dbus/methods.go:7"),
        ("github.com/coreos/go-systemd/v22@v22.5.0/dbus/methods.go", "dbus/methods.go:7"),
        (
            "/b/vendor/github.com/opencontainers/runc/libcontainer/cgroups/systemd/a.go",
            "libcontainer/cgroups/systemd/a.go:7",
        ),
        ("/x/github.com/me/runc/vendor/github.com/godbus/dbus/conn.go", "conn.go:7"),
        ("/usr/local/go/src/runtime/sema.go", "runtime/sema.go:7"),
        ("/home/me/runc/main.go", "runc/main.go:7"),
        ("main.go", "main.go:7"),
        ("", ""),
    ],
)
def test_places_are_relative_to_their_module(file: str, place: str) -> None:
    """Paths of the build machine do not reach the report."""
    assert short_place(Frame(function="f", file=file, line=7)) == place


@pytest.mark.parametrize(
    ("function", "name"),
    [
        ("github.com/coreos/go-systemd/dbus.(*Conn).dispatch.func1", "dispatch"),
        ("main.(*family).apply.func1.2", "apply"),
        ("slices.SortFunc[go.shape.[]int,go.shape.int]", "SortFunc"),
        ("runtime.gcenable.gowrap1", "gcenable"),
        ("main.main", "main"),
        ("", ""),
    ],
)
def test_names_are_those_that_people_use(function: str, name: str) -> None:
    """No package path, receiver, type arguments or closure marks."""
    assert Frame(function=function).name == name


@given(st.text(max_size=300))
def test_any_text_is_read(text: str) -> None:
    """Text that is no dump gives nothing, and never an exception."""
    render(wait_graph(text))


@given(st.integers(0, 2**32), st.integers(1, 40))
def test_a_damaged_dump_is_read_as_far_as_it_goes(seed: int, cuts: int) -> None:
    """Lines lost, doubled, cut or with characters changed: never an exception, never more goroutines than headers."""
    pick = random.Random(seed)
    lines = (DUMP + SIGQUIT + NIL_CHANNEL_JOB).splitlines()
    for _ in range(cuts):
        at = pick.randrange(len(lines))
        line = lines[at]
        where = pick.randrange(len(line) + 1)
        lines[at : at + 1] = pick.choice(
            [[], [line, line], [line[:where]], [line[:where] + pick.choice("()[]{}:,\t0x\u2028\x00") + line[where:]]]
        )
        lines = lines or [""]
    text = "\n".join(lines)
    assert len(parse(text)) <= text.count("goroutine ")
    render(wait_graph(text))


def test_a_huge_dump_is_cut() -> None:
    """A million lines end in bounded time."""
    deep = "goroutine 1 [running]:\n" + "a.b(0x1)\n\t/a.go:1 +0x1\n" * 100_000
    assert len(parse(deep)[0].frames) == 400
    many = "goroutine 1 [select]:\nmain.f()\n\t/a.go:1\n\n" * 30_000
    assert len(parse(many)) == 20_000
