"""Drivers that are commands or programs of the user's own: what they are called, what fits, and what the real ones do."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from cgrace.harness import runner
from cgrace.harness.drivers import commands, commands_build
from cgrace.harness.drivers.cache import cache_root
from cgrace.harness.drivers.catalogue import find
from cgrace.harness.errors import CgraceError, DriverError
from cgrace.harness.proc import find as programs
from cgrace.harness.scenario.parse import load

ROOT = Path(__file__).parents[1]
CORE = ROOT / "scenarios" / "core"
DOCUMENT = ROOT / "docs" / "driver-protocol.md"
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="target fake takes root")


def has(command: str) -> pytest.MarkDecorator:
    """Skips where the machine has no such command."""
    return pytest.mark.skipif(programs.find_program(command) is None, reason=f"no {command} command on this machine")


def cgrace(tmp_path: Path, *words: str) -> dict[str, dict[str, object]]:
    """Results of `cgrace run --json` by case."""
    argv = [sys.executable, "-m", "cgrace.harness.cli", "run", *words, "--json", "--store", str(tmp_path / "store")]
    done = subprocess.run(argv, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False)
    assert done.stdout, done.stderr
    return {one["case"]: one for one in json.loads(done.stdout)["results"]}


def program(path: Path, text: str) -> Path:
    """An executable Python program."""
    path.write_text(f"#!{sys.executable}\n{textwrap.dedent(text)}", encoding="utf-8")
    path.chmod(0o755)
    return path


def left_over() -> list[str]:
    """What of any cgrace's run is still mounted here, or lies about as a driver's folder."""
    mounts = Path("/proc/self/mountinfo").read_text(encoding="utf-8")
    return [line for line in mounts.splitlines() if "/command-" in line]


# ---- names


def test_names_of_another_kind_are_not_ours() -> None:
    """Only runc, crun, runc-cli@VERSION and the prefixes with a path are names of commands."""
    assert commands.find_command("today") is None
    assert commands.find_command("runc@1.1.5") is None
    assert commands.find_command("source:runc") is None


@pytest.mark.parametrize("kind", ["runc", "crun", "program"])
def test_a_path_must_be_a_program(kind: str, tmp_path: Path) -> None:
    """A path that is not there, or cannot be executed, is named with what would help."""
    with pytest.raises(DriverError, match="there is no program"):
        find(f"{kind}:{tmp_path}/nothing")
    file = tmp_path / "text"
    file.write_text("no program", encoding="utf-8")
    with pytest.raises(DriverError, match="cannot be executed"):
        find(f"{kind}:{file}")


def test_the_users_own_is_expected_to_do_everything_right(tmp_path: Path) -> None:
    """A binary of the user's belongs to no release, whatever it says of itself, and its path is absolute."""
    own = program(tmp_path / "runc", "print('runc version 1.1.5')")
    spec = find(f"runc:{os.path.relpath(own)}")
    assert (spec.generation, spec.release, spec.program) == ("source", "", own)
    assert spec.units == ("scope",)


def test_the_machines_own_is_of_a_release(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What PATH has says its version; a distribution's suffix is no part of it."""
    program(tmp_path / "crun", "print('crun version 1.8.1')")
    program(tmp_path / "runc", "print('runc version 1.1.5+ds1\\nspec: 1.0.2-dev')")
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    assert (find("crun").release, find("crun").generation) == ("crun@1.8.1", "crun")
    assert (find("runc").release, find("runc").generation) == ("runc-cli@1.1.5", "runc-cli")


def test_a_machine_without_the_command_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """A missing command is named with the two ways to have one."""
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.setattr(programs, "SYSTEM_FOLDERS", "/nowhere")
    with pytest.raises(DriverError, match="this machine has no crun command") as error:
        find("crun")
    assert "crun:PATH" in error.value.hint


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("runc-cli@newest", "no version"),
        ("runc-cli@1.0.0-rc5", "no go.mod"),
        ("runc-cli@1.0.0-rc90", "no go.mod"),
        ("runc-cli@0.1.1", "no go.mod"),
    ],
)
def test_a_release_that_cannot_be_built(name: str, why: str) -> None:
    """What is no version, or is older than Go's modules, is refused before anything is downloaded."""
    with pytest.raises(DriverError, match=why):
        find(name)


def test_a_release_of_the_command() -> None:
    """The name is the release that expectations speak of."""
    spec = find("runc-cli@1.5.1")
    assert (spec.release, spec.version, spec.generation) == ("runc-cli@1.5.1", "v1.5.1", "runc-cli")


def test_a_missing_compiler_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """nsenter is C: without a compiler the error says which package brings one."""
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(DriverError, match="needs a C compiler") as error:
        commands_build._find_compiler()
    assert "gcc" in error.value.hint


# ---- what fits


def test_a_command_takes_only_containers(tmp_path: Path) -> None:
    """Slices, and scopes without a process, do not fit a command, and the reason names the step."""
    spec = find(f"runc:{program(tmp_path / 'runc', 'pass')}")
    slices, scope = load(CORE / "lost_signal.toml"), load(CORE / "lost_signal_scope.toml")
    assert runner.misfit(scope, scope.settings[0], spec) == ""
    assert "step first is about a slice" in runner.misfit(slices, slices.settings[0], spec)
    file = tmp_path / "twice.toml"
    steps = ", ".join(
        f'{{ id = "{one}", do = "apply", unit = "cgrace-{one}.scope", parent = "cgrace.slice", pid = "container" }}'
        for one in "ab"
    )
    file.write_text(f'title = "Twice"\non = [{{ profile = "219-rhel7" }}]\nsteps = [{steps}]\n', encoding="utf-8")
    twice = load(file)
    assert "step b places the same process again" in runner.misfit(twice, twice.settings[0], spec)


EXEC = """
title = "A second process"
on = [{ profile = "257" }]
steps = [
  { id = "first", do = "apply", unit = "cgrace-a.scope", parent = "cgrace.slice", pid = "container" },
  { id = "more", do = "exec", unit = "cgrace-a.scope", parent = "cgrace.slice", pid = "another" },
]
"""


def test_only_some_can_have_another_process_join(tmp_path: Path) -> None:
    """Commands, programs and what has AddPid can; for others the step is a misfit; each exec is a process of its own."""
    (tmp_path / "exec.toml").write_text(EXEC, encoding="utf-8")
    joins = load(tmp_path / "exec.toml")
    own = program(tmp_path / "runc", "pass")
    for able in (f"runc:{own}", f"program:{own}", "runc-cli@1.5.1", "today", "cgroupfs", "cgroups@0.0.5", "runc@1.4.0"):
        assert runner.misfit(joins, joins.settings[0], find(able)) == "", able
    for unable in ("cgroups@0.0.4", "runc@1.3.6", "runc@1.1.12", "go-systemd@22.7.0"):
        assert "step more wants 'exec'" in runner.misfit(joins, joins.settings[0], find(unable)), unable
    (tmp_path / "exec.toml").write_text(EXEC.replace("another", "container"), encoding="utf-8")
    same = load(tmp_path / "exec.toml")
    assert "step more places the same process again" in runner.misfit(same, same.settings[0], find(f"runc:{own}"))


@pytest.mark.parametrize(
    ("step", "told"),
    [
        ('{ id = "more", do = "exec", unit = "cgrace-a.slice" }', "exec starts another process"),
        ('{ id = "more", do = "exec", unit = "cgrace-b.slice", pid = "another" }', "no step before it applies"),
    ],
)
def test_an_exec_needs_a_unit_and_a_process(step: str, told: str, tmp_path: Path) -> None:
    """What cannot be meant is named when the file is read."""
    first = '{ id = "first", do = "apply", unit = "cgrace-a.slice" }'
    text = f'title = "No"\non = [{{ profile = "257", rung = "rc6" }}]\nsteps = [\n  {first},\n  {step},\n]\n'
    (tmp_path / "no.toml").write_text(text, encoding="utf-8")
    with pytest.raises(CgraceError, match=told):
        load(tmp_path / "no.toml")


@needs_root
@has("runc")
@has("crun")
def test_a_second_process_joins(tmp_path: Path) -> None:
    """What history says of exec comes out for each command and for AddPid; a lost one is named by its step and hierarchy."""
    drivers = [word for name in ("runc", "crun", "today") for word in ("--driver", name)]
    results = cgrace(tmp_path, "core/exec_scope", *drivers)
    assert len(results) == 9
    for case, result in results.items():
        wrong = ("crun" in case and "v1" in case) or ("today" in case and "219" in case)
        assert result["outcome"] == ("reproduced" if wrong else "clean"), (case, result)
        assert ("LOST systemd of second" in json.dumps(result)) == ("crun" in case and "v1" in case)


# ---- the real ones

LIFE = """
title = "A container's life"
on = [{ profile = "219-rhel7" }]
bound = "5s"
steps = [
  { id = "make", do = "apply", unit = "cgrace-a.scope", parent = "cgrace.slice", pid = "container", resources = { pids = 99 } },
  { id = "more", do = "exec", unit = "cgrace-a.scope", parent = "cgrace.slice", pid = "another" },
  { id = "limit", do = "set", unit = "cgrace-a.scope", parent = "cgrace.slice", resources = { pids = 10 } },
  { id = "freeze", do = "freeze", unit = "cgrace-a.scope", parent = "cgrace.slice" },
  { id = "thaw", do = "thaw", unit = "cgrace-a.scope", parent = "cgrace.slice" },
  { id = "exists", do = "exists", unit = "cgrace-a.scope", parent = "cgrace.slice" },
  { id = "pids", do = "pids", unit = "cgrace-a.scope", parent = "cgrace.slice" },
  { id = "gone", do = "destroy", unit = "cgrace-a.scope", parent = "cgrace.slice" },
]
"""


def events(tmp_path: Path, kind: str) -> list[dict[str, object]]:
    """Events of one kind in the one stored trace."""
    (trace,) = {path.resolve() for path in (tmp_path / "store").glob("*/*.jsonl")}  # "last" is a link
    lines = (json.loads(line) for line in trace.read_text(encoding="utf-8").splitlines())
    return [line for line in lines if line.get("e") == kind]


@needs_root
@pytest.mark.parametrize("command", [pytest.param("crun", marks=has("crun")), pytest.param("runc", marks=has("runc"))])
def test_a_containers_life(command: str, tmp_path: Path) -> None:
    """Each operation is carried out on a real container; what the command did is told as the driver's; nothing is left."""
    before = left_over()
    (tmp_path / "life.toml").write_text(LIFE, encoding="utf-8")
    (result,) = cgrace(tmp_path, "life.toml", "--driver", command).values()
    # crun 1.8.1 leaves out systemd's own hierarchy when it executes (core/exec_scope).
    assert result["outcome"] == "clean" or (command == "crun" and "LOST systemd of more" in str(result)), result
    ended = {str(one["step"]): one for one in events(tmp_path, "step-returned")}
    assert ended["exists"]["value"] == "true"
    started = [one for one in events(tmp_path, "process-started") if one["process"] == "container"]
    another = [one for one in events(tmp_path, "process-started") if one["process"] == "another"]
    assert {str(one["pid"]) for one in (*started, *another)} <= set(str(ended["pids"]["value"]).split())
    assert ended["more"]["paths"] == ended["make"]["paths"]
    assert {"devices", "systemd"} <= {hierarchy for hierarchy, _ in ended["make"]["paths"]}  # type: ignore[attr-defined]
    changes = [
        *events(tmp_path, "cgroup-made"),
        *events(tmp_path, "cgroup-removed"),
        *events(tmp_path, "process-moved"),
    ]
    # The kernel keeps the names of the last 128 tasks: a child that was gone before anybody looked at it may be nobody's.
    assert {one["by"] for one in changes} - {"other"} == {"driver", "systemd"}
    assert left_over() == before


@needs_root
@has("crun")
def test_crun_waits_for_ever(tmp_path: Path) -> None:
    """A lost JobRemoved hangs crun: proved, with who waits where."""
    for case, result in cgrace(tmp_path, "core/lost_signal_scope", "--driver", "crun").items():
        assert result["outcome"] == "reproduced", (case, result)
        text = json.dumps(result)
        assert "HANG" in text
        assert re.search(r"crun \d+: ppoll without limit, on its bus connection", text), text


@needs_root
@has("runc")
def test_runc_gives_up_after_30_s(tmp_path: Path) -> None:
    """The same is over its bound for runc, by the limit that its own wait shows, which is not waited out."""
    for case, result in cgrace(tmp_path, "core/lost_signal_scope", "--driver", "runc").items():
        assert result["outcome"] == "reproduced", (case, result)
        assert "SLOW 30s" in json.dumps(result)


@needs_root
@pytest.mark.skipif(not list((cache_root() / "builds").glob("runc-cli-*")), reason="no runc command was built yet")
def test_a_built_command_runs(tmp_path: Path) -> None:
    """What was built on demand earlier refuses the second container of one scope, since 1.1.6."""
    for case, result in cgrace(tmp_path, "core/unit_exists_scope", "--driver", "runc-cli@1.5.1").items():
        assert result["outcome"] == "clean", (case, result)


# ---- a program of the user's own


def example() -> str:
    """The program of the page."""
    found = re.search(r"```python\n(.*?)```", DOCUMENT.read_text(encoding="utf-8"), re.DOTALL)
    assert found is not None
    return found[1]


@needs_root
@has("busctl")
def test_the_pages_example(tmp_path: Path) -> None:
    """The documented program runs, and cgrace says of it what the page says."""
    own = tmp_path / "mydriver"
    own.write_text(example(), encoding="utf-8")
    own.chmod(0o755)
    results = cgrace(tmp_path, "core/late_job_scope", "core/failed_job", "--driver", f"program:{own}")
    for case, result in results.items():
        late = "late_job_scope" in case
        assert result["outcome"] == ("clean" if late else "regressed"), (case, result)
        assert late or "LOST" in json.dumps(result)


HELLO = 'print(\'{"hello": {"ok": true}}\', flush=True)\n'


@needs_root
@pytest.mark.parametrize(
    ("text", "told"),
    [
        pytest.param("import signal\nsignal.pause()", "said no hello", id="says nothing"),
        pytest.param("", "does not speak cgrace's protocol", id="is no driver"),
        pytest.param('print(\'{"hello": {"ok": false, "error": "out of order"}}\')', "out of order", id="refuses"),
        pytest.param(HELLO + "input()", "ended with status 0", id="dies when asked"),
        pytest.param(HELLO + "import sys; sys.exit(3)", "ended with status 3", id="dies"),
        pytest.param(
            HELLO + 'input(); print(\'{"id": "make", "ok": 7}\'); input()', "what is not an answer", id="garbles"
        ),
        pytest.param(HELLO + "while True: print('la')", "what is not an answer", id="babbles"),
    ],
)
def test_a_program_that_misbehaves(text: str, told: str, tmp_path: Path) -> None:
    """Each ends its run at once and by its name; none passes, and cgrace does not fall."""
    (tmp_path / "life.toml").write_text(LIFE, encoding="utf-8")
    own = program(tmp_path / "own", text)
    (result,) = cgrace(tmp_path, "life.toml", "--driver", f"program:{own}").values()
    assert result["outcome"] in ("regressed", "inconclusive"), result
    assert told in json.dumps(result)


@needs_root
@has("runc")
def test_pytest_takes_a_command(tmp_path: Path) -> None:
    """--cgrace-driver runc:PATH runs the user's binary as items."""
    found = programs.find_program("runc")
    argv = [sys.executable, "-m", "pytest", str(CORE), "-k", "late_job_scope", "--cgrace-driver", f"runc:{found}", "-q"]
    done = subprocess.run(argv, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False)
    assert re.search(r"[12] passed", done.stdout), done.stdout + done.stderr
