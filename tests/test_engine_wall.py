"""The wall-clock backstop comes whenever it likes: also while messages arrive that would call the next step."""

from __future__ import annotations

from pathlib import Path

import pytest
from engine_kit import case, needs_root, run_all

pytestmark = [needs_root, pytest.mark.timeout(60)]


def test_a_backstop_in_the_middle_of_everything(tmp_path: Path) -> None:
    """Steps that each call the next, and a wall at any of their moments: the run ends by it, and nothing of ours breaks."""
    units = [f"cgrace-n{number}.slice" for number in range(40)]
    steps = [f'{{ id = "a{n}", do = "apply", unit = "{unit}", after = ["AFTER"] }},' for n, unit in enumerate(units)]
    steps = [
        step.replace("AFTER", f"reply to StartTransientUnit of {units[n - 1]} seen" if n else "driver ready")
        for n, step in enumerate(steps)
    ]
    text = "\n".join(["steps = [", *steps, "]"])
    cases = [case(tmp_path, f'wall = "{wall}ms"\n{text}', "reference") for wall in range(150, 700, 50)]
    for ran in run_all(tmp_path, cases):
        assert ran.end.why in ("bound", "complete", "own wait")
