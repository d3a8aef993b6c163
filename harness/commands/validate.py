"""`cgrace validate`: is a systemd safe for the drivers? What it answers beside what another one answered."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from cgrace.harness.commands import EXIT_DIFFERED, EXIT_OK
from cgrace.harness.commands.common import Progress, run_async, scenarios_folder, show, show_json
from cgrace.harness.errors import UsageError

if TYPE_CHECKING:
    from rich.console import RenderableType

    from cgrace.harness.validate.baseline import Baseline
    from cgrace.harness.validate.compare import Change, Comparison
    from cgrace.harness.validate.probe import Probe

VALUE_MAX = 300


def validate(args: argparse.Namespace) -> int:
    """Exit 0 where nothing changed that a driver relies on, 1 where something did."""
    from cgrace.harness.validate import baseline
    from cgrace.harness.validate.compare import compare

    if args.differential is not None or args.seconds is not None:
        from cgrace.harness.commands.differential import differential

        return differential(args)
    probes = _probes(args.probe)
    if args.list:
        return _list(args, probes)
    if not args.new:
        raise UsageError("which systemd?", hint="cgrace validate container:trixie, or --list for the probes")
    new = _have(args.new, probes, args)
    if args.record:
        if args.probe:
            raise UsageError("a baseline has every probe", hint="leave --probe out of --record")
        show(f"recorded {baseline.save(new)}")
        return EXIT_OK
    old = _have(args.against, probes, args, layout=new.layout) if args.against else _older(new)
    if old is None:
        return _alone(args, new)
    names = _scenarios()
    found = compare(old, new, probes, names)
    if args.junit:
        _write_junit(args.junit, found, probes)
    if args.json:
        show_json(_document(found))
    else:
        show(*_told(found))
    return EXIT_OK if found.safe else EXIT_DIFFERED


def _probes(wanted: Sequence[str]) -> tuple[Probe, ...]:
    import fnmatch

    from cgrace.harness.validate.probes import all_probes

    every = all_probes()
    found = tuple(one for one in every if not wanted or any(fnmatch.fnmatch(one.id, each) for each in wanted))
    if not found:
        raise UsageError(f"no probe is called {wanted[0]!r:.80}", hint="cgrace validate --list")
    return found


def _scenarios() -> list[str]:
    folder = scenarios_folder()
    return sorted(str(path.relative_to(folder).with_suffix("")) for path in folder.rglob("*.toml"))


def _have(text: str, probes: Sequence[Probe], args: argparse.Namespace, layout: str = "") -> Baseline:
    """What was recorded under that name, else what the machine of that name answers now."""
    from cgrace.harness.validate import baseline
    from cgrace.harness.validate.ask import ask_all
    from cgrace.harness.validate.machine import open_machine, parse_machine

    if (found := baseline.find(text, layout)) is not None:
        return found
    name = parse_machine(text)

    async def go() -> Baseline:
        with Progress(len(probes), quiet=args.json) as progress:
            async with open_machine(name, progress=progress.event) as machine:
                return await ask_all(machine, probes, lambda probe: progress.result(probe.id, passes=True))

    return run_async(go())


def _older(new: Baseline) -> Baseline | None:
    from cgrace.harness.validate import baseline

    return baseline.nearest_below(new.version, new.layout)


def _alone(args: argparse.Namespace, new: Baseline) -> int:
    """Nothing to compare with: the answers themselves."""
    if args.json:
        from cgrace.reports.machine import document

        show_json(document("validate", passed=True, new=_identity(new), old=None, answers=dict(new.answers)))
    else:
        show(f"systemd {new.systemd} ({new.layout}): no older baseline is recorded to compare it with")
        show(*(f"{key}: {json.dumps(value)}" for key, value in new.answers.items()))
    return EXIT_OK


# ---- for people


def _told(found: Comparison) -> list[RenderableType]:
    from rich.text import Text

    from cgrace.harness.validate.probe import Kind

    lines: list[RenderableType] = [f"systemd {found.old.systemd} -> {found.new.systemd}, cgroup {found.new.layout}"]
    heads = {Kind.CONTRACT: ("contract broken", "bold red"), Kind.HABIT: ("habit changed", "yellow")}
    for kind, (head, style) in heads.items():
        for change in [one for one in found.changes if one.kind is kind]:
            lines += ["", Text.assemble((head, style), f"  {change.probe.id}: {change.probe.question}")]
            lines += _change_lines(change)
    for outcome in found.outcomes:
        lines += [
            "",
            Text.assemble(("outcome changed", "bold red"), f"  {outcome.case}: {outcome.old} -> {outcome.new}"),
        ]
    for probe, why in found.apart.items():
        lines.append(Text(f"not compared: {probe}: {why}", style="dim"))
    counts = [sum(one.kind is kind for one in found.changes) for kind in heads]
    lines += ["", f"{found.same} answers are the same, {counts[0]} contracts broken, {counts[1]} habits changed"]
    verdict = ("nothing changed that a driver relies on", "bold green") if found.safe else _verdict(found)
    return [*lines, Text(*verdict)]


def _verdict(found: Comparison) -> tuple[str, str]:
    drivers = sorted({driver for change in found.changes for driver in change.drivers})
    return f"drivers that rely on what changed: {', '.join(drivers)}", "bold red"


def _change_lines(change: Change) -> list[str]:
    lines = []
    for one in change.differences:
        at = f"{one.place}: " if one.place else ""
        lines += [f"  was  {at}{_short(one.old)}", f"  now  {at}{_short(one.new)}"]
    lines.append(f"  source: {change.probe.cites}")
    lines.append(f"  drivers: {', '.join(change.drivers) or 'none relies on it'}")
    if change.scenarios:
        lines.append(f"  scenarios: {', '.join(change.scenarios)}")
    return lines


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= VALUE_MAX else text[:VALUE_MAX] + "..."


def _list(args: argparse.Namespace, probes: Sequence[Probe]) -> int:
    from cgrace.reports.machine import document

    if args.json:
        listed = [
            {
                "id": one.id,
                "kind": str(one.kind),
                "question": one.question,
                "cites": one.cites,
                "drivers": list(one.relied_on),
                "scenarios": list(one.scenarios),
                "layouts": list(one.layouts),
                "needs": list(one.needs),
            }
            for one in probes
        ]
        show_json(document("validate", probes=listed))
        return EXIT_OK
    for one in probes:
        show(f"{one.id} ({one.kind}): {one.question}\n  {one.cites}")
    show(f"{len(probes)} probes")
    return EXIT_OK


# ---- for programs


def _identity(one: Baseline) -> dict[str, Any]:
    return {"name": one.name, "systemd": one.systemd, "version": one.version, "layout": one.layout}


def _document(found: Comparison) -> dict[str, Any]:
    from cgrace.reports.machine import document

    changes = [
        {
            "probe": one.probe.id,
            "kind": str(one.kind),
            "question": one.probe.question,
            "cites": one.probe.cites,
            "differences": [{"place": each.place, "old": each.old, "new": each.new} for each in one.differences],
            "drivers": list(one.drivers),
            "scenarios": list(one.scenarios),
        }
        for one in found.changes
    ]
    return document(
        "validate",
        passed=found.safe,
        old=_identity(found.old),
        new=_identity(found.new),
        changes=changes,
        outcomes=[{"case": one.case, "old": one.old, "new": one.new} for one in found.outcomes],
        same=found.same,
        not_compared=dict(found.apart),
        answers=dict(found.new.answers),
    )


def _write_junit(path: str, found: Comparison, probes: Sequence[Probe]) -> None:
    from pathlib import Path

    from cgrace.reports.validation import junit_of

    try:
        Path(path).write_text(junit_of(_document(found), {one.id: one.question for one in probes}), encoding="utf-8")
    except OSError as error:
        raise UsageError(f"the report cannot be written: {error.strerror}", file=path) from None
