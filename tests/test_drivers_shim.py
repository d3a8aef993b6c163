"""The shim's client: whatever a shim does, calls end and nothing of ours breaks."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import os
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cgrace.harness.drivers import shim as client
from cgrace.harness.drivers.base import Answer
from cgrace.harness.drivers.shim import Hello, Shim, ShimGone

SOON_S = 10.0


@dataclass
class Peer:
    """The shim's side of the pipes, played by the test, and what the client told."""

    shim: Shim
    stdin: int
    stdout: int
    stderr: int
    babble: list[str]
    said: list[str]
    gone: list[str] = field(default_factory=list)
    unread: bytes = b""

    def write(self, what: dict[str, Any] | bytes) -> None:
        """Say a line on stdout."""
        os.write(self.stdout, what if isinstance(what, bytes) else json.dumps(what).encode() + b"\n")

    async def read(self) -> dict[str, Any]:
        """The next request."""
        while b"\n" not in self.unread:
            self.unread += await asyncio.to_thread(os.read, self.stdin, 65536)
        line, _, self.unread = self.unread.partition(b"\n")
        request: dict[str, Any] = json.loads(line)
        return request

    def die(self) -> None:
        """Close every end."""
        for fd in (self.stdin, self.stdout, self.stderr):
            with contextlib.suppress(OSError):
                os.close(fd)


@contextlib.asynccontextmanager
async def playing() -> AsyncIterator[Peer]:
    """A client with its shim played; everything must end soon."""
    (their_in, our_in), (our_out, their_out), (our_err, their_err) = os.pipe(), os.pipe(), os.pipe()
    babble: list[str] = []
    said: list[str] = []
    gone: list[str] = []
    shim = Shim(
        our_in, our_out, our_err, on_babble=babble.append, on_stderr=said.append, on_gone=lambda: gone.append("")
    )
    peer = Peer(shim, their_in, their_out, their_err, babble, said, gone)
    async with asyncio.timeout(SOON_S):
        await shim.start()
        try:
            yield peer
        finally:
            shim.close()
            peer.die()
            await asyncio.sleep(0)


HELLO = {"hello": {"ok": True, "error": "", "conclusions": ["Delegate: yes"]}}


def answer(number: str, **more: Any) -> dict[str, Any]:
    """A sound answer."""
    return {"id": number, "ok": True, "error": "", "ns": 1, "value": ""} | more


async def settle() -> None:
    """Let the loop read what is in the pipes."""
    for _ in range(5):
        await asyncio.sleep(0)


def test_hello_and_overlapping_calls() -> None:
    """Answers find their calls in whatever order they come; paths are pairs."""

    async def scenario() -> None:
        async with playing() as peer:
            peer.write(HELLO)
            assert await peer.shim.hello() == Hello(ok=True, conclusions=("Delegate: yes",))
            first, second = peer.shim.send({"id": "1", "op": "apply"}), peer.shim.send({"id": "2", "op": "apply"})
            assert [(await peer.read())["id"], (await peer.read())["id"]] == ["1", "2"]
            peer.write(answer("2", ok=False, error="no"))
            peer.write(answer("1", paths={"pids": "/p", "devices": "/d"}))
            assert await second == Answer(id="2", error="no", ns=1)
            assert await first == Answer(id="1", ns=1, paths=(("devices", "/d"), ("pids", "/p")))

    asyncio.run(scenario())


def test_a_dead_shim_ends_every_call() -> None:
    """Also the hello, and calls that are made only afterwards."""

    async def scenario() -> None:
        async with playing() as peer:
            out = peer.shim.send({"id": "1", "op": "apply"})
            peer.die()
            assert await out == ShimGone(id="1", why="its stdout ended")
            assert (await peer.shim.hello()).gone
            assert isinstance(await peer.shim.call({"id": "2", "op": "apply"}), ShimGone)
            assert peer.gone == [""]
            assert await peer.shim.stacks(1.0) == ""

    asyncio.run(scenario())


@pytest.mark.parametrize(
    "line",
    [
        b"printed by the driver\n",
        b"[1]\n",
        b"{}\n",
        b'{"id": "never asked", "ok": true}\n',
        b"\xff\xfe\n",
        b"[" * 9999 + b"\n",
    ],
)
def test_babble_is_told_and_changes_nothing(line: bytes) -> None:
    """A driver that prints to stdout is still a driver."""

    async def scenario() -> None:
        async with playing() as peer:
            out = peer.shim.send({"id": "1", "op": "apply"})
            peer.write(line)
            peer.write(answer("1"))
            assert await out == Answer(id="1", ns=1)
            assert len(peer.babble) == 1
            assert len(peer.babble[0]) <= client.BABBLE_CHARS_MAX

    asyncio.run(scenario())


@pytest.mark.parametrize(
    "spoilt",
    [
        {"ok": "yes"},
        {"ns": "1"},
        {"paths": {"pids": 1}},
        {"value": None},
        {"error": "no"},
        {"ns": True},
        {"paths": ["x"]},
    ],
)
def test_a_garbled_answer_ends_the_talk(spoilt: dict[str, Any]) -> None:
    """No call waits for a shim whose answers cannot be understood."""

    async def scenario() -> None:
        async with playing() as peer:
            one, other = peer.shim.send({"id": "1", "op": "apply"}), peer.shim.send({"id": "2", "op": "apply"})
            peer.write(answer("1") | spoilt)
            assert isinstance(await one, ShimGone)
            assert isinstance(await other, ShimGone)
            assert peer.gone == [""]
            assert len(peer.babble) == 1

    asyncio.run(scenario())


def test_an_endless_line_ends_the_talk(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is not kept, and nobody waits for its end."""
    monkeypatch.setattr(client, "LINE_BYTES_MAX", 1000)

    async def scenario() -> None:
        async with playing() as peer:
            out = peer.shim.send({"id": "1", "op": "apply"})
            peer.write(b"x" * 5000)
            assert isinstance(await out, ShimGone)
            assert "more than 1000 bytes" in peer.babble[0]
            peer.write(b"y" * 5000 + b"\n" + b"and on\n")
            await settle()
            assert len(peer.babble) == 1

    asyncio.run(scenario())


def test_a_second_hello_is_babble() -> None:
    """Only the first says what the probes concluded."""

    async def scenario() -> None:
        async with playing() as peer:
            peer.write(HELLO)
            peer.write({"hello": {"ok": False, "error": "no", "conclusions": []}})
            assert (await peer.shim.hello()).ok
            await settle()
            assert len(peer.babble) == 1

    asyncio.run(scenario())


def test_stacks_that_do_not_come_are_not_waited_for() -> None:
    """A shim that hangs in its reader costs the bound, and its late answer is no babble."""

    async def scenario() -> None:
        async with playing() as peer:
            assert await peer.shim.stacks(0.01) == ""
            late = await peer.read()
            peer.write(answer(late["id"], value="goroutine 1"))
            asking = asyncio.ensure_future(peer.shim.stacks(SOON_S))
            peer.write(answer((await peer.read())["id"], value="goroutine 2"))
            assert await asking == "goroutine 2"
            assert peer.babble == []

    asyncio.run(scenario())


def test_stderr_comes_line_by_line_and_has_an_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """A flood is cut, and says so once; a last line without a newline counts."""
    monkeypatch.setattr(client, "STDERR_LINES_MAX", 2)

    async def scenario() -> None:
        async with playing() as peer:
            os.write(peer.stderr, b"one\ntwo\nthree\nfour")
            peer.die()
            await settle()
            assert peer.said[:2] == ["one", "two"]
            assert "2 lines" in peer.said[2]

    asyncio.run(scenario())


def test_an_id_in_use_is_our_own_mistake() -> None:
    """Two calls with one id could never be told apart."""

    async def scenario() -> None:
        async with playing() as peer:
            peer.shim.send({"id": "1", "op": "apply"})
            with pytest.raises(ValueError, match="in use"):
                peer.shim.send({"id": "1", "op": "apply"})

    asyncio.run(scenario())


def test_close_before_start_lets_go_of_the_pipes() -> None:
    """A run that ends before its driver was taken up keeps no descriptor."""
    pairs = [os.pipe() for _ in range(3)]
    Shim(pairs[0][1], pairs[1][0], pairs[2][0]).close()
    for fd in (pairs[0][1], pairs[1][0], pairs[2][0]):
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(fd)
    for fd in (pairs[0][0], pairs[1][1], pairs[2][1]):
        os.close(fd)


@given(st.lists(st.binary(max_size=6).map(lambda b: b.replace(b"\n", b"")), max_size=6), st.data())
def test_lines_do_not_depend_on_how_the_bytes_arrive(lines: list[bytes], data: st.DataObject) -> None:
    """However a pipe cuts its bytes, the same lines come out."""
    seen: list[bytes] = []
    splitter = client._Lines(100, lambda line, cut: seen.append(line), lambda: None)
    rest = b"".join(line + b"\n" for line in lines)
    while rest:
        size = data.draw(st.integers(1, len(rest)))
        splitter.data_received(rest[:size])
        rest = rest[size:]
    splitter.connection_lost(None)
    assert seen == lines


def test_a_start_that_is_cancelled_closes_each_descriptor_once() -> None:
    """Whoever got the number of a closed descriptor meanwhile keeps it: the run's end closes nothing of others."""

    async def cancelled(turns: int) -> None:
        pipes = [os.pipe() for _ in range(3)]
        shim = Shim(pipes[0][1], pipes[1][0], pipes[2][0])
        starting = asyncio.get_running_loop().create_task(shim.start())
        for _ in range(turns):
            await asyncio.sleep(0)
        starting.cancel()
        await asyncio.gather(starting, return_exceptions=True)
        await settle()
        others = [os.open(os.devnull, os.O_RDONLY) for _ in range(6)]
        shim.close()
        gc.collect()
        await settle()
        for fd in (*others, pipes[0][0], pipes[1][1], pipes[2][1]):
            os.close(fd)

    for turns in range(6):
        asyncio.run(cancelled(turns))
