"""Drivers that are programs of their own: the `runc` and `crun` commands, and whatever speaks the protocol itself.

    runc, crun          the machine's own, from PATH
    runc:PATH           a binary of the user's that takes runc's command line (crun:PATH, for those that report as crun does)
    runc-cli@VERSION    the command of that release of runc, built on demand (commands_build.py)
    program:PATH        a program of the user's that speaks docs/driver-protocol.md

A command does one operation and ends, so it is run by an adaptor (go/command) that speaks the protocol for it.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import os
import re
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from cgrace.harness.drivers import commands_build
from cgrace.harness.drivers.base import BuiltDriver, DriverSpec
from cgrace.harness.drivers.cache import content_key
from cgrace.harness.drivers.gobuild import build_go_program
from cgrace.harness.drivers.sysmon import sysmon_note
from cgrace.harness.errors import DriverError
from cgrace.harness.proc.find import find_program
from cgrace.harness.proc.run import run
from cgrace.harness.scenario.words import OPERATIONS

FAMILY = "command"
PROGRAM = "program"
FAMILIES = (FAMILY, PROGRAM)
SOURCES = Path(__file__).parent / "go"
ADAPTOR = "cgrace-command"
OWN = "source"  # the generation of what is the user's own: expected to do everything right
VERSION_S_MAX = 20.0
_KINDS = {"runc": "github.com/opencontainers/runc", "crun": "github.com/containers/crun"}
_RELEASES = {"runc": commands_build.NAME, "crun": "crun"}  # the products that expectations name
_VERSION = re.compile(r"\bversion\s+v?([0-9]+(?:\.[0-9]+)+(?:-[0-9A-Za-z.]+)?)")


def find_command(name: str) -> DriverSpec | None:
    """The driver of that name, None where the name is of another kind. DriverError where there is no such program."""
    product, at, release = name.partition("@")
    if product == commands_build.NAME and at:
        commands_build.check_version(release, name)
        return _of_release(name, release)
    kind, colon, where = name.partition(":")
    if kind == PROGRAM and colon:
        return _spec(name, PROGRAM, _own(where, name), module="", note="a program of your own")
    if kind in _KINDS:
        return _of_user(name, kind, where) if colon else _of_machine(kind)
    return None


def machine_commands() -> tuple[DriverSpec, ...]:
    """The commands that this machine has."""
    found = []
    for kind in _KINDS:
        with contextlib.suppress(DriverError):
            found.append(_of_machine(kind))
    return tuple(found)


def _of_user(name: str, kind: str, where: str) -> DriverSpec:
    path = _own(where, name)
    return _spec(name, FAMILY, path, module=_KINDS[kind], note=f"the command {path}")


def _of_machine(kind: str) -> DriverSpec:
    found = find_program(kind)
    if found is None:
        raise DriverError(
            f"this machine has no {kind} command", hint=f"install the package {kind}, or --driver {kind}:PATH"
        )
    path = Path(found).absolute()
    version = _version(path)
    return _spec(
        kind,
        FAMILY,
        path,
        module=_KINDS[kind],
        version=version,
        generation=_RELEASES[kind],
        release=f"{_RELEASES[kind]}@{version}" if version else "",
        note=f"the machine's {path}",
    )


def _of_release(name: str, version: str) -> DriverSpec:
    return _spec(
        name,
        FAMILY,
        None,
        module=commands_build.MODULE,
        version=f"v{version}",
        generation=commands_build.NAME,
        release=name,
        note=f"the command of runc {version}",
    )


def _spec(
    name: str,
    family: str,
    path: Path | None,
    *,
    module: str,
    note: str,
    version: str = "",
    generation: str = OWN,
    release: str = "",
) -> DriverSpec:
    return DriverSpec(
        name=name,
        generation=generation,
        module=module or str(path),
        version=version,
        family=family,
        layouts=("v1", "v2"),
        units=("scope",) if family == FAMILY else ("slice", "scope"),
        operations=OPERATIONS,
        places_own=family == FAMILY,
        program=path,
        release=release,
        note=note,
    )


def _own(where: str, name: str) -> Path:
    """The user's program, absolute: what runs it stands elsewhere."""
    path = Path(where).expanduser()
    path = path.parent.resolve() / path.name  # of a link the name counts: some programs are several
    if not path.is_file():
        raise DriverError(f"there is no program {where or 'without a path'}", hint=f"{name.partition(':')[0]}:PATH")
    if not os.access(path, os.X_OK):
        raise DriverError(f"{where} cannot be executed", hint=f"chmod +x {where}")
    return path


@cache
def _version(path: Path) -> str:
    """What `--version` says, "" where that is no version. Callers may or may not be inside an event loop."""
    with ThreadPoolExecutor(1) as thread:
        done = thread.submit(asyncio.run, run([path, "--version"], timeout_s=VERSION_S_MAX)).result()
    found = _VERSION.search(done.text)
    return found[1] if found and done.ok else ""


async def build_commands(
    specs: Sequence[DriverSpec], say: Callable[[str], None] = lambda text: None
) -> dict[str, BuiltDriver]:
    """How each of these is run: what needs one, by the adaptor. DriverError where something cannot be built."""
    if not specs:
        return {}
    adaptor = note = None
    if any(spec.family == FAMILY for spec in specs):
        adaptor = await build_go_program(SOURCES / "command", ADAPTOR, beside=(SOURCES / "shim",))
        note = await asyncio.to_thread(_sysmon_note, adaptor)
    built = {}
    for spec in specs:
        known = await _program(spec, say)
        built[spec.name] = _driver(known, adaptor if spec.family == FAMILY else None, note)
    return built


@dataclass(frozen=True, slots=True)
class _Program:
    """What a driver's spec stands for: its program, a key over its content, and where that is from."""

    spec: DriverSpec
    path: Path
    key: str
    proof: str


async def _program(spec: DriverSpec, say: Callable[[str], None]) -> _Program:
    if spec.program is None:
        path, key = await commands_build.build_runc(spec.version.removeprefix("v"), say)
        return _Program(spec, path, key, f"{spec.module} {spec.version}, built by the go tool")
    try:
        content = await asyncio.to_thread(spec.program.read_bytes)
    except OSError as error:
        raise DriverError(f"{spec.program} cannot be read: {error.strerror}") from None
    key = content_key([(spec.program.name, content)])
    return _Program(spec, spec.program, key, f"{spec.program} {spec.version}".rstrip())


def _driver(program: _Program, adaptor: Path | None, note: tuple[int, int] | None) -> BuiltDriver:
    return BuiltDriver(
        spec=dataclasses.replace(program.spec, program=program.path),
        binary=adaptor or program.path,
        build_id=program.key,
        proof=program.proof,
        cached=True,
        sysmon_note=note if adaptor else None,
        argv=(str(adaptor), str(program.path)) if adaptor else (str(program.path),),
    )


@cache
def _sysmon_note(binary: Path) -> tuple[int, int] | None:
    return sysmon_note(binary)
