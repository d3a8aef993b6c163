"""What a driver is to the rest: a spec that can be built, and a process that does what JSON lines say.

The shim protocol, one JSON object a line:
  it says first   {"hello": {"ok": true, "error": "", "conclusions": ["..."]}}     after its own start-up probes
  we say          {"id": "first", "op": "apply", "unit": "cgrace-a.slice", "parent": "cgrace.slice", "pid": -1,
                   "fresh": true, "delegate": null, "resources": {"pids": 10}}
  it says         {"id": "first", "ok": true, "error": "", "ns": 12345, "paths": {"devices": "/sys/fs/cgroup/devices/..."},
                   "value": ""}
ops: apply, exec, set, freeze, thaw, destroy, exists, paths, pids (each in a goroutine of its own: several overlap in one process);
exec puts another process into a unit that was applied; what it reports is what apply reports (no paths: those of the unit's apply).

stacks -> {"id": ..., "ok": true, "value": "<all goroutine stacks>"}, answered also while every other goroutine hangs;
quit. For a scope the unit is "<prefix>-<name>.scope". `paths` keys are the driver's own names of its subsystems.
The shim adds no behaviour of its own. Closing its stdin ends it.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from cgrace.harness.scenario.words import OPERATIONS

WITHOUT_EXEC = tuple(operation for operation in OPERATIONS if operation != "exec")
"""Most managers can place a process only when they make the unit."""
UNITS = ("slice", "scope")


@dataclass(frozen=True, slots=True, kw_only=True)
class DriverSpec:
    """A driver that can be had.

    name: how people call it ("err-nil", "err-nil@rc6", "rc4", "today", "cgroupfs", "source:/path"). column: its generation,
    which expectations name ("async", "wait-forever", "timeout", "err-nil", "err-nil-delegate", "buffered", "rc4", "today",
    "cgroupfs"; for a user's own build "source"; harness/scenario/words.py has them all). rung: "rc5" or "rc6" for what was cut
    from those, "" otherwise (fits any).
    places_own: it makes the process that it places (a container's) itself, and says its pid. program: the user's or the
    machine's own program that it is, or runs.
    module, version: where the code is from. release: PRODUCT@VERSION as expectations name
    it ("runc@1.1.5"), "" for what was never released (a rung, a user's own build). layouts: cgroup layouts it can drive.
    uses_bus: False for cgroupfs. units, operations: what it can be asked for; scenarios that ask for more are not run on it.

    How it is built: kind, which of its shim's ways of using the module ("" where there is one); pins, ("MODULE", "VERSION") to
    be linked whatever the module itself asks for; tags, for the Go compiler; rootless, asks the user's systemd; ours, a change of
    our own to what was released, which nobody ever released.
    """

    name: str
    generation: str
    module: str
    version: str
    family: str
    rung: str = ""
    layouts: tuple[str, ...] = ("v1",)
    uses_bus: bool = True
    note: str = ""
    source: Path | None = None
    places_own: bool = False
    program: Path | None = None
    release: str = ""
    units: tuple[str, ...] = UNITS
    operations: tuple[str, ...] = WITHOUT_EXEC
    kind: str = ""
    pins: tuple[tuple[str, str], ...] = ()
    tags: tuple[str, ...] = ()
    rootless: bool = False
    ours: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class BuiltDriver:
    """A driver's binary. proof: what shows that it is what it claims ("apply_systemd.go = git blob 5471ebbff9e5...");
    build_id: content hash of everything that went in; cached: nothing had to be compiled; sysmon_note: address range
    (start, end) of the Go runtime's sysmon note (runtime.sched.sysmonnote) in the unstripped binary, if found; argv: the
    whole command, where it is not the binary alone."""

    spec: DriverSpec
    binary: Path
    build_id: str
    proof: str = ""
    cached: bool = False
    sysmon_note: tuple[int, int] | None = None
    argv: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What a shim said of one operation. `error` is "" for success. `pid` is the process that an apply or exec placed, where
    the driver made it itself; 0: it placed the one that it was given."""

    id: str
    error: str = ""
    ns: int = 0
    paths: tuple[tuple[str, str], ...] = ()
    value: str = ""
    pid: int = 0
