"""What people hand in, as plain lines that remember where they came from: logs, JSON, escapes and quotes around a dump removed.

A dump reaches us through journald, syslog, a container's log, an issue or `cgrace collect`. Every line keeps its number in the
file, for evidence. Nothing here raises on odd text: what is not understood stays as it is.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

CHARS_MAX = 64 * 1024 * 1024
LINE_CHARS_MAX = 64 * 1024
EXPANDED_LINES_MAX = 200_000

SECTION = re.compile(r"^=== cgrace: (?P<name>[a-z]+)(?: (?P<about>[^=\n]{1,200}?))? ===$")
"""The head of a part of what `cgrace collect` prints, such as `=== cgrace: goroutines kubelet 812 ===`."""

_HEADER = re.compile(r"goroutine \d{1,19}(?: gp=\S+)?(?: m=\S+)?(?: mp=\S+)? \[[^\]\n]*\]")
_CALL = re.compile(r"^\S.*\)$")
_ANSI = re.compile(r"\x1b\[[0-9;?]*[ -/]*[@-~]")
_STAMP = r"(?:[A-Z][a-z]{2} +\d{1,2} \d\d:\d\d:\d\d(?:\.\d+)?|\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(?:[.,]\d+)?(?:Z| ?[+-]\d\d:?\d\d)?)"
_PREFIXES = tuple(
    re.compile(pattern)
    for pattern in (
        rf"^(?:<\d+>)?{_STAMP} \S+ (?P<who>[^\s\[\]:]+(?:\[\d+\])?): ?",  # journalctl, syslog
        r"^\[ *\d+\.\d+\] \S+ (?P<who>[^\s\[\]:]+\[\d+\]): ?",  # journalctl -o short-monotonic
        rf"^{_STAMP} (?P<who>stdout|stderr) [FP] ",  # a container's log as the CRI writes it
        rf"^(?P<who>){_STAMP}[ \t]",  # kubectl logs --timestamps
        r"^(?P<who>)[IWEF]\d{4} \d\d:\d\d:\d\d\.\d+(?: +\d+ \S+:\d+)?\] ",  # klog
        r"^(?P<who>[\w.-]+) +\| ",  # docker compose
        r"^(?P<who>)(?:> ?)+",  # a quote
        r"^(?P<who>) *\d+(?:[:-]|\t)",  # grep -n, cat -n
    )
)
_KEYS = ("MESSAGE", "log", "message", "msg")  # journalctl -o json; docker's json-file; logging libraries
_ESCAPED = re.compile(r"\\([ntr\"\\])")
_PLAIN = {"n": "\n", "t": "\t", "r": "", '"': '"', "\\": "\\"}


@dataclass(frozen=True, slots=True)
class Line:
    """One line without what was wrapped around it; number: where it is in the file, from 1."""

    number: int
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """A part of the input. name: "" for what stands before any head; about: what its head says more, such as "kubelet 812"."""

    name: str
    about: str
    lines: tuple[Line, ...]

    @property
    def text(self) -> str:
        """The lines as one text; its n-th line is lines[n - 1]."""
        return "\n".join(line.text for line in self.lines)


def read(raw: str) -> tuple[Section, ...]:
    """The parts of an input, each with what a log wrapped around it taken off."""
    numbered = [Line(i, _tame(text)) for i, text in enumerate(raw[:CHARS_MAX].split("\n"), 1)]
    return tuple(
        Section(name=name, about=about, lines=tuple(_unwrap(lines))) for name, about, lines in _sections(numbered)
    )


def _tame(text: str) -> str:
    """Without colours, carriage returns and the tail of absurdly long lines."""
    text = text[:LINE_CHARS_MAX].removesuffix("\r")
    return (_ANSI.sub("", text) if "\x1b" in text else text).replace("\x00", "")


def _sections(lines: Iterable[Line]) -> Iterator[tuple[str, str, list[Line]]]:
    name, about, body = "", "", list[Line]()
    for line in lines:
        if (head := SECTION.match(line.text)) is None:
            body.append(line)
            continue
        if body or name:
            yield name, about, body
        name, about, body = head["name"], head["about"] or "", []
    yield name, about, body


def _unwrap(lines: list[Line]) -> list[Line]:
    """Lines as the program wrote them; other programs' lines in the same log become "..."."""
    lines = [plain for line in lines for plain in _expand(line)][:EXPANDED_LINES_MAX]
    for _ in range(3):  # a journal around a container's log around a quote
        peeled = _peel(lines)
        if peeled is None:
            break
        lines = peeled
    tabbed = [Line(line.number, line.text.replace("#011", "\t")) if "#011" in line.text else line for line in lines]
    return tabbed[::-1] if _is_upside_down(tabbed) else tabbed


def _is_upside_down(lines: list[Line]) -> bool:
    """Whether calls stand above their goroutine's header, as `journalctl -r` shows them, and none below it."""
    heads = [at for at, line in enumerate(lines) if _HEADER.match(line.text)]
    above = sum(at > 0 and _CALL.match(lines[at - 1].text) is not None for at in heads)
    below = sum(at + 1 < len(lines) and _CALL.match(lines[at + 1].text) is not None for at in heads)
    return above > below


def _expand(line: Line) -> Iterator[Line]:
    """One line, or the many that were put into it: as a JSON record, or as an escaped string (logrus around a whole dump)."""
    text = line.text
    if text.startswith("{") and text.rstrip().endswith("}"):
        try:
            record = json.loads(text)
        except (ValueError, RecursionError):
            record = None
        for key in _KEYS if isinstance(record, dict) else ():
            value = record.get(key)
            if isinstance(value, list) and all(isinstance(byte, int) and 0 <= byte < 256 for byte in value):
                value = bytes(value).decode("utf-8", "replace")  # journalctl's way with what is not plain text
            if isinstance(value, str):
                text = value.removesuffix("\n")
                break
    if "\\n" in text and _HEADER.search(text):
        text = _ESCAPED.sub(lambda found: _PLAIN[found[1]], text)
        if (at := _HEADER.search(text)) is not None and at.start():  # gone where the escape was in the header itself
            text = f"{text[: at.start()]}\n{text[at.start() :]}"
    for part in text.split("\n"):
        yield Line(line.number, part)


def _peel(lines: list[Line]) -> list[Line] | None:
    """Take one layer of prefixes off; None when the headers of goroutines have none."""
    wrapped = [line.text for line in lines if (found := _HEADER.search(line.text)) and found.start() > 0]
    if not wrapped:
        return None
    for pattern in _PREFIXES:
        matched = [found for text in wrapped if (found := pattern.match(text))]
        if 2 * len(matched) > len(wrapped):
            return [_peeled(line, pattern, Counter(found["who"] for found in matched)) for line in lines]
    common = Counter(text[: found.start()] for text in wrapped if (found := _HEADER.search(text)))
    prefix, _ = common.most_common(1)[0]
    return [Line(line.number, line.text.removeprefix(prefix)) for line in lines]


def _peeled(line: Line, pattern: re.Pattern[str], whose: Counter[str]) -> Line:
    """A line without its prefix; one that another program wrote must not end a goroutine, so it is "..." and not empty."""
    found = pattern.match(line.text)
    if found is None:
        return line
    if found["who"] in whose:
        return Line(line.number, line.text[found.end() :])
    return Line(line.number, "...")
