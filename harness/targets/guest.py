"""What can be booted as a virtual machine, as vm.py asks it: a suite's image (vm_suite.py) or a disk of the user's (vm_own.py)."""

from __future__ import annotations

from pathlib import Path
from typing import Final, Protocol

from cgrace.harness.errors import TargetError, UnavailableError
from cgrace.harness.proc.run import run
from cgrace.harness.targets.images import LAYOUTS
from cgrace.harness.targets.names import V1_ENDS
from cgrace.harness.targets.qemu import MachineConfig

KEY: Final = "id"  # in a runtime folder: our key; beside it its public half
# systemd's kernel-command-line(7); 256 and 257 refuse v1 without the last word of those that ask for it.
_LEGACY: Final = "SYSTEMD_CGROUP_ENABLE_LEGACY_FORCE=1"
_WORDS: Final = {
    "v1": f"systemd.unified_cgroup_hierarchy=0 systemd.legacy_systemd_cgroup_controller=1 {_LEGACY}",
    "hybrid": f"systemd.unified_cgroup_hierarchy=0 systemd.legacy_systemd_cgroup_controller=0 {_LEGACY}",
    "v2": "systemd.unified_cgroup_hierarchy=1",
}
LAYOUT_KEYS: Final = tuple({word.partition("=")[0] for words in _WORDS.values() for word in words.split()})


class Guest(Protocol):
    """name: as people call it; hint: what to try when it does not boot; boot_s_max: from start to ssh, emulated and on a busy
    machine."""

    @property
    def name(self) -> str: ...

    @property
    def hint(self) -> str: ...

    @property
    def boot_s_max(self) -> float: ...

    def lives(self, console: str, seconds: float) -> bool:
        """Whether these lines of its console, so many seconds after its start, show that its processor works."""
        ...

    async def configure(self, folder: Path, layout: str) -> MachineConfig:
        """Put into the runtime folder what a boot with this layout takes."""
        ...

    def ssh_words(self, folder: Path, port: int) -> tuple[str, list[str]]:
        """The destination, and ssh's options for it."""
        ...


def layout_words(layout: str) -> str:
    """What asks a systemd for a cgroup layout, on the kernel's command line."""
    return _WORDS[layout]


def check_layout(name: str, layout: str, systemd: int) -> None:
    """TargetError for a layout that there is not; UnavailableError for one that this systemd (its number) does not know."""
    if layout not in LAYOUTS:
        raise TargetError(f"{layout!r:.40} is no cgroup layout", hint=f"one of: {', '.join(LAYOUTS)}")
    if systemd >= V1_ENDS and layout != "v2":
        raise UnavailableError(f"{name}'s systemd {systemd} knows cgroup v2 alone", hint=f"vm:{name}:v2")


async def make_key(path: Path) -> None:
    """A new key for ssh, and its public half beside it."""
    words = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "cgrace", "-f", str(path)]
    done = await run(words)
    if not done.ok:
        raise TargetError("a key cannot be made: ssh-keygen", hint="apt install openssh-client", detail=done.tail)
