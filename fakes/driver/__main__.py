"""`python -m cgrace.fakes.driver [--bug NAME]`: the reference driver, which tests cgrace itself and stands in for no real one."""

from __future__ import annotations

import sys
from pathlib import Path

if not __package__:  # run by its path, in a sandbox: the package is beside it, installed or not
    sys.path.insert(0, str(Path(__file__).absolute().parents[3]))

from cgrace.fakes.driver.bugs import BUGS, Refuses
from cgrace.fakes.driver.driver import Driver
from cgrace.fakes.driver.shim import Shim


def main() -> None:
    """Serve until stdin ends."""
    match sys.argv[1:]:
        case []:
            shim = Shim(Driver())
        case ["--bug", name] if name in BUGS:
            shim = BUGS[name]()
        case words:
            Shim(Refuses(f"{' '.join(words)!r} is no bug; there are: {', '.join(BUGS)}")).serve()
            return
    shim.serve()


if __name__ == "__main__":
    main()
