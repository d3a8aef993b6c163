"""Disk images of Debian suites for virtual machines: made once for each suite, kept by content, never written to afterwards.

`${XDG_CACHE_HOME:-~/.cache}/cgrace/images/<suite>-<key>/{disk.img,vmlinuz,modules.img,image.json}`. A root by mmdebstrap with
udev and openssh-server, laid onto an ext4 file system by mke2fs, nothing mounted; the kernel beside it, for QEMU to boot
directly, with an initial file system of ours (images_initrd.py) in place of the distribution's, which differ and are slow
where a CPU is emulated. Machines write to overlays (qemu.py). The same twice: identifiers and times are fixed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from cgrace.harness.drivers.cache import cache_root, content_key
from cgrace.harness.errors import TargetError
from cgrace.harness.proc.find import find_program, search_path
from cgrace.harness.proc.run import run
from cgrace.harness.targets import images_ext4, images_initrd, roots_build
from cgrace.harness.targets.roots_build import APT_OPTIONS, HOOKS, NEVER

NOTE_FILE: Final = "image.json"
FORMAT: Final = 2  # of an entry; a change makes every image new
PACKAGES: Final = ("dbus", "systemd", "systemd-sysv", "udev", "openssh-server", "kmod", "mount", "procps")
KERNEL: Final = "linux-image-cloud-amd64"
LAYOUTS: Final = ("v1", "v2", "hybrid")
DISK_MB: Final = 2048  # sparse: what it holds is a tenth of it
_FREE_BYTES_MIN: Final = 1_500_000_000
_UUID: Final = "63677261-6365-4000-8000-000000000001"
_MACHINE_ID: Final = "63677261636540008000000000000001"
_EPOCH: Final = "1600000000"

_TARGET: Final = """[Unit]
Description=cgrace: systemd, its bus and ssh
Requires=basic.target dbus.socket dbus.service
Wants=ssh.service
After=basic.target dbus.socket dbus.service ssh.service
AllowIsolate=yes
"""
# No PAM: without logind it has nothing to add to a session but time.
_SSHD: Final = """UsePAM no
UseDNS no
PermitRootLogin prohibit-password
PasswordAuthentication no
MaxSessions 200
MaxStartups 200
StreamLocalBindUnlink yes
PrintMotd no
"""
_FILES: Final = {
    "etc/systemd/system/cgrace.target": _TARGET,
    "etc/ssh/sshd_config.d/cgrace.conf": _SSHD,
    "etc/fstab": "",
    "etc/hostname": "cgrace\n",
    "etc/hosts": "127.0.0.1 localhost cgrace\n",
    "etc/machine-id": f"{_MACHINE_ID}\n",
}
# The kernel's package is taken apart, not installed: that would also build an initial file system, for half a minute.
_KERNEL_HOOK: Final = f"""set -e; export APT_CONFIG="$MMDEBSTRAP_APT_CONFIG"
needs() {{ apt-cache depends "$1" | sed -n 's/^ *\\(Pre\\)\\{{0,1\\}}Depends: \\(linux-[a-z]*-[0-9].*\\)/\\2/p'; }}
real=$(needs {KERNEL} | head -n 1)
mkdir "$1/kernel"; cd "$1/kernel"; apt-get -q download "$real" $(needs "$real")
for package in ./*.deb; do dpkg-deb -x "$package" tree; rm "$package"; done
modules=$(cd "$1/lib" && pwd -P)/modules; mkdir -p "$modules"
for folder in tree/lib/modules tree/usr/lib/modules; do
if [ -d $folder ]; then mv $folder/* "$modules/"; fi; done
for kernel in tree/boot/vmlinuz-* "$modules"/*/vmlinuz; do
if [ -f "$kernel" ]; then mv "$kernel" vmlinuz; fi; done
[ -f vmlinuz ]; rm -rf tree; chroot "$1" depmod "$(ls "$modules")"
"""
_IMAGE_HOOKS: Final = (*HOOKS, _KERNEL_HOOK, 'rm -f "$1"/etc/ssh/ssh_host_*')


@dataclass(frozen=True, slots=True, kw_only=True)
class Image:
    """What QEMU boots. disk: raw, never written to; note: what image.json says."""

    suite: str
    folder: Path
    note: dict[str, Any]

    @property
    def systemd(self) -> str:
        """Its systemd's version."""
        return str(self.note.get("packages", {}).get("systemd", ""))

    @property
    def disk(self) -> Path:
        """The root file system, an ext4 that fills the disk."""
        return self.folder / "disk.img"

    @property
    def kernel(self) -> Path:
        """The kernel, as the boot loader takes it."""
        return self.folder / "vmlinuz"

    @property
    def modules(self) -> Path:
        """The part of the initial file system that holds the kernel's modules."""
        return self.folder / "modules.img"


def images_folder() -> Path:
    """Where images are kept."""
    return cache_root() / "images"


def look_up(suite: str) -> Image | None:
    """The image, if it is built. Anything that is not a whole entry does not count."""
    folder = _entry_folder(suite)
    note = roots_build.read_note(folder / NOTE_FILE)
    if note is None:
        return None
    image = Image(suite=suite, folder=folder, note=note)
    return image if image.disk.is_file() and image.kernel.is_file() and image.modules.is_file() else None


async def build_image(suite: str, *, progress: Callable[[str], None] = lambda _: None) -> Image:
    """The image of a suite, built unless it is already; TargetError with the builder's own lines where it cannot be. Offline
    once built."""
    if (image := look_up(suite)) is not None:
        return image
    roots_build.check_can_build(suite, "an image")
    if find_program("mke2fs") is None:
        raise TargetError("an image takes mke2fs, which is not installed", hint="apt install e2fsprogs")
    async with roots_build.turn(images_folder(), suite, progress):
        if (image := look_up(suite)) is not None:
            return image
        progress(f"building a disk image with {suite}'s systemd and kernel (once, about a minute)")
        with roots_build.workshop(images_folder(), _FREE_BYTES_MIN) as workshop:
            entry = workshop / "entry"
            entry.mkdir()
            root = workshop / "tree" / "root"
            root.parent.mkdir()
            await roots_build.mmdebstrap(suite, root, packages=PACKAGES, hooks=_IMAGE_HOOKS, progress=progress)
            progress(f"laying {suite} onto a disk")
            note = await asyncio.to_thread(_finish_root, suite, root, entry)
            await _lay_onto_disk(root, entry / "disk.img")
            await asyncio.to_thread(images_ext4.settle_times, entry / "disk.img", int(_EPOCH))
            roots_build.write_note(entry / NOTE_FILE, note)
            roots_build.into_place(entry, _entry_folder(suite))
    if (image := look_up(suite)) is None:
        raise TargetError(f"the image of {suite} vanished while it was made", hint="run it again")
    return image


def _entry_folder(suite: str) -> Path:
    texts = [str(FORMAT), suite, *PACKAGES, KERNEL, *APT_OPTIONS, NEVER, *_IMAGE_HOOKS, str(DISK_MB), _UUID, _EPOCH]
    parts = [(text, b"") for text in (*texts, *images_initrd.WANTED)]
    parts += [(path, content.encode()) for path, content in _FILES.items()]
    return images_folder() / f"{suite}-{content_key(parts)}"


def _finish_root(suite: str, root: Path, entry: Path) -> dict[str, Any]:
    """Take the kernel out, put our files in; what the image is."""
    versions = roots_build.package_versions(root, PACKAGES)
    kernels = sorted(path.name for path in (root / "lib/modules").iterdir())
    if "systemd" not in versions or len(kernels) != 1:
        raise TargetError(f"the image of {suite} was built without systemd or its kernel")
    (root / "kernel/vmlinuz").rename(entry / "vmlinuz")
    (root / "kernel").rmdir()
    for path, content in _FILES.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(content, encoding="utf-8")
    (entry / "modules.img").write_bytes(images_initrd.modules(root / "lib/modules" / kernels[0]))
    return {"suite": suite, "packages": versions, "kernel": kernels[0]}


async def _lay_onto_disk(root: Path, disk: Path) -> None:
    words = ["mke2fs", "-q", "-F", "-t", "ext4", "-U", _UUID, "-L", "cgrace", "-O", "^has_journal,^metadata_csum"]
    words += ["-E", f"lazy_itable_init=1,root_owner=0:0,hash_seed={_UUID}", "-d", str(root), str(disk), f"{DISK_MB}M"]
    done = await run(words, env={"PATH": search_path(), "E2FSPROGS_FAKE_TIME": _EPOCH, "SOURCE_DATE_EPOCH": _EPOCH})
    if not done.ok:
        raise TargetError(f"the disk cannot be made: mke2fs {done.how}", hint=done.command_line, detail=done.tail)
