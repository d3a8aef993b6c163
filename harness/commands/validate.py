"""`cgrace validate`: is a systemd safe for the drivers? What it answers beside what another one answered.

With --bisect it is a step of `git bisect run`: 0 where nothing changed that a driver relies on, 1 where something did, and 125,
git's "skip this one", where it could not be asked: a tree that does not boot, a library that is missing.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from cgrace.harness.commands import EXIT_DIFFERED, EXIT_OK, EXIT_SKIP
from cgrace.harness.commands.ci import check_writable
from cgrace.harness.commands.common import Progress, note, run_async, show, show_json
from cgrace.harness.commands.validate_text import document_of, identity, told
from cgrace.harness.errors import CgraceError, UsageError

if TYPE_CHECKING:
    from typing import Any

    from cgrace.harness.scenario.model import Scenario
    from cgrace.harness.suite import Case
    from cgrace.harness.validate.baseline import Baseline
    from cgrace.harness.validate.probe import Probe

REMOTE = ("vm:", "ssh:")  # machines that are asked from inside
USER = "user"
BOOTED = ("container:", *REMOTE, USER)  # those on which scenarios can be run
TURNS_OF_DOUBTED = 3  # of a case that came out otherwise
INSIDE_S_MAX = 1800.0  # all probes, in a machine that is emulated


def validate(args: argparse.Namespace) -> int:
    """Exit 0 where nothing changed that a driver relies on, 1 where something did."""
    if args.differential is not None or args.seconds is not None:
        from cgrace.harness.commands.differential import differential

        return differential(args)
    probes = _probes(args.probe)
    if args.list:
        return _list(args, probes)
    if not args.bisect:
        return _validate(args, probes)
    if not args.against:
        raise UsageError("a bisection needs something to compare with", hint="--against a baseline that --save wrote")
    try:
        return _validate(args, probes)
    except CgraceError as error:
        show(str(error), "cgrace validate: cannot tell, so git may skip this one")
        return EXIT_SKIP


def _validate(args: argparse.Namespace, probes: Sequence[Probe]) -> int:
    from cgrace.harness.validate import baseline
    from cgrace.harness.validate.compare import compare

    _check(args)
    new = _have(args.new, probes, args)
    if args.record or args.save:
        new = _with_scenarios(new, None, args)
        place = baseline.save(new) if args.record else baseline.write(new, Path(args.save))
        show(f"recorded {place}")
        if args.record or not args.against:
            return EXIT_OK
    old = _have(args.against, probes, args, like=new) if args.against else _older(new)
    if old is None:
        return _alone(args, new)
    old, new = _with_scenarios(old, None, args), _with_scenarios(new, old, args)
    known = baseline.known_differences(old.key) if args.new.startswith("fake:") else None
    names = [one.name for one in _scenarios() if new.layout in {setting.layout for setting in one.settings}]
    found = compare(old, new, probes, names, known=known, users=baseline.users_answers())
    if found.empty:
        why = next(iter(found.apart.values()), "none of the probes was asked of both")
        raise UsageError(
            f"nothing of {args.new} can be compared with {old.key}: {why}",
            hint="--against a baseline that --save wrote on the same machine, or other probes (cgrace validate --list)",
        )
    document = document_of(found)
    _write_reports(args, document, probes)
    if args.json:
        show_json(document)
    else:
        show(*told(found))
    return EXIT_OK if found.safe else EXIT_DIFFERED


def _check(args: argparse.Namespace) -> None:
    """UsageError for what does not go together, before anything is asked."""
    if not args.new:
        raise UsageError("which systemd?", hint="cgrace validate container:trixie, or --list for the probes")
    if args.record and args.probe:
        raise UsageError("a baseline has every probe", hint="leave --probe out of --record")
    if args.record and ("+" in args.new or "/" in args.new):
        raise UsageError("what a version of systemd says is not recorded from a build", hint="--save FILE")
    if args.record and args.new.split(":")[0] == USER:
        raise UsageError("baselines are recorded of a whole machine's systemd, not of a user's", hint="--save FILE")
    if args.driver:
        from cgrace.harness.commands.select import pick_drivers

        pick_drivers(args.driver)  # one that there is not is said before anything is asked
    for path in filter(None, (args.junit, args.html, args.save)):
        check_writable(Path(path))
    if args.against:
        _check_name(args.against)  # what there is not is said before the first is asked


def _check_name(text: str) -> None:
    """UsageError for what is neither a baseline's name nor a machine's."""
    from cgrace.harness.targets.remote import parse_remote
    from cgrace.harness.validate import baseline
    from cgrace.harness.validate.machine import parse_machine

    if baseline.is_recorded(text):
        return
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


def _scenarios() -> list[Scenario]:
    """All that come with cgrace."""
    from cgrace.harness.commands.select import pick_scenarios, stories

    return pick_scenarios(list(stories().values()))


# ---- what is compared


def _have(text: str, probes: Sequence[Probe], args: argparse.Namespace, like: Baseline | None = None) -> Baseline:
    """What was recorded under that name, else what the machine of that name answers now."""
    from cgrace.harness.validate import baseline
    from cgrace.harness.validate.ask import ask_all
    from cgrace.harness.validate.machine import open_machine, parse_machine

    if (found := baseline.find(text, like)) is not None:
        return _with_outcomes(found)
    if text.startswith(REMOTE):
        return _ask_inside(text, probes, args)
    name = parse_machine(text)

    async def go() -> Baseline:
        with Progress(len(probes), quiet=args.json) as progress:
            async with open_machine(name, progress=progress.event) as machine:
                return await ask_all(machine, probes, lambda probe: progress.result(probe.id, passes=True))

    return run_async(go())


def _ask_inside(text: str, probes: Sequence[Probe], args: argparse.Namespace) -> Baseline:
    """Ask a machine from inside: this program and its Python are put there (targets/remote.py)."""
    from cgrace.harness.errors import TargetError
    from cgrace.harness.targets.remote import open_machine
    from cgrace.harness.validate.__main__ import ASKS
    from cgrace.harness.validate.baseline import decode

    words = ["-m", "cgrace.harness.validate", *args.probe]

    async def go() -> Baseline:
        with Progress(len(probes), quiet=args.json) as progress:

            def follow(line: str) -> None:
                if line.startswith(ASKS):
                    progress.result(line.removeprefix(ASKS), passes=True)

            async with open_machine(text, progress=progress.event) as machine:
                progress.event(f"asking {machine.name} from inside")
                done = await machine.python(words, timeout_s=INSIDE_S_MAX, on_line=follow)
                if not done.ok:
                    raise TargetError(f"{machine.name} could not be asked: it {done.how}", detail=_said(done.tail))
                return decode(done.text, machine.name)

    return run_async(go())


def _said(tail: str) -> str:
    """The last lines of an asking that failed; of the probes that it named only the last one."""
    from cgrace.harness.validate.__main__ import ASKS

    lines = tail.splitlines()
    asked = [line for line in lines if line.startswith(ASKS)]
    return "\n".join([*asked[-1:], *(line for line in lines if not line.startswith(ASKS))])


def _older(new: Baseline) -> Baseline | None:
    from cgrace.harness.validate import baseline

    old = baseline.nearest_below(new)
    return old and _with_outcomes(old)


def _with_outcomes(recorded: Baseline) -> Baseline:
    """The same with how scenarios came out where they were recorded, unless it says so itself."""
    from cgrace.harness.validate.outcomes import recorded_outcomes

    if recorded.outcomes:
        return recorded
    return dataclasses.replace(recorded, outcomes=recorded_outcomes(recorded.version, recorded.layout))


# ---- scenarios


def _with_scenarios(one: Baseline, old: Baseline | None, args: argparse.Namespace) -> Baseline:
    """The same with how scenarios come out there, if they are to be run; where they were recorded, nothing is run.

    old: what it will be compared with: cases that are not known of it need not be run.
    """
    wanted = args.scenarios
    if wanted is None:  # what takes minutes is left out of a bisection, and where particular probes are asked
        without = args.probe or args.record or args.bisect or args.save
        wanted = bool(args.driver) or (not without and one.name.startswith("container:"))
    if one.outcomes or not wanted:
        return one
    if not one.name.startswith(BOOTED):
        if old is None:
            return one  # of what is recorded nothing can be run, and nothing has to
        raise UsageError(
            f"scenarios are run on {', '.join(BOOTED)}, not on {one.name}", hint="cgrace validate container:trixie"
        )
    return dataclasses.replace(one, outcomes=_run_scenarios(one.name, one.layout, old, args))


def _run_scenarios(target: str, layout: str, old: Baseline | None, args: argparse.Namespace) -> dict[str, str]:
    """How all scenarios on all drivers that fit come out there; what differs from OLD is run again before that is believed."""
    from cgrace.harness import runner
    from cgrace.harness.commands.record import as_recorded
    from cgrace.harness.commands.select import pick_drivers
    from cgrace.harness.commands.suite import Collected, execute, ground_of, turns_of
    from cgrace.harness.store import new_run
    from cgrace.harness.targets.registry import parse_target
    from cgrace.harness.validate.outcomes import key_of, run_outcomes

    run = argparse.Namespace(target=target, bus="embedded", jobs=None, allow_host=False)
    ground = ground_of(parse_target(target), note)
    cases = runner.plan(_scenarios(), pick_drivers(args.driver, on=ground), on=ground)
    cases = [case for case in cases if case.setting.layout == layout]
    if old is not None:
        cases = [case for case in cases if key_of(case) in old.outcomes]
    if not cases:
        note("no scenario was recorded of the other one: --against container:SUITE runs them on both")
        return {}

    def ran(cases: Sequence[Case], repeat: int) -> tuple[dict[str, str], dict[str, str]]:
        turns = turns_of(cases, repeat)
        with Progress(len(turns), quiet=args.json) as progress:
            collected = Collected(progress=progress, repeated=repeat > 1, judged=False)
            judged, cannot = as_recorded(execute(turns, collected, new_run(None), run, expect_clean=True))
        return run_outcomes([one for one in judged if one.case.id not in cannot]), cannot

    if not args.json:
        note(f"running {len(cases)} cases of scenarios on {target}")
    outcomes, cannot = ran(cases, 1)
    doubted = [
        case
        for case in cases
        if old is not None and outcomes.get(key_of(case)) not in (None, old.outcomes[key_of(case)])
    ]
    if doubted:
        again, more = ran(doubted, TURNS_OF_DOUBTED)
        cannot |= more
        for case in doubted:
            del outcomes[key_of(case)]
        outcomes |= again
    for name, why in cannot.items():
        note(f"not compared: {name}: {why}")
    return outcomes


def _alone(args: argparse.Namespace, new: Baseline) -> int:
    """Nothing to compare with: the answers themselves."""
    if args.json:
        from cgrace.reports.machine import document

        show_json(document("validate", passed=True, new=identity(new), old=None, answers=dict(new.answers)))
    else:
        show(f"systemd {new.systemd} ({new.layout}): no older baseline is recorded to compare it with")
        show(*(f"{key}: {json.dumps(value)}" for key, value in new.answers.items()))
    return EXIT_OK


# ---- reports


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
