"""What a scenario's points, faults and expectations may refer to: its steps, units, workloads, processes and faults."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from cgrace.harness.faults import Match
from cgrace.harness.points import Point, PointKind, PointSyntaxError, parse_point
from cgrace.harness.scenario import words
from cgrace.harness.scenario.place import Place, Section
from cgrace.harness.scenario.shapes import shown
from cgrace.harness.scenario.units import ancestors, cgroup_of, unit_problem

STAGES_STEP = ("called", "returned", "failed", "ended", "waits")

_OF_UNIT = re.compile(r"^(?P<before>(?:cgroup (?:made|removed): |process moved: \S+ to |driver opens: )?)(?P<hierarchy>[\w,=.-]+) of (?P<unit>\S+)$")  # fmt: skip  # noqa: E501
_MESSAGES = re.compile(r"^(?P<reply>reply to )?(?P<member>[A-Za-z]\w*)(?: of (?P<unit>\S+))?$")
_STEP_LIKE = re.compile(r"^(?:step )?(?P<step>[\w-]+) (?P<stage>\w+)$")


@dataclass(frozen=True, slots=True, kw_only=True)
class Names:
    """Everything that has a name in one scenario. units: each unit that is named or above one, with its parent."""

    steps: tuple[str, ...]
    workloads: tuple[str, ...]
    processes: tuple[str, ...]
    faults: tuple[str, ...]
    units: Mapping[str, str] = field(default_factory=dict)

    def point(self, text: str, place: Place) -> Point | None:
        """A point whose every name exists; otherwise None and a problem."""
        named = _OF_UNIT.fullmatch(text.strip())
        if named and named["before"] and not self.unit(named["unit"], place):
            return None
        try:
            point = parse_point(self._expanded(text, place))
        except PointSyntaxError as error:
            place.problem(str(error).partition(";")[0], self._point_hint(text))
            return None
        return point if self._known(point, place) else None

    def points(self, section: Section, key: str) -> tuple[Point, ...]:
        """The points of a key that takes one or a list."""
        texts, place = section.get(key, ()), section.at(key)
        single = (*place.path, 0) not in place.source.lines
        found = (self.point(text, place if single else place.at(number)) for number, text in enumerate(texts))
        return tuple(point for point in found if point is not None)

    def match(self, section: Section, verb: str) -> Match | None:
        """The messages that a fault's verb names."""
        text, place = section.get(verb), section.at(verb)
        found = _MESSAGES.fullmatch(text.strip())
        if found is None:
            counted = " nth " in text or text.rstrip().endswith(("seen", "sent", "delivered"))
            hint = (
                "give nth = ... as a key of its own, and no stage"
                if counted
                else "write 'JobRemoved of cgrace-a.slice'"
            )
            place.problem(f"{shown(text)} names no messages; expected '[reply to ]<Member>[ of <unit>]'", hint)
            return None
        member, unit = found["member"], found["unit"] or ""
        if not self._member(member, bool(found["reply"]), place) or (unit and not self.unit(unit, place)):
            return None
        nth = section.get("nth", 1)
        return Match(
            text=text.strip(),
            kind="answer" if found["reply"] else "signal" if member in words.SIGNALS else "call",
            member=member,
            unit=unit,
            nth=None if nth == "every" else nth,
            probe=section.get("phase") == "probe",
        )

    def cgroup(self, text: str, place: Place) -> tuple[str, str] | None:
        """(hierarchy, path) of "devices of cgrace-a.slice" or "devices/cgrace.slice/x"."""
        named = _OF_UNIT.fullmatch(text.strip())
        if named and not (self._hierarchy(named["hierarchy"], "/", place) and self.unit(named["unit"], place)):
            return None
        hierarchy, slash, path = self._expanded(text, place).partition("/")
        if not slash or " " in hierarchy:
            place.problem(
                f"{shown(text)} is not a cgroup; expected '<hierarchy> of <unit>' or '<hierarchy>/<path>'",
                "write 'devices of cgrace-a.slice'",
            )
            return None
        return (hierarchy, "/" + path) if self._hierarchy(hierarchy, "/" + path, place) else None

    def group(self, text: str, place: Place) -> str | None:
        """The path, the same in every hierarchy, of a unit or of "/cgrace.slice/x"."""
        if text.startswith("/"):
            return text if self._safe(text, place) else None
        return self.path_of(text) if self.unit(text, place) else None

    def path_of(self, unit: str) -> str:
        """The cgroup of a known unit."""
        return cgroup_of(unit, self.units.get(unit, ""))

    def unit(self, name: str, place: Place) -> bool:
        """Whether the unit is one of this scenario; else a problem."""
        return _one_of(name, tuple(self.units), "unit", place, why=unit_problem(name))

    def step(self, name: str, place: Place) -> bool:
        """Whether there is such a step; else a problem."""
        return _one_of(name, self.steps, "step", place)

    def workload(self, name: str, place: Place) -> bool:
        """Whether there is such a workload; else a problem."""
        return _one_of(name, self.workloads, "workload", place, hint="workloads are what steps name as their pid")

    def peer(self, name: str, place: Place) -> bool:
        """Whether there is such a peer; else a problem."""
        return _one_of(name, (*words.PEERS, *self.processes, *self.workloads), "peer", place)

    def _expanded(self, text: str, place: Place) -> str:
        """The text with "devices of cgrace-a.slice" as the path that it means."""
        found = _OF_UNIT.fullmatch(text.strip())
        if found and (found["before"] or found["hierarchy"] in words.HIERARCHIES) and found["unit"] in self.units:
            return f"{found['before']}{found['hierarchy']}{self.path_of(found['unit'])}"
        return text.strip()

    def _known(self, point: Point, place: Place) -> bool:
        match point.kind:
            case PointKind.STEP:
                return self.step(point.subject, place)
            case PointKind.JOB:
                return self.unit(point.subject, place)
            case PointKind.MESSAGE | PointKind.REPLY:
                member = self._member(point.member, point.kind is PointKind.REPLY, place)
                return member and (not point.subject or self.unit(point.subject, place))
            case PointKind.FAULT:
                hint = "give the fault an id"
                return _one_of(point.subject, self.faults, "fault with the id", place, hint=hint)
            case PointKind.CGROUP | PointKind.MOVED | PointKind.OPENS:
                moved = point.kind is PointKind.MOVED
                if moved and not _one_of(point.member, (*self.workloads, *self.processes), "workload", place):
                    return False
                hierarchy, _, path = point.subject.partition("/")
                return self._hierarchy(hierarchy, "/" + path, place)
            case PointKind.READY | PointKind.CLOSES:
                return True

    def _member(self, member: str, reply: bool, place: Place) -> bool:
        known = words.CALLS if reply else (*words.CALLS, *words.SIGNALS)
        return _one_of(member, known, "call" if reply else "call or signal", place)

    def _hierarchy(self, hierarchy: str, path: str, place: Place) -> bool:
        return _one_of(hierarchy, words.HIERARCHIES, "hierarchy", place) and self._safe(path, place)

    def _safe(self, path: str, place: Place) -> bool:
        if {"", ".", ".."} & set(path.removeprefix("/").split("/")) and path != "/":
            place.problem(f"{shown(path)} is not a cgroup's path: it has an empty part, '.' or '..'")
            return False
        return True

    def _point_hint(self, text: str) -> str:
        found = _STEP_LIKE.fullmatch(text.strip())
        if found and found["step"] in self.steps:
            near = words.closest(found["stage"], STAGES_STEP)
            return f"after a step's name comes {words.listed(STAGES_STEP)}" + (f"; '{near}'?" if near else "")
        return (
            "write '<step> called|returned|failed|ended|waits', '<Member> of <unit> seen|sent|delivered', "
            "'reply to <Member> of <unit>', 'job of <unit> queued|blocked|started|ended', "
            "'cgroup made|removed: <hierarchy> of <unit>', 'process moved: <workload> to <hierarchy> of <unit>', "
            "'driver opens: <hierarchy> of <unit>', 'driver closes: calls|signals', 'fault <id> fired' or 'driver ready'"
        )


def units_of(named: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Every (unit, parent) of the steps, and the slices above them."""
    units = dict(named)
    for unit, parent in tuple(units.items()):
        for above in (parent, *ancestors(parent), *(ancestors(unit) if unit.endswith(".slice") else ())):
            units.setdefault(above, "")
    return units


def _one_of(name: str, known: tuple[str, ...], what: str, place: Place, *, why: str = "", hint: str = "") -> bool:
    if name in known:
        return True
    near = words.closest(name, known)
    there = f"there {'are' if len(known) > 1 else 'is'} {words.listed(known, 'and')}" if known else "there is none"
    if len(there) > 160:
        there = "see scenarios/README.md"
    place.problem(f"no {what} {shown(name)}: {why or there}", f"did you mean '{near}'?" if near else hint)
    return False
