"""The released drivers by name: PRODUCT@VERSION, as `runc@1.1.12`, `cgroups@0.1.0+go-systemd@22.7.0`, `containerd@3.1.3+rootless`.

versions.toml beside this file has a line for each version, oldest first. Its keys:

    date        when it was released
    family      its API, and so its shim (recipe.py)
    generation  its behaviour, which expectations name
    layouts     the cgroup layouts that it drives
    rung        see base.py
    tags        for the Go compiler
    module      where the product was then
    pins        what has to be linked with versions from before Go modules
    exec        true: its managers can put another process into a unit that exists (AddPid)
    note        what changed

What a line does not say (but date, rung and note) is as in the line before it. A product may say generation and layouts for all
its versions, and take the versions of another (versions_of).

Behind a "+" come links, MODULE@VERSION, and `rootless`. Nothing here asks anybody: whether a version can be had shows when it
is built.
"""

from __future__ import annotations

import functools
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cgrace.harness.drivers.base import UNITS, WITHOUT_EXEC, DriverSpec
from cgrace.harness.errors import DriverError
from cgrace.harness.scenario.releases import order

TABLE = Path(__file__).with_suffix(".toml")
ROOTLESS = "rootless"
ROOTLESS_FAMILIES = ("C", "D")
_INHERITED = ("family", "generation", "layouts", "tags", "pins", "module", "exec")
_Line = Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Product:
    """What a name before the "@" stands for. lines: what is said of each version, whole, oldest first."""

    name: str
    kind: str
    units: tuple[str, ...]
    operations: tuple[str, ...]
    lines: Mapping[str, _Line]

    def line(self, version: str) -> tuple[str, _Line]:
        """(the version that the table has, its line): this one, or the last one before it. LookupError before the first."""
        if version in self.lines:
            return version, self.lines[version]
        earlier = [known for known in self.lines if order(known) < order(version)]
        if not earlier:
            raise LookupError(version)
        nearest = max(earlier, key=order)
        return nearest, self.lines[nearest]


@functools.lru_cache(maxsize=1)
def _table() -> dict[str, Any]:
    return tomllib.loads(TABLE.read_text(encoding="utf-8"))


@functools.lru_cache(maxsize=1)
def products() -> Mapping[str, Product]:
    """Every product by name."""
    table = _table()
    return {name: _product(name, table) for name, said in table.items() if isinstance(said, dict) and "what" in said}


def _product(name: str, table: dict[str, Any]) -> Product:
    said = table[name]
    source = table[said.get("versions_of", name)]
    lines: dict[str, _Line] = {}
    known: dict[str, Any] = {"module": source["module"], "layouts": [], "tags": [], "pins": [], "exec": False}
    for version, line in source["versions"].items():
        known |= {key: line[key] for key in _INHERITED if key in line}
        lines[version] = known | line | {key: said[key] for key in ("generation", "layouts") if key in said}
        if "versions_of" in said:
            lines[version] = {key: value for key, value in lines[version].items() if key != "note"}
    return Product(
        name=name,
        kind=said.get("kind", ""),
        units=tuple(said.get("units", UNITS)),
        operations=tuple(said.get("operations", WITHOUT_EXEC)),
        lines=lines,
    )


def links() -> Mapping[str, str]:
    """What may be linked anew, by its short name: the module's path."""
    found: dict[str, str] = _table()["links"]
    return found


def fleet() -> tuple[DriverSpec, ...]:
    """One driver for each step in behaviour, oldest first."""
    return tuple(released(name) for name in _table()["fleet"])


def all_released() -> tuple[DriverSpec, ...]:
    """Every version that the table has, and what else the fleet has."""
    names = [f"{product.name}@{version}" for product in products().values() for version in product.lines]
    return tuple(released(name) for name in dict.fromkeys([*names, *_table()["fleet"]]))


def is_release(name: str) -> bool:
    """Whether a name is meant as a release: it begins with a product and an "@"."""
    product, at, _ = name.partition("@")
    return bool(at) and product in products()


@functools.lru_cache(maxsize=512)
def released(name: str) -> DriverSpec:
    """The driver of that name; DriverError that says what there is where the name cannot be one."""
    product, version, added = _split(name)
    try:
        nearest, line = product.line(version)
    except ValueError:
        raise DriverError(f"'{version}' of '{name}' is no version", hint=_newest(product)) from None
    except LookupError:
        oldest = next(iter(product.lines))
        raise DriverError(f"the oldest {product.name} is {oldest}", hint=f"--driver {product.name}@{oldest}") from None
    pins, rootless = _added(name, added)
    if rootless and line["family"] not in ROOTLESS_FAMILIES:
        raise DriverError(
            f"'{name}': this driver has no way to ask a user's systemd", hint="runc@1.1.12+rootless has one"
        )
    version_pins = dict(pin.split() for pin in line["pins"])
    module = line["module"]
    return DriverSpec(
        name=name,
        generation=line["generation"],
        module=module,
        version=version_pins.get(module, f"v{version}"),
        family=line["family"],
        rung=line.get("rung", ""),
        layouts=("v2",) if rootless else tuple(line["layouts"]),
        note=_note(version, nearest, line, pins),
        release=name if not rootless else name.replace(f"+{ROOTLESS}", ""),
        units=product.units,
        operations=(*product.operations, *(("exec",) if line["exec"] else ())),
        kind=product.kind,
        pins=(*((k, v) for k, v in version_pins.items() if k != module), *pins),
        tags=tuple(line["tags"]),
        rootless=rootless,
    )


def _split(name: str) -> tuple[Product, str, list[str]]:
    whole, *added = name.split("+")
    word, _, version = whole.partition("@")
    product = products().get(word)
    if product is None:
        raise DriverError(f"there is no product '{word}' of '{name}'", hint=f"there are: {', '.join(products())}")
    return product, version.removeprefix("v"), added


def _added(name: str, added: list[str]) -> tuple[tuple[tuple[str, str], ...], bool]:
    """(what is linked anew, whether it is rootless) of the words behind the "+"."""
    pins = []
    for word in added:
        module, _, version = word.partition("@")
        if word == ROOTLESS:
            continue
        try:
            order(version)
            pins.append((links()[module], f"v{version.removeprefix('v')}"))
        except (KeyError, ValueError):
            known = ", ".join([*(f"+{one}@VERSION" for one in links()), f"+{ROOTLESS}"])
            raise DriverError(f"'+{word}' of '{name}' is nothing that can be added", hint=f"one of {known}") from None
    return tuple(pins), ROOTLESS in added


def _note(version: str, nearest: str, line: _Line, pins: tuple[tuple[str, str], ...]) -> str:
    parts = [f"released {line['date']}"] if "date" in line and version == nearest else []
    if version != nearest:
        parts.append(f"not in the table: taken to be like {nearest}")
    elif "note" in line:
        parts.append(line["note"])
    parts += [f"linked with {module.removeprefix('github.com/')} {pin}" for module, pin in pins]
    return "; ".join(parts)


def _newest(product: Product) -> str:
    versions = list(product.lines)
    shown = ", ".join(versions[-6:])
    return f"{product.name} has {shown}" + (f" and {len(versions) - 6} older" if len(versions) > 6 else "")
