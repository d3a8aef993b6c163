"""`cgrace doctor --target`: a machine row by row, which way cgrace goes there, and what of the scenarios cannot run on it."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Iterable, Sequence

from cgrace.harness.commands import EXIT_CANNOT, EXIT_OK
from cgrace.harness.commands.common import note, run_async, scenarios_folder, show, show_json, table_of_checks
from cgrace.harness.engine import sight
from cgrace.harness.engine.gates import refused
from cgrace.harness.engine.plan import all_faults
from cgrace.harness.errors import UnavailableError
from cgrace.harness.scenario.model import Scenario
from cgrace.harness.targets import survey_inside
from cgrace.harness.targets.registry import TargetName
from cgrace.harness.targets.survey import NEEDED, Survey, survey

NAMES_SHOWN = 8


def doctor_target(args: argparse.Namespace, name: TargetName) -> int:
    """Exit 0 where scenarios can run, 2 where they cannot."""
    from rich.text import Text

    from cgrace.harness.commands.select import pick_scenarios
    from cgrace.reports.machine import document

    found = run_async(survey(name, (lambda _: None) if args.json else note))
    scenarios = pick_scenarios([scenarios_folder()])
    cannot = {} if found.missing else cannot_run(scenarios, found)
    if args.json:
        checks = [{**dataclasses.asdict(check), "needed": check.name in NEEDED} for check in found.checks]
        told = [{"reason": why, "scenarios": names} for why, names in cannot.items()]
        show_json(document("doctor", passed=not found.missing, target=name.text, checks=checks, cannot_run=told))
        return EXIT_CANNOT if found.missing else EXIT_OK
    show(table_of_checks(found.checks, found.missing))
    if found.missing:
        names = ", ".join(check.name for check in found.missing)
        show(Text(f"nothing can run on {name.text}: {names}", style="bold red"))
        return EXIT_CANNOT
    lost = len({one for names in cannot.values() for one in names})
    show(Text(f"{len(scenarios) - lost} of {len(scenarios)} scenarios can run on {name.text}", style="bold green"))
    for why, those in cannot.items():
        more = f" and {len(those) - NAMES_SHOWN} more" if len(those) > NAMES_SHOWN else ""
        show(Text(f"cannot: {why}: {', '.join(those[:NAMES_SHOWN])}{more}"))
    return EXIT_OK


def cannot_run(scenarios: Sequence[Scenario], found: Survey) -> dict[str, list[str]]:
    """Which scenarios cannot be run on a machine like that, by the reason, which is what a run would say."""
    cannot: dict[str, list[str]] = {}
    for scenario in scenarios:
        if why := next(iter(_reasons(scenario, found)), ""):
            cannot.setdefault(why, []).append(scenario.name)
    return cannot


def _reasons(scenario: Scenario, found: Survey) -> Iterable[str]:
    layouts = {setting.layout for setting in scenario.settings}
    if not layouts & set(found.layouts):
        yield f"about cgroup {' and '.join(sorted(layouts))}, and it has {' and '.join(found.layouts)}"
    if found.systemd:
        yield from refused(all_faults(scenario), found.systemd).values()
    for needs, name in (
        (sight.stops_calls, survey_inside.HELD_CALLS),
        (sight.stops_systemd, survey_inside.STANDSTILL),
    ):
        check = found.get(name)
        if check is not None and not check.ok and needs(scenario):
            yield check.found.partition(": ")[0]
    witness = found.get(survey_inside.WITNESS)
    if witness is not None and not witness.ok:
        try:
            sight.check_inotify(scenario)
        except UnavailableError as error:
            yield error.message
