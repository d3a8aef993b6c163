"""What cannot be done with a user's own systemd (target `user`), said before anything of a run was."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from cgrace.harness import faults as ft
from cgrace.harness.drivers.base import DriverSpec
from cgrace.harness.engine.plan import all_faults
from cgrace.harness.scenario.model import Scenario

ROOTLESS_FAMILIES: Final = ("C", "D", "program")  # libcontainer from 1.0-rc93 on; a user's own program knows best


def why_not(scenario: Scenario, driver: DriverSpec) -> str:
    """The reason, "" where it can be tried."""
    return _driver(driver) or _fault(all_faults(scenario))


def _driver(driver: DriverSpec) -> str:
    if not driver.uses_bus:
        return f"{driver.name} makes its cgroups below the root of the machine's, which takes root"
    if not driver.rootless and driver.program is None and driver.family not in ROOTLESS_FAMILIES:
        return f"{driver.name} has no way to ask a user's systemd"
    return ""


def _fault(faults: Iterable[ft.Fault]) -> str:
    for fault in faults:
        if isinstance(fault, ft.Peer) and fault.peer == "bus" and fault.do in ("kill", "restart"):
            return f"fault '{fault.id}' cannot be done: the user's bus has the user's whole session on it"
    return ""
