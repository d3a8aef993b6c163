"""The door to child processes: whatever happens to the caller, nothing is left behind."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shlex
import signal
import subprocess
from pathlib import Path

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cgrace.harness.errors import DriverError
from cgrace.harness.proc import run as door
from cgrace.harness.proc.run import command_line, run, run_ok

WORDS = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=12)


def test_run_returns_what_the_command_said() -> None:
    """Status, both streams and stdin go through."""
    done = asyncio.run(run(["sh", "-c", "cat; echo said >&2; exit 3"], stdin=b"in"))
    assert (done.status, done.stdout, done.stderr, done.ok) == (3, b"in", b"said\n", False)
    assert done.how == "ended with status 3"


def test_run_of_a_missing_command_is_a_value() -> None:
    """What cannot be started ends with 127 and says why, as a shell has it."""
    done = asyncio.run(run(["/nonexistent/tool", "word"]))
    assert done.status == 127
    assert "/nonexistent/tool" in done.tail


def test_run_ok_shows_the_commands_own_lines_and_the_command() -> None:
    """A failure names what failed, in the caller's own error class."""
    with pytest.raises(DriverError) as caught:
        asyncio.run(
            run_ok(["sh", "-c", "echo 'no such thing' >&2; exit 1"], what="it cannot be built", error=DriverError)
        )
    assert "it cannot be built" in caught.value.message
    assert caught.value.detail == "no such thing"
    assert "sh -c" in caught.value.hint


def test_cancellation_kills_and_reaps_the_whole_group(tmp_path: Path) -> None:
    """A cancelled command leaves neither its own child nor a zombie."""
    fifo = tmp_path / "pid"
    os.mkfifo(fifo)

    async def scenario() -> int:
        call = asyncio.ensure_future(run(["sh", "-c", f"sleep 60 & echo $! > {fifo}; wait"]))
        pid = int(await asyncio.to_thread(fifo.read_text))
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        return pid

    grandchild = asyncio.run(scenario())
    assert psutil.Process().children(recursive=True) == []
    with contextlib.suppress(psutil.NoSuchProcess):
        # Its parent is dead, so whoever adopts orphans reaps it: at most it is a zombie of theirs.
        assert psutil.Process(grandchild).status() == psutil.STATUS_ZOMBIE


def test_cancellation_at_any_moment_of_a_start_leaves_nothing() -> None:
    """asyncio's own cancelled start would kill the leader alone and wait for its child, which holds the pipes."""

    async def scenario(turns: int) -> None:
        call = asyncio.ensure_future(run(["sh", "-c", "sleep 60 & wait"]))
        for _ in range(turns):
            await asyncio.sleep(0)
        call.cancel()
        async with asyncio.timeout(10):
            with pytest.raises(asyncio.CancelledError):
                await call

    for turns in range(12):
        asyncio.run(scenario(turns))
    assert psutil.Process().children(recursive=True) == []


def test_a_timeout_keeps_what_was_said_until_then() -> None:
    """The command is killed, and its output until then is still there to show."""
    done = asyncio.run(run(["sh", "-c", "echo early; exec sleep 60"], timeout_s=0.2))
    assert done.timed_out
    assert not done.ok
    assert done.stdout == b"early\n"
    assert psutil.Process().children() == []


def test_a_runaway_that_holds_the_pipes_does_not_hold_us(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What left the process group and keeps our pipes open cannot make the call hang."""
    monkeypatch.setattr(door, "GRACE_S", 0.1)
    pid_file = tmp_path / "pid"
    script = f"setsid sh -c 'echo $$ > {pid_file}; exec sleep 60' & wait"
    try:
        assert asyncio.run(run(["sh", "-c", script], timeout_s=0.3)).timed_out
    finally:
        os.kill(int(pid_file.read_text()), signal.SIGKILL)


@given(st.lists(WORDS, min_size=1, max_size=4), st.dictionaries(st.from_regex(r"[A-Z_]{1,8}", fullmatch=True), WORDS))
def test_command_line_can_be_pasted(argv: list[str], env: dict[str, str]) -> None:
    """A shell reads back exactly the words and the environment."""
    words = shlex.split(command_line(argv, env=env))
    assert words == [f"{key}={value}" for key, value in env.items()] + argv


def test_command_line_runs_where_the_command_ran(tmp_path: Path) -> None:
    """Pasted into a shell it does the same, in the same directory."""
    done = asyncio.run(run(["sh", "-c", "pwd; echo $WORD"], cwd=tmp_path, env={"WORD": "a b"}))
    again = subprocess.run(["sh", "-c", done.command_line], capture_output=True, check=True)
    assert again.stdout == done.stdout == f"{tmp_path}\na b\n".encode()
