"""The benches: each can be found and started, and their arithmetic is right. What they measure is not judged here."""

from __future__ import annotations

import importlib
import inspect
import subprocess
import sys
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parent.parent
pytestmark = pytest.mark.skipif(not (REPO / "bench").is_dir(), reason="the benches are part of a checkout only")


def bench(*words: str) -> subprocess.CompletedProcess[str]:
    """Run `python -m bench`."""
    return subprocess.run(
        [sys.executable, "-m", "bench", *words], cwd=REPO, capture_output=True, text=True, check=False
    )


def test_the_list_names_every_bench(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is listed is there, and has the coroutine that the command runs."""
    monkeypatch.syspath_prepend(str(REPO))
    benches = importlib.import_module("bench.__main__").BENCHES
    listed = bench().stdout
    for name in benches:
        assert name in listed
        module = importlib.import_module(f"bench.{name.replace('-', '_')}")
        assert inspect.iscoroutinefunction(module.main)


def test_an_unknown_bench_is_named_beside_the_known() -> None:
    """A typo gets one line and exit status 2."""
    done = bench("relays")
    assert done.returncode == 2
    assert "relay" in done.stderr and "Traceback" not in done.stderr


def test_help_says_what_is_measured() -> None:
    """Each bench has --help with its first sentence."""
    assert "What the relay adds" in bench("relay", "--help").stdout


def test_quantiles(monkeypatch: pytest.MonkeyPatch) -> None:
    """The smallest value that at least this share does not exceed."""
    monkeypatch.syspath_prepend(str(REPO))
    quantile = importlib.import_module("bench.common").quantile
    assert quantile([3.0], 0.99) == 3.0
    assert quantile([1.0, 2.0, 3.0, 4.0], 0.5) == 2.0
    assert quantile([float(n) for n in range(100)], 0.99) == 98.0
    assert quantile([1.0, 2.0], 1.0) == 2.0
