"""Text from a trace, made harmless for whoever shows it: terminals, pages, files. Pure.

A trace may come from a stranger, and unit names, stderr lines and error texts are whatever somebody wrote. What a terminal or a
text layout would obey is replaced by a visible stand-in, so that a reader also sees that it was there.
"""

from __future__ import annotations

import re

_TABLE = {code: chr(0x2400 + code) for code in range(0x20) if chr(code) not in "\n\t"}
_TABLE[0x7F] = "\u2421"
_OBEYED = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff\u200e\u200f\u202a-\u202e\u2066-\u2069\u2028\u2029\ufeff]"
)


def inert(text: str) -> str:
    """The text with control characters, direction overrides and lone surrogates shown as pictures or as U+XXXX."""
    return text if text.isascii() and text.isprintable() else _OBEYED.sub(_stand_in, text)


def inert_line(text: str) -> str:
    """As `inert`, on one line: line ends and tabs become spaces."""
    if text.isascii() and text.isprintable() and "  " not in text:
        return text.strip()
    return " ".join(inert(text).split())


def _stand_in(found: re.Match[str]) -> str:
    code = ord(found[0])
    return _TABLE.get(code, f"<U+{code:04X}>")
