"""Where runs live: names, bounds, and that nothing of anybody else's is touched."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cgrace.harness.errors import CgraceError, UsageError
from cgrace.harness.store import MARK, NAME_BYTES_MAX, file_name, last_run, new_run, prune, runs_home


@given(st.text())
def test_names_stay_in_their_folder(text: str) -> None:
    """Whatever a scenario calls itself, its file is one plain component of bounded length."""
    name = file_name(text, ".jsonl")
    assert Path(name).name == name
    assert not name.startswith(".")
    assert len(name.encode()) <= NAME_BYTES_MAX
    assert name.endswith(".jsonl")


@given(st.text(), st.text())
def test_different_texts_have_different_names(one: str, other: str) -> None:
    """What had to be changed gets a digest, so that two cases never share a trace."""
    assert (file_name(one) == file_name(other)) == (one == other)


def test_last_is_the_newest(tmp_path: Path) -> None:
    """`last` names the run made last, also by a link that was removed."""
    new_run(tmp_path)
    newest = new_run(tmp_path)
    assert last_run(tmp_path).folder == newest.folder
    (tmp_path / "last").unlink()
    assert last_run(tmp_path).folder == newest.folder


def test_no_run_is_a_clear_message(tmp_path: Path) -> None:
    """Before the first run, `report last` says so."""
    with pytest.raises(UsageError, match="no run is stored"):
        last_run(tmp_path / "none")


def test_a_last_that_leads_out_is_not_followed(tmp_path: Path) -> None:
    """A link to somewhere else is not taken for a run."""
    home = tmp_path / "runs"
    home.mkdir()
    (home / "last").symlink_to(tmp_path)
    with pytest.raises(UsageError):
        last_run(home)


def test_pruning_keeps_the_newest_and_what_is_not_ours(tmp_path: Path) -> None:
    """Only folders with our name and mark go, oldest first."""
    runs = [new_run(tmp_path) for _ in range(5)]
    foreign = tmp_path / "20180309T101500Z-1"
    foreign.mkdir()
    (foreign / "thesis.tex").touch()
    assert prune(tmp_path, runs_max=3) == 3
    assert [run.folder.exists() for run in runs] == [False, False, False, True, True]
    assert foreign.exists()


def test_pruning_by_size(tmp_path: Path) -> None:
    """Old runs make room; the newest stays even if it alone is too large."""
    runs = [new_run(tmp_path) for _ in range(3)]
    for run in runs:
        (run.folder / "x.jsonl").write_bytes(b"x" * 1000)
    prune(tmp_path, bytes_max=1500)
    assert [run.folder.exists() for run in runs] == [False, False, True]


def test_results_are_whole_or_absent(tmp_path: Path) -> None:
    """What was saved is read back; a run that did not end says so."""
    run = new_run(tmp_path)
    with pytest.raises(CgraceError, match="did not come to its end"):
        run.results()
    run.save({"results": []})
    assert run.results() == {"results": []}
    assert sorted(path.name for path in run.folder.iterdir()) == [MARK, "results.json"]


def test_a_store_that_cannot_be_made(tmp_path: Path) -> None:
    """A file in the way is one message with the option that helps."""
    (tmp_path / "runs").touch()
    with pytest.raises(CgraceError, match="cannot be stored") as caught:
        new_run(tmp_path / "runs")
    assert "--store" in str(caught.value)


def test_home_follows_xdg(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """An absolute XDG_STATE_HOME counts, a relative one does not (as its rules say)."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    assert runs_home() == tmp_path / "cgrace" / "runs"
    monkeypatch.setenv("XDG_STATE_HOME", "relative")
    assert runs_home() == Path.home() / ".local" / "state" / "cgrace" / "runs"


def test_pruning_by_age(tmp_path: Path) -> None:
    """Runs older than the bound go; the newest stays, however old."""
    for name in ("20180309T101500Z-1", "20180310T101500Z-1", "20180401T000000Z-1"):
        (tmp_path / name).mkdir()
        (tmp_path / name / MARK).touch()
    april = 1_522_540_800.0  # 2018-04-01 00:00 UTC
    assert prune(tmp_path, age_s_max=22 * 86400, now_s=april) == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["20180310T101500Z-1", "20180401T000000Z-1"]
    assert prune(tmp_path, age_s_max=1, now_s=april + 10**7) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["20180401T000000Z-1"]


def test_pruning_leaves_what_somebody_put_into_a_run(tmp_path: Path) -> None:
    """A note in a run's folder outlives the run: our files go, the folder is no run any more, and nothing touches it again."""
    old, _ = new_run(tmp_path), new_run(tmp_path)
    (old.folder / "a.jsonl").touch()
    (old.folder / "a.html").touch()
    for name in ("note.txt", "mine.html", "data.json"):
        (old.folder / name).touch()
    (old.folder / "sub").mkdir()
    (old.folder / "link.jsonl").symlink_to("/etc/passwd")
    old.save({})
    assert prune(tmp_path, runs_max=2) == 1
    left = {"note.txt", "mine.html", "data.json", "sub", "link.jsonl"}
    assert {path.name for path in old.folder.iterdir()} == left
    assert prune(tmp_path, runs_max=2) == 0
    assert {path.name for path in old.folder.iterdir()} == left


def test_results_that_are_too_large_are_refused(tmp_path: Path) -> None:
    """Nobody reads ten gigabytes into memory; nor what is nested without end."""
    run = new_run(tmp_path)
    with (run.folder / "results.json").open("wb") as stream:
        stream.truncate(10 * 1024**3)
    with pytest.raises(CgraceError, match="larger than any results"):
        run.results()
    (run.folder / "results.json").write_text("[" * 200_000)
    with pytest.raises(CgraceError, match="cannot be read"):
        run.results()
