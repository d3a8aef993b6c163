"""Judges a stored trace again. All that it needs is in the trace's head: no driver, no systemd, no root."""

from __future__ import annotations

from cgrace.harness.drivers.base import DriverSpec
from cgrace.harness.errors import TraceError
from cgrace.harness.scenario.data import decode
from cgrace.harness.scenario.model import Scenario
from cgrace.harness.suite import Case
from cgrace.harness.trace import Head, Trace
from cgrace.harness.verdict import Judgement


def case_of(head: Head) -> Case:
    """The case that a trace is of; TraceError where the head does not say."""
    scenario = decode(Scenario, head.scenario)
    settings = [s for s in scenario.settings if (s.profile, s.layout) == (head.profile, head.layout)]
    try:
        driver = DriverSpec(
            name=head.driver["name"],
            generation=head.driver["generation"],
            module=head.driver["module"],
            version=head.driver["version"],
            family="",
            layouts=(head.layout,),
            uses_bus=head.driver.get("uses_bus", "true") == "true",
        )
    except KeyError as error:
        raise TraceError(f"the head of the trace does not say the driver's {error}") from None
    if not settings:
        raise TraceError(f"the trace is of {head.profile} on {head.layout}, which its own scenario does not name")
    return Case(scenario=scenario, setting=settings[0], driver=driver)


def rejudge_trace(trace: Trace, *, expect_clean: bool = False) -> Judgement:
    """What the run comes to by today's checkers and its own scenario."""
    from cgrace.harness.runner import judge_trace

    return judge_trace(trace, case_of(trace.head), expect_clean=expect_clean)
