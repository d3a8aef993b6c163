"""Real drivers: built, known by what they are, and spoken to without a systemd."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from cgrace.harness.drivers import build as building
from cgrace.harness.drivers import gobuild
from cgrace.harness.drivers.base import Answer, BuiltDriver
from cgrace.harness.drivers.build import build
from cgrace.harness.drivers.catalogue import find
from cgrace.harness.drivers.shim import Shim
from cgrace.harness.drivers.sysmon import sysmon_note
from cgrace.harness.errors import DriverError

NAMES = ("async", "buffered", "today", "cgroupfs")

pytestmark = pytest.mark.skipif(
    Path("/run/systemd/system").exists(), reason="systemd runs here, and a driver outside a sandbox would speak to it"
)


@pytest.fixture(scope="module")
def built() -> dict[str, BuiltDriver]:
    """A few drivers of both families, from the user's cache where they are built already."""
    try:
        return asyncio.run(build([find(name) for name in NAMES]))
    except DriverError as error:
        if "dial tcp" in error.detail or gobuild.try_find_go() is None:
            pytest.skip(f"drivers are not built, and cannot be here: {error}")
        raise


@contextlib.asynccontextmanager
async def running(driver: BuiltDriver) -> AsyncIterator[tuple[Shim, int]]:
    """The driver's shim without a bus, and its pid."""
    (their_in, our_in), (our_out, their_out), (our_err, their_err) = os.pipe(), os.pipe(), os.pipe()
    process = await asyncio.create_subprocess_exec(
        driver.binary,
        stdin=their_in,
        stdout=their_out,
        stderr=their_err,
        env={"DBUS_SYSTEM_BUS_ADDRESS": "unix:path=/nonexistent/cgrace"},
    )
    for fd in (their_in, their_out, their_err):
        os.close(fd)
    shim = Shim(our_in, our_out, our_err)
    await shim.start()
    try:
        async with asyncio.timeout(20):
            yield shim, process.pid
    finally:
        shim.close()
        async with asyncio.timeout(10):
            assert await process.wait() == 0


@pytest.mark.parametrize("name", ["async", "today"])
def test_without_systemd_a_shim_refuses_and_says_why(name: str, built: dict[str, BuiltDriver]) -> None:
    """Steps of an old driver that has no connection would panic; the refusal has the reason."""

    async def scenario() -> None:
        async with running(built[name]) as (shim, _):
            hello = await shim.hello()
            assert not hello.ok
            assert "/run/systemd/system" in hello.error
            answer = await shim.call({"id": "1", "op": "apply", "unit": "a.slice", "parent": "-.slice", "pid": -1})
            assert isinstance(answer, Answer)
            assert answer.error.startswith("refused: ")

    asyncio.run(scenario())


def test_stacks_are_answered_with_file_and_line(built: dict[str, BuiltDriver]) -> None:
    """The dump names sources relative to their module."""

    async def scenario() -> None:
        async with running(built["async"]) as (shim, _):
            text = await shim.stacks(10)
            assert "goroutine 1 [running]" in text
            assert "cgrace/ladder/main.go:" in text

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("request_", "error"),
    [
        ({"op": "dance", "unit": "a.slice"}, "no such operation"),
        ({"op": "exists", "unit": "a.service"}, "neither a slice nor a scope"),
        ({"op": "exists", "unit": "a.scope"}, "<prefix>-<name>.scope"),
        ({"op": "exists", "unit": "a.slice", "resources": {"beer": 1}}, "resources"),
        ({"op": 1}, "not a request"),
    ],
)
def test_what_is_no_request_is_answered_as_such(
    request_: dict[str, object], error: str, built: dict[str, BuiltDriver]
) -> None:
    """Every request has an answer, also a wrong one."""

    async def scenario() -> None:
        async with running(built["cgroupfs"]) as (shim, _):
            assert (await shim.hello()).ok
            answer = await shim.call({"id": "1", "parent": "-.slice"} | request_)
            assert isinstance(answer, Answer)
            assert error in answer.error

    asyncio.run(scenario())


@pytest.mark.parametrize("name", NAMES)
def test_sysmon_sleeps_at_the_note_that_the_binary_tells(name: str, built: dict[str, BuiltDriver]) -> None:
    """Exactly one thread of an idle shim comes to wait in a timed futex at that address."""
    note = built[name].sysmon_note
    assert note is not None

    async def scenario() -> None:
        async with running(built[name]) as (shim, pid):
            await shim.hello()
            while _sleepers(pid, note) != 1:  # noqa: ASYNC110 -- the kernel tells nobody when a thread falls asleep
                await asyncio.sleep(0.005)

    asyncio.run(scenario())


def _sleepers(pid: int, note: tuple[int, int]) -> int:
    count = 0
    for task in Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(OSError):
            words = (task / "syscall").read_text().split()
            count += len(words) > 4 and int(words[4], 16) != 0 and note[0] <= int(words[1], 16) < note[1]
    return count


def test_no_note_is_told_of_what_is_not_such_a_binary(tmp_path: Path) -> None:
    """A guess would let a proof ignore the wrong thread."""
    file = tmp_path / "file"
    for content in (b"", b"\x7fELF\x02\x01" + bytes(100), os.urandom(1000)):
        file.write_bytes(content)
        assert sysmon_note(file) is None


def test_what_is_built_costs_no_process(built: dict[str, BuiltDriver], monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither the go tool nor the network is needed again, nor a go at all."""

    async def nobody(*_: object, **__: object) -> None:
        raise AssertionError("the go tool was started")

    monkeypatch.setattr(building, "go", nobody)
    specs = [find(name) for name in NAMES]
    again = asyncio.run(build(specs))
    monkeypatch.setattr(building, "try_find_go", lambda: None)
    without_go = asyncio.run(build(specs))
    assert all(driver.cached for driver in again.values())
    assert {n: d.binary for n, d in again.items()} == {n: d.binary for n, d in built.items()}
    assert {n: d.binary for n, d in without_go.items()} == {n: d.binary for n, d in built.items()}


def test_each_driver_says_what_proves_it(built: dict[str, BuiltDriver]) -> None:
    """A rung by its blob id, a release by its module version."""
    assert "5471ebbff9e5" in built["async"].proof
    assert "opencontainers/cgroups v0.1.0" in built["today"].proof
    assert built["today"].build_id != built["cgroupfs"].build_id
