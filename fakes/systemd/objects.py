"""org.freedesktop.DBus.Properties on every object: which object a path names, and what it answers."""

from __future__ import annotations

from typing import Any

from cgrace.fakes.systemd import names, readable
from cgrace.fakes.systemd.core import Core
from cgrace.fakes.systemd.jobs import Job
from cgrace.fakes.systemd.units import Unit
from cgrace.harness.dbus import systemd1
from cgrace.harness.dbus.message import Message, Variant

_ANY = (Unit(name="any.scope", type="scope"), Unit(name="any.slice", type="slice"))
"""Which properties a unit may have at all."""


def find_object(core: Core, path: str, wanted: tuple[str, str] = ("", "")) -> tuple[Unit | None, Job | None]:
    """The unit or job at a path (neither: the manager itself). Reading a unit that is not loaded loads it. wanted: interface and
    name of the property that is asked for."""
    if path == systemd1.PATH:
        return None, None
    if path.startswith(systemd1.JOB_PREFIX):
        number = path.removeprefix(systemd1.JOB_PREFIX)
        job = core.jobs.by_id.get(int(number)) if number.isdecimal() else None
        if job is None:
            raise core.refuse("unknown_object", path=path)
        return None, job
    if not path.startswith(systemd1.UNIT_PREFIX):
        raise core.refuse("unknown_object", path=path)
    name = systemd1.unit_of_path(path)
    if not names.unit_type(name) or names.is_template(name):
        known = not wanted[1] or any(_one(core, *wanted, one, None) for one in _ANY)
        raise core.refuse("bad_unit_path" if known else "bad_unit_path_property", unit=name)
    return core.load(name), None


def read_property(core: Core, message: Message) -> tuple[str, tuple[Any, ...]]:
    """Get and GetAll."""
    wanted = {"Get": "ss", "GetAll": "s"}.get(message.member)
    if wanted is None:
        raise core.refuse("unknown_method", member=message.member, interface=message.interface)
    if message.signature != wanted:
        raise core.refuse(
            "bad_arguments",
            have=message.signature,
            wanted=wanted,
            interface=message.interface,
            member=message.member,
        )
    interface = message.body[0]
    unit, job = find_object(core, message.path, (interface, *message.body[1:], "")[:2])
    if message.member == "GetAll":
        return "a{sv}", (readable.all_properties(core, interface, unit, job),)
    value = _one(core, interface, message.body[1], unit, job)
    if value is None:
        raise core.refuse("unknown_property", interface=interface, property=message.body[1])
    return "v", (Variant(signature=value[0], value=value[1]),)


def _one(core: Core, interface: str, name: str, unit: Unit | None, job: Job | None) -> readable.Value | None:
    if unit is not None:
        if interface == readable.UNIT:
            return readable.unit_property(core, unit, name, unit.job)
        if interface == readable.UNIT_INTERFACES.get(unit.type):
            return readable.type_property(core, unit, name)
        return None
    if job is not None:
        return readable.job_property(job, name) if interface == readable.JOB else None
    return readable.manager_property(core, name) if interface == readable.MANAGER else None


def set_property(core: Core, message: Message) -> tuple[str, tuple[Any, ...]]:
    """Nothing here can be set this way."""
    unit, job = find_object(core, message.path)
    interface, name = message.body[0], message.body[1]
    if _one(core, interface, name, unit, job) is None:
        raise core.refuse("unknown_property", interface=interface, property=name)
    raise core.refuse("not_writable", property=name)
