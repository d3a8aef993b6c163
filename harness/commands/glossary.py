"""The words of cgrace (glossary.toml): each explained in three sentences, with the upstream issue where there is one."""

from __future__ import annotations

import functools
import tomllib
from dataclasses import dataclass
from pathlib import Path

_FILE = Path(__file__).parent / "glossary.toml"
KINDS = ("invariant", "outcome", "verdict", "grade", "cell", "word", "fault", "point", "generation")


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One word. text: three sentences. see: another word that says more, "" for none. issue: such as "opencontainers/runc#1780"."""

    word: str
    kind: str
    text: str
    issue: str = ""
    see: str = ""


@functools.cache
def glossary() -> dict[str, Entry]:
    """Every word, in the order of its kind and of the file."""
    with _FILE.open("rb") as file:
        table = tomllib.load(file)
    found = [Entry(word=word, **{**about, "text": " ".join(about["text"].split())}) for word, about in table.items()]
    return {entry.word: entry for entry in sorted(found, key=lambda entry: KINDS.index(entry.kind))}


def look_up(text: str) -> Entry | None:
    """The entry of a word, however it is written: "HANG", "hang", "no-deadlock", "SLOW 30s", "HANG!"."""
    words = glossary()
    if text in words:
        return words[text]
    plain = " ".join(text.replace("-", " ").replace("_", " ").lower().rstrip("!").split())
    by_plain = {word.replace("-", " ").replace("_", " ").lower(): entry for word, entry in words.items()}
    if not plain:
        return None
    return by_plain.get(plain) or (by_plain["slow"] if plain.startswith("slow ") else None)
