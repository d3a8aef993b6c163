"""A worker that answers with what it was asked: whether a machine can be worked on is tried with it, and in tests."""

from __future__ import annotations

import asyncio
from typing import Any

from cgrace.harness.proc.workers import serve, work_as


async def _work(value: Any) -> Any:
    if value == "sleep":
        await asyncio.Event().wait()
    return value


if __name__ == "__main__":
    work_as(lambda out: serve(_work, out))
