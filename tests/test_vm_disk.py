"""Disk images of a user's own, as distributions make them: a boot loader, one partition, a key by cloud-init or by systemd.

The images are made here, of a Debian suite, which takes minutes and a network, so they are where that was asked for:
CGRACE_TEST_VM=vm:sid:v2.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import shutil
import struct
import subprocess
import tempfile
import uuid
import zlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from cgrace.harness.errors import TargetError, UnavailableError
from cgrace.harness.targets import owner, roots_build, vm_own
from cgrace.harness.targets.remote import RemoteVm, open_machine
from cgrace.harness.targets.uefi import find_uefi
from cgrace.harness.targets.vm_own import find_disk

SUITE = "bookworm"
DISK_MB = 2500
PACKAGES = (
    *(
        "systemd",
        "systemd-sysv",
        "dbus",
        "udev",
        "openssh-server",
        "linux-image-cloud-amd64",
        "initramfs-tools",
        "zstd",
    ),
    *("grub-pc-bin", "grub-common", "cloud-init", "kmod", "mount", "procps", "iproute2"),
    *("systemd-boot-efi", "dosfstools", "mtools"),
)
HOOKS = (
    'chroot "$1" systemctl enable systemd-networkd',
    'chroot "$1" grub-mkimage -O i386-pc -o /boot/core.img -p "(hd0,msdos1)/boot/grub" biosdisk part_msdos ext2 normal linux '
    "configfile search serial terminal",
    'cp "$1"/usr/lib/grub/i386-pc/boot.img "$1"/boot/boot.img',
    'rm -f "$1"/etc/ssh/ssh_host_*; : > "$1"/etc/machine-id',
)
# A disk without cloud-init has its network and its host keys from elsewhere.
NETWORK = "[Match]\nName=en* eth*\n[Network]\nDHCP=yes\n"
KEYS = "[Service]\nExecStartPre=\nExecStartPre=/usr/bin/ssh-keygen -A\n"

pytestmark = [
    pytest.mark.skipif(
        not os.environ.get("CGRACE_TEST_VM"), reason="builds and boots disks for minutes: CGRACE_TEST_VM=vm:sid:v2"
    ),
    pytest.mark.skipif(os.geteuid() != 0, reason="takes root"),
    pytest.mark.timeout(3000),
]


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A system with everything; CGRACE_TEST_DISK_ROOT names one that was made before."""
    if made := os.environ.get("CGRACE_TEST_DISK_ROOT"):
        return Path(made)
    base = tmp_path_factory.mktemp("disk")
    (base / "tree").mkdir()
    root = base / "tree/root"
    asyncio.run(roots_build.mmdebstrap(SUITE, root, packages=PACKAGES, hooks=HOOKS, variant="apt"))
    return root


def lay_root(tree: Path, disk: Path, at_mb: int) -> None:
    """Put the tree onto a disk as a file system that begins there."""
    words = [
        "mke2fs",
        "-q",
        "-F",
        "-t",
        "ext4",
        "-d",
        str(tree),
        "-E",
        f"offset={at_mb << 20}",
        str(disk),
        f"{DISK_MB}M",
    ]
    subprocess.run(words, check=True, env={**os.environ, "PATH": f"{os.environ['PATH']}:/usr/sbin:/sbin"})


def make_disk(tree: Path, disk: Path) -> Path:
    """A raw disk with a partition and GRUB in front of it, as QEMU's BIOS starts it."""
    kernel, initrd = (next((tree / "boot").glob(f"{name}-*")).name for name in ("vmlinuz", "initrd.img"))
    (tree / "etc/fstab").write_text("/dev/vda1 / ext4 defaults 0 1\n")
    (tree / "boot/grub").mkdir(exist_ok=True)
    (tree / "boot/grub/grub.cfg").write_text(
        "serial --unit=0\nterminal_output serial\nset root=(hd0,msdos1)\n"
        f"linux /boot/{kernel} root=/dev/vda1 ro console=ttyS0\ninitrd /boot/{initrd}\nboot\n"
    )
    subprocess.run(["truncate", "-s", f"{DISK_MB + 1}M", disk], check=True)
    lay_root(tree, disk, 1)
    with disk.open("r+b") as file:
        file.write((tree / "boot/boot.img").read_bytes()[:440])
        file.seek(446)
        file.write(struct.pack("<8B2I", 0x80, 0, 2, 0, 0x83, 0xFF, 0xFF, 0xFF, 2048, DISK_MB * 2048))
        file.seek(510)
        file.write(b"\x55\xaa" + (tree / "boot/core.img").read_bytes())
    return disk


SYSTEM, LINUX = (
    uuid.UUID(text).bytes_le
    for text in ("c12a7328-f81f-11d2-ba4b-00a0c93ec93b", "0fc63daf-8483-4772-8e79-3d69d8477de4")
)
SYSTEM_MB = 128
ESP = (
    "mkfs.vfat -C /esp.img $(({size} * 1024)) > /dev/null && mmd -i /esp.img ::EFI ::EFI/BOOT ::loader ::loader/entries && "
    "mcopy -i /esp.img /usr/lib/systemd/boot/efi/systemd-bootx64.efi ::EFI/BOOT/BOOTX64.EFI && "
    "mcopy -i /esp.img /boot/{kernel} ::linux && mcopy -i /esp.img /boot/{initrd} ::initrd && "
    "printf 'title cgrace\\nlinux /linux\\ninitrd /initrd\\noptions root=/dev/vda2 ro console=ttyS0\\n' | "
    "mcopy -i /esp.img - ::loader/entries/one.conf"
)


def partition_table(disk: Path, partitions: list[tuple[bytes, int, int]]) -> None:
    """A GUID partition table, its copy at the end, and a boot sector without code (UEFI specification, chapter 5).

    partitions: type, first and last sector.
    """
    last = disk.stat().st_size // 512 - 1
    rows = [
        struct.pack("<16s16sQQQ72s", kind, uuid.UUID(int=number + 1).bytes_le, first, end, 0, "x".encode("utf-16-le"))
        for number, (kind, first, end) in enumerate(partitions)
    ]
    entries = b"".join(rows).ljust(128 * 128, b"\0")

    def header(here: int, other: int, table: int) -> bytes:
        known = (34, last - 33, uuid.UUID(int=99).bytes_le, table, 128, 128, zlib.crc32(entries))
        words = [0, 0, here, other, *known]
        words[0] = zlib.crc32(struct.pack("<8sIIIIQQQQ16sQIII", b"EFI PART", 0x10000, 92, *words))
        return struct.pack("<8sIIIIQQQQ16sQIII", b"EFI PART", 0x10000, 92, *words).ljust(512, b"\0")

    with disk.open("r+b") as file:
        file.seek(446)
        file.write(struct.pack("<8B2I", 0, 0, 2, 0, 0xEE, 0xFF, 0xFF, 0xFF, 1, min(last, 0xFFFFFFFF)))
        file.seek(510)
        file.write(b"\x55\xaa" + header(1, last, 2) + entries)
        file.seek((last - 32) * 512)
        file.write(entries + header(last, 1, last - 32))


def make_uefi_disk(tree: Path, disk: Path, *, hidden: bool) -> Path:
    """A raw disk that no BIOS starts: systemd-boot and the kernel on a system partition, and the root behind it. hidden: whether
    the kernel is nowhere else."""
    kernel, initrd = (next((tree / "boot").glob(f"{name}-*")).name for name in ("vmlinuz", "initrd.img"))
    (tree / "etc/fstab").write_text("/dev/vda2 / ext4 defaults 0 1\n")
    subprocess.run(["chroot", tree, "sh", "-ec", ESP.format(size=SYSTEM_MB, kernel=kernel, initrd=initrd)], check=True)
    subprocess.run(["truncate", "-s", f"{1 + SYSTEM_MB + DISK_MB + 1}M", disk], check=True)
    root_mb = 1 + SYSTEM_MB
    partition_table(disk, [(SYSTEM, 2048, root_mb * 2048 - 1), (LINUX, root_mb * 2048, (root_mb + DISK_MB) * 2048 - 1)])
    subprocess.run(
        ["dd", f"if={tree}/esp.img", f"of={disk}", "bs=1M", "seek=1", "conv=notrunc", "status=none"], check=True
    )
    (tree / "esp.img").unlink()
    for path in (tree / "boot").glob("[vi]*") if hidden else ():
        path.unlink()
    lay_root(tree, disk, root_mb)
    return disk


def digest(path: Path) -> str:
    """Of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@pytest.fixture(autouse=True)
def nothing_left() -> Iterator[None]:
    """No folder of a machine and no half-made entry is there afterwards."""
    yield
    assert not list(Path(tempfile.gettempdir()).glob(f"{owner.own_name()}-c*"))


def test_a_cloud_image(tree: Path, tmp_path: Path) -> None:
    """It takes our key by cloud-init, says what it is, and with its kernel taken out comes up with another layout; as a file it
    stays as it was."""
    raw = make_disk(tree, tmp_path / "disk.raw")
    image = tmp_path / "disk.qcow2"
    subprocess.run(["qemu-img", "convert", "-O", "qcow2", raw, image], check=True)
    raw.unlink()
    before = digest(image)

    async def boot(layout: str) -> tuple[str, str]:
        async with open_machine(f"vm:{image}{layout}") as machine:
            assert (await machine.python(["-c", "import cgrace; print(6 * 7)"])).text == "42\n"
            await machine.channel.run(["touch", "/mark"])
            return machine.facts.layout, machine.facts.systemd

    disk = asyncio.run(find_disk(str(image)))
    try:
        assert asyncio.run(boot("")) == ("v2", disk.note and disk.note["systemd"])
        assert asyncio.run(boot(":v1"))[0] == "v1"
    finally:
        shutil.rmtree(disk.entry, ignore_errors=True)
    assert digest(image) == before


@pytest.mark.skipif(find_uefi() is None, reason="no firmware: apt install ovmf")
@pytest.mark.parametrize("hidden", [False, True])
def test_a_disk_for_uefi(tree: Path, tmp_path: Path, *, hidden: bool) -> None:
    """It is booted by a firmware of UEFI; later by its kernel with any layout, or where that is on its system partition alone again
    by the firmware and its own boot loader."""
    other = tmp_path / "tree"
    subprocess.run(["cp", "-a", tree, other], check=True)
    image = make_uefi_disk(other, tmp_path / "disk.raw", hidden=hidden)
    shutil.rmtree(other)
    disk = asyncio.run(find_disk(str(image)))
    assert disk.uefi is not None

    async def boot(layout: str) -> str:
        async with open_machine(f"vm:{image}{layout}") as machine:
            assert isinstance(machine, RemoteVm)
            firmware = await machine.channel.run("ls -d /sys/firmware/efi")
            assert firmware.ok == hidden
            await machine.reset()
            await machine.channel.run(["touch", "/mark"])
            await machine.reset()
            assert not (await machine.channel.run(["test", "-e", "/mark"])).ok
            return machine.facts.layout

    try:
        assert asyncio.run(boot("" if hidden else ":v1")) == ("v2" if hidden else "v1")
        if hidden:
            with pytest.raises(UnavailableError, match="its kernel was not found"):
                asyncio.run(boot(":v1"))
    finally:
        shutil.rmtree(disk.entry, ignore_errors=True)


def test_a_disk_without_cloud_init(tree: Path, tmp_path: Path) -> None:
    """It takes our key as systemd's credential; a raw disk."""
    other = tmp_path / "tree"
    subprocess.run(["cp", "-a", tree, other], check=True)
    (other / "etc/cloud/cloud-init.disabled").touch()
    (other / "etc/systemd/network/80-all.network").write_text(NETWORK)
    (other / "etc/systemd/system/ssh.service.d").mkdir()
    (other / "etc/systemd/system/ssh.service.d/keys.conf").write_text(KEYS)
    image = make_disk(other, tmp_path / "disk.raw")
    shutil.rmtree(other)

    async def boot() -> str:
        async with open_machine(f"vm:{image}") as machine:
            return machine.facts.layout

    try:
        assert asyncio.run(boot()) == "v2"
    finally:
        shutil.rmtree(asyncio.run(find_disk(str(image))).entry, ignore_errors=True)


def test_a_disk_without_sshd(tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It comes up and cannot be reached: what it takes is said, with the console's last lines, and nothing is kept."""
    other = tmp_path / "tree"
    subprocess.run(["cp", "-a", tree, other], check=True)
    (other / "usr/sbin/sshd").unlink()
    (other / "etc/cloud/cloud-init.disabled").touch()
    image = make_disk(other, tmp_path / "disk.raw")
    shutil.rmtree(other)
    monkeypatch.setattr(vm_own, "BOOT_S_MAX", 150.0)

    async def boot() -> None:
        async with open_machine(f"vm:{image}"):
            raise AssertionError

    with pytest.raises(TargetError) as caught:
        asyncio.run(boot())
    assert "no ssh within 150 s" in caught.value.message and "what it takes: sshd" in caught.value.hint
    assert caught.value.detail.strip() and "nothing was written" not in caught.value.detail
    disk = asyncio.run(find_disk(str(image)))
    assert disk.note is None and not list(disk.entry.parent.glob(f"{disk.entry.name}*"))
