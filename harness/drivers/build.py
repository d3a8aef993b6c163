"""Builds drivers side by side, or finds them built.

What is built already costs no process at all. What is not is built in one workshop: the go tool downloads and verifies the
modules (go.sum), the ladder's edits are laid over a copy of the release, and each binary goes into the cache by itself, so
a failure or an interrupt keeps those that were done.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from cgrace.harness.drivers import cache, gobuild, gomod, ladder, reference
from cgrace.harness.drivers.base import BuiltDriver, DriverSpec
from cgrace.harness.drivers.commands import FAMILIES, build_commands
from cgrace.harness.drivers.gobuild import BUILD_FLAGS, ENVIRONMENT, build_go_program, go, try_find_go
from cgrace.harness.drivers.recipe import GO_FOLDER, Recipe, recipe
from cgrace.harness.drivers.source import copy_checkout
from cgrace.harness.drivers.sysmon import sysmon_note
from cgrace.harness.errors import CgraceError, DriverError
from cgrace.harness.proc.gotool import GoTool, find_go
from cgrace.harness.proc.run import run

__all__ = ["build", "build_go_program"]

Progress = Callable[[str], None]
_RUNC = "github.com/opencontainers/runc"


async def build(specs: Iterable[DriverSpec], *, progress: Progress | None = None) -> dict[str, BuiltDriver]:
    """The binaries of these drivers by name. DriverError with the compiler's own lines where one cannot be built."""
    say = progress or (lambda text: None)
    wanted = {spec.name: spec for spec in specs}
    apart = (reference.FAMILY, *FAMILIES)
    recipes = {name: recipe(spec) for name, spec in wanted.items() if spec.family not in apart}
    built = {name: reference.reference(spec) for name, spec in wanted.items() if spec.family == reference.FAMILY}
    built |= await build_commands([spec for spec in wanted.values() if spec.family in FAMILIES], say)
    tool = try_find_go()
    missing: list[Recipe] = []
    for name, one in recipes.items():
        if (found := _look_up(one, tool)) is not None:
            built[name] = found
        else:
            missing.append(one)
    if missing:
        built |= await _build_missing(missing, tool or find_go(), say)
    return {name: built[name] for name in wanted}


def is_built(specs: Iterable[DriverSpec]) -> dict[str, bool]:
    """Which of these drivers would have to be built first, by name; nothing is started but the go tool's version."""
    tool = try_find_go()
    return {
        spec.name: spec.family in (*FAMILIES, reference.FAMILY) or _look_up(recipe(spec), tool) is not None
        for spec in specs
    }


def _look_up(one: Recipe, tool: GoTool | None) -> BuiltDriver | None:
    entry = gobuild.built(one.binary, one.key, tool)
    return _driver(one, entry, cached=True) if entry is not None else None


def _driver(one: Recipe, entry: cache.Entry, *, cached: bool) -> BuiltDriver:
    note = entry.note.get("sysmon_note")
    found = (note[0], note[1]) if isinstance(note, list) and [type(part) for part in note] == [int, int] else None
    return BuiltDriver(
        spec=one.spec,
        binary=entry.binary,
        build_id=entry.key,
        proof=str(entry.note.get("proof") or one.proof),
        cached=cached,
        sysmon_note=found,
    )


async def _build_missing(missing: list[Recipe], tool: GoTool, say: Progress) -> dict[str, BuiltDriver]:
    """Build in one workshop. The first of each main package goes ahead alone: what it compiles, the others find in Go's cache.
    Recipes that make the same binary (a release and the rung that it is) are built once."""
    by_key: dict[str, list[Recipe]] = {}
    for one in sorted(missing, key=lambda one: (one.folder, one.spec.version)):
        by_key.setdefault(one.key, []).append(one)
    first: dict[str, str] = {}
    for key, (one, *_) in by_key.items():
        first.setdefault(one.folder, key)
    entries: dict[str, cache.Entry] = {}
    gate = asyncio.Semaphore(len(os.sched_getaffinity(0)))
    with cache.workshop() as folder:
        await asyncio.to_thread(shutil.copytree, GO_FOLDER, folder / "go", dirs_exist_ok=True)
        bench = _Bench(folder, tool, say)
        await bench.fetch(missing)

        async def make(key: str) -> None:
            async with gate:
                entries[key] = await bench.make(by_key[key][0])

        for key in first.values():
            await make(key)
        try:
            async with asyncio.TaskGroup() as group:
                for key in by_key.keys() - set(first.values()):
                    group.create_task(make(key))
        except BaseExceptionGroup as problems:
            raise _first(problems) from None
    return {one.spec.name: _driver(one, entries[key], cached=False) for key, ones in by_key.items() for one in ones}


def _first(problems: BaseExceptionGroup[Any]) -> BaseException:
    """The one problem to tell: ours if there is one."""
    ours = problems.subgroup(CgraceError)
    inner: BaseException = ours if ours is not None else problems
    while isinstance(inner, BaseExceptionGroup):
        inner = inner.exceptions[0]
    return inner


class _Bench:
    """A workshop in use: `go/` is a copy of our Go sources, `runc/<release>/` of that runc with a go.mod of its own."""

    def __init__(self, folder: Path, tool: GoTool, say: Progress) -> None:
        self._folder = folder
        self._tool = tool
        self._say = say
        self._released: dict[str, bytes] = {}

    async def fetch(self, recipes: list[Recipe]) -> None:
        """Download the releases that the ladder is cut from; the go tool checks them against our go.sum."""
        rungs = [ladder.RUNGS[one.rung] for one in recipes if one.rung is not None]
        wanted = sorted({release for rung in rungs for release in (rung.base, rung.donor)})
        if not wanted:
            return
        self._say(f"downloading runc {', '.join(wanted)}")
        modules = [f"{_RUNC}@v1.0.0-{release}" for release in wanted]
        if any(rung.unlocked for rung in rungs):
            modules.append(f"{ladder.GO_SYSTEMD}@{ladder.GO_SYSTEMD_VERSION}")
        where = self._folder / "go" / "ladder"
        done = await run([self._tool.path, "mod", "download", "-json", *modules], cwd=where, env=ENVIRONMENT)
        if not done.ok:
            told = [str(one["Error"]) for one in gomod.json_values(done.text) if "Error" in one]
            raise DriverError(
                "the runc releases that the ladder is cut from cannot be downloaded",
                hint=f"{done.command_line}    (once they are built, no network is needed)",
                detail="\n".join(told) or done.tail,
            )
        for found in gomod.json_values(done.text):
            release = str(found["Version"]).removeprefix("v1.0.0-")
            source = Path(found["Dir"])
            if found["Path"] == ladder.GO_SYSTEMD:
                await asyncio.to_thread(_copy_unlocked, source, self._folder / "go-systemd")
                continue
            self._released[release] = (source / ladder.EDITED_FILE).read_bytes()
            await asyncio.to_thread(_copy_runc, source, self._folder / "runc" / release)

    async def make(self, one: Recipe) -> cache.Entry:
        """Build one driver and put it into the cache."""
        self._say(f"building {one.spec.name}")
        package = self._folder / "go" / one.folder
        binary = self._folder / "built" / one.binary
        words = ["build", *BUILD_FLAGS, "-o", str(binary)]
        if one.tags:
            words += ["-tags", ",".join(one.tags)]
        if one.link_flags:
            words += ["-ldflags", one.link_flags]
        if one.rung is not None:
            words += self._lay_rung(one.rung, package)
        elif one.spec.source is not None:
            words += await asyncio.to_thread(self._lay_checkout, one, package)
        elif one.released:
            package = await asyncio.to_thread(gomod.lay_sources, one, self._folder / "go")
        what = f"the driver '{one.spec.name}' cannot be built"
        try:
            if one.released:
                words += gomod.lay_pins(one, package, await gomod.staged(one, self._tool, package))
            done = await go(self._tool, [*words, "."], cwd=package, what=what)
        except DriverError as error:
            raise (await gomod.unavailable(error, one, self._tool, package) if one.released else error) from None
        linked = await gomod.linked(self._tool, binary)
        note = {
            "driver": one.spec.name,
            "module": f"{one.spec.module} {one.spec.version}",
            "go": self._tool.version,
            "proof": gomod.proof(linked, one.proof) if one.released else one.proof,
            "linked": linked,
            "command": done.command_line,
            "sysmon_note": await asyncio.to_thread(sysmon_note, binary),
        }
        return cache.store(one.binary, f"{one.key}-{self._tool.version}", binary, note)

    def _lay_rung(self, rung: str, package: Path) -> list[str]:
        """The flags that put the rung's file over the release's, in a go.mod of its own."""
        base = self._folder / "runc" / ladder.RUNGS[rung].base
        content = ladder.cut(rung, self._released)
        edited, overlay, pins = (self._folder / "runc" / f"{rung}{end}" for end in (".go", ".json", ".mod"))
        edited.write_bytes(content)
        overlay.write_text(json.dumps({"Replace": {str(base / ladder.EDITED_FILE): str(edited)}}), encoding="utf-8")
        text = (package / "go.mod").read_text(encoding="utf-8")
        text = text.replace(f"{_RUNC} v1.0.0-rc5", f"{_RUNC} v1.0.0-{base.name}")
        text += f"\nreplace {_RUNC} => {base}\n"
        if ladder.RUNGS[rung].unlocked:
            text += f"\nreplace {ladder.GO_SYSTEMD} => {self._folder / 'go-systemd'}\n"
        gomod.write_pins(pins, text, package)
        return ["-modfile", str(pins), "-overlay", str(overlay)]

    def _lay_checkout(self, one: Recipe, package: Path) -> list[str]:
        """The flags that put a copy of the user's checkout in the module's place. Where it says itself what it is built with, our
        pins are left out; what they do not name, the go tool finds by itself."""
        copy = self._folder / "checkout" / one.key
        own = copy_checkout(one.spec, copy)
        text = (package / "go.mod").read_text(encoding="utf-8")
        if own:
            text = gomod.without_foreign_pins(text, one.spec.module)
        gomod.write_pins(copy.with_suffix(".mod"), f"{text}\nreplace {one.spec.module} => {copy}\n", package)
        return ["-modfile", str(copy.with_suffix(".mod")), "-mod=mod"]


def _copy_module(module: str, files: Iterable[Path], source: Path, target: Path) -> None:
    """Go files of a release, writable, as a module: the module cache's own files take no overlay, and these releases have no
    go.mod."""
    for file in files:
        if not file.name.endswith("_test.go"):
            copy = target / file.relative_to(source)
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_bytes(file.read_bytes())
    (target / "go.mod").write_text(f"module {module}\n", encoding="utf-8")


def _copy_runc(source: Path, target: Path) -> None:
    """libcontainer."""
    _copy_module(_RUNC, (source / "libcontainer").rglob("*.go"), source, target)


def _copy_unlocked(source: Path, target: Path) -> None:
    """The packages of go-systemd that the ladder links, with our change of it."""
    files = (*(source / "dbus").glob("*.go"), *(source / "util").glob("*.go"))
    _copy_module(ladder.GO_SYSTEMD, files, source, target)
    listener = target / ladder.LISTENER_FILE
    listener.write_bytes(ladder.unlock_listener(listener.read_bytes()))
