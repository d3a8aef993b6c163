"""What the machine says of one probe's or sequence's units, processes and jobs, in words that are the same every time."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from typing import Any, Final

from cgrace.harness.dbus import systemd1
from cgrace.harness.dbus.message import Variant
from cgrace.harness.validate.machine import Worker

TOP: Final = "t"
INFINITY: Final = 2**64 - 1


class Words(ABC):
    """word: what "t" is on the machine, so that no two meet: "t-a.slice" is its word's "-a.slice". workers: the processes, by the
    names that they go by."""

    def __init__(self, word: str) -> None:
        self.word = word
        self.workers: dict[str, Worker] = {}
        self._jobs: dict[str, str] = {}

    def name(self, unit: str) -> str:
        """The unit's name on the machine: "t-a.scope" becomes "cgracev7-a.scope". Other names are nobody's and stay."""
        if unit != TOP and not unit.startswith((f"{TOP}-", f"{TOP}.")):
            return unit
        return self.word + unit.removeprefix(TOP)

    def slice_path(self, unit: str) -> str:
        """Where a slice's cgroup is on the machine: "t-a.slice" at /t.slice/t-a.slice."""
        words = unit.removesuffix(".slice").split("-")
        return "".join(f"/{self.name('-'.join(words[: count + 1]) + '.slice')}" for count in range(len(words)))

    def plain(self, value: Any) -> Any:
        """A value off the wire as JSON data: own names, pids and job paths put in words."""
        if isinstance(value, Variant):
            return self.plain(value.value)
        if isinstance(value, (list, tuple)):
            return [self.plain(one) for one in value]
        if isinstance(value, dict):
            return {key: self.plain(one) for key, one in sorted(value.items())}
        if isinstance(value, bytes):
            return f"{len(value)} bytes"
        if not isinstance(value, str):
            return "infinity" if value == INFINITY else value
        if value.startswith(systemd1.JOB_PREFIX):
            return self._jobs.setdefault(value, f"job {len(self._jobs) + 1}")
        value = self.plain_names(value)  # first: a number in a name may be a pid, too
        for name, worker in self.workers.items():
            value = re.sub(rf"\b{worker.pid}\b", f"<{name}>", value)
        return value

    @abstractmethod
    def plain_names(self, text: str) -> str:
        """The text with `word` read back, wherever a unit's name, path or cgroup has it."""
