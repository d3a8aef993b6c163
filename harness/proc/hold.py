"""A child process that stays beside us until it is told to end: its stdin is a pipe from us, and with that it ends, too."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass

from cgrace.harness.errors import CgraceError

START_S_MAX = 20.0


@dataclass(frozen=True, slots=True)
class Held:
    """A child that said its first line. Its own pid is `pid`; what it started may have another."""

    process: asyncio.subprocess.Process
    first_line: str

    @property
    def pid(self) -> int:
        """The child's pid."""
        return self.process.pid

    def kill(self, number: int) -> None:
        """Send it a signal; no error when it is gone."""
        with contextlib.suppress(ProcessLookupError):
            self.process.send_signal(number)

    async def wait(self) -> None:
        """Until it is gone and reaped."""
        await self.process.wait()


@contextlib.asynccontextmanager
async def held(argv: Sequence[str]) -> AsyncIterator[Held]:
    """The child, once it wrote a line to stdout; CgraceError when it ends before. Killed and reaped when the block ends."""
    try:
        process = await asyncio.create_subprocess_exec(
            *argv,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            start_new_session=True,  # a terminal's Ctrl-C is for us alone
        )
    except OSError as error:
        raise CgraceError(f"cannot start {argv[0]}: {error.strerror}") from error
    assert process.stdout is not None and process.stderr is not None and process.stdin is not None
    try:
        async with asyncio.timeout(START_S_MAX):
            line = await process.stdout.readline()
        if not line:
            told = (await process.stderr.read()).decode(errors="replace").strip()
            raise CgraceError(f"{argv[0]} ended before it was ready", detail=told)
        yield Held(process, line.decode(errors="replace").strip())
    finally:
        process.stdin.close()
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.send_signal(signal.SIGKILL)
        await process.wait()
