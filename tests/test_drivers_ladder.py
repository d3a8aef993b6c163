"""The ladder's rungs: cut by anchor, proved by git blob id."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cgrace.harness.drivers import ladder
from cgrace.harness.drivers.catalogue import CATALOGUE, RUNC, default_drivers, find
from cgrace.harness.drivers.gobuild import try_find_go
from cgrace.harness.drivers.ladder import RUNGS, Anchor, Text, blob_id, cut
from cgrace.harness.errors import DriverError
from cgrace.harness.proc.run import run


@pytest.fixture(scope="module")
def released() -> dict[str, bytes]:
    """The released files, downloaded by the go tool (or skipped where it cannot)."""
    tool = try_find_go()
    if tool is None:
        pytest.skip("the ladder is cut from sources that the go tool downloads, and there is none")
    modules = [f"{RUNC}@v1.0.0-{release}" for release in ladder.RELEASED]
    done = asyncio.run(
        run([str(tool.path), "mod", "download", "-json", *modules], cwd=Path("/"), env={"GOFLAGS": "-mod=mod"})
    )
    if not done.ok:
        pytest.skip(f"the go tool cannot download {', '.join(modules)}: {done.tail}")
    found, text, read = {}, done.text, json.JSONDecoder()
    while text.strip():
        module, end = read.raw_decode(text.lstrip())
        text = text.lstrip()[end:]
        found[module["Version"].rpartition("-")[2]] = (Path(module["Dir"]) / ladder.EDITED_FILE).read_bytes()
    return found


@pytest.mark.parametrize("name", RUNGS)
def test_every_rung_comes_out_with_its_blob_id(name: str, released: dict[str, bytes]) -> None:
    """The edit of the downloaded release gives exactly the file that the rung is known by."""
    assert blob_id(cut(name, released)).startswith(RUNGS[name].blob)


def test_the_rungs_from_rc5_are_upstreams_own_files(released: dict[str, bytes]) -> None:
    """Every rung of the rc5 cut names the commit whose file it is; consecutive rungs differ."""
    steps = ["async", "wait-forever", "timeout", "err-nil", "err-nil-delegate", "buffered"]
    contents = [cut(name, released) for name in steps]
    assert all(RUNGS[name].upstream for name in steps)
    assert len(set(contents)) == len(steps)
    assert b"make(chan string, 1)" in contents[-1]
    assert b"make(chan string)" in contents[-2]


def test_another_release_than_the_known_one_is_refused(released: dict[str, bytes]) -> None:
    """One changed byte in what was downloaded, and nothing is built from it."""
    spoilt = released | {"rc6": released["rc6"] + b"\n"}
    with pytest.raises(DriverError, match="the downloaded rc6 is not what it must be"):
        cut("timeout", spoilt)


def test_a_missing_anchor_is_named() -> None:
    """An edit that finds no place says which line it looked for."""
    with pytest.raises(DriverError, match="begins with 'statusChan'"):
        Anchor("statusChan").find(["package systemd\n"])


def test_a_token_must_be_there_once() -> None:
    """A swap that could mean two places is refused."""
    with pytest.raises(DriverError, match="no single ', 1'"):
        Text(b"make(1, 1, 1)\n").swap(Anchor("make"), ", 1", "")


@given(st.lists(st.text("ab{}\t", max_size=5).map(lambda line: line + "\n"), max_size=8))
def test_text_without_an_edit_is_the_same_bytes(lines: list[str]) -> None:
    """Reading and writing a file changes nothing, so a blob id speaks of the edits alone."""
    content = "".join(lines).encode()
    assert Text(content).content() == content


def test_blob_id_is_gits() -> None:
    """As `git hash-object` has it."""
    assert blob_id(b"hello\n") == "ce013625030ba8dba906f756967f9e9ca394464a"


def test_the_catalogue_finds_each_name_and_guesses_near_ones() -> None:
    """Names are unique; a near miss is told what may have been meant."""
    assert [find(spec.name) for spec in CATALOGUE] == list(CATALOGUE)
    with pytest.raises(DriverError, match="did you mean 'err-nil'"):
        find("errnil")


def test_generations_are_those_that_expectations_name() -> None:
    """A release is of the generation whose rung it is, and runs where that rung runs; so does each cut of a rung."""
    generations = {spec.name: (spec.generation, spec.rung) for spec in CATALOGUE}
    assert generations["rc5"] == ("wait-forever", "rc5")
    assert generations["rc6"] == ("buffered", "")
    assert generations["timeout"] == ("timeout", "rc5")
    assert generations["timeout@rc6"] == ("timeout", "rc6")
    assert not find("cgroupfs").uses_bus
    assert find("today").layouts == ("v1", "v2")


def test_by_default_each_generation_runs_once_in_each_cut() -> None:
    """No column is there twice for one setting."""
    columns = [(spec.generation, spec.rung) for spec in default_drivers()]
    assert len(columns) == len(set(columns))
    assert {generation for generation, _ in columns} >= {"cgroupfs", "async", "err-nil", "buffered", "today"}
