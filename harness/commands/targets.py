"""`cgrace targets`: where scenarios can run, what each place needs, and what of it was found here. Looks, and builds nothing."""

from __future__ import annotations

import argparse
import dataclasses
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cgrace.harness.commands import EXIT_OK
from cgrace.harness.commands.common import show, show_json
from cgrace.harness.proc.find import find_program
from cgrace.harness.targets import images, oci, podman, rootless, roots, user
from cgrace.harness.targets.host import BOOTED
from cgrace.harness.targets.layout import host_hierarchies
from cgrace.harness.targets.probe import probe
from cgrace.harness.targets.qemu import PACKAGES, PROGRAM, find_kvm
from cgrace.harness.targets.roots_build import SUITES
from cgrace.harness.targets.vms import layouts_of

_ROOT: Final = "root, or a user namespace"
_V2: Final = Path("/sys/fs/cgroup/cgroup.controllers")


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One target. name: as --target takes it; layouts: of cgroups that it can have here or, where it is not here, at all; needs:
    in words; ready: whether nothing is missing; found: what is there, or what is missing; how: what would help."""

    name: str
    systemd: str
    layouts: tuple[str, ...]
    needs: str
    ready: bool
    found: str
    how: str = ""


def targets(args: argparse.Namespace) -> int:
    """Every target, and whether it can be used here."""
    from rich.table import Table
    from rich.text import Text

    from cgrace.reports.machine import document

    rows = list(_rows())
    if args.json:
        show_json(document("targets", targets=[dataclasses.asdict(row) for row in rows]))
        return EXIT_OK
    table = Table(box=None, pad_edge=False, padding=(0, 1), header_style="bold")
    for name in ("target", "systemd", "cgroups", "", "needs", "found here"):
        table.add_column(name)
    for row in rows:
        found = Text(row.found)
        if row.how:
            found.append(f"\ntry: {row.how}")
        word = Text("ready", style="green") if row.ready else Text("no", style="yellow")
        table.add_row(row.name, row.systemd, " ".join(row.layouts), word, row.needs, found)
    show(
        table,
        "Behind a name :v1 or :v2 chooses the layout, and :hybrid for a vm. Suites that are not listed are tried as they are.",
    )
    return EXIT_OK


def _rows() -> Iterator[Row]:
    checks = {check.name: check for check in probe()}
    capable = all(checks[name].ok for name in ("root", "namespaces") if name in checks)
    here = tuple(layout for layout in ("v1", "v2") if checks[f"cgroup {layout}"].ok)
    # A v2 that lacks controllers, beside v1, will do for systemd; what needs one of them is left out there.
    bare = "v2" not in here and any(one.is_v2 for one in host_hierarchies())
    booted = (*here, "v2") if bare else here
    as_root = capable
    if not as_root and not (why := rootless.why_not()):
        capable, bare, here, booted = True, False, ("v2",), ("v2",)
    why = "" if capable else f"takes root with CAP_SYS_ADMIN; as a user: {why}"
    how = "" if capable else "sudo cgrace ..."
    can = "" if as_root else ", in a user namespace"
    yield Row(
        name="fake",
        systemd="any profile",
        layouts=here or ("v1", "v2"),
        needs=f"{_ROOT}, namespaces",
        ready=capable,
        found=why or f"can run{can}",
        how=how,
    )
    for suite, systemd in SUITES.items():
        yield _container(suite, systemd, capable=capable, here=booted, bare=bare)
    yield Row(
        name="container:PATH",
        systemd="the root's own",
        layouts=booted or ("v1", "v2"),
        needs=f"{_ROOT}, a folder, tar or OCI layout with a systemd in it",
        ready=capable,
        found=why or f"can boot it{can}",
        how=how,
    )
    yield Row(
        name="container:ROOT+DIR",
        systemd="the one in DIR",
        layouts=booted or ("v1", "v2"),
        needs="the same; in DIR what DESTDIR=DIR ninja install made, laid over the suite's or PATH's root",
        ready=capable,
        found=why or f"can boot it{can}",
        how=how,
    )
    yield _runtimes(booted or ("v1", "v2"), capable=capable)
    yield _podman(booted or ("v1", "v2"), capable=capable)
    for suite, systemd in SUITES.items():
        state = "built" if images.look_up(suite) is not None else ""
        yield _vm(suite, systemd, layouts_of(suite), "QEMU, ssh; once root, mmdebstrap, mke2fs", state)
    needs = "as vm:SUITE; in DIR what DESTDIR=DIR ninja install made, laid over the suite's root"
    yield _vm("SUITE+DIR", "the one in DIR", images.LAYOUTS, needs, "can boot it")
    yield _vm("DISK", "the disk's own", images.LAYOUTS, "QEMU, ssh, an image with systemd and sshd", "can boot it")
    yield _ssh()
    yield _host()
    yield _user()


def _container(suite: str, systemd: str, *, capable: bool, here: tuple[str, ...], bare: bool) -> Row:
    known = tuple(layout for layout in layouts_of(suite) if layout != "hybrid")
    layouts = tuple(layout for layout in known if layout in here)
    built = roots.look_up(suite) is not None
    missing = [] if built or shutil.which("mmdebstrap") else ["mmdebstrap"]
    if not capable:
        missing.append("root with CAP_SYS_ADMIN")
    if not layouts:
        missing.append(f"cgroup {known[0]}")
    state = "built" if built else "to be built (once, some 15 s)"
    if bare and layouts == ("v2",):
        state += "; v2 here lacks controllers"
    how = "apt install mmdebstrap" if "mmdebstrap" in missing else f"--target vm:{suite}" if not layouts else ""
    return Row(
        name=f"container:{suite}",
        systemd=systemd,
        layouts=layouts or known,
        needs=f"{_ROOT}, mmdebstrap once",
        ready=not missing,
        found=f"no {', no '.join(missing)}" if missing else state,
        how=how,
    )


def _runtimes(layouts: tuple[str, ...], *, capable: bool) -> Row:
    had = [name for name in oci.RUNTIMES if find_program(name)]
    return Row(
        name="container:...@runc",
        systemd="as without @",
        layouts=layouts,
        needs=f"as without @, where cgrace boots by itself; {' or '.join(oci.RUNTIMES)} to boot it as an OCI bundle",
        ready=capable and bool(had),
        found=f"{' and '.join(had)} here" if had else f"no {', no '.join(oci.RUNTIMES)}",
        how="" if had else f"apt install {oci.RUNTIMES[0]}",
    )


def _podman(layouts: tuple[str, ...], *, capable: bool) -> Row:
    lacking = podman.missing()
    return Row(
        name="container:...@podman",
        systemd="as without @",
        layouts=layouts,
        needs="as without @; podman, conmon and a runtime to boot it; nothing of the user's own podman is read or changed",
        ready=capable and not lacking,
        found=f"no {', no '.join(lacking)}" if lacking else "podman here",
        how=f"apt install --no-install-recommends {' '.join(lacking)}" if lacking else "",
    )


def _vm(place: str, systemd: str, layouts: tuple[str, ...], needs: str, state: str) -> Row:
    """state: what is there, "" where an image has to be built."""
    wanted = {PROGRAM: PACKAGES, "qemu-img": "qemu-utils", "ssh": "openssh-client", "ssh-keygen": "openssh-client"}
    if not state:
        wanted |= {"mmdebstrap": "mmdebstrap", "mke2fs": "e2fsprogs"}
    missing = [name for name in wanted if find_program(name) is None]
    accelerator = "KVM or TCG" if not find_kvm() else "TCG"
    packages = sorted({word for name in missing for word in wanted[name].split()})
    shown = f"{state or 'to be built (once, about a minute)'}; {accelerator}"
    return Row(
        name=f"vm:{place}",
        systemd=systemd,
        layouts=layouts,
        needs=needs,
        ready=not missing and bool(state or os.geteuid() == 0),
        found=f"no {', no '.join(missing)}" if missing else shown,
        how=f"apt install {' '.join(packages)}" if missing else "",
    )


def _ssh() -> Row:
    ok = shutil.which("ssh") is not None
    return Row(
        name="ssh:HOST",
        systemd="the host's own",
        layouts=("v1", "v2", "hybrid"),
        needs="ssh, root there, the same processor or Python 3.11 there",
        ready=ok,
        found="ssh is here; HOST as ssh takes it; say what it has: cgrace doctor --target ssh:HOST" if ok else "no ssh",
        how="" if ok else "apt install openssh-client",
    )


def _host() -> Row:
    booted = BOOTED.is_dir() and _comm_of_init() == "systemd"
    return Row(
        name="host",
        systemd="this machine's",
        layouts=("v2",) if _V2.exists() else ("v1",),
        needs="root, systemd as PID 1, --allow-host",
        ready=booted and os.geteuid() == 0,
        found="systemd runs here" if booted else f"PID 1 here is {_comm_of_init()}",
        how="" if booted else "--target container:bookworm boots one",
    )


def _user() -> Row:
    why = user.why_not()
    return Row(
        name="user",
        systemd="the user's instance",
        layouts=("v2",),
        needs="cgroup v2 alone, a session with systemd --user and its bus; no root",
        ready=not why,
        found=why or f"systemd of uid {os.geteuid()}, at {user.bus_of()}",
        how=user.hint_for(why) if why else "",
    )


def _comm_of_init() -> str:
    try:
        return Path("/proc/1/comm").read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return "not to be seen"
