"""The drivers that cgrace can have by name."""

from __future__ import annotations

import difflib
import functools
import re
from collections.abc import Collection
from pathlib import Path

from cgrace.harness.drivers import versions
from cgrace.harness.drivers.base import DriverSpec
from cgrace.harness.drivers.commands import find_command, machine_commands
from cgrace.harness.drivers.ladder import RELEASED, RUNGS
from cgrace.harness.drivers.reference import find_reference
from cgrace.harness.errors import DriverError
from cgrace.harness.scenario.words import OPERATIONS

RUNC = "github.com/opencontainers/runc"
CGROUPS = "github.com/opencontainers/cgroups"
CGROUPS_VERSION = "v0.1.0"
SOURCE_PREFIX = "source:"
FLEET = "fleet"

_RELEASE_WORDS = re.compile(
    r"(?:(?P<product>runc|cgroups|containerd|go-systemd)[- @]?)?v?(?P<version>(?:rc)?[0-9][0-9a-z.-]*)"
)

_NOTES = {
    "rc4": "released 2017-08; passes no channel, so it waits for nothing",
    "async": "before runc #1683: no wait for the job",
    "wait-forever": "runc #1683, released as rc5: waits without limit, also after UnitExists",
    "timeout": "runc #1754: waits a second whatever the call said; unbuffered channel",
    "err-nil": "runc #1772: waits a second after success only; unbuffered channel",
    "err-nil-delegate": "runc #1776: the same, and asks whether slices can have Delegate",
    "buffered": "runc #1781: the channel has room for one",
    "rc5": "released 2018-02: the rung wait-forever",
    "retry": "ours, never upstream (7a): as buffered, and after its second it looks whether the unit is active, and waits on",
    "unlocked": "ours, never upstream (12a): as err-nil, with a go-systemd that does not send under its lock",
    "rc6": "released 2018-11: the rung buffered, with later changes that do not concern the wait",
}


def _ladder(name: str) -> DriverSpec:
    rung = RUNGS[name]
    step, _, cut = name.partition("@")
    note = _NOTES[step]
    return DriverSpec(
        name=name,
        generation={"rc5": "wait-forever", "rc6": "buffered"}.get(step, step),
        module=RUNC,
        version=f"v1.0.0-{rung.base}",
        family="A",
        # rc5 runs where its rungs run. rc4 has no cut of its own for systemds that refuse Delegate on slices: it fails there.
        rung={"rc4": "", "rc5": "rc5", "rc6": ""}.get(name, rung.base),
        release=f"runc@1.0.0-{name}" if name in RELEASED else "",
        note=f"{note}; cut from {cut}" if cut else note,
        ours=bool(rung.ours),
    )


CATALOGUE: tuple[DriverSpec, ...] = (
    DriverSpec(
        name="cgroupfs",
        generation="cgroupfs",
        module=CGROUPS,
        version=CGROUPS_VERSION,
        family="D",
        layouts=("v1", "v2"),
        operations=OPERATIONS,
        uses_bus=False,
        note="the plain driver of the same module: the control group of every experiment",
    ),
    *(_ladder(name) for name in RUNGS),
    DriverSpec(
        name="today",
        generation="today",
        module=CGROUPS,
        version=CGROUPS_VERSION,
        family="D",
        layouts=("v1", "v2"),
        operations=OPERATIONS,
        release=f"cgroups@{CGROUPS_VERSION.removeprefix('v')}",
        note="released 2026-08: what the kubelet and runc link; 30 s for a job, no limit for a call",
    ),
)
# What a run takes when nobody names drivers: a column for each generation. The releases rc5 and rc6 are the rungs wait-forever
# and buffered to the byte, so they have no column of their own.
_DEFAULT = ("cgroupfs", "rc4", "async", "wait-forever", "timeout", "err-nil", "err-nil-delegate", "buffered", "today")
# The same on a machine that has cgroup v2 alone: libcontainer knows it from rc91 on. One for each later step in how it waits.
_DEFAULT_V2 = (
    "cgroupfs",
    "runc@1.0.0-rc91",
    "runc@1.0.0-rc93",
    "runc@1.0.0-rc94",
    "runc@1.0.0",
    "runc@1.1.5",
    "today",
    "containerd@3.1.3",
)


@functools.lru_cache(maxsize=1)
def _by_name() -> dict[str, DriverSpec]:
    return {spec.name: spec for spec in CATALOGUE}


def find(name: str) -> DriverSpec:
    """The driver of that name; `source:PATH` is a checkout of the user's own, `runc@1.1.12` a release. DriverError with the nearest
    names."""
    if name.startswith(SOURCE_PREFIX):
        from cgrace.harness.drivers.source import inspect

        return inspect(Path(name.removeprefix(SOURCE_PREFIX)))
    if versions.is_release(name):
        return versions.released(name)
    if (spec := _by_name().get(name) or find_reference(name) or find_command(name)) is not None:
        return spec
    if (release := _meant_release(name)) is not None:
        raise DriverError(f"there is no driver '{name}'; did you mean '{release}'?", hint="cgrace drivers")
    close = difflib.get_close_matches(name, _by_name(), n=3, cutoff=0.5)
    meant = " or ".join(f"'{one}'" for one in close) if close else ", ".join(_by_name())
    raise DriverError(
        f"there is no driver '{name}'" + (f"; did you mean {meant}?" if close else f"; there are: {meant}"),
        hint="--driver runc@1.1.12 takes any release (cgrace drivers), source:PATH a checkout of your own, "
        "runc:PATH a built command",
    )


def _meant_release(name: str) -> str | None:
    """The release that `rc91`, `runc-1.1.12` or `1.1.12` may have been meant for."""
    found = _RELEASE_WORDS.fullmatch(name)
    if found is None:
        return None
    product, version = found["product"] or "runc", found["version"]
    version = f"1.0.0-{version}" if version.startswith("rc") else version
    return f"{product}@{version}" if version in versions.products()[product].lines else None


def find_all(name: str) -> tuple[DriverSpec, ...]:
    """What a name on a command line stands for: `fleet` for one driver of each step in behaviour and the commands that this machine
    has, else the driver of that name."""
    return (*versions.fleet(), *machine_commands()) if name == FLEET else (find(name),)


def listed() -> tuple[DriverSpec, ...]:
    """Every driver that has a name of its own: those of the story, then every released version."""
    return (*CATALOGUE, *versions.all_released())


def default_drivers(layouts: Collection[str] = ("v1",)) -> tuple[DriverSpec, ...]:
    """One driver for each generation that knows one of the layouts, and of the ladder both cuts: a scenario's setting picks the
    one that fits."""
    if "v1" not in layouts:
        return tuple(find(name) for name in _DEFAULT_V2)
    steps = set(_DEFAULT)
    return tuple(spec for spec in CATALOGUE if spec.name.partition("@")[0] in steps)
