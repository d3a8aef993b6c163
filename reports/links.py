"""Where upstream's issues can be read. Pure."""

from __future__ import annotations


def issue_url(issue: str) -> str:
    """Where an issue "owner/name#number" can be read; "" for what is none."""
    repository, _, number = issue.partition("#")
    return f"https://github.com/{repository}/issues/{number}" if number.isdecimal() and "/" in repository else ""
