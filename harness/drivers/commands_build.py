"""Builds the runc command of a release: `runc-cli@1.5.1`.

The command is made from its own module at that version, with that module's own requirements (the go tool checks them against the
checksum database). It takes a C compiler: runc enters namespaces in C before Go's runtime begins (libcontainer/nsenter). It is
linked statically where the machine's libc can be, so that it also runs on targets with another one. What is left out is
seccomp, which needs libseccomp and is no part of what is tested.
"""

from __future__ import annotations

import os
import platform
import re
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path

from cgrace.harness.drivers import cache
from cgrace.harness.drivers.gobuild import BUILD_TIMEOUT_S, ENVIRONMENT, built, try_find_go
from cgrace.harness.errors import DriverError
from cgrace.harness.proc.gotool import GoTool, find_go
from cgrace.harness.proc.run import Completed, run
from cgrace.harness.scenario.releases import order

NAME = "runc-cli"
MODULE = "github.com/opencontainers/runc"
# The first with a go.mod. Modules are served without their vendor folder, and of what vendor.conf names in its place the proxy
# has no go-criu before v4 (rc7 to rc90 link it); rc4 to rc6 want a golang.org/x/sys that still has SIGUNUSED.
FIRST = "1.0.0-rc91"
_STATIC = "-extldflags -static"
_VERSION = re.compile(r"[0-9]+\.[0-9]+\.[0-9]+(-[0-9A-Za-z.]+)?")
_NO_VERSION = ("unknown revision", "invalid version", "no matching versions", "404 Not Found", "410 Gone")
_BINARY = "runc"


def check_version(version: str, name: str) -> None:
    """DriverError where this is no version of runc that can be built."""
    if not _VERSION.fullmatch(version):
        raise DriverError(f"{name}: '{version}' is no version of runc", hint=f"{NAME}@1.3.0, or {NAME}@1.0.0-rc95")
    if order(version) < order(FIRST):
        raise DriverError(
            f"{name} has no go.mod, and some of what it was linked with is not to be had as modules",
            hint=f"{NAME}@{FIRST} is the first that can be; runc:PATH takes a binary, and runc@1.0.0-rc10 is the driver alone",
        )


async def build_runc(version: str, say: Callable[[str], None] = lambda text: None) -> tuple[Path, str]:
    """The binary and its content's key, built unless it is already. DriverError with what is missing, or the compiler's lines."""
    recipe = cache.content_key([("runc", f"{MODULE} {version} cgo no tags".encode())])
    tool = try_find_go()
    if (entry := built(NAME, recipe, tool)) is not None:
        return entry.binary, entry.key
    tool = tool or find_go()
    key = f"{recipe}-{tool.version}"
    compiler = _find_compiler()
    say(f"building the runc {version} command")
    with cache.workshop() as folder:
        done = await _install(tool, version, folder, compiler)
        target = folder / NAME
        (folder / "bin" / _BINARY).rename(target)
        note = {"go": tool.version, "module": f"{MODULE} v{version}", "command": done.command_line}
        entry = cache.store(NAME, key, target, note)
    return entry.binary, entry.key


async def _install(tool: GoTool, version: str, folder: Path, compiler: str) -> Completed:
    """`go install` of the command; linked with the machine's shared libc where it cannot be linked statically."""
    environment = {**ENVIRONMENT, "CGO_ENABLED": "1", "GOBIN": str(folder / "bin"), "CC": compiler}
    for link in (_STATIC, ""):
        flags = " ".join(filter(None, (f"-X main.version={version}", link)))
        words = ["install", "-trimpath", "-buildvcs=false", "-ldflags", flags, f"{MODULE}@v{version}"]
        done = await run([tool.path, *words], cwd=folder, env=environment, timeout_s=BUILD_TIMEOUT_S)
        if done.ok and (folder / "bin" / _BINARY).exists():
            return done
        if link and not _may_be_libc(done):
            break
    raise _failure(done, version)


def _may_be_libc(done: Completed) -> bool:
    """Whether it failed at linking, as it does where there is no static libc."""
    text = done.stderr.decode(errors="replace")
    return "running" in text and "ld" in text and "cannot find -l" in text


def _failure(done: Completed, version: str) -> DriverError:
    text = done.stderr.decode(errors="replace")
    if any(sign in text for sign in _NO_VERSION):
        return DriverError(
            f"there is no runc {version}", hint=f"go list -m -versions {MODULE}", detail=done.tail or done.how
        )
    return DriverError(
        f"the runc {version} command cannot be built: go install {done.how}",
        hint=done.command_line,
        detail=done.tail or done.how,
    )


def _find_compiler() -> str:
    """The C compiler that Go will call (CC, else gcc, else clang)."""
    wanted = shlex.split(os.environ.get("CC", "")) or ["gcc"]
    for name in dict.fromkeys([wanted[0], "gcc", "cc", "clang"]):
        if shutil.which(name):
            return shlex.join([name, *wanted[1:]]) if name == wanted[0] else name
    raise DriverError(
        "the runc command needs a C compiler to be built (its nsenter is C), and there is none",
        hint=_install_hint(),
        detail="or take a binary that is there: --driver runc:PATH",
    )


def _install_hint() -> str:
    try:
        known = platform.freedesktop_os_release()
    except OSError:
        known = {}
    like = f"{known.get('ID', '')} {known.get('ID_LIKE', '')}"
    return (
        "sudo dnf install gcc glibc-static"
        if "fedora" in like or "rhel" in like
        else "sudo apt-get install gcc libc6-dev"
    )
