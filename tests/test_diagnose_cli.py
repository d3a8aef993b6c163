"""The commands `cgrace diagnose` and `cgrace collect`: exit codes, files that are no dumps, the script, and traces of real runs."""

from __future__ import annotations

import gzip
import json
import os
import random
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from diagnose_kit import NO_JOBS, WRAPS, dump, journal, lasting, unrelated
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cgrace.harness import cli
from cgrace.harness.commands.collect import SCRIPT
from cgrace.harness.diagnose.judge import diagnose
from cgrace.harness.diagnose.observed import observe
from cgrace.harness.errors import UsageError
from cgrace.reports.diagnosis import diagnosis_data, diagnosis_rows


def told(capsys: pytest.CaptureFixture[str]) -> str:
    """What was printed, on one line."""
    return " ".join(capsys.readouterr().out.split())


def test_a_match(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Exit 0; the row, the lines, who waits for whom, what to do, where it is fixed."""
    file = tmp_path / "kubelet.log"
    text = journal(unrelated(20) + "\n" + dump("late-signal-lock"))
    file.write_text(text, encoding="utf-8")
    assert cli.main(["diagnose", str(file)]) == 0
    out = told(capsys)
    at = next(number for number, line in enumerate(text.split("\n"), 1) if "[chan send]" in line)
    for part in (
        "late-signal-lock: A late JobRemoved keeps",
        "rows 7b, 8, 9, 12 of runc#1780; certain",
        f"line {at}: goroutine 19 [chan send] sends to a channel that nobody reads",
        "startJob waits for jobListener",
        "Restart the process",
        "fixed in runc 1.0.0-rc6",
        "https://github.com/opencontainers/runc/issues/1780",
        "unit-exists-wait: no goroutine receives in libcontainer",
    ):
        assert part in out


def test_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The same for programs."""
    file, jobs = tmp_path / "dump", tmp_path / "jobs"
    file.write_text(lasting(dump("unit-exists")), encoding="utf-8")
    jobs.write_text(NO_JOBS, encoding="utf-8")
    assert cli.main(["diagnose", str(file), "--jobs", str(jobs), "--json"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert (data["command"], data["matched"]) == ("diagnose", True)
    assert (data["matches"][0]["id"], data["alike"][0]["id"]) == ("unit-exists-wait", "lost-job-removed")
    assert data["matches"][0]["rows"] == ["5b", "6"]
    assert data["matches"][0]["evidence"][0]["line"] > 0


def test_none_is_known(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Exit 1, and what it would be if it lasts."""
    file = tmp_path / "dump"
    file.write_text(unrelated(3), encoding="utf-8")
    assert cli.main(["diagnose", str(file)]) == 1
    assert "no known signature is in it" in told(capsys)
    file.write_text(dump("no-reply"), encoding="utf-8")
    assert cli.main(["diagnose", str(file)]) == 1
    assert "unless what waits here lasts" in told(capsys)
    assert cli.main(["diagnose", str(file), "--stuck"]) == 0


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "the file is empty"),
        (b"hello\nworld\n", "no goroutine, no stack"),
        (b"\x7fELF\x02\x01\x01\x00\x00\xff\xfe" * 99, "no goroutine, no stack"),
        (b"goroutine profile: total 231\n3 @ 0x1 0x2\n", "debug=1"),
        (gzip.compress(b"goroutine 1 [select]:\n", mtime=0), "no goroutine, no stack"),
        (b'{"a": [' * 3000, "no goroutine, no stack"),
        (b'{"cgrace-trace":1}\n', "trace"),
    ],
)
def test_what_is_no_dump(content: bytes, says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Exit 2 and one clear message that names the file."""
    file = tmp_path / "dump"
    file.write_bytes(content)
    assert cli.main(["diagnose", str(file)]) == 2
    captured = capsys.readouterr()
    assert says in captured.err
    assert captured.err.startswith("cgrace: ")
    assert "Traceback" not in captured.err


def test_files_that_cannot_be_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A missing file, a folder: exit 2."""
    for name in (tmp_path / "none", tmp_path):
        assert cli.main(["diagnose", str(name)]) == 2
        assert str(name) in capsys.readouterr().err


def test_utf16(tmp_path: Path) -> None:
    """What PowerShell's redirection makes of a dump."""
    file = tmp_path / "dump"
    file.write_bytes(dump("late-signal-lock").replace("\n", "\r\n").encode("utf-16"))
    assert cli.main(["diagnose", str(file)]) == 0


def run_all(text: str) -> None:
    """A diagnosis from text to page; only a UsageError may come of it."""
    try:
        found = diagnose(observe(text))
    except UsageError:
        return
    json.dumps(diagnosis_data(found))
    assert list(diagnosis_rows(found))


@given(st.text(max_size=400))
def test_any_text_is_read(text: str) -> None:
    """Never an exception."""
    run_all(text)


@settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.integers(0, 2**32),
    st.sampled_from(["late-signal-lock", "unit-exists", "no-reply", "lost-signal-today"]),
    st.sampled_from(WRAPS),
)
def test_a_damaged_dump_is_read(seed: int, name: str, wrap: Callable[[str], str]) -> None:
    """Lines lost, doubled, cut, with odd characters, in any wrap and cut off anywhere: never an exception."""
    pick = random.Random(seed)
    lines = wrap(unrelated(5) + "\n" + lasting(dump(name))).split("\n")
    for _ in range(pick.randrange(40)):
        at = pick.randrange(len(lines))
        line = lines[at]
        where = pick.randrange(len(line) + 1)
        odd = pick.choice(
            ["(", ")", "[", "]", "{", "\t", "0x", "\u2028", "\x00", "\\n", "=== cgrace: jobs ===", "goroutine 1 ["]
        )
        lines[at : at + 1] = pick.choice([[], [line, line], [line[:where]], [line[:where] + odd + line[where:]]])
        lines = lines or [""]
    text = "\n".join(lines)
    run_all(text[: pick.randrange(len(text) + 1)])


@pytest.mark.timeout(60)
def test_a_huge_dump_is_read_in_time() -> None:
    """Twenty thousand goroutines, a thousand of them behind the lock."""
    victim = dump("late-signal-lock").split("\n\n")[-1]
    many = "\n\n".join(victim.replace("goroutine 9 ", f"goroutine {number} ") for number in range(50_000, 51_000))
    run_all(dump("late-signal-lock") + "\n\n" + many + "\n\n" + unrelated(15_000, 100_000))


# ---- the script


def test_the_script_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    """Word for word, and only when asked for."""
    assert cli.main(["collect", "--print"]) == 0
    assert capsys.readouterr().out == SCRIPT.read_text(encoding="utf-8")
    assert cli.main(["collect"]) == 2


@pytest.mark.parametrize("shell", ["sh", "dash", "bash", "busybox"])
def test_the_script_is_posix(shell: str) -> None:
    """Every shell that a node may have takes it."""
    found = shutil.which(shell) or pytest.skip(f"no {shell} here")
    words = [found, "sh"] if shell == "busybox" else [found, "--posix"] if shell == "bash" else [found]
    subprocess.run([*words, "-n", SCRIPT], check=True)


def test_shellcheck() -> None:
    """The linter has nothing to say."""
    found = shutil.which("shellcheck") or pytest.skip("no shellcheck here")
    subprocess.run([found, "--shell=sh", SCRIPT], check=True)


def test_the_script_only_reads() -> None:
    """No word that changes a machine, but for one SIGUSR1 that --signal asks for."""
    code = [
        line.split(" # ")[0]
        for line in SCRIPT.read_text(encoding="utf-8").split("\n")
        if not line.lstrip().startswith("#")
    ]
    code = [line for line in code if not line.strip().startswith("echo ")]  # what it advises is said, not done
    kills = [line.strip() for line in code if "kill" in line.replace("kill -QUIT", "")]
    assert kills == ['kill -USR1 "$2" 2>/dev/null || return 1']
    for word in (
        "rm ",
        "systemctl start",
        "systemctl stop",
        "restart",
        "reset-failed",
        "daemon-re",
        "gdb ",
        "strace",
        "mkdir",
        "mount ",
        "dmesg",
    ):
        assert not [line for line in code if word in line and "Run this" not in line and "gdb -p" not in line], word
    writes = [line for line in code if ">" in line.replace("2>&1", "").replace(">/dev/null", "").replace("2>", "")]
    assert [line for line in writes if ">&2" not in line and "=>" not in line] == []


def test_what_it_gathers_is_read_back(tmp_path: Path) -> None:
    """Run here, it names this machine's kernel and ends; diagnose reads it, also with a dump in it."""
    done = subprocess.run(["sh", SCRIPT], capture_output=True, text=True, check=True, timeout=100)
    assert done.stderr == ""
    assert done.stdout.endswith("=== cgrace: end ===\n")
    seen = observe(done.stdout)
    assert seen.versions["kernel"]
    assert seen.uptime_s
    file = tmp_path / "node.txt"
    file.write_text(done.stdout, encoding="utf-8")
    assert cli.main(["diagnose", str(file)]) in (0, 1)
    file.write_text(f"{done.stdout}=== cgrace: goroutines kubelet 7 ===\n{dump('late-signal-lock')}", encoding="utf-8")
    assert cli.main(["diagnose", str(file)]) == 0


# A node as the script may find it: its own systemctl is hidden, and the hierarchies are these alone.
NODES = {
    "as it is": "",
    "v2 alone": "mount -t cgroup2 none /sys/fs/cgroup",
    "v1 alone": "umount /sys/fs/cgroup/unified 2>/dev/null",
}
NOBODY = "setpriv --reuid=65534 --regid=65534 --clear-groups"


@pytest.mark.skipif(os.geteuid() != 0, reason="takes root, to hide systemctl in a mount namespace")
@pytest.mark.parametrize("node", NODES)
@pytest.mark.parametrize("user", ["root", "nobody"])
@pytest.mark.parametrize("shell", ["dash", "busybox sh"])
def test_the_script_runs_anywhere(shell: str, user: str, node: str, tmp_path: Path) -> None:
    """In small shells, without systemctl, without root, on any layout: it says what it can, no error, and is read back."""
    for program in (shell.split(maxsplit=1)[0], "unshare", "setpriv"):
        if shutil.which(program) is None:
            pytest.skip(f"no {program} here")
    hide = f"mount --bind /dev/null {found}; " if (found := shutil.which("systemctl")) else ""
    run = f"{shell} -s < {SCRIPT}" if user == "root" else f"{NOBODY} {shell} -s < {SCRIPT}"
    words = ["unshare", "-m", "--propagation", "private", "sh", "-c", f"{hide}{NODES[node] or ':'}; {run}"]
    done = subprocess.run(words, capture_output=True, text=True, check=True, timeout=100)
    assert done.stderr == ""
    assert done.stdout.endswith("=== cgrace: end ===\n")
    assert "=== cgrace: jobs ===" not in done.stdout
    assert observe(done.stdout).versions["kernel"]
    file = tmp_path / "node.txt"
    file.write_text(f"{done.stdout}=== cgrace: goroutines kubelet 7 ===\n{dump('late-signal-lock')}", encoding="utf-8")
    assert cli.main(["diagnose", str(file)]) == 0


def test_the_script_refuses_what_it_does_not_know() -> None:
    """A word that is neither an option nor a number: exit 2, nothing gathered."""
    done = subprocess.run(["sh", SCRIPT, "--sginal"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
