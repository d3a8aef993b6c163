"""Target `vm`: a Debian suite's own kernel and systemd in a virtual machine, booted once, reached by ssh, reset to a snapshot.

The kernel's command line chooses the cgroup layout. Nothing of it is on the host but one QEMU process and a folder with its
overlay and keys, both named after us (owner.py); the folder's record tells a sweep of the process.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Final

from cgrace.harness.clock import now_ns
from cgrace.harness.drivers.gobuild import build_go_program
from cgrace.harness.errors import TargetError, UnavailableError
from cgrace.harness.proc.run import run
from cgrace.harness.targets import images, images_initrd
from cgrace.harness.targets.folder import runtime_folder
from cgrace.harness.targets.images import Image
from cgrace.harness.targets.qemu import KVM, TCG, MachineConfig, Qemu, check_program, find_kvm
from cgrace.harness.targets.ssh import SshChannel
from cgrace.harness.targets.sweep import sweep

BOOT_S_MAX: Final = 240.0  # under TCG on a busy machine; a booting guest that is stuck is told by this alone
KVM_S_MAX: Final = 15.0  # for a guest under KVM to say its first word
INIT_SOURCE: Final = Path(__file__).resolve().parent / "go" / "vminit"
_FIRST_WORD: Final = "cgrace-vminit"
_KNOCK_S: Final = 0.25
_CLEAN: Final = "clean"
# systemd's kernel-command-line(7); 256 and 257 refuse v1 without the last word of those that ask for it.
_LEGACY: Final = "SYSTEMD_CGROUP_ENABLE_LEGACY_FORCE=1"
_LAYOUTS: Final = {
    "v1": f"systemd.unified_cgroup_hierarchy=0 systemd.legacy_systemd_cgroup_controller=1 {_LEGACY}",
    "hybrid": f"systemd.unified_cgroup_hierarchy=0 systemd.legacy_systemd_cgroup_controller=0 {_LEGACY}",
    "v2": "systemd.unified_cgroup_hierarchy=1",
}
_BASE: Final = (
    "console=ttyS0 net.ifnames=0 quiet loglevel=4 systemd.show_status=0 systemd.unit=cgrace.target panic=-1 "
    "mitigations=off random.trust_cpu=on rw"
)


class VmTarget:
    """One booted machine. Made by `VmTarget.open`.

    channel: ssh to it, as root; boot_ns: from start to the first ssh command; accelerator: "kvm" or "tcg".
    """

    def __init__(self, image: Image, layout: str, folder: Path) -> None:
        self.image = image
        self.layout = layout
        self.folder = folder
        self.boot_ns = 0
        self._qemu: Qemu | None = None
        self._channel: SshChannel | None = None
        self._channels = contextlib.AsyncExitStack()
        self._saved = False

    @classmethod
    @contextlib.asynccontextmanager
    async def open(
        cls, suite: str, *, layout: str = "v2", progress: Callable[[str], None] = lambda _: None
    ) -> AsyncIterator[VmTarget]:
        """Build the suite's image if need be, boot it and connect.

        TargetError with the console's last lines where it does not boot. However the block ends, nothing is left of it.
        """
        check_layout(suite, layout)
        check_program()
        image = await images.build_image(suite, progress=progress)
        await asyncio.to_thread(sweep)
        with runtime_folder() as folder:
            target = cls(image, layout, folder)
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

    def console_tail(self, lines: int = 20) -> str:
        """The last lines of its console."""
        return self._qemu.tail(lines) if self._qemu is not None else ""

    def last_words(self) -> str:
        """Why it is gone, if it is, and the last lines of its console."""
        qemu = self._qemu
        why = [qemu.stopped.result()] if qemu is not None and qemu.stopped.done() else []
        return "\n".join([*why, self.console_tail()])

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
        await self._connect(BOOT_S_MAX)

    async def _boot(self, progress: Callable[[str], None]) -> None:
        started = now_ns()
        config = await self._configure()
        for accelerator in (KVM, TCG) if not find_kvm() else (TCG,):
            self._qemu = Qemu(accelerator)
            progress(f"booting {self.image.suite} ({self.layout}) under {accelerator}")
            if accelerator == KVM and not await self._wakes(self._qemu, config):
                await self._stop_qemu()
                progress("the guest does not live under KVM here; falling back to TCG")
                continue
            if accelerator == TCG:
                await self._qemu.start(config)
            await self._connect(BOOT_S_MAX)
            break
        self.boot_ns = now_ns() - started

    async def _wakes(self, qemu: Qemu, config: MachineConfig) -> bool:
        """Whether the guest gets to its first word under KVM: it may be that no instruction of it can be run here."""
        try:
            async with asyncio.timeout(KVM_S_MAX):
                await qemu.start(config)
                while not qemu.stopped.done() and await qemu.run_state() == "running":
                    if _FIRST_WORD in qemu.tail(50):
                        return True
                    await asyncio.wait({qemu.stopped}, timeout=_KNOCK_S)
        except (TargetError, TimeoutError):
            pass
        return False

    async def _configure(self) -> MachineConfig:
        """Keys of this boot, for both ends: the guest's own and ours; the guest finds them in its initial file system."""
        folder = self.folder
        for name in ("id", "host"):
            words = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "cgrace", "-f", str(folder / name)]
            done = await run(words)
            if not done.ok:
                raise TargetError(
                    "a key cannot be made: ssh-keygen", hint="apt install openssh-client", detail=done.tail
                )
        public = (folder / "host.pub").read_bytes()
        (folder / "known_hosts").write_bytes(b"cgrace-vm " + public)
        init = await build_go_program(INIT_SOURCE, "cgrace-vminit")
        seed = images_initrd.seed(
            init.read_bytes(),
            {
                "etc/ssh/ssh_host_ed25519_key": ((folder / "host").read_bytes(), 0o600),
                "etc/ssh/ssh_host_ed25519_key.pub": (public, 0o644),
                "root/.ssh/authorized_keys": ((folder / "id.pub").read_bytes(), 0o600),
            },
        )
        (folder / "initrd.img").write_bytes(self.image.modules.read_bytes() + seed)
        return MachineConfig(
            folder=folder,
            disk=self.image.disk,
            disk_format="raw",
            kernel=self.image.kernel,
            initrd=folder / "initrd.img",
            command_line=f"{_BASE} {_LAYOUTS[self.layout]}",
        )

    async def _connect(self, seconds_max: float) -> None:
        """Knock until sshd opens; a machine that stops meanwhile is told at once."""
        assert self._qemu is not None
        options = ["-F", "none", "-p", str(self._qemu.port), "-l", "root", "-i", str(self.folder / "id")]
        for option in (
            "IdentitiesOnly=yes",
            "IdentityAgent=none",
            "HostKeyAlias=cgrace-vm",
            "StrictHostKeyChecking=yes",
            f"UserKnownHostsFile={self.folder}/known_hosts",
            "GlobalKnownHostsFile=/dev/null",
            "Compression=no",
            "LogLevel=ERROR",
        ):
            options += ["-o", option]
        deadline = now_ns() + int(seconds_max * 1e9)
        while True:
            self._channels = contextlib.AsyncExitStack()
            try:
                self._channel = await self._channels.enter_async_context(
                    SshChannel.open("127.0.0.1", folder=self.folder, options=options, last_words=self.last_words)
                )
                self._channel.name = f"the machine with {self.image.suite}"
                return
            except TargetError as error:
                if self._qemu.stopped.done():
                    raise self._failed(self._qemu.stopped.result()) from None
                if now_ns() > deadline:
                    raise self._failed(f"no ssh within {seconds_max:.0f} s: {error.detail}") from None
            await asyncio.wait({self._qemu.stopped}, timeout=_KNOCK_S)

    def _failed(self, why: str) -> TargetError:
        return TargetError(
            f"the machine with {self.image.suite} did not boot: {why}",
            hint=f"rm -rf {self.image.folder}, which builds the image anew",
            detail=self.console_tail(),
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


def check_layout(suite: str, layout: str) -> None:
    """TargetError for a layout that there is not; UnavailableError for one that this suite's systemd does not know."""
    if layout not in images.LAYOUTS:
        raise TargetError(f"{layout!r:.40} is no cgroup layout", hint=f"one of: {', '.join(images.LAYOUTS)}")
    if suite in images.V2_ONLY and layout != "v2":
        raise UnavailableError(f"{suite}'s systemd knows cgroup v2 alone", hint=f"vm:{suite}:v2")
