"""A scenario as values. The parser (parse.py) makes them; everything after it trusts them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cgrace.harness.faults import Fault, Order
from cgrace.harness.points import Point
from cgrace.harness.scenario import releases
from cgrace.harness.scenario.records import decode, encode
from cgrace.harness.scenario.words import EVERY_DRIVER
from cgrace.harness.verdict import Invariant


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """Where a scenario makes sense: a systemd profile ("219-rhel7.4"; real targets compare versions) and "v1" or "v2".

    `rung` picks which cut of the ladder runs here: "rc5" (the default), or "rc6" where systemd refuses Delegate on slices.
    """

    profile: str
    layout: str = "v1"
    rung: str = "rc5"


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One operation asked of a driver.

    do: apply | exec | set | freeze | thaw | destroy | exists | paths | pids. unit: "x.slice", "prefix-name.scope". parent: the
    slice that it goes below (derived from a slice's name when not given; "-.slice" for a top-level slice; for a scope
    "system.slice"). workload: the named process to place ("" for pid -1). process: which driver process ("driver").
    after: points that must have been reached before it is called (default: the previous step of the same process ended;
    given `after = []`: at once). fresh: a new manager object, as the kubelet does. bound_ns: the step's latency bound.
    may_fail: an error is as good an end as success (nothing else is forgiven, and an expected error is still expected).
    """

    id: str
    do: str
    unit: str
    parent: str
    workload: str = ""
    process: str = "driver"
    after: tuple[Point, ...] = ()
    fresh: bool = True
    may_fail: bool = False
    resources: tuple[tuple[str, int | str], ...] = ()
    delegate: bool | None = None
    bound_ns: int | None = None
    line: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Expect:
    """Which generations violate what. violated: (invariant, subject); failed: steps that end with an error, text part.

    The generation "any" is every driver, a user's own too. releases: ranges ("runc 1.0.0-rc93..1.1.5", see releases.py) of
    released drivers that it is about as well. profiles, rungs, layouts: only in these settings (empty: in all).
    """

    generations: tuple[str, ...] = ()
    releases: tuple[str, ...] = ()
    violated: tuple[tuple[Invariant, str], ...] = ()
    failed: tuple[tuple[str, str], ...] = ()
    profiles: tuple[str, ...] = ()
    rungs: tuple[str, ...] = ()
    layouts: tuple[str, ...] = ()
    note: str = ""
    line: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """A whole file.

    rows: the story's rows that it serves. drivers: names of drivers that it can run on, or "!" and a driver or generation that
    it cannot (empty: every one that fits the setting). bound_ns: the latency bound of steps that have none of their own.
    patience_ns: how long at most a driver's own timed wait is waited out when nothing else can happen (longer: the run ends
    and the trace says so).
    """

    file: Path
    name: str
    title: str
    issue: str = ""
    mechanism: str = ""
    rows: tuple[str, ...] = ()
    settings: tuple[Setting, ...]
    workloads: tuple[str, ...] = ()
    processes: tuple[str, ...] = ("driver",)
    steps: tuple[Step, ...]
    faults: tuple[Fault, ...] = ()
    orders: tuple[Order, ...] = ()
    expect: tuple[Expect, ...] = ()
    drivers: tuple[str, ...] = ()
    markers: tuple[str, ...] = ()
    bound_ns: int = 500_000_000
    patience_ns: int = 3_000_000_000
    wall_ns: int = 30_000_000_000

    def expected(self, generation: str, setting: Setting, release: str = "") -> tuple[Expect, ...]:
        """The expectations that apply here to a driver of this generation, or of this release ("runc@1.1.5"); none: clean."""
        return tuple(
            e
            for e in self.expect
            if (generation in e.generations or EVERY_DRIVER in e.generations or releases.among(release, e.releases))
            and (not e.profiles or setting.profile in e.profiles)
            and (not e.rungs or setting.rung in e.rungs)
            and (not e.layouts or setting.layout in e.layouts)
        )

    def to_data(self) -> dict[str, Any]:
        """The scenario as JSON data, for a trace's head."""
        data: dict[str, Any] = encode(self)
        return data

    @classmethod
    def from_data(cls, data: Any) -> Scenario:
        """The inverse of `to_data`; TraceError when the data is no scenario."""
        return decode(cls, data)
