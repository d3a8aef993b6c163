"""The rows of runc #1780 that are systemd's own doing: what each version takes away from a unit whose job was late."""

from __future__ import annotations

import pytest
from fake_world import ACCOUNTING, V1, World

NESTED = "/cgrace.slice/cgrace-a.slice"


def late_slice(profile: str, unit: str = "cgrace-a.slice", path: str = NESTED) -> World:
    """The driver asks for a slice, makes its directories while the job is queued, then the job runs."""
    world = World(profile)
    world.manager.stay_queued(unit)
    settings = ACCOUNTING | ({"Delegate": True} if profile.startswith("219") else {})
    world.start(unit, **settings)
    world.settle()
    assert world.manager.queued_jobs() == (f"start of {unit}",)
    world.make_everywhere(path)
    assert world.manager.let_go(unit)
    world.settle()
    assert world.manager.queued_jobs() == ()
    return world


@pytest.mark.parametrize(
    ("profile", "lost"),
    [("219-rhel7.4", {"pids"}), ("219-rhel7", set()), ("247", {"devices"}), ("257", {"devices"})],
)
def test_late_nested_slice(profile: str, lost: set[str]) -> None:
    """Rows 1-4, 10, 11, 7a: what a late start takes from a slice below a slice of its own."""
    world = late_slice(profile)
    assert set(V1) - world.where(NESTED) == lost
    assert any("trimmed" in line for line in world.log()) == bool(lost)


@pytest.mark.parametrize(("profile", "lost"), [("219-rhel7.4", {"pids"}), ("219-rhel7", set()), ("257", set())])
def test_late_top_level_slice(profile: str, lost: set[str]) -> None:
    """On 257 a top-level slice keeps devices, because its siblings need it."""
    world = late_slice(profile, "cgrace.slice", "/cgrace.slice")
    assert set(V1) - world.where("/cgrace.slice") == lost


def test_upstream_219_has_no_transient_slices() -> None:
    """Upstream 219 refuses the type."""
    world = World("219")
    assert "does not support transient units" in world.start("cgrace-a.slice")[-1].body[0]


@pytest.mark.parametrize(
    ("profile", "delegate", "moved"),
    [
        ("219-rhel7.4", True, set()),
        ("219-rhel7", True, set()),
        ("247", True, set()),
        ("247", False, {"devices"}),
        ("257", True, {"devices"}),
    ],
)
def test_late_scope_and_its_process(profile: str, delegate: bool, moved: set[str]) -> None:
    """Row 1-4c: from which hierarchies the process of a late scope is moved away. Where no unit needs a controller, as cpu and
    blkio here, a real one leaves the process alone (probe cgroup.late-bare)."""
    world = World(profile)
    world.manager.stay_queued("cgrace-a.scope")
    world.start("cgrace-a.scope", PIDs=[100], Slice="cgrace.slice", Delegate=delegate, DefaultDependencies=False)
    world.settle()
    world.make_everywhere("/cgrace.slice/cgrace-a.scope", 100)
    world.manager.let_go("cgrace-a.scope")
    world.settle()
    inside = {name for name in V1 if world.tree.locate(name, 100) == "/cgrace.slice/cgrace-a.scope"}
    assert set(V1) - inside == moved
    assert world.where("/cgrace.slice/cgrace-a.scope") >= moved, "the directory stays, it was busy when it was trimmed"


def test_trim_between_mkdir_and_write() -> None:
    """Row 1-4b: trimmed before the driver's write, the pids directory of a scope is gone."""
    world = World("219-rhel7.4")
    world.manager.stay_queued("cgrace-a.scope")
    world.start("cgrace-a.scope", PIDs=[100], Slice="cgrace.slice", Delegate=True, DefaultDependencies=False)
    world.settle()
    world.make_everywhere("/cgrace.slice/cgrace-a.scope")
    world.manager.let_go("cgrace-a.scope")
    world.settle()
    with pytest.raises(FileNotFoundError):
        world.tree.attach("pids", "/cgrace.slice/cgrace-a.scope", 100)


def test_sibling_start_realises_again() -> None:
    """Before 247 an undelegated scope's foreign sub-cgroup is flattened when a sibling brings a controller."""
    world = World("219-rhel7")
    world.start("cgrace-a.scope", PIDs=[100], Slice="cgrace.slice", DefaultDependencies=False)
    world.settle()
    world.make_everywhere("/cgrace.slice/cgrace-a.scope/sub", 100)
    world.start("cgrace-b.scope", PIDs=[101], Slice="cgrace.slice", CPUShares=512, DefaultDependencies=False)
    world.settle()
    assert world.tree.locate("cpu", 100) == "/cgrace.slice/cgrace-a.scope"
    assert world.tree.locate("cpuset", 100) == "/cgrace.slice/cgrace-a.scope/sub", "cpuset is never touched"


def test_joined_cpu_hierarchy() -> None:
    """cpu and cpuacct mounted together are one directory, made and removed once."""
    from fake_world import v1_hierarchies

    world = World("247", hierarchies=v1_hierarchies(("cpu,cpuacct", "memory", "pids", "systemd")))
    world.start("cgrace-a.slice", CPUAccounting=True)
    world.settle()
    assert world.where(NESTED) == {"cpu,cpuacct", "memory", "pids", "systemd"}
    world.stop("cgrace.slice")
    world.settle()
    assert world.where("/cgrace.slice") == set()
