"""The go.mod of a build that is not the family's own: a released version, or a checkout; and what a binary was linked from."""

from __future__ import annotations

import asyncio
import json
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cgrace.harness.drivers.gobuild import ENVIRONMENT, go
from cgrace.harness.drivers.recipe import Recipe
from cgrace.harness.errors import DriverError
from cgrace.harness.proc.gotool import GoTool
from cgrace.harness.proc.run import run

# Families whose modules have no go.mod of their own: what they are built with is pinned in the family's.
PINNED_FAMILIES = ("A", "B")
KUBERNETES = "k8s.io/kubernetes"
# What a module's packages were called before, in place of what the shim's sources import.
FORMER_IMPORTS: Mapping[str, tuple[tuple[str, str], ...]] = {
    "github.com/containerd/cgroups": (
        ('cgroup2 "github.com/containerd/cgroups/v3/cgroup2"', 'cgroup2 "github.com/containerd/cgroups/v2"'),
        ('cgroup1 "github.com/containerd/cgroups/v3/cgroup1"', 'cgroup1 "github.com/containerd/cgroups"'),
    ),
    "github.com/coreos/go-systemd": (
        ('"github.com/coreos/go-systemd/v22/dbus"', '"github.com/coreos/go-systemd/dbus"'),
        ('"github.com/godbus/dbus/v5"', '"github.com/godbus/dbus"'),
    ),
}
# What decides how a driver speaks to systemd, and so belongs into its proof.
TELLING = re.compile(
    r"github\.com/(opencontainers/(runc|cgroups)|containerd/cgroups|coreos/go-systemd|godbus/dbus)(/v[0-9]+)?"
)
_OFFLINE = ("dial tcp", "no such host", "connection refused", "i/o timeout", "GOPROXY=off", "module lookup disabled")
_MISSING = (
    *("unknown revision", "invalid version", "no matching versions", "invalid: should be v"),
    *("404 Not Found", "410 Gone", "403 Forbidden", "not available"),
)
_TIMEOUT_S = 60.0


def lay_sources(one: Recipe, folder: Path) -> Path:
    """The main package of a released driver: the family's own folder, or a copy beside it where its imports had other names."""
    package = folder / one.folder
    if one.spec.module not in FORMER_IMPORTS:
        return package
    copy = folder / f"{one.folder}-{one.binary}"
    shutil.copytree(package, copy)
    for file in copy.glob("*.go"):
        text = file.read_text(encoding="utf-8")
        for new, former in FORMER_IMPORTS[one.spec.module]:
            text = text.replace(new, former)
        file.write_text(text, encoding="utf-8")
    return copy


async def staged(one: Recipe, tool: GoTool, package: Path) -> dict[str, str]:
    """The modules that Kubernetes has in its own tree, which its go.mod requires as v0.0.0, and the version that each was released
    as beside it: v0.37.2 for v1.37.2. Of any other module: none."""
    if one.spec.module != KUBERNETES:
        return {}
    asked = ["mod", "download", "-json", f"{KUBERNETES}@{one.spec.version}"]
    done = await go(tool, asked, cwd=package, what=f"the driver '{one.spec.name}' cannot be built")
    (found,) = json_values(done.text)
    required = _requirements(await asyncio.to_thread(Path(found["GoMod"]).read_text, encoding="utf-8"))
    beside = one.spec.version.replace("v1.", "v0.", 1)
    return {module: beside for module, version in required if version == "v0.0.0"}


def lay_pins(one: Recipe, package: Path, beside: Mapping[str, str]) -> list[str]:
    """The flags that build against exactly this version, with what it requires itself and what its name links anew. beside: modules
    to take at another version than anybody requires."""
    spec = one.spec
    required = dict(_requirements((package / "go.mod").read_text(encoding="utf-8"))) if _pinned(one) else {}
    required |= {"cgrace/shim": "v0.0.0", spec.module: spec.version} | dict(spec.pins)
    lines = "".join(f"\t{module} {version}\n" for module, version in required.items())
    text = f"module cgrace/{one.folder}\n\ngo 1.24.0\n\nrequire (\n{lines})\n\nreplace cgrace/shim => ../shim\n"
    text += "".join(f"replace {module} => {module} {version}\n" for module, version in beside.items())
    pins = package.parent.parent / f"{one.binary}.mod"
    write_pins(pins, text, package)
    return ["-modfile", str(pins), "-mod=mod"]


def _pinned(one: Recipe) -> bool:
    return one.spec.family in PINNED_FAMILIES


def _requirements(text: str) -> list[tuple[str, str]]:
    """(module, version) of every line of a go.mod that requires one."""
    lines = (line.removeprefix("require ").split() for line in text.splitlines())
    return [
        (words[0], words[1]) for words in lines if len(words) >= 2 and words[1].startswith("v") and "=>" not in words
    ]


def without_foreign_pins(text: str, module: str) -> str:
    """A go.mod without what is required beside us and the module itself."""
    foreign = {name for name, _ in _requirements(text)} - {"cgrace/shim", module}
    lines = text.splitlines(keepends=True)
    return "".join(line for line in lines if not foreign.intersection(line.removeprefix("require ").split()[:1]))


def write_pins(pins: Path, text: str, package: Path) -> None:
    """A go.mod of another name, with the go.sum that belongs to it."""
    pins.write_text(text, encoding="utf-8")
    if (sums := package / "go.sum").exists():
        shutil.copyfile(sums, pins.with_suffix(".sum"))


async def linked(tool: GoTool, binary: Path) -> dict[str, str]:
    """What a binary was linked from, by module: "VERSION h1:SUM" as the go tool wrote it into the binary."""
    done = await run([tool.path, "version", "-m", str(binary)], env=ENVIRONMENT, timeout_s=_TIMEOUT_S)
    rows = [line.split() for line in done.text.splitlines()]
    return {row[1]: " ".join(row[2:4]) for row in rows if len(row) >= 3 and row[0] == "dep"}


def proof(found: Mapping[str, str], otherwise: str) -> str:
    """What shows that a released driver is what it claims: the modules that make it up, with their sums."""
    telling = [
        f"{module.removeprefix('github.com/')} {told}" for module, told in found.items() if TELLING.fullmatch(module)
    ]
    return ", ".join(telling) or otherwise


async def unavailable(error: DriverError, one: Recipe, tool: GoTool, package: Path) -> DriverError:
    """A failed build of a released driver in the words of what was asked: no network, no such version, else as it is."""
    spec = one.spec
    said = f"{error.detail}\n{error.message}"
    if any(word in said for word in _OFFLINE):
        return DriverError(
            f"'{spec.name}' is not built yet, and {spec.module} {spec.version} cannot be downloaded",
            hint="connect to a Go module proxy once (go env GOPROXY); what is built needs no network",
            detail=error.detail,
        )
    if spec.version not in said or not any(word in said for word in _MISSING):
        return error
    listing = ["list", "-m", "-versions", "-json", spec.module]
    done = await run([tool.path, *listing], cwd=package, env=ENVIRONMENT, timeout_s=_TIMEOUT_S)
    values = json_values(done.text) if done.ok else []
    served = [str(version).removeprefix("v") for version in (values[0].get("Versions") or [])] if values else []
    known = f"the module proxy lists {', '.join(served)}" if served else "the module proxy lists none"
    return DriverError(f"'{spec.name}': there is no {spec.module} {spec.version}; {known}", hint="cgrace drivers")


def json_values(text: str) -> list[dict[str, Any]]:
    """The JSON objects that `go mod download -json` prints one after the other."""
    decoder, values, at = json.JSONDecoder(), [], 0
    try:
        while at < len(text.rstrip()):
            value, at = decoder.raw_decode(text, at)
            values.append(value)
            while at < len(text) and text[at].isspace():
                at += 1
    except ValueError:
        raise DriverError("go mod download said what is not JSON", detail=text[-2000:]) from None
    return values
