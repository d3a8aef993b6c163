"""What every event is, and the words that several of them use."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import ClassVar

RAW_BYTES_MAX = 4096
"""How much of a message a trace keeps: all of what drivers and systemd say, and the head of what a fault makes huge."""


class Direction(StrEnum):
    """Which way a message goes."""

    TO_SYSTEMD = "to-systemd"
    TO_DRIVER = "to-driver"


class Actor(StrEnum):
    """Who did something to the cgroup tree."""

    DRIVER = "driver"
    SYSTEMD = "systemd"
    WORKLOAD = "workload"
    CGRACE = "cgrace"  # a fault of the scenario, or our own set-up and teardown
    OTHER = "other"


class Grade(StrEnum):
    """How far from what nature does (design.md): ordered natural < legal < impossible."""

    NATURAL = "natural"
    LEGAL = "legal"
    IMPOSSIBLE = "impossible"


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """One thing seen. Subclasses set `KIND`, the word that names them in a stored trace."""

    KIND: ClassVar[str] = ""
