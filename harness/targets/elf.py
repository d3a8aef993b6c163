"""What a dynamic ELF file wants of others: libraries, versions of their symbols, and what it opens by itself. Pure.

Layout and numbers are those of the System V ABI (elf.h) and, for symbol versions, of the Linux Standard Base. What a program
opens by dlopen(3) is told by a note of the UAPI group ("ELF dlopen metadata"): a JSON list with features, priorities and sonames.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final

_PT_DYNAMIC: Final = 2
_PT_LOAD: Final = 1
_PT_NOTE: Final = 4
_DT_NEEDED: Final = 1
_DT_STRTAB: Final = 5
_DT_RPATH: Final = 15
_DT_RUNPATH: Final = 29
_DT_VERDEF: Final = 0x6FFFFFFC
_DT_VERNEED: Final = 0x6FFFFFFE
_NOTE_DLOPEN: Final = (b"FDO\0", 0x407C0C0A)
Text = Callable[[int], str]
_CHAIN_MAX: Final = 10_000  # of version records; a file that is damaged may lead in a circle


@dataclass(frozen=True, slots=True, kw_only=True)
class Elf:
    """machine: e_machine; bits: 32 or 64. needed: sonames; wants: by soname the versions of symbols that it must have; gives: the
    versions that it has itself. paths: of RUNPATH or RPATH. opens: sonames of which it must be able to open one each."""

    machine: int
    bits: int
    needed: tuple[str, ...] = ()
    wants: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    gives: frozenset[str] = frozenset()
    paths: tuple[str, ...] = ()
    opens: tuple[tuple[str, ...], ...] = ()


@dataclass(frozen=True, slots=True)
class _Segment:
    kind: int
    offset: int
    address: int
    size: int


def read_elf(data: bytes) -> Elf | None:
    """None for what is no little-endian ELF file, or one that is damaged."""
    if len(data) < 64 or data[:4] != b"\x7fELF" or data[5] != 1 or data[4] not in (1, 2):
        return None
    try:
        return _read(data)
    except (struct.error, ValueError, IndexError, KeyError):
        return None


def _read(data: bytes) -> Elf:
    wide = data[4] == 2
    (machine,) = struct.unpack_from("<H", data, 18)
    segments = list(_segments(data, wide))
    tags = list(_dynamic(data, segments, wide))
    first = dict(reversed(tags))
    names = _offset(segments, first[_DT_STRTAB]) if _DT_STRTAB in first else 0

    def text(at: int) -> str:
        start = names + at
        return data[start : data.index(b"\0", start)].decode()

    paths = first.get(_DT_RUNPATH, first.get(_DT_RPATH))
    return Elf(
        machine=machine,
        bits=64 if wide else 32,
        needed=tuple(text(value) for tag, value in tags if tag == _DT_NEEDED),
        wants=dict(_wants(data, _offset(segments, first[_DT_VERNEED]), text)) if _DT_VERNEED in first else {},
        gives=frozenset(_gives(data, _offset(segments, first[_DT_VERDEF]), text))
        if _DT_VERDEF in first
        else frozenset(),
        paths=tuple(path for path in text(paths).split(":") if path) if paths is not None else (),
        opens=tuple(_opens(data, segments)),
    )


def _segments(data: bytes, wide: bool) -> Iterator[_Segment]:
    table, size, count = (
        (*struct.unpack_from("<Q", data, 32), *struct.unpack_from("<HH", data, 54))
        if wide
        else (*struct.unpack_from("<I", data, 28), *struct.unpack_from("<HH", data, 42))
    )
    for index in range(count):
        at = table + index * size
        if wide:
            kind, _, offset, address, _, length = struct.unpack_from("<IIQQQQ", data, at)
        else:
            kind, offset, address, _, length = struct.unpack_from("<IIIII", data, at)
        yield _Segment(kind, offset, address, length)


def _offset(segments: list[_Segment], address: int) -> int:
    """Where in the file what is loaded at an address is."""
    for one in segments:
        if one.kind == _PT_LOAD and one.address <= address < one.address + one.size:
            return address - one.address + one.offset
    raise ValueError(f"nothing is loaded at {address:#x}")


def _dynamic(data: bytes, segments: list[_Segment], wide: bool) -> Iterator[tuple[int, int]]:
    form, size = ("<qQ", 16) if wide else ("<iI", 8)
    for one in segments:
        if one.kind != _PT_DYNAMIC:
            continue
        for at in range(one.offset, one.offset + one.size, size):
            tag, value = struct.unpack_from(form, data, at)
            if tag == 0:
                return
            yield tag, value


def _wants(data: bytes, at: int, text: Text) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Elf64_Verneed and its Elf64_Vernaux."""
    for _ in range(_CHAIN_MAX):
        _, count, file, aux, following = struct.unpack_from("<HHIII", data, at)
        versions, inner = [], at + aux
        for _ in range(count):
            _, flags, _, name, step = struct.unpack_from("<IHHII", data, inner)
            if not flags & 2:  # VER_FLG_WEAK: it does without
                versions.append(text(name))
            inner += step
        yield text(file), tuple(versions)
        if not following:
            return
        at += following


def _gives(data: bytes, at: int, text: Text) -> Iterator[str]:
    """Elf64_Verdef and the first Elf64_Verdaux of each, which is its name."""
    for _ in range(_CHAIN_MAX):
        _, _, _, _, _, aux, following = struct.unpack_from("<HHHHIII", data, at)
        (name,) = struct.unpack_from("<I", data, at + aux)
        yield text(name)
        if not following:
            return
        at += following


def _opens(data: bytes, segments: list[_Segment]) -> Iterator[tuple[str, ...]]:
    for one in segments:
        at, end = one.offset, one.offset + one.size
        while one.kind == _PT_NOTE and at + 12 <= end:
            name_size, size, kind = struct.unpack_from("<III", data, at)
            content = at + 12 + (name_size + 3) // 4 * 4
            if (data[at + 12 : at + 12 + name_size], kind) == _NOTE_DLOPEN:
                yield from _required(data[content : content + size])
            at = content + (size + 3) // 4 * 4


def _required(note: bytes) -> Iterator[tuple[str, ...]]:
    for feature in json.loads(note.rstrip(b"\0")):
        if feature.get("priority") == "required":
            yield tuple(str(name) for name in feature.get("soname", ()))
