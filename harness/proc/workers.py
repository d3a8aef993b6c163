"""Processes of ours that work beside us: values in, values out, over their stdin and stdout.

A worker lives no longer than the block that opened it: its stdin ends with us, however we end, and that ends it. Values are
pickled, which is safe only because both ends are the same program of the same user.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import pickle
import signal
import struct
import sys
import traceback
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any, Final

from cgrace.harness.errors import CgraceError

_LENGTH: Final = struct.Struct("=II")
GRACE_S: Final = 10.0


_FAILED: Final = 0  # the number of an answer that says why nothing more comes


class WorkerDied(CgraceError):
    """A worker ended before it had answered."""


class Worker:
    """One worker process. `ask` may be called many times at once; answers come in any order."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self._asked: dict[int, asyncio.Future[Any]] = {}
        self._numbers = itertools.count(1)
        self.load = 0
        self._failure: BaseException | None = None

    async def ask(self, value: Any) -> Any:
        """Have one value worked on; WorkerDied when that process ends first, or what it says that it ended of."""
        assert self._process.stdin is not None
        if self._failure is not None:
            raise self._failure
        number = next(self._numbers)
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._asked[number] = future
        self.load += 1
        try:
            data = pickle.dumps(value)
            with contextlib.suppress(ConnectionError):  # then `_read` ends, and tells
                self._process.stdin.write(_LENGTH.pack(number, len(data)) + data)
                await self._process.stdin.drain()
            return await future
        finally:
            self.load -= 1
            self._asked.pop(number, None)

    async def read(self) -> None:
        """Take answers until the worker ends."""
        stdout = self._process.stdout
        assert stdout is not None
        with contextlib.suppress(asyncio.IncompleteReadError):
            while True:
                number, length = _LENGTH.unpack(await stdout.readexactly(_LENGTH.size))
                answer = pickle.loads(await stdout.readexactly(length))
                if number == _FAILED:
                    self._failure = answer
                elif (future := self._asked.get(number)) is not None and not future.done():
                    future.set_exception(answer) if isinstance(answer, Exception) else future.set_result(answer)
        if self._failure is None:
            self._failure = WorkerDied(
                "a worker process of cgrace was killed or crashed",
                hint="run it again: what the worker left is removed first",
            )
        for future in self._asked.values():
            if not future.done():
                future.set_exception(self._failure)

    async def close(self) -> None:
        """End its stdin and wait for it; kill it if it does not go."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            async with asyncio.timeout(GRACE_S):
                await self._process.wait()
        except TimeoutError:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._process.pid, signal.SIGKILL)
            await self._process.wait()


@contextlib.asynccontextmanager
async def workers(module: str, count: int, *arguments: str) -> AsyncIterator[list[Worker]]:
    """`count` processes of `python -m module arguments...`; gone when the block ends."""
    found: list[Worker] = []
    try:
        for _ in range(count):
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                module,
                *arguments,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                start_new_session=True,
            )
            found.append(Worker(process))
        async with asyncio.TaskGroup() as reading:
            readers = [reading.create_task(worker.read()) for worker in found]
            try:
                yield found
            finally:
                await asyncio.shield(asyncio.gather(*(worker.close() for worker in found)))
                for reader in readers:
                    reader.cancel()
    finally:
        for worker in found:
            await worker.close()


def work_as(module_main: Callable[[int], Coroutine[Any, Any, None]]) -> None:
    """The worker's whole life: `module_main(out)`, which is to call `serve`. What it fails with is told to the parent."""
    out = os.dup(1)
    os.dup2(2, 1)  # nothing but answers goes to our stdout
    try:
        asyncio.run(module_main(out))
    except Exception as error:
        _answer(out, _FAILED, _telling(error))
    os.close(out)


async def serve(work: Callable[[Any], Any], out: int) -> None:
    """`await work(value)` for every value, many at once, until stdin ends; then what is left is cancelled."""
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader(limit=1 << 26)
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin.buffer)

    async def one(number: int, value: Any) -> None:
        try:
            answer = await work(value)
        except Exception as error:
            answer = _telling(error)
        _answer(out, number, answer)

    async with asyncio.TaskGroup() as tasks:
        running: set[asyncio.Task[None]] = set()
        with contextlib.suppress(asyncio.IncompleteReadError):
            while True:
                number, length = _LENGTH.unpack(await reader.readexactly(_LENGTH.size))
                task = tasks.create_task(one(number, pickle.loads(await reader.readexactly(length))))
                running.add(task)
                task.add_done_callback(running.discard)
        for task in running:
            task.cancel()


def _telling(error: Exception) -> Exception:
    """The error with what only this process knows of it, where it is no clear message by itself: the parent writes that down."""
    inner: BaseException = error
    while isinstance(inner, BaseExceptionGroup):
        inner = inner.exceptions[0]
    if isinstance(inner, CgraceError):
        return inner
    error.add_note("in a worker process:\n" + "".join(traceback.format_exception(error)))
    return error


def _answer(out: int, number: int, answer: Any) -> None:
    data = pickle.dumps(answer)
    _write_all(out, _LENGTH.pack(number, len(data)) + data)


def _write_all(descriptor: int, data: bytes) -> None:
    """Write to the parent, who always reads; when it is gone there is nobody to tell."""
    with contextlib.suppress(BrokenPipeError):
        while data:
            data = data[os.write(descriptor, data) :]
