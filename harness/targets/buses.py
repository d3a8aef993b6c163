"""A private message bus for one run: dbus-daemon or dbus-broker, as a process of the run's own sandbox.

It is nobody's bus but the run's: its own socket in the run's folder, EXTERNAL, everything allowed, nothing activated. As a child of
the sandbox's init it is in the sandbox's pid namespace, so that it ends with the run, and with cgrace however that ends.

dbus-broker is driven by its controller socket, as dbus-broker-launch does it (bus1/dbus-broker, src/broker/controller-dbus.c:
method AddListener of org.bus1.DBus.Broker). The launcher itself needs more of a machine than a bus does: it ends at once
where journald's socket is not there (src/launch/launcher.c, launcher_open_log).
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from cgrace.harness.dbus.auth import ClientAuth
from cgrace.harness.dbus.codec import encode
from cgrace.harness.dbus.frames import Framer
from cgrace.harness.dbus.message import Message, MessageType, Variant
from cgrace.harness.errors import ProtocolError, TargetError, UsageError
from cgrace.harness.proc.find import find_program
from cgrace.harness.proc.run import run_ok
from cgrace.harness.targets.base import Sandbox

EMBEDDED: Final = "embedded"
REAL_BUSES: Final = ("dbus-daemon", "dbus-broker")
BUSES: Final = (EMBEDDED, *REAL_BUSES)

_START_S_MAX: Final = 20.0
_LISTEN_BACKLOG: Final = 128
_SAID_BYTES_MAX: Final = 4096
_PATH_BYTES_MAX: Final = 107
_MACHINE_ID: Final = "c9ace000000000000000000000000000"

_CONFIG: Final = """<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN"
 "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig>
  <listen>unix:path={path}</listen>
  <auth>EXTERNAL</auth>
  <policy context="default">
    <allow send_destination="*"/><allow receive_sender="*"/><allow own="*"/>
  </policy>
</busconfig>
"""

# Of a policy (src/bus/policy.c, policy_registry_import): rules for a uid, for ranges of ids, SELinux contexts, AppArmor, the
# bus's type. A batch: may connect, own, send, receive; each rule with its verdict and priority. The same from version 33 to 37.
_BATCH: Final = "bta(btbs)a(btssssuutt)a(btssssuutt)"
_POLICY: Final = f"(a(u({_BATCH}))a(buu({_BATCH}))a(ss)bs)"
_ANY_UID: Final = 0xFFFFFFFF
_ANY_MESSAGE: Final = [(True, 1, "", "", "", "", 0, 0, 0, 0xFFFFFFFFFFFFFFFF)]
_ALLOW_ALL: Final[tuple[Any, ...]] = (
    [(_ANY_UID, (True, 1, [(True, 1, True, "")], _ANY_MESSAGE, _ANY_MESSAGE))],
    [],
    [],
    False,
    "",
)
_LISTENER: Final = "/org/bus1/DBus/Listener/0"


@dataclass(frozen=True, slots=True, kw_only=True)
class RunningBus:
    """A bus that takes connections. path: its socket; pid_outer: its process as cgrace sees it."""

    kind: str
    path: Path
    pid_outer: int


def find_bus(kind: str) -> Path:
    """The program of a real bus. TargetError naming the package where it is not installed."""
    if kind not in REAL_BUSES:
        raise UsageError(f"there is no bus {kind!r}", hint=f"one of: {', '.join(BUSES)}")
    found = find_program(kind)
    if found is None:
        raise TargetError(f"the bus '{kind}' is not installed", hint=f"apt install {kind}, or --bus {EMBEDDED}")
    return Path(found).resolve()


async def bus_version(kind: str) -> str:
    """What took part: "embedded", else the program and its version ("dbus-daemon 1.14.10"). TargetError as `find_bus`."""
    if kind == EMBEDDED:
        return EMBEDDED
    done = await run_ok([find_bus(kind), "--version"], what=f"ask {kind} for its version", error=TargetError)
    words = done.text.split("\n", 1)[0].split()
    return f"{kind} {words[-1] if words else '?'}"


def bus_socket(stem: Path) -> Path:
    """Where `run_bus` puts the bus's socket."""
    return stem.with_suffix(".bus.real")


@contextlib.asynccontextmanager
async def run_bus(kind: str, sandbox: Sandbox, stem: Path, on_end: Callable[[str], None]) -> AsyncIterator[RunningBus]:
    """A bus in the sandbox; killed when the block ends.

    stem: where its files go, without a suffix; a path inside the sandbox too. on_end: it ended by itself; gets why, in words.
    Raises TargetError where it is not installed or does not start.
    """
    program = find_bus(kind)
    path, config = bus_socket(stem), stem.with_suffix(".bus.conf")
    if len(os.fsencode(path)) > _PATH_BYTES_MAX:
        raise TargetError(
            f"the bus's path '{path}' is longer than {_PATH_BYTES_MAX} bytes", hint="set a shorter TMPDIR"
        )
    async with contextlib.AsyncExitStack() as stack:
        for file in (path, config):
            file.unlink(missing_ok=True)
            stack.callback(file.unlink, missing_ok=True)
        process = _Process(kind, sandbox, on_end)
        stack.callback(process.close)
        try:
            async with asyncio.timeout(_START_S_MAX):
                if kind == "dbus-daemon":
                    config.write_text(_CONFIG.format(path=path), encoding="utf-8")
                    options = ("--nofork", "--nopidfile", "--nosyslog", "--print-address=1")
                    await process.start(str(program), f"--config-file={config}", *options)
                    await process.until_said("unix:path=")
                else:
                    controller = await _start_broker(process, program)
                    stack.callback(controller.close)
                    await _add_listener(controller, path)
        except (TimeoutError, ProtocolError, OSError) as error:
            raise process.failed(str(error) or f"nothing within {_START_S_MAX:.0f} s") from None
        process.running = True
        yield RunningBus(kind=kind, path=path, pid_outer=process.pid_outer)
        process.running = False


class _Process:
    """The bus's process, and what it says: read all the time, or it would stop to be read."""

    def __init__(self, kind: str, sandbox: Sandbox, on_end: Callable[[str], None]) -> None:
        self._kind = kind
        self._sandbox = sandbox
        self._on_end = on_end
        self._said = b""
        self._news = asyncio.Event()
        self._output = -1
        self._pid = 0
        self.pid_outer = 0
        self.running = False
        self.gone = False

    async def start(self, *argv: str, stdin: int | None = None) -> None:
        """Start it in the sandbox."""
        null = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
        self._output, theirs = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            spawned = await self._sandbox.spawn(
                self._kind,
                argv,
                env={},
                stdin=null if stdin is None else stdin,
                stdout=theirs,
                stderr=theirs,
                role="bus",
                on_exit=self._exited,
            )
        finally:
            os.close(null)
            os.close(theirs)
        self._pid, self.pid_outer = spawned.pid, spawned.pid_outer
        asyncio.get_running_loop().add_reader(self._output, self._readable)

    async def until_said(self, start: str) -> None:
        """Wait until a line of what it says starts so; ProtocolError when it ends before."""
        while not any(line.startswith(start.encode()) for line in self._said.splitlines()):
            if self.gone:
                raise ProtocolError("it ended at once")
            self._news.clear()
            await self._news.wait()

    def failed(self, why: str) -> TargetError:
        """It did not start, with its own words."""
        said = self._said.decode(errors="replace").strip()
        return TargetError(f"the bus '{self._kind}' did not start: {why}", hint=f"--bus {EMBEDDED}", detail=said)

    def close(self) -> None:
        """Kill it. The sandbox reaps it."""
        self.running = False
        if self._pid and not self.gone:
            self._sandbox.signal(self._pid, signal.SIGKILL)
        self._stop_reading()

    def _readable(self) -> None:
        try:
            data = os.read(self._output, _SAID_BYTES_MAX)
        except BlockingIOError:
            return
        self._said = (self._said + data)[-_SAID_BYTES_MAX:]
        self._news.set()
        if not data:
            self._stop_reading()

    def _stop_reading(self) -> None:
        if self._output >= 0:
            asyncio.get_running_loop().remove_reader(self._output)
            os.close(self._output)
            self._output = -1

    def _exited(self, status: int) -> None:
        self.gone = True
        self._news.set()
        if self.running:
            self.running = False
            said = self._said.decode(errors="replace").strip().splitlines()[-1:]
            self._on_end(f"{self._kind} ended with status {status}" + (f": {said[0]}" if said else ""))


# ---- dbus-broker


async def _start_broker(process: _Process, program: Path) -> socket.socket:
    """Start dbus-broker with one end of its controller socket as stdin; our end. It ends when that is closed."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    ours.setblocking(False)
    theirs.setblocking(False)
    try:
        with theirs:
            await process.start(str(program), "--controller", "0", "--machine-id", _MACHINE_ID, stdin=theirs.fileno())
    except BaseException:
        ours.close()
        raise
    return ours


async def _add_listener(controller: socket.socket, path: Path) -> None:
    """Give the broker a socket to listen on, and the policy of those who connect there."""
    loop = asyncio.get_running_loop()
    auth, framer = ClientAuth(os.geteuid()), Framer()
    await loop.sock_sendall(controller, auth.start())
    while not auth.done:
        await loop.sock_sendall(controller, auth.feed(await _receive(controller)))
    call = Message(
        type=MessageType.CALL,
        serial=1,
        path="/org/bus1/DBus/Broker",
        interface="org.bus1.DBus.Broker",
        member="AddListener",
        signature="ohv",
        body=(_LISTENER, 0, Variant(signature=_POLICY, value=_ALLOW_ALL)),
        fds=1,
    )
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK) as listener:
        listener.bind(str(path))
        listener.listen(_LISTEN_BACKLOG)
        data = encode(call)
        sent = socket.send_fds(controller, [data], [listener.fileno()])
        await loop.sock_sendall(controller, data[sent:])
        frames = framer.feed(auth.leftover)
        while not any(frame.message.reply_serial == 1 for frame in frames):
            frames = framer.feed(await _receive(controller))
    answer = next(frame.message for frame in frames if frame.message.reply_serial == 1)
    if answer.type is MessageType.ERROR:
        raise ProtocolError(f"AddListener: {answer.error_name} (dbus-broker 33 or newer is needed)")


async def _receive(controller: socket.socket) -> bytes:
    data = await asyncio.get_running_loop().sock_recv(controller, 65536)
    if not data:
        raise ProtocolError("it closed its controller's connection (dbus-broker 33 or newer is needed)")
    return data
