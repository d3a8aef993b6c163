"""The tap between drivers and the bus: listens, authenticates, cuts frames, and does with them what its handler says.

It decides nothing. As the driver sees it, this is the system bus.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import select
import socket
from pathlib import Path
from types import TracebackType
from typing import Self

from cgrace.harness.errors import TargetError
from cgrace.harness.relay.base import Backend, Handler, Limits
from cgrace.harness.relay.connection import Connection

GUID = "c9ace000000000000000000000000001"
BACKLOG = 128
ACCEPT_RETRY_S = 0.05
ACCEPTS_PER_TURN = 16
_PATH_BYTES_MAX = 107


class Relay:
    """An async context manager: inside, drivers may connect to `socket_path`.

    broken: a future that gets what a handler or backend raised, which is a bug of ours; leaving the context raises it too.
    """

    def __init__(
        self, socket_path: Path, handler: Handler, backend: Backend, *, limits: Limits | None = None, guid: str = GUID
    ) -> None:
        self.socket_path = socket_path
        self._handler = handler
        self._backend = backend
        self._limits = limits or Limits()
        self._guid = guid
        self._listener: socket.socket | None = None
        self._accepted = 0
        self._connections: dict[int, Connection] = {}
        self._lingering: set[Connection] = set()
        self.broken: asyncio.Future[None]  # from entry on

    @property
    def connections(self) -> tuple[Connection, ...]:
        """Those that are open, in order of accept."""
        return tuple(self._connections.values())

    @property
    def knocked(self) -> bool:
        """Whether somebody has connected who has not been let in yet: what it said first no connection knows of."""
        if self._listener is None:
            return False
        ready = select.poll()
        ready.register(self._listener, select.POLLIN)
        return bool(ready.poll(0))

    async def __aenter__(self) -> Self:
        self.broken = asyncio.get_running_loop().create_future()
        self._backend.bug = self._bug
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        try:
            _bind(listener, self.socket_path)
            self.socket_path.chmod(0o666)  # whoever may reach the directory; a driver may have another uid
            listener.listen(BACKLOG)
        except OSError as error:
            listener.close()
            raise TargetError(f"cannot listen on '{self.socket_path}': {error.strerror or error}") from None
        self._listener = listener
        self._listen()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._listener is not None
        asyncio.get_running_loop().remove_reader(self._listener.fileno())
        self._listener.close()
        self._listener = None
        with contextlib.suppress(FileNotFoundError):
            self.socket_path.unlink()
        for conn in self.connections:
            conn.close("the run is over")
        await asyncio.sleep(0)  # one turn, in which the handler is told
        for conn in self._lingering:
            conn.abandon()
        self._backend.close()
        if self.broken.done() and not self.broken.cancelled():
            bug = self.broken.exception()
            if bug is not None and error is None:
                raise bug

    def _bug(self, error: Exception) -> None:
        if not self.broken.done():
            self.broken.set_exception(error)

    def _listen(self) -> None:
        if self._listener is not None:
            asyncio.get_running_loop().add_reader(self._listener.fileno(), self._acceptable)

    def _forget(self, conn: Connection) -> None:
        self._connections.pop(conn.id, None)
        self._lingering = {other for other in self._lingering | {conn} if other.fileno() >= 0}

    def _acceptable(self) -> None:
        assert self._listener is not None
        try:
            for _ in range(ACCEPTS_PER_TURN):
                self._accept()
        except BlockingIOError:
            pass
        except OSError:  # the driver hung up in between, or we are out of descriptors
            asyncio.get_running_loop().remove_reader(self._listener.fileno())
            asyncio.get_running_loop().call_later(ACCEPT_RETRY_S, self._listen)
        except Exception as error:
            self._bug(error)

    def _accept(self) -> None:
        assert self._listener is not None
        sock, _ = self._listener.accept()
        self._accepted += 1
        conn = Connection(
            sock,
            self._accepted,
            handler=self._handler,
            guid=self._guid,
            limits=self._limits,
            bug=self._bug,
            forget=self._forget,
        )
        self._connections[conn.id] = conn
        self._handler.connected(conn)
        self._backend.open(conn)


def _bind(listener: socket.socket, path: Path) -> None:
    """Bind, also where the path is longer than a socket's address may be: by way of its directory's descriptor."""
    if len(os.fsencode(path)) <= _PATH_BYTES_MAX:
        listener.bind(str(path))
        return
    directory = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        listener.bind(f"/proc/self/fd/{directory}/{path.name}")
    finally:
        os.close(directory)
