"""What goes into each driver's binary: sources, edits, flags. Values and hashing only; build.py runs the go tool."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path

from cgrace.harness.drivers import cache, ladder, source, versions
from cgrace.harness.drivers.base import DriverSpec
from cgrace.harness.errors import DriverError

GO_FOLDER = Path(__file__).parent / "go"
FAMILY_FOLDERS = {
    "A": "ladder",
    "B": "func",
    "C": "constructors",
    "D": "current",
    "E": "containerd",
    "F": "jobs",
    "K": "kubelet",
}
_DIGITS_OF_NAME = "abcdefghijklmnopqrstuvwxyz0123456789-"


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """How a driver is made. folder: its main package below go/; tags, link_flags: for go build; binary: its name in the cache;
    key: over everything that goes in but the Go version; rung: of the ladder, None for others; released: a version by name,
    with a go.mod of its own.
    """

    spec: DriverSpec
    folder: str
    binary: str
    key: str
    tags: tuple[str, ...] = ()
    link_flags: str = ""
    rung: str | None = None
    released: bool = False

    @property
    def proof(self) -> str:
        """What shows that the binary is what it claims."""
        if self.rung is not None:
            return ladder.proof(self.rung)
        if self.spec.source is not None:
            return f"built from {self.spec.source}"
        return f"{self.spec.module} {self.spec.version}, as go.sum has it"


@functools.lru_cache(maxsize=8)
def _family_sources(folder: str) -> tuple[tuple[str, bytes], ...]:
    """The shared protocol and the family's own main package, with pins and sums."""
    found = []
    for part in ("shim", folder):
        found += [(f"{part}/{name}", content) for name, content in cache.source_files(GO_FOLDER / part)]
    return tuple(found)


def recipe(spec: DriverSpec) -> Recipe:
    """The recipe of a driver; DriverError where its family has no shim."""
    folder = FAMILY_FOLDERS.get(spec.family)
    if folder is None or not (GO_FOLDER / folder / "main.go").exists():
        raise DriverError(f"'{spec.name}' is of API family {spec.family or '?'}, for which there is no shim")
    rung = spec.name if spec.name in ladder.RUNGS else None
    tags = spec.tags
    if rung is not None and ladder.RUNGS[rung].splits_delegate:
        tags = ("delegatesplit",)
    tags += source.probe_tags(spec)
    link_flags = _link_flags(spec)
    pins = [f"{module}@{version}" for module, version in spec.pins]
    parts = [
        ("what", "|".join((spec.module, spec.version, spec.family, *tags, link_flags, *pins)).encode()),
        ("edit", _edit(rung).encode()),
        *_family_sources(folder),
    ]
    if spec.source is not None:
        parts += [(f"checkout/{name}", _read(file)) for name, file in source.checkout_files(spec)]
    released = versions.is_release(spec.name)
    if released:
        parts.append(("release", b"a go.mod of its own"))
    name = "source" if spec.source is not None else ladder.same_as(rung) if rung else spec.name
    return Recipe(
        spec=spec,
        folder=folder,
        binary="".join(c if c in _DIGITS_OF_NAME else "_" for c in name.lower()),
        key=cache.content_key(parts),
        tags=tags,
        link_flags=link_flags,
        rung=rung,
        released=released,
    )


def _edit(rung: str | None) -> str:
    """What is changed of what was released."""
    if rung is None:
        return ""
    return ladder.RUNGS[rung].blob + (ladder.LISTENER["unlocked"] if ladder.RUNGS[rung].unlocked else "")


def _link_flags(spec: DriverSpec) -> str:
    """What the linker says to the shim: which way to use the module, and whose systemd to ask."""
    kind = spec.kind
    if spec.family == "D":
        kind = "systemd" if spec.uses_bus else "cgroupfs"
    flags = [f"-X main.kind={kind}"] if kind else []
    return " ".join([*flags, "-X main.rootless=true"] if spec.rootless else flags)


def _read(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise DriverError(f"{file} cannot be read: {error.strerror}") from None
