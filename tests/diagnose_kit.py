"""Dumps for the tests of cgrace diagnose: those of real drivers that hung, wrapped as they come from nodes."""

from __future__ import annotations

import json
from pathlib import Path

from cgrace.harness.diagnose.judge import Diagnosis, diagnose
from cgrace.harness.diagnose.observed import observe

DUMPS = Path(__file__).parent / "dumps"
NO_JOBS = "No jobs running.\n"
QUEUED = """JOB UNIT                 TYPE  STATE
812 kubepods-pod1.slice  start waiting
813 crio.service         restart running

2 jobs listed.
"""


def dump(name: str) -> str:
    """What a real driver's runtime printed when it hung."""
    return (DUMPS / f"{name}.txt").read_text(encoding="utf-8")


def lasting(text: str, minutes: int = 12) -> str:
    """The dump as it would be after some minutes of the same waits."""
    return "\n".join(
        line[:-2] + f", {minutes} minutes]:"
        if line.startswith("goroutine ") and not line.endswith("[running]:")
        else line
        for line in text.split("\n")
    )


def judged(text: str, **given: str | bool) -> Diagnosis:
    """The diagnosis of a text."""
    return diagnose(observe(text, **given))  # type: ignore[arg-type]


def best(text: str, **given: str | bool) -> str | None:
    """The id of what a text is diagnosed as."""
    found = judged(text, **given).best
    return found.signature.id if found is not None else None


def unrelated(count: int, first: int = 1000) -> str:
    """Goroutines of a kubelet that have nothing to do with systemd."""
    one = (
        "goroutine {0} [select, 41 minutes]:\n"
        "k8s.io/apimachinery/pkg/util/wait.JitterUntil(0xc000{0}, 0x3b9aca00, 0x0, 0x1, 0xc0000{0})\n"
        "\t/go/src/k8s.io/kubernetes/vendor/k8s.io/apimachinery/pkg/util/wait/wait.go:153 +0x105\n"
        "created by k8s.io/kubernetes/pkg/kubelet.(*Kubelet).Run\n"
        "\t/go/src/k8s.io/kubernetes/pkg/kubelet/kubelet.go:1480 +0x4dd\n"
    )
    return "\n".join(one.format(first + number) for number in range(count))


def journal(text: str) -> str:
    """As journalctl prints it: no empty lines, a prefix to each, and other units' lines in between."""
    lines = [f"Apr 14 03:58:19 node-1 hyperkube[2470]: {line}" for line in text.split("\n") if line.strip()]
    for at in range(5, len(lines), 7):
        lines[at:at] = ["Apr 14 03:58:19 node-1 systemd[1]: Started Session 4 of user root (core)."]
    return "\n".join(lines)


def syslog(text: str) -> str:
    """As rsyslog writes it: tabs escaped."""
    return "\n".join(
        f"2018-04-14T03:58:19.123456+02:00 node-1 kubelet[99]: {line}".replace("\t", "#011")
        for line in text.split("\n")
    )


def cri(text: str) -> str:
    """As a container's log on disk."""
    return "\n".join(f"2022-05-27T10:11:12.123456789Z stderr F {line}" for line in text.split("\n"))


def docker(text: str) -> str:
    """As docker's json-file driver."""
    return "\n".join(
        json.dumps({"log": f"{line}\n", "stream": "stderr", "time": "2022-05-27T10:11:12Z"})
        for line in text.split("\n")
    )


def journal_json(text: str) -> str:
    """As journalctl -o json, with bytes where journald thinks that a text is none."""
    return "\n".join(
        json.dumps({"MESSAGE": list(line.encode()) if "\t" in line else line, "_PID": "99"})
        for line in text.split("\n")
    )


def logrus(text: str) -> str:
    """As containerd logs it on SIGUSR1: the whole dump in one line."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n").replace("\t", "\\t")
    return f'time="2022-05-27T10:11:12Z" level=info msg="=== BEGIN goroutine stack dump ===\\n{escaped}\\n=== END ==="'


def quoted(text: str) -> str:
    """As in a reply to an issue."""
    return "It hangs again:\n\n" + "\n".join(f"> {line}" for line in text.split("\n"))


def indented(text: str) -> str:
    """As a block of code in an issue."""
    return "\n".join(f"    {line}" for line in text.split("\n"))


def crlf(text: str) -> str:
    """As it comes from another system."""
    return text.replace("\n", "\r\n")


def upside_down(text: str) -> str:
    """As journalctl -r shows it: the newest line first."""
    return "\n".join(reversed(journal(text).split("\n")))


def numbered(text: str) -> str:
    """As grep -n prints it."""
    return "\n".join(f"{number}:{line}" for number, line in enumerate(text.split("\n"), 1))


def plain(text: str) -> str:
    """As it is."""
    return text


WRAPS = (plain, journal, syslog, cri, docker, journal_json, logrus, quoted, indented, crlf, upside_down, numbered)
