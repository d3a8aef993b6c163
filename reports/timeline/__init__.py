"""The timeline of one run as one HTML file: `build(trace, judgement)`. Needs no network, no server and no other file."""

from cgrace.reports.timeline.page import build

__all__ = ["build"]
