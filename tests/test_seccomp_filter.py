"""The filter of a supervised process, run here instruction by instruction, and the words of a notification."""

from __future__ import annotations

import asyncio
import ctypes
import os
import struct
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cgrace.harness.errors import TargetError, UnavailableError
from cgrace.harness.targets import filters, notify
from cgrace.harness.targets.filters import ARCHITECTURES, Architecture, program

ALLOW, STOP = 0x7FFF0000, 0x7FC00000
X86, ARM = ARCHITECTURES["x86_64"], ARCHITECTURES["aarch64"]
BOTH = pytest.mark.parametrize("machine", [X86, ARM], ids=["x86_64", "aarch64"])


def verdict(code: bytes, number: int, arch: int, arguments: tuple[int, ...]) -> int:
    """What the kernel would make of a call: classic BPF over struct seccomp_data, as far as our programs go."""
    data = struct.pack("=IIQ6Q", number, arch, 0, *(arguments + (0,) * 6)[:6])
    at, accumulator, steps = 0, 0, 0
    while True:
        operation, yes, no, operand = struct.unpack_from("=HBBI", code, at * 8)
        at, steps = at + 1, steps + 1
        assert steps < 64
        match operation:
            case 0x20:
                (accumulator,) = struct.unpack_from("=I", data, operand)
            case 0x54:
                accumulator &= operand
            case 0x15:
                at += yes if accumulator == operand else no
            case 0x06:
                return int(operand)
            case _:
                raise AssertionError(f"unknown instruction {operation:#x}")


@BOTH
@given(
    number=st.one_of(st.sampled_from([2, 56, 85, 257, 437]), st.integers(0, 600)),
    flags=st.integers(0, 2**64 - 1),
    wrong=st.booleans(),
)
def test_stops_only_what_opens_for_writing(machine: Architecture, number: int, flags: int, wrong: bool) -> None:
    """Whatever the call and its flags: it stops exactly where the table has the call and the access mode writes."""
    call = machine.calls.get(number)
    arguments = [0] * 6
    if call is not None and call.flags is not None:
        arguments[call.flags] = flags
    writes = call is not None and (call.flags is None or call.in_memory or flags & os.O_ACCMODE != os.O_RDONLY)
    arch = machine.audit ^ 1 if wrong else machine.audit
    expected = STOP if writes and not wrong else ALLOW
    assert verdict(program(machine), number, arch, tuple(arguments)) == expected


@BOTH
def test_a_call_of_another_abi_is_allowed(machine: Architecture) -> None:
    """An x32 call has its own bit in the number, a 32-bit one another architecture: neither stops."""
    for number in machine.calls:
        assert verdict(program(machine), number | 0x40000000, machine.audit, (1,) * 6) == ALLOW
        assert verdict(program(machine), number, 0x40000003, (1,) * 6) == ALLOW


def test_program_bytes() -> None:
    """The program for aarch64, whole: what the kernel gets does not change unnoticed."""
    words = [program(ARM)[at : at + 8].hex() for at in range(0, len(program(ARM)), 8)]
    assert words == [
        "2000000004000000",  # load the architecture
        "15000007b70000c0",  # not ours: allow
        "2000000000000000",  # load the number
        "15000600b5010000",  # openat2: stop
        "1500000438000000",  # not openat: allow
        "2000000020000000",  # load its flags
        "5400000003000000",  # the access mode
        "1500010000000000",  # for reading: allow
        "060000000000c07f",  # stop
        "060000000000ff7f",  # allow
        "060000000000c07f",  # stop
    ]


def test_unknown_machine_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that the tables do not have cannot hold a driver, and both doctor and a run say so."""
    monkeypatch.setattr("platform.machine", lambda: "sparc64")
    assert "sparc64" in filters.available()
    with pytest.raises(TargetError, match=r"cannot be held.*sparc64"):
        notify.Handover()


@pytest.mark.parametrize(
    ("release", "able"), [("4.18.0-el8", False), ("5.4.99", False), ("5.5.0", True), ("6.1", True)]
)
def test_old_kernel_is_said(monkeypatch: pytest.MonkeyPatch, release: str, able: bool) -> None:
    """Before 5.5 a held call could not go on."""
    if filters.available():
        pytest.skip("this machine has no seccomp user notification")
    monkeypatch.setattr("platform.release", lambda: release)
    assert (filters.available() == "") is able


@pytest.mark.parametrize(
    ("packet", "message", "for_good"),
    [
        ("16 seccomp: device or resource busy", "already listens", True),
        ("22 seccomp: invalid argument", "no seccomp user notification", True),
        ("13 seccomp: permission denied", "CAP_SYS_ADMIN", True),
        ("12 seccomp: cannot allocate memory", "cannot allocate memory", True),
        ("0 /x: no such file", "/x: no such file", False),
        ("", "ended before", False),
    ],
)
def test_why_there_is_no_listener(packet: str, message: str, for_good: bool) -> None:
    """What the stage before the program says becomes a sentence, and tells a machine from a mishap."""
    error = notify.Handover._failure(packet)
    assert message in error.message
    assert isinstance(error, UnavailableError) is for_good


def said(call: str, text: bytes, flags: int = os.O_WRONLY) -> notify.Opening | None:
    """What is made of a notification of a call of this very process."""
    number, known = next((n, c) for n, c in filters.architecture().calls.items() if c.name == call)
    path, how = ctypes.create_string_buffer(text), ctypes.create_string_buffer(struct.pack("=QQQ", flags, 0, 0))
    arguments = [2**32 - 100, 0, 0, 0, 0, 0]
    arguments[known.path] = ctypes.addressof(path)
    if known.flags is not None:
        arguments[known.flags] = ctypes.addressof(how) if known.in_memory else flags

    async def read() -> notify.Opening | None:
        ours, theirs = os.pipe()
        listener = notify.Listener(ours)
        try:
            return listener._asked(7, os.getpid(), number, arguments)
        finally:
            listener.close()
            os.close(theirs)

    return asyncio.run(read())


def test_path_is_read_from_memory() -> None:
    """The path, the directory and the kernel's id come out as they were."""
    assert said("openat", b"x/cgroup.procs") == notify.Opening(
        id=7, tid=os.getpid(), path="x/cgroup.procs", directory=-100
    )
    long = said("openat", b"a" * 5000)
    assert long is not None
    assert long.path.startswith("a" * 4096)
    odd = said("openat", b"\xff/tasks")
    assert odd is not None
    assert odd.may_be(("tasks",))


def test_openat2_for_reading_is_none() -> None:
    """openat2 always stops; one that only reads, or only points at a file, is let go on unreported."""
    assert said("openat2", b"/x", os.O_RDONLY) is None
    assert said("openat2", b"/x", os.O_PATH | os.O_WRONLY) is None
    assert said("openat2", b"/x", os.O_RDWR) is not None


def test_inner_path(tmp_path: Path) -> None:
    """A path resolves as the process would: absolute, by a descriptor, by a link, and where the directory is gone."""
    folder = tmp_path / "real"
    folder.mkdir()
    (tmp_path / "link").symlink_to("real")
    handle = os.open(folder, os.O_RDONLY)

    def opening(path: str, directory: int = -100) -> str:
        return notify.Opening(id=1, tid=os.getpid(), path=path, directory=directory).inner_path()

    try:
        wanted = f"{folder}/cgroup.procs"
        assert opening(wanted) == wanted
        assert opening("cgroup.procs", handle) == wanted
        assert opening(f"{tmp_path}/link/../link/cgroup.procs") == wanted
        assert opening(f"/proc/self/fd/{handle}/cgroup.procs") == wanted
        assert opening(f"/proc/thread-self/fd/{handle}") == str(folder)
        assert opening(f"{folder}/gone/below/tasks") == f"{folder}/gone/below/tasks"
        assert opening("/proc/self/fd/999999") == ""
        assert opening("cgroup.procs", 999999).endswith("/999999/cgroup.procs")
    finally:
        os.close(handle)
