"""What the fake remembers of the controllers that a slice's members need, and when it looks again (cgroup.c)."""

from __future__ import annotations

import pytest
from fake_world import World, properties

A, X, XY = "t-a.scope", "t-x.slice", "t-x-y.slice"


@pytest.mark.parametrize(("profile", "found"), [("252", {"blkio", "cpu"}), ("257", {"blkio"})])
def test_a_member_without_a_cgroup_is_overlooked(profile: str, found: set[str]) -> None:
    """From 256 on a unit that never had a cgroup does not make the slices above look at their members anew when it is loaded, and
    SetUnitProperties counts these as the slice remembers them (cgroup.c, unit_invalidate_cgroup_members_masks)."""
    world = World(profile)
    world.do("StartUnit", "ss", X, "replace")
    world.do("StartUnit", "ss", XY, "replace")
    world.start(A, PIDs=[100], Slice=X, CPUAccounting=True, AddRef=True, Requires=["t-none.scope"])
    world.do("SetUnitProperties", "sba(sv)", X, True, properties(BlockIOAccounting=True))
    assert {"blkio", "cpu"} & world.where(f"/t.slice/{X}") == found


def test_that_a_slice_has_no_members_is_remembered_too() -> None:
    """The first member of a slice of 257 is overlooked as any later one is (cgroup.c, unit_get_members_mask)."""
    world = World("257")
    world.start("t-z.slice", Wants=[X], DevicePolicy="strict")
    world.settle()
    world.start(A, PIDs=[100], Slice=X, DevicePolicy="strict", AddRef=True, Requires=["t-none.scope"])
    world.stop("t-z.slice")
    world.settle()
    assert world.where(f"/t.slice/{X}") == {"systemd", "memory", "pids"}
