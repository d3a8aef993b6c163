"""What the runner does about cases that cannot run, or tell nothing the first time."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
from collections.abc import AsyncIterator, Sequence
from typing import Any

import handmade
import pytest
from handmade import HANG, UNKNOWN

from cgrace.harness import runner
from cgrace.harness.engine import place as place_module
from cgrace.harness.errors import TargetError, UnavailableError
from cgrace.harness.scenario.model import Setting
from cgrace.harness.suite import Case, CaseResult
from cgrace.harness.targets.fake import FakeTarget
from cgrace.harness.verdict import Outcome

CASES = [
    Case(scenario=handmade.scenario(), setting=handmade.SETTING, driver=handmade.driver(name))
    for name in ("quiet", "unsure", "lost", "hangs")
]


def run_all(cases: Sequence[Case], outcomes: dict[str, list[CaseResult]], jobs: int = 4) -> tuple[list[Any], list[Any]]:
    """Run with these results, one after the other for each driver; results, and (driver, how many ran beside it)."""
    running = 0
    ran: list[tuple[str, int]] = []

    async def run(case: Case) -> CaseResult:
        nonlocal running
        running += 1
        await asyncio.sleep(0)
        ran.append((case.driver.name, running))
        running -= 1
        return dataclasses.replace(outcomes[case.driver.name].pop(0), case=case)

    told: list[CaseResult] = []
    results = asyncio.run(
        runner._run_all(cases, run, jobs=jobs, again_jobs=1, admits=lambda _: True, on_result=told.append)
    )
    assert sorted(r.case.id for r in told) == sorted(r.case.id for r in results)
    return results, ran


CLEAN = handmade.result("today")
UNSURE = handmade.result("today", UNKNOWN)
BROKEN = dataclasses.replace(UNSURE, error="the sandbox is gone")


def test_the_inconclusive_run_again_when_the_others_have_ended() -> None:
    """Once, alone, and marked; what came of the second run counts."""
    results, ran = run_all(
        CASES,
        {
            "quiet": [CLEAN],
            "unsure": [UNSURE, CLEAN],
            "lost": [BROKEN, UNSURE],
            "hangs": [handmade.result("today", HANG)],
        },
    )
    assert [(r.case.driver.name, str(r.judgement.outcome), r.repeated) for r in results] == [
        ("quiet", "clean", False),
        ("unsure", "clean", True),
        ("lost", "inconclusive", True),
        ("hangs", "regressed", False),
    ]
    assert ran[-2:] == [("unsure", 1), ("lost", 1)]


def test_what_cannot_run_is_not_tried_again() -> None:
    """However often it is tried, the machine lacks it."""
    lacking = dataclasses.replace(UNSURE, error="no v1", unavailable=True)
    results, ran = run_all(CASES[:1], {"quiet": [lacking]})
    assert not results[0].repeated
    assert len(ran) == 1


def open_only(monkeypatch: pytest.MonkeyPatch, *layouts: str) -> list[list[str]]:
    """Let the target have no more than these layouts; gives what was opened."""
    opened: list[list[str]] = []

    @contextlib.asynccontextmanager
    async def opens(wanted: Sequence[str] = (), **_: object) -> AsyncIterator[str]:
        if lacking := [one for one in wanted if one not in layouts]:
            raise TargetError(f"no {lacking[0]} here", hint="boot one")
        opened.append(list(wanted))
        yield "target"

    monkeypatch.setattr(FakeTarget, "open", opens)
    return opened


@pytest.mark.parametrize(
    ("have", "wanted", "refused"),
    [
        (("v1", "v2"), ["v1", "v2"], {}),
        (("v2",), ["v1", "v2"], {"v1": "no v1 here"}),
        ((), ["v1", "v2"], {"v1": "no v1 here", "v2": "no v2 here"}),
        (("v2",), ["v1"], {"v1": "no v1 here"}),
    ],
)
def test_one_layout_does_not_take_the_others_with_it(
    have: tuple[str, ...], wanted: list[str], refused: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What can be had is opened, and the rest is known with its reason."""
    opened = open_only(monkeypatch, *have)

    async def go() -> tuple[Any, dict[str, TargetError]]:
        async with contextlib.AsyncExitStack() as stack:
            return await place_module._open_fake(stack, wanted)

    target, why = asyncio.run(go())
    assert {layout: error.message for layout, error in why.items()} == refused
    left = [layout for layout in wanted if layout in have]
    assert (target is not None) == bool(left)
    assert (opened or [[]])[-1] == left


def test_a_case_without_its_layout_is_unavailable() -> None:
    """It has the reason, is inconclusive, and the run goes on; where none could run, that is an error."""
    place = place_module.Place(
        target=None,
        kernel=None,  # type: ignore[arg-type]
        built={},
        refused={"v1": TargetError("no v1 here", hint="boot one")},
    )
    case = dataclasses.replace(CASES[0], setting=Setting(profile="219-rhel7", layout="v1"))
    result = asyncio.run(runner.run_once(case, place, None, expect_clean=False))
    assert result.unavailable
    assert result.judgement.outcome is Outcome.INCONCLUSIVE
    assert result.error == "no v1 here\n  try: boot one"
    runner.some_ran([result, CLEAN])
    runner.some_ran([])
    with pytest.raises(UnavailableError, match="no v1 here"):
        runner.some_ran([result])
