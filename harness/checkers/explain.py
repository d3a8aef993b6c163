"""Three sentences for a finding: what happened, why it is wrong, what to look at. Filled from events; plain words."""

from __future__ import annotations

from cgrace.harness.checkers.text import duration, listed


def hang(title: str, op: str, culprit: str, place: str) -> str:
    """A proved hang. culprit: the function whose wait is the cause ("" when the dump does not tell)."""
    cause = (
        f"{culprit} waits for something that cannot happen any more"
        if culprit
        else "nothing is left that could wake it"
    )
    where = (
        f"the wait in {culprit}" + (f" at {place}" if place else "") if culprit else "the driver's stacks in the trace"
    )
    return (
        f"{title} ({op}) was called and never returned: {cause}. "
        "An operation must not wait for what can no longer happen, and must hold no lock over such a wait. "
        f"Look at {where}, and at the last message that it was sent before it came to rest."
    )


def slow(title: str, own_ns: int, bound_ns: int, *, waited_out: bool) -> str:
    """A driver's own timer ran for longer than the bound."""
    did = "waited" if waited_out else "was going to wait"
    return (
        f"{title} {did} {duration(own_ns)} on a timer of the driver's own, while nothing could answer it. "
        f"An operation must return, with success or a clear error, within {duration(bound_ns)}. "
        "Look at what it waits for after systemd's last answer, and at whether that answer promised anything more."
    )


def lost(title: str, hierarchies: tuple[str, ...], story: str) -> str:
    """Cgroups that a successful step reported are not so; story: "systemd removed it, 2 ms after the step had returned"."""
    return (
        f"{title} returned success and reported its cgroup in {listed(hierarchies)}; {story}. "
        "After success every reported cgroup must exist and hold the process, else limits and device rules silently do not apply. "
        "Look at whether the step waited for its job to end and read its result, and at which controllers systemd was told are "
        "delegated."
    )


def leaked(kind: str, name: str, unit_destroyed: bool) -> str:
    """Something outlived the destroy that should have taken it along."""
    after = "although its destroy had returned" if unit_destroyed else "at the end of the run"
    return (
        f"The {kind} {name} was still there {after}. "
        "What a driver makes it must also take away, or a long-lived caller fills the machine up. "
        "Look at what destroy asks of systemd, whether it waits for the answer, and at its errors."
    )


def left_frozen(path: str, frozen: bool) -> str:
    """A cgroup that is frozen, or not, against what was asked."""
    state, asked = (
        ("frozen", "no step or fault had frozen it") if frozen else ("thawed", "it had been frozen on purpose")
    )
    return (
        f"The cgroup {path} was {state} at the end, although {asked}. "
        "A driver that freezes around its writes has to put back what was there, also when it fails or is killed in between. "
        "Look at what its set does before and after it asks systemd."
    )


def unfired(fault: str, where: str, hint: str) -> str:
    """A fault of the scenario that never acted."""
    return (
        f"The fault {fault!r}{where} never acted. "
        "A run without its fault shows nothing, whatever the other findings say. "
        f"Look at {hint}."
    )


def dead(process: str, how: str, said: str) -> str:
    """A driver's process that died, babbled or never came up."""
    return (
        f"The driver process {process!r} {how}. "
        "Only a living driver can be judged, and one that dies takes its caller with it. "
        f"Look at {said}."
    )
