"""What `reproduce` and `run` share: running cases with progress, and which of their traces stay."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import os
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from cgrace.harness.clock import now_ns
from cgrace.harness.commands import EXIT_CANNOT, EXIT_DIFFERED, EXIT_OK
from cgrace.harness.commands.common import Progress, baselines_folder, note, run_async
from cgrace.harness.errors import CgraceError, UsageError
from cgrace.harness.store import StoredRun
from cgrace.harness.suite import Case, CaseResult
from cgrace.harness.verdict import Outcome

if TYPE_CHECKING:
    from cgrace.harness.engine.ground import Ground
    from cgrace.harness.targets.registry import TargetName


@dataclass(slots=True)
class Collected:
    """Results as they come. With --repeat only the first trace of each different run is kept: the rest tell nothing new.

    judged: whether outcomes are final as they come. ended: every result; kept: those whose trace was kept. began_ns: when the
    first case did (0: none).
    """

    progress: Progress
    repeated: bool
    judged: bool = True
    ended: list[CaseResult] = field(default_factory=list)
    kept: list[CaseResult] = field(default_factory=list)
    seen: set[tuple[str, str, str]] = field(default_factory=set)
    began_ns: int = 0

    def take(self, result: CaseResult) -> None:
        """Note a result and show it as progress."""
        self.ended.append(result)
        key = (result.case.id, result.judgement.outcome, result.canonical)
        if key not in self.seen:
            self.seen.add(key)
            self.kept.append(result)
        elif self.repeated and result.trace is not None:
            with contextlib.suppress(OSError):
                result.trace.unlink()
        outcome = result.judgement.outcome
        told = "cannot run here" if result.unavailable else result.error or (outcome if self.judged else "ended")
        self.progress.result(f"{result.case.id}: {told}", passes=outcome.passes or not (self.judged or result.error))

    def order(self, cases: Sequence[Case]) -> None:
        """Put what came in the order in which it ended into that of the cases."""
        place = {case.id: number for number, case in enumerate(cases)}
        for results in (self.ended, self.kept):
            results.sort(key=lambda result: (place[result.case.id], result.case.turn))


def turns_of(cases: Sequence[Case], repeat: int) -> list[Case]:
    """Every case as often as it is to run: all of them once, then all of them again."""
    return [dataclasses.replace(case, turn=turn) for turn in range(repeat) for case in cases]


def execute(
    turns: Sequence[Case],
    collected: Collected,
    stored: StoredRun,
    args: argparse.Namespace,
    *,
    expect_clean: bool,
    admits: Callable[[Case], bool] = lambda _: True,
    ends: Callable[[CaseResult], None] = lambda _: None,
) -> list[CaseResult]:
    """Run them; `admits` is asked when a case would begin, `ends` told when it has. KeyboardInterrupt leaves in `collected` what
    had ended."""
    from cgrace.harness import runner

    def admitted(case: Case) -> bool:
        collected.began_ns = collected.began_ns or now_ns()
        return admits(case)

    def ended(result: CaseResult) -> None:
        ends(result)
        collected.take(result)

    return run_async(
        runner.run_cases(
            turns,
            jobs=args.jobs,
            target=target_of(args),
            store=stored.folder,
            on_result=ended,
            on_event=collected.progress.event,
            expect_clean=expect_clean,
            bus=args.bus,
            admits=admitted,
        )
    )


def target_of(args: argparse.Namespace) -> TargetName:
    """The target; UsageError for one that there is not, or that does not go with the other options."""
    from cgrace.harness.targets import rootless
    from cgrace.harness.targets.registry import parse_target

    name = parse_target(getattr(args, "target", "fake"), allow_host=getattr(args, "allow_host", False))
    if os.geteuid() != 0 and rootless.is_command() and name.kind in ("fake", "container") and not rootless.why_not():
        note("not root: in a user namespace from here on, where cgroup v1 and the kernel's tracefs are not to be had")
        rootless.enter(sys.argv[1:])
    if name.is_real and args.bus != "embedded":
        raise UsageError(f"--bus is what stands behind the fake systemd; {name.text} has a bus of its own")
    return name


def check_target(args: argparse.Namespace) -> None:
    """UsageError for another target than the fake, where only that makes sense."""
    if target_of(args).is_real:
        raise UsageError(f"this is done on the fake systemd alone, not on {args.target}", hint="--target fake")


def ground_of(name: TargetName, say: Callable[[str], None]) -> Ground | None:
    """What cases are planned by on a real target, None on the fake; may take the time to build its root."""
    if not name.is_real:
        return None
    from cgrace.harness.engine.ground import Ground
    from cgrace.harness.targets.registry import describe

    return Ground(run_async(describe(name, say)), baselines_folder())


def check_fit(cases: Sequence[Case]) -> None:
    """UsageError where nothing is left to be run."""
    if not cases:
        raise UsageError("none of these drivers fits any of these scenarios", hint="cgrace drivers")


def exit_code(outcomes: Iterable[Outcome]) -> int:
    """1 where a verdict differs; 2 where something could not run or came to no conclusion."""
    found = set(outcomes)
    if found & {Outcome.REGRESSED, Outcome.VANISHED}:
        return EXIT_DIFFERED
    return EXIT_CANNOT if Outcome.INCONCLUSIVE in found else EXIT_OK


def did(result: CaseResult) -> str:
    """What the driver did, from the stored trace."""
    from cgrace.harness.trace import read_trace
    from cgrace.reports.console.timeline import ends

    if result.trace is None:
        return ""
    try:
        return ends(read_trace(result.trace))
    except CgraceError as error:
        return error.message
