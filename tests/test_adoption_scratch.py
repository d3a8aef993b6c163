"""Adopting cgrace: a scratch repository whose CI configuration is three lines, with a driver and one scenario of its own.

The test does what the configuration says, by the steps of our action.yml, on a machine that has only Python, Go and git: green with
today's driver, red with rc5 in its place, and the report says why. It takes about half a minute.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
from dataclasses import dataclass, field
from pathlib import Path
from xml.etree import ElementTree

import pytest
from action_kit import filled, inputs_of, load, read

from cgrace.harness.drivers.gobuild import try_find_go

ROOT = Path(__file__).resolve().parent.parent
CACHES = shutil.ignore_patterns("__pycache__", ".mypy_cache", ".ruff_cache", ".pytest_cache", "*.egg-info")
TODAY = "github.com/opencontainers/cgroups@v0.1.0"
RC5 = "github.com/opencontainers/runc@v1.0.0-rc5"

WORKFLOW = """\
on: pull_request
jobs:
  cgrace:
    runs-on: ubuntu-24.04
    steps:
      - uses: actions/checkout@v4
      - uses: OWNER/cgrace@main
        with:
          scenarios: scenarios
"""
SCENARIO = """\
#:schema https://raw.githubusercontent.com/OWNER/cgrace/main/scenarios/scenario.schema.json
title = "A pod's slice is there already when the agent starts again"
mechanism = "The agent applies the slice of every pod at its start. systemd knows the slice, answers UnitExists, and makes no job."
on = { profile = "219-rhel7" }
bound = "900ms"
steps = [
  { id = "before", do = "apply", unit = "pods-a.slice" },
  { id = "restart", do = "apply", unit = "pods-a.slice" },
]
"""
SUDO = """\
#!/bin/sh
# What sudo does to an environment: with --preserve-env all stays but PATH, without it next to nothing does.
[ "$1" = --preserve-env ] || exec env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin "$@"
shift
exec env PATH=/usr/sbin:/usr/bin:/sbin:/bin "$@"
"""


@dataclass
class Runner:
    """A machine that runs jobs: a Python of its own, sudo, a temporary folder, and our action checked out."""

    temp: Path
    action: Path
    environ: dict[str, str] = field(default_factory=dict)

    def job(self, repository: Path) -> subprocess.CompletedProcess[str]:
        """Do what the repository's workflow says; the last step's end."""
        ((name, steps),) = [
            (name, job["steps"])
            for name, job in load(repository / ".github" / "workflows" / "cgrace.yml")["jobs"].items()
        ]
        assert name == "cgrace"
        (call,) = [step for step in steps if "/cgrace@" in step["uses"]]
        action = load(self.action / "action.yml")
        contexts = {
            "inputs": inputs_of(action, call.get("with", {})),
            "github": {"action_path": str(self.action)},
            "runner": {"temp": str(self.temp)},
        }
        for step in (step for step in action["runs"]["steps"] if "run" in step):
            given = {key: filled(value, contexts) for key, value in step["env"].items()}
            done = self.run("bash", "-e", "-c", step["run"], cwd=repository, **given)
            if done.returncode:
                break
        return done

    def run(self, *argv: str | Path, cwd: Path, **given: str) -> subprocess.CompletedProcess[str]:
        """One command, with the machine's environment."""
        environ = {**self.environ, **given}
        return subprocess.run(argv, cwd=cwd, env=environ, capture_output=True, text=True, timeout=300, check=False)


@pytest.fixture(scope="module")
def modules() -> dict[str, Path]:
    """The released drivers, as Go's module cache has them."""
    tool = try_find_go() or pytest.skip("no Go tool here")
    found = {}
    for name in (TODAY, RC5):
        done = subprocess.run(
            [tool.path, "mod", "download", "-json", name], capture_output=True, text=True, check=False
        )
        if done.returncode:
            pytest.skip(f"{name} cannot be had here")
        found[name] = Path(json.loads(done.stdout)["Dir"])
    return found


@pytest.fixture(scope="module")
def runner(tmp_path_factory: pytest.TempPathFactory) -> Runner:
    """No network is needed: the dependencies and the build tool are lent by the environment that runs this test."""
    if os.geteuid() != 0:
        pytest.skip("target fake takes root")
    home = tmp_path_factory.mktemp("runner")
    python = home / "python"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", python], check=True)
    (site,) = python.glob("lib/python3*/site-packages")
    (lent := home / "lent").mkdir()
    for path in Path(sysconfig.get_path("purelib")).iterdir():
        if not path.name.lower().startswith(("cgrace", "__editable__", "_editable")) and path.suffix != ".pth":
            (lent / path.name).symlink_to(path)
    (site / "lent.pth").write_text(f"{lent}\n")
    (tools := home / "bin").mkdir()
    (tools / "sudo").write_text(SUDO)
    (tools / "sudo").chmod(0o755)
    (action := home / "action").mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE", "action.yml"):
        shutil.copy2(ROOT / name, action)
    for name in ("harness", "fakes", "reports", "scenarios", "src"):
        shutil.copytree(ROOT / name, action / name, symlinks=True, ignore=CACHES)
    (temp := home / "temp").mkdir()
    kept = {
        key: os.environ[key] for key in ("HOME", "LANG", "XDG_CACHE_HOME", "GOPROXY", "GOFLAGS") if key in os.environ
    }
    offline = {
        "PIP_NO_DEPS": "1",
        "PIP_NO_INDEX": "1",
        "PIP_NO_BUILD_ISOLATION": "0",
        "PIP_DISABLE_PIP_VERSION_CHECK": "1",
    }
    github = {"GITHUB_ACTIONS": "true", "GITHUB_STEP_SUMMARY": str(home / "summary.md")}
    path = f"{python}/bin:{tools}:{os.environ['PATH']}"
    return Runner(temp=temp, action=action, environ={**kept, **offline, **github, "PATH": path})


def put(repository: Path, driver: Path) -> None:
    """Make the driver's sources the repository's."""
    for path in repository.iterdir():
        if path.name not in (".git", ".github", "scenarios"):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    shutil.copytree(driver, repository, dirs_exist_ok=True, ignore=shutil.ignore_patterns(".github"))
    subprocess.run(["chmod", "-R", "u+w", repository], check=True)


@pytest.fixture
def repository(tmp_path: Path, modules: dict[str, Path]) -> Path:
    """A driver, three lines of CI configuration, one scenario."""
    git = shutil.which("git") or pytest.skip("no git here")
    subprocess.run([git, "init", "--quiet", tmp_path], check=True)
    (workflows := tmp_path / ".github" / "workflows").mkdir(parents=True)
    (workflows / "cgrace.yml").write_text(WORKFLOW)
    (tmp_path / "scenarios").mkdir()
    (tmp_path / "scenarios" / "restart.toml").write_text(SCENARIO)
    put(tmp_path, modules[TODAY])
    return tmp_path


def clean(repository: Path) -> bool:
    """Whether nothing was written into the repository."""
    said = subprocess.run(["git", "status", "--short"], cwd=repository, capture_output=True, text=True, check=True)
    return said.stdout == ""


def commit(repository: Path) -> None:
    """As the author would."""
    who = ["-c", "user.name=somebody", "-c", "user.email=somebody@example.org"]
    subprocess.run(["git", "add", "--all", "--force"], cwd=repository, check=True)
    subprocess.run(["git", *who, "commit", "--quiet", "-m", "work"], cwd=repository, check=True)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_green_and_then_red(repository: Path, runner: Runner, modules: dict[str, Path]) -> None:
    """Three lines run their scenario: green with today's driver, red with rc5 in its place, and everything says why."""
    commit(repository)
    done = runner.job(repository)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 clean" in done.stdout
    assert clean(repository)

    put(repository, modules[RC5])
    commit(repository)
    done = runner.job(repository)
    assert done.returncode == 1, done.stdout + done.stderr
    assert clean(repository)
    assert "::error" in done.stdout + done.stderr
    assert "HANG" in (Path(runner.environ["GITHUB_STEP_SUMMARY"])).read_text()
    (case,) = ElementTree.parse(runner.temp / "cgrace" / "junit.xml").getroot().iter("testcase")
    assert case.find("failure") is not None

    report = runner.run("cgrace", "report", "last", "--store", runner.temp / "cgrace" / "runs", cwd=repository).stdout
    assert 'HANG of "restart"' in report
    assert "receives from a channel that nobody sends to" in report
    assert "apply_systemd.go:" in report

    done = runner.run(
        "python", "-m", "pytest", "scenarios", "-p", "no:cacheprovider", "--cgrace-driver", "source:.",
        "--cgrace-store", runner.temp / "pytest", cwd=repository,
    )  # fmt: skip
    assert done.returncode == 1, done.stdout + done.stderr
    assert 'HANG of "restart"' in done.stdout
    assert "Traceback" not in done.stdout
    assert clean(repository)


def test_the_workflow_is_three_lines() -> None:
    """What an adopter writes to call us."""
    step = read(WORKFLOW)["jobs"]["cgrace"]["steps"][-1]
    assert len(step) + len(step["with"]) == 3
