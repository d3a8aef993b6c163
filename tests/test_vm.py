"""Virtual machines and machines behind ssh: what can be told without booting one; booting is tried where it was asked for."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cgrace.harness.errors import TargetError, UnavailableError, UsageError
from cgrace.harness.proc.workers import WorkerDied
from cgrace.harness.targets import images, images_initrd, qemu, remote_runtime
from cgrace.harness.targets.guest import check_layout
from cgrace.harness.targets.images_initrd import Member
from cgrace.harness.targets.names import layout_of
from cgrace.harness.targets.registry import parse_target
from cgrace.harness.targets.remote import RemoteVm, open_machine, parse_remote
from cgrace.harness.targets.ssh import SshChannel

BOOT = os.environ.get("CGRACE_TEST_VM", "")
NAMES = st.text("abcdefgh/_.", min_size=1, max_size=40).filter(lambda name: name != "TRAILER!!!")


@given(
    st.lists(st.builds(Member, path=NAMES, mode=st.integers(0, 0o177777), content=st.binary(max_size=50)), max_size=8)
)
def test_archive_reads_back(members: list[Member]) -> None:
    """What is written as an initial file system is what a reader of the format finds."""
    data = images_initrd.archive(members)
    assert list(images_initrd.members(data)) == members
    assert len(data) % 512 == 0 and data == images_initrd.archive(members)


@pytest.mark.skipif(shutil.which("cpio") is None, reason="no cpio")
def test_archive_is_what_cpio_knows() -> None:
    """Another program lists the same names."""
    data = images_initrd.seed(b"init", {"root/.ssh/authorized_keys": (b"key", 0o600)})
    listed = (
        subprocess.run(["cpio", "-t", "--quiet"], input=data, capture_output=True, check=True).stdout.decode().split()
    )
    assert listed == ["init", "seed", "seed/root", "seed/root/.ssh", "seed/root/.ssh/authorized_keys"]


def test_modules_in_the_order_of_their_needs(tmp_path: Path) -> None:
    """A module comes after all that it needs, and once."""
    (tmp_path / "modules.dep").write_text(
        "k/virtio_net.ko: k/net_failover.ko k/failover.ko\nk/net_failover.ko: k/failover.ko\n"
    )
    (tmp_path / "k").mkdir()
    for name in ("virtio_net", "net_failover", "failover"):
        (tmp_path / f"k/{name}.ko").write_bytes(name.encode())
    found = {member.path: member.content for member in images_initrd.members(images_initrd.modules(tmp_path))}
    loaded = [found[path.lstrip("/")] for path in found["modules"].decode().split()]
    assert loaded == [b"failover", b"net_failover", b"virtio_net"]


@pytest.mark.parametrize("text", ["vm", "vm:", "ssh:", "fake:x", "docker:sid", "ssh:-oProxyCommand=x", "host"])
def test_no_targets(text: str) -> None:
    """What is no target is an error of the command line, also an option in a host's place, and the host unless it is allowed."""
    with pytest.raises(UsageError):
        parse_target(text)


@pytest.mark.parametrize("text", ["container:bookworm:v3", "vm:sid:v3", "vm:./disk.qcow2:v3", "container:sid:hybrid"])
def test_no_layouts(text: str) -> None:
    """A layout that there is not is called one, and not part of the suite's name."""
    with pytest.raises(UsageError, match="is no cgroup layout of"):
        parse_target(text)


def test_target_names() -> None:
    """A vm may be hybrid, which runs scenarios about v1; ssh hosts may have colons."""
    name = parse_target("vm:bookworm:hybrid")
    assert (name.place, name.layout, name.wanted, name.is_remote) == ("bookworm", "hybrid", "v1", True)
    assert parse_target("ssh:root@[::1]").place == "root@[::1]"
    assert parse_target("vm:./a:b.img").place == "./a:b.img"
    assert str(parse_remote("vm:sid")) == "vm:sid:v2"
    assert parse_target("host", allow_host=True).is_alone


def test_layouts() -> None:
    """A systemd without cgroup v1 is not booted with it."""
    with pytest.raises(UnavailableError, match="v2 alone"):
        check_layout("sid", "v1", 262)
    with pytest.raises(TargetError, match="no cgroup layout"):
        check_layout("sid", "v3", 262)


@pytest.mark.parametrize(
    ("kind", "unified", "layout"),
    [
        ("cgroup2fs", "", "v2"),
        ("UNKNOWN (0x63677270)", "", "v2"),
        ("tmpfs", "", "v1"),
        ("tmpfs", "unified", "hybrid"),
        ("none", "", ""),
    ],
)
def test_layout_of_a_machine(kind: str, unified: str, layout: str) -> None:
    """What a machine has is told by what is mounted on /sys/fs/cgroup and in it; an old stat(1) knows no name for cgroup v2."""
    assert layout_of(kind, unified) == layout


def test_forwarded_port() -> None:
    """The port is read from what QEMU prints."""
    text = "Hub -1 (net):\n  Protocol[State]  FD  Source\n  TCP[HOST_FORWARD]  13  127.0.0.1 38211  10.0.2.15 22 0 0\n"
    assert qemu._forwarded_port(text) == 38211
    with pytest.raises(TargetError):
        qemu._forwarded_port("none")


def test_ssh_that_does_not_connect(tmp_path: Path) -> None:
    """A host that is not there is one clear error with ssh's words, and nothing is left."""

    async def connect() -> None:
        options = ("-F", "none", "-o", "ProxyCommand=false")
        async with SshChannel.open("nowhere", folder=tmp_path, options=options):
            raise AssertionError

    with pytest.raises(TargetError, match="ssh does not connect to nowhere"):
        asyncio.run(connect())
    assert list(tmp_path.iterdir()) == []


def test_python_taken_along(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The archives hold a Python that runs from anywhere, with nothing of this machine's, and finds cgrace; they are made once."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))

    async def parts() -> list[remote_runtime.Part]:
        return [await remote_runtime.interpreter_part(), await remote_runtime.package_part()]

    first, second = asyncio.run(parts()), asyncio.run(parts())
    assert first[0].key == second[0].key  # of the package, too, unless somebody edits it right now
    for part, folder in zip(first, ("there", "there/package"), strict=True):
        with tarfile.open(part.file) as archive:
            archive.extractall(tmp_path / folder)
    code = "import sys, cgrace.harness.worker as w; print(sys.executable, sys.prefix, w.__file__)"
    words = [str(tmp_path / "there/bin/python"), "-c", code]
    environment = {"PYTHONPATH": str(tmp_path / "there/package")}
    said = subprocess.run(words, env=environment, capture_output=True, text=True, check=True).stdout.split()
    assert (
        said[0].startswith(str(tmp_path)) and said[1] == str(tmp_path / "there") and said[2].startswith(str(tmp_path))
    )
    assert sys.version_info >= (3, 11)


@pytest.mark.skipif(not BOOT, reason="boots a machine for a minute: CGRACE_TEST_VM=vm:sid:v2")
@pytest.mark.timeout(900)
def test_machine(tmp_path: Path) -> None:
    """A machine boots with cgrace inside, goes back to its snapshot, and when it is killed says so; nothing is left of it."""

    async def look() -> None:
        async with open_machine(BOOT) as machine:
            assert isinstance(machine, RemoteVm)
            assert (await machine.python(["-c", "import cgrace; print(6 * 7)"])).text == "42\n"
            await machine.reset()
            await machine.channel.run(["touch", "/root/mark"])
            await machine.reset()
            assert not (await machine.channel.run(["test", "-e", "/root/mark"])).ok
            async with machine.worker("cgrace.harness.targets.remote_echo") as worker:
                assert await worker.ask({"a": 1}) == {"a": 1}
                machine.target._qemu.kill()  # type: ignore[union-attr]
                with pytest.raises(WorkerDied):
                    await worker.ask("sleep")
                assert "was lost" in (await machine.why_lost(worker)).message

    asyncio.run(look())
    assert images.look_up(parse_remote(BOOT).which) is not None
