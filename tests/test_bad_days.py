"""The real command on a bad day: interrupted, killed, out of room, without tools. One clear line, and nothing left."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from engine_kit import needs_root
from test_targets_fake import traces_of

from cgrace.harness.commands.common import scenarios_folder
from cgrace.harness.targets.owner import OWNED_NAME

pytestmark = [needs_root, pytest.mark.timeout(120)]
needs_mounts = pytest.mark.skipif(shutil.which("unshare") is None, reason="takes unshare(1) for mounts of its own")

DELAY = str(scenarios_folder() / "primers" / "delay.toml")
PRIMERS = str(scenarios_folder() / "primers")
TWELVE = ["--repeat", "12", "--driver", "today"]  # enough for workers
UNDER_WAY_S_MAX = 30.0
GONE_S_MAX = 15.0
LONG = """
title = "a run that only its backstop ends"
wall = "{wall}"
on = {{ profile = "219-rhel7" }}
steps = [{{ id = "first", do = "apply", unit = "cgrace-a.slice" }}]
"""


@dataclass
class Desk:
    """Where a command runs: folders of its own for what it keeps and for its sockets."""

    folder: Path

    def __post_init__(self) -> None:
        self.tmp = self.folder / "tmp"
        self.tmp.mkdir()
        self.env = {**os.environ, "XDG_STATE_HOME": str(self.folder / "state"), "TMPDIR": str(self.tmp)}

    @staticmethod
    def argv(*words: str) -> list[str]:
        """The real command."""
        return [sys.executable, "-m", "cgrace.harness.cli", *words]

    def start(self, *words: str) -> subprocess.Popen[str]:
        """Begin a command, with a session of its own as a shell would give it."""
        return subprocess.Popen(
            self.argv(*words),
            env=self.env,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def run(self, *words: str, prelude: str = "", **env: str) -> subprocess.CompletedProcess[str]:
        """Run a command to its end; `prelude` is shell that comes before it in mounts of its own."""
        argv = self.argv(*words)
        if prelude:
            argv = ["unshare", "-m", "sh", "-c", f'{prelude} && exec "$@"', "sh", *argv]
        done = subprocess.run(argv, env={**self.env, **env}, capture_output=True, text=True, timeout=90, check=False)
        assert "Traceback" not in done.stdout + done.stderr
        return done

    def owners(self) -> set[str]:
        """Names of the cgrace processes that have a folder here."""
        return {path.name for path in self.tmp.iterdir() if OWNED_NAME.fullmatch(path.name)}

    def left(self, owners: set[str]) -> list[str]:
        """What is left of them."""
        return [*sorted(self.owners()), *(found for name in owners for found in traces_of(name))]


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    """A desk, on which nothing is left."""
    it = Desk(tmp_path)
    yield it
    assert not it.owners()


def wait_for(what: Callable[[], object], seconds: float) -> None:
    """Look until it is so."""
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end, "it never came to that"
        time.sleep(0.02)


def family(pid: int) -> dict[int, str]:
    """The descendants of a process, and their command lines."""
    found: dict[int, str] = {}
    queue = [pid]
    while queue:
        one = queue.pop()
        try:
            for task in Path(f"/proc/{one}/task").iterdir():
                queue += [int(child) for child in (task / "children").read_text(encoding="ascii").split()]
            found[one] = Path(f"/proc/{one}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
    found.pop(pid, None)
    return found


def of_kind(pid: int, words: str) -> list[int]:
    """Descendants whose command line has these words."""
    return [number for number, line in family(pid).items() if words in line]


def drivers(pid: int) -> list[int]:
    """Driver processes that run now: built binaries, or the reference driver's interpreter."""
    return [number for number, line in family(pid).items() if "/builds/today" in line or "fakes/driver" in line]


def complaint(done: subprocess.CompletedProcess[str], status: int) -> str:
    """The one message on stderr, progress aside."""
    assert done.returncode == status, done.stderr
    assert "Traceback" not in done.stderr
    messages = [line for line in done.stderr.splitlines() if line.startswith("cgrace: ")]
    assert len(messages) == 1, done.stderr
    assert "a bug of cgrace" not in messages[0]
    return messages[0]


# ---- interrupted and killed


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize(
    "words", [["run", PRIMERS, *TWELVE], ["run", DELAY, "--driver", "today"]], ids=["workers", "alone"]
)
def test_an_interrupt_ends_it_in_order(desk: Desk, number: signal.Signals, words: list[str]) -> None:
    """Exit 130, one line, and by then everything is gone."""
    command = desk.start(*words)
    wait_for(lambda: desk.owners() and of_kind(command.pid, "cgrace-init"), UNDER_WAY_S_MAX)
    owners = desk.owners()
    command.send_signal(number)
    _, said = command.communicate(timeout=30)
    assert command.returncode == 130, said
    assert said.splitlines()[-1] == "cgrace: interrupted"
    assert "Traceback" not in said
    assert desk.left(owners) == []


def test_a_killed_parent_takes_all_with_it(desk: Desk) -> None:
    """kill -9: workers see the end of their stdin, and tidy up before they end."""
    command = desk.start("run", PRIMERS, *TWELVE)
    wait_for(lambda: drivers(command.pid), UNDER_WAY_S_MAX)
    owners, alive = desk.owners(), set(family(command.pid))
    command.kill()
    command.communicate(timeout=30)
    wait_for(lambda: not desk.left(owners), GONE_S_MAX)
    wait_for(lambda: not any(Path(f"/proc/{pid}").exists() for pid in alive), GONE_S_MAX)


def test_a_killed_worker_is_named_and_swept_by_the_next_run(desk: Desk) -> None:
    """kill -9 of a worker: exit 2 and one line; what it could not remove goes when cgrace runs again."""
    command = desk.start("run", PRIMERS, *TWELVE)
    wait_for(lambda: drivers(command.pid), UNDER_WAY_S_MAX)
    owners = desk.owners()
    os.kill(of_kind(command.pid, "harness.worker")[0], signal.SIGKILL)
    out, said = command.communicate(timeout=30)
    done = subprocess.CompletedProcess([], command.returncode, out, said)
    assert "a worker process of cgrace was killed" in complaint(done, 2)
    assert desk.run("run", DELAY, "--driver", "reference").returncode == 0
    assert desk.left(owners) == []


def long_run(desk: Desk, wall: str) -> tuple[subprocess.Popen[str], int]:
    """A run whose driver never rests, once that is at work: the command and its driver."""
    file = desk.folder / "long.toml"
    file.write_text(LONG.format(wall=wall), encoding="utf-8")
    command = desk.start("run", str(file), "--driver", "reference:spins")

    def spins() -> bool:
        """It has used more time than any start takes."""
        for pid in drivers(command.pid):
            fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rsplit(")", 1)[1].split()
            if int(fields[11]) > os.sysconf("SC_CLK_TCK"):
                return True
        return False

    wait_for(spins, UNDER_WAY_S_MAX)
    return command, drivers(command.pid)[0]


def test_a_killed_driver_is_a_finding(desk: Desk) -> None:
    """kill -9 of a shim: the run ends at once, and says of what."""
    command, driver = long_run(desk, "60s")
    owners = desk.owners()
    os.kill(driver, signal.SIGKILL)
    out, said = command.communicate(timeout=30)
    assert command.returncode == 1, said
    assert "driver was killed by SIGKILL" in out
    assert desk.left(owners) == []


def test_a_killed_sandbox_is_not_held_against_the_driver(desk: Desk) -> None:
    """kill -9 of a sandbox's init: the run is done once more, and nothing is said of a driver that died."""
    command, driver = long_run(desk, "6s")
    owners = desk.owners()
    parent = int(Path(f"/proc/{driver}/stat").read_text(encoding="utf-8").rsplit(")", 1)[1].split()[1])
    os.kill(parent, signal.SIGKILL)
    out, said = command.communicate(timeout=60)
    assert command.returncode == 2, said
    assert "SIGKILL" not in out and "DIED" not in out
    assert "backstop" in out  # of the second run
    assert desk.left(owners) == []


# ---- no room, no tools, no right


@needs_mounts
@pytest.mark.parametrize(
    "words", [["run", PRIMERS, "--driver", "today"], ["run", PRIMERS, *TWELVE]], ids=["alone", "workers"]
)
def test_a_full_disk(desk: Desk, words: list[str]) -> None:
    """Half a trace is none: it is removed, and the line names the file that it should have become."""
    store = desk.folder / "small"
    store.mkdir()
    done = desk.run(*words, "--store", str(store / "runs"), prelude=f"mount -t tmpfs -o size=16k none {store}")
    said = complaint(done, 2)
    assert "the trace cannot be written: No space left on device" in said
    assert str(store) in said


@needs_mounts
def test_no_room_for_sockets(desk: Desk) -> None:
    """A full $TMPDIR is named with what to do."""
    prelude = f"mount -t tmpfs -o size=4k,nr_inodes=2 none {desk.tmp}"
    done = desk.run("run", DELAY, "--driver", "today", prelude=prelude)
    assert done.returncode == 2, done.stderr
    assert "cannot make the folder for sockets" in done.stdout
    assert "set TMPDIR to a directory" in done.stdout


@needs_mounts
def test_a_state_folder_that_cannot_be_written(desk: Desk) -> None:
    """Before anything is started."""
    state = desk.folder / "state"
    state.mkdir()
    done = desk.run("run", DELAY, "--driver", "today", prelude=f"mount -t tmpfs -o ro none {state}")
    assert "runs cannot be stored" in complaint(done, 2)
    assert "--store DIR" in done.stderr


def test_a_typo_in_a_scenario(desk: Desk) -> None:
    """File and line, and what was probably meant."""
    file = desk.folder / "typo.toml"
    file.write_text(LONG.format(wall="9s").replace("apply", "aply"), encoding="utf-8")
    done = desk.run("run", str(file))
    assert complaint(done, 2).startswith(f"cgrace: {file}:5: 'aply' is not an operation")
    assert "apply" in done.stderr.splitlines()[-1]


@needs_mounts
def test_no_compiler(desk: Desk) -> None:
    """Nothing is built and no Go is there: the line says which is needed, and how it is had."""
    places = [
        "/usr/local/go",
        "/usr/lib/go",
        *(str(path) for path in Path(sys.prefix).glob("lib/python*/site-packages/go")),
    ]
    prelude = " && ".join(["true", *(f"mount -t tmpfs none {place}" for place in places if Path(place).is_dir())])
    hidden = desk.folder / "bin"
    hidden.mkdir()
    for tool in ("unshare", "sh", "mount"):
        found = shutil.which(tool)
        assert found is not None
        (hidden / tool).symlink_to(found)
    cache = str(desk.folder / "cache")
    done = desk.run("run", DELAY, "--driver", "today", prelude=prelude, PATH=str(hidden), XDG_CACHE_HOME=cache)
    assert "building drivers needs Go" in complaint(done, 2)
    assert "  try: " in done.stderr


def test_no_network_to_build_with(desk: Desk) -> None:
    """The compiler's own lines say what could not be had."""
    if shutil.which("go") is None:
        pytest.skip("there is no Go here")
    folders = {name: str(desk.folder / name.lower()) for name in ("XDG_CACHE_HOME", "GOMODCACHE")}
    done = desk.run("run", DELAY, "--driver", "today", GOPROXY="off", **folders)
    assert "cannot be" in complaint(done, 2)
    assert "GOPROXY=off" in done.stderr
    subprocess.run(["chmod", "-R", "u+w", folders["GOMODCACHE"]], check=False, capture_output=True)


def test_closed_streams_are_no_obstacle(desk: Desk) -> None:
    """Whoever closes stdout wants no table, only the exit code."""
    argv = ["sh", "-c", 'exec "$@" >&- <&-', "sh", *desk.argv("run", DELAY, "--driver", "reference")]
    done = subprocess.run(argv, env=desk.env, stderr=subprocess.PIPE, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert "cgrace: " not in done.stderr
