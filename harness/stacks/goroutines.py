"""Go's goroutine dumps as records: the text of runtime.Stack(all=true), and what a Go program prints on SIGQUIT or a panic.

The shapes are those of Go 1.0 to 1.27 (runtime/traceback.go: goroutineheader, traceback, printcreatedby). The parser never
raises: what it cannot read it leaves out, because a dump comes from a program that is already in trouble.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

DUMP_CHARS_MAX = 8 * 1024 * 1024
GOROUTINES_MAX = 20_000
FRAMES_MAX = 400

_HEADER = re.compile(r"^goroutine (?P<id>\d{1,19})(?: gp=\S+)?(?: m=\S+)?(?: mp=\S+)? \[(?P<state>[^\]\n]*)\]:?\s*$")
_CREATED = re.compile(r"^created by (?P<function>\S.*?)(?: in goroutine (?P<id>\d{1,19}))?$")
_FUNCTION = re.compile(r"^(?P<function>[^\s(][^\n]*?)\((?P<args>[^()]*)\)$")
_PLACE = re.compile(r"^\s+(?P<file>\S.*?):(?P<line>\d{1,9})(?: \+0x[0-9a-f]+)?(?: fp=\S+ sp=\S+ pc=\S+)?\s*$")
_MINUTES = re.compile(r"^(?P<minutes>\d{1,9}) minutes?$")
_TYPES = re.compile(r"\[.*\]")
_ADDRESS = re.compile(r"0x[0-9a-f]+")

RUNTIME_PREFIXES = ("runtime.", "runtime/", "sync.", "internal/", "time.Sleep", "syscall.", "golang.org/x/sys/")
"""Packages whose frames only carry out a wait; the first frame outside them is the one that decided to."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Frame:
    """One call. args: its words as printed ("0xc0000b4000", "?", "..."); file as the compiler saw it; line 0 when not printed."""

    function: str
    args: tuple[str, ...] = ()
    file: str = ""
    line: int = 0

    @property
    def name(self) -> str:
        """The function without its package path, receiver and closure marks: "startJob", "Apply"."""
        last = _TYPES.sub("", self.function).rsplit("/", 1)[-1]
        parts = [part for part in re.split(r"[.]", last) if part and not re.fullmatch(r"func\d+|\d+|gowrap\d+", part)]
        return parts[-1].strip("()*") if parts else last

    @property
    def addresses(self) -> tuple[int, ...]:
        """The arguments that are hexadecimal words, as numbers, in order; a word the runtime is unsure of counts too."""
        return tuple(int(found[0], 16) for arg in self.args if (found := _ADDRESS.search(arg)))


@dataclass(frozen=True, slots=True, kw_only=True)
class Goroutine:
    """One goroutine. state: its wait reason in the runtime's words ("chan receive", "sync.Mutex.Lock", "select (no cases)").

    minutes: how long it has been so, as the runtime prints it (0: less than one). locked: tied to a thread. frames: innermost
    first. created_by, created_in: who started it (0: not printed, Go before 1.21). at: the dump's own line of its header, from 1.
    """

    id: int
    state: str
    minutes: int = 0
    locked: bool = False
    notes: tuple[str, ...] = ()
    frames: tuple[Frame, ...] = ()
    created_by: Frame | None = None
    created_in: int = 0
    at: int = field(default=0, compare=False)

    @property
    def blocking(self) -> Frame | None:
        """The first frame outside the runtime, sync and system calls: the code that chose to wait."""
        for frame in self.frames:
            if not frame.function.startswith(RUNTIME_PREFIXES):
                return frame
        return self.frames[0] if self.frames else None

    def inside(self, *needles: str) -> Frame | None:
        """The innermost frame whose function contains one of these."""
        return next((frame for frame in self.frames if any(needle in frame.function for needle in needles)), None)


def _header(line: str, at: int) -> Goroutine | None:
    found = _HEADER.match(line)
    if found is None:
        return None
    state, *rest = [part.strip() for part in found["state"].split(",")]
    minutes, locked, notes = 0, False, []
    for part in rest:
        if counted := _MINUTES.match(part):
            minutes = int(counted["minutes"])
        elif part == "locked to thread":
            locked = True
        elif part:
            notes.append(part)
    return Goroutine(id=int(found["id"]), state=state, minutes=minutes, locked=locked, notes=tuple(notes), at=at)


@dataclass(slots=True)
class _Open:
    """A goroutine being read: its frames so far, and the call whose place is on the next line."""

    head: Goroutine
    frames: list[Frame]
    created: Frame | None = None
    created_in: int = 0
    pending: Frame | None = None
    pending_created: bool = False

    def place(self, file: str, line: int) -> None:
        """Give the pending call its file and line, and put it where it belongs."""
        frame = self.pending
        self.pending = None
        if frame is None:
            return
        frame = Frame(function=frame.function, args=frame.args, file=file, line=line)
        if self.pending_created:
            self.created = frame
        elif len(self.frames) < FRAMES_MAX:
            self.frames.append(frame)

    def close(self) -> Goroutine:
        """The record; a call without a place (an elided one) is kept without."""
        self.place("", 0)
        return Goroutine(
            id=self.head.id,
            state=self.head.state,
            minutes=self.head.minutes,
            locked=self.head.locked,
            notes=self.head.notes,
            frames=tuple(self.frames),
            created_by=self.created,
            created_in=self.created_in,
            at=self.head.at,
        )


def _feed(goroutine: _Open, line: str) -> None:
    """One line below a header."""
    if place := _PLACE.match(line):
        goroutine.place(place["file"], int(place["line"]))
    elif created := _CREATED.match(line):
        goroutine.place("", 0)
        goroutine.pending, goroutine.pending_created = Frame(function=created["function"]), True
        goroutine.created_in = int(created["id"] or 0)
    elif call := _FUNCTION.match(line):
        goroutine.place("", 0)
        args = tuple(arg.strip() for arg in call["args"].split(",") if arg.strip())
        goroutine.pending, goroutine.pending_created = Frame(function=call["function"], args=args), False


def parse(text: str) -> tuple[Goroutine, ...]:
    """Every goroutine of a dump, in its order; () for text that is not a dump. Never raises."""
    done: list[Goroutine] = []
    current: _Open | None = None
    for at, ended in enumerate(text[:DUMP_CHARS_MAX].split("\n"), 1):
        line = ended.removesuffix("\r")
        head = _header(line, at)
        if head is not None:
            if current is not None:
                done.append(current.close())
            if len(done) >= GOROUTINES_MAX:
                return tuple(done)
            current = _Open(head, [])
        elif not line.strip():
            if current is not None:
                done.append(current.close())
            current = None
        elif current is not None:
            _feed(current, line)
    if current is not None:
        done.append(current.close())
    return tuple(done)
