"""The `cgrace` command: its grammar, its exit codes, and the last resort for what escapes.

Exit codes: 0 as expected; 1 a verdict differed; 2 could not run (bad input, or the machine cannot) or came to no conclusion;
130 interrupted; bisect-step has git's (commands/bisect.py). Results go to stdout (with --json one document and nothing else),
progress and complaints to stderr. Commands live in harness/commands and are imported only when they run: a start should cost
nothing that the command does not need.
"""

from __future__ import annotations

import argparse
import importlib
import os
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FrameType
from typing import NoReturn, cast

from cgrace import __version__
from cgrace.harness.commands import EXIT_CANNOT, EXIT_INTERRUPTED, EXIT_OK, EXIT_PIPE, EXIT_SKIP
from cgrace.harness.errors import CgraceError, UsageError

Command = Callable[[argparse.Namespace], int]


class _Parser(argparse.ArgumentParser):
    """Refuses in our own way: one message, exit 2."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(message, hint=f"{self.prog} --help")


def _positive(text: str) -> int:
    if not text.isdecimal() or not 0 < int(text) <= 1_000_000:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 1 to 1000000")
    return int(text)


def _add_selection(parser: argparse.ArgumentParser) -> None:
    """What `reproduce` and `run` share."""
    parser.add_argument("--repeat", type=_positive, default=1, metavar="N", help="run each N times; says k of N a row")
    parser.add_argument(
        "--expect", choices=["history", "clean"], default="history", help="clean: without history's excuse"
    )
    parser.add_argument(
        "--record", action="store_true", help="on a real target: what comes out is what is expected from now on"
    )
    _add_where(parser)


def _add_where(parser: argparse.ArgumentParser) -> None:
    """On which drivers, and where."""
    parser.add_argument(
        "--driver",
        action="append",
        default=[],
        metavar="NAME",
        help="only this (cgrace drivers): today, runc@1.1.12, crun, source:PATH ...",
    )
    parser.add_argument("--jobs", type=_positive, default=None, metavar="N", help="how many run side by side")
    parser.add_argument(
        "--target",
        default="fake",
        metavar="TARGET",
        help="where it runs (cgrace targets): fake, container:SUITE, vm:SUITE:v2 ...",
    )
    parser.add_argument("--allow-host", action="store_true", help="--target host may start units on this very machine")
    parser.add_argument(
        "--bus",
        choices=["embedded", "dbus-daemon", "dbus-broker"],
        default="embedded",
        help="what stands behind the relay: our own bus, or a real one for each run",
    )
    parser.add_argument("--store", default=None, metavar="DIR", help="keep the run there, not in the state folder")


def _add_run(run: argparse.ArgumentParser) -> None:
    run.add_argument(
        "scenarios", nargs="*", metavar="SCENARIO", help="files, folders or names; all that come with cgrace if none"
    )
    _add_selection(run)
    run.add_argument(
        "--baseline", metavar="NAME", help="fail only on what this driver does not do too; all expected clean"
    )
    run.add_argument("--junit", metavar="FILE", help="also write a JUnit report")
    run.add_argument("--shard", metavar="I/N", help="only the I-th of N parts, which are the same everywhere")
    run.add_argument(
        "--time-budget",
        metavar="TIME",
        help="such as 3m: begin what fits, in the given order; what was not run is listed, and the exit code is 2",
    )


def _add_matrix(matrix: argparse.ArgumentParser) -> None:
    matrix.add_argument(
        "scenarios", nargs="*", metavar="SCENARIO", help="files, folders or names; corpus, core and primers if none"
    )
    matrix.add_argument("--html", metavar="FILE", help="where the page goes; beside the traces if not given")
    matrix.set_defaults(record=False)
    _add_where(matrix)


def _add_sweep(sweep: argparse.ArgumentParser) -> None:
    sweep.add_argument("scenario", metavar="SCENARIO", help="a file or a name")
    what = sweep.add_argument_group("what is varied", "one of these; both ends belong to a range")
    what.add_argument(
        "--late", metavar="RANGE", help="how late JobRemoved is, such as 0..31s; only drivers' own waits are waited out"
    )
    what.add_argument("--early", metavar="RANGE", help="0..1: JobRemoved before the reply that names its job")
    what.add_argument("--lost", metavar="RANGE", help="which JobRemoved never comes, such as 0..4")
    what.add_argument("--units", metavar="RANGE", help="how many units at once, such as 1..64")
    sweep.add_argument(
        "--measure", metavar="TARGET", help="also time jobs of a real systemd, such as container:bookworm"
    )
    _add_where(sweep)


def _add_bisect(bisect: argparse.ArgumentParser) -> None:
    bisect.add_argument("scenario", metavar="SCENARIO", help="a file or a name")
    bisect.add_argument("--driver", required=True, metavar="NAME", help="source:. for the checkout that is bisected")
    bisect.add_argument("--find-fix", action="store_true", help="swap 0 and 1: find the first that is clean")
    bisect.add_argument("--repeat", type=_positive, default=1, metavar="N", help="run N times; one violated is enough")
    bisect.add_argument("--store", default=None, metavar="DIR", help="keep the run there, not in the state folder")
    bisect.set_defaults(jobs=None, bus="embedded")


def _add_node(command: Callable[..., argparse.ArgumentParser]) -> None:
    """What is for a node that hangs now."""
    diagnose = command("diagnose", "say which known bug a node that hangs has", "diagnose:diagnose")
    diagnose.epilog = "Exit codes: 0 a known signature is in it, 1 none is, 2 it could not be read."
    diagnose.add_argument(
        "dump",
        metavar="DUMP",
        help="what `cgrace collect` gathered, a goroutine dump in any log, a native stack, or a trace of cgrace; '-' is stdin",
    )
    diagnose.add_argument("--jobs", default=None, metavar="FILE", help="what systemctl list-jobs printed")
    diagnose.add_argument(
        "--crun-stack", default=None, metavar="FILE", help="of crun: gdb, eu-stack, /proc/PID/stack, wchan, syscall"
    )
    diagnose.add_argument("--stuck", action="store_true", help="it has not moved for a minute or more")
    gathers = "print the script that gathers on a node what diagnose reads"
    collect = command("collect", gathers, "collect:collect", json=False)
    collect.add_argument("--print", action="store_true", required=True, help="print it; the node's own shell runs it")


def _add_report(report: argparse.ArgumentParser) -> None:
    """What of a stored run, and as what."""
    report.add_argument("--row", action="append", default=[], metavar="ROW")
    report.add_argument("--case", action="append", default=[], metavar="CASE", help="a case or scenario by its name")
    report.add_argument("--driver", action="append", default=[], metavar="NAME")
    report.add_argument("--store", default=None, metavar="DIR", help="where runs are kept")
    report.add_argument("--probes", action="store_true", help="also what a driver asks before it is ready")
    forms = report.add_argument_group("as a file", "of one case; FILE may be '-' for stdout")
    forms.add_argument("--html", default=None, metavar="FILE", help="a page that needs nothing else, with a timeline")
    forms.add_argument("--open", action="store_true", help="show that page; without --html it is put beside the trace")
    forms.add_argument("--markdown", default=None, metavar="FILE", help="for pasting into an issue")
    forms.add_argument("--perfetto", default=None, metavar="FILE", help="Chrome trace JSON, for ui.perfetto.dev")
    forms.add_argument("--pcapng", default=None, metavar="FILE", help="the D-Bus messages, for Wireshark")
    forms.add_argument("--reproducer", default=None, metavar="DIR", help="one scenario file and the command to run it")


def _add_validate(validate: argparse.ArgumentParser) -> None:
    validate.add_argument(
        "new",
        nargs="?",
        default="",
        metavar="NEW",
        help="container:SUITE, container:SUITE+DIR with the install tree in DIR laid over it, vm:SUITE, ssh:HOST, "
        "fake:PROFILE, user, local, or a recorded baseline",
    )
    validate.add_argument("--against", metavar="OLD", help="compare with this; the nearest older baseline if none")
    validate.add_argument("--probe", action="append", default=[], metavar="PATTERN", help="only these; also exists.*")
    validate.add_argument("--record", action="store_true", help="write NEW's answers into reports/baselines")
    validate.add_argument("--save", metavar="FILE.json", help="write NEW's answers there, for --against FILE.json")
    validate.add_argument(
        "--scenarios",
        action=argparse.BooleanOptionalAction,
        default=None,
        help="also run all scenarios on all drivers that fit, and compare how they come out: done by itself on a container, "
        "unless --probe, --save or --bisect is given",
    )
    validate.add_argument(
        "--driver",
        action="append",
        default=[],
        metavar="NAME",
        help="run the scenarios on this driver, also `fleet`; one of each generation if none is given",
    )
    validate.add_argument(
        "--bisect", action="store_true", help="a step of git bisect run: 125, which skips it, where NEW cannot be asked"
    )
    validate.add_argument("--list", action="store_true", help="the probes: what is asked, and where that is written")
    validate.add_argument("--junit", metavar="FILE", help="also write a JUnit report")
    validate.add_argument("--html", metavar="FILE", help="also write a page that needs nothing else")
    drawn = validate.add_argument_group(
        "drawn sequences", "of calls, played on NEW (a fake) and OLD (a real one) side by side"
    )
    drawn.add_argument(
        "--differential", nargs="?", type=int, const=1000, metavar="N", help="play N (1000 if none is given)"
    )
    drawn.add_argument(
        "--for", dest="seconds", default=None, metavar="TIME", help="go on for so long instead: 90s, 10m, 2h"
    )
    drawn.add_argument("--seed", type=int, default=0, metavar="N", help="the number of the first sequence (default 0)")


def parser() -> argparse.ArgumentParser:
    """The whole grammar."""
    top = _Parser(
        prog="cgrace",
        description="Makes races and faults between container cgroup drivers and systemd happen, and proves what went wrong.",
        epilog="Exit codes: 0 as expected, 1 a verdict differed, 2 could not run or decide, 130 interrupted.",
        allow_abbrev=False,
    )
    top.add_argument("--version", action="version", version=f"cgrace {__version__}")
    commands = top.add_subparsers(dest="command", metavar="COMMAND", required=True, parser_class=_Parser)

    def command(name: str, does: str, module: str, *, json: bool = True) -> argparse.ArgumentParser:
        one = commands.add_parser(name, help=does, description=does, allow_abbrev=False)
        one.set_defaults(module=module)
        if json:
            one.add_argument("--json", action="store_true", help="one JSON document on stdout, nothing else")
        return one

    reproduce = command("reproduce", "reproduce the rows of a story with real drivers", "reproduce:reproduce")
    reproduce.add_argument("story", metavar="STORY", help="a story's issue number (1780) or folder below scenarios/")
    reproduce.add_argument("--row", action="append", default=[], metavar="ROW", help="only this row of the story")
    _add_selection(reproduce)
    reproduce.add_argument(
        "--all-drivers", action="store_true", help="with --repeat: all drivers, not only the guilty ones"
    )
    _add_run(command("run", "run scenarios, as a person or CI does", "run:run"))
    _add_bisect(
        command("bisect-step", "one step of a git bisect: 0 clean, 1 violated, 125 cannot tell", "bisect:bisect")
    )
    _add_matrix(command("matrix", "run the corpus on every driver: a table that can be published", "matrix:matrix"))
    _add_sweep(command("sweep", "find the value at which each driver's outcome changes", "sweep:sweep"))
    doctor = command("doctor", "say what this machine, or a target, can do, and what would help", "machine:doctor")
    doctor.add_argument(
        "--target", default="", metavar="TARGET", help="look there: ssh:HOST, vm:SUITE, container:SUITE ..."
    )
    command("drivers", "list the drivers", "drivers:drivers")
    command("targets", "list where scenarios can run, and what was found of it here", "targets:targets")
    command("clean", "remove what killed runs left on this machine", "machine:clean")
    test = command("test", "run the project's tests; what follows goes to pytest", "tests:test", json=False)
    test.add_argument("arguments", nargs=argparse.REMAINDER, metavar="PYTEST-ARGUMENT")
    scenario = command("scenario", "check scenario files without running them", "files:scenario", json=False)
    verbs = scenario.add_subparsers(dest="verb", metavar="VERB", required=True, parser_class=_Parser)
    check = verbs.add_parser("check", help="parse files; say file and line of what is wrong", allow_abbrev=False)
    check.add_argument("files", nargs="+", metavar="FILE")
    check.add_argument("--json", action="store_true", help="one JSON document on stdout, nothing else")
    schema = command("schema", "print the JSON Schema of scenario files, or of results", "files:schema")
    schema.add_argument(
        "of", nargs="?", choices=["scenario", "results"], default="scenario", metavar="scenario|results"
    )
    explain = command(
        "explain", "explain a word, a row, a scenario, or what was found in the last run", "explain:explain"
    )
    explain.add_argument("topic", nargs="?", default="", metavar="TOPIC", help="all words if none")
    _add_node(command)
    rejudge = command("rejudge", "check a stored trace again, without a driver or systemd", "stored:rejudge")
    rejudge.add_argument("trace", metavar="TRACE")
    rejudge.add_argument("--expect", choices=["history", "clean"], default="history")
    report = command("report", "show a stored run: evidence, wait graph, timeline", "stored:report")
    report.add_argument("run", nargs="?", default="last", metavar="RUN", help="'last', a run's folder, or a trace")
    _add_report(report)
    _add_validate(command("validate", "say what a systemd changes for the drivers", "validate:validate"))
    compare = command("compare", "say what changed between two runs or traces", "compare:compare")
    compare.add_argument("first", metavar="A", help="'last', a run's folder or name, or a trace")
    compare.add_argument("second", metavar="B")
    compare.add_argument("--store", default=None, metavar="DIR", help="where runs are kept")
    return top


def _terminate(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _run(argv: Sequence[str]) -> int:
    if list(argv[:1]) == ["test"]:  # everything after it is pytest's, options too
        args = argparse.Namespace(command="test", module="tests:test", arguments=list(argv[1:]))
    else:
        args = parser().parse_args(argv)
    module, name = args.module.split(":")
    command = getattr(importlib.import_module(f"cgrace.harness.commands.{module}"), name)
    return cast(Command, command)(args)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; never a traceback."""
    _have_streams()
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _terminate)
    words = sys.argv[1:] if argv is None else list(argv)
    # git bisect would take 2 for a verdict.
    cannot = EXIT_SKIP if words[:1] == ["bisect-step"] else EXIT_CANNOT
    try:
        status = _run(words)
        sys.stdout.flush()
    except CgraceError as error:
        return _say(f"cgrace: {error}", cannot)
    except KeyboardInterrupt:
        return _say("cgrace: interrupted", EXIT_INTERRUPTED)
    except BrokenPipeError:
        _silence()
        return EXIT_PIPE
    except SystemExit as exit_:  # argparse, after --help and --version
        return exit_.code if isinstance(exit_.code, int) else EXIT_OK
    except BaseException as error:
        return _last_resort(error, cannot)
    return status


def _have_streams() -> None:
    """Fill in what the caller closed: whatever we opened next would be written to as our stdout."""
    while (number := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(number, True)
    os.close(number)
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, Path(os.devnull).open(mode, encoding="utf-8"))  # noqa: SIM115 (as long as we live)


def _say(text: str, status: int) -> int:
    """A message on stderr, if anybody still reads that, and the exit code."""
    try:
        print(text, file=sys.stderr, flush=True)
    except OSError:
        _silence()
    return status


def _silence() -> None:
    """Let the interpreter's own flush at exit go nowhere."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (sys.stdout, sys.stderr):
        os.dup2(nowhere, stream.fileno())


def _first(error: BaseException, kind: type[BaseException]) -> BaseException:
    """The first exception of a kind in a group of groups."""
    while isinstance(error, BaseExceptionGroup):
        error = next(one for one in error.subgroup(kind).exceptions)  # type: ignore[union-attr]
    return error


def _last_resort(error: BaseException, cannot: int) -> int:
    """A bug of ours: one line, and where the whole of it was written."""
    import tempfile
    import traceback

    if isinstance(error, BaseExceptionGroup):
        if error.subgroup(CgraceError) is not None:
            return _say(f"cgrace: {_first(error, CgraceError)}", cannot)
        if error.subgroup(KeyboardInterrupt) is not None:
            return _say("cgrace: interrupted", EXIT_INTERRUPTED)
    inner = _first(error, BaseException)
    if isinstance(inner, OSError) and inner.errno is not None:
        what = f"the system refused: {inner}"
    else:
        last = str(inner).strip().splitlines()[:1] or [""]
        what = f"a bug of cgrace: {type(inner).__name__}: {last[0]}"
    try:
        with tempfile.NamedTemporaryFile("w", prefix="cgrace-bug-", suffix=".txt", delete=False) as file:
            traceback.print_exception(error, file=file)
        return _say(f"cgrace: {what}\n  the whole of it: {file.name}", cannot)
    except OSError:
        return _say(f"cgrace: {what}", cannot)


if __name__ == "__main__":
    sys.exit(main())
