"""What `cgrace validate` says: to people, and as the document that programs, JUnit and the page are made of."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.text import Text

    from cgrace.harness.validate.baseline import Baseline
    from cgrace.harness.validate.compare import Change, Comparison

VALUE_MAX: Final = 300
WORDS_MAX: Final = 100  # a list that is longer is told word by word
NAMES_MAX: Final = 12  # of scenarios in one line


def told(found: Comparison) -> Iterator[RenderableType]:
    """The whole comparison, change by change, and at its end what that means for the drivers."""
    from rich.text import Text

    from cgrace.harness.validate.compare import How

    old, new = found.old, found.new
    yield f"from {old.name}: systemd {old.systemd}, cgroup {old.layout}"
    yield f"to   {new.name}: systemd {new.systemd}, cgroup {new.layout}"
    if old.runs_in != new.runs_in:
        where = [one.runs_in or "on bare metal" for one in (old, new)]
        yield f"note: one runs in {where[0]}, the other in {where[1]}: how a scope ends on v1 depends on that, too"
    styles = {How.BROKEN: "bold red", How.HABIT: "yellow", How.EXTENDED: "green", How.WORDING: "dim"}
    for change in found.changes:
        yield ""
        yield Text.assemble((str(change.how), styles[change.how]), f"  {change.probe.id}: {change.probe.question}")
        yield from _change_lines(change, found)
    for outcome in found.outcomes:
        yield ""
        yield Text.assemble(("outcome changed", "bold red"), f"  {outcome.case}: {outcome.old} -> {outcome.new}")
    for probe, why in found.excused.items():
        yield Text(f"known difference: {probe}: {why}", style="dim")
    reasons: dict[str, list[str]] = {}
    for probe, why in found.apart.items():
        reasons.setdefault(why, []).append(probe)
    for why, names in reasons.items():
        yield Text(f"not compared: {_some(names)}: {why}", style="dim")
    yield ""
    yield counts(found)
    if shared := old.outcomes.keys() & new.outcomes.keys():
        drivers = {case.rpartition(" ")[2] for case in shared}
        scenarios = {case.rpartition(" ")[0] for case in shared}
        yield (
            f"{len(scenarios)} scenarios on {len(drivers)} drivers: {len(shared)} cases were compared, "
            f"{len(found.outcomes)} came out otherwise"
        )
    yield verdict(found)


def counts(found: Comparison) -> str:
    """How many answers changed, by kind, and how many of those drivers rely on."""
    from cgrace.harness.validate.compare import How

    words = {
        How.BROKEN: ("contract is broken", "contracts are broken"),
        How.HABIT: ("habit changed", "habits changed"),
        How.EXTENDED: ("contract is extended", "contracts are extended"),
        How.WORDING: ("text changed", "texts changed"),
    }
    parts = [f"{found.same} answers are the same"]
    for how, (one, many) in words.items():
        of_kind = [change for change in found.changes if change.how is how]
        relied = sum(bool(change.drivers) for change in of_kind)
        if of_kind:
            note = "" if how in (How.EXTENDED, How.WORDING) else f" ({relied or 'none'} that drivers rely on)"
            parts.append(f"{len(of_kind)} {one if len(of_kind) == 1 else many}{note}")
    return ", ".join(parts)


def verdict(found: Comparison) -> Text:
    """Whether it is safe for the drivers: what the exit code says, in words."""
    from rich.text import Text

    if found.safe:
        why = "none of them relies on what changed" if found.changes else "nothing changed"
        return Text(f"safe for the drivers: {why}", style="bold green")
    drivers = sorted({driver for change in found.changes for driver in change.drivers})
    said = [f"{', '.join(drivers)} {'relies' if len(drivers) == 1 else 'rely'} on what changed"] if drivers else []
    if found.outcomes:
        said.append(
            f"{'a case' if len(found.outcomes) == 1 else f'{len(found.outcomes)} cases'} of scenarios came out otherwise"
        )
    return Text(f"not safe for the drivers: {'; '.join(said)}", style="bold red")


def _change_lines(change: Change, found: Comparison) -> Iterator[str]:
    for one in change.differences:
        at = f"{one.place}: " if one.place else ""
        if isinstance(one.old, list) and isinstance(one.new, list) and len(_short(one.old)) > WORDS_MAX:
            yield from _in_words(at, one.old, one.new)
            continue
        yield f"  was  {at}{_short(one.old)}"
        yield f"  now  {at}{_short(one.new)}"
    if change.is_harmless:
        return
    yield f"  source: {change.probe.cites}"
    yield f"  drivers: {', '.join(change.drivers) or 'none here relies on it'}"
    yield from _scenario_lines(change, found)


def _scenario_lines(change: Change, found: Comparison) -> Iterator[str]:
    """The scenarios that it touches, by how they came out."""
    shared = found.old.outcomes.keys() & found.new.outcomes.keys()
    ran = {case.rpartition(" ")[0] for case in shared}
    otherwise = {outcome.case.rpartition(" ")[0] for outcome in found.outcomes}
    groups: dict[str, list[str]] = {}
    for name in change.scenarios:
        how = "came out otherwise" if name in otherwise else "came out as before" if name in ran else "not compared"
        groups.setdefault(how, []).append(name)
    for how, names in groups.items():
        yield f"  scenarios, {how}: {_some(names)}"


def _some(names: list[str]) -> str:
    more = f" and {len(names) - NAMES_MAX} more" if len(names) > NAMES_MAX else ""
    return f"{', '.join(names[:NAMES_MAX])}{more}"


def _in_words(at: str, old: list[Any], new: list[Any]) -> list[str]:
    """Two long lists, word by word: what both have, what only one has."""
    words = [[item if isinstance(item, str) else json.dumps(item) for item in one] for one in (old, new)]
    marks = {"- ": "  was  ", "+ ": "  now  ", "  ": "  both "}
    return [f"{marks[line[:2]]}{at}{line[2:]}" for line in difflib.ndiff(words[0], words[1]) if line[:2] in marks]


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= VALUE_MAX else text[:VALUE_MAX] + "..."


# ---- for programs


def identity(one: Baseline) -> dict[str, Any]:
    """Which systemd it is."""
    return {key: getattr(one, key) for key in ("name", "systemd", "version", "layout", "runs_in")}


def document_of(found: Comparison) -> dict[str, Any]:
    """What --json says."""
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
        verdict=verdict(found).plain,
        counts=counts(found),
        old=identity(found.old),
        new=identity(found.new),
        changes=changes,
        outcomes=[{"case": one.case, "old": one.old, "new": one.new} for one in found.outcomes],
        compared_outcomes=sorted(found.old.outcomes.keys() & found.new.outcomes.keys()),
        same=found.same,
        not_compared=dict(found.apart),
        known_differences=dict(found.excused),
        answers=dict(found.new.answers),
    )
