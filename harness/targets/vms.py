"""Virtual machines by their names: `vm:SUITE`, `vm:SUITE+DIR` and `vm:<disk image>`, with a cgroup layout or as they are."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable
from pathlib import Path

from cgrace.harness.errors import TargetError
from cgrace.harness.targets import images
from cgrace.harness.targets.guest import check_layout
from cgrace.harness.targets.images import LAYOUTS
from cgrace.harness.targets.images_tree import tree_over
from cgrace.harness.targets.names import V1_ENDS, systemd_number
from cgrace.harness.targets.qemu import check_program
from cgrace.harness.targets.roots import split_over
from cgrace.harness.targets.roots_build import SUITES
from cgrace.harness.targets.ssh import SshChannel, check_client
from cgrace.harness.targets.vm import VmTarget
from cgrace.harness.targets.vm_own import OwnDisk, OwnGuest, check_own_layout, find_disk, is_disk, prepare
from cgrace.harness.targets.vm_suite import SuiteGuest


def split_place(place: str) -> tuple[str, str]:
    """A place's name in two, as roots.split_over does: a suite or a disk, and the install tree over it, "" for none."""
    return (place, "") if Path(place).expanduser().is_file() else split_over(place)


def is_own_disk(place: str) -> bool:
    """Whether a place's name, with an install tree or without, is that of a disk and not a suite's."""
    return is_disk(split_place(place)[0])


@contextlib.asynccontextmanager
async def open_vm(
    place: str, layout: str, *, progress: Callable[[str], None] = lambda _: None
) -> AsyncIterator[VmTarget]:
    """Boot it with a cgroup layout ("" for a disk's own, v2 of a suite). What is built or looked at first is built once.

    TargetError, UnavailableError where it cannot be had with that layout, before anything is booted where that can be told.
    """
    check_program()
    check_client()
    if is_own_disk(place):
        disk = await _disk(place)
        note = await prepare(disk, lambda guest: _first_boot(guest, progress), progress)
        check_layout(place, layout or str(note["layout"]), systemd_number(note["systemd"]))
        check_own_layout(disk, note, layout)
        guest: OwnGuest | SuiteGuest = OwnGuest(disk, disk.entry, note)
    else:
        layout = layout or "v2"
        if (known := SUITES.get(place)) is not None:
            check_layout(place, layout, int(known))
        guest = await _suite(place, progress)
        check_layout(place, layout, systemd_number(guest.systemd))
    async with VmTarget.open(guest, layout=layout, progress=progress) as target:
        yield target


async def describe_vm(place: str, progress: Callable[[str], None] = lambda _: None) -> tuple[str, tuple[str, ...]]:
    """Its systemd's version, and the layouts that scenarios may ask it for; it is built, or booted once, where that is not done."""
    if not is_own_disk(place):
        version = (await _suite(place, progress)).systemd
        return version, ("v2",) if systemd_number(version) >= V1_ENDS else ("v1", "v2")
    disk = await _disk(place)
    note = await prepare(disk, lambda guest: _first_boot(guest, progress), progress)
    version, own = str(note["systemd"]), str(note["layout"])
    if note["kernel"] and systemd_number(version) < V1_ENDS:
        return version, ("v1", "v2")
    return version, ("v2" if own == "v2" else "v1",)


async def _disk(place: str) -> OwnDisk:
    path, over = split_place(place)
    if over:
        raise TargetError(
            f"an install tree is laid over a suite's image, and {path} is a disk of your own", hint=f"vm:sid+{over}"
        )
    return await find_disk(path)


async def _suite(place: str, progress: Callable[[str], None]) -> SuiteGuest:
    suite, over = split_place(place)
    image = await images.build_image(suite, progress=progress)
    return SuiteGuest(image, over=await tree_over(over, image, progress) if over else None)


@contextlib.asynccontextmanager
async def _first_boot(guest: OwnGuest, progress: Callable[[str], None]) -> AsyncIterator[SshChannel]:
    async with VmTarget.open(guest, layout="", progress=progress) as target:
        yield target.channel
        progress(f"{guest.name} is being switched off, and kept as it is")
        await guest.keep(await target.wait_off())


def layouts_of(suite: str) -> tuple[str, ...]:
    """The layouts that a suite can have, as far as that is known of it."""
    return ("v2",) if int(SUITES.get(suite, "0")) >= V1_ENDS else LAYOUTS
