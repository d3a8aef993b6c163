"""The suite side by side in workers of pytest-xdist: the same results as without, kept as one run, and nothing left behind."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from cgrace.harness.targets import owner

ROOT = Path(__file__).resolve().parent.parent
FILES = ("scenarios/core/unit_exists_slice.toml", "scenarios/core/failed_job.toml")
DRIVERS = ("today", "async", "wait-forever")
HIERARCHIES = Path("/sys/fs/cgroup")


def pytest_run(store: Path, *more: str) -> list[dict[str, Any]]:
    """The results of one run of pytest on the files, which must be as history says."""
    if os.geteuid() != 0:
        pytest.skip("target fake takes root")
    drivers = [word for name in DRIVERS for word in ("--driver", name)]
    argv = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *FILES, *drivers, "--store", str(store), *more]
    done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "8 cases: 3 clean, 5 reproduced" in done.stdout
    (folder,) = [path for path in store.iterdir() if not path.is_symlink()]
    assert len(list(folder.glob("*.jsonl"))) == 8
    results = json.loads((folder / "results.json").read_text())["results"]
    assert all(Path(result["trace"]).is_file() for result in results)
    return list(results)


def left() -> set[str]:
    """Cgroups of cgrace whose process is no more."""
    found = {path.name for depth in ("*", "*/*", "*/*/*") for path in HIERARCHIES.glob(f"{depth}/cgrace-*")}
    return {name for name in found if (pid := name.split("-")[1]).isdecimal() and not Path(f"/proc/{pid}").exists()}


@pytest.mark.parametrize("more", [["-n", "2"], ["-n", "2", "--dist", "loadfile"]], ids=" ".join)
def test_workers_come_to_the_same(more: list[str], tmp_path: Path) -> None:
    """Each worker has a target of its own; the controller keeps one run of what they hand over."""
    assert owner.own_name().startswith("cgrace-")
    before = left()
    alone = pytest_run(tmp_path / "alone")
    together = pytest_run(tmp_path / "together", *more)
    assert {r["case"]: r["outcome"] for r in together} == {r["case"]: r["outcome"] for r in alone}
    assert left() - before == set()
