"""`cgrace validate --differential`: drawn sequences on a fake and a real systemd, and what a driver could see on each."""

from __future__ import annotations

import argparse
import json
import re
from typing import TYPE_CHECKING, Any, Final

from cgrace.harness.commands import EXIT_DIFFERED, EXIT_OK
from cgrace.harness.commands.common import note, run_async, show, show_json
from cgrace.harness.errors import UsageError

if TYPE_CHECKING:
    from cgrace.harness.validate.sequences.hunt import Hunt
    from cgrace.harness.validate.sequences.judge import Found

_TIME: Final = re.compile(r"(\d+)([smh]?)")
_UNITS: Final = {"": 1, "s": 1, "m": 60, "h": 3600}


def differential(args: argparse.Namespace) -> int:
    """Exit 0 where every sequence came out the same or as written down, 1 where one did not."""
    from cgrace.harness.validate.machine import parse_machine
    from cgrace.harness.validate.sequences.hunt import hunt, pair

    if not args.new or not args.against:
        raise UsageError(
            "sequences need two systemds", hint="cgrace validate fake:257 --against container:trixie --differential"
        )
    # Whichever is named first: the fake is ours.
    ours, real = sorted((parse_machine(args.new), parse_machine(args.against)), key=lambda one: one.kind != "fake")
    seconds, count = _seconds(args.seconds), args.differential or 0
    if not seconds and count < 1:
        raise UsageError(f"{count} sequences are none", hint="--differential 1000, or --for 10m")

    def told(so_far: Hunt) -> None:
        if not args.json:
            note(f"{_counts(so_far)}")

    async def go() -> Hunt:
        async with pair(ours, real, note if not args.json else lambda _: None) as both:
            return await hunt(both, count, seed=args.seed, seconds=seconds, told=told)

    result = run_async(go())
    if args.json:
        show_json(_document(result, str(ours), str(real)))
    else:
        for one in result.found:
            show(*_lines(one, str(ours), str(real)))
        for name, needed in sorted(result.excused.items()):
            show(f"as written down: {name}, {needed} times")
        show(_counts(result))
    return EXIT_DIFFERED if result.differing else EXIT_OK


def _seconds(text: str | None) -> float:
    if text is None:
        return 0.0
    found = _TIME.fullmatch(text)
    if found is None or not int(found[1]):
        raise UsageError(f"{text!r:.40} is no time", hint="90s, 10m or 2h")
    return float(int(found[1]) * _UNITS[found[2]])


def _counts(result: Hunt) -> str:
    rate = result.played / result.seconds if result.seconds else 0.0
    text = f"{result.played} sequences, {rate:.0f}/s: {result.differing} differ"
    if result.unsteady:
        text += f", {len(result.unsteady)} differed once and not again"
    if result.by_chance:
        text += f", {len(result.by_chance)} that the real one itself tells in both ways"
    return text


def _lines(found: Found, ours: str, real: str) -> list[str]:
    again = f"of what is left of it; whole: --differential 1 --seed {found.program.number}"
    lines = ["", f"differs in moment {found.moment + 1} {again}", *str(found.program).splitlines()]
    for one in found.differences:
        lines += [f"  {one.place}"]
        lines += [
            f"    {who}: {json.dumps(said, ensure_ascii=False)}" for who, said in ((ours, one.old), (real, one.new))
        ]
    return lines


def _document(result: Hunt, ours: str, real: str) -> dict[str, Any]:
    from cgrace.reports.machine import document

    found = [
        {
            "seed": one.program.number,
            "program": str(one.program),
            "moment": one.moment + 1,
            "differences": [{"place": each.place, "ours": each.old, "real": each.new} for each in one.differences],
        }
        for one in result.found
    ]
    return document(
        "differential",
        passed=not result.differing,
        ours=ours,
        real=real,
        played=result.played,
        differing=result.differing,
        unsteady=len(result.unsteady),
        by_chance=len(result.by_chance),
        excused=result.excused,
        seconds=round(result.seconds, 1),
        found=found,
    )
