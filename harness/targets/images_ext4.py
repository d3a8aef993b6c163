"""Gives every inode of an ext4 image the same times. mke2fs copies a folder's, and of those the kernel alone decides one: ctime.

Only for an image without checksums of its metadata. Source of the layout: Documentation/filesystems/ext4 of Linux (super.rst,
group_descr.rst, inodes.rst).
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Final

from cgrace.harness.errors import TargetError

_SUPER: Final = 1024
_MAGIC: Final = 0xEF53
_CHECKSUMS: Final = 0x400  # RO_COMPAT_METADATA_CSUM
_WIDE: Final = 0x80  # INCOMPAT_64BIT
_TIMES: Final = 8  # atime, ctime, mtime: three words; behind the mode, the owner and the size
_MORE_TIMES: Final = 0x84  # ctime_extra, mtime_extra, atime_extra


def settle_times(disk: Path, when: int) -> None:
    """Set atime, ctime and mtime (seconds since 1970) of every inode that is in use."""
    with disk.open("r+b") as file:
        file.seek(_SUPER)
        data = file.read(1024)
        inodes, blocks, _, _, _, first, log_size, _, per_group, _, inodes_per_group = struct.unpack_from("<11I", data)
        (magic,) = struct.unpack_from("<H", data, 0x38)
        (inode_size,) = struct.unpack_from("<H", data, 0x58)
        incompatible, read_only = struct.unpack_from("<II", data, 0x60)
        if magic != _MAGIC or read_only & _CHECKSUMS:
            raise TargetError(f"{disk.name} is no ext4 without checksums, as mke2fs was told to make it")
        size = 1024 << log_size
        width = struct.unpack_from("<H", data, 0xFE)[0] if incompatible & _WIDE else 32
        groups = -(-(blocks - first) // per_group)
        file.seek((first + 1) * size)
        descriptors = file.read(groups * width)
        for group in range(groups):
            (low,) = struct.unpack_from("<I", descriptors, group * width + 8)
            high = struct.unpack_from("<I", descriptors, group * width + 0x28)[0] if width > 32 else 0
            place = (high << 32 | low) * size
            file.seek(place)
            table = bytearray(file.read(min(inodes_per_group, inodes - group * inodes_per_group) * inode_size))
            if _settle(table, inode_size, when):
                file.seek(place)
                file.write(table)


def _settle(table: bytearray, inode_size: int, when: int) -> bool:
    """Whether anything is in use in this table, whose inodes then have the time."""
    if not any(table):
        return False
    for start in range(0, len(table), inode_size):
        if struct.unpack_from("<H", table, start)[0]:  # its mode
            struct.pack_into("<3I", table, start + _TIMES, when, when, when)
            if inode_size > _MORE_TIMES + 12:
                struct.pack_into("<3I", table, start + _MORE_TIMES, 0, 0, 0)
    return True
