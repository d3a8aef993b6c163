"""`source:PATH`: what a checkout is, from what is in it."""

from __future__ import annotations

from pathlib import Path

import pytest

from cgrace.harness.drivers import source
from cgrace.harness.drivers.catalogue import find
from cgrace.harness.drivers.recipe import recipe
from cgrace.harness.errors import DriverError

SYSTEMD = "libcontainer/cgroups/systemd/"


def checkout(root: Path, files: dict[str, str]) -> Path:
    """A tree with these files."""
    for name, text in files.items():
        file = root / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    return root


@pytest.mark.parametrize(
    ("files", "family", "layouts"),
    [
        ({SYSTEMD + "a.go": "package systemd\n\nfunc UseSystemd() bool {\n"}, "A", ("v1",)),
        ({SYSTEMD + "a.go": "package s\n\nfunc UseSystemd(\nfunc NewSystemdCgroupsManager("}, "B", ("v1", "v2")),
        ({SYSTEMD + "v1.go": "package s\n\nfunc NewLegacyManager("}, "C", ("v1", "v2")),
        ({"go.mod": "module github.com/opencontainers/cgroups\n"}, "D", ("v1", "v2")),
        (
            {
                "go.mod": "module github.com/opencontainers/runc\n",
                "vendor/github.com/opencontainers/cgroups/systemd/v1.go": "package systemd\n",
            },
            "D",
            ("v1", "v2"),
        ),
    ],
)
def test_each_family_is_known_by_its_interface(
    files: dict[str, str], family: str, layouts: tuple[str, ...], tmp_path: Path
) -> None:
    """The constructor that a package declares tells which shim fits."""
    spec = find(f"source:{checkout(tmp_path, files)}")
    assert (spec.family, spec.layouts, spec.generation) == (family, layouts, "source")
    assert recipe(spec).spec is spec


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({"go.mod": "module github.com/opencontainers/runc\n"}, "uses opencontainers/cgroups"),
        ({"go.mod": "module github.com/containerd/cgroups/v3\n"}, "containerd/cgroups"),
        ({"go.mod": "module example.org/else\n"}, "the Go module example.org/else"),
        ({SYSTEMD + "a.go": "package systemd\n"}, "none of the interfaces"),
        ({"README": "hello"}, "no Go module"),
    ],
)
def test_what_is_no_known_driver_is_named(files: dict[str, str], said: str, tmp_path: Path) -> None:
    """The error says what was found, and what would do."""
    with pytest.raises(DriverError, match=said) as caught:
        find(f"source:{checkout(tmp_path, files)}")
    assert caught.value.hint


def test_a_path_that_is_no_folder(tmp_path: Path) -> None:
    """Neither a missing path nor a file is a checkout."""
    with pytest.raises(DriverError, match="No such file"):
        find(f"source:{tmp_path}/missing")
    (tmp_path / "file").write_text("")
    with pytest.raises(DriverError, match="is a file"):
        find(f"source:{tmp_path}/file")


def test_the_key_follows_the_sources_and_not_the_tests(tmp_path: Path) -> None:
    """A changed driver is built anew; a changed test of upstream's, or a vendored package, is not a changed driver."""
    root = checkout(tmp_path, {SYSTEMD + "v1.go": "package s\n\nfunc NewLegacyManager(", "vendor/x/x.go": "package x"})
    before = recipe(find(f"source:{root}")).key
    checkout(root, {SYSTEMD + "v1_test.go": "package s", "vendor/x/x.go": "package y"})
    assert recipe(find(f"source:{root}")).key == before
    checkout(root, {SYSTEMD + "v1.go": "package s\n\nfunc NewLegacyManager(x"})
    assert recipe(find(f"source:{root}")).key != before


def test_a_checkout_without_go_mod_gets_one_in_the_copy(tmp_path: Path) -> None:
    """The user's own tree is never written to."""
    root = checkout(tmp_path / "tree", {SYSTEMD + "a.go": "package s\n\nfunc UseSystemd("})
    before = sorted(root.rglob("*"))
    own = source.copy_checkout(find(f"source:{root}"), tmp_path / "copy")
    assert not own
    assert (tmp_path / "copy" / "go.mod").read_text().startswith("module github.com/opencontainers/runc\n")
    assert sorted(root.rglob("*")) == before


def test_probes_that_conclude_elsewhere_are_left_alone(tmp_path: Path) -> None:
    """Shim A reads variables only where the checkout has them: a link to a missing one would read as no."""
    probes = "hasStartTransientUnit hasStartTransientSliceUnit hasTransientDefaultDependencies"
    head = "package s\n\nfunc UseSystemd(\n"
    tags = {
        words: source.probe_tags(find(f"source:{checkout(tmp_path, {SYSTEMD + 'a.go': head + words})}"))
        for words in (f"{probes} hasDelegate", f"{probes} hasDelegateScope hasDelegateSlice", "hasStartTransientUnit")
    }
    assert list(tags.values()) == [(), ("delegatesplit",), ("unknownprobes",)]
