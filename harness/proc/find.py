"""Finds the programs of this machine, also for those whose PATH leaves out the administrator's commands."""

from __future__ import annotations

import os
import shutil

SYSTEM_FOLDERS = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def search_path() -> str:
    """Where programs are looked for, as PATH says it: what PATH has, then the folders that every system has."""
    return f"{os.environ.get('PATH') or os.defpath}:{SYSTEM_FOLDERS}"


def find_program(name: str) -> str | None:
    """The path of a program; None where this machine has none of that name."""
    return shutil.which(name, path=search_path())
