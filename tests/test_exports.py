"""A run for other programs and for issues: pcapng, Perfetto, Markdown, and the files that `cgrace report` writes."""

from __future__ import annotations

import base64
import dataclasses
import json
import re
import shutil
import struct
import subprocess
from pathlib import Path
from typing import Any

import pytest
from checker_traces import call, closed, scenario, start, trace
from hypothesis import given
from hypothesis import strategies as st
from test_timeline import CLEAN, EVIL, held, hostile

from cgrace.harness import cli
from cgrace.harness import events as ev
from cgrace.harness.dbus.frames import Frame
from cgrace.harness.dbus.message import Message, MessageType
from cgrace.harness.errors import TraceError
from cgrace.harness.events import Direction, MessageSeen
from cgrace.harness.trace import Trace, encode_entry, encode_head
from cgrace.harness.verdict import Finding, Invariant, Judgement, Outcome, Verdict
from cgrace.reports.exports.markdown import TEXT_MAX, block, markdown, plain
from cgrace.reports.exports.pcapng import pcapng, raw_of
from cgrace.reports.exports.perfetto import perfetto
from cgrace.reports.inert import inert, inert_line

CALL = Frame.of(
    Message(
        type=MessageType.CALL,
        serial=7,
        path="/org/freedesktop/systemd1",
        interface="org.freedesktop.systemd1.Manager",
        member="StopUnit",
        destination="org.freedesktop.systemd1",
        signature="ss",
        body=("late.slice", "replace"),
    )
).raw


def with_bytes(raw: bytes = CALL, size: int | None = None) -> Trace:
    """A call with its bytes, held, and a signal to the driver on the other connection."""
    text = base64.b64encode(raw).decode()
    seen = dataclasses.replace(_message(call(1, "late.slice")), raw=text, size=len(raw) if size is None else size)
    back = dataclasses.replace(seen, message=2, connection=2, direction=Direction.TO_DRIVER)
    return trace(scenario(), *start(), (5, seen), (6, ev.MessageHeld(message=1, hold="late")), (7, back))


def _message(event: ev.Event) -> MessageSeen:
    assert isinstance(event, MessageSeen)
    return event


def blocks_of(data: bytes) -> list[tuple[int, bytes]]:
    """(type, body) of every block; both lengths of each must agree."""
    blocks, at = [], 0
    while at < len(data):
        kind, length = struct.unpack_from("<II", data, at)
        assert length % 4 == 0
        assert struct.unpack_from("<I", data, at + length - 4) == (length,)
        blocks.append((kind, data[at + 8 : at + length - 4]))
        at += length
    return blocks


def test_pcapng_has_the_bytes_as_they_came() -> None:
    """A section, an interface for each connection, a packet for each message, with its direction and what was done to it."""
    blocks = blocks_of(pcapng(with_bytes()))
    assert [kind for kind, _ in blocks] == [0x0A0D0D0A, 1, 1, 6, 6]
    assert struct.unpack_from("<H", blocks[1][1]) == (231,)
    interface, high, low, kept, size = struct.unpack_from("<IIIII", blocks[3][1])
    assert (interface, (high << 32) + low, kept, size) == (0, 5_000_000, len(CALL), len(CALL))
    assert blocks[3][1][20 : 20 + len(CALL)] == CALL
    assert b"held by late" in blocks[3][1]
    assert struct.unpack_from("<I", blocks[4][1]) == (1,)


def test_pcapng_of_a_cut_message_says_how_long_it_was() -> None:
    """Wireshark then shows it as a packet of which the end was not captured."""
    _, _, _, kept, size = struct.unpack_from("<IIIII", blocks_of(pcapng(with_bytes(CALL[:40], 5000)))[3][1])
    assert (kept, size) == (40, 5000)


def test_pcapng_needs_bytes() -> None:
    """An old trace, or one of a driver without a bus, is one clear message; so is one whose bytes are none."""
    with pytest.raises(TraceError, match="no messages as bytes"):
        pcapng(held())
    with pytest.raises(TraceError, match="not base64"):
        raw_of(dataclasses.replace(_message(call(1, "a")), raw="%%%"))


@pytest.mark.skipif(shutil.which("tshark") is None, reason="tshark is not on this machine")
def test_wireshark_reads_it(tmp_path: Path) -> None:
    """The reference reader finds our call with its member, direction and comment."""
    (tmp_path / "x.pcapng").write_bytes(pcapng(with_bytes()))
    fields = ["-e", "dbus.member", "-e", "dbus.serial", "-e", "frame.comment", "-e", "frame.packet_flags_direction"]
    argv = ["tshark", "-r", str(tmp_path / "x.pcapng"), "-T", "fields", *fields]
    told = subprocess.run(argv, capture_output=True, text=True, check=True, timeout=60).stdout.splitlines()
    member, serial, comment, way = told[0].split("\t")
    assert (member, serial, comment) == ("StopUnit", "7", "held by late")
    assert int(way, 0) == 2


def test_perfetto_is_a_tree_of_lanes() -> None:
    """Every slice and instant is in a named process; flows have both ends; times are microseconds since the first event."""
    data = json.loads(perfetto(held(), CLEAN))
    events = data["traceEvents"]
    named = {e["pid"] for e in events if e["ph"] == "M" and e["name"] == "process_name"}
    assert {e["pid"] for e in events if e["ph"] != "M"} <= named
    assert all(e["ts"] >= 0 and e.get("dur", 0) >= 0 for e in events if e["ph"] != "M")
    step = next(e for e in events if e.get("cat") == "step")
    assert (step["name"], step["ts"], step["dur"]) == ("first", 3000, 17000)
    starts = [e["id"] for e in events if e["ph"] == "s"]
    assert starts == [e["id"] for e in events if e["ph"] == "f"] == [1, 2, 3]
    hold = next(e for e in events if e.get("cat") == "hold")
    assert "until first ended" in hold["args"]["what"]


def test_perfetto_marks_the_evidence() -> None:
    """What shows a violation can be searched for by its category."""
    finding = Finding(invariant=Invariant.NO_DEADLOCK, verdict=Verdict.VIOLATED, summary="HANG", events=(4,))
    data = json.loads(perfetto(held(), Judgement(outcome=Outcome.REGRESSED, findings=(finding,))))
    assert [e["args"]["events"] for e in data["traceEvents"] if e.get("cat") == "evidence"] == [[4]]
    assert data["otherData"]["findings"] == ["HANG"]


def finding(**more: Any) -> Judgement:
    """One violation."""
    fields: dict[str, Any] = {
        "summary": "HANG of second",
        "explanation": "It hung. Wrong. Look.",
        "evidence": ("goroutine 7",),
    }
    one = Finding(invariant=Invariant.NO_DEADLOCK, verdict=Verdict.VIOLATED, events=(4,), **(fields | more))
    return Judgement(outcome=Outcome.REGRESSED, findings=(one,), reasons=("not expected: HANG",))


def test_markdown_says_all_that_an_issue_needs() -> None:
    """What was asked, what was done, what was found and how that is known, the events, and the command."""
    text = markdown(held(), finding())
    for part in ("asked: first", "made to hold", "**HANG of second**", "goroutine 7", "> ", "See it with", "<details>"):
        assert part in text
    assert text.count("```") % 2 == 0


def test_markdown_of_a_hostile_trace_is_inert() -> None:
    """Outside of code blocks there is no markup, no mention, no reference and no link of the trace's."""
    evil = "``` </details> <img src=x> @everyone #1 [x](http://evil.example) **b** `c` www.evil.example" + EVIL
    text = markdown(hostile(), finding(summary=evil, explanation=evil, evidence=(evil, "````")))
    outside = re.sub(r"(?s)(`{3,})text\n.*?\n\1\n", "", text)
    assert "<img" not in outside.replace("\\<img", "")
    assert not re.search(r"(?<!\\)\[x", outside)
    assert not re.search(r"@everyone|#1\b|http://|www\.evil", outside)
    assert "\x1b" not in text
    assert "\u202e" not in text
    text.encode()


def test_markdown_has_a_bound() -> None:
    """GitHub refuses a text of more than 65,536 characters; the events give way first."""
    from big_trace import big_trace

    text = markdown(big_trace(20_000), finding(evidence=tuple("x" * 300 for _ in range(60))))
    assert len(text) <= TEXT_MAX
    assert "See it with" in text
    assert len(markdown(held(), finding(explanation="y. " * 40_000))) <= TEXT_MAX


@given(st.lists(st.text(max_size=40), max_size=5))
def test_nothing_ends_a_code_block(lines: list[str]) -> None:
    """The fence is longer than any in the text."""
    fence, *inside, last, rest = block(lines).split("\n")
    assert rest == ""
    assert fence.removesuffix("text") == last
    assert all(last not in line for line in inside)


@given(st.text())
def test_inert_texts_stay_inert(text: str) -> None:
    """Nothing is left that a terminal obeys, doing it twice changes nothing, and it can be written as UTF-8."""
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]", inert(text))
    assert inert(inert(text)) == inert(text)
    assert "\n" not in inert_line(text)
    plain(text).encode()


# ---- the command


@pytest.fixture
def stored(tmp_path: Path) -> Path:
    """A stored trace, by itself."""
    return write(tmp_path / "run.jsonl", with_bytes())


def write(file: Path, run: Trace) -> Path:
    """A trace as a run stores it, of a driver that is known."""
    driver = {"name": "err-nil", "generation": "err-nil", "module": "m", "version": "v1"}
    lines = [encode_head(dataclasses.replace(run.head, driver=driver)), *map(encode_entry, run.entries)]
    file.write_text("\n".join(lines) + "\n")
    return file


def test_a_trace_becomes_every_form(stored: Path, tmp_path: Path) -> None:
    """One command writes them all, whole, and leaves nothing else behind."""
    names = {"--html": "a.html", "--markdown": "a.md", "--perfetto": "a.json", "--pcapng": "a.pcapng"}
    argv = [part for option, name in names.items() for part in (option, str(tmp_path / name))]
    assert cli.main(["report", str(stored), *argv, "--reproducer", str(tmp_path / "r")]) == 0
    assert (tmp_path / "a.html").read_text().startswith("<!DOCTYPE html>")
    assert json.loads((tmp_path / "a.json").read_text())["traceEvents"]
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "a.html",
        "a.json",
        "a.md",
        "a.pcapng",
        "r",
        "run.jsonl",
    ]
    assert sorted(path.name for path in (tmp_path / "r").iterdir()) == ["README.md", "y.toml"]


def test_a_form_goes_to_stdout(stored: Path, capsysbinary: pytest.CaptureFixture[bytes]) -> None:
    """`-` is stdout, and nothing else is there."""
    assert cli.main(["report", str(stored), "--pcapng", "-"]) == 0
    assert blocks_of(capsysbinary.readouterr().out)


def test_what_cannot_be_written_is_one_line(stored: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A folder that is not there, a folder in place of a file, a reproducer over another: exit 2, nothing lost."""
    (tmp_path / "r").mkdir()
    (tmp_path / "r" / "y.toml").write_text("mine")
    for argv in (
        ["--html", str(tmp_path / "no" / "a.html")],
        ["--html", str(tmp_path)],
        ["--reproducer", str(tmp_path / "r")],
        ["--reproducer", str(stored)],
    ):
        assert cli.main(["report", str(stored), *argv]) == 2
        assert capsys.readouterr().err.startswith("cgrace: ")
    assert (tmp_path / "r" / "y.toml").read_text() == "mine"


def test_open_without_a_display_says_where(
    stored: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The page lies beside the trace, and the message has its path."""
    for name in ("DISPLAY", "WAYLAND_DISPLAY", "BROWSER"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("sys.platform", "linux")
    assert cli.main(["report", str(stored), "--open"]) == 0
    assert str(stored.with_suffix(".html")) in capsys.readouterr().err
    assert stored.with_suffix(".html").is_file()


def damaged(kind: str, file: Path) -> None:
    """Write something that is no trace of ours."""
    lines = file.read_text().splitlines()
    match kind:
        case "truncated":
            file.write_text("\n".join(lines[:3]) + lines[3][:9])
        case "foreign":
            file.write_text('{"hello": 1}\n')
        case "newer":
            file.write_text(lines[0].replace('"cgrace-trace":1', '"cgrace-trace":99') + "\n")
        case "deep":
            file.write_text(lines[0] + "\n" + "[" * 300_000)
        case "deep head":
            file.write_text('{"a":' * 300_000)
        case "huge":
            with file.open("r+b") as stream:
                stream.truncate(10 * 1024**3)
        case "no time":
            file.write_text(lines[0] + "\n" + re.sub(r'"t":\d+', '"t":' + "9" * 4000, lines[1]) + "\n")
        case "typed head":
            file.write_text(lines[0].replace('"name":"err-nil"', '"name":{}') + "\n")
        case "no scenario":
            file.write_text(re.sub(r'"scenario":.*?,"driver"', '"scenario":{},"driver"', lines[0]) + "\n")
        case "binary":
            file.write_bytes(bytes(range(256)))
        case "empty":
            file.write_text("")


KINDS = (
    "truncated", "foreign", "newer", "deep", "deep head", "huge", "no time", "typed head", "no scenario", "binary", "empty",
)  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_a_bad_trace_is_one_line(kind: str, stored: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Refused at once, with its file, by every command that reads one: exit 2, and no page."""
    damaged(kind, stored)
    page = stored.with_suffix(".html")
    for argv in (
        ["report", str(stored)],
        ["report", str(stored), "--html", str(page)],
        ["compare", str(stored), str(stored)],
    ):
        assert cli.main(argv) == 2
        told = capsys.readouterr().err
        assert told.startswith(f"cgrace: {stored}")
        assert "bug" not in told
        assert len([line for line in told.splitlines() if not line.startswith("  try:")]) == 1
    assert not page.exists()


def test_a_terminal_obeys_nothing_in_a_trace(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Escape sequences in names and texts are shown as pictures."""
    run = trace(
        scenario(), *start(), (3, ev.DriverSaid(process="driver", text="\x1b]0;pwned\x07\x1b[2J")), (9, closed())
    )
    file = write(tmp_path / "x.jsonl", run)
    assert cli.main(["report", str(file), "--case", "x/y", "--driver", "err-nil"]) == 0
    out = capsys.readouterr().out
    assert "\x1b" not in out
    assert "␛]0;pwned" in out


def test_results_do_not_lead_out_of_their_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A stranger's results.json may name any file; only one in the run's own folder is read, and no link."""
    from handmade import HANG, result

    from cgrace.reports.machine import results_document

    run = tmp_path / "20180309T101500Z-1"
    run.mkdir()
    write(tmp_path / "secret.jsonl", with_bytes())
    (run / "link.jsonl").symlink_to(tmp_path / "secret.jsonl")
    for name in ("../secret.jsonl", str(tmp_path / "secret.jsonl"), "link.jsonl", ".."):
        document = results_document("run", [result("err-nil", HANG, trace=Path(name))], passed=False)
        (run / "results.json").write_text(json.dumps(document))
        assert cli.main(["report", str(run), "--html", "-"]) == 2
        assert capsys.readouterr().out == ""
