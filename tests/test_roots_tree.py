"""Install trees of systemd: what fits over a root, what is missing, and how both are seen as one."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cgrace.harness.errors import TargetError
from cgrace.harness.targets import roots
from cgrace.harness.targets.elf import read_elf
from cgrace.harness.targets.roots import build_root, split_over
from cgrace.harness.targets.roots_tree import INITS, Layers, install_tree, package_of, systemd_version

PROGRAM = Path(shutil.which("env") or "/usr/bin/env").resolve()  # links to libc alone, wherever it is from
ELF = read_elf(PROGRAM.read_bytes())
HERE = pytest.mark.skipif(
    ELF is None or "libc.so.6" not in ELF.needed or not Path("/lib").is_symlink(),
    reason="takes programs of a glibc and a merged /usr as the root below",
)


def tree(folder: Path, data: bytes, place: str = "usr/lib/systemd/systemd") -> str:
    """An install tree whose systemd is that program."""
    path = folder / place
    path.parent.mkdir(parents=True)
    path.write_bytes(data)
    path.chmod(0o755)
    return str(folder)


def tree_of(suite: str, folder: Path) -> str:
    """An install tree with that suite's own systemd, as if built from other sources: gives what it calls its version."""
    root = roots.look_up(suite)
    assert root is not None
    version = str(root.note["packages"]["systemd"])
    other = f"{version[:-5]}-ours"
    for base in ("usr/lib", "lib"):
        if (root.folder / "root" / base).is_symlink():
            continue
        for pattern in ("systemd/systemd", "*/systemd/libsystemd-*.so", "systemd/libsystemd-*.so"):
            for path in (root.folder / "root" / base).glob(pattern):
                place = folder / path.relative_to(root.folder / "root")
                place.parent.mkdir(parents=True, exist_ok=True)
                place.write_bytes(path.read_bytes().replace(version.encode(), other.encode()))
                place.chmod(0o755)
    return other


def changed(old: bytes, new: bytes) -> bytes:
    """The program with a word in its tables changed."""
    data = PROGRAM.read_bytes()
    assert len(old) == len(new) and old in data
    return data.replace(old, new)


@HERE
def test_an_elf_file_is_read() -> None:
    """What it needs, and which versions of it."""
    assert ELF is not None and ELF.bits in (32, 64)
    assert any(one.startswith("GLIBC_") for one in ELF.wants["libc.so.6"])


@given(st.data())
@settings(max_examples=150, deadline=None)
def test_no_elf_file_is_too_damaged(data: st.DataObject) -> None:
    """Whatever is written into it, it is read or it is none; nothing else happens."""
    whole = bytearray(PROGRAM.read_bytes()[: data.draw(st.sampled_from([0, 4, 63, 64, 400, 20_000, 1 << 20]))])
    for _ in range(data.draw(st.integers(0, 8))):
        if whole:
            whole[data.draw(st.integers(0, min(len(whole), 4000) - 1))] = data.draw(st.integers(0, 255))
    read_elf(bytes(whole))
    read_elf(data.draw(st.binary(max_size=200)))


@HERE
def test_a_tree_that_fits(tmp_path: Path) -> None:
    """It is where it was, and its systemd is booted from where it has it."""
    found = install_tree(tree(tmp_path, PROGRAM.read_bytes()), Path("/"))
    assert (found.folder, found.inits) == (tmp_path, ("/usr/lib/systemd/systemd",))


@HERE
def test_a_library_that_the_root_lacks(tmp_path: Path) -> None:
    """One message: which, who wants it, and which package would have it."""
    text = tree(tmp_path, changed(b"libc.so.6\0", b"libq.so.6\0"))
    with pytest.raises(TargetError, match=r"cannot start over trixie, which lacks libq\.so\.6") as caught:
        install_tree(text, Path("/"), "trixie")
    assert "libq6" in caught.value.hint and "/usr/lib/systemd/systemd needs libq.so.6" in caught.value.detail


@HERE
def test_a_library_that_the_tree_brings(tmp_path: Path) -> None:
    """What the tree has counts as much as what the root has."""
    text = tree(tmp_path, changed(b"libc.so.6\0", b"libq.so.6\0"))
    libc = Layers(None, Path("/")).find("/lib/x86_64-linux-gnu/libc.so.6")
    if libc is None:
        pytest.skip("libc is elsewhere here")
    shutil.copy(libc, tmp_path / "usr/lib/libq.so.6")
    assert install_tree(text, Path("/")).folder == tmp_path


@HERE
def test_a_root_that_is_too_old(tmp_path: Path) -> None:
    """A version of libc's symbols that it has not: no package of that suite mends that."""
    assert ELF is not None
    version = next(one for one in ELF.wants["libc.so.6"] if one.startswith("GLIBC_")).encode()
    text = tree(tmp_path, changed(version + b"\0", version[:-1] + b"Z\0"))
    with pytest.raises(TargetError, match=r"libc\.so\.6 is too old there, it lacks GLIBC_") as caught:
        install_tree(text, Path("/"), "bookworm")
    assert "newer" in caught.value.hint


@HERE
def test_another_processor(tmp_path: Path) -> None:
    """Said as such, and not as libraries that are missing."""
    data = bytearray(PROGRAM.read_bytes())
    data[18:20] = (243).to_bytes(2, "little")  # EM_RISCV
    with pytest.raises(TargetError, match="another processor"):
        install_tree(tree(tmp_path, bytes(data)), Path("/"))


def merged(folder: Path) -> Path:
    """A root with a merged /usr and hardly anything in it."""
    (folder / "usr/lib/systemd").mkdir(parents=True)
    (folder / "usr/lib/below").write_text("root")
    (folder / "usr/lib/both").write_text("root")
    (folder / "lib").symlink_to("usr/lib")
    return folder


def test_what_is_no_install_tree(tmp_path: Path) -> None:
    """Refused before anything is booted."""
    with pytest.raises(TargetError, match="no install tree"):
        install_tree(str(tmp_path), merged(tmp_path / "root"))


def test_a_tree_beside_usr_comes_to_where_the_link_leads(tmp_path: Path) -> None:
    """Its /lib is laid over the root's /usr/lib, and hides nothing there."""
    root, over = merged(tmp_path / "root"), tmp_path / "tree"
    (over / "lib/systemd").mkdir(parents=True)
    (over / "lib/systemd/systemd").write_text("no program")
    (over / "lib/systemd/systemd").chmod(0o755)
    (over / "lib/both").write_text("tree")
    (over / "usr/lib").mkdir(parents=True)
    (over / "usr/lib/both").write_text("hidden")
    layers = Layers(over, root)
    assert layers.moved == {"lib": "usr/lib"}
    texts = {name: layers.find(f"/lib/{name}") for name in ("both", "below", "systemd/systemd", "none")}
    assert {name: path and path.read_text() for name, path in texts.items()} == {
        "both": "tree",
        "below": "root",
        "systemd/systemd": "no program",
        "none": None,
    }
    assert install_tree(str(over), root).inits == ("/lib/systemd/systemd",)


@pytest.mark.parametrize("links", [True, False])
def test_a_root_that_is_not_merged(tmp_path: Path, links: bool) -> None:
    """A tree for a merged /usr would hide the root's /lib, or leave its units unseen: refused with what to do."""
    root, over = tmp_path / "root", tmp_path / "tree"
    (root / "lib/systemd/system").mkdir(parents=True)
    tree(over, b"")
    if links:
        (over / "lib").symlink_to("usr/lib")
    with pytest.raises(TargetError, match="merged /usr"):
        install_tree(str(over), root, "bullseye")


def test_a_systemd_that_may_not_be_executed(tmp_path: Path) -> None:
    """Refused before anything is booted, by the file's name."""
    text = tree(tmp_path / "tree", b"no program")
    Path(text, "usr/lib/systemd/systemd").chmod(0o644)
    with pytest.raises(TargetError, match="may not be executed"):
        install_tree(text, merged(tmp_path / "root"))


def test_links_that_lead_in_a_circle(tmp_path: Path) -> None:
    """They lead nowhere, and to nowhere outside."""
    (tmp_path / "a").symlink_to("/b")
    (tmp_path / "b").symlink_to("a")
    (tmp_path / "out").symlink_to("../../../../../etc/passwd")
    layers = Layers(None, tmp_path)
    assert (layers.find("/a"), layers.find("/out"), layers.find("/../..")) == (None, None, tmp_path / "")


def test_versions_of_trees(tmp_path: Path) -> None:
    """By the name of systemd's own library, else by what its program says of itself; "" where neither tells."""
    tree(tmp_path / "a", b"\0systemd 259~devel running in %ssystem mode\0")
    tree(tmp_path / "b", b"")
    (tmp_path / "b/usr/lib/systemd/libsystemd-shared-261~rc1.so").touch()
    tree(tmp_path / "c", b"")
    assert [systemd_version(tmp_path / one) for one in "abc"] == ["259~devel", "261~rc1", ""]


def test_packages_by_soname() -> None:
    """As Debian names them."""
    wanted = {
        "libmount.so.1": "libmount1",
        "liblz4.so.1": "liblz4-1",
        "libpam.so.0": "libpam0g",
        "libgcc_s.so.1": "libgcc-s1",
    }
    assert {name: package_of(name) for name in wanted} == wanted


def test_names_with_a_plus(tmp_path: Path) -> None:
    """A suite has none in its name; of a path it may be a part."""
    own, over = tmp_path / "c++" / "root", tmp_path / "my+tree"
    own.mkdir(parents=True)
    over.mkdir()
    assert split_over("trixie") == ("trixie", "")
    assert split_over(f"trixie+{over}") == ("trixie", str(over))
    assert split_over(f"{own}+{over}") == (str(own), str(over))
    assert split_over(str(own)) == (str(own), "")
    assert split_over(f"{own}+/nowhere") == (str(own), "/nowhere")


@pytest.mark.parametrize("suite", ["bullseye", "bookworm", "trixie"])
def test_the_suites_own_systemd_lacks_nothing(suite: str) -> None:
    """What is looked up as the loader does is all there in a root that boots."""
    from cgrace.harness.targets.roots_tree import what_is_missing

    root = roots.look_up(suite)
    if root is None:
        pytest.skip(f"no root of {suite} is built here yet")
    layers = Layers(None, root.folder / "root")
    assert any(layers.find(f"/{name}") for name in INITS)
    assert list(what_is_missing(layers, suite)) == []


def test_a_build_is_held_against_its_suite(capsys: pytest.CaptureFixture[str]) -> None:
    """What was recorded of the suite says what to expect of a build over it, and is never overwritten by one."""
    from cgrace.harness.cli import main
    from cgrace.harness.targets.registry import parse_target

    built = parse_target("container:trixie+/srv/tree:v1")
    assert (built.is_build, built.slug, built.base, built.layout) == (
        True,
        "container-trixie",
        "container:trixie+/srv/tree",
        "v1",
    )
    assert not parse_target("container:trixie").is_build
    assert main(["reproduce", "1780", "--target", "container:trixie+/srv/tree", "--record"]) == 2
    assert "of a suite" in capsys.readouterr().err


@HERE
def test_a_program_that_is_no_systemd(tmp_path: Path) -> None:
    """What does not say which systemd it is is no machine's init."""
    suite = next((one for one in ("trixie", "bookworm") if roots.look_up(one)), "")
    if not suite:
        pytest.skip("no root is built here yet")
    with pytest.raises(TargetError, match="which systemd"):
        asyncio.run(build_root(f"{suite}+{tree(tmp_path, PROGRAM.read_bytes())}"))
