"""Faults from their tables: one small function a verb."""

from __future__ import annotations

from collections.abc import Callable

from cgrace.harness import faults as f
from cgrace.harness.clock import NS_PER_MS
from cgrace.harness.points import Point
from cgrace.harness.scenario.names import Names
from cgrace.harness.scenario.place import Section
from cgrace.harness.scenario.shapes import shown
from cgrace.harness.scenario.words import NEVER, PEERS

PATIENCE_NS = 500 * NS_PER_MS
"""A hold's patience where the file gives none: below every timed wait that a known driver has."""

Builder = Callable[[Section, Names, str], f.Fault | None]


def build_fault(section: Section, names: Names, number: int) -> f.Fault | None:
    """The fault, or None and problems. `number` counts from 1 and names what has no id."""
    identity = section.get("id", f"fault {number}")
    return _BUILDERS[section.get("verb")](section, names, identity)


def _patience(section: Section) -> int | None:
    given = section.get("patience", PATIENCE_NS)
    return None if given == "none" else given


def _point(section: Section, names: Names, key: str) -> Point | None:
    return names.point(section.get(key), section.at(key))


def _hold(section: Section, names: Names, identity: str) -> f.Fault | None:
    match, until = names.match(section, "hold"), _point(section, names, "until")
    if match is None or until is None:
        return None
    return f.Hold(
        id=identity,
        line=section.place.line,
        match=match,
        until=until,
        patience_ns=_patience(section),
        overtake=section.get("overtake", False),
    )


def _messages(verb: str, kind: type[f.Drop] | type[f.Duplicate] | type[f.Reorder]) -> Builder:
    def build(section: Section, names: Names, identity: str) -> f.Fault | None:
        match = names.match(section, verb)
        return None if match is None else kind(id=identity, line=section.place.line, match=match)

    return build


def _answer(section: Section, names: Names, identity: str) -> f.Fault | None:
    match = names.match(section, "answer")
    if match is None:
        return None
    if match.kind == "signal":
        section.at("answer").problem(f"{match.member} is a signal: nobody waits for an answer to it", "name a call")
        return None
    text = section.get("text", "")
    return f.AnswerError(id=identity, line=section.place.line, match=match, name=section.get("error"), text=text)


def _amend(section: Section, names: Names, identity: str) -> f.Fault | None:
    match, given = names.match(section, "amend"), section.get("set").values
    if not given:
        section.at("set").problem("'set' replaces nothing", "write set = { 0 = ... }: argument number and value")
    if match is None or not given:
        return None
    values = tuple(sorted((int(index), value) for index, value in given.items()))
    return f.Amend(id=identity, line=section.place.line, match=match, values=values)


def _forge(section: Section, names: Names, identity: str) -> f.Fault | None:
    match, when = names.match(section, "forge"), _point(section, names, "when")
    if match is None or when is None:
        return None
    if match.member not in ("JobRemoved", "JobNew") or match.kind != "signal" or not match.unit:
        place = section.at("forge")
        place.problem(f"{shown(match.text)} cannot be forged; expected 'JobRemoved of <unit>' or 'JobNew of <unit>'")
        return None
    job = section.get("job", f"job of {match.unit}")
    if job.startswith("job of ") and not names.unit(job.removeprefix("job of "), section.at("job")):
        return None
    if not job.startswith(("job of ", "/")):
        section.at("job").problem(
            f"{shown(job)} is not a job; expected '/org/freedesktop/systemd1/job/N' or 'job of <unit>'"
        )
        return None
    return f.Forge(
        id=identity,
        line=section.place.line,
        when=when,
        member=match.member,
        unit=match.unit,
        job=job,
        result=section.get("result", "done"),
        times=section.get("times", 1),
        sender=section.get("sender", ""),
    )


def _disconnect(section: Section, names: Names, identity: str) -> f.Fault | None:
    when = _point(section, names, "when")
    if when is None:
        return None
    return f.Disconnect(id=identity, line=section.place.line, when=when, which=section.get("disconnect"))


def _stop_reading(section: Section, names: Names, identity: str) -> f.Fault | None:
    when = _point(section, names, "when")
    until = _point(section, names, "until") if "until" in section else None
    if when is None or (until is None and "until" in section):
        return None
    return f.StopReading(id=identity, line=section.place.line, when=when, until=until)


def _garbage(section: Section, names: Names, identity: str) -> f.Fault | None:
    when = _point(section, names, "when")
    if when is None:
        return None
    which = section.get("which", "all")
    return f.Garbage(id=identity, line=section.place.line, when=when, what=section.get("garbage"), which=which)


def _job(section: Section, names: Names, identity: str) -> f.Fault | None:
    unit, nth, kind = section.get("job"), section.get("nth", 1), section.get("type", "start")
    known, line = names.unit(unit, section.at("job")), section.place.line
    if "ends" in section:
        result = section.get("ends")
        if "patience" in section:
            section.at("patience").problem("a job that ends is not kept: patience says nothing here", "remove it")
        if result == NEVER:
            return f.JobStays(id=identity, line=line, unit=unit, until=None, patience_ns=None, nth=nth, type=kind)
        return f.JobEnds(id=identity, line=line, unit=unit, result=result, nth=nth, type=kind)
    until = _point(section, names, "stays_queued_until")
    if until is None or not known:
        return None
    patience_ns = _patience(section)
    return f.JobStays(id=identity, line=line, unit=unit, until=until, patience_ns=patience_ns, nth=nth, type=kind)


def _hold_open(section: Section, names: Names, identity: str) -> f.Fault | None:
    until, found = _point(section, names, "until"), names.cgroup(section.get("hold_open"), section.at("hold_open"))
    if until is None or found is None:
        return None
    nth = section.get("nth", 1)
    return f.HoldOpen(id=identity, line=section.place.line, hierarchy=found[0], path=found[1], until=until, nth=nth)


def _hold_close(section: Section, names: Names, identity: str) -> f.Fault | None:
    until = _point(section, names, "until")
    if until is None:
        return None
    connection, nth = section.get("hold_close"), section.get("nth", 1)
    return f.HoldClose(id=identity, line=section.place.line, connection=connection, until=until, nth=nth)


def _delete(section: Section, names: Names, identity: str) -> f.Fault | None:
    when, found = _point(section, names, "when"), names.cgroup(section.get("delete"), section.at("delete"))
    if found is not None and found[1] == "/":
        section.at("delete").problem("the root of a hierarchy cannot be deleted", "name a cgroup below it")
        return None
    if when is None or found is None:
        return None
    return f.DeleteCgroup(id=identity, line=section.place.line, when=when, hierarchy=found[0], path=found[1])


def _move(section: Section, names: Names, identity: str) -> f.Fault | None:
    when, found = _point(section, names, "when"), names.cgroup(section.get("to"), section.at("to"))
    process = section.get("move")
    if not names.workload(process, section.at("move")) or when is None or found is None:
        return None
    return f.MoveProcess(
        id=identity, line=section.place.line, when=when, process=process, hierarchy=found[0], path=found[1]
    )


def _disable(section: Section, names: Names, identity: str) -> f.Fault | None:
    when, path = _point(section, names, "when"), names.group(section.get("at"), section.at("at"))
    if when is None or path is None:
        return None
    controller = section.get("disable")
    return f.DisableController(id=identity, line=section.place.line, when=when, controller=controller, path=path)


def _freeze(verb: str) -> Builder:
    def build(section: Section, names: Names, identity: str) -> f.Fault | None:
        when, path = _point(section, names, "when"), names.group(section.get(verb), section.at(verb))
        if when is None or path is None:
            return None
        return f.FreezeCgroup(id=identity, line=section.place.line, when=when, path=path, thaw=verb == "thaw")

    return build


def _peer(section: Section, names: Names, identity: str) -> f.Fault | None:
    when, peer, action = _point(section, names, "when"), section.get("peer"), section.get("do")
    if not names.peer(peer, section.at("peer")) or when is None:
        return None
    if action in ("reload", "reexec") and peer != "systemd":
        section.at("do").problem(f"only systemd can {action}, '{peer}' cannot", "write pause, resume, kill or restart")
    if action == "restart" and peer not in PEERS:
        section.at("do").problem(
            f"'{peer}' cannot be restarted: only systemd and bus can", "write pause, resume or kill"
        )
    return f.Peer(id=identity, line=section.place.line, when=when, peer=peer, do=action)


_BUILDERS: dict[str, Builder] = {
    "hold": _hold,
    "drop": _messages("drop", f.Drop),
    "duplicate": _messages("duplicate", f.Duplicate),
    "reorder": _messages("reorder", f.Reorder),
    "answer": _answer,
    "amend": _amend,
    "forge": _forge,
    "disconnect": _disconnect,
    "stop_reading": _stop_reading,
    "garbage": _garbage,
    "job": _job,
    "hold_open": _hold_open,
    "hold_close": _hold_close,
    "delete": _delete,
    "move": _move,
    "disable": _disable,
    "freeze": _freeze("freeze"),
    "thaw": _freeze("thaw"),
    "peer": _peer,
}
