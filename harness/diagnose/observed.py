"""Everything that was handed in, read once: dumps, jobs, units, stacks, versions, and what a proof says.

Which of it is there differs from node to node, so each part may be missing, and whoever asks must be able to tell "no" from
"nobody said".
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from cgrace.harness.diagnose.jobs import Jobs, Unit, read_jobs, read_units, uptime_s
from cgrace.harness.diagnose.native import Native, read_native
from cgrace.harness.diagnose.source import Line, Section, read
from cgrace.harness.errors import UsageError
from cgrace.harness.stacks.goroutines import Goroutine, parse
from cgrace.harness.stacks.wait_graph import DRIVER_PACKAGES, Wait, graph, plain

DUMPS_MAX = 64
PACKAGES = (
    *DRIVER_PACKAGES,
    "go-systemd/dbus.",
    "godbus/dbus.",
    "RunUnderSystemdScope",
    "cgrace/shim.(*server).operate",
)
_VERSION = re.compile(r"(?P<module>(?:[a-z0-9-]+\.)+[a-z]+/[^\s@]+?)@(?P<version>v[^/\s]+)/")
_MAJOR = re.compile(r"/v\d+$")


@dataclass(frozen=True, slots=True, kw_only=True)
class Dump:
    """One dump of one program. about: such as "kubelet 812"; numbers: of each of its lines, where it is in the file."""

    about: str
    goroutines: tuple[Goroutine, ...]
    waits: Mapping[int, Wait]
    numbers: tuple[int, ...]
    versions: Mapping[str, str]

    def line(self, at: Goroutine) -> int:
        """Where in the file a goroutine stands; 0 when it does not."""
        return self.numbers[at.at - 1] if 0 < at.at <= len(self.numbers) else 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Observed:
    """What is known. proved: a trace proves that nothing can wake the program; own_wait: it saw
    that only the program's own timer can; stuck: the user
    says that it has not moved for a minute or more; traced: the lines tell every message."""

    dumps: tuple[Dump, ...]
    jobs: Jobs
    units: tuple[Unit, ...] = ()
    uptime_s: float | None = None
    natives: tuple[Native, ...] = ()
    versions: Mapping[str, str] = field(default_factory=dict)
    lines: tuple[Line, ...] = ()
    proved: bool = False
    own_wait: bool = False
    stuck: bool = False
    traced: bool = False

    @property
    def empty(self) -> bool:
        """Whether nothing in it was understood."""
        return not (self.dumps or self.natives or self.jobs.known or self.jobs.silent or self.units or self.versions)

    def asleep_since_before(self, goroutine: Goroutine, dump: Dump) -> bool | None:
        """Whether a goroutine stands in a second dump of its program as it stands in this one; None when there is no second."""
        others = [
            other
            for other in self.dumps
            if other is not dump and other.about.split(" ")[:2] == dump.about.split(" ")[:2]
        ]
        if not others or not dump.about:
            return None
        return all(any(_same(goroutine, candidate) for candidate in other.goroutines) for other in others)


def _same(one: Goroutine, other: Goroutine) -> bool:
    return (
        one.id == other.id
        and one.state == other.state
        and [f.function for f in one.frames] == [f.function for f in other.frames]
    )


def observe(
    text: str,
    *,
    jobs: str | None = None,
    crun: str | None = None,
    proved: bool = False,
    own_wait: bool = False,
    stuck: bool = False,
    traced: bool = False,
) -> Observed:
    """Read what was handed in; UsageError when there is neither a goroutine nor a stack in it."""
    sections = read(text)
    dumps, natives, versions = _dumps(sections), list(_natives(sections)), _versions(sections)
    if crun is not None:
        native = read_native([line for section in read(crun) for line in section.lines], "crun")
        if native is None:
            raise UsageError(
                "the crun stack has no function and no poll in it",
                hint="gdb -p PID -batch -ex bt, or cat /proc/PID/syscall /proc/PID/wchan /proc/PID/stack",
            )
        natives.insert(0, native)
    listed = read_jobs(_lines(read(jobs))) if jobs is not None else read_jobs(_lines(sections, "jobs", "manager"))
    if jobs is not None and not listed.known and listed.silent is None:
        raise UsageError(
            "this is not what systemctl list-jobs prints", hint="systemctl list-jobs > FILE, then --jobs FILE"
        )
    return Observed(
        dumps=dumps,
        jobs=listed,
        units=read_units(_lines(sections, "units")),
        uptime_s=uptime_s(_lines(sections, "clock")),
        natives=tuple(natives),
        versions=versions,
        lines=tuple(Line(number, each) for number, each in enumerate(text.split("\n"), 1)),
        proved=proved,
        own_wait=own_wait,
        stuck=stuck,
        traced=traced,
    )


def _lines(sections: Iterable[Section], *names: str) -> list[Line]:
    return [line for section in sections if not names or section.name in names for line in section.lines]


def _dumps(sections: Iterable[Section]) -> tuple[Dump, ...]:
    """The dumps of an input: one a section that has goroutines."""
    dumps: list[Dump] = []
    for section in sections:
        goroutines = parse(section.text)
        if goroutines and len(dumps) < DUMPS_MAX:
            found = {wait.goroutine: wait for wait in graph(goroutines, _matters)}
            numbers = tuple(line.number for line in section.lines)
            dumps.append(
                Dump(
                    about=section.about,
                    goroutines=goroutines,
                    waits=found,
                    numbers=numbers,
                    versions=_modules(goroutines),
                )
            )
    return tuple(dumps)


def _matters(goroutine: Goroutine) -> bool:
    """Whether a goroutine is inside a driver, the D-Bus libraries or a caller that asks for scopes itself."""
    return any(package in plain(frame.function) for frame in goroutine.frames for package in PACKAGES)


def _modules(goroutines: Iterable[Goroutine]) -> dict[str, str]:
    """The versions of a dump's modules, by module path without a major version: {"github.com/coreos/go-systemd": "v22.6.0"}."""
    found: dict[str, str] = {}
    for goroutine in goroutines:
        for frame in (*goroutine.frames, *([goroutine.created_by] if goroutine.created_by else ())):
            match = _VERSION.search(frame.file)
            if match is not None:
                module = match["module"].rsplit("/mod/", 1)[-1]
                found.setdefault(_MAJOR.sub("", module), match["version"])
    return found


def _natives(sections: Iterable[Section]) -> Iterable[Native]:
    for section in sections:
        if section.name == "process" or not section.name:
            native = read_native(section.lines, section.about)
            if native is not None:
                yield native


def _versions(sections: Iterable[Section]) -> dict[str, str]:
    """What the section `versions` says, one `name: text` a line."""
    found: dict[str, str] = {}
    for line in _lines(sections, "versions"):
        name, colon, value = line.text.partition(": ")
        if colon and re.fullmatch(r"[a-z0-9-]{1,40}", name) and value.strip():
            found.setdefault(name, value.strip()[:200])
    return found
