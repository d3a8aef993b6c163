"""`cgrace validate`: is a systemd safe for the drivers? What it answers beside what another one answered."""

from __future__ import annotations

import argparse
import dataclasses
import difflib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cgrace.harness.commands import EXIT_DIFFERED, EXIT_OK
from cgrace.harness.commands.ci import check_writable
from cgrace.harness.commands.common import Progress, note, run_async, scenarios_folder, show, show_json
from cgrace.harness.errors import UsageError

if TYPE_CHECKING:
    from rich.console import RenderableType

    from cgrace.harness.validate.baseline import Baseline
    from cgrace.harness.validate.compare import Change, Comparison
    from cgrace.harness.validate.probe import Probe

REMOTE = ("vm:", "ssh:")  # machines that are asked from inside
VALUE_MAX = 300
INSIDE_S_MAX = 1800.0  # all probes, in a machine that is emulated
WORDS_MAX = 100  # a list that is longer is told word by word


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
    if args.record and args.probe:
        raise UsageError("a baseline has every probe", hint="leave --probe out of --record")
    for path in filter(None, (args.junit, args.html)):
        check_writable(Path(path))
    if args.against and not (args.against.endswith(".json") or args.against[0].isdigit()):
        check_name(args.against)  # what there is not is said before the first is asked
    new = _have(args.new, probes, args)
    if args.scenarios:
        new = dataclasses.replace(new, outcomes=_run_scenarios(args))
    if args.record:
        show(f"recorded {baseline.save(new)}")
        return EXIT_OK
    old = _have(args.against, probes, args, like=new) if args.against else _older(new)
    if old is None:
        return _alone(args, new)
    known = baseline.known_differences(old.key) if args.new.startswith("fake:") else None
    found = compare(old, new, probes, _scenarios(), known=known)
    document = _document(found)
    _write_reports(args, document, probes)
    if args.json:
        show_json(document)
    else:
        show(*_told(found))
    return EXIT_OK if found.safe else EXIT_DIFFERED


def check_name(text: str) -> None:
    """UsageError for what is no machine's name."""
    from cgrace.harness.targets.remote import parse_remote
    from cgrace.harness.validate.machine import parse_machine

    if text.startswith(REMOTE):
        parse_remote(text)
    else:
        parse_machine(text)


def _probes(wanted: Sequence[str]) -> tuple[Probe, ...]:
    from cgrace.harness.validate.probes import matching

    found = matching(wanted)
    if not found:
        raise UsageError(f"no probe is called {wanted[0]!r:.80}", hint="cgrace validate --list")
    return found


def _scenarios() -> list[str]:
    folder = scenarios_folder()
    return sorted(str(path.relative_to(folder).with_suffix("")) for path in folder.rglob("*.toml"))


def _have(text: str, probes: Sequence[Probe], args: argparse.Namespace, like: Baseline | None = None) -> Baseline:
    """What was recorded under that name, else what the machine of that name answers now."""
    from cgrace.harness.validate import baseline
    from cgrace.harness.validate.ask import ask_all
    from cgrace.harness.validate.machine import open_machine, parse_machine

    if (found := baseline.find(text, like)) is not None:
        return _with_outcomes(found)
    if text.startswith(REMOTE):
        return _ask_inside(text, args)
    name = parse_machine(text)

    async def go() -> Baseline:
        with Progress(len(probes), quiet=args.json) as progress:
            async with open_machine(name, progress=progress.event) as machine:
                return await ask_all(machine, probes, lambda probe: progress.result(probe.id, passes=True))

    return run_async(go())


def _ask_inside(text: str, args: argparse.Namespace) -> Baseline:
    """Ask a machine from inside: this program and its Python are put there (targets/remote.py)."""
    from cgrace.harness.errors import TargetError
    from cgrace.harness.targets.remote import open_machine
    from cgrace.harness.validate.baseline import decode

    say = (lambda _: None) if args.json else note

    async def go() -> Baseline:
        async with open_machine(text, progress=say) as machine:
            say(f"asking {machine.name} from inside")
            done = await machine.python(["-m", "cgrace.harness.validate", *args.probe], timeout_s=INSIDE_S_MAX)
            if not done.ok:
                raise TargetError(f"{machine.name} could not be asked: it {done.how}", detail=done.tail)
            return decode(done.text, machine.name)

    return run_async(go())


def _older(new: Baseline) -> Baseline | None:
    from cgrace.harness.validate import baseline

    old = baseline.nearest_below(new)
    return old and _with_outcomes(old)


def _with_outcomes(recorded: Baseline) -> Baseline:
    """The same with how scenarios came out where they were recorded."""
    from cgrace.harness.validate.outcomes import recorded_outcomes

    return dataclasses.replace(recorded, outcomes=recorded_outcomes(recorded.version, recorded.layout))


def _run_scenarios(args: argparse.Namespace) -> dict[str, str]:
    """All scenarios on all drivers that fit, on NEW: how they came out."""
    from cgrace.harness import runner
    from cgrace.harness.commands.select import pick_drivers, pick_scenarios, stories
    from cgrace.harness.commands.suite import Collected, execute, ground_of
    from cgrace.harness.store import new_run
    from cgrace.harness.targets.registry import parse_target
    from cgrace.harness.validate.outcomes import run_outcomes

    if not args.new.startswith("container:"):
        raise UsageError("--scenarios runs them on a container", hint="cgrace validate container:trixie --scenarios")
    run = argparse.Namespace(target=args.new, bus="embedded", jobs=None, allow_host=False)
    ground = ground_of(parse_target(args.new), note)
    cases = runner.plan(pick_scenarios(list(stories().values())), pick_drivers([]), on=ground)
    with Progress(len(cases), quiet=args.json) as progress:
        collected = Collected(progress=progress, repeated=False, judged=False)
        return run_outcomes(execute(cases, collected, new_run(None), run, expect_clean=True))


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

    from cgrace.harness.validate.compare import How

    old, new = found.old, found.new
    lines: list[RenderableType] = [
        f"from {old.name}: systemd {old.systemd}, cgroup {old.layout}",
        f"to   {new.name}: systemd {new.systemd}, cgroup {new.layout}",
    ]
    if old.runs_in != new.runs_in:
        where = [one.runs_in or "on bare metal" for one in (old, new)]
        lines.append(
            f"note: one runs in {where[0]}, the other in {where[1]}: how a scope ends on v1 depends on that, too"
        )
    styles = {How.BROKEN: "bold red", How.HABIT: "yellow", How.EXTENDED: "green", How.WORDING: "dim"}
    for change in found.changes:
        head = (str(change.how), styles[change.how])
        lines += ["", Text.assemble(head, f"  {change.probe.id}: {change.probe.question}")]
        lines += _change_lines(change)
    for outcome in found.outcomes:
        lines += [
            "",
            Text.assemble(("outcome changed", "bold red"), f"  {outcome.case}: {outcome.old} -> {outcome.new}"),
        ]
    lines += [Text(f"known difference: {probe}: {why}", style="dim") for probe, why in found.excused.items()]
    for probe, why in found.apart.items():
        lines.append(Text(f"not compared: {probe}: {why}", style="dim"))
    if shared := found.old.outcomes.keys() & found.new.outcomes.keys():
        lines += ["", f"{len(shared)} scenarios on drivers were compared, {len(found.outcomes)} came out otherwise"]
    counts = [f"{sum(one.how is how for one in found.changes)} {how.replace(' ', 's ', 1)}" for how in How]
    lines += ["", f"{found.same} answers are the same, {', '.join(counts)}".replace("wordings", "texts")]
    verdict = ("nothing changed that a driver relies on", "bold green") if found.safe else _verdict(found)
    return [*lines, Text(*verdict)]


def _verdict(found: Comparison) -> tuple[str, str]:
    drivers = sorted({driver for change in found.changes for driver in change.drivers})
    said = [f"drivers that rely on what changed: {', '.join(drivers)}"] if drivers else []
    said += ["scenarios came out otherwise"] if found.outcomes else []
    return "; ".join(said), "bold red"


def _change_lines(change: Change) -> list[str]:
    lines = []
    for one in change.differences:
        at = f"{one.place}: " if one.place else ""
        if isinstance(one.old, list) and isinstance(one.new, list) and len(_short(one.old)) > WORDS_MAX:
            lines += _in_words(at, one.old, one.new)
            continue
        lines += [f"  was  {at}{_short(one.old)}", f"  now  {at}{_short(one.new)}"]
    if not change.drivers and not change.scenarios:
        return lines
    lines.append(f"  source: {change.probe.cites}")
    lines.append(f"  drivers: {', '.join(change.drivers) or 'none relies on it'}")
    if change.scenarios:
        lines.append(f"  scenarios: {', '.join(change.scenarios)}")
    return lines


def _in_words(at: str, old: list[Any], new: list[Any]) -> list[str]:
    """Two long lists, word by word: what both have, what only one has."""
    words = [[item if isinstance(item, str) else json.dumps(item) for item in one] for one in (old, new)]
    marks = {"- ": "  was  ", "+ ": "  now  ", "  ": "  both "}
    return [f"{marks[line[:2]]}{at}{line[2:]}" for line in difflib.ndiff(words[0], words[1]) if line[:2] in marks]


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
    return {key: getattr(one, key) for key in ("name", "systemd", "version", "layout", "runs_in")}


def _document(found: Comparison) -> dict[str, Any]:
    from cgrace.reports.machine import document

    changes = [
        {
            "probe": one.probe.id,
            "how": str(one.how),
            "kind": str(one.probe.kind),
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
        known_differences=dict(found.excused),
        answers=dict(found.new.answers),
    )


def _write_reports(args: argparse.Namespace, document: dict[str, Any], probes: Sequence[Probe]) -> None:
    """The files that were asked for."""
    from cgrace.reports.validation import html_of, junit_of

    texts: dict[str, str] = {}
    if args.junit:
        texts[args.junit] = junit_of(document, {one.id: one.question for one in probes})
    if args.html:
        texts[args.html] = html_of(document)
    for path, text in texts.items():
        try:
            Path(path).write_text(text, encoding="utf-8")
        except OSError as error:
            raise UsageError(f"the report cannot be written: {error.strerror}", file=path) from None
