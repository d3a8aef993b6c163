"""KVM where it works and TCG where it does not, found out without being told: every way in which it may not work, by fakes."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import fcntl
import os
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from cgrace.harness.errors import TargetError
from cgrace.harness.targets import qemu, vm
from cgrace.harness.targets.qemu import KVM, TCG, MachineConfig, find_kvm
from cgrace.harness.targets.ssh import SshChannel

API, CREATE = 0xAE00, 0xAE01
GOES_DOWN, FAILS, STAYS_SILENT, REFUSED, SPEAKS = "goes down", "fails", "stays silent", "refused", "speaks"


def fake_device(
    monkeypatch: pytest.MonkeyPatch, *, opens: int = 0, api: int | OSError = 12, creates: OSError | None = None
) -> list[int]:
    """A /dev/kvm that answers so; the descriptors that were handed out."""
    given: list[int] = []
    really = os.open

    def hand_out() -> int:
        given.append(really(os.devnull, os.O_RDWR))
        return given[-1]

    def fake_open(path: str, flags: int, *rest: Any) -> int:
        if path != "/dev/kvm":
            return really(path, flags, *rest)
        if opens:
            raise OSError(opens, os.strerror(opens))
        return hand_out()

    def fake_ioctl(_fd: int, request: int, _argument: int = 0) -> int:
        if request == API:
            if isinstance(api, OSError):
                raise api
            return api
        assert request == CREATE
        if creates is not None:
            raise creates
        return hand_out()

    monkeypatch.setattr(os, "open", fake_open)
    monkeypatch.setattr(fcntl, "ioctl", fake_ioctl)
    return given


def are_closed(descriptors: list[int]) -> bool:
    """Whether none of them is open."""
    for descriptor in descriptors:
        with contextlib.suppress(OSError):
            os.fstat(descriptor)
            return False
    return True


@pytest.mark.parametrize("number", [errno.ENOENT, errno.EACCES, errno.ENODEV, errno.EPERM])
def test_a_device_that_cannot_be_opened(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """No device, or one that is not ours to use: TCG, with the reason."""
    fake_device(monkeypatch, opens=number)
    assert find_kvm() == f"/dev/kvm: {os.strerror(number)}"


@pytest.mark.parametrize("number", [errno.EBUSY, errno.ENODEV, errno.EOPNOTSUPP, errno.ENOMEM])
def test_a_device_that_makes_no_machine(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """Another hypervisor has the processor, or there is none below: TCG, and nothing stays open."""
    given = fake_device(monkeypatch, creates=OSError(number, os.strerror(number)))
    assert find_kvm() == f"/dev/kvm makes no virtual machine: {os.strerror(number)}"
    assert len(given) == 1 and are_closed(given)


def test_a_device_that_is_something_else(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another interface, or no KVM at all behind the name."""
    given = fake_device(monkeypatch, api=11)
    assert "another version" in find_kvm()
    given += fake_device(monkeypatch, api=OSError(errno.ENOTTY, "Inappropriate ioctl for device"))
    assert "Inappropriate ioctl" in find_kvm()
    assert are_closed(given)


def test_a_device_that_works(monkeypatch: pytest.MonkeyPatch) -> None:
    """It makes a machine, which is let go at once."""
    given = fake_device(monkeypatch)
    assert find_kvm() == ""
    assert len(given) == 2 and are_closed(given)


class FakeGuest:
    """A guest without a disk."""

    name, hint, boot_s_max = "fake", "none", 5.0

    def lives(self, console: str, seconds: float) -> bool:
        """Whether it has said its word."""
        return SPEAKS in console

    async def configure(self, folder: Path, layout: str) -> MachineConfig:
        """Nothing to prepare."""
        return MachineConfig(folder=folder, disk=folder, disk_format="raw")

    def ssh_words(self, folder: Path, port: int) -> tuple[str, list[str]]:
        """Nowhere."""
        return "nowhere", []


class FakeQemu:
    """A QEMU whose guests do under KVM what `under_kvm` says, and live under TCG."""

    under_kvm = SPEAKS
    port = 1
    is_panicked = is_without_timer = False

    def __init__(self, accelerator: str) -> None:
        self.accelerator = accelerator
        self.does = self.under_kvm if accelerator == KVM else SPEAKS
        self.stopped: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.is_reaped = False

    async def start(self, config: MachineConfig) -> None:
        """Start, or refuse to."""
        if self.does == REFUSED:
            raise TargetError("qemu ended before it could be asked to qmp_capabilities")
        if self.does == GOES_DOWN:
            self.stopped.set_result("qemu ended")

    async def run_state(self) -> str:
        """As QMP says it."""
        return "internal-error" if self.does == FAILS else "running"

    def tail(self, lines: int = 20) -> str:
        """What is on its console."""
        return self.does if self.does == SPEAKS else ""

    def starved_ns(self) -> int:
        """Never."""
        return 0

    def cpu_s(self) -> float:
        """None taken."""
        return 0.0

    def kill(self) -> None:
        """End it."""

    async def reap(self) -> None:
        """Wait for the end."""
        self.is_reaped = True


async def boot(monkeypatch: pytest.MonkeyPatch, under_kvm: str, kvm: Callable[[], str] = str) -> tuple[str, list[str]]:
    """Boot on a machine whose KVM is like that: the accelerator that it came to, and what was said."""

    @contextlib.asynccontextmanager
    async def connect(*_: object, **__: object) -> AsyncIterator[Any]:
        yield type("Channel", (), {})()

    monkeypatch.setattr(FakeQemu, "under_kvm", under_kvm)
    monkeypatch.setattr(vm, "Qemu", FakeQemu)
    monkeypatch.setattr(vm, "KVM_S_MAX", 0.2)
    monkeypatch.setattr(vm, "find_kvm", kvm)
    monkeypatch.setattr(vm, "check_program", lambda: None)
    monkeypatch.setattr(SshChannel, "open", connect)
    said: list[str] = []
    async with vm.VmTarget.open(FakeGuest(), layout="v2", progress=said.append) as target:
        return target.accelerator, said


@pytest.mark.parametrize("under_kvm", [GOES_DOWN, FAILS, STAYS_SILENT, REFUSED])
def test_a_guest_that_does_not_live_under_kvm(monkeypatch: pytest.MonkeyPatch, under_kvm: str) -> None:
    """QEMU ends, its guest is stopped by an error, is never heard of, or is not even started: TCG, and it is said."""
    accelerator, said = asyncio.run(boot(monkeypatch, under_kvm))
    assert accelerator == TCG
    assert [line for line in said if "does not live under KVM" in line] and "under tcg" in said[-1]


def test_a_guest_that_lives_under_kvm(monkeypatch: pytest.MonkeyPatch) -> None:
    """KVM is used where it works, without a word of TCG."""
    accelerator, said = asyncio.run(boot(monkeypatch, SPEAKS))
    assert accelerator == KVM and said == ["booting fake (v2) under kvm"]


def test_no_kvm_is_tried_where_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the device says no, the guest is booted under TCG at once, with the reason."""
    accelerator, said = asyncio.run(boot(monkeypatch, SPEAKS, lambda: "/dev/kvm: Permission denied"))
    assert accelerator == TCG and said == ["booting fake (v2) under tcg (/dev/kvm: Permission denied)"]


def test_the_command_line_says_which(tmp_path: Path) -> None:
    """What is asked for is what QEMU is told, once; a comma in a path does not end an option."""

    async def words(accelerator: str) -> list[str]:
        machine = qemu.Qemu(accelerator)
        return machine._words(MachineConfig(folder=tmp_path / "a,b", disk=tmp_path, disk_format="raw"), 3)

    for accelerator, cpu in ((KVM, "host"), (TCG, "max")):
        line = asyncio.run(words(accelerator))
        assert f"q35,accel={accelerator}" in line and line[line.index("-cpu") + 1] == cpu
        assert any("a,,b/disk.qcow2" in word for word in line)


def test_what_is_shown_of_a_console() -> None:
    """Its last lines; of a kernel that panicked those before its stack, which is longer and says nothing of the reason."""

    async def go() -> None:
        machine = qemu.Qemu(TCG)
        assert machine.tail() == ""
        for lines, shown in (
            (["a", "b", "c", "d"], "b\nc\nd"),
            (["a", "ld.so: no x", "Run init", "Kernel panic - so", *["stack"] * 90, "end Kernel panic"], None),
        ):
            read_end, write_end = os.pipe()
            machine.console = qemu.Console(read_end, write_end)
            os.write(write_end, "".join(f"{line}\n" for line in lines).encode())
            machine.console.finish(1.0)
            assert machine.tail(3) == (shown or "ld.so: no x\nRun init\nKernel panic - so")
            assert machine.is_panicked == (shown is None)

    asyncio.run(go())
