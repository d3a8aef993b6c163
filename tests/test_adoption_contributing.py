"""CONTRIBUTING stays true: its files are there, its scenario loads, its commands parse, its program runs."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from cgrace.harness.cli import parser
from cgrace.harness.drivers.catalogue import find
from cgrace.harness.drivers.recipe import FAMILY_FOLDERS
from cgrace.harness.scenario.parse import load_text

ROOT = Path(__file__).resolve().parent.parent
TEXT = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
BLOCKS = [(kind, text) for kind, text in re.findall(r"^```(\w*)\n(.*?)^```", TEXT, re.S | re.M)]


def blocks(kind: str) -> list[str]:
    """The fenced blocks of a kind."""
    return [text for known, text in BLOCKS if known == kind]


def test_every_path_is_there() -> None:
    """Files and folders in backquotes, links, and the files of the diff."""
    named = re.findall(r"`((?:harness|tests|fakes|reports|scenarios)/[\w./]*)`", TEXT)
    named += re.findall(r"\]\(([\w./]+)\)", TEXT) + re.findall(r"^\+\+\+ b/(\S+)", TEXT, re.M)
    assert len(named) > 30
    assert [name for name in named if not (ROOT / name).exists()] == []


def test_every_section_is_there() -> None:
    """Links to sections lead somewhere."""
    headings = {
        re.sub(r"[^a-z -]", "", line.lower()).replace(" ", "-") for line in re.findall(r"^## (.*)$", TEXT, re.M)
    }
    assert set(re.findall(r"\]\(#([\w-]+)\)", TEXT)) <= headings


def test_the_scenario_loads() -> None:
    """The worked example is a scenario, also with the expectation that follows it."""
    whole, expectation = blocks("toml")
    assert load_text(whole, Path("twice.toml")).faults
    (expect,) = load_text(whole + expectation, Path("twice.toml")).expect
    assert "err-nil" in expect.generations
    assert tomllib.loads(expectation)


def test_the_commands_parse() -> None:
    """Every `./cgrace` line is in the grammar."""
    lines = re.findall(r"^\$ \./cgrace (.*)$", TEXT, re.M)
    assert len(lines) >= 7
    for line in lines:
        words = shlex.split(line)
        if words[0] != "test":
            parser().parse_args(words)


def test_a_fault_goes_where_its_sibling_goes() -> None:
    """The places that the example of a fault names are those where a shipped fault of the same kind is."""
    (diff,) = blocks("diff")
    for name in re.findall(r"^\+\+\+ b/(\S+)", diff, re.M):
        text = (ROOT / name).read_text(encoding="utf-8")
        assert "DeleteCgroup" in text or '"delete"' in text, name


def test_the_driver_can_be_built_as_said() -> None:
    """The families are those that there are, and the example's module is one that its family is for."""
    table = dict(re.findall(r"^\| ([A-Z]) \| `(\w+)` \|", TEXT, re.M))
    assert table == FAMILY_FOLDERS
    assert find("today").family == "D"


@pytest.mark.skipif(os.geteuid() != 0, reason="target fake takes root")
def test_the_program_runs(tmp_path: Path) -> None:
    """The example of a target prints what it is said to print."""
    program = next(text for text in blocks("python") if "FakeTarget" in text)
    (tmp_path / "place.py").write_text(program)
    done = subprocess.run(
        [sys.executable, tmp_path / "place.py"], capture_output=True, text=True, check=False, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    shown = [line for line in done.stdout.splitlines() if not re.match(r"[0-9]+:", line)]
    assert shown[0] == "/sys/fs/cgroup/devices"
    assert re.fullmatch(r"ended with 0; look was [0-9]+ inside", shown[1])
