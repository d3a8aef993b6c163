"""Install trees of systemd over a suite's image: what can be told without booting one; booting is tried where it was asked for."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from cgrace.harness.errors import TargetError
from cgrace.harness.proc.find import find_program
from cgrace.harness.targets import images, images_tree
from cgrace.harness.targets.qemu import PROGRAM
from cgrace.harness.targets.registry import parse_target
from cgrace.harness.targets.remote import open_machine, parse_remote
from cgrace.harness.targets.roots_tree import Tree
from cgrace.harness.targets.vms import is_own_disk, open_vm, split_place

BOOT = os.environ.get("CGRACE_TEST_VM", "")
needs_tools = pytest.mark.skipif(
    find_program("mke2fs") is None or find_program("debugfs") is None, reason="no mke2fs or no debugfs (e2fsprogs)"
)


def test_names(tmp_path: Path) -> None:
    """A suite with a tree is no disk, though a path is in its name; a disk may have a + in its own."""
    assert split_place(f"sid+{tmp_path}") == ("sid", str(tmp_path)) and not is_own_disk(f"sid+{tmp_path}")
    disk = tmp_path / "a+b.qcow2"
    disk.touch()
    assert split_place(str(disk)) == (str(disk), "") and is_own_disk(str(disk))
    name = parse_target(f"vm:sid+{tmp_path}:v2")
    assert (name.place, name.layout, name.is_build, name.slug) == (f"sid+{tmp_path}", "v2", True, "vm-sid")
    assert not parse_target("vm:sid:v2").is_build and not parse_target(f"vm:{disk}").is_build
    assert parse_remote(f"vm:sid+{tmp_path}").layout == "v2"


@pytest.mark.skipif(shutil.which(PROGRAM) is None or shutil.which("ssh") is None, reason="no QEMU or no ssh")
def test_a_tree_over_a_disk_of_ones_own(tmp_path: Path) -> None:
    """That is refused before anything is booted."""
    disk = tmp_path / "disk.qcow2"
    disk.touch()

    async def go() -> None:
        async with open_vm(f"{disk}+{tmp_path}", ""):
            raise AssertionError

    with pytest.raises(TargetError, match="a disk of your own") as caught:
        asyncio.run(go())
    assert caught.value.hint == f"vm:sid+{tmp_path}"


@needs_tools
@pytest.mark.parametrize("files", [1, 3000])
def test_a_tree_on_a_disk(tmp_path: Path, files: int) -> None:
    """Everything in it is there, whether it is few large files or many small ones, and the disk is not much larger than that."""
    tree = tmp_path / "tree"
    (tree / "usr/lib").mkdir(parents=True)
    for number in range(files):
        (tree / f"usr/lib/{number}").write_bytes(os.urandom(30_000_000 // files))
    (tree / "usr/link").symlink_to("lib/0")
    disk = tmp_path / "disk.img"
    asyncio.run(images_tree.put_on_disk(Tree(folder=tree, version="257", inits=()), disk))
    assert disk.stat().st_size < 80_000_000
    out = tmp_path / "out"
    out.mkdir()
    debugfs = find_program("debugfs")
    assert debugfs is not None
    subprocess.run([debugfs, "-R", f"rdump / {out}", str(disk)], check=True, capture_output=True)
    (out / "lost+found").rmdir()
    subprocess.run(["diff", "-r", "--no-dereference", tree, out], check=True)


@pytest.mark.skipif(not BOOT, reason="boots a machine for a minute: CGRACE_TEST_VM=vm:sid:v2")
@pytest.mark.timeout(1500)
def test_a_tree_over_an_image(tmp_path: Path) -> None:
    """A machine boots with the systemd of a tree, whatever form its /usr has; what is not in it is the image's, and neither is
    written to."""
    name = parse_remote(BOOT)
    image = asyncio.run(images.build_image(name.which))
    inside = asyncio.run(images_tree._looked_at(image))
    for base in ("usr/lib", "lib"):
        (tmp_path / base / "systemd").mkdir(parents=True)
    shutil.copy(inside / "usr/lib/systemd/systemd", tmp_path / "usr/lib/systemd")
    (tmp_path / "lib/ours").write_text("ours")
    (tmp_path / "usr/lib/ours-link").symlink_to("ours")

    def state() -> list[str]:
        return [*sorted(map(str, tmp_path.rglob("*"))), str(image.disk.stat())]

    async def go() -> str:
        async with open_machine(f"vm:{name.which}+{tmp_path}:{name.layout}") as machine:
            assert machine.facts.layout == name.layout
            updates = await machine.channel.run("systemctl show -p ConditionResult systemd-hwdb-update ldconfig")
            assert "ConditionResult=yes" not in updates.text  # the caches of /usr are not taken for old
            look = (
                "readlink /lib; cat /usr/lib/ours-link; echo; stat -c %u /usr/lib/systemd/systemd; ls -d /lib/modules"
            )
            return (await machine.channel.run(look)).text

    before = state()
    assert asyncio.run(go()).split() == ["usr/lib", "ours", "0", "/lib/modules"]
    assert state() == before


@pytest.mark.skipif(not BOOT, reason="takes an image: CGRACE_TEST_VM=vm:sid:v2")
def test_a_tree_that_cannot_start(tmp_path: Path) -> None:
    """What a tree's systemd needs and the image lacks is said before anything is booted."""
    image = asyncio.run(images.build_image(parse_remote(BOOT).which))
    inside = asyncio.run(images_tree._looked_at(image))
    (tmp_path / "usr/lib/systemd").mkdir(parents=True)
    program = (inside / "usr/lib/systemd/systemd").read_bytes()
    (tmp_path / "usr/lib/systemd/systemd").write_bytes(program.replace(b"libc.so.6\0", b"libc.so.9\0"))
    with pytest.raises(TargetError, match=r"libc\.so\.9"):
        asyncio.run(images_tree.tree_over(str(tmp_path), image))
