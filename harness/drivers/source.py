"""`--driver source:PATH`: finds out what a checkout is from what is in it, and copies what a build needs of it.

The checkout itself is never written to, so `git bisect run cgrace ... --driver source:.` works in a clean tree.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from cgrace.harness.drivers.base import DriverSpec
from cgrace.harness.errors import DriverError

RUNC = "github.com/opencontainers/runc"
CGROUPS = "github.com/opencontainers/cgroups"
_RUNC_SYSTEMD = Path("libcontainer/cgroups/systemd")
_RUNC_PARTS = ("libcontainer", "internal", "types")  # all that libcontainer imports of its own module
_VENDORED_CGROUPS = Path("vendor") / CGROUPS
_MODULE = re.compile(r"^module\s+\"?(?P<name>\S+?)\"?\s*$", re.MULTILINE)
_SKIPPED = {"vendor", ".git", "testdata", "node_modules"}
_PROBES = ("hasStartTransientUnit", "hasStartTransientSliceUnit", "hasTransientDefaultDependencies")


@dataclass(frozen=True, slots=True)
class _Found:
    family: str
    module: str
    root: Path
    what: str
    layouts: tuple[str, ...] = ("v1", "v2")


def inspect(path: Path) -> DriverSpec:
    """The spec of a checkout; DriverError that names what was found where it is no driver that we have a shim for."""
    try:
        root = path.expanduser().resolve(strict=True)
    except (OSError, RuntimeError) as error:
        raise DriverError(
            f"source:{path}: {getattr(error, 'strerror', None) or error}",
            hint="give the folder of a runc or opencontainers/cgroups checkout",
        ) from None
    if not root.is_dir():
        raise DriverError(
            f"source:{path} is a file", hint="give the folder of a runc or opencontainers/cgroups checkout"
        )
    found = _identify(root)
    return DriverSpec(
        name=f"source:{path}",
        generation="source",
        module=found.module,
        version="a checkout",
        family=found.family,
        layouts=found.layouts,
        note=found.what,
        source=found.root,
    )


def _identify(root: Path) -> _Found:
    module = _module_of(root)
    if module == CGROUPS or (module is None and _declares(root / "systemd", "NewLegacyManager")):
        return _Found("D", CGROUPS, root, "opencontainers/cgroups")
    driver = root / _RUNC_SYSTEMD
    if driver.is_dir():
        if _declares(driver, "NewLegacyManager"):
            return _Found("C", RUNC, root, "runc's libcontainer with a constructor per cgroup version (rc91 to 1.2)")
        if _declares(driver, "NewSystemdCgroupsManager"):
            return _Found("B", RUNC, root, "runc's libcontainer with a function that makes managers (rc9, rc10)")
        if _declares(driver, "UseSystemd"):
            return _Found("A", RUNC, root, "runc's libcontainer with systemd.Manager as a struct (rc4 to rc8)", ("v1",))
        raise _unknown(root, f"a runc whose {_RUNC_SYSTEMD} has none of the interfaces that libcontainer ever had")
    vendored = root / _VENDORED_CGROUPS
    if vendored.is_dir():
        return _Found("D", CGROUPS, vendored, f"opencontainers/cgroups as {module or root.name} vendors it")
    if module == RUNC:
        raise _unknown(
            root, "a runc without a driver of its own: it uses opencontainers/cgroups, and vendors no copy of it"
        )
    if module is not None and module.startswith("github.com/containerd/cgroups"):
        raise _unknown(root, "containerd/cgroups, for which there is no shim")
    raise _unknown(root, f"the Go module {module}" if module else "no Go module that is known")


def _unknown(root: Path, what: str) -> DriverError:
    return DriverError(
        f"source:{root}: this is {what}",
        hint="give a checkout of runc (from 1.0.0-rc4 on) or of opencontainers/cgroups",
    )


def _module_of(root: Path) -> str | None:
    try:
        found = _MODULE.search((root / "go.mod").read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError):
        return None
    return found["name"] if found else None


def _declares(folder: Path, function: str) -> bool:
    return any(f"\nfunc {function}(" in text for text in _texts(folder))


def _texts(folder: Path) -> Iterator[str]:
    for file in sorted(folder.glob("*.go")):
        if not file.name.endswith("_test.go"):
            try:
                yield file.read_text(encoding="utf-8", errors="replace")
            except OSError as error:
                raise DriverError(f"{file} cannot be read: {error.strerror}") from None


def probe_tags(spec: DriverSpec) -> tuple[str, ...]:
    """The build tags that tell shim A which variables the checkout's start-up probes conclude in."""
    if spec.family != "A" or spec.source is None:
        return ()
    text = "\n".join(_texts(spec.source / _RUNC_SYSTEMD))
    words = set(re.findall(r"\bhas\w+", text))
    if words.issuperset({*_PROBES, "hasDelegateScope", "hasDelegateSlice"}):
        return ("delegatesplit",)
    return () if words.issuperset({*_PROBES, "hasDelegate"}) else ("unknownprobes",)


def checkout_files(spec: DriverSpec) -> list[tuple[str, Path]]:
    """What a build needs of a checkout: (name below its root, file), sorted."""
    assert spec.source is not None
    root = spec.source
    parts = [root / part for part in _RUNC_PARTS] if spec.module == RUNC else [root]
    found = [root / "go.mod", root / "go.sum"]
    for part in parts:
        found += [file for file in part.rglob("*") if _wanted(file, root)]
    return sorted((str(file.relative_to(root)), file) for file in dict.fromkeys(found) if file.is_file())


def _wanted(file: Path, root: Path) -> bool:
    inside = file.relative_to(root)
    return (
        file.suffix in (".go", ".s", ".c", ".h")
        and not file.name.endswith("_test.go")
        and not _SKIPPED.intersection(inside.parts[:-1])
    )


def copy_checkout(spec: DriverSpec, target: Path) -> bool:
    """Copy what a build needs, and a go.mod where the checkout has none (runc before 1.0.0-rc91, a vendored copy); whether it
    has one of its own."""
    for name, file in checkout_files(spec):
        copy = target / name
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(file.read_bytes())
    if (target / "go.mod").exists():
        return True
    target.mkdir(parents=True, exist_ok=True)
    # A vendored copy of today's driver is written in a later Go than a module without a `go` line would be read as.
    line = "go 1.24.0\n" if spec.family == "D" else ""
    (target / "go.mod").write_text(f"module {spec.module}\n\n{line}", encoding="utf-8")
    return False
