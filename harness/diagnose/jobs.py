"""What systemd says of its jobs and units: `systemctl list-jobs`, and `systemctl show` of slices and scopes."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from cgrace.harness.diagnose.source import Line

UNITS_MAX = 100_000

_JOB = re.compile(
    r"^\s*(?P<id>\d{1,10})\s+(?P<unit>[^\s]+\.(?:slice|scope|service|socket|target|mount|automount|swap|device|timer|path))"
    r"\s+(?P<type>[a-z-]+)\s+(?P<state>waiting|running)\s*$"
)
_NO_JOBS = re.compile(r"^\s*(?:No jobs(?: running| listed)?\.|0 jobs listed\.)")
_LISTED = re.compile(r"^\s*\d+ jobs listed\.")
_SILENT = re.compile(r"(?i)(?:connection|call|activate service \S*:) ?timed out|^no answer within \d+ s")
_PROPERTY = re.compile(r"^(?P<name>[A-Za-z]+)=(?P<value>.*)$")


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One queued job: "start a.slice", which is waiting or running; at: the line that says so."""

    id: int
    unit: str
    type: str
    state: str
    at: int

    @property
    def of_a_driver(self) -> bool:
        """Whether drivers ask for such jobs: those of slices and scopes."""
        return self.unit.endswith((".slice", ".scope"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Jobs:
    """What `systemctl list-jobs` printed. known: whether it is such a list; silent: the line that says that nobody answered."""

    known: bool = False
    jobs: tuple[Job, ...] = ()
    silent: Line | None = None
    empty: Line | None = None

    @property
    def of_drivers(self) -> tuple[Job, ...]:
        """Jobs of slices and scopes."""
        return tuple(job for job in self.jobs if job.of_a_driver)


def read_jobs(lines: Iterable[Line]) -> Jobs:
    """A list of jobs; `known` is false for what is none."""
    jobs: list[Job] = []
    silent = empty = None
    listed = False
    for line in lines:
        if found := _JOB.match(line.text):
            jobs.append(
                Job(
                    id=int(found["id"]),
                    unit=found["unit"],
                    type=found["type"],
                    state=found["state"],
                    at=line.number,
                )
            )
        elif _NO_JOBS.match(line.text):
            empty = empty or line
        elif _LISTED.match(line.text):
            listed = True
        elif _SILENT.search(line.text):
            silent = silent or line
    return Jobs(known=bool(jobs or empty or listed), jobs=tuple(jobs), silent=silent, empty=empty)


@dataclass(frozen=True, slots=True, kw_only=True)
class Unit:
    """One slice or scope. changed_s: when it last changed its state, in seconds since boot; at: the line of its Id."""

    name: str
    active: str
    changed_s: float
    at: int


def read_units(lines: Iterable[Line]) -> tuple[Unit, ...]:
    """What `systemctl show -p Id,ActiveState,StateChangeTimestampMonotonic` printed, one block a unit."""
    units: list[Unit] = []
    block: dict[str, str] = {}
    at = 0

    def close() -> None:
        stamp = block.get("StateChangeTimestampMonotonic", "")
        if block.get("Id") and stamp.isdecimal() and len(stamp) < 20 and len(units) < UNITS_MAX:
            units.append(Unit(name=block["Id"], active=block.get("ActiveState", ""), changed_s=int(stamp) / 1e6, at=at))
        block.clear()

    for line in lines:
        found = _PROPERTY.match(line.text)
        if found is None or found["name"] in block:
            close()
        if found is not None:
            block[found["name"]] = found["value"].strip()
            at = line.number if found["name"] == "Id" else at
    close()
    return tuple(units)


def uptime_s(lines: Iterable[Line]) -> float | None:
    """How long the machine had been up, from /proc/uptime; None where nobody said."""
    for line in lines:
        if found := re.match(r"^uptime (\d{1,12}(?:\.\d{1,9})?)\b", line.text):
            return float(found[1])
    return None
