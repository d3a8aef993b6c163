"""Target `vm`: a guest's own kernel and systemd in a virtual machine, booted once, reached by ssh, reset to a snapshot.

Nothing of it is on the host but one QEMU process, which dies with ours (qemu.py), and a folder with its overlay and keys, which is
named after us (owner.py) and goes with a sweep where we were killed.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Final

from cgrace.harness.clock import now_ns
from cgrace.harness.errors import TargetError
from cgrace.harness.targets.folder import runtime_folder
from cgrace.harness.targets.guest import Guest
from cgrace.harness.targets.qemu import KVM, OVERLAY, TCG, MachineConfig, Qemu, check_program, find_kvm
from cgrace.harness.targets.ssh import SshChannel
from cgrace.harness.targets.sweep import sweep

RECONNECT_S_MAX: Final = 240.0  # after a snapshot was loaded
KVM_S_MAX: Final = 15.0  # for a guest under KVM to say its first word
STARVED_S_MAX: Final = 1200.0
POWER_OFF_S_MAX: Final = 300.0
_KNOCK_S: Final = 0.25
_CLEAN: Final = "clean"
_NO_BOOT: Final = "did not boot"
TIMER_TRIES: Final = 3


class VmTarget:
    """One booted machine. Made by `VmTarget.open`.

    channel: ssh to it, as root; boot_ns: from start to the first ssh command; boot_cpu_s: on processors until then; accelerator:
    "kvm" or "tcg".
    """

    def __init__(self, guest: Guest, layout: str, folder: Path) -> None:
        self.guest = guest
        self.layout = layout
        self.folder = folder
        self.boot_ns = 0
        self.boot_cpu_s = 0.0
        self._qemu: Qemu | None = None
        self._channel: SshChannel | None = None
        self._channels = contextlib.AsyncExitStack()
        self._saved = False

    @classmethod
    @contextlib.asynccontextmanager
    async def open(
        cls, guest: Guest, *, layout: str, progress: Callable[[str], None] = lambda _: None
    ) -> AsyncIterator[VmTarget]:
        """Boot it and connect. layout: "" for the guest's own.

        TargetError with the console's last lines where it does not boot. However the block ends, nothing is left of it.
        """
        check_program()
        await asyncio.to_thread(sweep)
        with runtime_folder() as folder:
            target = cls(guest, layout, folder)
            try:
                await target._boot(progress)
                yield target
            finally:
                await target._end()

    @property
    def channel(self) -> SshChannel:
        """ssh to it, as root."""
        assert self._channel is not None
        return self._channel

    @property
    def accelerator(self) -> str:
        """ "kvm" or "tcg"."""
        return self._qemu.accelerator if self._qemu is not None else ""

    @property
    def stopped(self) -> asyncio.Future[str]:
        """Done when the machine is gone, with why."""
        assert self._qemu is not None
        return self._qemu.stopped

    def cpu_s(self) -> float:
        """Seconds on processors that it has taken; 0 when it is gone."""
        return self._qemu.cpu_s() if self._qemu is not None else 0.0

    def console_tail(self, lines: int = 20) -> str:
        """The last lines of its console."""
        return self._qemu.tail(lines) if self._qemu is not None else ""

    def last_words(self) -> str:
        """Why it is gone, if it is, and the last lines of its console."""
        return self._qemu.last_words() if self._qemu is not None else ""

    async def wait_off(self) -> Path:
        """Wait until it has switched itself off; the overlay with all that was written. TargetError where it does not."""
        assert self._qemu is not None
        try:
            async with asyncio.timeout(POWER_OFF_S_MAX):
                await self._qemu.ended
        except TimeoutError:
            raise TargetError(
                f"the machine with {self.guest.name} does not switch itself off", detail=self.last_words()
            ) from None
        return self.folder / OVERLAY

    async def reset(self) -> None:
        """Back to the state that the first call found: processes, memory, disk. The channel is a new one afterwards.

        The first call only keeps that state: it is to come when what shall stay has been put there.
        """
        assert self._qemu is not None
        await self._channels.aclose()
        if self._saved:
            await self._qemu.load(_CLEAN)
        else:
            await self._qemu.save(_CLEAN)
            self._saved = True
        await self._connect(RECONNECT_S_MAX, "did not come back from its snapshot")

    async def _boot(self, progress: Callable[[str], None]) -> None:
        started = now_ns()
        try:
            config = await self.guest.configure(self.folder, self.layout)
        except OSError as error:
            raise TargetError(
                f"what {self.guest.name} is booted with cannot be written to {self.folder}: {error.strerror}",
                hint="set TMPDIR to a directory with room",
            ) from error
        no_kvm = find_kvm()
        if no_kvm or not await self._boots_under_kvm(config, progress):
            await self._boot_under_tcg(config, no_kvm, progress)
        self.boot_ns, self.boot_cpu_s = now_ns() - started, self.cpu_s()

    async def _boots_under_kvm(self, config: MachineConfig, progress: Callable[[str], None]) -> bool:
        progress(f"booting {self._shown} under {KVM}")
        self._qemu = Qemu(KVM)
        if not await self._wakes(self._qemu, config):
            await self._stop_qemu()
            progress("the guest does not live under KVM here; falling back to TCG")
            return False
        await self._connect(self.guest.boot_s_max, _NO_BOOT)
        return True

    async def _boot_under_tcg(self, config: MachineConfig, no_kvm: str, progress: Callable[[str], None]) -> None:
        progress(f"booting {self._shown} under {TCG}{f' ({no_kvm})' if no_kvm else ''}")
        for left in reversed(range(TIMER_TRIES)):
            self._qemu = Qemu(TCG)
            await self._qemu.start(config)
            try:
                await self._connect(self.guest.boot_s_max, _NO_BOOT)
                return
            except TargetError:
                if not left or not self._qemu.is_without_timer:
                    raise
            progress(
                "this machine is too busy for an emulated timer, and the guest's kernel gave up; booting once more"
            )

    @property
    def _shown(self) -> str:
        return f"{self.guest.name} ({self.layout})" if self.layout else self.guest.name

    async def _wakes(self, qemu: Qemu, config: MachineConfig) -> bool:
        """Whether the guest gets to its first word under KVM: it may be that no instruction of it can be run here."""
        started = now_ns()
        try:
            async with asyncio.timeout(KVM_S_MAX):
                await qemu.start(config)
                while not qemu.stopped.done() and await qemu.run_state() == "running":
                    if self.guest.lives(qemu.tail(50), (now_ns() - started) / 1e9):
                        return True
                    await asyncio.wait({qemu.stopped}, timeout=_KNOCK_S)
        except (TargetError, TimeoutError):
            pass
        return False

    async def _connect(self, seconds_max: float, otherwise: str) -> None:
        """Knock until sshd opens; a machine that stops meanwhile is told at once. seconds_max: in which it could run, on a machine
        that is busy with other things; otherwise: what it did instead."""
        assert self._qemu is not None
        destination, options = self.guest.ssh_words(self.folder, self._qemu.port)
        begun, starved = now_ns(), self._qemu.starved_ns()
        while True:
            self._channels = contextlib.AsyncExitStack()
            try:
                self._channel = await self._channels.enter_async_context(
                    SshChannel.open(destination, folder=self.folder, options=options, last_words=self.last_words)
                )
                self._channel.name = f"the machine with {self.guest.name}"
                return
            except TargetError as error:
                if self._qemu.stopped.done() or self._qemu.is_panicked:
                    raise await self._failed(otherwise, "") from None
                kept = min(self._qemu.starved_ns() - starved, int(STARVED_S_MAX * 1e9))
                if now_ns() - begun - kept > seconds_max * 1e9:
                    late = f"no ssh within {seconds_max:.0f} s"
                    raise await self._failed(otherwise, f"{late}: {error.detail}" if error.detail else late) from None
            await asyncio.wait({self._qemu.stopped}, timeout=_KNOCK_S)

    async def _failed(self, otherwise: str, why: str) -> TargetError:
        """why: "" where the machine's end says it."""
        assert self._qemu is not None
        await self._stop_qemu()
        return TargetError(
            f"the machine with {self.guest.name} {otherwise}: {why or self._qemu.why()}",
            hint=self.guest.hint,
            detail=self._qemu.tail() or "nothing was written on its console",
        )

    async def _stop_qemu(self) -> None:
        if self._qemu is not None:
            self._qemu.kill()
            await self._qemu.reap()

    async def _end(self) -> None:
        """Runs whole also when we are cancelled meanwhile."""

        async def end() -> None:
            if self._qemu is not None:
                self._qemu.kill()
            await self._channels.aclose()
            await self._stop_qemu()

        await asyncio.shield(asyncio.ensure_future(end()))
