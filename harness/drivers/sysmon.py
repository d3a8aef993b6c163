"""Where the Go runtime's sysmon sleeps: the address of runtime.sched.sysmonnote in an unstripped, statically linked binary.

sysmon is a thread of every Go process that sleeps on a timed futex of its own and is no progress of the program's. The note's
address is the symbol runtime.sched (symbol table) plus the field's offset (debug information), where Go's linker writes a
field as its name, a zero byte and the offset as ULEB128 (cmd/internal/dwarf, the abbreviation of struct fields: DW_FORM_string,
then DW_FORM_udata). Every occurrence must say the same and lie inside the symbol, else the answer is None.
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass
from pathlib import Path

_FIELD = b"sysmonnote\0"
_NOTE_BYTES = 8  # a note is one uintptr (runtime2.go)
_SHF_COMPRESSED = 0x800
_ELFCOMPRESS_ZLIB = 1


@dataclass(frozen=True, slots=True)
class _Section:
    flags: int
    offset: int
    size: int
    link: int


def sysmon_note(binary: Path) -> tuple[int, int] | None:
    """(start, end) of the note in the process's memory, or None where it cannot be known for certain."""
    try:
        image = binary.read_bytes()
        sections = _sections(image)
        start, size = _symbol(image, sections, b"runtime.sched")
        offset = _field_offset(_content(image, sections[b".debug_info"]))
    except (OSError, LookupError, ValueError, struct.error, zlib.error):
        return None
    if offset is None or offset + _NOTE_BYTES > size:
        return None
    return start + offset, start + offset + _NOTE_BYTES


def _sections(image: bytes) -> dict[bytes, _Section]:
    """The sections of a little-endian 64-bit ELF file by name."""
    if image[:6] != b"\x7fELF\x02\x01":
        raise ValueError("not a little-endian 64-bit ELF file")
    (table,) = struct.unpack_from("<Q", image, 0x28)
    entry, count, names_at = struct.unpack_from("<HHH", image, 0x3A)
    raw = []
    for index in range(count):
        name, _, flags, _, offset, size, link = struct.unpack_from("<IIQQQQI", image, table + index * entry)
        raw.append((name, _Section(flags, offset, size, link)))
    names = raw[names_at][1].offset
    found = {image[names + name : image.index(b"\0", names + name)]: section for name, section in raw}
    found[b"*strings of symbols"] = raw[found[b".symtab"].link][1]
    return found


def _symbol(image: bytes, sections: dict[bytes, _Section], wanted: bytes) -> tuple[int, int]:
    """(address, size) of a symbol."""
    table, strings = sections[b".symtab"], sections[b"*strings of symbols"]
    text = image[strings.offset : strings.offset + strings.size]
    name_at = text.index(b"\0" + wanted + b"\0") + 1
    for name, _, _, _, value, size in struct.iter_unpack("<IBBHQQ", image[table.offset : table.offset + table.size]):
        if name == name_at:
            return value, size
    raise LookupError(wanted)


def _content(image: bytes, section: _Section) -> bytes:
    raw = image[section.offset : section.offset + section.size]
    if not section.flags & _SHF_COMPRESSED:
        return raw
    kind, _, _, _ = struct.unpack_from("<IIQQ", raw)
    if kind != _ELFCOMPRESS_ZLIB:
        raise ValueError("compressed in a way that Go's linker does not")
    return zlib.decompress(raw[24:])


def _field_offset(debug_info: bytes) -> int | None:
    found = set()
    at = debug_info.find(_FIELD)
    while at >= 0:
        value, shift, index = 0, 0, at + len(_FIELD)
        while True:
            byte = debug_info[index]
            value |= (byte & 0x7F) << shift
            shift, index = shift + 7, index + 1
            if not byte & 0x80:
                break
        found.add(value)
        at = debug_info.find(_FIELD, at + 1)
    return found.pop() if len(found) == 1 else None
