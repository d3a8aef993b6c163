"""What /proc/PID/stat says of a process (proc_pid_stat(5))."""

from __future__ import annotations

from pathlib import Path
from typing import Final

# Fields are counted from behind the command's name, which may contain anything.
STATE: Final = 0
FLAGS: Final = 6
TIMES: Final = slice(11, 13)  # utime and stime, in clock ticks
START_TIME: Final = 19  # in clock ticks since boot; with the pid it tells one process from every other
DEAD: Final = ("Z", "X")  # states


def stat_fields(pid: int) -> list[str] | None:
    """The fields from the state on; None where there is no such process."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    return text[text.rindex(")") + 2 :].split()
