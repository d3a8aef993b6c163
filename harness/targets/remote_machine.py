"""A machine that is reached by ssh, with cgrace inside it: its Python programs run there, beside that machine's systemd.

So the relay, the witnesses and every look at /proc are local to the machine, and what crosses the wire is a case, its result and
its trace. A worker there ends with its connection (proc/workers.py: its stdin ends), whichever end lets go.
"""

from __future__ import annotations

import asyncio
import contextlib
import platform
import shlex
import signal
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cgrace.harness.errors import TargetError
from cgrace.harness.proc.run import Completed, run
from cgrace.harness.proc.workers import Worker, WorkerDied
from cgrace.harness.targets.names import LOOK_AT_CGROUPS, layout_of
from cgrace.harness.targets.remote_runtime import Part, interpreter_part, package_part
from cgrace.harness.targets.ssh import SshChannel

_LOOK: Final = (
    f"uname -m; uname -r; (systemctl --version || echo none) 2>/dev/null | head -n 1; id -u; {LOOK_AT_CGROUPS}"
)
_LOOK_LINES: Final = 6
_ANSWER_S_MAX: Final = 5.0  # of a connection that may be dead


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What the machine is. machine: its processor ("x86_64"); systemd: how it calls itself, "" where it has none; uid: who we are
    there; layout: "v1", "hybrid" or "v2", "" where no cgroups are mounted."""

    machine: str
    kernel: str
    systemd: str
    uid: int
    layout: str


class RemoteMachine:
    """A machine with cgrace inside. name: "vm:sid:v2", "ssh:HOST"; base: our folder there; facts: what it is.

    channel_of: its channel as it is now (a reset gives a new one); last_words: its console's, "" where there is none.
    """

    def __init__(
        self, name: str, channel_of: Callable[[], SshChannel], base: str, last_words: Callable[[], str]
    ) -> None:
        self.name = name
        self.base = base
        self._channel_of = channel_of
        self._last_words = last_words
        self._facts: Facts | None = None
        self._python = ""
        self._said: dict[Worker, asyncio.Future[bytes]] = {}

    @property
    def channel(self) -> SshChannel:
        """ssh to it."""
        return self._channel_of()

    @property
    def facts(self) -> Facts:
        """What it is."""
        assert self._facts is not None
        return self._facts

    def console_tail(self, lines: int = 20) -> str:
        """The last lines of its console, "" where it has none."""
        return "\n".join(self._last_words().splitlines()[-lines:])

    async def prepare(self, progress: Callable[[str], None] = lambda _: None) -> None:
        """Look at it and put cgrace there; TargetError where it is no machine to work on."""
        self._facts = await self.look()
        if not self.facts.systemd:
            raise TargetError(f"{self.name} has no systemd")
        if self.facts.uid != 0:
            raise TargetError(f"{self.name}: we are not root there", hint=f"User root in ~/.ssh/config for {self.name}")
        if self.facts.machine == platform.machine():
            progress(f"putting cgrace and its Python into {self.name}")
            await self._put(self.base, await interpreter_part())
            self._python = f"{self.base}/bin/python"
        else:
            self._python = await self._own_python()
        await self._put(f"{self.base}/package", await package_part())

    async def python(
        self,
        words: Sequence[str],
        *,
        env: Mapping[str, str] | None = None,
        stdin: bytes = b"",
        timeout_s: float = 600.0,
        on_line: Callable[[str], None] | None = None,
    ) -> Completed:
        """Run `python WORDS...` there to its end; cgrace can be imported. on_line: as in proc/run.py."""
        return await self.channel.run(
            [self._python, *words], env=self._environment(env), stdin=stdin, timeout_s=timeout_s, on_line=on_line
        )

    @contextlib.asynccontextmanager
    async def worker(self, module: str, *arguments: str) -> AsyncIterator[Worker]:
        """A process of `python -m module arguments...` there that answers requests (proc/workers.py); gone when the block ends.

        TargetError with the machine's last words where the connection is lost in the middle.
        """
        words = [self._python, "-m", module, *arguments]
        process = await self.channel.start(words, env=self._environment(None))
        said = asyncio.ensure_future(_drain(process))
        worker = Worker(process)
        self._said[worker] = said
        reading = asyncio.ensure_future(worker.read())
        try:
            yield worker
        except WorkerDied as error:
            raise await self.why_lost(worker) from error
        finally:
            self._said.pop(worker, None)
            await asyncio.shield(asyncio.ensure_future(_end(process, worker, reading, said)))

    async def why_lost(self, worker: Worker) -> TargetError:
        """What to say of a worker that ended before it had answered: the machine is gone, or the worker alone."""
        if await self.channel.is_open(_ANSWER_S_MAX):
            tail = (await self._said[worker]).decode(errors="replace").strip()
            return TargetError(
                f"cgrace inside {self.name} ended", detail=tail or self.console_tail(), hint="run it again"
            )
        return self.channel.lost()

    async def put_builds(self, folders: Sequence[Path]) -> None:
        """Put entries of the build cache there, where cgrace inside looks for them."""
        if not folders:
            return
        parent = folders[0].parent
        packed = await run(["tar", "-c", "-z", "-f", "-", "-C", str(parent), *(folder.name for folder in folders)])
        if not packed.ok:
            raise TargetError("built drivers cannot be read", detail=packed.tail)
        await self.channel.put(packed.stdout, f"{self.base}/cache/cgrace/builds")

    async def fetch(self, path: str, to: Path) -> None:
        """Bring a folder's content here."""
        await self.channel.get(path, to)

    def _environment(self, env: Mapping[str, str] | None) -> dict[str, str]:
        return {"PYTHONPATH": f"{self.base}/package", "XDG_CACHE_HOME": f"{self.base}/cache", **(env or {})}

    async def look(self) -> Facts:
        """What it is; it is asked each time."""
        done = await self.channel.run(["sh", "-c", _LOOK], timeout_s=60)
        lines = done.text.splitlines()
        if len(lines) != _LOOK_LINES:
            raise TargetError(f"{self.name} does not say what it is", detail=done.tail)
        machine, kernel, systemd, uid, kind, unified = lines
        version = systemd.removeprefix("systemd ") if systemd.startswith("systemd ") else ""
        return Facts(machine=machine, kernel=kernel, systemd=version, uid=int(uid), layout=layout_of(kind, unified))

    async def _own_python(self) -> str:
        for name in ("python3.14", "python3.13", "python3.12", "python3.11", "python3"):
            done = await self.channel.run([name, "-c", "import sys; sys.exit(sys.version_info < (3, 11))"])
            if done.ok:
                return name
        raise TargetError(
            f"{self.name} is a {self.facts.machine}, and cgrace runs on a {platform.machine()} here: it cannot take its "
            "Python along",
            hint=f"install Python 3.11 or newer on {self.name}",
        )

    async def _put(self, folder: str, part: Part) -> None:
        """Put a part there, unless it is there already."""
        stamp = f"{folder}/.{part.name}-{part.key}"
        if (await self.channel.run(["test", "-e", stamp])).ok:
            return
        await self.channel.put(await asyncio.to_thread(part.file.read_bytes), folder)
        await self.channel.run_ok(f": > {shlex.quote(stamp)}", what="files cannot be put there")


async def _drain(process: asyncio.subprocess.Process) -> bytes:
    """The last of what it says on stderr."""
    assert process.stderr is not None
    kept = b""
    while data := await process.stderr.read(1 << 14):
        kept = (kept + data)[-8000:]
    return kept


async def _end(
    process: asyncio.subprocess.Process,
    worker: Worker,
    reading: asyncio.Future[None],
    said: asyncio.Future[bytes],
) -> None:
    await worker.close()
    with contextlib.suppress(ProcessLookupError):
        process.send_signal(signal.SIGKILL)
    for one in (reading, said):
        one.cancel()
    await asyncio.gather(reading, said, return_exceptions=True)
