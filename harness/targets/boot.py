"""Starts a root's own systemd as PID 1 of namespaces of its own (go/boot), and keeps its console and what it notifies."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import threading
from collections import deque
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

from cgrace.harness.errors import TargetError
from cgrace.harness.targets.stage import start_stage

CONSOLE_LINES: Final = 200
_LINE_BYTES_MAX: Final = 2000
_PACKET_BYTES: Final = 1 << 14
_READ_BYTES: Final = 1 << 12
# What a program asks or tells a terminal: DCS and OSC strings (ECMA-48), which new systemds write to every console.
_TO_TERMINAL: Final = re.compile(r"\x1b[P\]^_].*?(?:\x07|\x1b\\|$)")
_DESCRIPTORS: Final = 3  # the console's other end, the console, the notify socket


class Console:
    """The last lines that a machine wrote on its console. A thread reads: a console that nobody reads would stop PID 1.

    master, slave: descriptors of both ends, ours from now on. We keep the slave open, so that the machine's opening and closing
    it does not end the stream; `close` lets it go, and with the machine's last process the thread ends.
    """

    def __init__(self, master: int, slave: int) -> None:
        self._master = master
        self._slave = slave
        self._lines: deque[bytes] = deque(maxlen=CONSOLE_LINES)
        self._rest = b""
        self._thread = threading.Thread(target=self._read, name="cgrace-console", daemon=True)
        self._thread.start()

    def tail(self, lines: int = 20) -> str:
        """The last lines, as text without what a terminal would take for commands."""
        kept = [*self._lines, self._rest]
        texts = [_plain(line.decode(errors="replace")) for line in kept]
        return "\n".join([text for text in texts if text][-lines:])

    def finish(self, seconds_max: float = 2.0) -> None:
        """Once the machine is dead: read what is left. Blocks."""
        if self._slave >= 0:
            os.close(self._slave)
            self._slave = -1
        self._thread.join(seconds_max)

    def close(self) -> None:
        """Read what is left, then let go."""
        self.finish()
        if not self._thread.is_alive():
            os.close(self._master)

    def _read(self) -> None:
        with contextlib.suppress(OSError):  # EIO: nobody has the other end any more
            while data := os.read(self._master, _READ_BYTES):
                *whole, rest = (self._rest + data).split(b"\n")
                self._lines.extend(line[:_LINE_BYTES_MAX] for line in whole)
                self._rest = rest[-_LINE_BYTES_MAX:]


def _plain(text: str) -> str:
    """Without escape sequences and other control characters."""
    out, escape = [], False
    for character in _TO_TERMINAL.sub("", text):
        if escape:
            escape = not character.isalpha()
        elif character == "\x1b":
            escape = True
        elif character.isprintable() or character == "\t":
            out.append(character)
    return "".join(out).rstrip()


def pid_of(pidfd: int) -> int | None:
    """The process behind a pidfd, as we see it; None once it was reaped (pidfd_open(2), fdinfo)."""
    text = Path(f"/proc/self/fdinfo/{pidfd}").read_text(encoding="ascii")
    pid = next(int(line.split()[1]) for line in text.splitlines() if line.startswith("Pid:"))
    return pid if pid > 0 else None


class Boot:
    """One PID 1. `start`, then await `ready`; `kill` and `reap` end it, in whatever state it is.

    pid: as we see it, None before there is one. ready: its systemd said READY=1 (TargetError: it will not). ended: it is gone.
    status: the last STATUS= that it notified.
    """

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self.pid: int | None = None
        self.ready: asyncio.Future[None] = self._loop.create_future()
        self.ended: asyncio.Future[None] = self._loop.create_future()
        self.console: Console | None = None
        self.status = ""
        self._control: socket.socket | None = None
        self._notify: socket.socket | None = None
        self._stage1: subprocess.Popen[bytes] | None = None
        self._pidfd = -1

    def start(
        self, program: Path, config: Mapping[str, Any], cgroups: tuple[int, ...], *, stage: str = "stage1"
    ) -> None:
        """Start stage 1 with open cgroup.procs, or "keep"; in the loop's thread (stage.py says why)."""
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._control.setblocking(False)
        with theirs:
            self._stage1 = start_stage(program, stage, {**config, "cgroups": cgroups}, theirs, cgroups)
        self._loop.add_reader(self._control, self._guarded, self._answered)

    def _guarded(self, read: Callable[[], None]) -> None:
        with contextlib.suppress(BlockingIOError):
            read()

    def _answered(self) -> None:
        assert self._control is not None
        try:
            packet, descriptors, _, _ = socket.recv_fds(self._control, _PACKET_BYTES, _DESCRIPTORS)
        except ConnectionResetError:
            packet, descriptors = b"", []
        if not packet:  # it became the root's init, or died; the latter is told by its pidfd, and here if it never was
            self._loop.remove_reader(self._control)
            if self.pid is None:
                self.refuse("the machine could not be started")
            return
        answer = json.loads(packet)
        if "cloned" in answer:
            self._watch(int(answer["cloned"]))
        elif "kept" in answer:
            self._watch_kept(descriptors[0])
        elif "failed" in answer:
            self.refuse(f"the machine could not be made: {answer['failed']}")
        elif len(descriptors) == _DESCRIPTORS:
            self.console = Console(descriptors[0], descriptors[1])
            self._notify = socket.socket(fileno=descriptors[2])
            self._notify.setblocking(False)
            self._loop.add_reader(self._notify, self._guarded, self._notified)

    def _drain(self) -> None:
        """Take what was said before the end, up to BlockingIOError; the reader is gone after the last of it."""
        while self._control is not None and self._loop.remove_reader(self._control):
            self._loop.add_reader(self._control, self._guarded, self._answered)
            self._answered()

    def _watch_kept(self, pidfd: int) -> None:
        """One that another has to reap, and may have reaped."""
        self._pidfd = pidfd
        if (pid := pid_of(pidfd)) is None:
            self.refuse("its PID 1 ended")
            return
        self.pid = pid
        self._loop.add_reader(self._pidfd, self._died)

    def _watch(self, pid: int) -> None:
        self.pid = pid
        self._pidfd = os.pidfd_open(pid)  # ours to reap, so it is there
        self._loop.add_reader(self._pidfd, self._died)

    def _died(self) -> None:
        self._loop.remove_reader(self._pidfd)
        self._guarded(self._drain)
        if not self.ended.done():
            self.ended.set_result(None)
        self.refuse("its PID 1 ended")

    def _notified(self) -> None:
        assert self._notify is not None
        lines = self._notify.recv(_PACKET_BYTES).decode(errors="replace").splitlines()
        for line in lines:
            if line.startswith("STATUS="):
                self.status = line.removeprefix("STATUS=")
        if "READY=1" in lines and not self.ready.done():
            self.ready.set_result(None)

    def refuse(self, why: str) -> None:
        """It will not get ready."""
        if not self.ready.done():
            self.ready.set_exception(TargetError(why))
            self.ready.exception()  # seen: nobody may be left to await it

    def last_words(self) -> str:
        """The console's last lines; of a dead machine all that it wrote. Blocks."""
        if self.console is None:
            return ""
        if self.ended.done():
            self.console.finish()
        return self.console.tail()

    def kill(self) -> None:
        """SIGKILL to PID 1; the kernel kills whatever else is in its pid namespace. Whoever keeps it sees that we say no more."""
        if self._control is not None:
            with contextlib.suppress(OSError):
                self._control.shutdown(socket.SHUT_WR)
        if self._pidfd >= 0:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)

    def let_go(self) -> None:
        """In the loop's thread, before `reap`: listen to nothing any more."""
        for reader in (self._control, self._notify, self._pidfd):
            if reader is not None and reader != -1:
                self._loop.remove_reader(reader)
        self.refuse("the machine was ended")

    def reap(self) -> None:
        """Wait for the end of what was killed, and close everything. Blocks for as long as the namespace takes to end."""
        if self._stage1 is not None:
            self._stage1.wait()
        if self._control is not None:
            with self._control:
                self._take_late_pid()
        if self.pid is not None:
            with contextlib.suppress(ChildProcessError):
                os.waitpid(self.pid, 0)
        if self._pidfd >= 0:
            os.close(self._pidfd)
            self._pidfd = -1
        if self.console is not None:
            self.console.close()
        if self._notify is not None:
            self._notify.close()

    def _take_late_pid(self) -> None:
        """Stage 1 ended, so if there is a PID 1 then it was told; we may have been cancelled before we read it."""
        assert self._control is not None
        with contextlib.suppress(OSError):
            while self.pid is None and (packet := self._control.recv(_PACKET_BYTES)):
                self.pid = json.loads(packet).get("cloned")
        if self._pidfd < 0 and self.pid is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)  # not reaped yet, so the pid is still its
