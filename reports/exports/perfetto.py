"""A run as Chrome trace JSON, which ui.perfetto.dev and chrome://tracing open. Pure.

The format is "Trace Event Format" (Google, JSON object form): a lane is a process, each bar beside others a thread of it, a message
an arrow (a flow) between two short slices. Times are microseconds since the first event.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from cgrace.harness import events as ev
from cgrace.harness.errors import CgraceError
from cgrace.harness.scenario.model import Scenario
from cgrace.harness.trace import Entry, Trace
from cgrace.harness.verdict import Judgement, Verdict
from cgrace.reports.inert import inert_line
from cgrace.reports.timeline.bars import Bar, bars_of
from cgrace.reports.timeline.lanes import Lanes, lanes_of
from cgrace.reports.timeline.rows import Row, by_time, rows_of

_EVENTS, _MESSAGES, _BARS = 1, 2, 10  # numbers of threads
_SLICE_US = 1.0


def perfetto(trace: Trace, judgement: Judgement) -> str:
    """The run as one JSON document. Events that show a violation are marked by their category "evidence"."""
    ordered = by_time(trace.entries)
    start_ns = ordered[0].t_ns if ordered else 0
    scenario = _scenario(trace)
    lanes = lanes_of(trace.entries)
    times = {entry.index: (entry.t_ns - start_ns) / 1000 for entry in ordered}
    shows = {index for f in judgement.findings if f.verdict is not Verdict.HOLDS for index in f.events}
    end = max(times.values(), default=0.0)
    bars = bars_of(trace.entries, ordered, lanes, scenario)
    told = [
        *_names(lanes, bars),
        *(_bar(bar, times, end) for bar in bars),
        *(made for row in rows_of(ordered, lanes, scenario) for made in _row(row, times, shows)),
        *_flows(ordered, lanes, times),
    ]
    about = {
        "scenario": inert_line(scenario.title) if scenario is not None else "",
        "driver": {key: inert_line(str(value)) for key, value in trace.head.driver.items()},
        "outcome": str(judgement.outcome),
        "findings": [inert_line(f.summary) for f in judgement.findings if f.verdict is not Verdict.HOLDS],
        "clock": inert_line(str(trace.head.clock)),
    }
    return json.dumps({"traceEvents": told, "displayTimeUnit": "ms", "otherData": about}, separators=(",", ":"))


def _scenario(trace: Trace) -> Scenario | None:
    try:
        return Scenario.from_data(trace.head.scenario)
    except CgraceError:
        return None


def _names(lanes: Lanes, bars: list[Bar]) -> Iterator[dict[str, Any]]:
    for number, lane in enumerate(lanes.all):
        name = f"{lane.kind} {lane.name}" if lane.name != lane.kind else lane.name
        yield _meta("process_name", number, 0, name=inert_line(name))
        yield _meta("process_sort_index", number, 0, sort_index=number)
        yield _meta("thread_name", number, _EVENTS, name="events")
        yield _meta("thread_name", number, _MESSAGES, name="messages")
    for lane_number, track in sorted({(bar.lane, bar.track) for bar in bars}):
        kinds = sorted({bar.kind for bar in bars if (bar.lane, bar.track) == (lane_number, track)})
        yield _meta("thread_name", lane_number, _BARS + track, name=", ".join(kinds))


def _meta(kind: str, lane: int, thread: int, **values: Any) -> dict[str, Any]:
    return {"ph": "M", "name": kind, "pid": lane + 1, "tid": thread, "args": values}


def _bar(bar: Bar, times: dict[int, float], end: float) -> dict[str, Any]:
    start = times[bar.first]
    return {
        "ph": "X",
        "name": inert_line(bar.label),
        "cat": bar.kind,
        "pid": bar.lane + 1,
        "tid": _BARS + bar.track,
        "ts": start,
        "dur": max(times.get(bar.last, end) - start, 0),
        "args": {"what": inert_line(bar.note), "end": inert_line(bar.end), "unit": inert_line(bar.unit)},
    }


def _row(row: Row, times: dict[int, float], shows: set[int]) -> Iterator[dict[str, Any]]:
    """An instant for each mark; messages are slices of their own."""
    for mark in row.marks:
        yield {
            "ph": "i",
            "s": "t",
            "name": inert_line(row.text),
            "cat": "evidence" if shows.intersection(row.events) else "start-up" if row.probe else mark.glyph,
            "pid": mark.lane + 1,
            "tid": _EVENTS,
            "ts": times[row.events[0]],
            "args": {"events": list(row.events), "unit": inert_line(row.unit)},
        }


def _flows(ordered: list[Entry], lanes: Lanes, times: dict[int, float]) -> Iterator[dict[str, Any]]:
    """A message: a slice where it came from, one where it went, and an arrow between them."""
    seen: dict[int, ev.MessageSeen] = {}
    for entry in ordered:
        match entry.event:
            case ev.MessageSeen() as message:
                seen[message.message] = message
                source, _ = _ends(message, lanes)
                yield from _message(message, source, times[entry.index], "s")
            case ev.MessageSent(message=number) if number in seen:
                _, target = _ends(seen[number], lanes)
                yield from _message(seen[number], target, times[entry.index], "f")
            case _:
                continue


def _ends(message: ev.MessageSeen, lanes: Lanes) -> tuple[int, int]:
    driver = lanes.of_connection(message.connection)
    if message.direction is ev.Direction.TO_SYSTEMD:
        return driver, lanes.systemd
    return (lanes.relay if message.origin != "peer" else lanes.systemd), driver


def _message(message: ev.MessageSeen, lane: int, time: float, phase: str) -> Iterator[dict[str, Any]]:
    name = inert_line(f"{message.kind} {message.member}" + (f" of {message.unit}" if message.unit else ""))
    place = {"pid": lane + 1, "tid": _MESSAGES, "ts": time, "name": name, "cat": "message"}
    args = {"message": message.message, "job": inert_line(message.job), "text": inert_line(message.text)}
    yield {"ph": "X", **place, "dur": _SLICE_US, "args": args}
    yield {"ph": phase, **place, "id": message.message} | ({"bp": "e"} if phase == "f" else {})
