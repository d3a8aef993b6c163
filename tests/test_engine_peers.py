"""Faults of the cgroup tree and of peers, in runs of real drivers on the fake."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest
from engine_kit import ONE, TWO, Ran, case, needs_root, run_all

from cgrace.harness import events as ev
from cgrace.harness.engine import acts
from cgrace.harness.events import Actor
from cgrace.harness.targets.layout import host_hierarchies
from cgrace.harness.verdict import Invariant, Outcome, Verdict

pytestmark = [needs_root, pytest.mark.timeout(120)]

SEEN = 'when = "StartTransientUnit of cgrace-a.slice seen"'
SCOPE = """
steps = [
  { id = "place", do = "apply", unit = "cgrace-s.scope", pid = "box" },
  { id = "look", do = "exists", unit = "cgrace-s.scope" },
]
"""
PROCESSES = """
steps = [
  { id = "first", do = "apply", unit = "cgrace-a.slice" },
  { id = "second", do = "apply", unit = "cgrace-b.slice", process = "other" },
  { id = "third", do = "apply", unit = "cgrace-c.slice", process = "other" },
]
"""


def faults(*texts: str) -> str:
    """The faults of a scenario."""
    return "faults = [\n" + "".join(f"  {{ {text} }},\n" for text in texts) + "]\n"


def peer(name: str, do: str, when: str = SEEN, identity: str = "x") -> str:
    """Something done to a peer."""
    return f'id = "{identity}", peer = "{name}", do = "{do}", {when}'


RUNS: dict[str, tuple[str, str]] = {
    "delete": ("today", TWO + faults('id = "x", delete = "devices of cgrace-a.slice", when = "first returned"')),
    "delete-nothing": ("today", TWO + faults('id = "x", delete = "devices/nowhere", when = "first returned"')),
    "move": ("today", SCOPE + faults('id = "x", move = "box", to = "devices/", when = "place returned"')),
    "freeze": ("today", SCOPE + faults('id = "x", freeze = "cgrace-s.scope", when = "place returned"')),
    "thaw": (
        "buffered",
        SCOPE
        + faults(
            'id = "x", freeze = "cgrace-s.scope", when = "place returned"',
            'id = "y", thaw = "cgrace-s.scope", when = "look returned"',
        ),
    ),
    "driver-pause": ("today", ONE + faults(peer("driver", "pause"))),
    "driver-resume": (
        "today",
        PROCESSES + faults(peer("driver", "pause"), peer("driver", "resume", 'when = "fault x fired"', "y")),
    ),
    "driver-resume-in-vain": (
        "today",
        ONE + faults(peer("driver", "pause"), peer("driver", "resume", 'when = "first returned"', "y")),
    ),
    "driver-kill": ("today", ONE + faults(peer("driver", "kill"))),
    "one-kill": ("buffered", PROCESSES + faults(peer("driver", "kill"))),
    "workload-kill": ("today", SCOPE + faults(peer("box", "kill", 'when = "place returned"'))),
    "systemd-reload": ("today", TWO + faults(peer("systemd", "reload"))),
    "systemd-reexec": ("buffered", TWO + faults(peer("systemd", "reexec"))),
    "systemd-kill": ("today", TWO + faults(peer("systemd", "kill"))),
    "systemd-restart": ("today", TWO + faults(peer("systemd", "restart"))),
    "systemd-pause": ("today", ONE + faults(peer("systemd", "pause"))),
    "systemd-resume": (
        "err-nil",
        ONE + faults(peer("systemd", "pause"), peer("systemd", "resume", 'when = "first waits"', "y")),
    ),
    "bus-kill": ("today", TWO + faults(peer("bus", "kill"))),
    "bus-restart": ("today", TWO + faults(peer("bus", "restart"))),
    "bus-pause": ("err-nil", ONE + faults(peer("bus", "pause"))),
    "bus-resume": ("err-nil", ONE + faults(peer("bus", "pause"), peer("bus", "resume", 'when = "first waits"', "y"))),
    "processes": ("buffered", PROCESSES),
    "scope": ("buffered", SCOPE),
}


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Ran]:
    """All of them, side by side."""
    folder = tmp_path_factory.mktemp("peers")
    done = run_all(folder, [case(folder, text, driver) for driver, text in RUNS.values()])
    return dict(zip(RUNS, done, strict=True))


def test_every_fault_acts_and_no_run_needs_the_backstop(ran: dict[str, Ran]) -> None:
    """Those that wait in vain are named by the end of their run."""
    silent = {name for name, run in ran.items() if "faults" in RUNS[name][1] and "x" not in run.fired()}
    assert silent == set()
    assert "bound" not in {run.end.why for run in ran.values()}
    assert {name for name, run in ran.items() if run.end.why == "error"} == {"delete-nothing"}


def test_a_directory_that_the_scenario_deletes_is_its_own_doing(ran: dict[str, Ran]) -> None:
    """Told by the kernel as ours, and held against nobody."""
    run = ran["delete"]
    gone = [e for e in run.of(ev.CgroupRemoved) if (e.hierarchy, e.path) == ("devices", "/cgrace.slice/cgrace-a.slice")]
    assert [event.by for event in gone] == [Actor.CGRACE]
    assert run.judgement.outcome is Outcome.CLEAN


def test_what_is_not_there_cannot_be_deleted(ran: dict[str, Ran]) -> None:
    """The run ends, says so, and shows nothing."""
    assert "there is no cgroup devices/nowhere" in ran["delete-nothing"].end.text
    assert ran["delete-nothing"].judgement.outcome is Outcome.INCONCLUSIVE


def test_move(ran: dict[str, Ran]) -> None:
    """The process is elsewhere, by our doing."""
    run = ran["move"]
    moved = [event for event in run.of(ev.ProcessMoved) if event.by is Actor.CGRACE]
    assert [(event.hierarchy, event.path, event.process) for event in moved] == [("devices", "/", "box")]
    assert run.judgement.outcome is Outcome.CLEAN


def test_freeze_and_thaw(ran: dict[str, Ran]) -> None:
    """What stays frozen is thawed at the end, or it could not be killed."""
    assert ran["thaw"].fired() == ["x", "y"]
    assert {ran[name].judgement.outcome for name in ("freeze", "thaw")} == {Outcome.CLEAN}
    assert ran["freeze"].wall_s < 5


def test_a_paused_driver(ran: dict[str, Ran]) -> None:
    """Whoever stopped it can let it go on, so nothing is proved; a resume that cannot come is named; one that does helps."""
    paused, vain, resumed = ran["driver-pause"], ran["driver-resume-in-vain"], ran["driver-resume"]
    assert paused.finding(Invariant.NO_DEADLOCK, "first").verdict is Verdict.UNKNOWN
    assert (vain.end.why, "'first returned' cannot come" in vain.end.text) == ("unmet order", True)
    assert resumed.judgement.outcome is Outcome.CLEAN


def test_a_killed_driver(ran: dict[str, Ran]) -> None:
    """Its step never ends, and that is nobody's fault; other processes go on."""
    run, other = ran["driver-kill"], ran["one-kill"]
    assert [event.expected for event in run.of(ev.ProcessExited) if event.process == "driver"] == [True]
    assert [event.step for event in run.of(ev.StepNever)] == ["first"]
    assert not other.error("second") and not other.error("third")
    assert {run.end.why, other.end.why} == {"complete"}
    assert {run.judgement.outcome, other.judgement.outcome} == {Outcome.CLEAN}


def test_a_killed_workload_is_not_lost(ran: dict[str, Ran]) -> None:
    """It is in no cgroup because it is dead."""
    assert ran["workload-kill"].judgement.outcome is Outcome.CLEAN, ran["workload-kill"].judgement.reasons


def test_a_workload_that_is_killed_last_is_gone_before_the_end(tmp_path: Path) -> None:
    """A run whose last step has returned still waits until who was killed then is dead: a third of the runs did not."""
    text = 'bound = "10s"\n' + SCOPE + faults(peer("box", "kill", 'when = "place returned"'))
    runs = run_all(tmp_path, [case(tmp_path, text, "today") for _ in range(12)])
    assert [run.judgement.outcome for run in runs] == [Outcome.CLEAN] * 12


def test_systemd_reloads_and_comes_back(ran: dict[str, Ran]) -> None:
    """Drivers get through a reload, a re-execution and a restart."""
    for name in ("systemd-reload", "systemd-reexec", "systemd-restart"):
        assert ran[name].judgement.outcome is Outcome.CLEAN, (name, ran[name].judgement.reasons)


def test_systemd_is_killed(ran: dict[str, Ran]) -> None:
    """The bus answers in its place, as a bus does."""
    assert all("org.freedesktop.systemd1" in ran["systemd-kill"].error(step) for step in ("first", "second"))


@pytest.mark.parametrize("who", ["systemd", "bus"])
def test_who_is_paused_for_good_shows_who_waits_for_good(ran: dict[str, Ran], who: str) -> None:
    """Calls of these drivers have no limit. With a resume they come through."""
    finding = ran[f"{who}-pause"].finding(Invariant.NO_DEADLOCK, "first")
    assert (finding.verdict, finding.grade) == (Verdict.VIOLATED, ev.Grade.LEGAL)
    assert ran[f"{who}-resume"].judgement.outcome is Outcome.CLEAN


def test_the_bus_goes_and_comes_back(ran: dict[str, Ran]) -> None:
    """Gone, nobody can connect again; restarted, the next step does."""
    gone, back = ran["bus-kill"], ran["bus-restart"]
    assert gone.error("first") and "dbus" in gone.error("second")
    assert back.error("first") and not back.error("second")
    assert len(back.of(ev.Connected)) > 2


def test_several_processes(ran: dict[str, Ran]) -> None:
    """Each has connections of its own, under its name."""
    run = ran["processes"]
    assert {event.process for event in run.of(ev.Connected)} == {"driver", "other"}
    assert run.judgement.outcome is Outcome.CLEAN


def test_a_workload_is_placed_in_its_scope(ran: dict[str, Ran]) -> None:
    """Every hierarchy that the driver reports has it."""
    looks = [event for event in ran["scope"].of(ev.CgroupSeen) if event.step == "place"]
    assert looks and all(event.inside for event in looks)


def v2_controllers() -> list[str]:
    """What this machine's cgroup v2 has to give."""
    for hierarchy in host_hierarchies():
        if hierarchy.is_v2:
            fd = hierarchy.mount()
            try:
                text = Path(f"/proc/self/fd/{fd}{hierarchy.own}/cgroup.controllers").read_text(encoding="ascii")
            finally:
                os.close(fd)
            return text.split()
    return []


def test_disable_takes_a_controller_away(tmp_path: Path) -> None:
    """cgroup v2: from what is below a cgroup; here with a controller that this machine's v2 has."""
    controllers = v2_controllers()
    if not controllers:
        pytest.skip("this machine's cgroup v2 has no controllers")
    steps = """
steps = [
  { id = "first", do = "apply", unit = "cgrace-a.slice" },
  { id = "second", do = "exists", unit = "cgrace-a.slice" },
]
"""
    fault = faults(f'id = "x", disable = "{controllers[0]}", at = "cgrace.slice", when = "first returned"')
    (run,) = run_all(tmp_path, [case(tmp_path, steps + fault, "today", profile="257", layout="v2")])
    assert run.fired() == ["x"]
    assert run.end.why == "complete", run.end


def test_a_kill_that_takes_its_time_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is kept until a process is dead is not let go of while it dies, though the driver waits without limit meanwhile."""
    at_once = acts._signal

    def later(pid: int, number: int) -> None:
        asyncio.get_running_loop().call_later(0.3, at_once, pid, number)

    monkeypatch.setattr(acts, "_signal", later)
    text = SCOPE.partition('  { id = "look"')[0] + "]\n"
    text += faults(
        'id = "late", job = "cgrace-s.scope", stays_queued_until = "fault died fired"',
        peer("box", "kill", 'when = "job of cgrace-s.scope queued"', "died"),
    )
    (ran,) = run_all(tmp_path, [case(tmp_path, text, "wait-forever", profile="257")])
    assert [hold.why for hold in ran.of(ev.HoldLetGo)] == ["point"]
    assert ran.index(ev.FaultFired, fault="died") < ran.index(ev.HoldLetGo, hold="late")
