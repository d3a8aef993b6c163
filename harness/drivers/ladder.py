"""The rungs between releases, cut from the released rc5 and rc6 (runc issue #1780; PRs #1683, #1754, #1772, #1776, #1781).

The commits between releases are not served as Go modules. Each rung's apply_systemd.go is made at build time from the downloaded
releases: lines that rc6 changed are taken from rc6, found by how they begin, and put in rc5's place; a token or two is put or
deleted. The repository holds only those beginnings, and the git blob id of every result. Those of the rc5 cut are the
ids of upstream's own file at that commit; those of the rc6 cut exist nowhere upstream and are kept so that a cut never
changes unseen. A result with another id is an error, never a driver.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass

from cgrace.harness.errors import DriverError

EDITED_FILE = "libcontainer/cgroups/systemd/apply_systemd.go"
# Blob ids of EDITED_FILE as released (git rev-parse v1.0.0-rcN:<file>).
RELEASED = {"rc4": "456c57d975d5", "rc5": "b5cf33aa8af0", "rc6": "726ed38a8fcf"}

_CALL = "if _, err := theConn.StartTransientUnit(unitName"
_CHANNEL = "statusChan := make("
_RECEIVE = "<-statusChan"
_TIMEOUT = "case <-time.After(time.Second)"
# rc6 says in its warning which unit timed out; #1754 did not yet.
_UNIT_IN_WARNING = (("(%s)", ""), ('", unitName)', '")'))
_LOGRUS = '"github.com/sirupsen/logrus"'


@dataclass(frozen=True, slots=True)
class Anchor:
    """A run of whole lines: from the first line that begins so (blanks aside) to the `last_nth` later one that begins
    with `last` (None: that line alone). nth counts the candidates for the first line from 1. plus: lines more (or fewer)."""

    first: str
    last: str | None = None
    nth: int = 1
    last_nth: int = 1
    plus: int = 0

    def find(self, lines: list[str]) -> tuple[int, int]:
        """(start, end) of the run, end exclusive; DriverError where it is not there."""
        start = _nth_line(lines, self.first, 0, self.nth)
        end = start + 1
        if self.last is not None:
            end = _nth_line(lines, self.last, end, self.last_nth) + 1
        return start, min(end + self.plus, len(lines))


def _nth_line(lines: list[str], begins: str, start: int, nth: int) -> int:
    for index in range(start, len(lines)):
        if lines[index].lstrip().startswith(begins):
            nth -= 1
            if nth == 0:
                return index
    raise DriverError(f"the released {EDITED_FILE} has no line that begins with '{begins}' where one was expected")


class Text:
    """A source file under the knife. Every edit works on whole lines and returns nothing."""

    def __init__(self, content: bytes) -> None:
        self.lines = content.decode("utf-8").splitlines(keepends=True)

    def content(self) -> bytes:
        """The file as it is now."""
        return "".join(self.lines).encode()

    def take(self, anchor: Anchor, *, dedent: int = 0) -> list[str]:
        """Those lines, moved left by so many tabs."""
        start, end = anchor.find(self.lines)
        return [line.removeprefix("\t" * dedent) for line in self.lines[start:end]]

    def put(self, anchor: Anchor, lines: list[str]) -> None:
        """Other lines in place of the anchor's."""
        start, end = anchor.find(self.lines)
        self.lines[start:end] = lines

    def put_before(self, anchor: Anchor, lines: list[str]) -> None:
        """Other lines before the anchor's first."""
        start, _ = anchor.find(self.lines)
        self.lines[start:start] = lines

    def swap(self, anchor: Anchor, old: str, new: str) -> None:
        """A token of the anchor's lines for another; it must be there exactly once."""
        start, end = anchor.find(self.lines)
        run = "".join(self.lines[start:end])
        if run.count(old) != 1:
            raise DriverError(f"the released {EDITED_FILE} has no single '{old}' after '{anchor.first}'")
        self.lines[start:end] = run.replace(old, new).splitlines(keepends=True)


# ---- what each pull request did, as edits of rc5 with rc6 for a donor


def _warn_without_unit(text: Text) -> None:
    for old, new in _UNIT_IN_WARNING:
        text.swap(Anchor(_TIMEOUT, plus=1), old, new)


def _wait_of_1754(text: Text, donor: Text) -> None:
    """A second's wait in place of the plain receive, whatever the call said; and the import that its warning needs."""
    text.put(Anchor(_RECEIVE), donor.take(Anchor("select {", "}"), dedent=1))
    _warn_without_unit(text)
    text.put_before(Anchor(")", nth=1), donor.take(Anchor(_LOGRUS)))


def _wait_of_1772(text: Text, donor: Text) -> None:
    """Wait only where the call succeeded; still without room in the channel."""
    text.put(Anchor(_CHANNEL, _RECEIVE), donor.take(Anchor(_CHANNEL, "return err", plus=1)))
    text.swap(Anchor(_CHANNEL), ", 1", "")
    text.put_before(Anchor(")", nth=1), donor.take(Anchor(_LOGRUS)))


def _delegate_of_1776(text: Text, donor: Text) -> None:
    """Ask whether slices can have Delegate, apart from scopes."""
    text.put(Anchor("hasDelegate "), donor.take(Anchor("hasDelegateScope", "hasDelegateSlice")))
    text.put(
        Anchor("hasDelegate = true", "hasDelegate = false"),
        donor.take(Anchor("hasDelegateScope = true", "hasDelegateScope = f")),
    )
    text.put_before(
        Anchor("theConn.StopUnit(scope", nth=2),
        donor.take(Anchor("theConn.StopUnit(slice", "// Not critical", nth=1)),
    )
    text.put(
        Anchor("if hasDelegate {", "}"),
        donor.take(Anchor("// Check if we can delegate", "// Always enable accounting", plus=-2)),
    )


def _released(text: Text, donor: Text) -> None:
    """As released."""


def _async(text: Text, donor: Text) -> None:
    """No wait (before #1683), and slice paths as before #1722."""
    text.swap(Anchor(_CALL), "statusChan", "nil")
    text.put(Anchor(_RECEIVE, plus=1), [])
    text.put(Anchor(_CHANNEL), [])
    text.swap(Anchor("// /test.slice"), "/test.slice/test-a.slice", "test.slice/test-a.slice")
    text.swap(Anchor("path +="), '"/" + prefix + component + suffix', 'prefix + component + suffix + "/"')
    text.put_before(Anchor("return path, nil", nth=2), ["\n"])


def _err_nil_delegate(text: Text, donor: Text) -> None:
    """#1754, #1772 and #1776."""
    _wait_of_1772(text, donor)
    _delegate_of_1776(text, donor)


def _buffered(text: Text, donor: Text) -> None:
    """#1781 on top: the channel has room for one."""
    _err_nil_delegate(text, donor)
    text.swap(Anchor(_CHANNEL), "string", "string, 1")


# ---- our own: what the post-mortem proposes and nobody ever released

_CHECKS_MAX = 10


def _retry(text: Text) -> None:
    """After a second it looks whether the unit is active, and waits on where it is not (row 7a of runc #1780)."""
    select = Anchor("select {", "}")
    wait = f"""\
\t\tfor check := 1; ; check++ {{
\t\t\tselect {{
\t\t\tcase <-statusChan:
\t\t\tcase <-time.After(time.Second):
\t\t\t\tstate, err := theConn.GetUnitProperty(unitName, "ActiveState")
\t\t\t\tif err != nil || state.Value.Value() != "active" {{
\t\t\t\t\tif check == {_CHECKS_MAX} {{
\t\t\t\t\t\treturn fmt.Errorf("unit %s is not active after %d s", unitName, check)
\t\t\t\t\t}}
\t\t\t\t\tcontinue
\t\t\t\t}}
\t\t\t\tlogrus.Warnf("unit %s is active, and no signal said so", unitName)
\t\t\t}}
\t\t\tbreak
\t\t}}
"""
    text.put(select, wait.splitlines(keepends=True))


def _rc5_retry(text: Text, donor: Text) -> None:
    _buffered(text, donor)
    _retry(text)


def _rc6_retry(text: Text, donor: Text) -> None:
    _retry(text)


GO_SYSTEMD = "github.com/coreos/go-systemd"
GO_SYSTEMD_VERSION = "v0.0.0-20161114122254-48702e0da86b"
LISTENER_FILE = "dbus/methods.go"
LISTENER = {"released": "ab17f7cc75a4", "unlocked": "6a7c92b906df"}


def unlock_listener(released: bytes) -> bytes:
    """go-systemd's methods.go that lets go of its lock before it sends a job's result (row 12a of runc #1780)."""
    check("go-systemd", released, LISTENER["released"], LISTENER_FILE)
    text = Text(released)
    send = Anchor("if ok {", "}")
    text.put(send, ["\tdelete(c.jobListener.jobs, job)\n"])
    text.put(
        Anchor("c.jobListener.Unlock()"), ["\tc.jobListener.Unlock()\n", "\tif ok {\n", "\t\tout <- result\n", "\t}\n"]
    )
    content = text.content()
    check("the go-systemd without its lock", content, LISTENER["unlocked"], LISTENER_FILE)
    return content


# ---- the same steps down from rc6


def _rc6_err_nil(text: Text, donor: Text) -> None:
    """Without #1781."""
    text.swap(Anchor(_CHANNEL), ", 1", "")


def _rc6_plain_call(text: Text, donor: Text) -> None:
    """The call and its error test as rc5 has them, without room in the channel and without a wait."""
    text.put(Anchor(_CHANNEL, "return err", plus=1), donor.take(Anchor(_CHANNEL, "return err", plus=1)))


def _rc6_timeout(text: Text, donor: Text) -> None:
    """Without #1772: the second's wait after every call."""
    wait = text.take(Anchor("select {", "}"), dedent=1)
    _rc6_plain_call(text, donor)
    _, end = Anchor(_CALL, "}").find(text.lines)
    text.lines[end:end] = ["\n", *wait]
    _warn_without_unit(text)


def _rc6_wait_forever(text: Text, donor: Text) -> None:
    """Without #1754: a plain receive."""
    _rc6_plain_call(text, donor)
    _, end = Anchor(_CALL, "}").find(text.lines)
    text.lines[end:end] = ["\n", *donor.take(Anchor(_RECEIVE))]
    text.put(Anchor(_LOGRUS), [])


def _rc6_async(text: Text, donor: Text) -> None:
    """Without #1683: no channel."""
    _rc6_plain_call(text, donor)
    text.swap(Anchor(_CALL), "statusChan", "nil")
    text.put(Anchor(_CHANNEL), [])
    text.put(Anchor(_LOGRUS), [])


@dataclass(frozen=True, slots=True, kw_only=True)
class Rung:
    """One step of the ladder. base and donor: the releases that it is cut from; blob: the first 12 digits of the result's
    git blob id; upstream: where upstream's own file is the same, "" if nowhere; ours: which proposal of runc #1780's post-mortem
    it carries out, "" for history; unlocked: linked with a go-systemd that does not send under its lock."""

    base: str
    donor: str
    blob: str
    edit: Callable[[Text, Text], None]
    upstream: str = ""
    ours: str = ""
    unlocked: bool = False

    @property
    def splits_delegate(self) -> bool:
        """Whether the driver asks about Delegate for scopes and slices apart (#1776)."""
        return self.base == "rc6" or self.edit in (_err_nil_delegate, _buffered, _rc5_retry)


RUNGS: dict[str, Rung] = {
    "rc4": Rung(base="rc4", donor="rc4", blob=RELEASED["rc4"], edit=_released, upstream="v1.0.0-rc4"),
    "rc5": Rung(base="rc5", donor="rc5", blob=RELEASED["rc5"], edit=_released, upstream="v1.0.0-rc5"),
    "rc6": Rung(base="rc6", donor="rc6", blob=RELEASED["rc6"], edit=_released, upstream="v1.0.0-rc6"),
    "async": Rung(base="rc5", donor="rc6", blob="5471ebbff9e5", edit=_async, upstream="the parent of #1683"),
    "wait-forever": Rung(
        base="rc5", donor="rc6", blob="b5cf33aa8af0", edit=_released, upstream="595bea022 (#1683, #1722)"
    ),
    "timeout": Rung(base="rc5", donor="rc6", blob="efadc2a3ca23", edit=_wait_of_1754, upstream="04e95b526 (#1754)"),
    "err-nil": Rung(base="rc5", donor="rc6", blob="3c1543e8169d", edit=_wait_of_1772, upstream="8ab251f29 (#1772)"),
    "err-nil-delegate": Rung(
        base="rc5", donor="rc6", blob="ac65d43adc7e", edit=_err_nil_delegate, upstream="59c60d188 (#1776)"
    ),
    "buffered": Rung(base="rc5", donor="rc6", blob="66502263e0f1", edit=_buffered, upstream="165ee4533 (#1781)"),
    "retry": Rung(base="rc5", donor="rc6", blob="42b5cff21b0d", edit=_rc5_retry, ours="7a"),
    "unlocked": Rung(base="rc5", donor="rc6", blob="3c1543e8169d", edit=_wait_of_1772, ours="12a", unlocked=True),
    "async@rc6": Rung(base="rc6", donor="rc5", blob="289bf731317e", edit=_rc6_async),
    "wait-forever@rc6": Rung(base="rc6", donor="rc5", blob="d29fa2cb72c2", edit=_rc6_wait_forever),
    "timeout@rc6": Rung(base="rc6", donor="rc5", blob="75945369d65b", edit=_rc6_timeout),
    "err-nil@rc6": Rung(base="rc6", donor="rc5", blob="3855e61586c4", edit=_rc6_err_nil),
    "buffered@rc6": Rung(base="rc6", donor="rc5", blob="726ed38a8fcf", edit=_released, upstream="v1.0.0-rc6"),
    "retry@rc6": Rung(base="rc6", donor="rc5", blob="0ad46056744c", edit=_rc6_retry, ours="7a"),
    "unlocked@rc6": Rung(base="rc6", donor="rc5", blob="3855e61586c4", edit=_rc6_err_nil, ours="12a", unlocked=True),
}


def blob_id(content: bytes) -> str:
    """The git blob id of a file's content."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()


def cut(name: str, released: dict[str, bytes]) -> bytes:
    """The rung's apply_systemd.go from the released ones ({"rc5": ...}); DriverError when any id is not what it must be."""
    rung = RUNGS[name]
    for release in {rung.base, rung.donor}:
        check(f"the downloaded {release}", released[release], RELEASED[release])
    text = Text(released[rung.base])
    rung.edit(text, Text(released[rung.donor]))
    content = text.content()
    check(f"the rung {name}", content, rung.blob)
    return content


def check(what: str, content: bytes, blob: str, file: str = EDITED_FILE) -> None:
    """DriverError unless the content has this git blob id."""
    found = blob_id(content)
    if not found.startswith(blob):
        raise DriverError(
            f"{what} is not what it must be: {file} has git blob id {found[:12]}, not {blob}",
            hint="look at what your Go module proxy serves: go env GOPROXY GOFLAGS",
        )


def same_as(name: str) -> str:
    """The first rung that is cut to the same file on the same release: "rc5" for "wait-forever"."""
    wanted = RUNGS[name]
    return next(
        other
        for other, rung in RUNGS.items()
        if (rung.base, rung.blob, rung.unlocked) == (wanted.base, wanted.blob, wanted.unlocked)
    )


def proof(name: str) -> str:
    """What shows that a rung is what it claims, in one line."""
    rung = RUNGS[name]
    text = f"apply_systemd.go = git blob {rung.blob}"
    if rung.unlocked:
        text += f", go-systemd's methods.go = git blob {LISTENER['unlocked']}"
    if rung.ours:
        return f"{text}, a change of our own (never upstream): proposal {rung.ours} of runc #1780"
    return (
        f"{text}, as upstream at {rung.upstream}" if rung.upstream else f"{text}, a cut of {rung.base} (never upstream)"
    )
