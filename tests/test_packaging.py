"""An installed cgrace: everything is in the wheel, and it keeps out of the way of modules called as our folders are."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

import cgrace

ROOT = Path(__file__).resolve().parent.parent
PARTS = ("harness", "fakes", "reports", "scenarios")
LEFT_OUT = {"__pycache__", ".mypy_cache", ".ruff_cache", ".pytest_cache"}


def run(*argv: str | Path, cwd: Path, **environ: str) -> str:
    """A command that must succeed; gives its stdout."""
    known = {key: value for key, value in os.environ.items() if not key.startswith(("PYTEST_", "PYTHON", "COV_"))}
    done = subprocess.run(argv, cwd=cwd, env={**known, **environ}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{argv}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy of the sources, without a network."""
    folder = tmp_path_factory.mktemp("wheel")
    copy = folder / "clone"
    copy.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy2(ROOT / name, copy)
    for name in (*PARTS, "src"):
        shutil.copytree(ROOT / name, copy / name, symlinks=True, ignore=shutil.ignore_patterns(*LEFT_OUT, "*.egg-info"))
    pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    run(*pip, "--wheel-dir", folder, copy, cwd=folder)
    (built,) = folder.glob("cgrace-*.whl")
    return built


@pytest.fixture(scope="module")
def venv(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment with the wheel, and our own dependencies lent to it."""
    folder = tmp_path_factory.mktemp("env")
    run(sys.executable, "-m", "venv", "--without-pip", folder, cwd=folder)
    python = folder / "bin" / "python"
    run(
        sys.executable,
        "-m",
        "pip",
        "--python",
        python,
        "install",
        "--quiet",
        "--no-deps",
        "--no-index",
        wheel,
        cwd=folder,
    )
    (site,) = folder.glob("lib/python3*/site-packages")
    (site / "lent.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return folder


@pytest.fixture
def clashing(tmp_path: Path) -> Path:
    """Somebody else's project, with modules called as our folders are."""
    for name in PARTS:
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text(f"mine = {name!r}\n")
        (tmp_path / name / "cli.py").write_text("raise SystemExit('the wrong module')\n")
    (tmp_path / "scenarios" / "settings.toml").write_text('title = "not a scenario"\n')
    (tmp_path / "test_mine.py").write_text(
        "import harness, fakes, reports, scenarios\n"
        "def test_mine():\n    assert [m.mine for m in (harness, fakes, reports, scenarios)] == "
        f"{list(PARTS)}\n"
    )
    return tmp_path


def test_the_wheel_has_everything(wheel: Path) -> None:
    """Every module and every data file of the four folders, and nothing outside cgrace."""
    packed = set(zipfile.ZipFile(wheel).namelist())
    wanted = {
        f"cgrace/{path.relative_to(ROOT)}"
        for part in PARTS
        for path in (ROOT / part).rglob("*")
        if path.is_file() and not LEFT_OUT & set(path.parts)
    }
    assert wanted - packed == set()
    assert {name.split("/")[0] for name in packed} == {"cgrace", f"cgrace-{cgrace.__version__}.dist-info"}


def test_the_command_is_not_shadowed(venv: Path, clashing: Path) -> None:
    """The console script works beside folders of those names, also with the present directory on the path."""
    command = venv / "bin" / "cgrace"
    assert run(command, "--version", cwd=clashing, PYTHONPATH=".") == f"cgrace {cgrace.__version__}\n"
    assert "row" in run(command, "explain", "7b", "--json", cwd=clashing, PYTHONPATH=".")
    where = run(venv / "bin" / "python", "-c", "import cgrace.harness as h; print(h.__file__)", cwd=clashing)
    assert str(venv) in where


def test_nobody_elses_modules_are_shadowed(venv: Path, clashing: Path) -> None:
    """Their tests import their own modules, with our plugin loaded, and their TOML is not collected."""
    said = run(venv / "bin" / "python", "-m", "pytest", "-p", "no:cacheprovider", "-q", cwd=clashing, PYTHONPATH=".")
    assert "1 passed" in said


def test_the_plugin_costs_others_nothing(venv: Path, clashing: Path) -> None:
    """In a run that has no scenario, nothing of the engine is imported."""
    code = (
        "import sys, pytest; pytest.main(['-q', '-p', 'no:cacheprovider']); "
        "print([m for m in sys.modules if m.startswith(('cgrace.', 'dbus_fast'))])"
    )
    last = run(venv / "bin" / "python", "-c", code, cwd=clashing, PYTHONPATH=".").splitlines()[-1]
    assert last == "['cgrace.harness', 'cgrace.harness.pytest_plugin']"


def test_the_fake_starts_from_the_checkout() -> None:
    """`python -m fakes.systemd` works at the root of a checkout."""
    assert "--bus-address" in run(sys.executable, "-m", "fakes.systemd", "--help", cwd=ROOT)
