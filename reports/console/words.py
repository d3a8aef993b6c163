"""Scenario values in plain words, one clause each: what was asked of the driver, what systemd was made to do."""

from __future__ import annotations

import re

from cgrace.harness import faults as ft
from cgrace.harness.clock import NS_PER_MS, NS_PER_S
from cgrace.harness.events import Grade
from cgrace.harness.scenario.model import Scenario, Setting, Step


def span(ns: int) -> str:
    """A duration with three digits at most: "12 ms", "0.13 s", "1.0 s", "30 s"."""
    if ns < NS_PER_MS:
        return f"{ns / NS_PER_MS:.2f} ms"
    if ns < NS_PER_S // 10:
        return f"{ns / NS_PER_MS:.0f} ms"
    seconds = ns / NS_PER_S
    return f"{seconds:.2f} s" if seconds < 1 else f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"


def again(command: str) -> str:
    """The command that made a run, as one types it anywhere: without the folder that cgrace was called from."""
    program, space, rest = command.partition(" ")
    return program.rpartition("/")[2] + space + rest


def asked(step: Step) -> str:
    """A step: "first: apply late.slice, pid -1"."""
    whom = f" in {step.process}" if step.process != "driver" else ""
    what = f"{step.id}: {step.do} {step.unit}{whom}"
    if step.do == "apply":
        what += f", process {step.workload}" if step.workload else ", pid -1"
    if step.after:
        what += ", after " + " and ".join(str(point) for point in step.after)
    return what


def made_to(fault: ft.Fault) -> str:
    """A fault: "holds JobRemoved of late.slice until first returned"."""
    match fault:
        case ft.Hold(match=match, until=until):
            return f"hold {match.text} until {until}" + (", others may overtake it" if fault.overtake else "")
        case ft.Drop(match=match):
            return f"lose {match.text}"
        case ft.Duplicate(match=match):
            return f"send {match.text} twice"
        case ft.Reorder(match=match):
            return f"let the next message overtake {match.text}"
        case ft.AnswerError(match=match):
            return f"answer {match.text} with {fault.name.rpartition('.')[2]}"
        case ft.Amend(match=match, values=values):
            return f"change {match.text}: " + ", ".join(f"argument {index} = {value!r}" for index, value in values)
        case ft.JobStays():
            return f"keep the job of {fault.unit} queued {f'until {fault.until}' if fault.until else 'for ever'}"
        case ft.HoldOpen():
            return f"stop the driver where it opens {fault.hierarchy}{fault.path} until {fault.until}"
        case ft.HoldClose():
            return f"stop the driver where it closes its connection for {fault.connection} until {fault.until}"
        case ft.JobEnds():
            return f"end the job of {fault.unit} as {fault.result}"
    return _unprompted(fault)


def _unprompted(fault: ft.Fault) -> str:
    """A fault that acts at a point of its own."""
    match fault:
        case ft.Forge():
            return f"forge {fault.member} of {fault.unit} ({fault.result}) at: {fault.when}"
        case ft.Disconnect():
            return f"cut the driver's connections ({fault.which}) at: {fault.when}"
        case ft.StopReading():
            return f"read nothing more from the driver from: {fault.when}" + (
                f" until {fault.until}" if fault.until is not None else ""
            )
        case ft.Garbage():
            return f"send {fault.what} at: {fault.when}"
        case ft.DeleteCgroup():
            return f"lose {fault.hierarchy}{fault.path} at: {fault.when}"
        case ft.MoveProcess():
            return f"see {fault.process} moved to {fault.hierarchy}{fault.path} at: {fault.when}"
        case ft.DisableController():
            return f"lose controller {fault.controller} of {fault.path} at: {fault.when}"
        case ft.FreezeCgroup():
            return f"{'thaw' if fault.thaw else 'freeze'} {fault.path} at: {fault.when}"
        case ft.Peer():
            return f"{fault.do} {fault.peer} at: {fault.when}"
    return fault.id


def what_systemd_did(scenario: Scenario) -> str:
    """Everything that systemd was made to do, each clause with its grade where it is not one of nature's own."""
    clauses = []
    for fault in scenario.faults:
        grade = ft.grade(fault)
        clauses.append(made_to(fault) + (f" ({grade})" if grade is not Grade.NATURAL else ""))
    clauses += [order.text or f"{order.first} before {order.second}" for order in scenario.orders]
    return "; ".join(clauses) or "act by its own rules"


def rows_label(scenario: Scenario) -> str:
    """The story's rows that a scenario serves, or its own name where it serves none."""
    return ",".join(scenario.rows) or scenario.name.rpartition("/")[2]


def place(setting: Setting) -> str:
    """ "219-rhel7, v1" """
    return f"{setting.profile}, {setting.layout}"


def without_numbers(text: str) -> str:
    """What two runs of one case say alike, though each has pids and times of its own."""
    return re.sub(r"\d+(\.\d+)?", "", text)
