"""One QEMU process: its command line, its life, its console, its snapshots.

KVM where it works, else TCG, found out by itself: /dev/kvm that can be opened and that makes a virtual machine can still kill
the guest at its first instructions (nested virtualisation that lacks something), which QEMU tells by ending or by the run
state "internal-error". The process dies with its parent (PR_SET_PDEATHSIG by setpriv(1)), whichever way that ends.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import json
import os
import shutil
import signal
import socket
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from cgrace.harness.errors import TargetError
from cgrace.harness.proc.pidstat import START_TIME, TIMES, stat_fields
from cgrace.harness.proc.run import run
from cgrace.harness.targets.boot import Console
from cgrace.harness.targets.uefi import VARIABLES, Uefi

PROGRAM: Final = "qemu-system-x86_64"
PACKAGES: Final = "qemu-system-x86 qemu-utils"
KVM: Final = "kvm"
TCG: Final = "tcg"
MEMORY_MB: Final = 1024
CPUS: Final = 2
OVERLAY: Final = "disk.qcow2"  # in the runtime folder: all that the guest writes
PID_FILE: Final = "qemu.pid"  # in the runtime folder: pid and start time, for whoever looks for the process
ANSWER_S_MAX: Final = 120.0  # a state that is kept or loaded on a slow disk
_KVM_GET_API_VERSION: Final = 0xAE00  # linux/kvm.h
_KVM_CREATE_VM: Final = 0xAE01
_KVM_API: Final = 12
PANICKED: Final = "the guest's kernel panicked"
_PANIC: Final = "Kernel panic"
_PANIC_LINES: Final = 100  # which it writes after that at most, and before its last word
_NO_TIMER: Final = "IO-APIC + timer doesn't work"
_LAST_S_MAX: Final = 1.0
_ANSWER_BYTES_MAX: Final = 1 << 22


@dataclass(frozen=True, slots=True, kw_only=True)
class MachineConfig:
    """What is booted. folder: the runtime folder, where the overlay goes; disk: only read; kernel, initrd: files, or None for the
    disk's own boot loader; seed: a folder to be seen as a disk with the label CIDATA; extra: a raw disk to be seen behind the first
    one, only read; uefi: in place of a BIOS, with its variables in the folder; firmware: OEM strings (SMBIOS type 11); may_reboot:
    whether it may start over before it is ready, else that is its end."""

    folder: Path
    disk: Path
    disk_format: str
    kernel: Path | None = None
    initrd: Path | None = None
    command_line: str = ""
    memory_mb: int = MEMORY_MB
    seed: Path | None = None
    extra: Path | None = None
    uefi: Uefi | None = None
    firmware: tuple[str, ...] = ()
    may_reboot: bool = False


def find_kvm() -> str:
    """ "" where the kernel makes a virtual machine for us, else why not."""
    try:
        fd = os.open("/dev/kvm", os.O_RDWR | os.O_CLOEXEC)
    except OSError as error:
        return f"/dev/kvm: {error.strerror}"
    try:
        if fcntl.ioctl(fd, _KVM_GET_API_VERSION) != _KVM_API:
            return "/dev/kvm speaks another version"
        os.close(fcntl.ioctl(fd, _KVM_CREATE_VM, 0))
    except OSError as error:
        return f"/dev/kvm makes no virtual machine: {error.strerror}"
    finally:
        os.close(fd)
    return ""


def check_program() -> None:
    """TargetError where QEMU is not installed."""
    for name in (PROGRAM, "qemu-img"):
        if shutil.which(name) is None:
            raise TargetError(f"a virtual machine takes {name}, which is not installed", hint=f"apt install {PACKAGES}")


class Qemu:
    """One running machine. Made by `start`; `kill` and `reap` end it in whatever state it is.

    accelerator: KVM or TCG; port: where its port 22 is on 127.0.0.1; stopped: done when it ended, panicked or was stopped by an
    error of its own, with the reason; ended: done when the process is gone.
    """

    def __init__(self, accelerator: str) -> None:
        self.accelerator = accelerator
        self.port = 0
        self.stopped: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.console: Console | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._pidfd = -1
        self._is_reaped = False
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None
        self._answers: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self._turn = asyncio.Lock()
        self._listening: asyncio.Task[None] | None = None

    async def start(self, config: MachineConfig) -> None:
        """Start it and ask for its port; TargetError where QEMU does not come up."""
        overlay = config.folder / OVERLAY
        overlay.unlink(missing_ok=True)
        made = await run(
            ["qemu-img", "create", "-q", "-f", "qcow2", "-F", config.disk_format, "-b", str(config.disk), str(overlay)]
        )
        if not made.ok:
            raise TargetError("the disk's overlay cannot be made", hint=made.command_line, detail=made.tail)
        ours, theirs = socket.socketpair()
        read_end, write_end = os.pipe2(os.O_CLOEXEC)
        self.console = Console(read_end, write_end)
        with theirs:
            self._process = subprocess.Popen(  # noqa: ASYNC220 - a fork and an exec, and our own end is of the loop's thread
                self._words(config, theirs.fileno()),
                stdin=subprocess.DEVNULL,
                stdout=write_end,
                stderr=write_end,
                pass_fds=(theirs.fileno(),),
                cwd=config.folder,
                start_new_session=True,  # a terminal's Ctrl-C is for cgrace alone
            )
        self._note(config.folder)
        self._pidfd = os.pidfd_open(self._process.pid)
        asyncio.get_running_loop().add_reader(self._pidfd, self._ended)
        self._reader, self._writer = await asyncio.open_connection(sock=ours, limit=_ANSWER_BYTES_MAX)
        self._listening = asyncio.create_task(self._listen())
        await self.ask("qmp_capabilities")
        self.port = _forwarded_port(await self.monitor("info usernet"))

    def _words(self, config: MachineConfig, control: int) -> list[str]:
        cpu = "max" if self.accelerator == TCG else "host"
        words = [
            *("setpriv", "--pdeathsig", "KILL", PROGRAM, "-name", config.folder.name),
            *("-machine", f"q35,accel={self.accelerator}", "-cpu", cpu, "-smp", str(CPUS), "-m", str(config.memory_mb)),
            *("-nodefaults", "-no-user-config", "-display", "none", "-serial", "stdio", "-device", "pvpanic"),
            *("-chardev", f"socket,id=control,fd={control}", "-mon", "chardev=control,mode=control"),
            *(
                "-drive",
                f"file={_quoted(config.folder / OVERLAY)},if=none,id=disk,format=qcow2,cache=unsafe,discard=unmap",
            ),
            *("-device", "virtio-blk-pci,drive=disk", "-device", "virtio-rng-pci"),
            *("-netdev", "user,id=net,restrict=on,hostfwd=tcp:127.0.0.1:0-:22"),
            *("-device", "virtio-net-pci,netdev=net,romfile="),
        ]
        if not config.may_reboot:
            words.append("-no-reboot")
        if config.kernel is not None:
            words += ["-kernel", str(config.kernel), "-append", config.command_line]
        if config.initrd is not None:
            words += ["-initrd", str(config.initrd)]
        if config.seed is not None:  # the last device, so that without it no other one moves
            words += ["-drive", f"driver=vvfat,dir={_quoted(config.seed)},label=CIDATA,read-only=on,if=none,id=seed"]
            words += ["-device", "virtio-blk-pci,drive=seed"]
        if config.extra is not None:
            words += ["-drive", f"file={_quoted(config.extra)},format=raw,read-only=on,if=none,id=extra"]
            words += ["-device", "virtio-blk-pci,drive=extra"]
        if config.uefi is not None:
            code, variables = _quoted(config.uefi.code), _quoted(config.folder / VARIABLES)
            words += ["-drive", f"if=pflash,unit=0,format={config.uefi.code_format},readonly=on,file={code}"]
            words += ["-drive", f"if=pflash,unit=1,format=qcow2,cache=unsafe,file={variables}"]
        for text in config.firmware:
            words += ["-smbios", f"type=11,value={text.replace(',', ',,')}"]
        return words

    def _note(self, folder: Path) -> None:
        assert self._process is not None
        if (fields := stat_fields(self._process.pid)) is not None:
            with contextlib.suppress(OSError):
                (folder / PID_FILE).write_text(f"{self._process.pid} {fields[START_TIME]}", encoding="utf-8")

    def _ended(self) -> None:
        asyncio.get_running_loop().remove_reader(self._pidfd)
        self._stop("qemu ended")
        if not self.ended.done():
            self.ended.set_result(None)

    def _stop(self, why: str) -> None:
        if not self.stopped.done():
            self.stopped.set_result(why)

    async def _listen(self) -> None:
        """Sort what QEMU says: answers to who asked, events into `stopped`. (QMP: docs/interop/qmp-spec of QEMU.)"""
        assert self._reader is not None
        while line := await self._line():
            said = json.loads(line)
            if "return" in said or "error" in said:
                self._answers.put_nowait(said)
            match said:
                case {"event": "GUEST_PANICKED"}:
                    self._stop(PANICKED)
                case {"event": "BLOCK_IO_ERROR", "data": {"action": "stop", **data}}:
                    room = "this machine has no room for what the guest writes"
                    self._stop(room if data.get("nospace") else f"its disk fails: {data.get('reason', '')}")
                    self.kill()  # it stands still: whoever waits for it is to know at once
                case {"event": "SHUTDOWN", "data": {"reason": reason}}:
                    self._stop(f"the machine went down ({reason})")
        self._answers.put_nowait({"error": {"desc": "qemu ended"}})
        self._stop("qemu ended")

    async def _line(self) -> bytes:
        """What it says next, b"" when it has ended: that resets the connection if it left something unread."""
        assert self._reader is not None
        try:
            return await self._reader.readline()
        except (ConnectionError, ValueError):
            return b""

    async def ask(self, command: str, **arguments: Any) -> Any:
        """One QMP command's answer; TargetError for what QEMU says instead."""
        assert self._writer is not None
        async with self._turn:
            if self._process is None or self._process.poll() is not None:
                raise TargetError(f"qemu ended before it could be asked to {command}", detail=self.tail())
            self._writer.write(json.dumps({"execute": command, "arguments": arguments}).encode() + b"\n")
            with contextlib.suppress(ConnectionError):
                await self._writer.drain()
            try:
                async with asyncio.timeout(ANSWER_S_MAX):
                    answer = await self._answers.get()
            except TimeoutError:
                raise TargetError(f"qemu does not answer to {command}", detail=self.tail()) from None
        if "error" in answer:
            raise TargetError(f"qemu refuses {command}: {answer['error'].get('desc', '')}", detail=self.tail())
        return answer["return"]

    async def monitor(self, line: str) -> str:
        """One command of the human monitor, which has what QMP lacks; what it prints."""
        return str(await self.ask("human-monitor-command", **{"command-line": line}))

    async def run_state(self) -> str:
        """ "running", "paused", "internal-error" (KVM could not go on) and so on (QMP RunState)."""
        return str((await self.ask("query-status"))["status"])

    async def save(self, name: str) -> None:
        """Keep the whole machine's state, with its disk, under a name."""
        await self._snapshot(f"savevm {name}")

    async def load(self, name: str) -> None:
        """Go back to a kept state; connections to the machine are gone."""
        await self._snapshot(f"loadvm {name}")

    async def _snapshot(self, command: str) -> None:
        if said := (await self.monitor(command)).strip():
            raise TargetError(f"the machine's state: {command.split(maxsplit=1)[0]}: {said}")

    def tail(self, lines: int = 20) -> str:
        """The last lines of its console and of QEMU itself; of a kernel that panicked up to there, for its stack is longer and
        does not say what went before."""
        said = self.console.tail(lines + _PANIC_LINES).splitlines() if self.console is not None else []
        panicked = next((number for number, line in enumerate(said, 1) if _PANIC in line), len(said))
        return "\n".join(said[:panicked][-lines:])

    def cpu_s(self) -> float:
        """Seconds on processors that it has taken (proc(5): utime and stime); 0 when it is gone."""
        if self._process is None or self._process.poll() is not None:
            return 0.0
        fields = stat_fields(self._process.pid) or []
        return sum(map(int, fields[TIMES])) / os.sysconf("SC_CLK_TCK")

    def starved_ns(self) -> int:
        """For how long the thread of it that waited most could have run and was not let (Linux, Documentation/scheduler/
        sched-stats.rst: the second number of schedstat); 0 where that is not told."""
        waited = 0
        if self._process is not None:
            for task in Path(f"/proc/{self._process.pid}/task").glob("*/schedstat"):
                with contextlib.suppress(OSError, ValueError, IndexError):
                    waited = max(waited, int(task.read_text(encoding="ascii").split()[1]))
        return waited

    def why(self) -> str:
        """Why it is gone, "" while it is there. Blocks for a moment where it has just died."""
        if self._process is None or self.console is None:
            return ""
        if self._process.poll() is not None:
            self.console.finish(_LAST_S_MAX)
            self._stop("qemu ended")
        if not self.stopped.done():
            return ""
        panic = [line[line.index(_PANIC) :] for line in self.tail(_PANIC_LINES).splitlines() if _PANIC in line]
        return f"{PANICKED} ({panic[0]})" if panic else self.stopped.result()

    @property
    def is_panicked(self) -> bool:
        """Whether its kernel says so: one that does not start over stands still after that."""
        return _PANIC in self.tail(_PANIC_LINES)

    @property
    def is_without_timer(self) -> bool:
        """Whether its kernel gave up because the timer's interrupts came late: an emulated machine on a busy host (Linux,
        arch/x86/kernel/apic/io_apic.c check_timer)."""
        return _NO_TIMER in self.tail(_PANIC_LINES)

    def last_words(self) -> str:
        """Why it is gone, if it is, and the last lines of its console."""
        return "\n".join(line for line in (self.why(), self.tail()) if line)

    def kill(self) -> None:
        """SIGKILL, in whatever state it is."""
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                self._process.send_signal(signal.SIGKILL)

    async def reap(self) -> None:
        """After `kill`: wait for its end and let go of everything of it."""
        if self._listening is not None:
            self._listening.cancel()
            await asyncio.gather(self._listening, return_exceptions=True)
        if self._writer is not None:
            self._writer.close()
        if self._pidfd >= 0:
            self._ended()
            os.close(self._pidfd)
            self._pidfd = -1
        if self._process is not None:
            await asyncio.to_thread(self._process.wait)
        if self.console is not None and not self._is_reaped:
            await asyncio.to_thread(self.console.close)
        self._is_reaped = True


def _quoted(path: Path) -> str:
    """A path within an option's value, where a comma ends it (qemu(1))."""
    return str(path).replace(",", ",,")


def _forwarded_port(text: str) -> int:
    """The host's port of the one forwarding, from `info usernet`: "TCP[HOST_FORWARD]  12  127.0.0.1 38211  10.0.2.15 22 ..."."""
    for line in text.splitlines():
        fields = line.split()
        if fields and fields[0].startswith("TCP[HOST_FORWARD]") and len(fields) >= 4:
            return int(fields[3])
    raise TargetError("qemu forwards no port", detail=text)
