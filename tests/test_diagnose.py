"""`cgrace diagnose`: every hang by its own name, nothing for what is well, in whatever a dump comes wrapped."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from diagnose_kit import NO_JOBS, QUEUED, WRAPS, best, dump, journal, judged, lasting, unrelated

from cgrace.harness.diagnose.match import Confidence

LASTING = [
    ("unit-exists", "unit-exists-wait"),
    ("no-reply", "call-unanswered"),
    ("no-reply-rc4", "call-unanswered"),
    ("lost-signal-containerd-v1", "containerd-endless-wait"),
    ("lost-signal-go-systemd", "scope-wait-without-limit"),
]
PROVEN = [
    ("late-signal-lock", "late-signal-lock"),
    ("many-slices", "late-signal-lock"),
    ("bus-lost", "bus-lost-in-wait"),
]
TIMED = [
    ("lost-signal-today", "timed-wait"),
    ("bus-lost-today", "bus-lost-timed"),
    ("lost-signal-crio", "crio-timed-wait"),
]


@pytest.mark.parametrize(("name", "entry"), PROVEN)
def test_stacks_that_nothing_can_free_are_certain(name: str, entry: str) -> None:
    """The dump alone is enough."""
    found = judged(dump(name))
    assert found.best is not None
    assert (found.best.signature.id, found.best.confidence) == (entry, Confidence.CERTAIN)


@pytest.mark.parametrize(("name", "entry"), LASTING)
def test_a_wait_that_lasts_is_a_hang(name: str, entry: str) -> None:
    """By the runtime's own minutes, by the user's word, or by a second dump that shows the same."""
    text = dump(name)
    assert best(lasting(text)) == entry
    assert best(text, stuck=True) == entry
    twice = f"=== cgrace: goroutines kubelet 7 ===\n{text}\n=== cgrace: goroutines kubelet 7 again ===\n{text}"
    assert best(twice) == entry


@pytest.mark.parametrize(("name", "entry"), LASTING)
def test_a_moment_of_a_healthy_operation_is_none(name: str, entry: str) -> None:
    """The same stacks, seen once: no diagnosis, but what it would be if it lasts."""
    found = judged(dump(name))
    assert found.best is None
    assert entry in [one.signature.id for one in found.possible]


@pytest.mark.parametrize("name", ["unit-exists", "lost-signal", "lost-signal-today", "lost-signal-containerd-v1"])
def test_whoever_waits_for_a_job_that_is_queued_is_well(name: str) -> None:
    """With the job still in systemd's list the answer may come, and that is said."""
    found = judged(dump(name), jobs=QUEUED)
    assert (found.best, found.possible) == (None, ())
    assert any("kubepods-pod1.slice is waiting" in note for note in found.notes)
    assert judged(lasting(dump("unit-exists")), jobs=QUEUED).best is None


@pytest.mark.parametrize(("name", "entry"), TIMED)
def test_a_wait_with_a_limit_is_told_as_no_hang(name: str, entry: str) -> None:
    """Only when its job is gone is it worth a diagnosis; and it cannot have lasted for hours."""
    found = judged(dump(name), jobs=NO_JOBS)
    assert found.best is not None
    assert found.best.signature.id == entry
    assert found.best.signature.title.startswith("No hang")
    assert best(dump(name)) is None
    assert best(lasting(dump(name), 700), jobs=NO_JOBS) is None


def test_what_moved_between_two_dumps_is_no_hang() -> None:
    """The second dump shows that goroutine elsewhere."""
    text = lasting(dump("unit-exists"))
    moved = text.replace("apply_systemd.go:303", "apply_systemd.go:310").replace(
        "goroutine 24 [chan receive", "goroutine 24 [select"
    )
    twice = f"=== cgrace: goroutines kubelet 7 ===\n{text}\n=== cgrace: goroutines kubelet 7 again ===\n{moved}"
    assert best(twice, jobs=NO_JOBS) is None


def test_unit_exists_and_a_lost_signal_look_alike() -> None:
    """From one dump they cannot be told apart, and the diagnosis says so and how to."""
    found = judged(lasting(dump("unit-exists")), jobs=NO_JOBS)
    assert found.best is not None
    assert [found.best.signature.id, *(one.signature.id for one in found.alike)] == [
        "unit-exists-wait",
        "lost-job-removed",
    ]
    assert found.best.signature.tell


UNITS = """=== cgrace: clock ===
uptime 5000.25
=== cgrace: units ===
Id=kubepods.slice
ActiveState=active
StateChangeTimestampMonotonic={0}

Id=system.slice
ActiveState=active
StateChangeTimestampMonotonic=1000000
=== cgrace: goroutines kubelet 7 ===
"""


@pytest.mark.parametrize(("changed_s", "entry"), [(4250, "lost-job-removed"), (60, "unit-exists-wait")])
def test_the_units_times_tell_them_apart(changed_s: int, entry: str) -> None:
    """A unit that changed when the wait began had a job; without one the call was refused."""
    text = UNITS.format(changed_s * 1_000_000) + lasting(dump("unit-exists"))
    found = judged(text, jobs=NO_JOBS)
    assert found.best is not None
    assert (found.best.signature.id, found.alike) == (entry, ())


def test_the_bus_traffic_tells_them_apart() -> None:
    """A line that says UnitExists decides."""
    said = "error org.freedesktop.systemd1.UnitExists: Unit kubepods.slice already exists.\n"
    found = judged(lasting(dump("unit-exists")) + "\n" + said)
    assert found.best is not None
    assert (found.best.signature.id, found.alike) == ("unit-exists-wait", ())


@pytest.mark.parametrize("wrap", WRAPS, ids=lambda wrap: wrap.__name__)
@pytest.mark.parametrize(("name", "entry"), [*PROVEN, *LASTING])
def test_a_dump_is_read_in_whatever_it_comes(name: str, entry: str, wrap: Callable[[str], str]) -> None:
    """Journals, syslog, containers' logs, JSON, quotes, CRLF: among hundreds of other goroutines the same diagnosis."""
    text = "\n".join([unrelated(150), lasting(dump(name)), unrelated(150, 5000)])
    wrapped = wrap(text)
    found = judged(wrapped)
    assert found.best is not None
    assert found.best.signature.id == entry
    lines = wrapped.split("\n")
    for one in found.best.evidence:
        assert one.line == 0 or "goroutine " in lines[one.line - 1]


def test_a_dump_that_was_cut_is_read_as_far_as_it_goes() -> None:
    """A log that lost its end: what is there is diagnosed, and that it is cut is said."""
    text = journal(unrelated(100) + "\n" + lasting(dump("late-signal-lock")))
    at = text.index("startJob")
    found = judged(text[: text.index("\n", at)])
    assert found.best is not None
    assert any("ends in the middle of goroutine" in note for note in found.notes)


def test_what_is_well_is_none() -> None:
    """A kubelet's hundreds of goroutines without a word of systemd; and one whose connections are idle."""
    found = judged(unrelated(300))
    assert (found.best, found.possible) == (None, ())
    assert any("no goroutine is in a cgroup driver" in note for note in found.notes)
    idle = "\n\n".join(part for part in dump("unit-exists").split("\n\n") if "systemd.(*Manager).Apply" not in part)
    assert "dispatch.func1" in idle
    assert (judged(idle, jobs=NO_JOBS).best, judged(idle).possible) == (None, ())


def test_versions_in_the_paths_refine_it() -> None:
    """A version before the fix has it; one with the fix is doubted, as its stacks show it all the same."""
    found = judged(dump("late-signal-lock"))
    assert found.best is not None
    assert found.best.notes == ("opencontainers/runc v1.0.0-rc5 has it; fixed in v1.0.0-rc6",)
    later = judged(dump("late-signal-lock").replace("runc@v1.0.0-rc5", "runc@v1.0.0-rc91"))
    assert later.best is not None
    assert "has the fix" in later.best.notes[0]
    assert "patched" in later.best.notes[0]


def test_what_speaks_against_the_others_is_said() -> None:
    """The next best entries, each with what it lacks."""
    against = {one.signature.id: one.failed[0] for one in judged(dump("late-signal-lock")).against}
    assert against["crio-unbuffered-scope"] == "no goroutine of cri-o's RunUnderSystemdScope waits for jobListener"
    assert "unit-exists-wait" in against
