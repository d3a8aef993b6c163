"""The host's cgroup layout, from texts of /proc."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cgrace.harness.errors import TargetError
from cgrace.harness.targets.layout import HostHierarchy, choose, parse_hierarchies, v1_controllers_free

RHEL7 = """\
11:cpuset:/
4:cpuacct,cpu:/system.slice/a.service
3:net_prio,net_cls:/
1:name=systemd:/user.slice
"""
RHEL7_MOUNTS = """\
23 22 0:20 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,xattr,release_agent=/x,name=systemd
24 22 0:21 / /sys/fs/cgroup/cpu,cpuacct rw,relatime - cgroup cgroup rw,cpuacct,cpu
25 22 0:22 / /mnt/odd rw - cgroup cgroup rw,net_prio,net_cls
26 22 0:23 / /sys/fs/cgroup/cpuset rw shared:3 - cgroup cgroup rw,cpuset
"""
V2_ONLY = "0::/user.slice/session.scope\n"
PROC_CGROUPS = """\
#subsys_name	hierarchy	num_cgroups	enabled
devices	0	1	1
freezer	0	1	1
net_cls	0	1	0
memory	0	1	1
perf_event	0	1	1
"""


def test_comounted_hierarchy_has_its_directory_name() -> None:
    """The name is the mount's where that says what it carries, else the kernel's list."""
    names = [hierarchy.name for hierarchy in parse_hierarchies(RHEL7, RHEL7_MOUNTS)]
    assert names == ["cpuset", "cpu,cpuacct", "net_prio,net_cls", "systemd"]


def test_own_cgroup_and_mount_options() -> None:
    """A hierarchy knows where we are in it and how it is mounted again."""
    found = {hierarchy.name: hierarchy for hierarchy in parse_hierarchies(RHEL7, RHEL7_MOUNTS)}
    assert found["cpu,cpuacct"].own == "/system.slice/a.service"
    assert found["cpu,cpuacct"].option_text == "cpuacct,cpu"
    assert found["systemd"].option_text == "none,name=systemd"
    assert found["systemd"].controllers == ()


def test_own_cgroup_outside_of_the_namespace_is_the_root() -> None:
    """What lies above our cgroup namespace is not ours to go to."""
    assert [hierarchy.own for hierarchy in parse_hierarchies("1:pids:/../other\n0::/..\n", "")] == ["/", "/"]


def test_v1_beside_v2_takes_only_what_v2_does_not_have() -> None:
    """On a host with v2 only, layout v1 is made of v1-only controllers and name=systemd, never memory or perf_event."""
    found = parse_hierarchies(V2_ONLY, "")
    chosen = choose("v1", found, v1_controllers_free(PROC_CGROUPS, found))
    assert [hierarchy.name for hierarchy in chosen] == ["devices", "freezer", "systemd"]
    assert not any(hierarchy.mounted for hierarchy in chosen)


def test_v1_host_gets_nothing_added() -> None:
    """Where v1 is in use, layout v1 is what the host has."""
    found = parse_hierarchies(RHEL7, RHEL7_MOUNTS)
    assert choose("v1", found, ("devices",)) == found


def test_v2_layout_needs_v2() -> None:
    """A kernel without cgroup v2 is named as the reason."""
    with pytest.raises(TargetError, match="does not offer"):
        choose("v2", parse_hierarchies(RHEL7, ""), ())


def test_unknown_layout() -> None:
    """A layout that does not exist is refused by name."""
    with pytest.raises(TargetError, match="'v3'"):
        choose("v3", (), ())


@settings(max_examples=50, deadline=None)
@given(st.text(), st.text())
def test_any_text_parses(cgroup: str, mountinfo: str) -> None:
    """Whatever a kernel prints, the parser gives hierarchies whose own path is absolute."""
    for hierarchy in parse_hierarchies(cgroup, mountinfo):
        assert isinstance(hierarchy, HostHierarchy)
        assert hierarchy.own.startswith("/")
