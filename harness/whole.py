"""Files that are written whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path


def write_whole(path: Path, data: str | bytes) -> None:
    """Write a file, a text in UTF-8; what was there before is replaced at once. OSError where it cannot be written."""
    fresh = path.with_name(f".{path.name[:100]}-{os.getpid()}")
    try:
        fresh.write_bytes(data.encode("utf-8") if isinstance(data, str) else data)
        fresh.replace(path)
    finally:
        fresh.unlink(missing_ok=True)
