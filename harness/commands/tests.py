"""`cgrace test`: becomes pytest on the checkout's tests and scenarios."""

from __future__ import annotations

import argparse
import importlib.util
import os
import sys
from typing import NoReturn

from cgrace.harness.commands.common import checkout_folder
from cgrace.harness.errors import UsageError


def test(args: argparse.Namespace) -> NoReturn:
    """Replace this process by pytest in the checkout; paths among the arguments are relative to that. Exit code: pytest's."""
    folder = checkout_folder()
    missing = [name for name in ("pytest", "hypothesis", "mypy") if importlib.util.find_spec(name) is None]
    if missing:
        raise UsageError(
            f"the tests need {', '.join(missing)}", hint=f"{sys.executable} -m pip install -e '{folder}[test]'"
        )
    os.chdir(folder)
    os.execv(sys.executable, [sys.executable, "-m", "pytest", *args.arguments])
