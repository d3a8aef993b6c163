"""Stacks of programs that show no goroutines: what gdb, eu-stack, /proc/PID/stack, wchan and syscall say of a wait.

crun waits for JobRemoved in systemd_check_job_status, by sd_bus_wait without a limit (crun, src/libcrun/cgroup-systemd.c); its
method calls go through sd_bus_call, whose default limit is 25 s (systemd, sd-bus: BUS_DEFAULT_TIMEOUT). In the kernel's own words
both are a ppoll; its third argument tells them apart: NULL is no limit. A runc command is in epoll_pwait, and has a timer or none.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from cgrace.harness.diagnose.source import Line

PPOLL = {"271", "73"}  # x86_64; arm64 and riscv64
POLL = {"7"}  # x86_64

_DEBUGGER = re.compile(r"^\s*#\d+\s+(?:0x[0-9a-f]+\s+)?(?:in\s+)?(?P<name>[A-Za-z_][\w.@]*)")
_KERNEL = re.compile(r"^\s*(?:stack: )?\[<[0-9a-fx]+>\] (?P<name>[A-Za-z_][\w.]*)\+0x")
_SYSCALL = re.compile(r"^\s*(?:syscall: )?(?P<number>\d{1,4})(?P<args>(?: 0x[0-9a-f]+){6,8})\s*$")
_WCHAN = re.compile(r"^\s*(?:wchan: )?(?P<name>[a-z_][\w.]*)\s*$")
_STRACE = re.compile(r"\bppoll\(\[.*\], \d+, (?P<limit>NULL|\{tv_sec=\d+)")
# cgrace's own look, in a trace
_TOLD = re.compile(r"^\S+ \d+: p?poll (?P<limit>without limit|.*), on its bus connection")
_TOLD_GO = re.compile(r"^\S+ \d+: .*\b(?P<limit>without limit|for up to)")
EPOLL = {"281", "22"}  # epoll_pwait, x86_64; arm64 and riscv64
GO = ("runc",)
"""Commands written in Go: any of their threads may have the timer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Native:
    """What is known of one program's wait.

    functions: from the innermost out, with the lines that name them. untimed: whether its poll has no limit (None: nobody
    said); untimed_at: the line.
    """

    about: str = ""
    functions: tuple[tuple[str, int], ...] = ()
    untimed: bool | None = None
    untimed_at: int = 0

    def at(self, *names: str) -> int:
        """The line of the innermost function with one of these names; 0 when there is none."""
        return next((number for function, number in self.functions if function.split("@")[0] in names), 0)


def read_native(lines: Iterable[Line], about: str = "") -> Native | None:
    """A stack; None when no line is part of one."""
    if about.split(" ", maxsplit=1)[0] in GO:
        return _read_go(lines, about)
    functions: list[tuple[str, int]] = []
    untimed: bool | None = None
    untimed_at = 0
    for line in lines:
        if found := _DEBUGGER.match(line.text) or _KERNEL.match(line.text):
            functions.append((found["name"], line.number))
        elif found := _SYSCALL.match(line.text):
            limit = _limit(found["number"], found["args"].split())
            if limit is not None:
                untimed, untimed_at = limit, line.number
        elif found := _STRACE.search(line.text):
            untimed, untimed_at = found["limit"] == "NULL", line.number
        elif found := _TOLD.match(line.text):
            untimed, untimed_at = found["limit"] == "without limit", line.number
        elif "poll" in line.text and (found := _WCHAN.match(line.text)):
            functions.append((found["name"], line.number))
    if not functions and untimed is None:
        return None
    return Native(about=about, functions=tuple(functions), untimed=untimed, untimed_at=untimed_at)


def _read_go(lines: Iterable[Line], about: str) -> Native | None:
    """The threads of a Go command: without limit when none of them has one. Its runtime's own look once a minute is no timer."""
    limits: dict[int, bool] = {}
    for line in lines:
        if told := _TOLD_GO.match(line.text):
            limits[line.number] = told["limit"] == "without limit"
        elif (found := _SYSCALL.match(line.text)) and found["number"] in EPOLL:
            limits[line.number] = int(found["args"].split()[3], 16) & 0xFFFFFFFF == 0xFFFFFFFF
    if not limits:
        return None
    untimed = all(limits.values())
    return Native(about=about, untimed=untimed, untimed_at=next(at for at, one in limits.items() if one == untimed))


def _limit(number: str, args: list[str]) -> bool | None:
    """Whether a poll waits without limit; None when the call is no poll."""
    if number in PPOLL:
        return int(args[2], 16) == 0
    if number in POLL:
        return int(args[2], 16) & 0xFFFFFFFF == 0xFFFFFFFF
    return None
