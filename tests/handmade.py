"""Small results made by hand, for the tests of reports and commands."""

from __future__ import annotations

from pathlib import Path

from cgrace.harness.drivers.base import DriverSpec
from cgrace.harness.events import Direction, Grade, MessageSeen, RunEnded, StepCalled, StepNever, StepReturned
from cgrace.harness.faults import Hold, Match
from cgrace.harness.points import parse_point
from cgrace.harness.scenario.model import Expect, Scenario, Setting, Step
from cgrace.harness.suite import Case, CaseResult
from cgrace.harness.trace import Entry, Head, Trace
from cgrace.harness.verdict import Finding, Invariant, Verdict, judge

SETTING = Setting(profile="219-rhel7", layout="v1")
HANG = Finding(
    invariant=Invariant.NO_DEADLOCK,
    verdict=Verdict.VIOLATED,
    subject="second",
    summary='HANG of "second" (other.slice), proved in 0.13 s',
    short="HANG",
    evidence=tuple(f"goroutine {number} waits for jobListener" for number in range(9)),
    events=(1, 3),
    grade=Grade.LEGAL,
)
UNKNOWN = Finding(invariant=Invariant.NO_DEADLOCK, verdict=Verdict.UNKNOWN, summary="a descriptor is not accounted for")


def scenario(rows: tuple[str, ...] = ("7b", "12"), name: str = "runc_1780/lock") -> Scenario:
    """Row 7b in short."""
    late = Match(text="JobRemoved of late.slice", kind="signal", member="JobRemoved", unit="late.slice")
    return Scenario(
        file=Path(f"scenarios/{name}.toml"),
        name=name,
        title="A late JobRemoved keeps the lock [of go-systemd]",
        issue="opencontainers/runc#1780",
        rows=rows,
        settings=(SETTING,),
        steps=(
            Step(id="first", do="apply", unit="late.slice", parent="-.slice"),
            Step(id="second", do="apply", unit="other.slice", parent="-.slice", after=(parse_point("first ended"),)),
        ),
        faults=(Hold(id="late", match=late, until=parse_point("first ended"), patience_ns=None),),
        expect=(Expect(generations=("err-nil",), violated=((Invariant.NO_DEADLOCK, "second"),)),),
    )


def driver(generation: str = "err-nil", name: str = "") -> DriverSpec:
    """A driver by its generation."""
    return DriverSpec(name=name or generation, generation=generation, module="m", version="v1", family="A")


def result(
    generation: str, *findings: Finding, of: Scenario | None = None, trace: Path | None = None, canonical: str = "c"
) -> CaseResult:
    """A case judged as the engine would."""
    case = Case(scenario=of or scenario(), setting=SETTING, driver=driver(generation))
    expected = [pair for e in case.scenario.expected(generation, SETTING) for pair in e.violated]
    return CaseResult(
        case=case, judgement=judge(findings, expected), trace=trace, canonical=canonical, wall_ns=5_000_000
    )


def trace() -> Trace:
    """First returns, second never does; one message, one of the driver's own probes."""
    events = (
        MessageSeen(
            message=1, connection=1, direction=Direction.TO_SYSTEMD, kind="call", member="ListUnits", probe=True
        ),
        StepCalled(step="first", process="driver", op="apply", unit="late.slice"),
        MessageSeen(
            message=2,
            connection=1,
            direction=Direction.TO_SYSTEMD,
            kind="call",
            member="StartTransientUnit",
            unit="late.slice",
        ),
        StepReturned(step="first"),
        StepCalled(step="second", process="driver", op="apply", unit="other.slice"),
        StepNever(step="second", why="proved"),
        RunEnded(why="proved"),
    )
    head = Head(
        scenario={}, driver={"name": "err-nil"}, target="fake", profile="219-rhel7", layout="v1", command="cgrace x"
    )
    return Trace(head, tuple(Entry(index, index * 250_000_000, event) for index, event in enumerate(events)))
