"""Disk images: the same twice, whatever the clock said; a builder that ends with its caller."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import select
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from cgrace.harness.clock import now_ns
from cgrace.harness.errors import TargetError
from cgrace.harness.targets import images, images_ext4, roots_build, uefi, vm_own
from cgrace.harness.targets.uefi import Uefi, find_uefi
from cgrace.harness.targets.vm_own import OwnDisk, _command_line, _with_root, find_disk, is_for_uefi

WHEN = 1_600_000_000


def _tree(folder: Path, when: int) -> Path:
    """A small tree whose files are of some time."""
    (folder / "etc/deep").mkdir(parents=True)
    for number in range(300):
        (folder / f"etc/deep/{number}").write_text(str(number))
    (folder / "etc/link").symlink_to("deep/1")
    for path in folder.rglob("*"):
        os.utime(path, (when, when), follow_symlinks=False)
    return folder


@pytest.mark.skipif(shutil.which("mke2fs") is None, reason="no mke2fs")
def test_a_disk_is_the_same_twice(tmp_path: Path) -> None:
    """Two trees with the same content make the same disk, whenever they were made, and its file system is whole."""
    digests = []
    for name, when in (("a", 1_700_000_000), ("b", 1_650_000_000)):
        disk = tmp_path / f"{name}.img"
        asyncio.run(images._lay_onto_disk(_tree(tmp_path / name, when), disk))
        images_ext4.settle_times(disk, WHEN)
        digests.append(hashlib.sha256(disk.read_bytes()).hexdigest())
    assert digests[0] == digests[1]
    checked = subprocess.run(["e2fsck", "-f", "-n", str(disk)], capture_output=True, check=False)
    assert checked.returncode == 0, checked.stdout


def test_no_file_system_to_settle(tmp_path: Path) -> None:
    """What is no ext4 is left alone."""
    disk = tmp_path / "disk.img"
    disk.write_bytes(bytes(4096))
    with pytest.raises(TargetError, match="no ext4"):
        images_ext4.settle_times(disk, WHEN)
    assert disk.read_bytes() == bytes(4096)


@pytest.mark.skipif(shutil.which("qemu-img") is None or shutil.which("qemu-system-x86_64") is None, reason="no QEMU")
@pytest.mark.parametrize(
    ("content", "said"),
    [(None, "there is no"), (b"text\n", "no disk image"), (b"QFI\xfb" + bytes(range(64)), "cannot be read")],
)
def test_no_disk_images(tmp_path: Path, content: bytes | None, said: str) -> None:
    """A path without a file, a file without a boot sector and a damaged image are told before anything is booted."""
    path = tmp_path / "disk.qcow2"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(TargetError, match=said):
        asyncio.run(find_disk(str(path)))


def test_a_disk_for_another_firmware(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that only UEFI can start takes a firmware, which is named before anything is booted; one for both does not, nor one
    whose kernel was kept at its first boot."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    system, grub = bytes.fromhex("28732ac11ff8d211ba4b00a0c93ec93b"), bytes.fromhex("4861682149646f6e744e656564454649")
    firmware = Uefi(code=tmp_path, code_format="raw", variables=tmp_path, variables_format="raw")
    for code, partitions, alone in ((0, system, True), (0, system + bytes(112) + grub, False), (0xEB, system, False)):
        head = bytes([code]).ljust(510, b"\0") + b"\x55\xaa" + b"EFI PART".ljust(512, b"\0") + partitions
        assert is_for_uefi(head) == alone
        path = tmp_path / "disk.img"
        path.write_bytes(head.ljust(1 << 20, b"\0"))
        monkeypatch.setattr(vm_own, "find_uefi", lambda: firmware)
        disk = asyncio.run(find_disk(str(path)))
        assert disk.form == "raw" and disk.uefi == (firmware if alone else None)
        monkeypatch.setattr(vm_own, "find_uefi", lambda: None)
        if alone:
            with pytest.raises(TargetError, match="UEFI firmware alone") as caught:
                asyncio.run(find_disk(str(path)))
            assert "apt install ovmf" in caught.value.hint
            _keep(disk, kernel="")
            with pytest.raises(TargetError, match="UEFI firmware alone"):
                asyncio.run(find_disk(str(path)))
            _keep(disk, kernel="/boot/vmlinuz")
            assert asyncio.run(find_disk(str(path))).note
        else:
            assert asyncio.run(find_disk(str(path))).uefi is None


def _keep(disk: OwnDisk, kernel: str) -> None:
    """Leave behind what a first boot does."""
    disk.entry.mkdir(parents=True, exist_ok=True)
    (disk.entry / "disk.qcow2").touch()
    roots_build.write_note(disk.entry / images.NOTE_FILE, {"kernel": kernel})


def _described(folder: Path, name: str, said: object) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(json.dumps(said) if said is not None else "")


def test_which_firmware_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first by name that is for this machine and is there, with what an administrator put in place of the distribution's."""
    for name in ("code", "variables", "other"):
        (tmp_path / name).touch()
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(uefi, "_FOLDERS", (str(tmp_path / "etc"), str(tmp_path / "usr")))

    def described(code: str = "code", machine: str = "pc-q35-*", features: tuple[str, ...] = ()) -> dict[str, object]:
        flash = {
            "executable": {"filename": str(tmp_path / code), "format": "raw"},
            "nvram-template": {"filename": str(tmp_path / "variables"), "format": "qcow2"},
        }
        return {
            "interface-types": ["uefi"],
            "mapping": {"device": "flash", **flash},
            "targets": [{"architecture": "x86_64", "machines": [machine]}],
            "features": list(features),
        }

    assert find_uefi() is None
    _described(tmp_path / "usr", "10-signed.json", described(features=("secure-boot", "requires-smm")))
    _described(tmp_path / "usr", "20-arm.json", described(machine="virt-*"))
    _described(tmp_path / "usr", "30-gone.json", described("nowhere"))
    _described(tmp_path / "usr", "40-strange.json", {"interface-types": 3})
    assert find_uefi() is None
    _described(tmp_path / "usr", "60-plain.json", described())
    found = find_uefi()
    assert found is not None and (found.code.name, found.variables_format) == ("code", "qcow2")
    _described(tmp_path / "etc", "60-plain.json", described("other"))
    found = find_uefi()
    assert found is not None and found.code.name == "other"
    _described(tmp_path / "home/qemu/firmware", "60-plain.json", None)
    assert find_uefi() is None


def test_a_root_that_the_boot_loader_knew_of() -> None:
    """Where no command line says which partition is the root, the one that was mounted is said, if it is a disk's."""
    assert _with_root("ro quiet", "/dev/vda2") == "ro quiet root=/dev/vda2"
    assert _with_root("root=UUID=1 ro", "/dev/vda2") == "root=UUID=1 ro"
    assert _with_root("ro", "/dev/mapper/root") == "ro"


def test_a_disk_of_ones_own_is_known_by_its_content(tmp_path: Path) -> None:
    """An image that was changed is another one: what was kept of the old one is not laid over it."""
    path = tmp_path / "disk.img"
    path.write_bytes((bytes(510) + b"\x55\xaa").ljust(1 << 16, b"\0"))
    first = asyncio.run(find_disk(str(path)))
    assert (first.form, first.note) == ("raw", None)
    path.write_bytes((bytes(510) + b"\x55\xaa").ljust(1 << 17, b"\0"))
    assert asyncio.run(find_disk(str(path))).entry != first.entry


def test_a_disks_own_command_line_with_another_layout() -> None:
    """The boot loader's own words go, the disk's stay, and the layout is asked for once."""
    own = "BOOT_IMAGE=/boot/vmlinuz root=UUID=1 ro systemd.unified_cgroup_hierarchy=1 console=tty0 panic=30 quiet"
    words = _command_line(own, "v1").split()
    assert words[:4] == ["root=UUID=1", "ro", "console=tty0", "quiet"] and "console=ttyS0" in words
    assert [word for word in words if "unified" in word] == ["systemd.unified_cgroup_hierarchy=0"]
    assert "systemd.unified_cgroup_hierarchy=1" in _command_line(own, "").split()


BUILDER = """#!/bin/sh
mount -t tmpfs cgrace-test-tmpfs "$TMPDIR" && : > "$TMPDIR/file"
sleep 987654 &
setsid sleep 987654 &
echo "I: installing essential packages..." >&2
wait
"""
BUILDING = """
import asyncio, sys
from pathlib import Path
from cgrace.harness.targets import roots_build
say = lambda line: print(line, flush=True)
with roots_build.workshop(Path(sys.argv[1]), 0) as shop:
    (shop / "tree").mkdir()
    asyncio.run(roots_build.mmdebstrap("sid", shop / "tree/root", packages=["x"], hooks=[], progress=say))
"""


def _sleepers() -> list[int]:
    """The builder's children."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            if (entry / "cmdline").read_bytes() == b"sleep\x00987654\x00":
                found.append(int(entry.name))
        except OSError:
            continue
    return found


@pytest.mark.skipif(os.geteuid() != 0, reason="mounts take root")
@pytest.mark.skipif(shutil.which("unshare") is None, reason="no unshare")
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_a_build_that_is_killed_leaves_nothing(tmp_path: Path, number: signal.Signals) -> None:
    """Killed in the middle, a build takes its processes and mounts along, also those that left its group; the next build removes
    its workshop."""
    programs, base = tmp_path / "bin", tmp_path / "images"
    programs.mkdir()
    base.mkdir()
    (programs / "mmdebstrap").write_text(BUILDER)
    (programs / "mmdebstrap").chmod(0o755)
    environment = {**os.environ, "PATH": f"{programs}:{os.environ['PATH']}"}
    words = [sys.executable, "-c", BUILDING, str(base)]
    with subprocess.Popen(words, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as building:
        assert building.stdout is not None
        assert building.stdout.readline() == b"sid: installing essential packages...\n"
        deadline = now_ns() + 20_000_000_000
        while (
            len(sleepers := _sleepers()) < 2 and now_ns() < deadline
        ):  # they have been forked, and become what they are
            select.select([], [], [], 0.05)
        alive = [os.pidfd_open(pid) for pid in sleepers]
        assert len(alive) == 2 and "cgrace-test-tmpfs" not in Path("/proc/self/mounts").read_text()
        building.send_signal(number)
    for one in alive:
        assert select.select([one], [], [], 20)[0], "a process of the build lives on"
        os.close(one)
    assert "cgrace-test-tmpfs" not in Path("/proc/self/mounts").read_text()
    left = list(base.glob(".work-*"))
    assert len(left) == (number == signal.SIGKILL)
    with roots_build.workshop(base, 0) as shop:
        assert list(base.glob(".work-*")) == [shop]
    assert not list(base.glob(".work-*"))
