"""Built binaries by content: whole or not at all, whoever else builds at the same time."""

from __future__ import annotations

import asyncio
import errno
import os
import shutil
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cgrace.harness.drivers import cache, gobuild
from cgrace.harness.drivers.gobuild import build_go_program
from cgrace.harness.errors import DriverError

PARTS = st.lists(st.tuples(st.text(max_size=4), st.binary(max_size=4)), max_size=4)


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of the test's own, with the machine's own build cache of Go behind it."""
    monkeypatch.setenv("GOCACHE", os.environ.get("GOCACHE") or str(Path.home() / ".cache" / "go-build"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "cgrace"


def fill(name: str = "tool") -> cache.Entry:
    """An entry with a script for a binary."""
    with cache.workshop() as folder:
        (folder / name).write_text("#!/bin/sh\n")
        return cache.store(name, "key", folder / name, {"go": "go1"})


@given(PARTS, PARTS)
def test_only_the_same_contents_have_the_same_key(
    left: list[tuple[str, bytes]], right: list[tuple[str, bytes]]
) -> None:
    """Nothing can move between names and contents unseen."""
    assert (cache.content_key(left) == cache.content_key(right)) == (left == right)


def test_an_entry_is_found_again(own_cache: Path) -> None:
    """What is stored is looked up by name and key, and its workshop is gone."""
    entry = fill()
    assert cache.look_up("tool", "key") == entry
    assert os.access(entry.binary, os.X_OK)
    assert list((own_cache / "work").iterdir()) == []


def test_half_an_entry_does_not_count_and_is_replaced() -> None:
    """A folder without its note, however it came about, is not a build."""
    folder = cache.entry_folder("tool", "key")
    folder.mkdir(parents=True)
    (folder / "tool").write_text("half")
    assert cache.look_up("tool", "key") is None
    assert fill().binary.read_text() == "#!/bin/sh\n"


def test_whoever_is_second_takes_what_is_there() -> None:
    """Two builds of one thing end with one entry, and neither fails."""
    assert fill() == fill()


def test_a_full_disk_is_told_as_such(own_cache: Path) -> None:
    """Copying a folder fails with a list of all its files: the reason is told once, and nothing stays."""
    told = "[Errno 28] No space left on device: 'a' -> 'b'"
    for problem in (shutil.Error([("a", "b", told)]), OSError(errno.ENOSPC, "No space left on device")):
        with pytest.raises(DriverError, match="work: No space left on device\n") as caught, cache.workshop():
            raise problem
        assert "XDG_CACHE_HOME" in caught.value.hint
    assert not list((cache.cache_root() / "work").iterdir())


def test_a_cancelled_build_leaves_no_workshop(own_cache: Path) -> None:
    """Interrupted work is removed at once; the last failed build's is kept for its command to be run again."""
    with pytest.raises(KeyboardInterrupt), cache.workshop():
        raise KeyboardInterrupt
    assert list((own_cache / "work").iterdir()) == []
    for _ in range(2):
        with pytest.raises(DriverError), cache.workshop():
            raise DriverError("it cannot be built")
    assert len(list((own_cache / "work").iterdir())) == 1


def test_a_dead_workshop_is_swept_and_a_live_one_is_not(own_cache: Path) -> None:
    """What a killed build left goes with the next one, never what another is working in."""
    long_ago = time.time() - 2 * 3600
    dead = own_cache / "work" / "dead"
    dead.mkdir(parents=True)
    os.utime(dead, (long_ago, long_ago))
    with cache.workshop() as live:
        os.utime(live, (long_ago, long_ago))
        with cache.workshop():
            assert live.exists()
            assert not dead.exists()


def program(folder: Path, body: str) -> Path:
    """A Go program of one line."""
    folder.mkdir()
    (folder / "go.mod").write_text("module example\n\ngo 1.24\n")
    (folder / "main.go").write_text(f"package main\n\nfunc main() {{ {body} }}\n")
    return folder


needs_go = pytest.mark.skipif(gobuild.try_find_go() is None, reason="no Go tool on this machine")


@needs_go
def test_a_go_program_is_built_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second time no go is started; with no Go at all, the same sources are still found built."""
    source = program(tmp_path / "p", "println(1)")
    binary = asyncio.run(build_go_program(source, "tool"))

    def nobody(*_: object, **__: object) -> None:
        raise AssertionError("the go tool was started")

    monkeypatch.setattr(gobuild, "run", nobody)
    assert asyncio.run(build_go_program(source, "tool")) == binary
    monkeypatch.setattr(gobuild, "try_find_go", lambda: None)
    assert asyncio.run(build_go_program(source, "tool")) == binary


@needs_go
def test_a_compile_error_shows_the_compilers_own_lines(tmp_path: Path) -> None:
    """One error, with file and line as the compiler has them, and nothing that counts as built."""
    source = program(tmp_path / "p", "nowhere()")
    with pytest.raises(DriverError) as caught:
        asyncio.run(build_go_program(source, "tool"))
    assert "main.go:3:15: undefined: nowhere" in caught.value.detail
    assert "go build" in caught.value.hint
    assert not (cache.cache_root() / "builds").exists()
