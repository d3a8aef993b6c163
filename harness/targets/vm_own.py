"""A disk image of the user's own as a virtual machine: a distribution's cloud image, or any disk with systemd and sshd on it.

The image is never written to. It is booted once as it is, by its own boot loader, with our key offered in the two ways that images
take keys: as NoCloud data for cloud-init (a disk labelled CIDATA), and as systemd's credential ssh.authorized_keys.root (252 and
newer, systemd.system-credentials(7)). What that boot writes goes to an overlay, which is kept with the key, the kernel and its
initial file system in `images/own-<key>/`, by the image's path, size and time. Later boots begin there, and since the kernel is at
hand its command line can choose the cgroup layout.

A disk that UEFI firmware alone can start is given one (uefi.py), with variables of its own, for its first boot; later boots begin
with the kernel, and need none unless that was not found.

A disk that takes a key in neither way is reached where the user's own ssh configuration says how: `Host cgrace-vm` with an
IdentityFile.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import re
import shutil
import uuid
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from cgrace.harness.drivers.cache import content_key
from cgrace.harness.errors import TargetError, UnavailableError
from cgrace.harness.proc.run import run
from cgrace.harness.targets import images, roots_build
from cgrace.harness.targets.guest import KEY, LAYOUT_KEYS, layout_words, make_key
from cgrace.harness.targets.images import NOTE_FILE
from cgrace.harness.targets.names import LOOK_AT_CGROUPS, layout_of
from cgrace.harness.targets.qemu import MachineConfig, check_program
from cgrace.harness.targets.ssh import SshChannel, option_words
from cgrace.harness.targets.uefi import PACKAGE, VARIABLES, Uefi, find_uefi

FORMATS: Final = ("qcow2", "raw", "vmdk", "vdi", "vhdx", "vpc")
BOOT_S_MAX: Final = 900.0  # the first boot of a cloud image under TCG
HOST: Final = "cgrace-vm"  # as the user's ssh configuration may name it
SILENT_S_MAX: Final = 10.0
MEMORY_MB: Final = 2048
_FORMAT: Final = 2  # of an entry; a change makes every entry new
_FREE_BYTES_MIN: Final = 1_500_000_000
_DISK: Final = "disk.qcow2"
_KERNEL: Final = "vmlinuz"
_INITRD: Final = "initrd.img"
_EXTRACT_BYTES_MAX: Final = 1 << 29
_SAYS: Final = "console=ttyS0"
_HEAD_BYTES: Final = 34 * 512  # the boot sector and the whole of a GUID partition table
_DUMPED: Final = re.compile(r"^[0-9a-f]{8}:  ((?:[0-9a-f]{2} ){16})", re.MULTILINE)
_ESP: Final = uuid.UUID("c12a7328-f81f-11d2-ba4b-00a0c93ec93b").bytes_le
_BIOS_BOOT: Final = uuid.UUID("21686148-6449-6e6f-744e-656564454649").bytes_le
# $r: the release that runs; $m: where kernel-install(8) puts it. Distributions call these files in their own ways (mkinitramfs(8),
# dracut(8)). A root that systemd finds by the loader's word (systemd-gpt-auto-generator(8)) is not on the command line.
_LOOK: Final = f"""r=$(uname -r) m=$(cat /etc/machine-id)/$r
first() {{ for f in "$@"; do [ -r "$f" ] && {{ echo "$f"; return; }}; done; echo; }}
systemctl --version | head -n 1
cat /proc/cmdline
first "/boot/vmlinuz-$r" "/lib/modules/$r/vmlinuz" /boot/vmlinuz "/boot/efi/$m/linux" "/efi/$m/linux" "/boot/$m/linux"
first "/boot/initrd.img-$r" "/boot/initramfs-$r.img" "/boot/initrd-$r" "/boot/initrd-$r.img" /boot/initrd.img \
  /boot/efi/$m/initrd* /efi/$m/initrd* /boot/$m/initrd*
{LOOK_AT_CGROUPS}
while read -r a b c d e f g; do [ "$e" = / ] && at=${{g#*- * }}; done < /proc/self/mountinfo; echo "${{at%% *}}"
"""
_LOOK_LINES: Final = 7
_DISKS: Final = "/dev/vd"  # as a kernel calls what QEMU gives it (Linux, drivers/block/virtio_blk.c)
# It has our key by now, and no seed later: it must not take itself for another instance.
_SETTLE: Final = "mkdir -p /etc/cloud && touch /etc/cloud/cloud-init.disabled; sync"
_OFF: Final = "systemctl --no-block poweroff"

Boot = Callable[["OwnGuest"], AbstractAsyncContextManager[SshChannel]]


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnDisk:
    """The user's image. text: as it was named; path: absolute; form: as QEMU calls its format; entry: where ours of it is kept;
    uefi: the firmware that alone can start it, None for a BIOS, or where its kernel is kept and there is no firmware here."""

    text: str
    path: Path
    form: str
    entry: Path
    uefi: Uefi | None = None

    @property
    def note(self) -> dict[str, Any] | None:
        """What its first boot found; None before that."""
        note = roots_build.read_note(self.entry / NOTE_FILE)
        return note if note is not None and (self.entry / _DISK).is_file() else None


class OwnGuest:
    """The user's image, for its first boot (folder: where the entry is being made) or for a later one (folder: the entry)."""

    def __init__(self, disk: OwnDisk, folder: Path, note: dict[str, Any] | None) -> None:
        self.disk = disk
        self.boot_s_max = BOOT_S_MAX
        self._entry = folder
        self._note = note

    @property
    def name(self) -> str:
        """The image's."""
        return self.disk.text

    @property
    def hint(self) -> str:
        """Why it may not have been reached."""
        if self._note is not None:
            return f"rm -rf {self._entry}, which prepares the image anew"
        return (
            "what it takes: sshd, and cloud-init or systemd 252 for our key (else Host cgrace-vm with an IdentityFile in "
            "~/.ssh/config), and console=ttyS0 to be seen"
        )

    def lives(self, console: str, seconds: float) -> bool:
        """Whether anything was written on its console, or it runs for a while: not every boot loader is told to speak."""
        return bool(console.strip()) or seconds > SILENT_S_MAX

    async def configure(self, folder: Path, layout: str) -> MachineConfig:
        """The image itself with our key beside it, or what was kept of its first boot. layout: "" for its own."""
        uefi = self.disk.uefi
        if self._note is None:
            if uefi is not None:
                await uefi.put_variables(folder)
            public = (self._entry / f"{KEY}.pub").read_text(encoding="utf-8").strip()
            _write_seed(folder / "seed", public)
            credential = base64.b64encode(f"{public}\n".encode()).decode()
            return MachineConfig(
                folder=folder,
                disk=self.disk.path,
                disk_format=self.disk.form,
                memory_mb=MEMORY_MB,
                seed=folder / "seed",
                uefi=uefi,
                firmware=(f"io.systemd.credential.binary:ssh.authorized_keys.root={credential}",),
                may_reboot=True,
            )
        extracted = bool(self._note["kernel"])
        if uefi is not None and not extracted:
            await asyncio.to_thread(shutil.copyfile, self._entry / VARIABLES, folder / VARIABLES)
        return MachineConfig(
            folder=folder,
            disk=self._entry / _DISK,
            disk_format="qcow2",
            memory_mb=MEMORY_MB,
            kernel=self._entry / _KERNEL if extracted else None,
            initrd=self._entry / _INITRD if extracted else None,
            uefi=None if extracted else uefi,
            command_line=_command_line(str(self._note["command_line"]), layout) if extracted else "",
        )

    async def keep(self, overlay: Path) -> None:
        """Keep what its first boot wrote."""
        await asyncio.to_thread(shutil.copyfile, overlay, self._entry / _DISK)
        if self.disk.uefi is not None:
            await asyncio.to_thread(shutil.copyfile, overlay.parent / VARIABLES, self._entry / VARIABLES)

    def ssh_words(self, folder: Path, port: int) -> tuple[str, list[str]]:
        """The user's configuration holds, but for where it is; a machine on a port of our own QEMU proves nothing by its key."""
        options = (
            "HostName=127.0.0.1",
            f"Port={port}",
            "ProxyCommand=none",
            "IdentitiesOnly=yes",
            "StrictHostKeyChecking=no",
            "UserKnownHostsFile=/dev/null",
            "GlobalKnownHostsFile=/dev/null",
            "Compression=no",
            "LogLevel=ERROR",
        )
        return HOST, ["-l", "root", "-i", str(self._entry / KEY), *option_words(options)]


def is_disk(place: str) -> bool:
    """Whether a place's name is that of an image and not a suite's."""
    return "/" in place or Path(place).suffix in (".img", ".raw", ".qcow2", ".vmdk", ".vdi", ".vhdx", ".vhd")


async def find_disk(text: str) -> OwnDisk:
    """The image of that path; TargetError where it is none."""
    check_program()
    path = await asyncio.to_thread(_path_of, text)
    asked = await run(["qemu-img", "info", "-U", "--output=json", str(path)])
    if not asked.ok:
        raise TargetError(f"{text} cannot be read as a disk image", hint=", ".join(FORMATS), detail=asked.tail)
    form = json.loads(asked.text).get("format", "")
    # QEMU takes every file for a raw disk, so it is the boot sector that counts.
    head = await _head(path, form) if form in FORMATS else b""
    if head[510:512] != b"\x55\xaa":
        raise TargetError(
            f"{text} is no disk image that can be booted",
            hint=f"a whole disk with a boot loader: {', '.join(FORMATS)}",
        )
    info = path.stat()
    key = content_key([(str(word), b"") for word in (_FORMAT, path, info.st_size, info.st_mtime_ns, info.st_ino)])
    entry = images.images_folder() / f"own-{key}"
    wants = is_for_uefi(head)
    disk = OwnDisk(text=text, path=path, form=form, entry=entry, uefi=find_uefi() if wants else None)
    if (
        wants and disk.uefi is None and not (disk.note or {}).get("kernel")
    ):  # with its kernel no firmware is asked any more
        raise TargetError(
            f"{text} is for UEFI firmware alone, and there is none here for a machine without secure boot",
            hint=f"apt install {PACKAGE}, or an image for a BIOS too, as most distributions publish them",
        )
    return disk


def check_own_layout(disk: OwnDisk, note: dict[str, Any], layout: str) -> None:
    """UnavailableError where its layout is another, and its kernel could not be taken out of it."""
    own = str(note["layout"])
    if layout in ("", own) or note["kernel"]:
        return
    raise UnavailableError(
        f"{disk.text} comes up with cgroup {own}, and its kernel was not found in it to be told otherwise",
        hint=f"vm:{disk.text}, or {layout_words(layout)} on the kernel's command line in its boot loader",
    )


async def prepare(disk: OwnDisk, boot: Boot, progress: Callable[[str], None]) -> dict[str, Any]:
    """Boot it for the first time and keep what comes of that, unless that was done; what it is. boot: boots and connects; when the
    block has ended, the guest has kept what was written."""
    if (note := disk.note) is not None:
        return note
    async with roots_build.turn(images.images_folder(), disk.entry.name, progress):
        if (note := disk.note) is not None:
            return note
        slow = "; by UEFI, which is slow where a processor is emulated" if disk.uefi is not None else ""
        progress(f"booting {disk.text} for the first time, to get in and to see what it is (once{slow})")
        with roots_build.workshop(images.images_folder(), _FREE_BYTES_MIN) as workshop:
            entry = workshop / "entry"
            entry.mkdir(mode=0o700)
            await make_key(entry / KEY)
            async with boot(OwnGuest(disk, entry, None)) as channel:
                note = await _look(disk, channel, entry)
                await channel.run_ok(_SETTLE, what="what was found cannot be kept")
                with contextlib.suppress(TargetError):  # it may go before it has answered
                    await channel.run(_OFF)
            roots_build.write_note(entry / NOTE_FILE, note)
            roots_build.into_place(entry, disk.entry)
            await asyncio.to_thread(_remove_older, disk)
    return note


def _remove_older(disk: OwnDisk) -> None:
    """What was kept of the same path when another image was there."""
    for entry in disk.entry.parent.glob("own-*"):
        note = roots_build.read_note(entry / NOTE_FILE)
        if entry != disk.entry and note is not None and note.get("image") == str(disk.path):
            shutil.rmtree(entry, ignore_errors=True)


async def _look(disk: OwnDisk, channel: SshChannel, entry: Path) -> dict[str, Any]:
    """What it is; its kernel goes into the entry."""
    done = await channel.run_ok(_LOOK, what="it does not say what it is")
    lines = done.text.splitlines()
    if len(lines) != _LOOK_LINES or not lines[0].startswith("systemd "):
        raise TargetError(f"{disk.text} has no systemd, or does not say what it is", detail=done.tail)
    version, command_line, kernel, initrd, kind, unified, root = lines
    layout = layout_of(kind, unified)
    if not layout:
        raise TargetError(f"{disk.text} has no cgroups: {kind} is on /sys/fs/cgroup")
    fetched = bool(kernel and initrd)
    for path, to in ((kernel, _KERNEL), (initrd, _INITRD)) if fetched else ():
        got = await channel.run(["cat", path])
        fetched = fetched and got.ok and 0 < len(got.stdout) <= _EXTRACT_BYTES_MAX
        (entry / to).write_bytes(got.stdout)
    return {
        "image": str(disk.path),
        "systemd": version.removeprefix("systemd "),
        "layout": layout,
        "kernel": kernel if fetched else "",
        "command_line": _with_root(command_line, root),
    }


def _with_root(own: str, root: str) -> str:
    """A command line that says where the root is, root, unless systemd was told that by the boot loader."""
    if any(word.startswith("root=") for word in own.split()) or not root.startswith(_DISKS):
        return own
    return f"{own} root={root}"


def _command_line(own: str, layout: str) -> str:
    """Its own with another layout ("": its own too), and what an emulated machine takes."""
    dropped = ("BOOT_IMAGE", "initrd", "panic", *(LAYOUT_KEYS if layout else ()))
    words = [word for word in own.split() if word.partition("=")[0] not in dropped]
    if not any(word.startswith(_SAYS) for word in words):
        words.append(_SAYS)
    return " ".join([*words, "panic=-1", "no_timer_check", *([layout_words(layout)] if layout else [])])


def _path_of(text: str) -> Path:
    path = Path(text).expanduser().absolute()
    if not path.is_file():
        raise TargetError(
            f"{text} is no file" if path.exists() else f"there is no {text}",
            hint="vm:./disk.qcow2, or a Debian suite such as vm:bookworm",
        )
    return path


async def _head(path: Path, form: str) -> bytes:
    """The first sectors of a disk, as qemu-io(1) shows them; b"" where it cannot."""
    shown = await run(["qemu-io", "-U", "-r", "-f", form, "-c", f"read -v 0 {_HEAD_BYTES}", str(path)])
    lines = _DUMPED.findall(shown.text) if shown.ok else []
    return b"".join(bytes.fromhex(line) for line in lines)


def is_for_uefi(head: bytes) -> bool:
    """Whether these first sectors have a partition table with a system partition for UEFI and nothing that a BIOS starts: no boot
    code, no partition for GRUB's (UEFI specification, GUID Partition Table; GRUB manual, BIOS installation)."""
    return (
        head[512:520] == b"EFI PART" and _ESP in head[1024:] and _BIOS_BOOT not in head[1024:] and not any(head[:440])
    )


def _write_seed(folder: Path, public: str) -> None:
    """NoCloud data (cloud-init, reference/datasources/nocloud): root may come in with our key. Nothing that takes time is done."""
    folder.mkdir()
    user = {
        "disable_root": False,
        "users": [{"name": "root", "ssh_authorized_keys": [public]}],
        "ssh_genkeytypes": ["ed25519"],
        "growpart": {"mode": "off"},
        "resize_rootfs": False,
        "package_update": False,
    }
    (folder / "user-data").write_text(f"#cloud-config\n{json.dumps(user)}\n", encoding="utf-8")
    (folder / "meta-data").write_text('{"instance-id": "cgrace", "local-hostname": "cgrace"}\n', encoding="utf-8")
