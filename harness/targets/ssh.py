"""A channel to a machine over OpenSSH's own client: one master connection, and every command and copy over it.

Nothing is forwarded, which an administrator may forbid (AllowStreamLocalForwarding, AllowTcpForwarding): cgrace runs inside the
machine, and what it says goes over the stdin and stdout of a session.

The user's own ssh configuration holds (host names, jumps, keys, agents) except for what the channel itself is made of. Nothing
is asked: BatchMode. The master is our child and ends with us; its control socket is named relative to the channel's folder,
because a socket's path has 107 bytes at most (unix(7)).
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import shlex
import shutil
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from pathlib import Path
from typing import Final

from cgrace.harness.errors import TargetError
from cgrace.harness.proc.run import Completed, kill_group, run

CONNECT_S_MAX: Final = 20.0
COMMAND_S_MAX: Final = 600.0
_CONTROL: Final = "ssh.ctl"
_SESSION: Final = "echo cgrace-connected; exec cat"
_GREETING: Final = b"cgrace-connected"
_BEGINS: Final = "cgrace-begins"
_SSH_FAILED: Final = 255  # ssh(1): "exits with the exit status of the remote command or with 255 if an error occurred"
# What the channel is made of. A user's RequestTTY, RemoteCommand, forwardings and sharing of connections are for other sessions.
_OPTIONS: Final = (
    "BatchMode=yes",
    "RequestTTY=no",
    "RemoteCommand=none",
    "ClearAllForwardings=yes",
    "ForwardX11=no",
    "ForwardAgent=no",
    "PermitLocalCommand=no",
    "ServerAliveInterval=5",
    "ServerAliveCountMax=6",
)


def option_words(options: Sequence[str]) -> list[str]:
    """-o for each."""
    return [word for option in options for word in ("-o", option)]


def check_client() -> None:
    """TargetError where there is no OpenSSH client."""
    if shutil.which("ssh") is None:
        raise TargetError("ssh is not installed", hint="apt install openssh-client")


class SshChannel:
    """An open connection. Made by `open`.

    destination: as ssh takes it; name: as errors call it; greeting: what the session said behind "cgrace-connected".
    """

    def __init__(
        self, destination: str, options: Sequence[str], folder: Path, session: str, last_words: Callable[[], str]
    ) -> None:
        self.destination = destination
        self.name = destination
        self.greeting = ""
        self._session = session
        self._base = ["ssh", *options, *option_words(_OPTIONS)]
        self._folder = folder
        self._last_words = last_words
        self._master: asyncio.subprocess.Process | None = None

    @classmethod
    @contextlib.asynccontextmanager
    async def open(
        cls,
        destination: str,
        *,
        folder: Path,
        options: Sequence[str] = (),
        connect_s_max: float = CONNECT_S_MAX,
        session: str = _SESSION,
        last_words: Callable[[], str] = lambda: "",
    ) -> AsyncIterator[SshChannel]:
        """Connect; closed when the block ends.

        folder: of ours, for the control socket; options: more words for ssh; session: what runs there as long as the connection
        is up, a shell's line that says "cgrace-connected" when it is ready and ends when its stdin does; last_words: lines to show
        when the connection is lost. TargetError with ssh's own words where it does not connect.
        """
        if destination.startswith("-") or not destination:
            raise TargetError(f"{destination!r:.80} is no name of a host", hint="ssh:HOST, as ssh takes it")
        check_client()
        channel = cls(destination, options, folder, session, last_words)
        try:
            await channel._connect(connect_s_max)
            yield channel
        finally:
            await channel._close()

    async def _connect(self, seconds_max: float) -> None:
        """Have a master; it says that it is up by running our LocalCommand's like: a first command through it."""
        control = self._folder / _CONTROL
        control.unlink(missing_ok=True)
        words = [*self._base, "-o", f"ConnectTimeout={seconds_max:.0f}", "-o", "ControlPersist=no"]
        words += ["-M", "-S", _CONTROL, "-T", "--", self.destination, self._session]
        self._master = await self._spawn(words)
        stdout, stderr = self._master.stdout, self._master.stderr
        assert stdout is not None and stderr is not None
        try:
            async with asyncio.timeout(seconds_max):
                while (line := await stdout.readline()) and not line.startswith(_GREETING):
                    pass  # a login's own greeting
        except TimeoutError:
            line = b""
        if not line:
            self._kill()
            said = (await stderr.read()).decode(errors="replace").strip()
            raise TargetError(
                f"ssh does not connect to {self.destination}",
                hint=f"ssh {shlex.quote(self.destination)} true",
                detail="\n".join(said.splitlines()[-20:]) or self._last_words(),
            )
        self.greeting = line.removeprefix(_GREETING).decode(errors="replace").strip()

    async def _spawn(self, words: Sequence[str]) -> asyncio.subprocess.Process:
        """An ssh here, which leads a process group and ends with us."""
        return await asyncio.create_subprocess_exec(
            *("setpriv", "--pdeathsig", "KILL"),
            *words,
            cwd=self._folder,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            start_new_session=True,
        )

    async def _close(self) -> None:
        if self._master is None:
            return
        if self._master.stdin is not None:
            self._master.stdin.close()  # ends the remote cat, and so the session
        try:
            async with asyncio.timeout(2):
                await self._master.wait()
        except TimeoutError:
            pass
        finally:
            self._kill()
        await self._master.wait()
        (self._folder / _CONTROL).unlink(missing_ok=True)

    def _kill(self) -> None:
        if self._master is not None and self._master.returncode is None:
            kill_group(self._master.pid)

    @property
    def lives(self) -> bool:
        """Whether the master connection is there."""
        return self._master is not None and self._master.returncode is None

    async def is_open(self, seconds_max: float) -> bool:
        """Whether the master is there and a command comes through. (Where there is no master, ssh connects anew for a command, so
        that alone says nothing; it helps where sshd allows one session to a connection.)"""
        words = [*self._base, "-S", _CONTROL, "-O", "check", "--", self.destination]
        if not self.lives or not (await run(words, cwd=self._folder, timeout_s=seconds_max)).ok:
            return False
        return (await run(self.words(["true"]), cwd=self._folder, timeout_s=seconds_max)).ok and self.lives

    def lost(self) -> TargetError:
        """What to say when the connection is gone in the middle."""
        return TargetError(
            f"the connection to {self.name} was lost",
            hint="run it again",
            detail=self._last_words(),
        )

    def words(self, remote: Sequence[str] | str, env: Mapping[str, str] | None = None) -> list[str]:
        """ssh's words for a command there: words, quoted for its shell, or a line for the shell itself. Run them in `folder`.

        Its stdout begins behind a line of ours: a shell's own file (.bashrc) may say something first.
        """
        line = remote if isinstance(remote, str) else shlex.join(remote)
        if env:
            line = "env " + " ".join(f"{key}={shlex.quote(value)}" for key, value in env.items()) + " " + line
        return [
            *self._base,
            "-S",
            _CONTROL,
            "-o",
            "ControlMaster=no",
            "-T",
            "--",
            self.destination,
            f"echo {_BEGINS}; {line}",
        ]

    @property
    def folder(self) -> Path:
        """Where ssh has to run."""
        return self._folder

    async def run(
        self,
        remote: Sequence[str] | str,
        *,
        env: Mapping[str, str] | None = None,
        stdin: bytes = b"",
        timeout_s: float = COMMAND_S_MAX,
        on_line: Callable[[str], None] | None = None,
    ) -> Completed:
        """Run a command there to its end; what it does is a value. on_line: as in proc/run.py. TargetError when the connection is
        lost."""
        if not self.lives:
            raise self.lost()
        done = await run(self.words(remote, env), cwd=self._folder, stdin=stdin, timeout_s=timeout_s, on_line=on_line)
        if done.status == _SSH_FAILED and not self.lives:
            raise self.lost()
        begun = done.stdout.find(f"{_BEGINS}\n".encode())
        return dataclasses.replace(done, stdout=done.stdout[begun + len(_BEGINS) + 1 :] if begun >= 0 else b"")

    async def run_ok(self, remote: Sequence[str] | str, *, what: str, stdin: bytes = b"") -> Completed:
        """As `run`; a failure is a TargetError that says that `what` failed, with the command's own lines."""
        done = await self.run(remote, stdin=stdin)
        if not done.ok:
            raise TargetError(f"{what} on {self.destination}: the command there {done.how}", detail=done.tail)
        return done

    async def start(
        self, remote: Sequence[str] | str, *, env: Mapping[str, str] | None = None
    ) -> asyncio.subprocess.Process:
        """A command there with its stdin, stdout and stderr as pipes here; it belongs to the caller."""
        if not self.lives:
            raise self.lost()
        process = await self._spawn(self.words(remote, env))
        assert process.stdout is not None
        try:
            while (line := await process.stdout.readline()) and line != f"{_BEGINS}\n".encode():
                pass
        except BaseException:
            process.kill()
            raise
        return process

    async def put(self, archive: bytes, to: str) -> None:
        """Unpack a tar archive (gzip) below a folder there, which is made."""
        quoted = shlex.quote(to)
        await self.run_ok(
            f"mkdir -p {quoted} && tar -x -z -o -f - -C {quoted}", what=f"files cannot be put into {to}", stdin=archive
        )

    async def get(self, path: str, to: Path) -> None:
        """Fetch a folder's content into a folder here (made, and only below it: tar refuses what leads out)."""
        done = await self.run_ok(["tar", "-c", "-f", "-", "-C", path, "."], what=f"{path} cannot be read")
        await asyncio.to_thread(to.mkdir, parents=True, exist_ok=True)
        unpacked = await run(
            ["tar", "-x", "--no-same-owner", "--no-same-permissions", "-f", "-", "-C", str(to)], stdin=done.stdout
        )
        if not unpacked.ok:
            raise TargetError(f"what {path} holds cannot be written to {to}", detail=unpacked.tail)
