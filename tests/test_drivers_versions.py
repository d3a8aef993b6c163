"""The released drivers: what a name says, that the table holds together, and one of them built with what its name links."""

from __future__ import annotations

import asyncio

import pytest

from cgrace.harness.commands.select import pick_drivers
from cgrace.harness.drivers import gobuild, gomod, versions
from cgrace.harness.drivers.base import UNITS
from cgrace.harness.drivers.build import build
from cgrace.harness.drivers.catalogue import find, listed
from cgrace.harness.drivers.commands import machine_commands
from cgrace.harness.drivers.recipe import recipe
from cgrace.harness.errors import DriverError
from cgrace.harness.scenario import releases, words

RELEASED = versions.all_released()


def test_a_name_is_a_product_and_a_version() -> None:
    """The version is that of the module, the release what expectations name."""
    spec = find("runc@1.1.12")
    assert (spec.module, spec.version) == ("github.com/opencontainers/runc", "v1.1.12")
    assert (spec.family, spec.generation, spec.release) == ("C", "today", "runc@1.1.12")
    assert releases.among(spec.release, ("runc 1.1.6..",))
    assert find("runc@v1.1.12").version == "v1.1.12"


def test_a_line_is_like_the_one_before_it_but_for_what_it_says() -> None:
    """Steps are said once; a version without a line is like the last one before it."""
    assert {find(f"runc@1.0.0-rc{n}").generation for n in (94, 95)} == {"exists-error"}
    assert find("runc@1.1.5").generation == "reconnects"
    unlisted = find("runc@1.2.17")
    assert (unlisted.family, unlisted.generation) == ("C", "today")
    assert "not in the table" in unlisted.note
    assert "1.2.9" in unlisted.note


def test_links_and_rootless_are_words_behind_a_plus() -> None:
    """A link is part of the release; whose systemd is asked is not."""
    linked = find("cgroups@0.1.0+go-systemd@22.7.0")
    assert linked.pins == (("github.com/coreos/go-systemd/v22", "v22.7.0"),)
    assert linked.release == linked.name
    rootless = find("runc@1.1.12+rootless")
    assert (rootless.rootless, rootless.layouts, rootless.release) == (True, ("v2",), "runc@1.1.12")
    assert len({recipe(find(name)).key for name in ("runc@1.1.12", "runc@1.1.12+rootless")}) == 2


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("runc@banana", "is no version"),
        ("runc@0.1.1", "the oldest runc is 1.0.0-rc4"),
        ("cgroups@0.1.0+beer@1", "[+]beer@1"),
        ("cgroups@0.1.0+go-systemd@", "nothing that can be added"),
        ("containerd@3.1.3+rootless", "no way to ask a user's systemd"),
        ("rc91", "did you mean 'runc@1.0.0-rc91'"),
        ("runc-1.1.12", "did you mean 'runc@1.1.12'"),
    ],
)
def test_what_cannot_be_a_release_is_told_with_what_can(name: str, said: str) -> None:
    """One message and a way on, before anything is downloaded."""
    with pytest.raises(DriverError, match=said) as caught:
        find(name)
    assert caught.value.hint


@pytest.mark.parametrize("product", versions.products().values(), ids=lambda product: product.name)
def test_versions_are_in_order(product: versions.Product) -> None:
    """Oldest first, and no line twice: inheritance goes by place, look-ups by order."""
    lines = list(product.lines)
    assert lines == sorted(lines, key=releases.order)


@pytest.mark.parametrize("spec", RELEASED, ids=lambda spec: spec.name)
def test_every_release_has_a_shim_and_words(spec: object) -> None:
    """Family, generation, layouts, units and operations are ones that there are; the name finds it again."""
    spec = find(getattr(spec, "name", ""))
    assert recipe(spec).released
    assert spec.generation in words.GENERATIONS
    assert spec.layouts
    assert set(spec.layouts) <= set(words.LAYOUTS)
    assert set(spec.operations) <= set(words.OPERATIONS)
    assert set(spec.units) <= set(UNITS)
    assert find(spec.name) is spec


def test_the_fleet_is_one_of_each_step() -> None:
    """It is a name on the command line, and beside others each driver is taken once."""
    fleet = [spec.name for spec in versions.fleet()]
    assert len(fleet) == len(set(fleet)) == 27
    picked = [spec.name for spec in pick_drivers(["today", "fleet", "runc@1.1.5"])]
    assert picked == ["today", *fleet, *(spec.name for spec in machine_commands())]
    steps = {spec.generation for spec in versions.fleet()}
    assert steps >= {
        "checked",
        "bounded",
        "exists-error",
        "exists-accepted",
        "reconnects",
        "containerd",
        "containerd-v1",
        "no-limit",
        "six-minutes",
    }
    assert {spec.name for spec in listed()} >= set(fleet)


def test_former_imports_are_what_the_shims_import() -> None:
    """A path that a shim no longer imports would leave the old module unreachable."""
    for module, pairs in gomod.FORMER_IMPORTS.items():
        one = next(spec for spec in RELEASED if spec.module == module)
        sources = "".join(file.read_text() for file in (versions.TABLE.parent / "go" / recipe(one).folder).glob("*.go"))
        for new, former in pairs:
            assert new in sources
            assert former not in sources


def test_a_go_mod_without_foreign_pins_has_ours_alone() -> None:
    """What a checkout requires itself is not held at our versions."""
    several = "require (\n\tcgrace/shim v0.0.0\n\ta.org/b v1.0.0\n\tm.org/m v2.0.0\n)\n"
    text = f"module x\n\n{several}\nrequire c.org/d v1.2.3 // indirect\n"
    left = gomod.without_foreign_pins(text, "m.org/m")
    assert "cgrace/shim v0.0.0" in left
    assert "m.org/m v2.0.0" in left
    assert "a.org" not in left
    assert "c.org" not in left


@pytest.mark.parametrize("name", ["cgroups@0.1.0+go-systemd@22.7.0", "go-systemd@14"])
def test_a_release_is_built_from_what_its_name_says(name: str) -> None:
    """The binary's own record names the modules with their sums; the second time nothing is built."""
    spec = find(name)
    try:
        built = asyncio.run(build([spec]))[name]
    except DriverError as error:
        if "cannot be downloaded" in error.message or gobuild.try_find_go() is None:
            pytest.skip(f"not built, and cannot be here: {error}")
        raise
    for module, version in (*spec.pins, (spec.module, spec.version)):
        assert f"{module.removeprefix('github.com/')} {version} h1:" in built.proof
    assert asyncio.run(build([spec]))[name].cached
