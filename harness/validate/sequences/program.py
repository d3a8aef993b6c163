"""A sequence as data: acts in moments, and the text that a person reads. Pure.

Between two moments everything comes to rest; the calls of one moment are on the wire one behind the other. Units are named as
probes name theirs (stage.py): "t-a.scope", "t-x.slice" below "t.slice". Processes are "w1", "w2" ...; "s1" ignores SIGTERM.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Final

CALLS: Final = {
    "start": "StartTransientUnit",
    "start-unit": "StartUnit",
    "stop": "StopUnit",
    "reset": "ResetFailedUnit",
    "kill-unit": "KillUnit",
    "set": "SetUnitProperties",
    "get-unit": "GetUnit",
    "load-unit": "LoadUnit",
    "unit-of": "GetUnitByPID",
    "ref": "RefUnit",
    "unref": "UnrefUnit",
    "attach": "AttachProcessesToUnit",
    "freeze": "FreezeUnit",
    "thaw": "ThawUnit",
    "get": "Properties.Get",
}
DEEDS: Final = ("end", "mkdir", "rmdir", "move")
"""What is done without the bus: a process ends, somebody makes or removes a cgroup, somebody moves a process."""

Property = tuple[str, str, Any]
"""Name, D-Bus signature, value; a process stands there by its name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Act:
    """One call or deed. do: a key of CALLS, or one of DEEDS. unit: whom it is about. by: which of the connections calls.

    args: for a call what stands between the unit and the properties; for "mkdir" and "move" the path below the unit, for "move"
    and "end" also the process.
    """

    do: str
    unit: str = ""
    args: tuple[Any, ...] = ()
    properties: tuple[Property, ...] = ()
    by: int = 0

    def __str__(self) -> str:
        given = [f"{name}={_word(signature, value)}" for name, signature, value in self.properties]
        words = [CALLS.get(self.do, self.do), self.unit or "''", *(str(one) for one in self.args), *given]
        return " ".join(words) + (f"   (connection {self.by + 1})" if self.by else "")


def _word(signature: str, value: Any) -> str:
    text = repr(value).replace(" ", "").replace("'", "")
    return text if signature in ("b", "s", "as", "au", "t") else f"{signature}:{text}"


Moment = tuple[Act, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Program:
    """A sequence. subscribed: somebody else has called Subscribe, so that systemd tells of everything. number: of the sequence that
    was drawn, which what is left of it keeps; None for none."""

    moments: tuple[Moment, ...]
    subscribed: bool = False
    number: int | None = field(default=None, compare=False)

    def __str__(self) -> str:
        lines = ["somebody is subscribed"] if self.subscribed else []
        for number, moment in enumerate(self.moments, 1):
            for place, act in enumerate(moment):
                lines.append(f"{number if not place else '':>2}  {act}{'  +' if place + 1 < len(moment) else ''}")
        return "\n".join(lines)

    @property
    def acts(self) -> Iterator[Act]:
        """Every act, in order."""
        for moment in self.moments:
            yield from moment

    @property
    def workers(self) -> tuple[str, ...]:
        """The processes that it speaks of."""
        found: dict[str, None] = {}
        for act in self.acts:
            for one in (act.unit, *act.args, *(value for _, _, value in act.properties)):
                for name in one if isinstance(one, (list, tuple)) else [one]:
                    if is_worker(name):
                        found[name] = None
        return tuple(found)

    @property
    def units(self) -> tuple[str, ...]:
        """The units of its own that it speaks of."""
        return tuple(dict.fromkeys(act.unit for act in self.acts if act.unit.startswith("t-")))


def is_worker(value: Any) -> bool:
    """Whether this is a process's name."""
    return isinstance(value, str) and len(value) == 2 and value[0] in "ws" and value[1].isdigit()
