"""A Debian suite's image as a virtual machine, with an install tree of systemd laid over its root or without: its kernel is booted
directly, with an initial file system of ours."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from cgrace.harness.drivers.gobuild import build_go_program
from cgrace.harness.targets import images_initrd, images_tree
from cgrace.harness.targets.guest import KEY, layout_words, make_key
from cgrace.harness.targets.images import Image
from cgrace.harness.targets.qemu import MachineConfig
from cgrace.harness.targets.roots_tree import Tree
from cgrace.harness.targets.ssh import option_words

BOOT_S_MAX: Final = 240.0
INIT_SOURCE: Final = Path(__file__).resolve().parent / "go" / "vminit"
_FIRST_WORD: Final = "cgrace-vminit"
_ALIAS: Final = "cgrace-vm"
_OVER: Final = "over.img"  # in a runtime folder: the install tree
_SECOND_DISK: Final = "/dev/vdb"
_BASE: Final = (
    "console=ttyS0 net.ifnames=0 quiet loglevel=4 systemd.show_status=auto systemd.unit=cgrace.target panic=-1 "
    "mitigations=off no_timer_check random.trust_cpu=on rw"
)


class SuiteGuest:
    """A suite's image. words: more for the kernel's command line; over: what is laid over its root."""

    def __init__(self, image: Image, words: str = "", over: Tree | None = None) -> None:
        self.image = image
        self.over = over
        self.boot_s_max = BOOT_S_MAX
        self._words = words

    @property
    def name(self) -> str:
        """The suite's, with the install tree."""
        return f"{self.image.suite}+{self.over.folder}" if self.over is not None else self.image.suite

    @property
    def systemd(self) -> str:
        """The version of the systemd that it boots with."""
        return self.over.version if self.over is not None else self.image.systemd

    @property
    def hint(self) -> str:
        """What makes a damaged image whole, or a tree that may be at fault."""
        if self.over is not None:
            return f"vm:{self.image.suite}, without the tree, tells whether it is the systemd in {self.over.folder}"
        return f"rm -rf {self.image.folder}, which builds the image anew"

    def lives(self, console: str, seconds: float) -> bool:
        """Whether our init has said something."""
        return _FIRST_WORD in console

    async def configure(self, folder: Path, layout: str) -> MachineConfig:
        """Keys of this boot, for both ends: the guest's own and ours; the guest finds them in its initial file system."""
        for name in (KEY, "host"):
            await make_key(folder / name)
        public = (folder / "host.pub").read_bytes()
        (folder / "known_hosts").write_bytes(f"{_ALIAS} ".encode() + public)
        if self.over is not None:
            await images_tree.put_on_disk(self.over, folder / _OVER)
        init = await build_go_program(INIT_SOURCE, "cgrace-vminit")
        seed = images_initrd.seed(
            init.read_bytes(),
            {
                "etc/ssh/ssh_host_ed25519_key": ((folder / "host").read_bytes(), 0o600),
                "etc/ssh/ssh_host_ed25519_key.pub": (public, 0o644),
                "root/.ssh/authorized_keys": ((folder / f"{KEY}.pub").read_bytes(), 0o600),
            },
            over=_SECOND_DISK if self.over is not None else "",
        )
        (folder / "initrd.img").write_bytes(self.image.modules.read_bytes() + seed)
        return MachineConfig(
            folder=folder,
            disk=self.image.disk,
            disk_format="raw",
            kernel=self.image.kernel,
            initrd=folder / "initrd.img",
            extra=folder / _OVER if self.over is not None else None,
            command_line=" ".join(part for part in (_BASE, layout_words(layout), self._words) if part),
        )

    def ssh_words(self, folder: Path, port: int) -> tuple[str, list[str]]:
        """Nothing of the user's configuration: both ends' keys are ours."""
        options = (
            "IdentitiesOnly=yes",
            "IdentityAgent=none",
            f"HostKeyAlias={_ALIAS}",
            "StrictHostKeyChecking=yes",
            f"UserKnownHostsFile={folder}/known_hosts",
            "GlobalKnownHostsFile=/dev/null",
            "Compression=no",
            "LogLevel=ERROR",
        )
        words = ["-F", "none", "-p", str(port), "-l", "root", "-i", str(folder / KEY), *option_words(options)]
        return "127.0.0.1", words
