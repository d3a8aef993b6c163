"""Virtual machines by their names: `vm:SUITE` and `vm:<disk image>`, with a cgroup layout or as they are."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable

from cgrace.harness.targets import images
from cgrace.harness.targets.guest import check_layout
from cgrace.harness.targets.images import LAYOUTS
from cgrace.harness.targets.names import V1_ENDS, systemd_number
from cgrace.harness.targets.qemu import check_program
from cgrace.harness.targets.roots_build import SUITES
from cgrace.harness.targets.ssh import SshChannel, check_client
from cgrace.harness.targets.vm import VmTarget
from cgrace.harness.targets.vm_own import OwnGuest, check_own_layout, find_disk, is_disk, prepare
from cgrace.harness.targets.vm_suite import SuiteGuest


@contextlib.asynccontextmanager
async def open_vm(
    place: str, layout: str, *, progress: Callable[[str], None] = lambda _: None
) -> AsyncIterator[VmTarget]:
    """Boot it with a cgroup layout ("" for a disk's own, v2 of a suite). What is built or looked at first is built once.

    TargetError, UnavailableError where it cannot be had with that layout, before anything is booted where that can be told.
    """
    check_program()
    check_client()
    if is_disk(place):
        disk = await find_disk(place)
        note = await prepare(disk, lambda guest: _first_boot(guest, progress), progress)
        check_layout(place, layout or str(note["layout"]), systemd_number(note["systemd"]))
        check_own_layout(disk, note, layout)
        guest: OwnGuest | SuiteGuest = OwnGuest(disk, disk.entry, note)
    else:
        layout = layout or "v2"
        if (known := SUITES.get(place)) is not None:
            check_layout(place, layout, int(known))
        image = await images.build_image(place, progress=progress)
        check_layout(place, layout, systemd_number(image.systemd))
        guest = SuiteGuest(image)
    async with VmTarget.open(guest, layout=layout, progress=progress) as target:
        yield target


async def describe_vm(place: str, progress: Callable[[str], None] = lambda _: None) -> tuple[str, tuple[str, ...]]:
    """Its systemd's version, and the layouts that scenarios may ask it for; it is built, or booted once, where that is not done."""
    if not is_disk(place):
        version = (await images.build_image(place, progress=progress)).systemd
        return version, ("v2",) if systemd_number(version) >= V1_ENDS else ("v1", "v2")
    disk = await find_disk(place)
    note = await prepare(disk, lambda guest: _first_boot(guest, progress), progress)
    version, own = str(note["systemd"]), str(note["layout"])
    if note["kernel"] and systemd_number(version) < V1_ENDS:
        return version, ("v1", "v2")
    return version, ("v2" if own == "v2" else "v1",)


@contextlib.asynccontextmanager
async def _first_boot(guest: OwnGuest, progress: Callable[[str], None]) -> AsyncIterator[SshChannel]:
    async with VmTarget.open(guest, layout="", progress=progress) as target:
        yield target.channel
        progress(f"{guest.name} is being switched off, and kept as it is")
        await guest.keep(await target.wait_off())


def layouts_of(suite: str) -> tuple[str, ...]:
    """The layouts that a suite can have, as far as that is known of it."""
    return ("v2",) if int(SUITES.get(suite, "0")) >= V1_ENDS else LAYOUTS
