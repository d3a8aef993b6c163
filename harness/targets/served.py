"""What sandboxes have in common: a process of ours inside starts what runs there, and is told so over a control socket."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from cgrace.harness.targets.base import Spawned
from cgrace.harness.targets.control import Control


class Served:
    """The part of `targets.base.Sandbox` that is about processes which it started itself."""

    def __init__(self, control: Control) -> None:
        self._control = control
        self._by_inner: dict[int, Spawned] = {}
        self._by_outer: dict[int, Spawned] = {}

    async def spawn(
        self,
        name: str,
        argv: Sequence[str],
        *,
        env: Mapping[str, str],
        stdin: int,
        stdout: int,
        stderr: int,
        role: str,
        on_exit: Callable[[int], None],
        listener: int | None = None,
        closes: bool = False,
    ) -> Spawned:
        """Start a child of the process inside with these descriptors; `on_exit` gets its decoded wait status.

        argv ("workload",) is a process that waits until it is killed. Otherwise argv[0] is an absolute path. The child
        leads a session of its own. `role` is the caller's word for it ("driver", "workload"): nothing here depends on it.
        listener, closes: see `targets.base.Sandbox`.
        """
        descriptors = (stdin, stdout, stderr) if listener is None else (stdin, stdout, stderr, listener)
        inner, outer = await self._control.spawn(
            name, argv, env, descriptors=descriptors, on_exit=on_exit, closes=closes
        )
        spawned = Spawned(name=name, pid=inner, pid_outer=outer)
        self._by_inner[inner] = self._by_outer[outer] = spawned
        return spawned

    def signal(self, pid: int, number: int) -> None:
        """Send a signal to an inner pid (no error when it is gone). PID 1 of a machine takes those that it asks for."""
        self._control.signal(pid, number)

    def name_of(self, pid: int) -> str:
        """The name of a spawned process by inner pid, "" when it is not one of ours."""
        spawned = self._by_inner.get(pid)
        return spawned.name if spawned is not None else ""
