"""The diagnosis: which entry it is, what it could be as well, what speaks against the next best, and what to do."""

from __future__ import annotations

from dataclasses import dataclass

from cgrace.harness.diagnose.match import Confidence, Match, matches
from cgrace.harness.diagnose.observed import Dump, Observed
from cgrace.harness.diagnose.signatures import signatures
from cgrace.harness.stacks.wait_graph import Wait

AGAINST_MAX = 4
GRAPH_MAX = 12
RIVALS = ("unit-exists-wait", "lost-job-removed", "late-signal-lock", "call-unanswered", "timed-wait")
"""What a hang of this class is taken for first, and so is spoken to even when nothing of it is there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Diagnosis:
    """What a node has. matches: entries that it is, the best first; alike: whose stacks look the same as the best's; possible:
    what would be one if the wait lasts; against: the next best, each with why it is not it. waits: who waits for whom."""

    matches: tuple[Match, ...]
    alike: tuple[Match, ...]
    possible: tuple[Match, ...]
    against: tuple[Match, ...]
    waits: tuple[Wait, ...]
    seen: str
    versions: tuple[str, ...]
    notes: tuple[str, ...]

    @property
    def best(self) -> Match | None:
        """What it is; None when no known entry is."""
        return self.matches[0] if self.matches else None


def diagnose(seen: Observed) -> Diagnosis:
    """Hold everything that is known against what was observed."""
    results = matches(signatures(), seen)
    found = [one for one in results if not one.failed]
    superfluous = {name for one in found for name in one.signature.over}
    found = [one for one in found if one.signature.id not in superfluous]
    sure = sorted((one for one in found if one.confidence is not Confidence.POSSIBLE), key=_order)
    possible = tuple(sorted((one for one in found if one.confidence is Confidence.POSSIBLE), key=_order))
    best = sure[0] if sure else None
    alike = tuple(one for one in sure[1:] if best is not None and one.goroutines and one.goroutines == best.goroutines)
    against = sorted(
        (one for one in results if one.failed and _near(one, seen)),
        key=lambda one: (-one.held, one.signature.id not in RIVALS, len(one.failed)),
    )
    waits = _graph(seen)
    return Diagnosis(
        matches=tuple(one for one in sure if one not in alike),
        alike=alike,
        possible=possible,
        against=tuple(against[:AGAINST_MAX]),
        waits=waits[:GRAPH_MAX],
        seen=_seen(seen),
        versions=_versions(seen),
        notes=_notes(seen, best),
    )


def _order(one: Match) -> tuple[int, int, int, str]:
    return list(Confidence).index(one.confidence), one.signature.rank, -one.held, one.signature.id


def _near(one: Match, seen: Observed) -> bool:
    """Whether somebody could take it for this: some of its conditions hold, or it is of what one thinks of first."""
    if one.signature.certain == "said":
        return one.held > 0 and len(one.failed) == 1 and not one.goroutines
    return one.held > 0 or (bool(seen.dumps) and one.signature.id in RIVALS)


def _graph(seen: Observed) -> tuple[Wait, ...]:
    """Who waits for whom, of the dump that has most of it; the libraries' own idle readers and dispatchers left out."""
    waits = [[wait for wait in dump.waits.values() if not _idle(wait)] for dump in seen.dumps]
    best = max(waits, key=len, default=[])
    return tuple(sorted(best, key=lambda wait: (not wait.holds, bool(wait.lock), wait.goroutine)))


def _idle(wait: Wait) -> bool:
    resting = (
        "inWorker",
        "outWorker",
        "newConn",
        "send",
        "dispatch",
        "ReadMessage",
        "readMsg",
        "ReadMsgUnix",
        "newConnFromAddr",
    )
    return not wait.holds and not wait.lock and (wait.function in resting or "descriptor" in wait.what)


def _seen(seen: Observed) -> str:
    """What was handed in, in a line."""
    parts = []
    for dump in seen.dumps:
        inside = sum(1 for wait in dump.waits.values() if not _idle(wait))
        what = f"{_count(len(dump.goroutines), 'goroutine')}, {inside} of them in cgroup drivers or D-Bus calls"
        parts.append(f"{dump.about or 'a dump'}: {what}")
    parts += [f"a stack of {native.about or 'a program'}" for native in seen.natives]
    if seen.jobs.known:
        parts.append(f"{_count(len(seen.jobs.jobs), 'job')} queued, {len(seen.jobs.of_drivers)} of slices and scopes")
    return "; ".join(parts)


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


TELLING = ("opencontainers/runc", "opencontainers/cgroups", "containerd/cgroups", "coreos/go-systemd", "godbus/dbus")


def _versions(seen: Observed) -> tuple[str, ...]:
    found = {
        f"{module.removeprefix('github.com/')} {version}": None
        for dump in seen.dumps
        for module, version in sorted(dump.versions.items())
        if module.endswith(TELLING)
    }
    return (*found, *(f"{name}: {text}" for name, text in seen.versions.items()))


def _notes(seen: Observed, best: Match | None) -> tuple[str, ...]:
    """What the reader should know about what was handed in."""
    notes: list[str] = []
    if seen.dumps and not any(dump.waits for dump in seen.dumps):
        notes.append(
            "no goroutine is in a cgroup driver, go-systemd or godbus: whatever hangs here, it is none of these"
        )
    decided = best is not None and best.confidence is Confidence.CERTAIN
    if not decided and not seen.jobs.known and seen.jobs.silent is None:
        notes.append(
            "no list of jobs was given: systemctl list-jobs > FILE, then --jobs FILE, tells a late job from a lost answer"
        )
    if seen.jobs.of_drivers and best is None:
        job = seen.jobs.of_drivers[0]
        notes.append(
            f"the job {job.type} {job.unit} is {job.state}: whoever waits for it waits for systemd, and that may yet end"
        )
    for dump in seen.dumps:
        if cut := _cut(dump):
            notes.append(cut)
    return tuple(notes)


def _cut(dump: Dump) -> str:
    """Whether a dump ends in the middle of a goroutine, as logs and copies do."""
    last = dump.goroutines[-1]
    whole = last.id == 0 or not last.frames or last.frames[-1].file or last.created_by is not None
    return "" if whole else f"the dump ends in the middle of goroutine {last.id}: something of it may be missing"


def says_something(seen: Observed) -> bool:
    """Whether a text without a dump, a stack or a list has a line that is known all the same, such as a log's."""
    return any(not one.failed and one.signature.certain == "said" for one in matches(signatures(), seen))
