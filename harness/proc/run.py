"""The one door to child processes for finite commands: whatever happens to the caller, no process is left behind.

Every command leads a process group of its own, which dies with the call: on cancellation and on timeout the whole group is
killed and reaped. A command that fails is a value (`Completed`), not an exception; `run_ok` makes it one.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shlex
import signal
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cgrace.harness.errors import CgraceError

DEFAULT_TIMEOUT_S = 600.0
NOT_FOUND_STATUS = 127  # as a shell says it
DETAIL_LINES = 40
_BLOCK = 1 << 14
GRACE_S = 2.0  # for the pipes of a killed group to close


@dataclass(frozen=True, slots=True, kw_only=True)
class Completed:
    """A command that ended. status: >= 0 exit code, < 0 minus the signal; 127 with a text in stderr when it could not be
    started. timed_out: we killed it. env: what was added to our own environment."""

    argv: tuple[str, ...]
    status: int
    stdout: bytes
    stderr: bytes
    cwd: Path | None = None
    env: tuple[tuple[str, str], ...] = ()
    timed_out: bool = False

    @property
    def ok(self) -> bool:
        """Whether it said success."""
        return self.status == 0 and not self.timed_out

    @property
    def command_line(self) -> str:
        """The command as one can paste it into a shell, with its directory and the environment that we added."""
        return command_line(self.argv, cwd=self.cwd, env=dict(self.env))

    @property
    def how(self) -> str:
        """How it ended, in words."""
        if self.timed_out:
            return "took too long and was killed"
        if self.status < 0:
            return f"was killed by {_signal_name(-self.status)}"
        return f"ended with status {self.status}"

    @property
    def text(self) -> str:
        """stdout as text; what is not UTF-8 is replaced."""
        return self.stdout.decode(errors="replace")

    @property
    def tail(self) -> str:
        """The last lines that it said, stderr first choice: what to show of a failure."""
        said = self.stderr.strip() or self.stdout.strip()
        return "\n".join(said.decode(errors="replace").splitlines()[-DETAIL_LINES:])


def command_line(argv: Sequence[str], *, cwd: Path | None = None, env: Mapping[str, str] | None = None) -> str:
    """A command as one can paste it into a shell."""
    words = [f"{key}={shlex.quote(value)}" for key, value in (env or {}).items()]
    words.append(shlex.join(argv))
    line = " ".join(words)
    return f"cd {shlex.quote(str(cwd))} && {line}" if cwd is not None else line


async def run(
    argv: Sequence[str | os.PathLike[str]],
    *,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    stdin: bytes = b"",
    timeout_s: float = DEFAULT_TIMEOUT_S,
    on_line: Callable[[str], None] | None = None,
) -> Completed:
    """Run a command to its end. `env` is added to our own environment; on_line is told each line of its stderr as it comes, of
    a command without stdin. Never raises for what the command does."""
    assert on_line is None or not stdin, "who follows does not write"
    words = tuple(os.fspath(word) for word in argv)
    added = tuple((env or {}).items())

    def completed(status: int, out: bytes, err: bytes, *, late: bool = False) -> Completed:
        return Completed(argv=words, status=status, stdout=out, stderr=err, cwd=cwd, env=added, timed_out=late)

    try:
        process = await _start(words, cwd, {**os.environ, **dict(added)} if added else None, piped=bool(stdin))
    except OSError as error:
        return completed(NOT_FOUND_STATUS, b"", f"{words[0]}: {error.strerror}".encode())
    # One task reads to the end: on a timeout it still holds what was said until then.
    talk = asyncio.ensure_future(_follow(process, on_line) if on_line else process.communicate(stdin or None))
    try:
        done, _ = await asyncio.wait({talk}, timeout=timeout_s)
        late = not done
        if late:
            kill_group(process.pid)
            done, _ = await asyncio.wait({talk}, timeout=GRACE_S)
        if done:
            out, err = await talk
        else:  # something that left the group holds the pipes
            out, err = b"", b""
            await _settle(talk, process)
    except BaseException:
        kill_group(process.pid)
        await _settle(talk, process)
        raise
    return completed(-9 if late else process.returncode or 0, out, err, late=late)


async def _follow(process: asyncio.subprocess.Process, on_line: Callable[[str], None]) -> tuple[bytes, bytes]:
    """As communicate(), with every line of stderr told."""
    assert process.stdout is not None and process.stderr is not None
    reading = asyncio.ensure_future(process.stdout.read())
    said = bytearray()
    try:
        rest = b""
        while data := await process.stderr.read(_BLOCK):
            said += data
            *lines, rest = (rest + data).split(b"\n")
            for line in lines:
                on_line(line.decode(errors="replace").strip())
        out = await reading
    finally:
        reading.cancel()
    await process.wait()
    return out, bytes(said)


async def _start(
    words: Sequence[str], cwd: Path | None, env: Mapping[str, str] | None, *, piped: bool
) -> asyncio.subprocess.Process:
    """Start a process that leads a group of its own.

    Cancelled meanwhile, asyncio would kill the leader alone and then wait for whoever else holds its pipes: so a start always
    comes to its end, and the group is ended after it.
    """
    starting = asyncio.ensure_future(
        asyncio.create_subprocess_exec(
            *words,
            cwd=cwd,
            env=env,
            stdin=asyncio.subprocess.PIPE if piped else asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            start_new_session=True,
        )
    )
    try:
        return await asyncio.shield(starting)
    except asyncio.CancelledError:
        while not starting.done():
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.wait({starting})
        if starting.exception() is None:
            process = starting.result()
            kill_group(process.pid)
            await _settle(asyncio.ensure_future(process.communicate()), process)
        raise


async def run_ok(
    argv: Sequence[str | os.PathLike[str]],
    *,
    what: str,
    error: type[CgraceError] = CgraceError,
    hint: str = "",
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    stdin: bytes = b"",
    timeout_s: float = DEFAULT_TIMEOUT_S,
) -> Completed:
    """As `run`; a failure is raised as `error`, saying that `what` failed, with the command's own lines and the command."""
    done = await run(argv, cwd=cwd, env=env, stdin=stdin, timeout_s=timeout_s)
    if not done.ok:
        raise error(f"{what}: {done.argv[0]} {done.how}", hint=hint or done.command_line, detail=done.tail)
    return done


def kill_group(pid: int) -> None:
    """SIGKILL to the process group that `pid` leads; no error when it is gone."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)


async def _settle(talk: asyncio.Future[tuple[bytes, bytes]], process: asyncio.subprocess.Process) -> None:
    """Reap a killed command, also when we are cancelled once more meanwhile: a killed group takes no time to end."""
    talk.cancel()
    transport = getattr(
        process, "_transport", None
    )  # the pipes may be held by what left the group: asyncio has no other door
    if transport is not None:
        transport.close()
    reaping = asyncio.ensure_future(process.wait())
    both: set[asyncio.Future[Any]] = {talk, reaping}
    while not all(one.done() for one in both):
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.wait(both)


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
