"""The rules of the house, held by tests: linters, types, layers, sizes, and what must not be in the repository."""

from __future__ import annotations

import ast
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

import cgrace
from cgrace.harness.drivers.gobuild import try_find_go

ROOT = Path(__file__).resolve().parent.parent
FOLDERS = ("harness", "fakes", "reports", "tests", "bench", "scenarios", "src")
FILE_LINES_MAX = 500
FUNCTION_LINES_MAX = 70

# Imports point only downwards: a module may import its own layer and those below (README, architecture).
LAYERS = {
    0: {"errors", "clock", "points", "events", "trace", "verdict"},
    1: {"faults", "orders", "dbus", "scenario", "stacks", "checkers", "diagnose", "canonical", "sweep", "whole"},
    2: {"proc"},
    3: {"targets", "drivers", "relay", "witnesses"},
    4: {"engine", "store", "suite", "runner", "worker", "explore", "rejudge", "schedule", "baseline", "validate"},
    5: {"cli", "commands", "pytest_plugin", "pytest_suite", "doctor"},
}
LAYER_OF = {name: layer for layer, names in LAYERS.items() for name in names}
RECORDS = ("targets.base", "drivers.base")  # values and protocols alone: whoever deals in them may know them
ALONE = {"bootstrap"}  # runs before the package is installed
FAKES_MAY_USE = 2
USES_FAKES = 4
USES_REPORTS = 5
REPORTS_MAY_USE = {"suite"}  # besides layers 0 to 2

CHILD_PROCESSES = (
    "harness/proc/",
    "harness/targets/",
    "harness/bootstrap.py",
    "fakes/driver/bugs.py",
)  # the last: on purpose


def listed(*suffixes: str) -> list[Path]:
    """Every file of the project with one of these suffixes, by its path from the root."""
    found = [path for path in ROOT.iterdir() if path.is_file()]
    for folder in FOLDERS:
        found += [path for path in (ROOT / folder).rglob("*") if path.is_file() and not path.is_symlink()]
    skipped = {"__pycache__"}
    return sorted(p.relative_to(ROOT) for p in found if p.suffix in suffixes and not skipped & set(p.parts))


PYTHON = listed(".py")
HARNESS = [path for path in PYTHON if path.parts[0] == "harness"]


@cache
def tree(path: Path) -> ast.Module:
    """The parsed file."""
    return ast.parse((ROOT / path).read_text(encoding="utf-8"), str(path))


def imported(path: Path) -> Iterator[str]:
    """Every module that a file imports, lazily or not."""
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: imports are absolute"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


def layer_of(module: str) -> int:
    """The layer of a module of the harness by its whole name; above all where the table does not know it."""
    inner = module.removeprefix("cgrace.harness.")
    return FAKES_MAY_USE if inner.startswith(RECORDS) else LAYER_OF.get(inner.split(".")[0], 99)


def run(*argv: str, cwd: Path = ROOT) -> None:
    """A linter that must have nothing to say."""
    done = subprocess.run(argv, cwd=cwd, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        pytest.fail(f"{' '.join(argv)}\n{done.stdout}{done.stderr}", pytrace=False)


@pytest.mark.parametrize("words", [["check"], ["format", "--check"]], ids=" ".join)
def test_ruff(words: list[str]) -> None:
    """The linter and the formatter agree with every file."""
    run(sys.executable, "-m", "ruff", *words, "--quiet", ".")


def test_mypy() -> None:
    """The strict type checker has nothing to say."""
    run(sys.executable, "-m", "mypy", "--no-error-summary")


def test_gofmt() -> None:
    """Go sources are formatted as Go's own tool does it."""
    tool = try_find_go() or pytest.skip("no Go tool here")
    gofmt = tool.path.parent / "gofmt"
    sources = [str(path) for path in listed(".go")]
    done = subprocess.run([gofmt, "-l", *sources], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == ""


def test_go_vet() -> None:
    """Go's own checks have nothing to say of what needs no module from elsewhere; the compiler sees the rest at each build."""
    tool = try_find_go() or pytest.skip("no Go tool here")
    alone = [path.parent for path in listed(".mod") if "require" not in (ROOT / path).read_text(encoding="utf-8")]
    assert alone
    for folder in alone:
        run(str(tool.path), "vet", "./...", cwd=ROOT / folder)


def test_shell() -> None:
    """The launcher is valid for a plain POSIX shell."""
    shell = shutil.which("dash") or "sh"
    run(shell, "-n", "cgrace")


@pytest.mark.parametrize("path", [*PYTHON, *listed(".go")], ids=str)
def test_no_file_is_too_long(path: Path) -> None:
    """A file that does not fit in a head is split by meaning."""
    lines = (ROOT / path).read_text(encoding="utf-8").count("\n")
    assert lines <= FILE_LINES_MAX


def test_no_function_is_too_long() -> None:
    """A function can be read without scrolling."""
    long = [
        f"{path}:{node.lineno}: {node.name} has {node.end_lineno - node.lineno + 1} lines"
        for path in PYTHON
        for node in ast.walk(tree(path))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and node.end_lineno is not None
        and node.end_lineno - node.lineno >= FUNCTION_LINES_MAX
    ]
    assert long == []


def test_every_module_of_the_harness_has_a_layer() -> None:
    """A new module is put into the table before it is imported."""
    names = {path.parts[1].removesuffix(".py") for path in HARNESS} - {"__init__"}
    assert names - set(LAYER_OF) - ALONE == set()


def test_imports_point_downwards() -> None:
    """No module imports from a layer above its own; the bootstrap imports nothing of ours."""
    wrong = []
    for path in HARNESS:
        name = path.parts[1].removesuffix(".py")
        if name not in LAYER_OF and name not in ALONE:
            continue  # the test above names it
        for module in imported(path):
            parts = module.split(".")
            if parts[0] != "cgrace" or len(parts) < 3:
                continue
            if name in ALONE:
                ok = False
            elif parts[1] == "harness":
                ok = layer_of(module) <= LAYER_OF[name]
            else:
                ok = LAYER_OF[name] >= (USES_FAKES if parts[1] == "fakes" else USES_REPORTS)
            if not ok:
                wrong.append(f"{path} imports {module}")
    assert wrong == []


def test_reports_ask_nobody() -> None:
    """Reports know values, never the engine, a checker or a command; fakes know no more than the wire and child processes."""
    wrong = []
    for path in PYTHON:
        for module in imported(path):
            parts = module.split(".")
            if parts[:2] != ["cgrace", "harness"] or len(parts) < 3:
                continue
            layer = layer_of(module)
            values = parts[2] in REPORTS_MAY_USE or layer <= FAKES_MAY_USE
            if path.parts[0] == "reports" and (not values or parts[2] == "checkers"):
                wrong.append(f"{path} imports {module}")
            if path.parts[0] == "fakes" and layer > FAKES_MAY_USE:
                wrong.append(f"{path} imports {module}")
    assert wrong == []


def test_nothing_sleeps_and_children_have_one_door() -> None:
    """No time.sleep anywhere; child processes only where they are owned; no task without an owner."""
    wrong = []
    for path in PYTHON:
        if path.parts[0] not in ("harness", "fakes", "reports"):
            continue
        owned = str(path).startswith(CHILD_PROCESSES)
        for node in ast.walk(tree(path)):
            if isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
                called = ast.unparse(node.value.func)
                if re.fullmatch(
                    r"(asyncio|loop|.*get_(running_|event_)?loop\(\))\.(create_task|ensure_future)", called
                ):
                    wrong.append(f"{path}:{node.lineno}: {called} without an owner")
            if isinstance(node, ast.Call):
                called = ast.unparse(node.func)
                if called == "time.sleep":
                    wrong.append(f"{path}:{node.lineno}: time.sleep")
                if not owned and re.match(
                    r"(subprocess\.|os\.(system|popen|fork|posix_spawn)|asyncio\.create_subprocess)", called
                ):
                    wrong.append(f"{path}:{node.lineno}: {called} outside harness/proc and harness/targets")
    assert wrong == []


def test_every_test_says_what_it_pins() -> None:
    """Tests and modules have docstrings."""
    silent = [
        f"{path}:{node.lineno}: {node.name}"
        for path in PYTHON
        if path.parts[0] == "tests"
        for node in ast.walk(tree(path))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and node.name.startswith("test_")
        and not ast.get_docstring(node)
    ]
    silent += [
        str(path)
        for path in PYTHON
        if (ROOT / path).read_text(encoding="utf-8").strip() and not ast.get_docstring(tree(path))
    ]
    assert silent == []


# Spelled so that this file does not find itself.
FORBIDDEN = [
    r"(?<![\w/])/wor" r"k/",
    r"/far" r"m\b",
    r"\bclau" r"de\b",
    r"anthro" r"pic",
    r"chat" r"gpt",
    r"language mod" r"el",
    r"\bsub-?agen" r"t",
    r"pypi\.or" r"g",
    r"pythonhosted\.or" r"g",
    r"proxy\.golan" r"g\.org",
    r"deb\.debia" r"n\.org",
    r"snapshot\.debia" r"n\.org",
]


def test_the_repository_speaks_of_the_project_alone() -> None:
    """Nothing about how or where it is developed, and no registry or mirror."""
    pattern = re.compile("|".join(FORBIDDEN), re.IGNORECASE)
    texts = listed(".py", ".go", ".md", ".toml", ".json", ".txt", ".mod", ".c", ".h", "", ".html")
    texts += [Path(".ci/run")]
    found = [
        f"{path}:{number}: {line.strip():.100}"
        for path in texts
        for number, line in enumerate((ROOT / path).read_text(encoding="utf-8", errors="replace").splitlines(), 1)
        if pattern.search(line)
    ]
    assert found == []


def test_the_version_is_one() -> None:
    """pyproject.toml and the package agree."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert project["version"] == cgrace.__version__


def test_ci_runs_what_the_readme_says() -> None:
    """The check of a clean clone is the newcomer's own command, after the installation that contributors are told."""
    check, told = (
        " ".join((ROOT / path).read_text(encoding="utf-8").split()) for path in (".ci/run", "CONTRIBUTING.md")
    )
    assert './cgrace test "$@"' in check
    assert "./cgrace test" in (ROOT / "README.md").read_text(encoding="utf-8")
    installs = re.compile(r"--no-install-recommends \\? ?(mmdebstrap [^;`]*?e2fsprogs)\b")
    ours, theirs = ({word for word in installs.findall(text)[0].split() if word != "\\"} for text in (check, told))
    assert ours == theirs and "openssh-server" in ours
