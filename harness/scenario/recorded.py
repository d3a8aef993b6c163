"""What drivers were seen to do on a real systemd, row by row: the baseline that later runs on it are held against.

`reports/baselines/story-<story>-<target>-<layout>.json`:

    {"format": 1, "story": "1780", "target": "container:bookworm", "layout": "v1", "systemd": "252.39-1~deb12u2",
     "rows": [{"scenario": "runc_1780/late_job_slice", "driver": "async@rc6", "violated": [["no lost cgroups", "first"]],
               "failed": [["first", "part of the error"]]}, ...]}

A row in which nothing was wrong is there, too, with nothing in it: so it is known that it was looked at.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from cgrace.harness.errors import CgraceError
from cgrace.harness.scenario.model import Expect, Scenario
from cgrace.harness.scenario.words import EVERY_DRIVER
from cgrace.harness.verdict import Invariant, Judgement
from cgrace.harness.whole import write_whole

FORMAT: Final = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One scenario on one driver: the (invariant, subject) that it violated, and the (step, part of the error) that failed."""

    violated: tuple[tuple[Invariant, str], ...] = ()
    failed: tuple[tuple[str, str], ...] = ()

    @classmethod
    def of(cls, judgement: Judgement) -> Row:
        """What a run showed. Of an error the longest part without a number: pids and paths differ from run to run."""
        violated = sorted({(finding.invariant, finding.subject) for finding in judgement.violated})
        failed = sorted({(step, steady(error)) for step, error in judgement.failed})
        return cls(violated=tuple(violated), failed=tuple(failed))

    def expects(self) -> tuple[Expect, ...]:
        """The same as what a scenario expects."""
        if not self.violated and not self.failed:
            return ()
        return (Expect(generations=(EVERY_DRIVER,), violated=self.violated, failed=self.failed),)


@dataclass(frozen=True, slots=True, kw_only=True)
class Recorded:
    """One file. systemd: the version that it was recorded on; rows: by scenario and driver."""

    story: str
    target: str
    layout: str
    systemd: str
    rows: Mapping[tuple[str, str], Row] = field(default_factory=dict)


def steady(error: str) -> str:
    """The longest part of an error's text that has no number in it."""
    return max(re.split(r"\S*\d\S*", error), key=len).strip()


def story_of(scenario: Scenario) -> str:
    """The story that a scenario belongs to: its folder's name, of an issue the number; "" for a file without one."""
    folder = scenario.name.rpartition("/")[0]
    return folder.rpartition("_")[2]


def file_of(folder: Path, story: str, target: str, layout: str) -> Path:
    """Where the record of a story on a target is. target: its slug."""
    return folder / f"story-{story}-{target}-{layout}.json"


def read(path: Path) -> Recorded | None:
    """None where there is no such file; CgraceError where it is none of ours."""
    try:
        data = json.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise CgraceError(f"the baseline cannot be read: {error}", file=path) from None
    try:
        return _decode(data)
    except (KeyError, TypeError, ValueError) as error:
        raise CgraceError(
            f"this is no baseline of ours: {error!r}", file=path, hint="record it anew: --record"
        ) from None


def _decode(data: Any) -> Recorded:
    if data["format"] != FORMAT:
        raise ValueError(f"format {data['format']}")
    rows = {
        (str(row["scenario"]), str(row["driver"])): Row(
            violated=tuple((Invariant(invariant), str(subject)) for invariant, subject in row["violated"]),
            failed=tuple((str(step), str(text)) for step, text in row["failed"]),
        )
        for row in data["rows"]
    }
    return Recorded(
        story=data["story"], target=data["target"], layout=data["layout"], systemd=data["systemd"], rows=rows
    )


def write(path: Path, recorded: Recorded) -> None:
    """In one piece, sorted, one row a line: so that a change of one row is a change of one line."""
    head = {
        "format": FORMAT,
        "story": recorded.story,
        "target": recorded.target,
        "layout": recorded.layout,
        "systemd": recorded.systemd,
    }
    lines = [f" {json.dumps(key)}: {json.dumps(value)}," for key, value in head.items()]
    rows = ",\n".join(f"  {json.dumps(row)}" for row in _encode(recorded.rows.items()))
    text = "{\n" + "\n".join(lines) + f'\n "rows": [\n{rows}\n ]\n}}\n'
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, text)
    except OSError as error:
        raise CgraceError(f"the baseline cannot be written: {error.strerror}", file=path) from None


def _encode(rows: Iterable[tuple[tuple[str, str], Row]]) -> list[dict[str, Any]]:
    return [
        {
            "scenario": scenario,
            "driver": driver,
            "violated": [[str(invariant), subject] for invariant, subject in row.violated],
            "failed": [list(pair) for pair in row.failed],
        }
        for (scenario, driver), row in sorted(rows, key=lambda item: item[0])
    ]
