"""One signature against what was observed: which conditions hold, by which lines, and what is missing."""

from __future__ import annotations

import enum
from collections.abc import Iterable
from dataclasses import dataclass

from cgrace.harness.diagnose.observed import Dump, Observed
from cgrace.harness.diagnose.signatures import (
    Affected,
    GoroutineCondition,
    LineCondition,
    NativeCondition,
    Signature,
)
from cgrace.harness.scenario.releases import is_before
from cgrace.harness.stacks.goroutines import Frame, Goroutine
from cgrace.harness.stacks.wait_graph import plain, short_place

SHOWN_MAX = 4
"""Goroutines shown for one condition; the others are counted."""
LASTING_MINUTES = 1


class Confidence(enum.StrEnum):
    """certain: it cannot be otherwise; likely: it is seen to last, or said; possible: a moment's wait looks the same."""

    CERTAIN = "certain"
    LIKELY = "likely"
    POSSIBLE = "possible"


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """One thing that shows it; line: where in the input, 0 when it is not from there (then `source` says whence)."""

    line: int
    text: str
    source: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Match:
    """What came of one signature. failed: why it does not match, () when it does. held: how many of its conditions hold."""

    signature: Signature
    evidence: tuple[Evidence, ...] = ()
    goroutines: frozenset[tuple[str, int]] = frozenset()
    failed: tuple[str, ...] = ()
    held: int = 0
    confidence: Confidence = Confidence.POSSIBLE
    notes: tuple[str, ...] = ()


def match(signature: Signature, seen: Observed) -> Match:
    """The best that any dump of the input has for a signature."""
    parts = [Part(signature, seen, dump) for dump in seen.dumps] or [Part(signature, seen, None)]
    results = [part.judge() for part in parts]
    return min(results, key=lambda one: (bool(one.failed), -one.held, list(Confidence).index(one.confidence)))


class Part:
    """One signature, one dump: collects evidence and what is missing as it goes through the conditions."""

    def __init__(self, signature: Signature, seen: Observed, dump: Dump | None) -> None:
        self._signature = signature
        self._seen = seen
        self._dump = dump
        self._roles: dict[str, list[Goroutine]] = {}
        self._evidence: list[Evidence] = []
        self._failed: list[str] = []
        self._notes: list[str] = []
        self._held = 0

    def judge(self) -> Match:
        """Go through everything that must hold."""
        for condition in self._signature.goroutines:
            self._goroutine(condition)
        for line in self._signature.lines:
            self._line(line)
        self._some()
        for native in self._signature.natives:
            self._native(native)
        confidence = self._last()
        self._silence()
        for affected in self._signature.affected:
            self._version(affected)
        needed = {c.role for c in self._signature.goroutines if c.needs in ("one", "some")}
        shown = {(self._dump.about, g.id) for r in needed for g in self._roles.get(r, ())} if self._dump else set()
        return Match(
            signature=self._signature,
            evidence=tuple(self._evidence),
            goroutines=frozenset(shown),
            failed=tuple(self._failed),
            held=self._held,
            confidence=confidence,
            notes=tuple(self._notes),
        )

    # ---- goroutines

    def _goroutine(self, condition: GoroutineCondition) -> None:
        found = [g for g in self._dump.goroutines if self._is(g, condition)] if self._dump is not None else []
        self._roles[condition.role] = found
        enough = len(found) >= condition.least
        if condition.needs == "none":
            if found:
                self._failed.append(condition.missing or f"goroutine {found[0].id} is {_where(found[0])}")
            return
        if enough:
            self._held += condition.needs == "one"
            self._show(condition, found)
        elif condition.needs == "one":
            self._failed.append(condition.missing or f"no goroutine {_wanted(condition)}")

    def _is(self, goroutine: Goroutine, condition: GoroutineCondition) -> bool:
        if condition.state and not goroutine.state.startswith(condition.state):
            return False
        blocking = goroutine.blocking
        if condition.function and (blocking is None or not plain(blocking.function).endswith(condition.function)):
            return False
        if condition.inside or condition.without:
            names = [plain(frame.function) for frame in goroutine.frames]
            if condition.inside and not any(needle in name for name in names for needle in condition.inside):
                return False
            if any(needle in name for name in names for needle in condition.without):
                return False
        return self._relates(goroutine, condition)

    def _relates(self, goroutine: Goroutine, condition: GoroutineCondition) -> bool:
        if not (condition.lock or condition.held_by):
            return True
        assert self._dump is not None
        wait = self._dump.waits.get(goroutine.id)
        if wait is None:
            return False
        if condition.lock and (not wait.lock or condition.lock not in ("any", wait.lock)):
            return False
        holders = {g.id for g in self._roles.get(condition.held_by, ())}
        return not condition.held_by or bool(holders & set(wait.held_by))

    def _show(self, condition: GoroutineCondition, found: list[Goroutine]) -> None:
        assert self._dump is not None
        for goroutine in found[:SHOWN_MAX]:
            frame = self._named(goroutine, condition)
            place = f" ({short_place(frame)})" if frame is not None and frame.file else ""
            lasting = f", {goroutine.minutes} minutes" if goroutine.minutes else ""
            text = f"goroutine {goroutine.id} [{goroutine.state}{lasting}] {condition.says or _where(goroutine)}{place}"
            self._evidence.append(Evidence(line=self._dump.line(goroutine), text=text))
        if len(found) > SHOWN_MAX:
            self._evidence.append(
                Evidence(
                    line=self._dump.line(found[SHOWN_MAX]),
                    text=f"and {len(found) - SHOWN_MAX} more goroutines like these",
                )
            )

    def _named(self, goroutine: Goroutine, condition: GoroutineCondition) -> Frame | None:
        needles = condition.function or condition.inside
        return next(
            (f for f in goroutine.frames if any(needle in plain(f.function) for needle in needles)), goroutine.blocking
        )

    # ---- lines, native stacks

    def _line(self, condition: LineCondition) -> None:
        found = [line for line in self._seen.lines if condition.pattern.search(line.text)]
        needs = "one" if condition.traced and self._seen.traced and condition.needs == "may" else condition.needs
        if needs == "none":
            if found:
                self._failed.append(condition.missing or f"line {found[0].number} says {_quote(found[0].text)}")
            return
        if found:
            self._held += needs == "one"
            told = condition.says or "it says"
            self._evidence.append(Evidence(line=found[0].number, text=f"{told}: {_quote(found[0].text)}"))
        elif needs == "one":
            self._failed.append(condition.missing or f"no line says {condition.pattern.pattern!r}")

    def _some(self) -> None:
        """Of the conditions that need "some", one must hold."""
        goroutines = [c for c in self._signature.goroutines if c.needs == "some"]
        lines = [c for c in self._signature.lines if c.needs == "some"]
        if not goroutines and not lines:
            return
        if any(len(self._roles.get(c.role, ())) >= c.least for c in goroutines) or any(
            condition.pattern.search(line.text) for condition in lines for line in self._seen.lines
        ):
            self._held += 1
        else:
            self._failed.append((goroutines or lines)[0].missing or "none of its signs is there")

    def _native(self, condition: NativeCondition) -> None:
        for native in self._seen.natives:
            if native.about.split(" ")[0] not in ("", condition.program):
                continue
            named = native.at(*condition.function)
            if native.at(*condition.without) or (not named and native.untimed is None):
                continue
            if native.untimed is not None and native.untimed != condition.untimed:
                continue
            at = named or native.untimed_at
            self._held += 1
            self._evidence.append(Evidence(line=at, text=condition.says, source=native.about))
            return
        self._failed.append(condition.missing)

    # ---- whether it lasts

    def _last(self) -> Confidence:
        """How sure it is; adds what shows that, or what speaks against it."""
        signature, seen = self._signature, self._seen
        sure = {"structure": Confidence.CERTAIN, "said": Confidence.LIKELY}.get(signature.certain, Confidence.POSSIBLE)
        if seen.proved and signature.certain == "lasting":
            self._evidence.append(Evidence(line=0, text="the trace proves that nothing can wake it", source="trace"))
            sure = Confidence.CERTAIN
        elif seen.stuck and signature.certain == "lasting":
            self._evidence.append(Evidence(line=0, text="it has not moved for a minute or more", source="--stuck"))
            sure = Confidence.LIKELY
        elif seen.own_wait and signature.certain == "timed":
            self._evidence.append(
                Evidence(line=0, text="the trace shows that only its own timer can end it", source="trace")
            )
            sure = Confidence.LIKELY
        # The first goroutine of an entry is the one that must not move; a dispatcher may well be idle for hours.
        waiters = self._roles.get(signature.goroutines[0].role, []) if signature.goroutines else []
        sure = self._minutes(waiters, sure)
        sure = self._again(waiters, sure)
        sure = self._jobs(sure)
        self._units(waiters)
        return sure

    def _minutes(self, waiters: list[Goroutine], sure: Confidence) -> Confidence:
        longest = max((g.minutes for g in waiters), default=0)
        if self._signature.certain == "timed" and 60 * longest > 2 * self._signature.bound_s:
            self._failed.append(
                f"it has waited for {longest} minutes, and that wait ends by itself after {self._signature.bound_s} s"
            )
        elif self._signature.certain == "lasting" and longest >= LASTING_MINUTES and sure is Confidence.POSSIBLE:
            return Confidence.LIKELY
        return sure

    def _again(self, waiters: list[Goroutine], sure: Confidence) -> Confidence:
        if self._dump is None or self._signature.certain != "lasting":
            return sure
        again = [self._seen.asleep_since_before(g, self._dump) for g in waiters]
        if again and any(one is True for one in again):
            self._evidence.append(Evidence(line=0, text="a second dump shows the same goroutine at the same place"))
            return Confidence.LIKELY if sure is Confidence.POSSIBLE else sure
        if again and all(one is False for one in again):
            self._failed.append("a second dump shows that it went on")
        return sure

    def _jobs(self, sure: Confidence) -> Confidence:
        seen, jobs, wanted = self._seen, self._seen.jobs, self._signature.jobs
        if not wanted:
            return sure
        if not jobs.known:
            if wanted in ("queued", "stays"):
                self._failed.append("nobody said which jobs are queued (--jobs)")
            return sure
        queued = jobs.of_drivers
        if wanted == "gone" and queued:
            self._failed.append(
                f"the job {queued[0].type} {queued[0].unit} is still {queued[0].state}, so the answer may come"
            )
        elif wanted in ("queued", "stays") and not queued:
            self._failed.append("no job of a slice or scope is queued")
        elif wanted == "stays" and not (seen.proved or seen.own_wait or seen.stuck):
            self._failed.append(f"the job {queued[0].type} {queued[0].unit} is {queued[0].state}, and that may yet end")
        else:
            text = (
                f"the job {queued[0].type} {queued[0].unit} is {queued[0].state}"
                if queued
                else "no job of a slice or scope is queued: nothing is left to be answered"
            )
            line = queued[0].at if queued else jobs.empty.number if jobs.empty else 0
            self._evidence.append(Evidence(line=line, text=text, source="jobs"))
            return Confidence.LIKELY if sure is Confidence.POSSIBLE else sure
        return sure

    def _units(self, waiters: list[Goroutine]) -> None:
        """Whether a unit changed its state when the wait began: with one a job ran, with none the call was refused."""
        seen, wanted = self._seen, self._signature.units
        if not wanted or not seen.units or seen.uptime_s is None or not waiters:
            return
        minutes = max(g.minutes for g in waiters)
        begin, end = seen.uptime_s - 60 * (minutes + 1), seen.uptime_s - 60 * minutes
        ran = [unit for unit in seen.units if begin <= unit.changed_s <= end]
        told = (
            f"{ran[0].name} changed its state when the wait began"
            if ran
            else "no slice or scope changed its state when the wait began"
        )
        if bool(ran) != (wanted == "ran"):
            self._failed.append(told)
        else:
            self._evidence.append(Evidence(line=ran[0].at if ran else 0, text=told, source="units"))

    def _silence(self) -> None:
        silent = self._seen.jobs.silent
        if self._signature.silent and silent is None:
            self._failed.append("systemd answers, or nobody asked it")
        elif self._signature.silent and silent is not None:
            self._held += 1
            self._evidence.append(
                Evidence(line=silent.number, text=f"systemd does not answer: {_quote(silent.text)}", source="jobs")
            )

    def _version(self, affected: Affected) -> None:
        version = (self._dump.versions if self._dump is not None else {}).get(affected.module)
        if version is None or self._failed:
            return
        short = affected.module.removeprefix("github.com/")
        if affected.since and is_before(version, affected.since):
            told, has = f"{short} {version} is older than {affected.since}, which brought it", False
        elif affected.fixed and is_before(version, affected.fixed) is False:
            told, has = f"{short} {version} has the fix ({affected.fixed})", False
        else:
            told, has = f"{short} {version} has it" + (f"; fixed in {affected.fixed}" if affected.fixed else ""), True
        if not has and affected.excludes:
            self._failed.append(told)
        else:
            self._notes.append(told if has else f"{told}; its stacks show it all the same: is it a patched build?")


def _where(goroutine: Goroutine) -> str:
    frame = goroutine.blocking
    return f"in {frame.name}" if frame is not None else "without a frame"


def _wanted(condition: GoroutineCondition) -> str:
    names = condition.function or condition.inside
    what = f"is in {names[0].rsplit('.', 1)[-1]}" if names else "waits so"
    state = f" with state {condition.state[0]!r}" if condition.state else ""
    return f"{what}{state}" + (f" for {condition.lock}" if condition.lock else "")


def _quote(text: str) -> str:
    text = " ".join(text.split())
    return f'"{text[:160]}{"..." if len(text) > 160 else ""}"'


def matches(all_: Iterable[Signature], seen: Observed) -> tuple[Match, ...]:
    """Every signature's result, in their order."""
    return tuple(match(signature, seen) for signature in all_)
