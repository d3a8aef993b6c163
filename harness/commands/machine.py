"""`cgrace doctor` and `cgrace clean`: the machine, and what cgrace left there."""

from __future__ import annotations

import argparse
import dataclasses
import os

from cgrace.harness.commands import EXIT_CANNOT, EXIT_OK
from cgrace.harness.commands.common import run_async, show, show_json, table_of_checks


def doctor(args: argparse.Namespace) -> int:
    """What can be done here, or on a target, and what would help; exit 2 where nothing can."""
    if args.target:
        from cgrace.harness.commands.doctor_target import doctor_target
        from cgrace.harness.targets.registry import parse_target

        return doctor_target(args, parse_target(args.target, allow_host=True))
    from rich.text import Text

    from cgrace.harness.doctor import NEEDED, examine, missing
    from cgrace.reports.machine import document

    checks = examine()
    lacking = missing(checks)
    if args.json:
        listed = [{**dataclasses.asdict(check), "needed": check.name in NEEDED} for check in checks]
        show_json(document("doctor", passed=not lacking, checks=listed))
        return EXIT_CANNOT if lacking else EXIT_OK
    show(table_of_checks(checks, lacking))
    if lacking:
        show(Text(f"reproduce cannot run here: no {', no '.join(check.name for check in lacking)}", style="bold red"))
        if any(check.ok for check in checks if check.name == "user's systemd"):
            show(Text("what takes no root can: cgrace run core --target user", style="bold green"))
    else:
        show(Text("reproduce can run here", style="bold green"))
    return EXIT_CANNOT if lacking else EXIT_OK


def clean(args: argparse.Namespace) -> int:
    """Remove what killed runs left on this machine; never what a living one uses, nor what cgrace did not make."""
    from cgrace.harness.targets.sweep import sweep
    from cgrace.harness.targets.user import UserTarget
    from cgrace.reports.machine import document

    swept = [*sweep(), *run_async(UserTarget.clean())]
    stuck = [one for one in swept if one.problem]
    if args.json:
        show_json(document("clean", passed=not stuck, swept=[dataclasses.asdict(one) for one in swept]))
        return EXIT_CANNOT if stuck else EXIT_OK
    for one in swept:
        show(f"{one.kind} {one.name}: {one.problem or 'removed'}")
    if not swept:
        show("nothing was left behind" if os.geteuid() == 0 else "nothing of yours was left behind; root sees the rest")
    return EXIT_CANNOT if stuck else EXIT_OK
