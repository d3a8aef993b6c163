"""`python -m cgrace.fakes.driver [--bug NAME]`: the reference driver, which tests cgrace itself and stands in for no real one."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

if not __package__:  # run by its path, in a sandbox: the package is beside it, installed or not
    sys.path[0] = str(Path(__file__).absolute().parents[3])

from cgrace.fakes.driver.bugs import BUGS
from cgrace.fakes.driver.driver import Driver
from cgrace.fakes.driver.shim import Shim


def main() -> None:
    """Serve until stdin ends."""
    parser = argparse.ArgumentParser(prog="cgrace.fakes.driver", description=__doc__)
    parser.add_argument("--bug", choices=sorted(BUGS), default=None, help="be wrong in this way")
    bug = parser.parse_args().bug
    shim = BUGS[bug]() if bug is not None else Shim(Driver())
    shim.serve()


if __name__ == "__main__":
    main()
