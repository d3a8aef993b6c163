"""Builds Go programs: static, unstripped, with module-relative file names, kept by content."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

from cgrace.harness.drivers import cache
from cgrace.harness.errors import DriverError
from cgrace.harness.proc.gotool import GoTool, find_go
from cgrace.harness.proc.run import Completed, run

BUILD_TIMEOUT_S = 1800.0  # the kubelet, three minutes of one core, took 900 s on two cores that 20 others wanted
# -trimpath: stack dumps name files relative to their module, and copies of one module in different folders share the
# build cache. No -s -w: the address of runtime.sched is read from the symbol table (sysmon.py).
BUILD_FLAGS = ("-trimpath", "-buildvcs=false")
# The user's own settings for other builds must not reach ours; proxies, caches and credentials stay as they are.
ENVIRONMENT: Mapping[str, str] = {
    "CGO_ENABLED": "0",
    "GOFLAGS": "",
    "GOWORK": "off",
    "GO111MODULE": "on",
    "GOTOOLCHAIN": "local",
    "GOOS": "linux",
}


async def go(tool: GoTool, words: Sequence[str], *, cwd: Path, what: str, hint: str = "") -> Completed:
    """Run the go tool; a failure is a DriverError with the compiler's own lines and the copyable command."""
    done = await run([tool.path, *words], cwd=cwd, env=ENVIRONMENT, timeout_s=BUILD_TIMEOUT_S)
    if not done.ok:
        raise DriverError(
            f"{what}: go {words[0]} {done.how}", hint=hint or done.command_line, detail=done.tail or done.how
        )
    return done


def try_find_go() -> GoTool | None:
    """The go tool, or None: what is built already does not need it."""
    try:
        return find_go()
    except DriverError:
        return None


def built(name: str, sources: str, tool: GoTool | None) -> cache.Entry | None:
    """What is built of exactly these sources (their key) by this Go; where there is none, by whichever Go."""
    if tool is None:
        return cache.look_up_any(name, f"{sources}-")
    return cache.look_up(name, f"{sources}-{tool.version}")


async def build_go_program(source_dir: Path, name: str, *, beside: Sequence[Path] = ()) -> Path:
    """The binary of the Go program in `source_dir` (a main package with its go.mod), built unless it is already. beside: folders
    next to it that its go.mod names."""
    shared = [(f"{folder.name}/{file}", text) for folder in beside for file, text in cache.source_files(folder)]
    sources = cache.content_key([("program", name.encode()), *cache.source_files(source_dir), *shared])
    tool = try_find_go()
    if (entry := built(name, sources, tool)) is not None:
        return entry.binary
    tool = tool or find_go()
    key = f"{sources}-{tool.version}"
    with cache.workshop() as folder:
        copy = folder / "sources" / source_dir.name
        for each in (source_dir, *beside):
            shutil.copytree(each, copy.with_name(each.name))
        await go(
            tool,
            ["build", *BUILD_FLAGS, "-o", str(folder / name), "."],
            cwd=copy,
            what=f"{name} cannot be built",
            hint=f"cd {source_dir} && CGO_ENABLED=0 {tool.path} build .",
        )
        return cache.store(name, key, folder / name, {"go": tool.version, "source": name}).binary
