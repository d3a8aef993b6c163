"""What a probe is, and how one is written down."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

from cgrace.harness.validate.stage import Answer, Stage

Ask = Callable[[Stage], Awaitable[Answer]]

# The generations of drivers that probes speak of (harness/drivers/catalogue.py), and other programs that do the same.
LADDER: Final = ("rc4", "async", "wait-forever", "timeout", "err-nil", "err-nil-delegate", "buffered")
WAITING: Final = LADDER[2:]
LATER: Final = ("today", "containerd", "crun")
EVERY: Final = LADDER + LATER


def driving(drivers: Iterable[str], layout: str) -> tuple[str, ...]:
    """Those of the drivers that drive cgroups of that layout: the ladder is older than cgroup v2's systemd driver."""
    return tuple(one for one in drivers if layout != "v2" or one not in LADDER)


class Kind(StrEnum):
    """contract: promised by a man page or the D-Bus interface's own description. habit: how it is done, promised nowhere."""

    CONTRACT = "contract"
    HABIT = "habit"


@dataclass(frozen=True, slots=True, kw_only=True)
class Probe:
    """One small question to a systemd.

    id: "start.exists.active"; source: man page and section, or systemd file and function; relied_on: drivers by generation that
    go wrong where the answer changes, () for none; scenarios: patterns of scenarios' names that it touches. layouts: those in
    which it can be asked; needs: controllers without which it cannot. tree: the answer is about cgroups, so that it depends on
    which hierarchies the machine has.
    """

    id: str
    question: str
    kind: Kind
    source: str
    ask: Ask
    relied_on: tuple[str, ...] = ()
    scenarios: tuple[str, ...] = ()
    layouts: tuple[str, ...] = ("v1", "v2")
    needs: tuple[str, ...] = ()
    tree: bool = False

    @property
    def cites(self) -> str:
        """The source, or who relies on it although nothing says so."""
        if self.kind is Kind.CONTRACT:
            return self.source
        who = f"relied on by {', '.join(self.relied_on)}" if self.relied_on else "relied on by no driver here"
        return f"{self.source}; undocumented, {who}"


_ID: Final = re.compile(r"[A-Za-z0-9]+([._-][A-Za-z0-9]+)*")


class Probes:
    """All probes, in the order in which they were written down."""

    def __init__(self) -> None:
        self._by_id: dict[str, Probe] = {}

    def add(self, probe: Probe) -> None:
        """One more. Its id must be new."""
        assert _ID.fullmatch(probe.id), probe.id
        assert probe.id not in self._by_id, probe.id
        self._by_id[probe.id] = probe

    def all(self) -> tuple[Probe, ...]:
        """Every probe."""
        return tuple(self._by_id.values())


PROBES: Final = Probes()


class Subject:
    """Probes of one subject: their ids begin with it, and what they have in common is said once.

    `contract` and `habit` register the decorated function as a probe; keywords are fields of Probe and win over the subject's.
    """

    def __init__(self, name: str, source: str, **common: Any) -> None:
        self._name = name
        self._common = {"source": source, **common}

    def contract(self, name: str, question: str, **more: Any) -> Callable[[Ask], Ask]:
        """A probe of what is promised."""
        return self._register(name, question, Kind.CONTRACT, more)

    def habit(self, name: str, question: str, **more: Any) -> Callable[[Ask], Ask]:
        """A probe of how it is done."""
        return self._register(name, question, Kind.HABIT, more)

    def _register(self, name: str, question: str, kind: Kind, more: dict[str, Any]) -> Callable[[Ask], Ask]:
        def register(ask: Ask) -> Ask:
            fields = {
                "id": f"{self._name}.{name}",
                "question": question,
                "kind": kind,
                "ask": ask,
                **self._common,
                **more,
            }
            PROBES.add(Probe(**fields))
            return ask

        return register
