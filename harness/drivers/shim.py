"""The client of one shim process: JSON lines out and in, many operations at once, on the event loop's own pipes.

A shim's misdeed is a finding about the run, never an exception of ours: when it dies or its stdout ends, every call that is
still out ends with `ShimGone`; what is no answer to anything that we asked goes to `on_babble`.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from cgrace.harness.drivers.base import Answer

LINE_BYTES_MAX = 16 << 20
STDERR_BYTES_MAX = 1 << 16  # a line of stderr is cut there
BABBLE_CHARS_MAX = 400  # of a line that is not the protocol, that much is kept
BABBLE_LINES_MAX = 1000  # then nobody listens any more
STDERR_LINES_MAX = 10_000  # then the rest is dropped, and one line says so
_NO_ANSWER = "its answer is not the protocol"


@dataclass(frozen=True, slots=True, kw_only=True)
class Hello:
    """What the shim said first. gone: it ended without a word, and `error` says so."""

    ok: bool
    error: str = ""
    conclusions: tuple[str, ...] = ()
    gone: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ShimGone:
    """The end of a call whose shim ended, or cannot be understood any more, before it answered."""

    id: str
    why: str


class _Lines(asyncio.Protocol):
    """Splits a pipe into lines. A line longer than `limit` is passed on cut, once, and the rest of it dropped."""

    def __init__(self, limit: int, on_line: Callable[[bytes, bool], None], on_end: Callable[[], None]) -> None:
        self._limit = limit
        self._on_line = on_line
        self._on_end = on_end
        self._parts: list[bytes] = []
        self._size = 0
        self._skipping = False

    def data_received(self, data: bytes) -> None:
        """asyncio.Protocol."""
        *whole, rest = data.split(b"\n")
        for part in whole:
            self._add(part)
            if not self._skipping:
                self._on_line(b"".join(self._parts), False)
            self._reset()
        self._add(rest)

    def connection_lost(self, exc: Exception | None) -> None:
        """asyncio.Protocol: what is left without a newline is a line too."""
        if self._size and not self._skipping:
            self._on_line(b"".join(self._parts), False)
        self._reset()
        self._on_end()

    def _add(self, part: bytes) -> None:
        if self._skipping or not part:
            return
        self._parts.append(part)
        self._size += len(part)
        if self._size > self._limit:
            self._on_line(b"".join(self._parts)[: self._limit], True)
            self._reset()
            self._skipping = True

    def _reset(self) -> None:
        self._parts, self._size, self._skipping = [], 0, False


class Shim:
    """One shim. Give it our ends of its pipes as descriptors: `stdin` to write, `stdout` and `stderr` to read. It owns them from
    then on. Call `start` on the event loop once, `close` in any case."""

    def __init__(
        self,
        stdin: int,
        stdout: int,
        stderr: int,
        *,
        on_babble: Callable[[str], None] = lambda line: None,
        on_stderr: Callable[[str], None] = lambda line: None,
        on_gone: Callable[[], None] = lambda: None,
    ) -> None:
        self._fds: tuple[int, ...] = (stdin, stdout, stderr)
        self._on_babble = on_babble
        self._on_stderr = on_stderr
        self._on_gone = on_gone
        self._hello: asyncio.Future[Hello] | None = None
        self._calls: dict[str, asyncio.Future[Answer | ShimGone]] = {}
        self._pipes: list[asyncio.BaseTransport] = []
        self._writer: asyncio.WriteTransport | None = None
        self._gone = ""
        self._stack_calls = 0
        self._babbled = 0
        self._stderr_lines = 0

    @property
    def gone(self) -> str:
        """Why nothing more will come from it; "" while it may."""
        return self._gone

    async def start(self) -> None:
        """Take up the pipes."""
        loop = asyncio.get_running_loop()
        self._hello = loop.create_future()
        # From here on each descriptor has one owner, first its file, then its transport: one that is closed twice may be another's.
        fds, self._fds = self._fds, ()
        files = [os.fdopen(fd, mode, buffering=0) for fd, mode in zip(fds, ("wb", "rb", "rb"), strict=True)]
        stdin, stdout, stderr = files
        try:
            reading, _ = await loop.connect_read_pipe(lambda: _Lines(LINE_BYTES_MAX, self._line, self._ended), stdout)
            self._pipes.append(reading)
            files.remove(stdout)
            said, _ = await loop.connect_read_pipe(lambda: _Lines(STDERR_BYTES_MAX, self._said, lambda: None), stderr)
            self._pipes.append(said)
            files.remove(stderr)
            self._writer, _ = await loop.connect_write_pipe(asyncio.Protocol, stdin)
            self._pipes.append(self._writer)
        except BaseException:
            for file in files:
                file.close()
            raise

    async def hello(self) -> Hello:
        """What it says once its own start-up probes are over. Waits as long as they take: bound it with asyncio.timeout."""
        assert self._hello is not None, "start was not called"
        return await asyncio.shield(self._hello)

    async def call(self, request: dict[str, Any]) -> Answer | ShimGone:
        """Ask for one operation; `request["id"]` must not be in use. Many may be out at once.

        Cancelling gives the call up; its late answer is then dropped, and is no babble.
        """
        return await self.send(request)

    def send(self, request: dict[str, Any]) -> asyncio.Future[Answer | ShimGone]:
        """As `call`, but written when this returns: the order of sends is the order on the wire."""
        number = str(request["id"])
        if number in self._calls:
            raise ValueError(f"the id {number} is in use")
        future: asyncio.Future[Answer | ShimGone] = asyncio.get_running_loop().create_future()
        if self._gone or self._writer is None or self._writer.is_closing():
            future.set_result(ShimGone(id=number, why=self._gone or "its stdin is closed"))
            return future
        self._calls[number] = future
        self._writer.write(json.dumps(request, separators=(",", ":")).encode() + b"\n")
        return future

    async def stacks(self, timeout_s: float) -> str:
        """All its goroutines' stacks as the runtime prints them; "" when it does not answer in time or is gone."""
        self._stack_calls += 1
        try:
            async with asyncio.timeout(timeout_s):
                answer = await self.call({"id": f"stacks {self._stack_calls}", "op": "stacks"})
        except TimeoutError:
            return ""
        return answer.value if isinstance(answer, Answer) else ""

    def close(self) -> None:
        """End its stdin, which ends a sound shim, and let go of every pipe. Calls that are out end with ShimGone."""
        for fd in self._fds:
            with contextlib.suppress(OSError):
                os.close(fd)
        self._fds = ()
        for pipe in self._pipes:
            if pipe.is_closing():
                continue
            if isinstance(pipe, asyncio.WriteTransport):
                pipe.abort()  # a shim that does not read must not keep our end open
            else:
                pipe.close()
        self._end("cgrace closed its pipes")

    # ---- what comes in

    def _line(self, line: bytes, cut: bool) -> None:
        if self._gone:
            return
        data = None if cut else _decode(line)
        if data is not None and self._understand(data):
            return
        text = line[: 4 * BABBLE_CHARS_MAX].decode(errors="replace")[:BABBLE_CHARS_MAX]
        self._on_babble(f"{text}... (a line of more than {LINE_BYTES_MAX} bytes)" if cut else text)
        self._babbled += 1
        if cut or self._babbled >= BABBLE_LINES_MAX:
            # Which call an endless line was to answer cannot be known: none will be waited for.
            self._lost("a line of its stdout is longer than any answer" if cut else "its stdout is all babble")

    def _understand(self, data: dict[str, Any]) -> bool:
        """Whether the line was the protocol, and expected."""
        if (said := data.get("hello")) is not None:
            assert self._hello is not None
            hello = _hello(said)
            if hello is None or self._hello.done():
                return False
            self._hello.set_result(hello)
            return True
        number = data.get("id")
        future = self._calls.pop(number, None) if isinstance(number, str) else None
        if future is None:
            return False
        answer = _answer(data)
        if not future.done():
            future.set_result(answer or ShimGone(id=str(number), why=_NO_ANSWER))
        if answer is None:  # whoever garbles one answer is not believed in the next
            self._lost(_NO_ANSWER)
        return answer is not None

    def _said(self, line: bytes, cut: bool) -> None:
        self._stderr_lines += 1
        if self._stderr_lines <= STDERR_LINES_MAX:
            self._on_stderr(line.decode(errors="replace") + (" ... (cut)" if cut else ""))
        elif self._stderr_lines == STDERR_LINES_MAX + 1:
            self._on_stderr(f"... (more than {STDERR_LINES_MAX} lines: the rest is dropped)")

    def _ended(self) -> None:
        self._lost("its stdout ended")

    def _lost(self, why: str) -> None:
        if not self._gone:
            self._end(why)
            self._on_gone()

    def _end(self, why: str) -> None:
        self._gone = self._gone or why
        if self._hello is not None and not self._hello.done():
            self._hello.set_result(Hello(ok=False, error=f"no hello: {self._gone}", gone=True))
        calls, self._calls = self._calls, {}
        for number, future in calls.items():
            if not future.done():
                future.set_result(ShimGone(id=number, why=self._gone))


def _decode(line: bytes) -> dict[str, Any] | None:
    try:
        data = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return data if isinstance(data, dict) else None


def _hello(said: Any) -> Hello | None:
    if not isinstance(said, dict) or not isinstance(said.get("ok"), bool):
        return None
    error, conclusions = said.get("error", ""), said.get("conclusions") or []
    if not isinstance(error, str) or not isinstance(conclusions, list):
        return None
    return Hello(ok=said["ok"], error=error, conclusions=tuple(str(one) for one in conclusions))


def _answer(data: dict[str, Any]) -> Answer | None:
    number, error, ns, pid = data.get("id"), data.get("error", ""), data.get("ns", 0), data.get("pid", 0)
    paths, value, ok = data.get("paths") or {}, data.get("value", ""), data.get("ok")
    sound = (
        isinstance(number, str)
        and isinstance(ok, bool)
        and isinstance(error, str)
        and type(ns) is int
        and type(pid) is int
        and isinstance(value, str)
        and isinstance(paths, dict)
        and all(isinstance(path, str) for path in paths.values())
        and ok == (error == "")
    )
    if not sound:
        return None
    return Answer(id=str(number), error=error, ns=ns, paths=tuple(sorted(paths.items())), value=value, pid=pid)
