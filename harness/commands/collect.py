"""`cgrace collect --print`: the script that gathers on a node, which has no Python, what `cgrace diagnose` reads."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from cgrace.harness import diagnose
from cgrace.harness.commands import EXIT_OK

SCRIPT = Path(diagnose.__file__).parent / "collect.sh"


def collect(_args: argparse.Namespace) -> int:
    """Print the script; what runs it is the node's own shell."""
    sys.stdout.write(SCRIPT.read_text(encoding="utf-8"))
    return EXIT_OK
