"""The composite GitHub Action: it is well formed, and its steps say what they mean."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
from action_kit import filled, inputs_of, load, read

from cgrace.harness.cli import parser

ROOT = Path(__file__).resolve().parent.parent
ACTION = load(ROOT / "action.yml")
STEPS = ACTION["runs"]["steps"]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_it_is_a_composite_action() -> None:
    """It has what GitHub wants of one: a name, a description, described inputs, steps that each run or use something."""
    assert ACTION["runs"]["using"] == "composite"
    assert {"name", "description", "inputs", "runs"} == set(ACTION)
    assert all(set(about) == {"description", "default"} for about in ACTION["inputs"].values())
    for step in STEPS:
        assert ("run" in step) != ("uses" in step)
        assert "shell" in step or "uses" in step, "a composite step has no default shell"
        assert set(step) <= {"name", "if", "shell", "env", "run", "uses", "with"}


def test_what_it_uses_is_pinned_to_a_major_version() -> None:
    """Actions of others are official ones, at a major version."""
    used = [step["uses"] for step in STEPS if "uses" in step]
    assert used
    assert all(re.fullmatch(r"actions/[a-z-]+@v[0-9]+", name) for name in used)


def test_every_input_is_used_and_no_other() -> None:
    """Each input reaches a step, and no step asks for one that is not there."""
    asked = set(re.findall(r"\$\{\{ *inputs\.([a-z-]+) *\}\}", (ROOT / "action.yml").read_text(encoding="utf-8")))
    assert asked == set(ACTION["inputs"])


def test_no_input_is_spliced_into_a_script() -> None:
    """Inputs come to scripts by the environment: a branch's name must not become a command."""
    assert [step["name"] for step in STEPS if "${{" in step.get("run", "")] == []


@pytest.mark.parametrize("step", [s for s in STEPS if "run" in s], ids=lambda s: s["name"])
def test_scripts_are_bash(step: dict[str, str]) -> None:
    """Each script parses."""
    subprocess.run(["bash", "-n"], input=step["run"], text=True, check=True)


def test_what_it_calls_is_our_grammar() -> None:
    """The options in the script, with the defaults, are those of `cgrace run`."""
    (script,) = (step["run"] for step in STEPS if "cgrace run" in step.get("run", ""))
    options = set(re.findall(r"(--(?:driver|expect|store|junit|baseline))\b", script))
    words = [word for option in sorted(options - {"--expect"}) for word in (option, "x")]
    given = inputs_of(ACTION, {})
    args = parser().parse_args(["run", given["scenarios"], "--expect", given["expect"], *words])
    assert (args.scenarios, args.expect) == (["core"], "clean")


def test_the_readme_calls_it_rightly() -> None:
    """What the README tells people to write has the action's inputs, and three lines do it."""
    workflow = read(next(text for text in re.findall(r"```yaml\n(.*?)```", README, re.S) if "cgrace@" in text))
    ((job,),) = ([job] for job in workflow["jobs"].values())
    step = job["steps"][-1]
    assert "/cgrace@" in step["uses"]
    inputs_of(ACTION, step.get("with") or {})
    assert len(step) + len(step.get("with") or {}) <= 3


@pytest.mark.parametrize(
    "text",
    [
        "a: [b]\n",
        "a: {b: c}\n",
        "a: &x b\n",
        "a: >\n  b\n",
        "a: b: c\n",
        "a:\n\tb: c\n",
        "a: b\na: c\n",
        "a: 'b'\n",
        "b\n",
    ],
)
def test_the_reader_refuses_what_it_does_not_know(text: str) -> None:
    """YAML beyond our subset is an error, never misread."""
    with pytest.raises(AssertionError):
        read(text)


def test_the_reader_reads() -> None:
    """Mappings, sequences, quoted and literal scalars."""
    text = 'a: b\nc:\n  - d: "e: f"\n    g: |\n      h\n\n      i\n  - plain\n# comment\nj:\n'
    assert read(text) == {"a": "b", "c": [{"d": "e: f", "g": "h\n\ni\n"}, "plain"], "j": None}
    assert filled("x ${{ inputs.a-b }} y", {"inputs": {"a-b": "1"}}) == "x 1 y"
